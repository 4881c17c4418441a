"""AVERAGE_POOL_2D and MAX_POOL_2D over NHWC, with a fused activation."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..fixed import store
from ..graph import Options
from ..op import Case, Op, Plan, Rule, Site
from .common import activate, bounds, each, window


def _windows(options: Options, shape: tuple[int, ...]) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """(output size, pad before, pad after) of height and width."""
    _, h, w, _ = shape
    return (
        window(h, options.filter_height, options.stride_h, options.padding),
        window(w, options.filter_width, options.stride_w, options.padding),
    )


def _counts(size: int, kernel: int, stride: int, out: int, before: int) -> np.ndarray:
    """Elements inside the image that each window covers, along one axis."""
    start = np.arange(out) * stride - before
    return np.minimum(start + kernel, size) - np.maximum(start, 0)


def window_sizes(options: Options, shape: tuple[int, ...]) -> np.ndarray:
    """int32 (1, h_out, w_out, 1): how many elements of the image each window covers (padding is not counted)."""
    (oh, top, _), (ow, left, _) = _windows(options, shape)
    rows = _counts(shape[1], options.filter_height, options.stride_h, oh, top)
    columns = _counts(shape[2], options.filter_width, options.stride_w, ow, left)
    return (rows[:, None] * columns[None, :]).astype(np.int32)[None, :, :, None]


def _reduce(options: Options, x: jax.Array, init: Any, function: Any) -> jax.Array:
    """Reduce every window of x (n, h, w, c) by `function`, padding with `init`."""
    (_, top, bottom), (_, left, right) = _windows(options, x.shape)
    size, stride = (1, options.filter_height, options.filter_width, 1), (1, options.stride_h, options.stride_w, 1)
    pads = ((0, 0), (top, bottom), (left, right), (0, 0))
    return lax.reduce_window(x, np.asarray(init, x.dtype), function, size, stride, pads)


def _sum(options: Options, x: jax.Array) -> jax.Array:
    return _reduce(options, x, 0, lax.add)


def _real_average(options: Options, x: jax.Array) -> jax.Array:
    y = _sum(options, x) / jnp.asarray(window_sizes(options, x.shape).astype(x.dtype))
    return activate(options.get("fused_activation_function", "NONE"), y)


def _real_max(options: Options, x: jax.Array) -> jax.Array:
    return activate(options.get("fused_activation_function", "NONE"), _reduce(options, x, -math.inf, lax.max))


def _plan_average(site: Site, flavour: str) -> Plan:
    limits = bounds(site, "builtin")  # never delegated, so the clamp is the LiteRT kernels' own in every flavour
    return Plan((), {k: limits[k] for k in ("act_min", "act_max")}, "integer average, halves away from zero")


def _run_average(options: Options, static: tuple, leaves: dict, x: jax.Array) -> jax.Array:
    """y = clip(trunc((s + sign(s) floor(n / 2)) / n)): s the sum of the codes inside the image, n their number.

    No rescale: input and output are taken to share their parameters. *Shapes*: (n, h, w, c) -> (n, h', w', c).
    *Restates*: AVERAGE_POOL_2D of LiteRT, the same in every flavour (XNNPACK does not take it).
    """
    total, n = _sum(options, x.astype(np.int32)), window_sizes(options, x.shape)
    half = n // 2
    if (n == n.flat[0]).all():
        n, half = n.flat[0], half.flat[0]
    total = total + jnp.where(total > 0, half, -half)
    return store(lax.div(total, jnp.broadcast_to(jnp.asarray(n), total.shape)), np.int32(0), leaves["act_min"], leaves["act_max"], x.dtype)


def _plan_max(site: Site, flavour: str) -> Plan:
    limits = bounds(site, flavour)
    return Plan((), {k: limits[k] for k in ("act_min", "act_max")}, "largest code of the window")


def _run_max(options: Options, static: tuple, leaves: dict, x: jax.Array) -> jax.Array:
    """y = clip(max of the codes of the window inside the image). No rescale. *Restates*: MAX_POOL_2D of LiteRT and XNNPACK."""
    y = _reduce(options, x, np.iinfo(x.dtype).min, lax.max).astype(np.int32)
    return store(y, np.int32(0), leaves["act_min"], leaves["act_max"], x.dtype)


def _case(shape: tuple, size: tuple[int, int], stride: tuple[int, int], padding: str, activation: str = "NONE") -> Case:
    options = {
        "filter_height": size[0], "filter_width": size[1], "stride_h": stride[0], "stride_w": stride[1],
        "padding": padding, "fused_activation_function": activation,
    }  # fmt: skip
    return Case((shape,), options)


_CASES = (
    _case((1, 8, 8, 5), (8, 8), (8, 8), "VALID"),
    _case((1, 7, 9, 3), (2, 3), (2, 2), "SAME", "RELU6"),
    _case((1, 5, 6, 4), (3, 3), (1, 1), "SAME", "RELU"),
    _case((1, 6, 7, 2), (3, 2), (2, 3), "VALID"),
    _case((1, 4, 4, 17), (2, 2), (2, 2), "VALID", "RELU_N1_TO_1"),
    _case((1, 3, 3, 1), (5, 5), (1, 1), "SAME"),
)
_TYPES = ("int8", "uint8")

OPS = (
    Op("AVERAGE_POOL_2D", _real_average, Rule(tied=True), each(_TYPES, ("T",), ("T",), _plan_average, _run_average), _CASES),
    Op("MAX_POOL_2D", _real_max, Rule(tied=True), each(_TYPES, ("T",), ("T",), _plan_max, _run_max), _CASES),
)
