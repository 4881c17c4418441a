"""SVDF: a layer that keeps a window of its own past in a variable tensor."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from .. import dot, fixed
from ..errors import Invalid, Unsupported
from ..graph import Options
from ..op import FLAVOURS, Kernel, Op, Plan, Rule, Site
from . import rnn_hybrid
from .common import activate, affine

f32 = np.float32


def _window(state: Any, newest: Any) -> tuple[Any, Any]:
    """(n, filters * length) state with its oldest column dropped and (n, filters) appended: the (n, filters, length) window, and flat."""
    n, filters = newest.shape
    past = state.reshape(n, filters, -1)
    window = jnp.concatenate([past[:, :, 1:], newest[:, :, None]], axis=2)
    return window, window.reshape(state.shape)


def svdf_real(options: Options, x: Any, features: Any, time: Any, bias: Any, state: Any) -> tuple[Any, Any]:
    """(y, next state): y[n, u] = act(sum_r sum_t window[n, u rank + r, t] * time[u rank + r, t] + bias[u]), the newest column of the
    window being sum_k x[n, k] * features[f, k]. x: (n, k). features: (f, k). time: (f, length). state: (n, f length).
    """
    window, flat = _window(state, dot.dense_float(x, jnp.asarray(features).T))
    per_filter = jnp.sum(window * jnp.asarray(time)[None], axis=2)
    y = per_filter.reshape(len(per_filter), -1, options.rank).sum(2)
    return activate(options.fused_activation_function, dot.add_bias(y, bias)), flat


def svdf_plan(site: Site, flavour: str) -> Plan:
    """newest = sat16(requantize(sum (x - z_x) features, f32(f32(s_x s_f) / s_state))); y = sat8(requantize(sum + bias,
    f32(f32(s_state s_t) / s_y)) + z_y), each requantization in two roundings, the second half away from zero.

    *Domain*: int8 x and features, int16 time weights and state with zero point 0, int32 bias, RELU (which only the output's
    zero point applies, as in the kernel). *Restates*: EvalIntegerSVDF of the LiteRT kernels, one code in every flavour.
    """
    if site.options.fused_activation_function != "RELU":
        raise Invalid("SVDF on integers has a fused RELU", where=site.where, found=site.options.fused_activation_function)
    x, features, time, _, state = site.inputs
    if site.values[1] is None or site.values[2] is None:
        raise Unsupported("the weights are computed, not constant", where=site.where)
    (sx, zx), (sf, _), (st, _), (ss, _) = (affine(site, t) for t in (x, features, time, state))
    sy, zy = affine(site, site.outputs[0])
    first, first_shift = fixed.quantize_multiplier(np.float64(f32(f32(sx * sf) / ss)))
    second, second_shift = fixed.quantize_multiplier(np.float64(f32(f32(ss * st) / sy)))
    weights = np.ascontiguousarray(site.values[1].T.astype(np.int8))
    leaves = {
        "features": weights,
        "offset": (-zx * weights.astype(np.int64).sum(0)).astype(np.int32),
        "time": site.values[2].astype(np.int16),
        "bias": _bias(site),
        "multiplier": np.int32(first), "shift": np.int32(first_shift),
        "output_multiplier": np.int32(second), "output_shift": np.int32(second_shift),
        "output_zero_point": np.int32(zy),
    }  # fmt: skip
    return Plan((), leaves, "two fixed-point roundings, the second half away from zero")


def _bias(site: Site) -> np.ndarray:
    units = site.outputs[0].shape[-1]
    return np.zeros(units, np.int32) if site.inputs[3] is None else np.asarray(site.values[3], np.int32).reshape(units)


def svdf_run(options: Options, _: Any, leaves: dict[str, Any], x: Any, *rest: Any) -> tuple[Any, Any]:
    acc = dot.dense(x, leaves["features"], leaves["offset"])
    newest = fixed.store(fixed.requantize(acc, leaves["multiplier"], leaves["shift"]), 0, -(2**15), 2**15 - 1, np.int16)
    window, flat = _window(rest[-1], newest)
    per_filter = jnp.sum(window.astype(np.int32) * leaves["time"][None].astype(np.int32), axis=2, dtype=np.int32)
    total = per_filter.reshape(len(per_filter), -1, options.rank).sum(2, dtype=np.int32)
    y = fixed.requantize(dot.add_bias(total, leaves["bias"]), leaves["output_multiplier"], leaves["output_shift"])
    return fixed.store(y, leaves["output_zero_point"], -128, 127, np.int8), flat


OPS = (
    Op(
        "SVDF",
        svdf_real,
        Rule(data=(0,), prepared=(1, 2, 3), state=(4,), keep_float=True, versions={"float32": 1, "int8": 3, "float32 x int8": 4}),
        (
            Kernel(("int8", "int8", "int16", "int32?", "int16"), ("int8",), FLAVOURS, svdf_plan, svdf_run),
            Kernel(("float32", "int8", "int8", "float32?", "float32"), ("float32",), FLAVOURS, rnn_hybrid.svdf_plan, rnn_hybrid.svdf_run),
        ),
    ),
)
