"""UNIDIRECTIONAL_SEQUENCE_LSTM: its hidden and cell states are variable tensors. The integer kernel with 16-bit gates and cell."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .. import dot, fixed, fixed16
from ..errors import Invalid, Unsupported
from ..graph import Options, QParams
from ..op import FLAVOURS, Inner, Kernel, Op, Plan, Rule, Site
from ..snap import snap
from . import lstm_hybrid
from .common import affine
from .inverse_sqrt import inverse_sqrt
from .lstm_cell import CELL, GATES, INPUT, Grids, cell_of, over_time, step

f32 = np.float32
WEIGHTS, RECURRENT, PEEPHOLES, BIAS, PROJECTION, NORMS = 1, 5, 9, 12, 16, 20
HIDDEN_STATE, CELL_STATE = 18, 19
Leaves = dict[str, Any]


def lstm_real(options: Options, *at: Any) -> tuple[Any, Any, Any]:
    """(every h, last h, last c) of `lstm_cell.step` over x (n, time, k), or (time, n, k) where time_major."""
    ys, (h, c) = _every(0, options, at)
    return ys, h, c


def lstm_cells(options: Options, *at: Any) -> Any:
    """Every c of `lstm_real`, in the order of its h."""
    return _every(1, options, at)[0]


def _every(which: int, options: Options, at: Sequence[Any]) -> tuple[Any, tuple[Any, Any]]:
    """(every h or every c, the last of both)."""
    cell = cell_of(at, norm=NORMS)

    def one(state: Any, now: Any) -> Any:
        state = step(options, cell, state, now)
        return state, state[which]

    return over_time(one, (at[HIDDEN_STATE], at[CELL_STATE]), at[0], time_major=options.time_major)


# fake mode ---------------------------------------------------------------------


def lstm_fake(site: Site) -> Inner | None:
    """The internals of an integer LSTM on their grids: sums of the gates in int16 steps of 2^-12 (with layer normalization before it those
    of the gate's intermediate), the cell on its own, the hidden value on that of the fifth intermediate, its zero point negated before
    a projection, the state on its own, clipped in codes (see `lstm_plan`); so that fake mode is near the integer kernel. None for a
    float LSTM."""
    if site.inputs[0].type != "int8" or len(site.intermediates) != 5:  # type: ignore[union-attr]
        return None
    tensors = {"hidden": site.intermediates[4], "output": site.inputs[HIDDEN_STATE], "cell": site.inputs[CELL_STATE]}
    if _input(site, NORMS + 1) is not None:
        tensors |= {GATES[g] + " sums": site.intermediates[g] for g in range(4)}
    if any(t is None or t.qparams is None for t in tensors.values()):
        return None
    return Inner({name: t.index for name, t in tensors.items()}, _snapped_real)  # type: ignore[union-attr]


def _snapped_real(options: Options, qparams: Mapping[str, QParams], *at: Any) -> tuple[Any, Any, Any]:
    cell = cell_of(at, norm=NORMS)
    grids, unclipped = _grids(options, qparams, cell.projection is not None), options.but(proj_clip=0.0)

    def one(state: Any, now: Any) -> Any:
        h, c = step(unclipped, cell, state, now, None, grids)
        return (h, c), h

    state = at[HIDDEN_STATE], at[CELL_STATE]
    if "kernel_type" in options:
        (h, c), _ = one(state, at[0])
        return h, h, c
    ys, (h, c) = over_time(one, state, at[0], time_major=options.time_major)
    return ys, h, c


def _grids(options: Options, qparams: Mapping[str, QParams], projected: bool) -> Grids:
    def on(q: QParams) -> Any:
        return lambda v: snap(v, q)

    words = QParams(np.full(1, 2.0**-12, f32), np.zeros(1, np.int32), np.int32(-(2**15)), np.int32(2**15 - 1))
    hidden, output = qparams["hidden"], qparams["output"]
    if options.proj_clip > 0:
        most = jnp.minimum(jnp.trunc(f32(options.proj_clip) / output.scale[0]), f32(127)).astype(np.int32)
        output = QParams(output.scale, output.zero_point, -most, most)
    minus = QParams(hidden.scale, -hidden.zero_point, hidden.low, hidden.high)
    before = [on(qparams[f"{g} sums"]) if f"{g} sums" in qparams else lambda v: v for g in GATES]
    return Grids(tuple(before), (on(words),) * 4, on(minus if projected else hidden), on(output), on(qparams["cell"]))


# the integer kernel ------------------------------------------------------------


class Static(NamedTuple):
    """gates: which there are. peephole, norm, projection: whether."""

    gates: tuple[str, ...]
    peephole: bool
    norm: bool
    projection: bool


def lstm_plan(site: Site, flavour: str) -> Plan:
    """v = sat16(requantize(sum (x - z_x) W + b, f32(f32(s_W s_x) / s_g))); v = sat16(v + requantize(sum (h - z_h) R, f32(f32(s_R s_h) /
    s_g))); v = sat16(v + requantize(c P, f32(s_c s_P / s_g))); s_g = 2^-12, with layer normalization (`_normalize`, where b is added) the
    scale of the gate's intermediate. c' = sat16(half_away(forget c / 2^15) + half_away(input cell / 2^(30 + log2 s_c))), clipped; t =
    output tanh(c') with logistic and tanh in 16-bit fixed point. h' = sat8(requantize(t, f32(2^-30 / s_hidden)) + z_hidden), or with a
    projection u = sat8(requantize(t) - z_hidden), h' = sat8(requantize(sum u P + b_P + z_hidden sum P, f32(f32(s_P s_hidden) / s_h)) +
    z_h), clipped in codes.

    *Domain*: int8 x, weights and hidden state, int16 cell state, peepholes and norms; the cell's scale is a power of two; no more
    outputs than cells (the kernels write past their scratch).
    *Restates*: LstmStepInteger8x8_16 of the LiteRT kernels, one code in every flavour. The minus before z_hidden is theirs, and so is
    the span of the peepholes: the first n_output of every n_output cells, counted through the batch.
    """
    present = tuple(g for g in range(4) if site.inputs[WEIGHTS + g] is not None)
    how = Static(
        tuple(GATES[g] for g in present), _input(site, PEEPHOLES + 2) is not None, _input(site, NORMS + 1) is not None,
        _input(site, PROJECTION) is not None,
    )  # fmt: skip
    leaves: Leaves = {"logistic": table(fixed16.logistic, 3), "tanh": table(fixed16.tanh, 3)}
    for g in present:
        leaves |= {f"{GATES[g]}_{k}": v for k, v in _gate_leaves(site, how, g).items()}
    return Plan(how, leaves | _cell_leaves(site) | _output_leaves(site, how), "16-bit fixed-point gates; two fixed-point roundings")


def _input(site: Site, p: int) -> Any:
    return site.inputs[p] if p < len(site.inputs) else None


def _value(site: Site, p: int) -> np.ndarray:
    value = site.values[p]
    if value is None:
        raise Unsupported("weights are computed, not constant", where=site.where)
    return value.astype(np.int64)


def _gate_leaves(site: Site, how: Static, g: int) -> Leaves:
    scale = affine(site, site.intermediates[g])[0] if how.norm else f32(2.0**-12)
    (sx, zx), (sh, zh) = (affine(site, site.inputs[p]) for p in (0, HIDDEN_STATE))
    w, r, bias = (_value(site, p + g) for p in (WEIGHTS, RECURRENT, BIAS))
    sw, sr = (affine(site, site.inputs[p + g])[0] for p in (WEIGHTS, RECURRENT))
    inside = 0 if how.norm else bias.reshape(-1)
    leaves: Leaves = {
        "weights": w.T.astype(np.int8), "bias": (inside - zx * w.sum(1)).astype(np.int32),
        "recurrent": r.T.astype(np.int8), "offset": (-zh * r.sum(1)).astype(np.int32),
    }  # fmt: skip
    leaves |= _multiplier("", f32(f32(sw * sx) / scale)) | _multiplier("recurrent_", f32(f32(sr * sh) / scale))
    if how.peephole and g != CELL:
        at = PEEPHOLES + min(g, 2)
        leaves["peephole"] = _peephole(site, _value(site, at))
        leaves |= _multiplier("peephole_", f32(2.0 ** _cell_shift(site) * np.float64(affine(site, site.inputs[at])[0]) / np.float64(scale)))
    if how.norm:
        s = affine(site, site.inputs[NORMS + g])[0]
        leaves |= {"norm": _value(site, NORMS + g).astype(np.int32), "norm_bias": bias.reshape(-1).astype(np.int32)}
        leaves |= _multiplier("norm_", s) | {"guard": np.int32(max(1, int(f32(10000) * s)))}
        leaves["norm_shift"] = leaves["norm_shift"] + np.int32(12)
    return leaves


def _peephole(site: Site, weights: np.ndarray) -> np.ndarray:
    """(rows, n_cell) weights of the rows that the kernel takes at once: repeated every n_output elements, 0 behind rows * n_output."""
    n_output, rows = site.outputs[0].shape[-1], site.outputs[0].shape[-2] if site.options.get("time_major", True) else 1
    at = np.arange(rows * weights.size)
    return np.where(at < rows * n_output, weights[at % n_output], 0).astype(np.int32).reshape(rows, -1)


def _cell_shift(site: Site) -> int:
    """log2 of the cell's scale. Raises: Invalid where that is not whole, to a thousandth (LiteRT refuses such files)."""
    exact = math.log2(affine(site, site.inputs[CELL_STATE])[0])
    if abs(exact - round(exact)) >= 1e-3:
        raise Invalid("the scale of the cell state is no power of two", where=site.where, found=2.0**exact)
    return round(exact)


def _cell_leaves(site: Site) -> Leaves:
    s, shift = affine(site, site.inputs[CELL_STATE])[0], _cell_shift(site)
    clip = min(int(f32(site.options.cell_clip) / s), 2**15 - 1) if site.options.cell_clip > 0 else 0
    return {
        "state_tanh": table(fixed16.tanh, 15 + shift), "state_right": np.int32(30 + shift),
        "state_low": np.int32(-clip if clip else -(2**15)), "state_high": np.int32(clip or 2**15 - 1),
    }  # fmt: skip


def _output_leaves(site: Site, how: Static) -> Leaves:
    if len(site.intermediates) != 5:
        raise Unsupported("an integer LSTM without its five intermediate tensors", where=site.where, found=len(site.intermediates))
    s, zero = affine(site, site.intermediates[4])
    leaves = _multiplier("hidden_", f32(2.0**-15 / np.float64(s) * 2.0**-15))
    if not how.projection:
        return leaves | {"hidden_zero_point": np.int32(zero)}
    w, (sh, zh) = _value(site, PROJECTION), affine(site, site.inputs[HIDDEN_STATE])
    if w.shape[0] > w.shape[1]:
        raise Unsupported("a projection to more outputs than cells", where=site.where, found=w.shape[0], expected=f"at most {w.shape[1]}")
    bias = 0 if _input(site, PROJECTION + 1) is None else _value(site, PROJECTION + 1).reshape(-1)
    clip = min(int(f32(site.options.proj_clip) / affine(site, site.outputs[0])[0]), 127) if site.options.proj_clip > 0 else 0
    bias = (bias + zero * w.sum(1)).astype(np.int32)
    leaves |= _multiplier("projection_", f32(f32(affine(site, site.inputs[PROJECTION])[0] * s) / sh))
    return leaves | {
        "hidden_zero_point": np.int32(-zero), "projection": w.T.astype(np.int8), "projection_bias": bias,
        "zero_point": np.int32(zh), "low": np.int32(-clip if clip else -128), "high": np.int32(clip or 127),
    }  # fmt: skip


def _multiplier(name: str, real: Any) -> Leaves:
    m, e = fixed.quantize_multiplier(np.float64(real))
    return {f"{name}multiplier": np.int32(m[0]), f"{name}shift": np.int32(e[0])}


def table(function: Any, bits: int) -> np.ndarray:
    """`fixed16.logistic` or `tanh` of every int16 with `bits` integer bits; index a + 2^15."""
    return np.asarray(function(np.arange(-(2**15), 2**15), bits)).astype(np.int16)


def lstm_run(options: Options, how: Static, leaves: Leaves, x: Any, *rest: Any) -> tuple[Any, Any, Any]:
    def one(state: Any, now: Any) -> Any:
        h, c = integer_step(how, leaves, now, *state)
        return (h, c), h

    ys, (h, c) = over_time(one, (rest[HIDDEN_STATE - 1], rest[CELL_STATE - 1]), x, time_major=options.time_major)
    return ys, h, c


def integer_step(how: Static, leaves: Leaves, x: Any, h: Any, c: Any) -> tuple[Any, Any]:
    """(next h, next c): see `lstm_plan`."""

    def logistic(name: str, c: Any) -> Any:
        return fixed.lookup(leaves["logistic"], _gate(how, leaves, name, x, h, c)).astype(np.int32)

    forget = logistic("forget", c)
    into = logistic("input", c) if GATES[INPUT] in how.gates else np.int32(2**15 - 1) - forget
    new = fixed.lookup(leaves["tanh"], _gate(how, leaves, "cell", x, h, c)).astype(np.int32)
    kept = _wrap16(fixed.shift_away(forget * c.astype(np.int32), jnp.int32(15)))
    c = saturate16(kept + _wrap16(fixed.shift_away(into * new, leaves["state_right"])))
    c = jnp.clip(c, leaves["state_low"].astype(np.int16), leaves["state_high"].astype(np.int16))
    y = logistic("output", c) * fixed.lookup(leaves["state_tanh"], c).astype(np.int32)
    y = fixed.requantize(y, leaves["hidden_multiplier"], leaves["hidden_shift"])
    y = fixed.store(y, leaves["hidden_zero_point"], np.int32(-128), np.int32(127), np.int8)
    if how.projection:
        acc = dot.dense(y, leaves["projection"], leaves["projection_bias"])
        y = fixed.requantize(acc, leaves["projection_multiplier"], leaves["projection_shift"])
        y = fixed.store(y, leaves["zero_point"], np.int32(-128), np.int32(127), np.int32)
        y = jnp.clip(y, leaves["low"], leaves["high"]).astype(np.int8)
    return y, c


def _gate(how: Static, leaves: Leaves, name: str, x: Any, h: Any, c: Any) -> Any:
    own = {k[len(name) + 1 :]: v for k, v in leaves.items() if k.startswith(f"{name}_")}
    v = saturate16(fixed.requantize(dot.dense(x, own["weights"], own["bias"]), own["multiplier"], own["shift"]))
    more = fixed.requantize(dot.dense(h, own["recurrent"], own["offset"]), own["recurrent_multiplier"], own["recurrent_shift"])
    v = saturate16(v.astype(np.int32) + more)
    if how.peephole and name != "cell":
        more = fixed.requantize(c.astype(np.int32) * own["peephole"], own["peephole_multiplier"], own["peephole_shift"])
        v = saturate16(v.astype(np.int32) + more)
    return _normalize(own, v.astype(np.int32)) if how.norm else v


def _normalize(own: Leaves, v: Any) -> Any:
    """sat16(requantize(half_away(wrap32(r norm + b) / 2^10), s_norm 2^12)), r = requantize(2^10 v - mean, 1 / sqrt(var)): mean = 2^10 sum
    v / n and var = (sum v^2 floor(2^20 / n) - mean^2) / 2^20 cut toward 0, var below 1 being max(1, 10000 s_norm) instead.

    *Restates*: ApplyLayerNorm of the LiteRT kernels.
    """
    n = v.shape[-1]
    total = jnp.sum(v, axis=-1, keepdims=True, dtype=np.int32)
    whole = lax.div(total, np.int32(n))
    mean = whole * np.int32(1024) + lax.div((total - whole * np.int32(n)) * np.int32(1024), np.int32(n))
    with jax.enable_x64(True):
        wide, m = lax.convert_element_type(v, np.int64), lax.convert_element_type(mean, np.int64)
        squares = jnp.sum(wide * wide, axis=-1, keepdims=True)
        ratio = lax.div(squares * np.int64((1 << 20) // n) - m * m, jnp.full_like(m, 1 << 20))
        var = lax.convert_element_type(ratio, np.int32)
    var = jnp.where(var < 1, own["guard"], var)
    multiplier, shift = inverse_sqrt(var)
    r = fixed.requantize(v * np.int32(1024) - mean, multiplier, shift)
    r = r * own["norm"][None] + own["norm_bias"][None]
    return saturate16(fixed.requantize(fixed.shift_away(r, jnp.int32(10)), own["norm_multiplier"], own["norm_shift"]))


def saturate16(x: Any) -> Any:
    return fixed.store(x, np.int32(0), np.int32(-(2**15)), np.int32(2**15 - 1), np.int16)


def _wrap16(x: Any) -> Any:
    return x.astype(np.int16).astype(np.int32)


INT8 = (
    "int8", "int8?", *["int8"] * 3, "int8?", *["int8"] * 3, *["int16?"] * 3, "int32?", *["int32"] * 3, "int8?", "int32?", "int8", "int16",
    *["int16?"] * 4,
)  # fmt: skip

VERSIONS = {"float32": 1, "int8": 2, "float32 x int8": 3}  # the reference resolver knows no later one

OPS = (
    Op(
        "UNIDIRECTIONAL_SEQUENCE_LSTM",
        lstm_real,
        Rule(data=(0,), prepared=(*range(1, 18), *range(20, 24)), state=(HIDDEN_STATE, CELL_STATE), versions=VERSIONS),
        (
            Kernel(INT8, ("int8",), FLAVOURS, lstm_plan, lstm_run),
            Kernel(lstm_hybrid.LSTM, ("float32",), FLAVOURS, lstm_hybrid.lstm_plan, lstm_hybrid.lstm_run),
        ),
        fake=lstm_fake,
    ),
)
