"""tanh and logistic of float32 in the steps of the kernels: every step rounded once, the coefficients those of their approximations.

*Restates*: tanh and logistic of Eigen without FMA, as the recurrent LiteRT kernels call them on x86.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .. import fixed

f32 = np.float32
_TANH_TOP = (1.394553628e-8, 2.102733560e-5, 3.520756727e-3, 1.340216100e-1)
_TANH_BOTTOM = (8.015776984e-7, 3.326951409e-4, 2.597254514e-2, 4.673548340e-1, 1.0)
_TANH_END = 7.90738964080810547  # the quotient is 1 there
_LOG2_E, _LN2 = 1.44269504088896341, (-0.693359375, 2.12194440e-4)  # -ln 2 in two parts
_EXP = (0.49999141693115234375, 0.16666877269744873046875, 4.1898667812347412109375e-2, 8.33471305668354034423828125e-3)
_LOGISTIC_END = 16.6355324
_LOG2_E_64, _CUBIC = 1.4426950408889634, (0.05550361559341535, 0.2402284522445722, 0.6931471806916203)  # near ln 2^k / k!


def times(a: Any, b: Any) -> Any:
    """a * b of float32, rounded: a sum with it is not contracted to an FMA."""
    return fixed.unfused(a * b)


def _polynomial(x: Any, coefficients: tuple[float, ...]) -> Any:
    y = jnp.full_like(x, f32(coefficients[0]))
    for c in coefficients[1:]:
        y = times(x, y) + f32(c)
    return y


def tanh(x: Any) -> Any:
    """(x + x^3 P(x^2)) / Q(x^2), P of degree 3 and Q of degree 4, within +-7.9073896."""
    x = fixed.clamp(x, f32(-_TANH_END), f32(_TANH_END))
    square = times(x, x)
    top = times(times(square, x), _polynomial(square, _TANH_TOP)) + x
    return top / _polynomial(square, _TANH_BOTTOM)


def logistic(x: Any, alone: np.ndarray | None = None) -> Any:
    """e / (1 + e), e = exp(min(x, 16.6355324)): of whole vectors (2^m P(r))^2 with x / 2 = m ln 2 + r, P of degree 5; of the elements
    `alone` in a mask of x's trailing axes, which no vector takes, e = 2^(k / 32) Q(u) in float64 with x = (k / 32 + u) ln 2.

    *Domain*: x above -87 (XLA makes smaller results 0).
    """
    vector = _ratio(_exp(x))
    if alone is None or not alone.any():
        return vector
    mask = alone.reshape((1,) * (jnp.ndim(x) - alone.ndim) + alone.shape)
    return jnp.where(mask, _ratio(_exp_alone(jnp.minimum(x, f32(_LOGISTIC_END)))), vector)


def _exp_alone(x: Any) -> Any:
    """exp as the C library has it: a cubic in float64, so not always the nearest float32."""
    a, b, c = (np.float64(v) for v in _CUBIC)
    with jax.enable_x64(True):
        z = lax.convert_element_type(x, np.float64) * np.float64(32 * _LOG2_E_64)
        k = jnp.round(z)
        u = (z - k) / np.float64(32)
        y = np.float64(1) + c * u + (b + a * u) * u * u
        return lax.convert_element_type(y * jnp.exp2(k / np.float64(32)), np.float32)


def _ratio(e: Any) -> Any:
    return e / (f32(1) + e)


def _exp(x: Any) -> Any:
    half = times(jnp.minimum(x, f32(_LOGISTIC_END)), f32(0.5))
    m = jnp.floor(times(half, f32(_LOG2_E)) + f32(0.5))
    r = times(m, f32(_LN2[1])) + (times(m, f32(_LN2[0])) + half)
    square = times(r, r)
    even, odd = (times(square, f32(_EXP[k + 2])) + f32(_EXP[k]) for k in (0, 1))
    p = times(square, times(r, odd) + even) + (r + f32(1))
    power = lax.bitcast_convert_type((jnp.clip(m, -126, 127).astype(np.int32) + np.int32(127)) << np.int32(23), np.float32)
    e = times(p, power)
    return times(e, e)
