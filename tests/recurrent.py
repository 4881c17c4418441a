"""Models of one recurrent op, drawn at random: they need states, intermediates and many operands that belong together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
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


def integer_lstm(form: Form, draw: int, samples: int = 5) -> tuple[Model, np.ndarray, str]:
    """An int8 UNIDIRECTIONAL_SEQUENCE_LSTM with int16 cell, data for it and the style of the draw."""
    style, rng = STYLES[draw % 4], np.random.default_rng([draw, *str(form).encode()])
    parts, large = Parts(), 3.0 if style == "saturated" else 0.0
    zx, zh, zi = (zero_point(rng, s) for s in (style, *["random" if form.projection else style] * 2))
    sx, sh, cell_shift = power(rng, style, -7, -4), power(rng, style, -9, -6), int(rng.integers(-14, -8))
    s_hidden, z_hidden = (power(rng, style, -9, -6), zi) if form.projection else (sh, zh)
    parts.add(0, "int8", form.shape(form.k), q(sx, zx))
    for g in form.gates:
        sums = power(rng, style, -12, -7) if form.norm else f32(2.0**-12)
        for p, columns, s in ((1, form.k, sx), (5, form.outputs, sh)):
            spread = 4000 * 2.0 ** (rng.uniform(-3, 1) + large) / (73.0 * 73.0 * columns**0.5)  # of the gate's sums, in steps
            sw = power(rng, style, -9, -5) if style == "ties" else f32(float(sums) * spread / float(s))
            parts.add(p + g, "int8", (form.cells, columns), q(sw), weights(rng, style, (form.cells, columns)))
        if form.peephole and g != 2:
            values = weights(rng, style, (form.cells,), "int16")
            parts.add(9 + min(g, 2), "int16", (form.cells,), q(power(rng, style, -18, -12), 0, "int16"), values)
        bias = rng.integers(-(2**14), 2**14, form.cells)
        if form.norm:
            s_norm = power(rng, style, -16, -12) if style != "edge" else power(rng, style, -20, -8)
            values = weights(rng, "random" if style == "ties" else style, (form.cells,), "int16")
            parts.add(20 + g, "int16", (form.cells,), q(s_norm, 0, "int16"), values)
            bias = rng.integers(-(2**22), 2**22, form.cells)
        parts.add(12 + g, "int32", (form.cells,), q(2.0**-16, 0, "int32"), bias)
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
    y = Tensor(0, "y", form.shape(form.outputs), "int8", q(sh, zh))
    model = parts.model("UNIDIRECTIONAL_SEQUENCE_LSTM", lstm_options(form, rng), slots, [y], 3)
    return model, codes(rng, style, form.shape(form.k), zx, samples), style
