"""UNIDIRECTIONAL_SEQUENCE_LSTM: its hidden and cell states are variable tensors. Gates in the order input, forget, cell, output."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .. import dot, fixed, fixed16
from ..errors import Unsupported
from ..graph import Options
from ..op import Kernel, Op, Plan, Rule, Site
from .common import activate, affine

f32 = np.float32
GATES = ("input", "forget", "cell", "output")
WEIGHTS, RECURRENT, BIAS = (1, 2, 3, 4), (5, 6, 7, 8), (12, 13, 14, 15)  # positions, gate by gate; 1, 5 and 12 are absent in CIFG
EXTRAS = {9: "peepholes", 10: "peepholes", 11: "peepholes", 16: "a projection", 17: "a projection"}
EXTRAS |= dict.fromkeys((20, 21, 22, 23), "layer normalization")
HIDDEN, CELL = 18, 19


def _refuse_extras(present: Any, where: str) -> None:
    found = sorted({what for p, what in EXTRAS.items() if present(p)})
    if found:
        raise Unsupported(f"LSTM with {' and '.join(found)}", where=where)


def _over_time(options: Options, x: Any, step: Any, state: tuple[Any, Any]) -> tuple[Any, Any, Any]:
    """`step((h, c), x_t) -> (h, c)` over x (n, time, k), or (time, n, k): (all h, last h, last c)."""
    xs = x if options.time_major else jnp.swapaxes(x, 0, 1)

    def one(carry: Any, now: Any) -> tuple[Any, Any]:
        h, c = step(carry, now)
        return (h, c), h

    (h, c), ys = lax.scan(one, state, xs)
    return (ys if options.time_major else jnp.swapaxes(ys, 0, 1)), h, c


def lstm_real(options: Options, x: Any, *more: Any) -> tuple[Any, Any, Any]:
    """c = clip(sigmoid(F) c + sigmoid(I) act(G)), h = sigmoid(O) act(c), each gate W x_t + R h + b; without input weights sigmoid(I) is
    1 - sigmoid(F). x: (n, time, k), or (time, n, k) where time_major. Returns (every h, last h, last c). *Raises*: Unsupported for
    peepholes, projection and layer normalization.
    """
    at = (x, *more)
    _refuse_extras(lambda p: p < len(at) and at[p] is not None, "UNIDIRECTIONAL_SEQUENCE_LSTM")

    def step(state: Any, now: Any) -> tuple[Any, Any]:
        h, c = state

        def gate(g: int) -> Any:
            sums = dot.dense_float(now, jnp.asarray(at[WEIGHTS[g]]).T) + dot.dense_float(h, jnp.asarray(at[RECURRENT[g]]).T)
            return dot.add_bias(sums, at[BIAS[g]])

        forget = jax.nn.sigmoid(gate(1))
        into = f32(1) - forget if at[WEIGHTS[0]] is None else jax.nn.sigmoid(gate(0))
        c = forget * c + into * activate(options.fused_activation_function, gate(2))
        c = jnp.clip(c, -options.cell_clip, options.cell_clip) if options.cell_clip > 0 else c
        return jax.nn.sigmoid(gate(3)) * activate(options.fused_activation_function, c), c

    return _over_time(options, x, step, (at[HIDDEN], at[CELL]))


def _table(function: Any, bits: int) -> np.ndarray:
    """`fixed16.logistic` or `tanh` of every int16 with `bits` integer bits; index a + 2^15."""
    return np.asarray(function(np.arange(-(2**15), 2**15), bits)).astype(np.int16)


# the integer kernel ------------------------------------------------------------


class Static(NamedTuple):
    """cifg: no input gate of its own. cell_shift: the cell's scale is 2^cell_shift. clip: steps of the cell, 0 for none."""

    cifg: bool
    cell_shift: int
    clip: int


def lstm_plan(site: Site, flavour: str) -> Plan:
    """v = sat16(requantize(sum (x - z_x) W + b, f32(f32(s_W s_x) / 2^-12))); v = sat16(v + requantize(sum (h - z_h) R, f32(f32(s_R s_h) /
    2^-12))); c = sat16(half_away(forget c / 2^15) + half_away(input cell / 2^(30 + log2 s_c))); h = sat8(requantize(output tanh(c),
    f32(2^-15 / s_hidden 2^-15)) + z_hidden); logistic and tanh in 16-bit fixed point, products in int32.

    *Domain*: int8 x, weights and hidden state, int16 cell state whose scale is a power of two. *Raises*: Unsupported for peepholes,
    projection and layer normalization. *Restates*: LstmStepInteger8x8_16 of the LiteRT kernels, one code in every flavour.
    """
    _refuse_extras(lambda p: p < len(site.inputs) and site.inputs[p] is not None, site.where)
    if any(site.values[p] is None for p in (*WEIGHTS, *RECURRENT, *BIAS) if site.inputs[p] is not None):
        raise Unsupported("weights are computed, not constant", where=site.where)
    (sx, zx), (sh, zh), (sc, _) = (affine(site, site.inputs[p]) for p in (0, HIDDEN, CELL))
    cell_shift = round(math.log2(sc))
    hidden = site.intermediates[4] if len(site.intermediates) > 4 else site.outputs[0]
    s_hidden, z_hidden = affine(site, hidden)
    leaves: dict[str, Any] = {
        "hidden_zero_point": np.int32(z_hidden),
        "logistic": _table(fixed16.logistic, 3),
        "tanh": _table(fixed16.tanh, 3),
    }
    leaves["cell_tanh"] = _table(fixed16.tanh, 15 + cell_shift)
    leaves["hidden_multiplier"], leaves["hidden_shift"] = _multiplier(f32(f32(f32(2.0**-15) / s_hidden) * f32(2.0**-15)))
    for g, name in enumerate(GATES):
        if site.inputs[WEIGHTS[g]] is None:
            continue
        w, r = (site.values[p].T.astype(np.int8) for p in (WEIGHTS[g], RECURRENT[g]))  # type: ignore[union-attr]
        sw, sr = (affine(site, site.inputs[p])[0] for p in (WEIGHTS[g], RECURRENT[g]))
        bias = np.zeros(w.shape[1]) if site.inputs[BIAS[g]] is None else site.values[BIAS[g]].reshape(-1)  # type: ignore[union-attr]
        leaves |= {
            f"{name}_weights": w, f"{name}_bias": (bias.astype(np.int64) - zx * w.astype(np.int64).sum(0)).astype(np.int32),
            f"{name}_recurrent": r, f"{name}_offset": (-zh * r.astype(np.int64).sum(0)).astype(np.int32),
        }  # fmt: skip
        leaves[f"{name}_multiplier"], leaves[f"{name}_shift"] = _multiplier(f32(f32(sw * sx) / f32(2.0**-12)))
        leaves[f"{name}_recurrent_multiplier"], leaves[f"{name}_recurrent_shift"] = _multiplier(f32(f32(sr * sh) / f32(2.0**-12)))
    clip = int(f32(site.options.cell_clip) / sc) if site.options.cell_clip > 0 else 0
    static = Static(site.inputs[WEIGHTS[0]] is None, cell_shift, min(clip, 2**15 - 1))
    return Plan(static, leaves, "16-bit fixed-point gates; two fixed-point roundings, the second half away from zero")


def _multiplier(real: Any) -> tuple[np.int32, np.int32]:
    m, e = fixed.quantize_multiplier(np.float64(real))
    return np.int32(m), np.int32(e)


def _sat16(x: Any) -> Any:
    return fixed.store(x, np.int32(0), np.int32(-(2**15)), np.int32(2**15 - 1), np.int16)


def _half_away_shift(product: Any, right: int) -> Any:
    """int16(product / 2^right, halves away from zero), wrapping."""
    return fixed.shift_away(product, jnp.int32(right)).astype(np.int16)


def lstm_run(options: Options, how: Static, leaves: dict[str, Any], x: Any, *rest: Any) -> tuple[Any, Any, Any]:
    def gate(name: str, now: Any, h: Any) -> Any:
        first = dot.dense(now, leaves[f"{name}_weights"], leaves[f"{name}_bias"])
        v = _sat16(fixed.requantize(first, leaves[f"{name}_multiplier"], leaves[f"{name}_shift"]))
        second = dot.dense(h, leaves[f"{name}_recurrent"], leaves[f"{name}_offset"])
        more = fixed.requantize(second, leaves[f"{name}_recurrent_multiplier"], leaves[f"{name}_recurrent_shift"])
        return _sat16(v.astype(np.int32) + more)

    def step(state: Any, now: Any) -> tuple[Any, Any]:
        h, c = state
        forget = fixed.lookup(leaves["logistic"], gate("forget", now, h)).astype(np.int32)
        own = None if how.cifg else fixed.lookup(leaves["logistic"], gate("input", now, h)).astype(np.int32)
        into = np.int32(2**15 - 1) - forget if own is None else own
        new = fixed.lookup(leaves["tanh"], gate("cell", now, h)).astype(np.int32)
        kept = _half_away_shift(forget * c.astype(np.int32), 15).astype(np.int32)
        c = _sat16(kept + _half_away_shift(into * new, 30 + how.cell_shift).astype(np.int32))
        c = jnp.clip(c, np.int16(-how.clip), np.int16(how.clip)) if how.clip else c
        out = fixed.lookup(leaves["logistic"], gate("output", now, h)).astype(np.int32)
        y = fixed.requantize(
            out * fixed.lookup(leaves["cell_tanh"], c).astype(np.int32), leaves["hidden_multiplier"], leaves["hidden_shift"]
        )
        return fixed.store(y, leaves["hidden_zero_point"], np.int32(-128), np.int32(127), np.int8), c

    return _over_time(options, x, step, (rest[HIDDEN - 1], rest[CELL - 1]))


INT8 = ("int8", "int8?", *["int8"] * 3, "int8?", *["int8"] * 3, *["any?"] * 3, "int32?", *["int32"] * 3)

OPS = (
    Op(
        "UNIDIRECTIONAL_SEQUENCE_LSTM",
        lstm_real,
        Rule(data=(0,), prepared=tuple(range(1, 18)), state=(HIDDEN, CELL), keep_float=True),
        (
            Kernel(
                (*INT8, "any?", "any?", "int8", "int16", *["any?"] * 4), ("int8",), ("xnnpack", "reference", "builtin"),
                lstm_plan, lstm_run,
            ),
        ),
    ),
)  # fmt: skip
