"""Plans as records and as printed tables: every integer that a re-implementation of integer inference needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .control import OPS as CONTROL_OPS
from .errors import BadRecipe, QsimError
from .graph import Graph, Model, Node, Tensor
from .op import FLAVOURS, Op, Site, site
from .state import OPS as STATE_OPS

FLOAT = "float: the real function"
WHOLE = "whole numbers, not scaled: the real function"
HOST = "known before any data: computed once on the host"


@dataclass(frozen=True, eq=False)
class Operand:
    """One tensor of an op: where it stands, its type and parameters. Absent inputs have index -1 and type "absent".

    block: columns that share a scale, 0 where scales do not go by blocks.
    """

    index: int
    name: str
    shape: tuple[int, ...]
    type: str
    scale: tuple[float, ...] = ()
    zero_point: tuple[int, ...] = ()
    block: int = 0

    def __str__(self) -> str:
        if self.index < 0:
            return "absent"
        return f"t{self.index} {self.type}{list(self.shape)}{_affine(self)}"


@dataclass(frozen=True, eq=False)
class OpPlan:
    """The plan of one op.

    rule: which rounding rule or fallback applies, or why there is none. static: the choices that select code. leaves: every number
    of the kernel by name (prepared weights in the layout the kernel reads, zero points folded into the bias). bound: largest
    |accumulator| that any input can cause, in steps, the worst channel's (None where the op sums nothing against constants);
    headroom: bits between it and 2^31, negative where int32 would wrap.
    """

    index: int
    op: str
    inputs: tuple[Operand, ...]
    outputs: tuple[Operand, ...]
    options: Mapping[str, Any]
    rule: str
    static: Any = None
    leaves: Mapping[str, np.ndarray] = field(default_factory=dict)
    bound: int | None = None

    @property
    def headroom(self) -> float | None:
        return None if self.bound is None else 31 - float(np.log2(max(self.bound, 1)))

    def row(self) -> dict[str, Any]:
        """As plain Python values, ready for JSON or a data frame: arrays become lists, in full."""
        return {
            "index": self.index,
            "op": self.op,
            "inputs": [vars(o) for o in self.inputs],
            "outputs": [vars(o) for o in self.outputs],
            "options": {k: v.hex() if isinstance(v, bytes) else v for k, v in self.options.items()},
            "rule": self.rule,
            "static": _plain(self.static),
            "leaves": {k: np.asarray(v).tolist() for k, v in self.leaves.items()},
            "accumulator_bound": self.bound,
            "headroom_bits": None if self.headroom is None else round(self.headroom, 2),
        }

    def cells(self) -> tuple[str, ...]:
        """One line of the table, see `COLUMNS`."""
        y = self.outputs[0] if self.outputs else None
        headroom = "" if self.headroom is None else f"{self.headroom:.1f}"
        types = ", ".join(o.type for o in self.inputs) + " -> " + ", ".join(o.type for o in self.outputs)
        small = "  ".join(f"{k} {_brief(v)}" for k, v in self.leaves.items() if k not in ("weights", "bias"))
        return str(self.index), self.op, types, _affine(y).strip() if y else "", small, headroom, self.rule

    def lines(self) -> Iterator[str]:
        """Everything about the op, one fact a line."""
        yield f"op {self.index} {self.op}: {self.rule}"
        yield from (f"  input {p}: {o}" for p, o in enumerate(self.inputs))
        yield from (f"  output {p}: {o}" for p, o in enumerate(self.outputs))
        yield from (f"  option {k}: {v}" for k, v in self.options.items())
        if self.static not in (None, ()):
            yield f"  static: {self.static}"
        for name, value in self.leaves.items():
            yield f"  {name} {np.asarray(value).dtype}{list(np.shape(value))}: {_full(value)}"
        if self.bound is not None:
            yield f"  accumulator: |acc| <= {self.bound} steps, headroom {self.headroom:.2f} bits in int32"


COLUMNS = ("op", "name", "types", "output scale, zero point", "integers", "headroom, bits", "rule")


@dataclass(frozen=True, eq=False)
class Explanation:
    """The plans of a model's ops for one flavour. `print` it, or take `.rows()`."""

    plans: tuple[OpPlan, ...]
    flavour: str
    single: bool = False

    def rows(self) -> list[dict[str, Any]]:
        """One plain dictionary an op, see `OpPlan.row`."""
        return [p.row() for p in self.plans]

    def __str__(self) -> str:
        if self.single:
            return "\n".join(line for p in self.plans for line in p.lines())
        cells = [COLUMNS, *(p.cells() for p in self.plans)]
        widths = [max(len(row[c]) for row in cells) for c in range(len(COLUMNS))]
        return "\n".join("  ".join(text.ljust(w) for text, w in zip(row, widths, strict=True)).rstrip() for row in cells)


def explain(model: Model, op: int | None = None, flavour: str = "xnnpack") -> Explanation:
    """The plan of every op of the primary graph, or of op `op` alone: what LiteRT's kernels of `flavour` compute with.

    An op that has no kernel is listed with the reason. *Raises*: BadRecipe for an op index or flavour that does not exist.
    """
    if flavour not in FLAVOURS:
        raise BadRecipe(f"no flavour {flavour!r}", expected=", ".join(FLAVOURS))
    nodes = model.graph.nodes
    if op is not None and not 0 <= op < len(nodes):
        raise BadRecipe(f"no op {op}", expected=f"0 to {len(nodes) - 1}", hint="`qsim inspect` lists the ops")
    from .inference import host_values
    from .program import resolved

    graph = resolved(model, model.graph)
    known = host_values(graph)
    chosen = nodes if op is None else (nodes[op],)
    return Explanation(tuple(_explained(graph, n, known, flavour) for n in chosen), flavour, op is not None)


def _explained(graph: Graph, node: Node, known: Mapping[int, np.ndarray], flavour: str) -> OpPlan:
    from .inference import takes_kernel
    from .ops import REGISTRY
    from .ops.unknown import why_missing

    where, record = site(graph, node, known), REGISTRY.get(node.op)
    facts = (node.index, node.op, tuple(map(_operand, where.inputs)), tuple(map(_operand, where.outputs)), dict(node.options))
    if node.outputs and all(t in known or graph.tensors[t].is_constant for t in node.outputs):
        return OpPlan(*facts, HOST)
    if node.op in STATE_OPS:
        return OpPlan(*facts, "a variable: its value is carried from invocation to invocation")
    if node.op in CONTROL_OPS:
        called = ", ".join(f"{role} {node.options[option]}" for role, option in CONTROL_OPS[node.op].items())
        return OpPlan(*facts, f"runs other graphs: {called}; model.select(number) to see their plans")
    if record is None:
        return OpPlan(*facts, why_missing(node.op))
    if not takes_kernel(record, where, flavour):
        return OpPlan(*facts, FLOAT if any(_is_float(t) for t in (*where.inputs, *where.outputs)) else WHOLE)
    try:
        plan = record.kernel(where, flavour).plan(where, flavour)
    except QsimError as reason:
        return OpPlan(*facts, f"no plan: {reason}")
    return OpPlan(*facts, plan.note or "exact", plan.static, plan.leaves, accumulator_bound(record, where))


def accumulator_bound(op: Op, where: Site) -> int | None:
    """max over channels of |bias + sum w (x - z_x)|, steps, over every input code; also bounds each partial sum, in any order.

    Exact for constant weights, because 0 lies in the range of x - z_x. None for ops without constant weights and input parameters.
    """
    rule = op.rule
    if rule.weights is None or rule.weight_axis is None or rule.weights >= len(where.values):
        return None
    x, w, tensor = where.inputs[rule.data_inputs(where.node)[0]], where.values[rule.weights], where.inputs[rule.weights]
    if x is None or x.qparams is None or w is None or tensor is None or tensor.qparams is None:
        return None
    zero = np.asarray(tensor.qparams.zero_point, np.int64)
    real = np.moveaxis(w.astype(np.int64), rule.weight_axis, 0).reshape(w.shape[rule.weight_axis], -1) - zero.reshape(-1, 1)
    low, high = (int(end) - int(x.qparams.zero_point[0]) for end in (x.qparams.low, x.qparams.high))
    bias = _bias(where, rule.bias, len(real))
    top = np.maximum(real * low, real * high).sum(1) + bias
    bottom = np.minimum(real * low, real * high).sum(1) + bias
    return int(max(np.abs(top).max(), np.abs(bottom).max(), np.abs(bias).max()))


def _bias(where: Site, position: int | None, count: int) -> np.ndarray:
    value = None if position is None or position >= len(where.values) else where.values[position]
    return np.zeros(count, np.int64) if value is None else value.astype(np.int64).reshape(-1)


def _is_float(t: Tensor | None) -> bool:
    return t is not None and t.type.startswith(("float", "complex"))


def _operand(t: Tensor | None) -> Operand:
    if t is None:
        return Operand(-1, "", (), "absent")
    if t.blocks is not None:
        return Operand(t.index, t.name, t.shape, t.type, tuple(t.blocks.scale.ravel().tolist()), (0,), t.blocks.size)
    if t.qparams is None:
        return Operand(t.index, t.name, t.shape, t.type)
    scale, zero = np.asarray(t.qparams.scale, np.float32), np.asarray(t.qparams.zero_point, np.int64)
    return Operand(t.index, t.name, t.shape, t.type, tuple(scale.ravel().tolist()), tuple(zero.ravel().tolist()))


def _affine(o: Operand) -> str:
    if not o.scale:
        return ""
    if len(o.scale) > 1:
        count = f"blocks of {o.block} columns" if o.block else f"{len(o.scale)} channels"
        return f" scale {min(o.scale):.6g}..{max(o.scale):.6g} ({count})"
    return f" scale {np.float32(o.scale[0])!s}, zero point {o.zero_point[0]}"


def _brief(value: Any) -> str:
    """A leaf in a table cell: the number, or its ends and count."""
    v = np.asarray(value)
    if v.size == 1:
        return str(v.reshape(())[()])
    return f"{v.min()!s}..{v.max()!s} [{'x'.join(map(str, v.shape))}]" if v.size else "[]"


def _full(value: Any) -> str:
    """A leaf in full up to 4,096 numbers; larger ones by their ends."""
    v = np.asarray(value)
    if v.size > 4096:
        return f"{v.min()}..{v.max()} (all in rows())"
    return " ".join(np.array2string(v, separator=" ", threshold=v.size + 1, max_line_width=1 << 30).split())


def _plain(value: Any) -> Any:
    if hasattr(value, "_asdict"):
        return {k: _plain(v) for k, v in value._asdict().items()}
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
