"""Fake quantization of one array, with the gradients that training needs."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .fixed import clamp
from .graph import QParams


def snap(x: Any, q: QParams) -> Any:
    """scale * (clip(round_half_even(x / scale), low - z, high - z)): x on the grid of q.

    x: float32, any shape; per channel along `q.axis` where q has several scales. *Gradient* for x: straight through the rounding
    inside the range (ends included), zero outside; for the scale r - x/scale inside and low - z or high - z outside (LSQ, Esser et
    al. 2020, eq. 3).
    *Differs*: the kernels' own QUANTIZE differ in how they divide and round ties; fake mode is a simulation and uses this one rule.
    """
    scale, zero = _along(q.scale, x, q.axis, np.float32), _along(q.zero_point, x, q.axis, np.float32)
    low, high = (jnp.asarray(v).astype(np.float32) for v in (q.low, q.high))
    inside = _clip(x * (np.float32(1) / scale), low - zero, high - zero)
    return _round(inside) * scale


@jax.custom_jvp
def _round(x: Any) -> Any:
    """Round half to even, with the gradient of the identity."""
    return jnp.round(x)


@_round.defjvp
def _round_jvp(primals: tuple, tangents: tuple) -> tuple:
    return _round(*primals), tangents[0]


@jax.custom_jvp
def _clip(x: Any, low: Any, high: Any) -> Any:
    """min(max(x, low), high) whose gradient counts the ends as inside: values already on the grid often lie exactly there."""
    return clamp(x, low, high)


@_clip.defjvp
def _clip_jvp(primals: tuple, tangents: tuple) -> tuple:
    (x, low, high), (dx, dlow, dhigh) = primals, tangents
    return _clip(x, low, high), jnp.where(x < low, dlow, jnp.where(x > high, dhigh, dx))


def dequantize(codes: Any, q: QParams) -> np.ndarray:
    """f32(f32(code - zero_point) * scale) on the host (numpy)."""
    shape = [1] * codes.ndim
    if np.size(q.scale) > 1:
        shape[q.axis] = -1
    scale = np.asarray(q.scale, np.float32).reshape(shape if codes.ndim else ())
    zero = np.asarray(q.zero_point, np.int64).reshape(shape if codes.ndim else ())
    return ((codes.astype(np.int64) - zero).astype(np.float32) * scale).astype(np.float32)


def _along(v: Any, x: Any, axis: int, dtype: Any) -> Any:
    v = jnp.asarray(v).astype(dtype)
    shape = [1] * jnp.ndim(x)
    if v.size > 1:
        shape[axis] = v.size
    return v.reshape(shape)
