"""A float LSTM as an integer one: which may become one, the scales inside, and its operands as codes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from .graph import Graph, Node, QParams
from .ops.lstm import BIAS, CELL_STATE, HIDDEN_STATE, INT8, NORMS, PEEPHOLES, PROJECTION, RECURRENT, WEIGHTS
from .ops.lstm_cell import CELL
from .scheme import Scheme, affine
from .types import code_range
from .weights import quantize_bias, quantize_constant, quantize_weights, survey, weight_scales

f32 = np.float32
Values = Mapping[int, np.ndarray]
PARTS = {p: kind.rstrip("?") for p, kind in enumerate(INT8) if p}
SUMS = 2.0**-12  # a step of a gate's sums, real; with layer normalization they have a scale of their own
SMALLEST_CELL, LARGEST_CELL = -15, -9  # log2 of a cell's scale: the kernel's tanh has 0 to 6 integer bits
HIDDEN = QParams(np.asarray([1 / 127], f32), np.zeros(1, np.int64), -128, 127)  # before a projection: |sigmoid * tanh| <= 1
MOST = 2.0**30  # steps that a rescaled sum may have


class Stored(NamedTuple):
    """Codes of a constant, their element type and parameters."""

    codes: np.ndarray
    kind: str
    q: QParams


class Operands(NamedTuple):
    """Of one integer LSTM by position: its constants; type and parameters of its states. intermediates: those of its five tensors that
    hold parameters alone."""

    constants: Mapping[int, Stored]
    states: Mapping[int, tuple[str, QParams]]
    intermediates: tuple[tuple[str, QParams], ...]


def parts(node: Node) -> Mapping[int, str]:
    """Position of each constant and state -> its element type beside int8 data, of an op that this module quantizes; empty for others."""
    full = node.op == "LSTM" and node.options.get("kernel_type") == "FULL"
    return PARTS if full or node.op == "UNIDIRECTIONAL_SEQUENCE_LSTM" else {}


def why_not(graph: Graph, node: Node, values: Values, scheme: Scheme) -> str | None:
    """Why LiteRT's integer LSTM would not compute what this one does, in words; None where it does."""
    held = {p: t for p, t in enumerate(node.inputs) if t >= 0}
    states = [held.pop(p, -1) for p in (HIDDEN_STATE, CELL_STATE)]
    constants = [t for p, t in held.items() if p]
    cells, outputs = graph.tensors[states[1]].shape[-1:], graph.tensors[node.outputs[0]].shape[-1:]
    act, options = node.options.fused_activation_function, node.options
    reasons = (
        (scheme.is_simulated, "its integer kernel takes int8 alone"),
        (any(t not in values for t in constants), "its weights are computed, not constant"),
        (any(not np.isfinite(values[t]).all() for t in constants if t in values), "a constant of it is NaN or infinite"),
        (not all(_is_own(graph, t) for t in states), "its states are not variables of its own"),
        (act != "TANH", f"fused activation {act} has no integer kernel"),
        (options.get("diagonal_recurrent_tensors", False), "diagonal recurrent weights have no integer kernel"),
        (any(BIAS + g not in held for g in range(1, 4)), "it has no bias"),
        (outputs > cells, "it has more outputs than cells"),
        (PEEPHOLES + 2 in held and outputs != cells, "LiteRT's integer kernel misreads peepholes before a projection"),
        (PROJECTION in held and options.proj_clip > 0, "LiteRT's integer kernel clips the codes of a projection, not their values"),
    )
    return next((reason for found, reason in reasons if found), None)


def _is_own(graph: Graph, t: int) -> bool:
    used = len(graph.consumers.get(t, ())) == 1 and t not in graph.producer and t not in (*graph.inputs, *graph.outputs)
    return used and graph.tensors[t].is_variable


def cell(node: Node) -> int:
    """The tensor of an LSTM's cell state."""
    return node.inputs[CELL_STATE]


def cell_bound(node: Node) -> float:
    """What |c| cannot leave: cell_clip; 64 without one, or above, which is all that a cell of the kernel holds."""
    most = 2.0 ** (LARGEST_CELL + 15)
    return min(most, node.options.cell_clip) if node.options.cell_clip > 0 else most


def cell_scale(low: float, high: float) -> float:
    """2^k, the smallest with 2^15 steps that reach the range; k in [-15, -9]. *Restates*: the TFLite converter, which has no bounds."""
    reach = max(-low, high, 2.0**-30)
    return 2.0 ** int(np.clip(np.ceil(np.log2(reach)) - 15, SMALLEST_CELL, LARGEST_CELL))


def too_wide(node: Node, values: Values, x: QParams, y: QParams) -> str | None:
    """Why sums rescaled to steps of a gate or of the output would leave 32 bits, in words; None where they do not."""
    at = _Constants(node, values)
    for g in at.gates:
        if NORMS + g not in at and float((_reaches(at, g, x, y) + np.abs(at[BIAS + g])).max()) > MOST * SUMS:
            return "no legal scales: the sums of a gate must stay within 2^30 steps of 2^-12"
    if PROJECTION not in at:
        return None
    bias = np.abs(at[PROJECTION + 1]) if PROJECTION + 1 in at else 0.0
    worst = float((np.abs(at[PROJECTION]).sum(1) + bias).max())
    return "no legal scales: the projection must stay within 2^30 steps of the output" if worst > MOST * float(y.scale[0]) else None


class _Constants(dict[int, np.ndarray]):
    """The constants of an LSTM by position, float64. gates: which there are; bound: see `cell_bound`."""

    def __init__(self, node: Node, values: Values):
        held = {p: t for p, t in enumerate(node.inputs) if t >= 0 and p not in (0, HIDDEN_STATE, CELL_STATE)}
        super().__init__({p: np.asarray(values[t], np.float64) for p, t in held.items()})
        self.gates = tuple(g for g in range(4) if WEIGHTS + g in self)
        self.bound = cell_bound(node)


def _reach(q: QParams) -> float:
    """The largest |real value| of the codes."""
    return max(abs(float(end[0])) for end in q.real_range())


def _reaches(at: _Constants, g: int, x: QParams, y: QParams) -> np.ndarray:
    """(n_cell,) what the sums of a gate can reach before the bias: sum |W| |x| + sum |R| |h| + |P| |c|."""
    total = np.abs(at[WEIGHTS + g]).sum(1) * _reach(x) + np.abs(at[RECURRENT + g]).sum(1) * _reach(y)
    p = _peephole(g)
    return total + np.abs(at[p]) * at.bound if p in at else total


def _peephole(g: int) -> int:
    """The position of a gate's peephole; -1 for the cell's."""
    return -1 if g == CELL else PEEPHOLES + min(g, 2)


def operands(node: Node, values: Values, scheme: Scheme, x: QParams, y: QParams, c: QParams) -> Operands:
    """The operands of the integer LSTM with parameters x of its input, y of its output (and hidden state), c of its cell.

    Weights: int8, one scale each. Bias: int32 of scale s_x s_W, with layer normalization s_norm 2^-10. Peepholes and norms: int16 of
    scale max / 32767. Projection: int8, its bias int32 of scale s_P / 127, the hidden value before it covering -1 .. 1 with zero point 0.
    Sums before a normalization: int16, over all that they can reach. *Restates*: the TFLite converter. *Differs*: that observes sums
    and hidden value, and gives the latter a zero point, whose sign the kernel has wrong.
    """
    at, found = _Constants(node, values), dict[int, Stored]()
    scheme = replace(scheme, weight="int8", bias="int32", per_channel=False)
    between = [_symmetric(SUMS * code_range("int16")[1])] * 4  # with a normalization LiteRT reads all four, present or not
    for g in at.gates:
        found |= _gate(at, g, scheme, x, y)
        if NORMS + g in at:
            found |= _normalization(at, g)
            between[g] = _symmetric(float(_reaches(at, g, x, y).max()))
    if PROJECTION in at:
        found |= _products(at, PROJECTION, PROJECTION + 1, scheme, HIDDEN)
    hidden = HIDDEN if PROJECTION in at else y
    return Operands(found, {HIDDEN_STATE: ("int8", y), CELL_STATE: ("int16", c)}, (*(("int16", q) for q in between), ("int8", hidden)))


def _gate(at: _Constants, g: int, scheme: Scheme, x: QParams, y: QParams) -> dict[int, Stored]:
    found = _products(at, WEIGHTS + g, -1 if NORMS + g in at else BIAS + g, scheme, x) | _products(at, RECURRENT + g, -1, scheme, y)
    p = _peephole(g)
    return found | {p: _words(at[p], float(np.abs(at[p]).max()))} if p in at else found


def _normalization(at: _Constants, g: int) -> dict[int, Stored]:
    """Coefficients and bias: |normalized| <= sqrt(n), and the kernel sums 2^10 (coefficient normalized + bias) in steps of the
    coefficients, in 32 bits."""
    norm, bias = at[NORMS + g], at[BIAS + g]
    most = float(np.abs(norm).max())
    least = (np.sqrt(norm.size) * most + float(np.abs(bias).max())) * 2.0**10 / MOST
    coefficients = _words(norm, max(most, least * code_range("int16")[1]))
    return {NORMS + g: coefficients, BIAS + g: _bias(bias, f32(2.0**-10), coefficients.q.scale)}


def _products(at: _Constants, wp: int, bp: int, scheme: Scheme, q: QParams) -> dict[int, Stored]:
    """Weights that multiply values of parameters q, and the bias that is added, where there is one (bp: its position, or -1)."""
    w, b, scale = at[wp], at.get(bp), f32(q.scale[0])
    scales = weight_scales(survey(w, b, 0, scheme.clip, scheme.weight, scheme.per_channel), float(scale), _reach(q), scheme)
    codes, made = quantize_weights(w, scales, 0, "int8", scheme.rounding)
    found = {wp: Stored(codes, "int8", made)}
    return found if b is None else found | {bp: _bias(b, scale, scales)}


def _bias(values: np.ndarray, scale: np.float32, scales: np.ndarray) -> Stored:
    codes, q = quantize_bias(values, scale, scales)
    return Stored(codes, "int32", q)


def _symmetric(most: float) -> QParams:
    scale, _ = affine(-most, most, "int16", symmetric=True)
    return QParams(np.asarray([scale], f32), np.zeros(1, np.int64), *code_range("int16"))


def _words(values: np.ndarray, most: float) -> Stored:
    q = _symmetric(most)
    return Stored(quantize_constant(values, q, "int16"), "int16", q)
