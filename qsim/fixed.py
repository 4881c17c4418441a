"""Fixed-point arithmetic: real multipliers as (multiplier, shift) on the host, and the roundings that kernels apply to accumulators.

Host functions take and give numpy and compute in float64 or float32 exactly where the C++ does. Device functions are pure JAX on
int32 (64-bit arithmetic only inside a local `enable_x64` scope, so they work whether x64 is on or off).

Notation: e = shift, L = max(e, 0), R = max(-e, 0). "up" rounds a half toward +infinity, "away" rounds it away from zero.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .types import code_range

f32 = np.float32

# ---------------------------------------------------------------- host


def round_away(x: Any) -> np.ndarray:
    """Round half away from zero, as C `round`, in the type of x (float32 or float64)."""
    x = np.asarray(x)
    whole = np.trunc(x)
    return np.where(np.abs(x - whole) >= 0.5, whole + np.copysign(np.ones_like(x), x), whole)


def quantize_multiplier(real: Any) -> tuple[np.ndarray, np.ndarray]:
    """real multiplier(s), float64 -> (multiplier int32, shift int32) with real ~ multiplier * 2^(shift - 31).

    multiplier = round_away(mantissa * 2^31) with mantissa in [0.5, 1); 0 and anything below 2^-32 become (0, 0).
    *Restates*: QuantizeMultiplier of the LiteRT kernels.
    """
    real = np.atleast_1d(np.asarray(real, np.float64))
    mantissa, exponent = np.frexp(real)
    m = round_away(mantissa * 2.0**31).astype(np.int64)
    full = np.abs(m) == 1 << 31
    m, e = np.where(full, m // 2, m), exponent + full
    gone = (real == 0) | (e < -31)
    return np.where(gone, 0, m).astype(np.int32), np.where(gone, 0, e).astype(np.int32)


def activation_range(name: str, scale: Any, zero_point: int, type_name: str, flavour: str) -> tuple[int, int]:
    """(low, high) in steps of a fused activation: the ends 0, 6, -1, 1 quantized, cut to the type's range.

    LiteRT kernels: z + round_away(f32(v / s)). XNNPACK: round_half_even(clip(f32(f32(v / s) + z), type range)). They differ
    where v / s is a half. NONE, TANH and SIGN_BIT are the type's range.
    """
    low, high = code_range(type_name)
    ends = {"RELU": (0.0, None), "RELU6": (0.0, 6.0), "RELU_N1_TO_1": (-1.0, 1.0), "RELU_0_TO_1": (0.0, 1.0)}.get(name, (None, None))

    def code(v: float) -> int:
        ratio = f32(f32(v) / f32(scale))
        if flavour == "xnnpack":
            return int(np.rint(np.clip(f32(ratio + f32(zero_point)), f32(low), f32(high))))
        return int(zero_point) + int(round_away(ratio))

    return (low if ends[0] is None else max(low, code(ends[0])), high if ends[1] is None else min(high, code(ends[1])))


def requantize_host(acc: Any, multiplier: int, shift: int) -> np.ndarray:
    """`requantize` ("away") on the host: acc * multiplier * 2^(shift - 31), rounded twice; int64 in, int64 out."""
    acc = (np.asarray(acc, np.int64) << max(shift, 0)).astype(np.int32).astype(np.int64)
    return shift_away_host((acc * multiplier + (1 << 30)) >> 31, max(-shift, 0))


def shift_away_host(x: Any, right: int) -> np.ndarray:
    """`shift_away` on the host, in int64."""
    x = np.asarray(x, np.int64)
    return np.sign(x) * ((np.abs(x) + (1 << right >> 1)) >> right)


def quantize_multiplier_16(real: Any) -> tuple[np.ndarray, np.ndarray]:
    """real multiplier(s), float64 -> (multiplier of 15 bits, right shift), both int32, with real ~ multiplier * 2^-right.

    *Restates*: what MultiplyByQuantizedMultiplier of the LiteRT kernels makes of the pair of `quantize_multiplier` for 64-bit sums.
    """
    m, e = quantize_multiplier(real)
    short = np.where(m >= 0x7FFF0000, 0x7FFF, (m.astype(np.int64) + (1 << 15)) >> 16)
    return short.astype(np.int32), (15 - e).astype(np.int32)


def words(x: Any, dtype: Any = np.float64) -> np.ndarray:
    """float64 (or int64) array -> uint32 (..., 2): a 64-bit number as a leaf that may cross a jit border."""
    return np.ascontiguousarray(np.asarray(x, dtype))[..., None].view(np.uint32)


# ---------------------------------------------------------------- device


@functools.cache
def _mulhi_works(platform: str) -> bool:
    """Probe once per platform: does `lax.mulhi` compile and give the high word? (Some backends lack it; int64 serves there.)"""
    a = np.array([-(2**31), -1, 2**31 - 1, -(2**31), 12345], np.int32)
    b = np.array([2**31 - 1, 2**31 - 1, 2**31 - 1, 1, -987654321], np.int32)
    try:
        with jax.ensure_compile_time_eval():
            got = np.asarray(jax.jit(lax.mulhi)(a, b))
    except Exception:
        return False
    return bool((got == (a.astype(np.int64) * b.astype(np.int64) >> 32)).all())


def high_mul(a: jax.Array, b: jax.Array) -> jax.Array:
    """(a * b + 2^30) >> 31 for int32 arrays: the rounding doubling high multiply, halves up.

    *Domain*: not a = b = -2^31 (the kernels saturate there; multipliers of kernels are never negative).
    *Restates*: gemmlowp's SaturatingRoundingDoublingHighMul.
    """
    a, b = jnp.broadcast_arrays(a, b)
    if not _mulhi_works(jax.default_backend()):
        with jax.enable_x64(True):
            product = lax.convert_element_type(a, np.int64) * lax.convert_element_type(b, np.int64)
            return lax.convert_element_type((product + np.int64(1 << 30)) >> np.int64(31), np.int32)
    low = lax.bitcast_convert_type(a * b, np.uint32)
    nudged = low + np.uint32(1 << 30)
    high = lax.mulhi(a, b) + (nudged < low).astype(np.int32)
    return (high << np.int32(1)) | lax.bitcast_convert_type(nudged >> np.uint32(31), np.int32)


def _high_mul_small(a: jax.Array, m: jax.Array) -> jax.Array:
    """high_mul for |a| < 2^30: one doubling instead of the carry."""
    if not _mulhi_works(jax.default_backend()):
        return high_mul(a, m)
    a, m = jnp.broadcast_arrays(a * np.int32(2), m)
    low = lax.bitcast_convert_type(a * m, np.uint32)
    return lax.mulhi(a, m) + lax.bitcast_convert_type(low >> np.uint32(31), np.int32)


def shift_away(x: jax.Array, right: jax.Array) -> jax.Array:
    """x / 2^right rounded half away from zero; right in 0..31. *Restates*: gemmlowp's RoundingDivideByPOT."""
    mask = (np.int32(1) << right) - np.int32(1)
    threshold = (mask >> np.int32(1)) + (x < 0).astype(np.int32)
    return (x >> right) + ((x & mask) > threshold).astype(np.int32)


def shift_up(x: jax.Array, right: jax.Array) -> jax.Array:
    """(x + 2^(right-1)) >> right, halves up; right in 0..31; right = 0 gives x. Without overflow for every int32 x."""
    half = (x >> jnp.maximum(right - np.int32(1), np.int32(0))) & np.int32(1)
    return (x >> right) + jnp.where(right > 0, half, np.int32(0))


def requantize(acc: Any, multiplier: Any, shift: Any, *, small: bool = False, left: bool = True, rounding: str = "away") -> jax.Array:
    """acc * multiplier * 2^(shift - 31), rounded twice: the high multiply halves up, then the right shift as `rounding` says.

    acc: int32. multiplier, shift: int32, broadcast against acc. `left=False`: no shift is positive. `small=True`: the caller
    proved |acc * 2^L| < 2^30 (a cheaper form, the same integers). The left shift wraps in int32.
    *Restates*: MultiplyByQuantizedMultiplier of the LiteRT kernels ("away"), and ruy's x86 kernels ("up").
    """
    multiplier, shift = jnp.asarray(multiplier, np.int32), jnp.asarray(shift, np.int32)
    zero = np.int32(0)
    if left:
        acc = acc << jnp.broadcast_to(jnp.maximum(shift, zero), jnp.shape(acc))
    right = jnp.maximum(-shift, zero)
    multiplier, right = _to_rank(multiplier, acc), _to_rank(right, acc)
    high = _high_mul_small(acc, multiplier) if small else high_mul(acc, multiplier)
    if rounding == "up":
        return shift_up(high, right)
    if not small:
        return shift_away(high, right)
    half = (np.int32(1) << right) >> np.int32(1)
    return (high + half - ((high < 0) & (right > 0)).astype(np.int32)) >> right


def _to_rank(x: jax.Array, like: jax.Array) -> jax.Array:
    """Leading axes of size 1 until x has the rank of `like` (rank promotion is an error in strict mode)."""
    return jnp.reshape(x, (1,) * (jnp.ndim(like) - jnp.ndim(x)) + jnp.shape(x)) if jnp.ndim(x) < jnp.ndim(like) else x


def store(value: jax.Array, zero_point: Any, low: Any, high: Any, dtype: Any) -> jax.Array:
    """clip(value + zero_point, low, high) as the stored type: the last step of every kernel. The addition wraps in int32."""
    return jnp.minimum(jnp.maximum(value + zero_point, low), high).astype(dtype)


def scale_round(acc: Any, scale: Any, zero_point: Any, low: Any, high: Any, dtype: Any) -> jax.Array:
    """round_half_even(clip(f32(f32(acc) * scale), low - z, high - z)) + z as the stored type.

    acc: int32. scale: float32, broadcast on the last axis. *Restates*: XNNPACK's float requantization; the clamp precedes the rounding.
    """
    scale = _to_rank(jnp.asarray(scale, np.float32), acc)
    real = acc.astype(np.float32) * scale
    low, high, zero_point = (jnp.asarray(v, np.int32) for v in (low, high, zero_point))
    floor, ceiling = (low - zero_point).astype(np.float32), (high - zero_point).astype(np.float32)
    return (jnp.round(clamp(real, floor, ceiling)).astype(np.int32) + zero_point).astype(dtype)


def clamp(x: Any, low: Any, high: Any) -> jax.Array:
    """min(max(x, low), high), NaN staying NaN: by selection, which is one instruction each; XLA's maximum of floats is four."""
    return jnp.where(x < low, low, jnp.where(x > high, high, x))


def wide_sum(high: jax.Array, low: jax.Array, bias_words: Any) -> jax.Array:
    """256 * high + low + bias in int64. high, low: int32. bias_words: `words` of int64 numbers, (C, 2)."""
    with jax.enable_x64(True):
        bias = lax.bitcast_convert_type(jnp.asarray(bias_words, np.uint32), np.int64)
        high, low = (lax.convert_element_type(v, np.int64) for v in (high, low))
        return high * np.int64(256) + low + _to_rank(bias, low)


def requantize_wide(acc: jax.Array, multiplier: Any, right: Any) -> jax.Array:
    """(acc * multiplier + 2^(right-1)) >> right in int64, its low 32 bits as int32. acc: int64. multiplier, right: int32, right > 0.

    *Domain*: |acc| < 2^47. *Restates*: MultiplyByQuantizedMultiplier of the LiteRT kernels for 64-bit sums.
    """
    with jax.enable_x64(True):
        m, r = (_to_rank(lax.convert_element_type(jnp.asarray(v, np.int32), np.int64), acc) for v in (multiplier, right))
        return lax.convert_element_type((acc * m + (np.int64(1) << (r - np.int64(1)))) >> r, np.int32)


def double_round(acc: jax.Array, real_words: Any) -> jax.Array:
    """int32(round_away(f64(acc) * real)), with -2^31 where that leaves int32 (the x86 conversion).

    acc: int32 or int64. real_words: `words` of the float64 multiplier(s), (2,) or (C, 2). *Restates*: FULLY_CONNECTED of the
    reference kernels.
    """
    with jax.enable_x64(True):
        real = lax.bitcast_convert_type(jnp.asarray(real_words, np.uint32), np.float64)
        product = lax.convert_element_type(acc, np.float64) * _to_rank(real, acc)
        whole = jnp.trunc(product)
        whole = whole + jnp.where(jnp.abs(product - whole) >= np.float64(0.5), jnp.sign(product), np.float64(0))
        fits = (whole >= np.float64(-(2.0**31))) & (whole < np.float64(2.0**31))
        safe = jnp.where(fits, whole, np.float64(-(2.0**31)))
        return lax.convert_element_type(safe, np.int32)


def divide(x: jax.Array, by: float) -> jax.Array:
    """f32(x / by) of float32 x, correctly rounded: XLA multiplies by the reciprocal, which in float64 is near enough for 24 bits.

    *Domain*: by a whole number below 2^20, a normal result.
    """
    with jax.enable_x64(True):
        return lax.convert_element_type(lax.convert_element_type(x, np.float64) / np.float64(by), np.float32)


def unfused(product: jax.Array) -> jax.Array:
    """A product, rounded by itself: the clamp keeps XLA from contracting the sum around it to an FMA. A bound at one end alone does
    not keep it from that inside the recurrent kernels."""
    return clamp(product, np.asarray(-3e38, product.dtype), np.asarray(3e38, product.dtype))


def divide_by(x: jax.Array, by: Any) -> jax.Array:
    """x / by for constants, which XLA would turn into a product with their reciprocals."""
    return x / lax.optimization_barrier(jnp.broadcast_to(jnp.asarray(by, x.dtype), x.shape))


def fma(a: jax.Array, b: jax.Array, c: jax.Array) -> jax.Array:
    """a * b + c of float32 rounded once. The float64 sum is rounded to odd (its last bit set where it is not exact), so that
    rounding it again to float32 is right."""
    with jax.enable_x64(True):
        a, b, c = (lax.convert_element_type(v, np.float64) for v in jnp.broadcast_arrays(a, b, c))
        p = a * b  # exact
        s = p + c
        back = s - p
        error = (p - (s - back)) + (c - back)
        bits = lax.bitcast_convert_type(s, np.int64)
        outward = jnp.where((error > 0) == (s > 0), np.int64(1), np.int64(-1))
        odd = jnp.where((error != 0) & (bits & np.int64(1) == 0), bits + outward, bits)
        return lax.convert_element_type(lax.bitcast_convert_type(odd, np.float64), np.float32)


def lookup(table: jax.Array, codes: jax.Array) -> jax.Array:
    """table[code - low] for 8-bit or int16 codes: a table of every code's result built on the host, one gather."""
    low = np.iinfo(codes.dtype).min
    return jnp.take(jnp.asarray(table), codes.astype(np.int32) - np.int32(low), mode="clip")
