"""AVERAGE_POOL_2D and MAX_POOL_2D over NHWC, with a fused activation."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..fixed import store
from ..graph import Options
from ..op import Case, Op, Plan, Rule, Site
from ..windows import pad_window, window
from .common import Leaves, activate, bounds, each, plain, require_tied

Axis = tuple[int, int, int]  # output size, padding before, padding after


def _windows(options: Options, shape: tuple[int, ...]) -> tuple[Axis, Axis]:
    _, h, w, _ = shape
    return (
        window(h, options.filter_height, options.stride_h, 1, options.padding),
        window(w, options.filter_width, options.stride_w, 1, options.padding),
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


def _reduce(options: Options, x: jax.Array, fill: Any, function: Callable[..., jax.Array]) -> jax.Array:
    """Reduce every window of x (n, h, w, c), rows first, then columns; padding holds `fill`."""
    rows, columns = _windows(options, x.shape)
    x = pad_window(x, fill, rows, columns)
    x = _reduce_axis(x, 1, options.filter_height, options.stride_h, rows[0], fill, function)
    return _reduce_axis(x, 2, options.filter_width, options.stride_w, columns[0], fill, function)


def _reduce_axis(x: jax.Array, axis: int, size: int, stride: int, out: int, fill: Any, function: Callable[..., jax.Array]) -> jax.Array:
    # Shifted slices beat lax.reduce_window on CPUs 2 to 9 times (2 x 2 to 7 x 7 windows); huge windows would only cost compilation.
    if size > 64:
        place = tuple(size if a == axis else 1 for a in range(4)), tuple(stride if a == axis else 1 for a in range(4))
        return lax.reduce_window(x, np.asarray(fill, x.dtype), function, *place, "VALID")
    last = (out - 1) * stride + 1
    return functools.reduce(function, (lax.slice_in_dim(x, i, i + last, stride, axis) for i in range(size)))


def window_sums(options: Options, x: jax.Array) -> jax.Array:
    """Sum of every window of x (n, h, w, c); padding counts as zero."""
    return _reduce(options, x, 0, lax.add)


def _real_average(options: Options, x: jax.Array) -> jax.Array:
    y = window_sums(options, x) / jnp.asarray(window_sizes(options, x.shape).astype(x.dtype))
    return activate(options.get("fused_activation_function", "NONE"), y)


def _real_max(options: Options, x: jax.Array) -> jax.Array:
    return activate(options.get("fused_activation_function", "NONE"), _reduce(options, x, -math.inf, lax.max))


def _plan_average(site: Site, flavour: str) -> Plan:
    limits = bounds(site, "builtin")  # never delegated, so the clamp is the LiteRT kernels' own in every flavour
    return Plan((), {k: limits[k] for k in ("act_min", "act_max")}, "integer average, halves away from zero")


def _run_average(options: Options, static: tuple, leaves: Leaves, x: jax.Array) -> jax.Array:
    """y = clip(trunc((s + sign(s) floor(n / 2)) / n)): s the sum of the codes inside the image, n their number.

    No rescale: input and output are taken to share their parameters. *Shapes*: (n, h, w, c) -> (n, h', w', c).
    *Restates*: AVERAGE_POOL_2D of LiteRT, the same in every flavour (XNNPACK does not take it).
    """
    total, n = window_sums(options, x.astype(np.int32)), window_sizes(options, x.shape)
    n = n.flat[0] if (n == n.flat[0]).all() else n  # one divisor for all: the compiler multiplies instead
    half = n // np.int32(2)
    mean = lax.div(total + jnp.where(total > 0, half, -half), jnp.broadcast_to(n, total.shape))
    return store(mean, np.int32(0), leaves["act_min"], leaves["act_max"], x.dtype)


def _plan_max(site: Site, flavour: str) -> Plan:
    o = site.options
    refused = site.outputs[0].type == "int16" or not plain(site) or o.stride_h > o.filter_height or o.stride_w > o.filter_width
    if flavour == "xnnpack" and not refused:
        require_tied(site)
    limits = bounds(site, "builtin" if refused else flavour)
    note = "; XNNPACK refuses int16, and a stride larger than the window: builtin clamp" if refused and flavour == "xnnpack" else ""
    return Plan((), {k: limits[k] for k in ("act_min", "act_max")}, "largest code of the window" + note)


def _run_max(options: Options, static: tuple, leaves: Leaves, x: jax.Array) -> jax.Array:
    """y = clip(largest of the codes inside the image). No rescale. *Shapes*: (n, h, w, c) -> (n, h', w', c).

    *Restates*: MAX_POOL_2D of LiteRT and of XNNPACK, which differ only in how the fused activation's ends are rounded.
    """
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
    _case((1, 9, 5, 3), (1, 2), (3, 3), "VALID", "RELU6"),
    _case((1, 6, 5, 3), (1, 1), (1, 1), "SAME", "RELU6"),
)
_TYPES = ("int8", "uint8", "int16")
_RULE = Rule(tied=True, versions={"float32": 1, "uint8": 1, "int8": 2, "int16": 3})

OPS = (
    Op("AVERAGE_POOL_2D", _real_average, _RULE, each(_TYPES, ("T",), ("T",), _plan_average, _run_average), _CASES),
    Op("MAX_POOL_2D", _real_max, _RULE, each(_TYPES, ("T",), ("T",), _plan_max, _run_max), _CASES),
)
