"""Models of one recurrent op, drawn at random: they need states, intermediates and many operands that belong together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import numpy as np

from qsim.graph import Graph, Model, Node, Options, QParams, Tensor
from qsim.types import code_range

STYLES = ("random", "ties", "saturated", "edge")
Rng = np.random.Generator
f32 = np.float32


@dataclass
class Parts:
    """The operands of a node by position while they are drawn."""

    tensors: dict[int, Tensor] = field(default_factory=dict)
    intermediates: list[Tensor] = field(default_factory=list)

    def add(self, p: int, kind: str, shape: tuple[int, ...], q: QParams | None = None, data: Any = None, *, state: bool = False) -> None:
        value = None if data is None else np.asarray(data).astype(kind)
        self.tensors[p] = Tensor(0, f"x{p}", shape, kind, q, value, is_variable=state)

    def model(self, op: str, options: Mapping[str, Any], slots: int, outputs: list[Tensor], version: int = 1) -> Model:
        """Inputs are the operands that are neither constants nor states."""
        order = [*sorted(self.tensors)]
        kept = [self.tensors[p] for p in order] + outputs + self.intermediates
        place = {p: i for i, p in enumerate(order)}
        outs = tuple(range(len(order), len(order) + len(outputs)))
        inner = tuple(range(outs[-1] + 1, len(kept)))
        node = Node(0, op, tuple(place.get(p, -1) for p in range(slots)), outs, Options(options), version, intermediates=inner)
        named = tuple(t.but(index=i, name=f"t{i}") for i, t in enumerate(kept))
        live = tuple(place[p] for p in order if self.tensors[p].data is None and not self.tensors[p].is_variable)
        return Model((Graph(named, (node,), live, outs, name="main"),))


def q(scale: Any, zero: int = 0, kind: str = "int8") -> QParams:
    low, high = code_range(kind)
    return QParams(np.atleast_1d(f32(scale)), np.int64([zero]), low, high)


def power(rng: Rng, style: str, low: float, high: float) -> np.float32:
    """2^e with e uniform in [low, high]; whole for ties."""
    e = rng.uniform(low, high)
    return f32(2.0 ** (round(e) if style == "ties" else e))


def weights(rng: Rng, style: str, shape: tuple[int, ...], kind: str = "int8", lowest: int | None = None) -> np.ndarray:
    low, high = code_range(kind)
    low = low if lowest is None else lowest
    if style == "ties":
        return rng.integers(-3, 4, shape)
    w = rng.integers(low, high + 1, shape)
    return np.where(rng.random(shape) < 0.8, rng.choice([low, high], shape), w) if style == "saturated" else w


def zero_point(rng: Rng, style: str) -> int:
    if style == "edge":
        return int(rng.choice([-128, 127]))
    return int(rng.integers(-128, 128)) if rng.random() < 0.5 else int(rng.integers(-8, 9))


def codes(rng: Rng, style: str, shape: tuple[int, ...], zero: int, samples: int) -> np.ndarray:
    x = rng.integers(-128, 128, (samples, *shape))
    if style == "ties":
        x = np.clip(zero + rng.integers(-4, 5, x.shape), -128, 127)
    if samples > 3:
        x[1], x[2] = zero, np.where(rng.random(shape) < 0.5, -128, 127)
    return x.astype(np.int8)


# LSTM --------------------------------------------------------------------


@dataclass(frozen=True)
class Form:
    """Sizes and options of an LSTM: n samples, `time` steps of k values, cells, outputs."""

    n: int = 2
    time: int = 4
    k: int = 5
    cells: int = 6
    outputs: int = 6
    cifg: bool = False
    peephole: bool = False
    norm: bool = False
    projection: str = ""  # "", "plain" or "bias"
    major: bool = False
    clip: bool = False

    def __str__(self) -> str:
        flags = [f for f in ("cifg", "peephole", "norm", "major", "clip") if getattr(self, f)]
        return "-".join([*flags, *([f"projection.{self.projection}"] if self.projection else [])]) or "simple"

    @property
    def gates(self) -> tuple[int, ...]:
        return (1, 2, 3) if self.cifg else (0, 1, 2, 3)

    def shape(self, last: int) -> tuple[int, int, int]:
        return (self.time, self.n, last) if self.major else (self.n, self.time, last)


def forms() -> list[Form]:
    """Every combination of the options, in sizes that differ; clipping in every other."""
    found = []
    for number, (cifg, peephole, norm, projection, major) in enumerate(product(*[(False, True)] * 3, ("", "plain", "bias"), (False, True))):
        cells = (6, 17, 8, 5)[number % 4]
        outputs = cells if not projection else (cells, 4)[number % 2]
        sizes = (1 + number % 3, 2 + number % 4, (5, 19, 1, 8)[number // 3 % 4], cells, outputs)
        found.append(Form(*sizes, cifg, peephole, norm, projection, major, bool(number // 2 % 2)))
    return found


def lstm_options(form: Form, rng: Rng, activation: str = "TANH", **more: Any) -> dict[str, Any]:
    clips = (float(rng.choice([0.1, 0.5, 3.0])), float(rng.choice([0.05, 0.3, 1.0]))) if form.clip else (0.0, 0.0)
    common = {"fused_activation_function": activation, "cell_clip": clips[0], "proj_clip": clips[1], "asymmetric_quantize_inputs": False}
    return {**common, "time_major": form.major, "diagonal_recurrent_tensors": False} | more


def integer_lstm(form: Form, draw: int, samples: int = 5, *, full: bool = False) -> tuple[Model, np.ndarray, str]:
    """An int8 UNIDIRECTIONAL_SEQUENCE_LSTM (or one step, a `full` LSTM) with int16 cell, data for it and the style of the draw."""
    shape = (form.n, form.k) if full else form.shape(form.k)
    style, rng = STYLES[draw % 4], np.random.default_rng([draw, *str(form).encode()])
    parts, large = Parts(), 3.0 if style == "saturated" else 0.0
    zx, zh, zi = (zero_point(rng, s) for s in (style, *["random" if form.projection else style] * 2))
    sx, sh, cell_shift = power(rng, style, -7, -4), power(rng, style, -9, -6), int(rng.integers(-14, -8))
    s_hidden, z_hidden = (power(rng, style, -9, -6), zi) if form.projection else (sh, zh)
    parts.add(0, "int8", shape, q(sx, zx))
    for g in form.gates:
        sums, scales = power(rng, style, -12, -7) if form.norm else f32(2.0**-12), {}
        for p, columns, s in ((1, form.k, sx), (5, form.outputs, sh)):
            spread = 4000 * 2.0 ** (rng.uniform(-3, 1) + large) / (73.0 * 73.0 * columns**0.5)  # of the gate's sums, in steps
            sw = power(rng, style, -9, -5) if style == "ties" else f32(float(sums) * spread / float(s))
            parts.add(p + g, "int8", (form.cells, columns), q(sw), weights(rng, style, (form.cells, columns)))
            scales[p] = float(s) * float(sw)
        if form.peephole and g != 2:
            values = weights(rng, style, (form.cells,), "int16")
            parts.add(9 + min(g, 2), "int16", (form.cells,), q(power(rng, style, -18, -12), 0, "int16"), values)
        bias = rng.integers(-(2**14), 2**14, form.cells)
        if form.norm:
            s_norm = power(rng, style, -16, -12) if style != "edge" else power(rng, style, -20, -8)
            values = weights(rng, "random" if style == "ties" else style, (form.cells,), "int16")
            parts.add(20 + g, "int16", (form.cells,), q(s_norm, 0, "int16"), values)
            bias = rng.integers(-(2**22), 2**22, form.cells)
        parts.add(12 + g, "int32", (form.cells,), q(float(s_norm) / 1024 if form.norm else scales[1], 0, "int32"), bias)
    if form.projection:
        sp = f32(float(sh) / float(s_hidden) * 2.0 ** rng.uniform(-2, 1) / (73 * form.cells**0.5))
        sp = power(rng, style, -5, -1) if style == "ties" else sp
        parts.add(16, "int8", (form.outputs, form.cells), q(sp), weights(rng, style, (form.outputs, form.cells)))
        if form.projection == "bias":
            parts.add(17, "int32", (form.outputs,), q(sp * s_hidden, 0, "int32"), rng.integers(-(2**12), 2**12, form.outputs))
    parts.add(18, "int8", (form.n, form.outputs), q(sh, zh), state=True)
    parts.add(19, "int16", (form.n, form.cells), q(2.0**cell_shift, 0, "int16"), state=True)
    parts.intermediates = [Tensor(0, "", (), "int16", q(power(rng, style, -12, -7), 0, "int16")) for _ in range(4)]
    parts.intermediates.append(Tensor(0, "", (), "int8", q(s_hidden, z_hidden)))
    slots = 24 if form.norm or draw % 2 else 20
    y = Tensor(0, "y", (*shape[:-1], form.outputs), "int8", q(sh, zh))
    name, options = "UNIDIRECTIONAL_SEQUENCE_LSTM", lstm_options(form, rng)
    if full:
        name, options = "LSTM", one_step(options)
    return parts.model(name, options, slots, [y], 3), codes(rng, style, shape, zx, samples), style


def basic_integer_lstm(form: Form, draw: int, samples: int = 5) -> tuple[Model, list[np.ndarray], str]:
    """An uint8 BASIC LSTM."""
    style, rng, parts = STYLES[draw % 4], np.random.default_rng([draw, form.cells]), Parts()
    both, eighth = form.k + form.cells, q(2.0**-7, 128, "uint8")
    w = np.clip(weights(rng, style, (4 * form.cells, both)) + 128, 0, 255)
    spread = {"random": 4000, "ties": 300, "saturated": 40000, "edge": 100}[style]
    sb = 2.0 ** -round(np.log2(60.0 * 3 * both**0.5 / 300 * 4096)) if style == "ties" else spread / (73.0 * 73 * both**0.5) / 4096
    parts.add(0, "uint8", (form.n, form.k), eighth)
    parts.add(1, "uint8", (form.n, form.cells), eighth, state=True)
    parts.add(2, "uint8", w.shape, q(sb * 128, int(rng.choice([128, rng.integers(100, 156), 0, 255])), "uint8"), w)
    parts.add(3, "int32", (4 * form.cells,), q(sb, 0, "int32"), rng.integers(-(2**11), 2**11, 4 * form.cells) / (sb * 4096))
    parts.add(4, "int16", (form.n, form.cells), q(2.0**-11, 0, "int16"), state=True)
    kinds = (("uint8", form.cells), ("int16", form.cells), ("uint8", both), ("int16", 4 * form.cells))
    scales = {"uint8": eighth, "int16": q(2.0**-11, 0, "int16")}
    outputs = [Tensor(0, "", (form.n, c), t, scales[t]) for t, c in kinds]
    x = rng.integers(0, 256, (samples, form.n, form.k)).astype(np.uint8)
    return parts.model("LSTM", BASIC, 5, outputs, 2), [x], style


def one_step(options: dict[str, Any]) -> dict[str, Any]:
    """Options of a FULL LSTM of those of a sequence."""
    return {k: v for k, v in options.items() if k not in ("time_major", "diagonal_recurrent_tensors")} | {"kernel_type": "FULL"}


# float -------------------------------------------------------------------


def _normal(parts: Parts, rng: Rng, p: int, shape: tuple[int, ...], spread: float, *, hybrid: bool = False) -> None:
    """A constant of normal values; as int8 weights with one scale where `hybrid`."""
    if not hybrid:
        return parts.add(p, "float32", shape, None, rng.normal(0, spread, shape))
    w = weights(rng, "random", shape, lowest=-127)
    return parts.add(p, "int8", shape, q(spread / 73 * 2.0 ** rng.uniform(-1, 1)), w)


def float_cell(parts: Parts, rng: Rng, form: Form, first: int, aux: int | None = None, *, hybrid: bool = False) -> None:
    """The operands of one LSTM cell from position `first` on; auxiliary weights of form.k columns from `aux` on."""
    for g in form.gates:
        _normal(parts, rng, first + g, (form.cells, form.k), form.k**-0.5, hybrid=hybrid)
        _normal(parts, rng, first + 4 + g, (form.cells, form.outputs), form.outputs**-0.5, hybrid=hybrid)
        if aux is not None:
            _normal(parts, rng, aux + g, (form.cells, form.k), form.k**-0.5, hybrid=hybrid)
        if form.peephole and g != 2:
            _normal(parts, rng, first + 8 + min(g, 2), (form.cells,), 1.0, hybrid=hybrid)
        _normal(parts, rng, first + 11 + g, (form.cells,), 0.5)
        if form.norm:
            _normal(parts, rng, 20 + g, (form.cells,), 1.0)
    if form.projection:
        _normal(parts, rng, first + 15, (form.outputs, form.cells), form.cells**-0.5, hybrid=hybrid)
        if form.projection == "bias":
            _normal(parts, rng, first + 16, (form.outputs,), 0.5)


def real_data(rng: Rng, shape: tuple[int, ...], samples: int) -> np.ndarray:
    """Normal data; one sample of zeros."""
    x = rng.normal(0, 1, (samples, *shape)) * 2.0 ** rng.uniform(-2, 2)
    x[samples // 2] = 0
    return x.astype(f32)


def _output(*shape: int) -> Tensor:
    return Tensor(0, "", shape, "float32")


def float_lstm(form: Form, draw: int, *, hybrid: bool = False, samples: int = 4) -> tuple[Model, list[np.ndarray], str]:
    """UNIDIRECTIONAL_SEQUENCE_LSTM on reals."""
    rng, parts = np.random.default_rng([draw, *str(form).encode()]), Parts()
    parts.add(0, "float32", form.shape(form.k))
    float_cell(parts, rng, form, 1, hybrid=hybrid)
    parts.add(18, "float32", (form.n, form.outputs), state=True)
    parts.add(19, "float32", (form.n, form.cells), state=True)
    options = lstm_options(form, rng, str(rng.choice(ACTIVATIONS)), asymmetric_quantize_inputs=bool(draw % 2) and hybrid)
    model = parts.model("UNIDIRECTIONAL_SEQUENCE_LSTM", options, 24 if form.norm else 20, [_output(*form.shape(form.outputs))])
    return model, [real_data(rng, form.shape(form.k), samples)], options["fused_activation_function"]


ACTIVATIONS = ("TANH", "TANH", "RELU", "RELU6", "RELU_N1_TO_1")


def full_lstm(form: Form, draw: int, *, hybrid: bool = False, samples: int = 4) -> tuple[Model, list[np.ndarray], str]:
    """LSTM, kernel type FULL: one step."""
    rng, parts = np.random.default_rng([draw, *str(form).encode()]), Parts()
    parts.add(0, "float32", (form.n, form.k))
    float_cell(parts, rng, form, 1, hybrid=hybrid)
    parts.add(18, "float32", (form.n, form.outputs), state=True)
    parts.add(19, "float32", (form.n, form.cells), state=True)
    options = lstm_options(form, rng, str(rng.choice(ACTIVATIONS)), asymmetric_quantize_inputs=bool(draw % 2) and hybrid)
    model = parts.model("LSTM", one_step(options), 24 if form.norm else 20, [_output(form.n, form.outputs)])
    return model, [real_data(rng, (form.n, form.k), samples)], options["fused_activation_function"]


def basic_lstm(form: Form, draw: int, samples: int = 4) -> tuple[Model, list[np.ndarray], str]:
    """LSTM, kernel type BASIC, on reals."""
    rng, parts, both = np.random.default_rng([draw, *str(form).encode()]), Parts(), form.k + form.cells
    parts.add(0, "float32", (form.n, form.k))
    parts.add(1, "float32", (form.n, form.cells), state=True)
    _normal(parts, rng, 2, (4 * form.cells, both), both**-0.5)
    _normal(parts, rng, 3, (4 * form.cells,), 0.5)
    parts.add(4, "float32", (form.n, form.cells), state=True)
    outputs = [_output(form.n, c) for c in (form.cells, form.cells, both, 4 * form.cells)]
    return parts.model("LSTM", BASIC, 5, outputs, 2), [real_data(rng, (form.n, form.k), samples)], ""


BASIC = {"fused_activation_function": "TANH", "cell_clip": 0.0, "proj_clip": 0.0, "kernel_type": "BASIC"}
BASIC |= {"asymmetric_quantize_inputs": False}


def both_ways_lstm(
    form: Form, draw: int, *, hybrid: bool = False, samples: int = 4, defect: bool = False
) -> tuple[Model, list[np.ndarray], str]:
    """BIDIRECTIONAL_SEQUENCE_LSTM: merged or not; without, with and with weighted auxiliary input.

    `defect`: merged where LiteRT reads past its states.
    """
    rng, parts = np.random.default_rng([draw, *str(form).encode()]), Parts()
    merged, aux = bool(rng.integers(2)), ("none", "below", "weighted")[draw % 3]
    merged = defect or merged and (form.major or form.n == 1)
    parts.add(0, "float32", form.shape(form.k))
    float_cell(parts, rng, form, 1, 40 if aux == "weighted" else None, hybrid=hybrid)
    float_cell(parts, rng, form, 18, 44 if aux == "weighted" else None, hybrid=hybrid)
    for p, columns in zip(range(35, 39), (form.outputs, form.cells) * 2, strict=True):
        parts.add(p, "float32", (form.n, columns), state=True)
    data = [real_data(rng, form.shape(form.k), samples)]
    if aux != "none":
        parts.add(39, "float32", form.shape(form.k))
        data.append(real_data(rng, form.shape(form.k), samples))
    options = lstm_options(form, rng, str(rng.choice(ACTIVATIONS)), asymmetric_quantize_inputs=bool(draw % 2) and hybrid)
    options = {k: v for k, v in options.items() if k != "diagonal_recurrent_tensors"} | {"merge_outputs": merged}
    outputs = [_output(*form.shape(form.outputs * 2))] if merged else [_output(*form.shape(form.outputs))] * 2
    model = parts.model("BIDIRECTIONAL_SEQUENCE_LSTM", options, 48, outputs)
    return model, data, f"{options['fused_activation_function']}, merged {merged}, auxiliary {aux}"


def rnn(
    op: str, form: Form, draw: int, *, hybrid: bool = False, samples: int = 4, defect: bool = False
) -> tuple[Model, list[np.ndarray], str]:
    """RNN, UNIDIRECTIONAL_SEQUENCE_RNN or BIDIRECTIONAL_SEQUENCE_RNN. `defect`: also where LiteRT reads the wrong input."""
    rng, parts, units = np.random.default_rng([draw, *str(form).encode()]), Parts(), (form.cells, form.cells + 3)
    ways = 2 if op.startswith("BI") else 1
    aux = ("none", "below", "weighted")[draw % 3] if ways == 2 else "none"
    form = replace(form, major=True) if aux == "below" and not defect else form
    shape = (form.n, form.k) if op == "RNN" else form.shape(form.k)
    options = {
        "fused_activation_function": str(rng.choice(["NONE", *ACTIVATIONS])),
        "asymmetric_quantize_inputs": bool(draw % 2) and hybrid,
    }
    options |= {} if op == "RNN" else {"time_major": form.major}
    parts.add(0, "float32", shape)
    for way, n in enumerate(units[:ways]):
        _normal(parts, rng, 4 * way + 1, (n, form.k), form.k**-0.5, hybrid=hybrid)
        _normal(parts, rng, 4 * way + 2, (n, n), 0.7 * n**-0.5, hybrid=hybrid)
        _normal(parts, rng, 4 * way + 3, (n,), 0.5)
        parts.add(4 * way + 4, "float32", (form.n, n), state=True)
        if aux == "weighted":
            _normal(parts, rng, 10 + way, (n, form.k), form.k**-0.5, hybrid=hybrid)
    data = [real_data(rng, shape, samples)]
    if aux != "none":
        parts.add(9, "float32", shape)
        data.append(real_data(rng, shape, samples))
    outputs = [_output(*shape[:-1], n) for n in units[:ways]]
    if ways == 2:
        options["merge_outputs"] = bool(rng.integers(2))
        aborts = hybrid and options["merge_outputs"] and form.major and form.n > 1  # without a zero point for each row
        options["asymmetric_quantize_inputs"] |= aborts
        outputs = [_output(*shape[:-1], sum(units))] if options["merge_outputs"] else outputs
    return parts.model(op, options, 12 if ways == 2 else 5, outputs), data, f"{options}, auxiliary {aux}"


# SVDF --------------------------------------------------------------------


@dataclass(frozen=True)
class Filters:
    """Sizes of an SVDF: n rows of k values, units of `rank` filters over `length` steps."""

    n: int
    k: int
    units: int
    rank: int
    length: int
    bias: bool = True


FILTERS = (
    Filters(1, 8, 4, 1, 5),
    Filters(2, 17, 5, 2, 9),
    Filters(3, 5, 3, 3, 1, False),
    Filters(2, 33, 7, 5, 16),
    Filters(1, 1, 1, 8, 7, False),
)


def svdf(sizes: Filters, draw: int, *, kind: str, samples: int = 12) -> tuple[Model, list[np.ndarray], str]:
    """SVDF on int8 with int16 state ("int8"), on reals ("float32"), on reals by int8 weights ("hybrid")."""
    if kind == "int8":
        return _integer_svdf(sizes, draw, samples)
    hybrid, rng, parts = kind == "hybrid", np.random.default_rng([draw, *str(sizes).encode()]), Parts()
    filters = sizes.units * sizes.rank
    parts.add(0, "float32", (sizes.n, sizes.k))
    _normal(parts, rng, 1, (filters, sizes.k), sizes.k**-0.5, hybrid=hybrid)
    _normal(parts, rng, 2, (filters, sizes.length), sizes.length**-0.5, hybrid=hybrid)
    if sizes.bias:
        _normal(parts, rng, 3, (sizes.units,), 0.5)
    parts.add(4, "float32", (sizes.n, filters * sizes.length), state=True)
    name = str(rng.choice(["NONE", *ACTIVATIONS]))
    options = {"rank": sizes.rank, "fused_activation_function": name, "asymmetric_quantize_inputs": bool(draw % 2) and hybrid}
    model = parts.model("SVDF", options, 5, [_output(sizes.n, sizes.units)], 2 if hybrid else 1)
    return model, [real_data(rng, (sizes.n, sizes.k), samples)], str(options)


def _integer_svdf(sizes: Filters, draw: int, samples: int) -> tuple[Model, list[np.ndarray], str]:
    style, rng, parts = STYLES[draw % 4], np.random.default_rng([draw, *str(sizes).encode()]), Parts()
    filters, large = sizes.units * sizes.rank, 3 if style == "saturated" else 0
    sx, sf, st = (power(rng, style, low, low + 4) for low in (-6, -8, -14))
    ties = style == "ties"
    reach = (3 * 2 if ties else 74 * 74) * sizes.k**0.5 * 2.0 ** (rng.uniform(-1, 1) + large)
    ss = f32(float(sx) * float(sf) * 2.0 ** round(np.log2(reach / 8000)))
    ss = f32(float(sx) * float(sf) / 2) if ties else f32(float(ss) * 2.0 ** rng.uniform(-1, 1))
    sums = (6 * 2 if ties else 8000 * 19000) * (sizes.length * sizes.rank) ** 0.5
    sy = f32(float(ss) * float(st) * (2.0 ** round(np.log2(sums / 60)) if ties else sums / 60 * 2.0 ** rng.uniform(-1, 1)))
    zx, zy = zero_point(rng, style), zero_point(rng, "random")
    parts.add(0, "int8", (sizes.n, sizes.k), q(sx, zx))
    parts.add(1, "int8", (filters, sizes.k), q(sf), weights(rng, style, (filters, sizes.k)))
    parts.add(2, "int16", (filters, sizes.length), q(st, 0, "int16"), weights(rng, style, (filters, sizes.length), "int16"))
    if sizes.bias:
        steps = rng.integers(-60, 60, sizes.units) + (0.5 if style == "edge" else 0)
        parts.add(3, "int32", (sizes.units,), q(ss * st, 0, "int32"), np.rint(steps * float(sy) / (float(ss) * float(st))))
    parts.add(4, "int16", (sizes.n, filters * sizes.length), q(ss, 0, "int16"), state=True)
    options = {"rank": sizes.rank, "fused_activation_function": "RELU", "asymmetric_quantize_inputs": False}
    model = parts.model("SVDF", options, 5, [Tensor(0, "", (sizes.n, sizes.units), "int8", q(sy, zy))], 3)
    return model, [codes(rng, style, (sizes.n, sizes.k), zx, samples)], style
