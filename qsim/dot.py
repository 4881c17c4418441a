"""Exact integer convolutions and matrix products: int8 operands, int32 sums that wrap. Which formulation, per layer and platform.

The arithmetic is the same everywhere; only speed differs. Each fast formulation is probed once per platform with saturating
operands; where the probe fails, plain int32 arithmetic serves and a log line says so. The facts behind the choices on CPU:
XLA sends s8 x s8 -> s32 products to a fast library except convolutions with at most 16 channels and products with one column
(both cured by zero weights), and its depthwise convolution is an order of magnitude slower than shifted products. Where
`qsim.onednn` is enabled, its calls take the place of what they do faster.
"""

from __future__ import annotations

import functools
import logging
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from . import onednn
from .onednn import Window
from .windows import pad

log = logging.getLogger("qsim")
DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def dense(x: Any, w: Any, *bias: Any) -> jax.Array:
    """sum_k x[..., k] * w[k, n] + bias[n] as int32. x: int8 (..., k). w: int8 (k, n). bias: int32 (n,), or none."""
    if onednn.enabled():
        return onednn.dense(_products, x.reshape(-1, x.shape[-1]), w, *bias).reshape(*x.shape[:-1], -1)
    return _products(None, x, w, *bias)


def _products(_: Any, x: Any, w: Any, *bias: Any) -> jax.Array:
    return add_bias(_dense_fast(x, w) if _fast("dense") else _dense_plain(x, w), *bias)


def add_bias(y: Any, bias: Any = None) -> Any:
    """y[..., o] + bias[o]."""
    return y if bias is None else y + bias.reshape((1,) * (y.ndim - 1) + (-1,))


def conv(x: Any, w: Any, bias: Any, how: Window, zero_point: Any) -> jax.Array:
    """Convolution as int32. x: int8 (n, h, w, c), padded with its zero_point. w: int8 (kh, kw, c / groups, o). bias: int32 (o,)."""
    if w.shape[:2] == (1, 1) and how == Window((1, 1)):
        return dense(x, w.reshape(w.shape[2:]), bias)
    return onednn.conv(_sums, how, x, w, bias, zero_point) if onednn.enabled() else _sums(how, x, w, bias, zero_point)


def _sums(how: Window, x: Any, w: Any, bias: Any, zero_point: Any) -> jax.Array:
    x = pad(x, zero_point, how.pads)
    if how.groups > 1 or not _fast("conv"):
        return add_bias(_conv_plain(x, w, how.stride, how.dilation, how.groups), bias)
    if w.shape[:2] == (1, 1):
        return _products(None, _columns(x, 1, 1, how.stride, how.dilation), w.reshape(w.shape[2:]), bias)
    return add_bias(_conv_fast(x, w, how.stride, how.dilation), bias)


def depthwise(x: Any, w: Any, bias: Any, how: Window, zero_point: Any) -> jax.Array:
    """As `conv` with one channel a group: w: int8 (kh, kw, 1, c m), output channel c m + j reads channel c."""
    if x.shape[3] == 1:
        return conv(x, w, bias, how, zero_point)
    return onednn.conv(_shifted, how, x, w, bias, zero_point) if onednn.enabled() else _shifted(how, x, w, bias, zero_point)


def _shifted(how: Window, x: Any, w: Any, bias: Any, zero_point: Any) -> jax.Array:
    """Depthwise convolution by shifted products: int16 (|product| <= 2^14), summed in int32."""
    x, c, o = pad(x, zero_point, how.pads), x.shape[3], w.shape[3]
    if c <= 8 and c == o and how.dilation == (1, 1) and not _gpu() and _fast("conv"):
        # loops over so few channels do not vectorize: a dense convolution by a diagonal of weights is faster
        diagonal = w * jnp.eye(c, dtype=w.dtype)[None, None]
        return add_bias(_conv_side_by_side(x, diagonal, how.stride, _conv_padded), bias)
    products = [p.astype(np.int32) for p in _products_of_taps(x.astype(np.int16), w.astype(np.int16), how.stride, how.dilation)]
    return add_bias(sum(products[1:], products[0]), bias)


def depthwise_float(x: Any, w: Any, stride: tuple[int, int], dilation: tuple[int, int] = (1, 1)) -> jax.Array:
    """VALID depthwise convolution of float32 arrays, w as `depthwise`."""
    if x.shape[3] == 1:
        return conv_float(x, w, stride, dilation)
    products = _products_of_taps(x, w, stride, dilation)
    return sum(products[1:], products[0])


def _products_of_taps(x: Any, w: Any, stride: tuple[int, int], dilation: tuple[int, int]) -> list[jax.Array]:
    """Per position of the window, the shifted input times the weights there: (n, oh, ow, c m) each."""
    kh, kw, _, o = w.shape
    n, h, wide, c = x.shape
    oh = (h - (kh - 1) * dilation[0] - 1) // stride[0] + 1
    ow = (wide - (kw - 1) * dilation[1] - 1) // stride[1] + 1
    products = []
    for i in range(kh):
        for j in range(kw):
            y, z = i * dilation[0], j * dilation[1]
            ends = (n, y + (oh - 1) * stride[0] + 1, z + (ow - 1) * stride[1] + 1, c)
            products.append(_tap(lax.slice(x, (0, y, z, 0), ends, (1, *stride, 1)), w[i, j], o // c))
    return products


def _tap(x: jax.Array, w: jax.Array, m: int) -> jax.Array:
    n, oh, ow, c = x.shape
    if m == 1:
        return x * w.reshape(1, 1, 1, c)
    return (x[..., None] * w.reshape(1, 1, 1, c, m)).reshape(n, oh, ow, c * m)


def _dense_plain(x: Any, w: Any) -> jax.Array:
    return lax.dot_general(x.astype(np.int32), w.astype(np.int32), (((x.ndim - 1,), (0,)), ((), ())))


def _dense_fast(x: Any, w: Any) -> jax.Array:
    k, n = w.shape
    wanted = -(-n // 16) * 16 if _gpu() else max(n, 2)
    more_k = -k % 16 if _gpu() else 0
    w = jnp.pad(w, ((0, more_k), (0, wanted - n)))
    x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, more_k)]) if more_k else x
    y = lax.dot_general(x, w, (((x.ndim - 1,), (0,)), ((), ())), preferred_element_type=np.int32)
    return y[..., :n] if wanted != n else y


def _conv_plain(x: Any, w: Any, stride: tuple[int, int], dilation: tuple[int, int], groups: int = 1) -> jax.Array:
    return lax.conv_general_dilated(
        x.astype(np.int32), w.astype(np.int32), stride, "VALID",
        rhs_dilation=dilation, dimension_numbers=DIMENSIONS, feature_group_count=groups,
    )  # fmt: skip


def _conv_fast(x: Any, w: Any, stride: tuple[int, int], dilation: tuple[int, int]) -> jax.Array:
    kh, kw, c, o = w.shape
    if _gpu():
        return _dense_fast(_columns(x, kh, kw, stride, dilation), w.reshape(kh * kw * c, o))
    if c <= 4 and o <= 16 and dilation == (1, 1):
        return _conv_side_by_side(x, w, stride, _conv_padded)
    if max(c, o) <= 16:
        rows = _columns(x, 1, kw, (1, stride[1]), (1, dilation[1]))
        return _conv_padded(rows, w.reshape(kh, 1, kw * c, o), (stride[0], 1), (dilation[0], 1))
    return _conv_padded(x, w, stride, dilation)


def _conv_side_by_side(x: Any, w: Any, stride: tuple[int, int], product: Any) -> jax.Array:
    """A thin convolution, 32 / o output columns at once: a (kh, 1) convolution of channels (window of all these columns) by weights
    that repeat shifted by the stride. Up to three times the products, but in channels enough for the fast path."""
    kh, kw, c, o = w.shape
    n, h, wide, _ = x.shape
    s, together = stride[1], max(32 // o, 1)
    ow = (wide - kw) // s + 1
    blocks, step, reach = -(-ow // together), together * s * c, ((together - 1) * s + kw) * c
    rows = x.reshape(n, h, wide * c)
    rows = jnp.pad(rows, ((0, 0), (0, 0), (0, max((blocks - 1) * step + -(-reach // step) * step - wide * c, 0))))
    parts = []
    for start in range(0, reach, step):
        part = lax.slice_in_dim(rows, start, start + blocks * step, axis=2).reshape(n, h, blocks, step)
        parts.append(part[..., : min(step, reach - start)])
    shifted = [jnp.pad(w, ((0, 0), (t * s, (together - 1 - t) * s), (0, 0), (0, 0))) for t in range(together)]
    weights = jnp.stack(shifted, axis=3).reshape(kh, 1, reach, together * o)
    y = product(jnp.concatenate(parts, axis=-1), weights, (stride[0], 1), (1, 1))
    return y.reshape(n, y.shape[1], blocks * together, o)[:, :, :ow]


def _conv_padded(x: Any, w: Any, stride: tuple[int, int], dilation: tuple[int, int]) -> jax.Array:
    """lax convolution with zero weights added where 16 or fewer channels, or 3 input channels, would take a slow path."""
    _, _, c, o = w.shape
    more = -c % 4 if c < 4 else 0
    wanted = 17 if max(c + more, o) <= 16 else o
    w = jnp.pad(w, ((0, 0), (0, 0), (0, more), (0, wanted - o)))
    x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, more))) if more else x
    y = lax.conv_general_dilated(
        x, w, stride, "VALID", rhs_dilation=dilation, dimension_numbers=DIMENSIONS, preferred_element_type=np.int32
    )  # fmt: skip
    return y[..., :o] if wanted != o else y


def _columns(x: Any, kh: int, kw: int, stride: tuple[int, int], dilation: tuple[int, int]) -> jax.Array:
    """The kh * kw shifted views of x side by side: (n, oh, ow, kh * kw * c); a convolution is then one product.

    On GPUs always so: integer convolutions are not to be relied on there.
    """
    n, h, wide, c = x.shape
    oh = (h - (kh - 1) * dilation[0] - 1) // stride[0] + 1
    ow = (wide - (kw - 1) * dilation[1] - 1) // stride[1] + 1
    views = []
    for i in range(kh):
        for j in range(kw):
            y, z = i * dilation[0], j * dilation[1]
            ends = (n, y + (oh - 1) * stride[0] + 1, z + (ow - 1) * stride[1] + 1, c)
            views.append(lax.slice(x, (0, y, z, 0), ends, (1, *stride, 1)))
    return views[0] if len(views) == 1 else jnp.concatenate(views, axis=-1)


def dense_float(x: Any, w: Any) -> jax.Array:
    """sum_k x[..., k] * w[k, n] of float32 arrays."""
    if onednn.enabled():
        return onednn.dense(_products_float, x.reshape(-1, x.shape[-1]), w).reshape(*x.shape[:-1], -1)
    return _products_float(None, x, w)


def _products_float(_: Any, x: Any, w: Any) -> jax.Array:
    return jnp.matmul(x, w, precision=lax.Precision.HIGHEST)


def conv_float(x: Any, w: Any, stride: tuple[int, int], dilation: tuple[int, int] = (1, 1), groups: int = 1) -> jax.Array:
    """VALID convolution of float32 arrays, shapes as `conv`; pointwise ones and thin stems take the form that is fast on CPUs."""
    kh, kw, c, o = w.shape
    if groups == 1 and not _gpu():
        if (kh, kw) == (1, 1) and max(c, o) > 16:
            return dense_float(_columns(x, 1, 1, stride, dilation), w.reshape(c, o))
        if c <= 4 and o <= 16 and dilation == (1, 1):
            return _conv_side_by_side(x, w, stride, _conv_plain_float)
        if c == 3:
            x, w = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, 1))), jnp.pad(w, ((0, 0), (0, 0), (0, 1), (0, 0)))
    return _conv_plain_float(x, w, stride, dilation, groups)


def _conv_plain_float(x: Any, w: Any, stride: tuple[int, int], dilation: tuple[int, int], groups: int = 1) -> jax.Array:
    return lax.conv_general_dilated(
        x, w, stride, "VALID", rhs_dilation=dilation, dimension_numbers=DIMENSIONS,
        feature_group_count=groups, precision=lax.Precision.HIGHEST,
    )  # fmt: skip


def _gpu() -> bool:
    return jax.default_backend() in ("gpu", "cuda", "rocm")


def _fast(kind: str) -> bool:
    return _probe(kind, jax.default_backend())


@functools.cache
def _probe(kind: str, platform: str) -> bool:
    """Does the fast formulation give the exact sums on saturating operands here? Asked once per platform."""
    rng = np.random.default_rng(0)
    x = rng.choice(np.array([-128, -127, -1, 0, 127], np.int8), (3, 9, 9, 24))
    w = rng.choice(np.array([-128, -127, 1, 127], np.int8), (3, 3, 24, 20))
    x[0], w[..., 0] = -128, -128
    try:
        with jax.ensure_compile_time_eval():
            if kind == "dense":
                x, w = x.reshape(27, 216), w.reshape(216, 20)
                got = np.asarray(jax.jit(_dense_fast)(x, w))
                want = x.astype(np.int64) @ w.astype(np.int64)
            else:
                got = np.asarray(jax.jit(_conv_fast, static_argnums=(2, 3))(x, w, (2, 1), (1, 1)))
                views = np.lib.stride_tricks.sliding_window_view(x.astype(np.int64), (3, 3), (1, 2))[:, ::2]
                want = np.einsum("nhwcij,ijco->nhwo", views, w.astype(np.int64))
        if (got == want).all():
            return True
        log.warning("%s: the fast int8 %s gives wrong sums; plain int32 arithmetic is used", platform, kind)
    except Exception as fault:
        log.warning("%s: the fast int8 %s is not available (%s); plain int32 arithmetic is used", platform, kind, fault)
    return False
