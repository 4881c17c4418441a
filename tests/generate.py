"""Single-op models made from the op records: every kernel row x flavour x case x drawn options, many quantization draws of each.

All draws of one row have the same shapes and options, so they share a compiled function.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import domains
import jax
import numpy as np

from qsim.graph import Graph, Model, Node, Options, QParams, Tensor
from qsim.op import BY_BLOCKS, Case, Kernel, Op
from qsim.types import TYPES, code_range

SAMPLES = 6
ANY = ("int8", "uint8", "int16", "int32")
CONVERTERS = ("QUANTIZE", "CAST", "SHAPE")  # every pair of types, not only equal ones
COPIES = frozenset(
    "PAD TRANSPOSE CONCATENATION STRIDED_SLICE GATHER PACK RESHAPE SQUEEZE EXPAND_DIMS SHAPE SPLIT SPLIT_V UNPACK SLICE SPACE_TO_DEPTH "
    "DEPTH_TO_SPACE SPACE_TO_BATCH_ND BATCH_TO_SPACE_ND MIRROR_PAD PADV2 TILE BROADCAST_TO BROADCAST_ARGS FILL ZEROS_LIKE ONE_HOT RANK "
    "MATRIX_DIAG MATRIX_SET_DIAG SELECT SELECT_V2 REVERSE_V2 REVERSE_SEQUENCE GATHER_ND SCATTER_ND DYNAMIC_UPDATE_SLICE DILATE "
    "STABLEHLO_PAD STABLEHLO_GATHER SPARSE_TO_DENSE RIGHT_SHIFT BITWISE_XOR STABLEHLO_AND".split()
)
Types = tuple[tuple[str, ...], tuple[str, ...]]


@dataclass(frozen=True, eq=False)
class Row:
    """One compiled shape: an op at concrete types in one flavour, one case, one choice of options (`variant` 0: the case's own)."""

    op: Op
    types: Types
    flavour: str
    case: Case
    number: int
    variant: int

    def __str__(self) -> str:
        kinds = ".".join(t or "none" for t in self.types[0]) + ">" + ".".join(self.types[1])
        return f"{self.op.name}-{kinds}-{self.flavour}-{self.number}.{self.variant}"

    def rng(self, draw: int) -> np.random.Generator:
        return np.random.default_rng([zlib.crc32(str(self).encode()), draw])

    @cached_property
    def options(self) -> Options:
        own = {**self.case.options, **self._type_options()}
        if not self.variant:
            return Options(own)
        for attempt in range(100):
            drawn = Options(domains.other_options(self.op.name, own, self.rng(1 << 20 | attempt), self.types[0]))
            if _leaves_something(self, drawn):
                return drawn
        raise ValueError(f"{self}: no drawn options leave a non-empty output")

    def _type_options(self) -> dict[str, str]:
        """Options that repeat an operand's type (of CAST and SHAPE) follow the types of the row."""
        kinds = {"in_data_type": self.types[0][0], "out_data_type": self.types[1][0], "out_type": self.types[1][0]}
        kinds["output_type"] = self.types[1][0]
        found = {k: t.upper() for k, t in kinds.items() if k in self.case.options}
        bias = self.types[0][self.op.rule.bias] if self.op.rule.bias is not None and self.op.rule.bias < len(self.types[0]) else ""
        weights = self.types[0][self.op.rule.weights] if self.op.rule.weights is not None else ""
        named = _lead_type(self) == "int16" and (bias == "int32" or (bias == "int64" and weights == "int16"))
        return found | ({"quantized_bias_type": bias.upper()} if named else {})

    def draws(self, wanted: int) -> int:
        """How many draws the row is worth: a copy has little to get wrong."""
        return max(4, wanted // 4) if self.op.name in COPIES else wanted

    @cached_property
    def kernel(self) -> Kernel:
        return next(k for k in self.op.kernels if k.serves(self.types, self.flavour))

    @cached_property
    def output_shapes(self) -> tuple[tuple[int, ...], ...]:
        return _output_shapes(self, self.options)


@dataclass(frozen=True, eq=False)
class Trial:
    """One draw: a model of one op and the data to run it on, one array (SAMPLES, *shape) per model input."""

    row: Row
    draw: int
    style: str
    model: Model
    inputs: tuple[np.ndarray, ...]

    def __str__(self) -> str:
        return f"{self.row} draw {self.draw} ({self.style})"


def rows(registry: Mapping[str, Op], variants: int = 2) -> Iterator[Row]:
    """Every row of the registry's kernels that its cases can reach (weights with scales by blocks have draws of their own)."""
    for op in registry.values():
        seen = set()
        for kernel, (number, case) in itertools.product(op.kernels, enumerate(op.cases)):
            if any(pattern.endswith(BY_BLOCKS) for pattern in kernel.inputs):
                continue
            for types, flavour in itertools.product(_types(op, kernel, case), kernel.flavours):
                if not kernel.serves(types, flavour) or (types, flavour, number) in seen:
                    continue
                seen.add((types, flavour, number))
                yield from _variants(Row(op, types, flavour, case, number, 0), variants)


def some(found: Iterable[Row]) -> list[Row]:
    """One row of each op, types and flavour (copies: of each op and types), the same in every run."""
    chosen: dict[tuple, Row] = {}
    for row in sorted(found, key=lambda r: zlib.crc32(str(r).encode())):
        chosen.setdefault((row.op.name, row.types, "" if row.op.name in COPIES else row.flavour), row)
    return sorted(chosen.values(), key=str)


def _variants(row: Row, variants: int) -> Iterator[Row]:
    yield row
    if any(k in domains.ALTERNATIVES for k in row.case.options):
        found = {row.options}
        for v in range(1, variants):
            other = replace(row, variant=v)
            if other.options not in found:
                found.add(other.options)
                yield other


def _types(op: Op, kernel: Kernel, case: Case) -> Iterator[Types]:
    """Concrete types of a kernel's patterns for a case: operands follow the first data input where their pattern lets them."""
    patterns = [_pattern(kernel.inputs, p) for p in range(len(case.inputs))]
    lead = next((p for p in range(len(patterns)) if p not in case.values and case.inputs[p] is not None), 0)
    first = (case.types[lead],) if lead in case.types else _choices(patterns[lead])
    for t in first:
        ins = tuple(_follow(p, patterns[p], t, case) for p in range(len(patterns)))
        outs = [_pattern(kernel.outputs, k) for k in range(case.outputs)]
        wide = [_choices(o) if op.name in CONVERTERS else (_one(o, t),) for o in outs]
        yield from ((ins, tuple(o)) for o in itertools.product(*wide))


def _pattern(patterns: tuple[str, ...], position: int) -> str:
    if position < len(patterns) and not patterns[position].endswith("*"):
        return patterns[position]
    return patterns[-1].rstrip("*") if patterns and patterns[-1].endswith("*") else ""


def _choices(pattern: str) -> tuple[str, ...]:
    pattern = pattern.rstrip("?")
    return ANY if pattern == "any" else tuple(pattern.split("|"))


def _one(pattern: str, like: str) -> str:
    return like if like in _choices(pattern) or pattern.rstrip("?") == "any" else _choices(pattern)[0]


def _follow(position: int, pattern: str, like: str, case: Case) -> str:
    if case.inputs[position] is None and position not in case.values:
        return ""
    if position in case.types:
        return case.types[position]
    if position in case.values:
        return "int32" if pattern.rstrip("?") == "any" else _one(pattern, "int32")
    return _one(pattern, like)


def _leaves_something(row: Row, options: Options) -> bool:
    """Drawn options may ask for a window larger than the image: `real` then fails, or gives an empty output."""
    try:
        return all(0 not in s for s in _output_shapes(row, options))
    except (TypeError, ValueError):
        return False


def _output_shapes(row: Row, options: Options) -> tuple[tuple[int, ...], ...]:
    """Shapes of the outputs, from the op's real function."""
    case, slots = row.case, []
    for p, shape in enumerate(case.inputs):
        if p in case.values:
            slots.append(_value(row, p))
        elif shape is None:
            slots.append(None)
        else:
            kind = row.types[0][p]
            real = domains.carries_reals(row.op.name, kind) and row.op.rule.data != ()
            dtype = np.float32 if real or p == row.op.rule.bias else TYPES[kind].dtype
            slots.append(jax.ShapeDtypeStruct(shape, dtype))
    holes = [p for p, s in enumerate(slots) if isinstance(s, jax.ShapeDtypeStruct)]

    def real(*arrays: Any) -> Any:
        filled = dict(zip(holes, arrays, strict=True))
        return row.op.real(options, *(filled.get(p, s) for p, s in enumerate(slots)))

    found = jax.eval_shape(real, *(slots[p] for p in holes))
    return tuple(tuple(o.shape) for o in (found if isinstance(found, (tuple, list)) else (found,)))


def _value(row: Row, position: int) -> np.ndarray:
    return np.asarray(row.case.values[position], TYPES[row.types[0][position]].dtype)


def trial(row: Row, draw: int) -> Trial:
    """Draw number `draw` of a row, the same every time."""
    rng, style = row.rng(draw), domains.STYLES[draw % len(domains.STYLES)]
    drawn = _with_static(row, _linear(row, style, rng)) if row.op.rule.weights is not None else _plain(row, style, rng)
    count = len(row.types[0])
    outputs = tuple(
        Tensor(count + k, f"y{k}", shape, kind, q)
        for k, (shape, kind, q) in enumerate(zip(row.output_shapes, row.types[1], drawn.outputs, strict=True))
    )
    node = Node(
        0,
        row.op.name,
        tuple(-1 if t is None else p for p, t in enumerate(drawn.inputs)),
        tuple(t.index for t in outputs),
        row.options,
        row.op.rule.versions.get(_lead_type(row), 1),
    )
    tensors, renumber = _dense([*drawn.inputs, *outputs])
    node = node.but(inputs=tuple(renumber.get(i, -1) for i in node.inputs), outputs=tuple(renumber[i] for i in node.outputs))
    live = tuple(t.index for t in tensors if t.data is None and t.index not in node.outputs)
    graph = Graph(tensors, (node,), live, node.outputs)
    return Trial(row, draw, style, Model((graph,)), tuple(drawn.data[tensors[i].name] for i in live))


def _with_static(row: Row, drawn: _Drawn) -> _Drawn:
    """An op with weights gets its static inputs."""
    for p in row.case.values:
        value = _value(row, p)
        drawn.inputs[p] = Tensor(p, f"x{p}", value.shape, row.types[0][p], None, value)
    return drawn


def _dense(slots: list[Tensor | None]) -> tuple[tuple[Tensor, ...], dict[int, int]]:
    kept = [t for t in slots if t is not None]
    return tuple(t.but(index=i) for i, t in enumerate(kept)), {t.index: i for i, t in enumerate(kept)}


def _lead_type(row: Row) -> str:
    positions = row.op.rule.data if row.op.rule.data != "all" else (0,)
    return row.types[0][positions[0]] if positions else row.types[0][0]  # type: ignore[index]


@dataclass(frozen=True)
class _Drawn:
    inputs: list[Tensor | None]
    outputs: tuple[QParams | None, ...]
    data: Mapping[str, np.ndarray]


def _qparams(scale: Any, zero: Any, kind: str, axis: int = 0) -> QParams:
    low, high = code_range(kind)
    return QParams(np.atleast_1d(np.asarray(scale, np.float32)), np.atleast_1d(np.asarray(zero, np.int64)), low, high, axis)


def _plain(row: Row, style: str, rng: np.random.Generator) -> _Drawn:
    """An op without weights."""
    op, case, (ins, outs) = row.op, row.case, row.types
    carrying = [p for p in range(len(ins)) if p not in case.values and domains.carries_reals(op.name, ins[p])]
    depth = (case.inputs[0] or (1,))[-1]
    tied = op.rule.tied and (op.name, ins[0]) not in domains.RESCALES
    domain = domains.domain(op.name, row.flavour, depth, tied=tied, kind=_lead_type(row))
    carried = [domains.carries_reals(op.name, t) and k not in domains.INDEX_OUTPUTS.get(op.name, ()) for k, t in enumerate(outs)]
    quantized_outs = tuple(itertools.compress(outs, carried))
    drawn = domains.parameters(op.name, domain, style, rng, {p: ins[p] for p in carrying}, quantized_outs)
    free = op.name in domains.FREE_OUTPUT and "int16" not in outs and rng.random() < 0.25
    fixed = [None if free else domains.FIXED_OUTPUT.get((op.name, ins[0], t), op.rule.fixed.get(t)) for t in outs]
    pairs = iter(drawn.outputs)
    out_q = tuple(_qparams(*(f or next(pairs)), t) if c else None for t, f, c in zip(outs, fixed, carried, strict=True))
    slots, data = [], {}
    for p in range(len(ins)):
        tensor, values = _operand(row, p, style, rng, drawn, out_q)
        slots.append(tensor)
        if values is not None:
            zero = drawn.inputs[p][1] if p in drawn.inputs else 0
            data[f"x{p}"] = domains.defined(op.name, row.flavour, ins[p], values, zero)
    return _Drawn(slots, out_q, data)


def _operand(row: Row, p: int, style: str, rng: np.random.Generator, drawn: domains.Parameters, out_q: tuple) -> tuple:
    """(tensor, its data or None where constant or absent)."""
    case, kind, shape = row.case, row.types[0][p], row.case.inputs[p]
    if p in case.values:
        value = _value(row, p)
        return Tensor(p, f"x{p}", value.shape, kind, None, value), None
    if shape is None:
        return None, None
    q = _qparams(*drawn.inputs[p], kind) if p in drawn.inputs else None
    weights, by_rows = domains.WEIGHTS.get(row.op.name), row.types[0][0] == "float32" != row.types[0][-1]
    if p == weights and p in case.constant and q is not None and row.types[0][0] != "int8" and rng.random() < 0.5:
        axis = len(shape) - 2 if row.options.get("adj_y", False) else len(shape) - 1
        q = _qparams(q.scale * 2 ** rng.uniform(-2, 2, shape[axis]), np.zeros(shape[axis], np.int64), kind, axis)
    if weights is not None and by_rows and kind == "float32":
        return Tensor(p, f"x{p}", shape, kind), domains.rows(style, rng, shape, SAMPLES)
    values = _values(kind, shape, style, rng, q, out_q)
    if p in case.constant or (p == weights and by_rows):
        return Tensor(p, f"x{p}", shape, kind, q, values[-1]), None
    return Tensor(p, f"x{p}", shape, kind, q), values


def _values(kind: str, shape: tuple[int, ...], style: str, rng: np.random.Generator, q: QParams | None, out_q: tuple) -> np.ndarray:
    if kind == "float32":
        like = next((o for o in out_q if o is not None), None)
        s, z, t = (np.float32(1), 0, "int8") if like is None else (like.scale[0], int(like.zero_point[0]), _type_of(like))
        return domains.reals(style, rng, s, z, t, shape, SAMPLES)
    if kind == "bool":
        return rng.random((SAMPLES, *shape)) < 0.5
    return domains.codes(style, rng, kind, int(q.zero_point[0]) if q else 0, shape, SAMPLES, narrow=False, full=q is not None)


def _type_of(q: QParams) -> str:
    return next(t for t in ("int8", "uint8", "int16", "int4") if code_range(t) == (q.low, q.high))


def _linear(row: Row, style: str, rng: np.random.Generator) -> _Drawn:
    """CONV_2D and its kin: constant weights and bias."""
    rule, case, (ins, outs) = row.op.rule, row.case, row.types
    if ins[rule.data[0]] == "float32":  # type: ignore[index]
        return _hybrid(row, style, rng)
    x, w, b, axis = rule.data[0], rule.weights, rule.bias, rule.weight_axis
    shape = case.inputs[w]  # type: ignore[index]
    with_bias = b is not None and b < len(ins) and case.inputs[b] is not None
    per_channel = ins[w] != "uint8" and rng.random() < 0.6  # type: ignore[index]
    w_zero = domains.weights_zero_point(rng, row.op.name, ins[w], per_channel)  # type: ignore[index]
    kinds = (ins[x], ins[w], outs[0])  # type: ignore[index]
    channels = shape[axis] if per_channel else 1  # type: ignore[index]
    drawn = domains.linear(style, rng, shape, axis, kinds, bias=ins[b] if with_bias else "", channels=channels, w_zero=w_zero)  # type: ignore
    slots: list[Tensor | None] = [None] * len(ins)
    x_q = _qparams(*drawn.x, ins[x])
    slots[x] = Tensor(x, f"x{x}", case.inputs[x], ins[x], x_q)  # type: ignore
    zeros = np.zeros(drawn.weight_scale.size, np.int64)
    named_axis = axis if per_channel or rng.random() < 0.5 else 0  # of one scale it says nothing, but XNNPACK looks at it
    slots[w] = Tensor(w, "w", shape, ins[w], _qparams(drawn.weight_scale, zeros + w_zero, ins[w], named_axis), drawn.weights)  # type: ignore
    if with_bias:
        bias = drawn.bias.astype(TYPES[ins[b]].dtype)  # type: ignore
        s_b = (np.float64(drawn.x[0]) * drawn.weight_scale.astype(np.float64)).astype(np.float32)
        slots[b] = Tensor(b, "b", bias.shape, ins[b], _qparams(s_b, zeros, "int32"), bias)  # type: ignore
    values = domains.codes(style, rng, ins[x], drawn.x[1], case.inputs[x], SAMPLES, narrow=True)  # type: ignore
    return _Drawn(slots, (_qparams(*drawn.y, outs[0]),), {f"x{x}": values})


def _hybrid(row: Row, style: str, rng: np.random.Generator) -> _Drawn:
    """Float data, integer weights, float bias."""
    rule, case, ins = row.op.rule, row.case, row.types[0]
    x, w, b, axis = rule.data[0], rule.weights, rule.bias, rule.weight_axis
    shape = case.inputs[w]  # type: ignore[index]
    grouped = case.inputs[x][-1] != shape[-1]  # type: ignore[index]
    whole = not grouped and row.op.name != "DEPTHWISE_CONV_2D"  # else LiteRT wants a scale per channel
    channels = 1 if whole and rng.random() < 0.4 else shape[axis]  # type: ignore[index]
    kinds = ("int8", ins[w], "int8")  # type: ignore[index]
    drawn = domains.linear(style, rng, shape, axis, kinds, bias="", channels=channels)  # type: ignore[arg-type]
    q = _qparams(drawn.weight_scale, np.zeros(channels, np.int64), ins[w], axis)  # type: ignore[index,arg-type]
    codes = domains.lowest(row.op.name, row.flavour, ins[w], rng, drawn.weights)  # type: ignore[index]
    values = domains.rows(style, rng, case.inputs[x], SAMPLES)  # type: ignore[arg-type,index]
    slots: list[Tensor | None] = [None] * len(ins)
    slots[x] = Tensor(x, f"x{x}", case.inputs[x], ins[x])  # type: ignore
    slots[w] = Tensor(w, "w", shape, ins[w], q, codes)  # type: ignore
    if b is not None and b < len(ins) and case.inputs[b] is not None:
        bias = rng.normal(0, np.abs(values).max() * drawn.weight_scale.max() * 50, case.inputs[b]).astype(np.float32)
        slots[b] = Tensor(b, "b", bias.shape, "float32", None, bias)
    return _Drawn(slots, (None,), {f"x{x}": values})


def describe(trial: Trial) -> str:
    """Options, and each tensor's parameters, for a failure's text."""
    lines = [str(trial.row.options)]
    for t in trial.model.graph.tensors:
        q = t.qparams
        lines.append(f"  {t.name} {t.type}{list(t.shape)}" + (f" scale {q.scale[:4]} zero point {q.zero_point[:4]}" if q else ""))
    return "\n".join(lines)


def float_rows(registry: Mapping[str, Op], flavour: str) -> Iterator[Row]:
    """The cases of every op on real values, in float32."""
    for op in registry.values():
        if op.rule.keep_float and op.name not in domains.REAL_TOO:
            continue
        for number, case in enumerate(op.cases):
            ins = tuple(_float_type(case, p) for p in range(len(case.inputs)))
            lead = op.rule.data[0] if op.rule.data and op.rule.data != "all" else 0
            if ins[lead : lead + 1] in (("float32",), ("complex64",)):  # type: ignore[operator,misc]
                outs = tuple(_float_output(op, k) for k in range(case.outputs))
                yield Row(op, (ins, outs), flavour, case, number, 0)


def number_rows(registry: Mapping[str, Op]) -> Iterator[Row]:
    """One case of every op on numbers without quantization, for each type that LiteRT runs it on (flavour: the only one,
    or "reference" for all)."""
    found = [(kind, name, "reference") for kind, names in domains.NUMBERS.items() for name in names]
    for kind, name, flavour in (*found, *(("float16", name, "xnnpack") for name in domains.HALF_IN_XNNPACK)):
        op, case = registry[name], registry[name].cases[0]
        lead = next((p for p in range(len(case.inputs)) if p not in case.values and case.inputs[p] is not None), 0)
        given = case.types.get(lead) == "bool"  # a condition
        ins = tuple(kind if p == lead and not given else _float_type(case, p, kind) for p in range(len(case.inputs)))
        outs = tuple(_number_output(op, k, kind) for k in range(case.outputs))
        yield Row(op, (ins, outs), flavour, case, 0, 0)


def _number_output(op: Op, position: int, kind: str) -> str:
    """The type itself, or what kernels for it (else for 8-bit codes) give in its place: bool, indices."""
    rows = [k for t in (kind, "int8") for k in op.kernels if t in _choices(_pattern(k.inputs, 0))]
    kinds = _choices(_pattern(rows[0].outputs, position)) if rows else (kind,)
    return kind if {"int8", "float32", kind} & set(kinds) else kinds[0]


def _float_output(op: Op, position: int) -> str:
    """Type of an output of an op on float32: float32, but for indices."""
    kinds = {_choices(_pattern(k.outputs, position))[0] for k in op.kernels if "float32" in _choices(_pattern(k.inputs, 0))}
    whole = min(kinds) if kinds and kinds <= {"int16", "int32", "int64"} else "float32"
    return domains.RESULTS.get(op.name, "int32" if "int32" in kinds and whole != "float32" else whole)


def _float_type(case: Case, position: int, kind: str = "float32") -> str:
    if case.inputs[position] is None and position not in case.values:
        return ""
    return case.types.get(position, "int32" if position in case.values else kind)


def float_trial(row: Row, draw: int) -> Trial:
    """A float model of a row: normal data, weights and bias; the operands that a quantized file would hold as constants are constants."""
    rng, rule, case = row.rng(draw), row.op.rule, row.case
    constant = {rule.weights, rule.bias, *case.constant}
    tensors, data, node_inputs = [], [], []
    for p, kind in enumerate(row.types[0]):
        if kind == "":
            node_inputs.append(-1)
            continue
        node_inputs.append(len(tensors))
        if p in case.values:
            value = _value(row, p)
            tensors.append(Tensor(len(tensors), f"x{p}", value.shape, kind, None, value))
            continue
        shape = case.inputs[p]
        spread = 1 / np.sqrt(np.prod(shape) / shape[rule.weight_axis]) if p == rule.weights else 2  # type: ignore
        x = (spread * rng.normal(size=(SAMPLES, *shape))).astype(np.float32)  # type: ignore[misc]
        x = domains.above_zero(row.op.name, x).astype("float16" if kind == "float16" else "float32")
        if kind == "complex64":
            x = x + 1j * x[::-1]
        elif kind not in ("float32", "float16"):
            x = domains.defined(row.op.name, row.flavour, kind, _values(kind, shape, "random", rng, None, ()))  # type: ignore[arg-type]
        tensors.append(Tensor(len(tensors), f"x{p}", shape, kind, None, x[0] if p in constant else None))  # type: ignore[arg-type]
        if p not in constant:
            data.append(x)
    outs = tuple(range(len(tensors), len(tensors) + len(row.output_shapes)))
    live = tuple(t.index for t in tensors if t.data is None)
    tensors += [Tensor(i, f"y{i}", shape, kind) for i, shape, kind in zip(outs, row.output_shapes, row.types[1], strict=True)]
    node = Node(0, row.op.name, tuple(node_inputs), outs, row.options, rule.versions.get("float32", 1))
    return Trial(row, draw, "float", Model((Graph(tuple(tensors), (node,), live, outs),)), tuple(data))
