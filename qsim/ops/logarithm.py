"""log(a) in 32-bit fixed point, as LOG_SOFTMAX of the reference kernels takes it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..fixed import high_mul, shift_away
from .softmax import reciprocal

_MOST: Any = np.int32((1 << 31) - 1)
_ROOT: Any = np.int32(1518500250)  # sqrt(1/2), and below its root, ln 2 and the coefficients of the quotient, in Q0.31
_FOURTH_ROOT: Any = np.int32(1805811301)
_LN_2: Any = np.int32(1488522236)
_QUOTIENT: Any = (np.int32(v) for v in (117049297, 127690142, 1057819769, 638450708))
_NUMERATOR, _D2, _D0, _D1 = _QUOTIENT
_ONE: Any = np.int32(1)
_QUARTER: Any = np.int32(1 << 23)  # of one, in Q6.25


def log_of_at_least_one(a: jax.Array) -> jax.Array:
    """log(a) in Q5.26 of int32 a in Q12.19, a >= 1.

    log a = z ln 2 + log r with r the nearest to 2^(-1/4) of two candidates: a scaled to [1/2, 1) and times sqrt 2 (z less by a half), both
    with z in Q6.25 and a quarter off; log r by a quotient of polynomials in q = 2 (r - 2^(-1/4)).
    *Restates*: gemmlowp's log_x_for_x_greater_than_or_equal_to_1 with 12 and 5 integer bits.
    """
    zeros = lax.clz(a)
    upper = _shift_left(high_mul(a << (zeros - _ONE), _ROOT), _ONE)
    rooted = high_mul(a, _ROOT)
    spare = lax.clz(rooted) - np.int32(1)
    lower = _shift_left(a, spare)
    r = jnp.minimum(upper, lower)
    z = jnp.maximum(_power(zeros) + _QUARTER, _power(spare) - _QUARTER)
    middle = (r >> np.int32(1)) + (_FOURTH_ROOT >> np.int32(1)) + np.int32(1)  # a half of an odd sum is rounded up
    q = (r - _FOURTH_ROOT) << np.int32(1)
    q2 = high_mul(q, q)
    numerator = high_mul(q, r) + high_mul(high_mul(q, q2), _NUMERATOR)
    denominator = high_mul(middle, _D0 + q + high_mul(_D2, q2)) + high_mul(_D1, q)
    part = high_mul(shift_away(numerator, jnp.int32(6)), reciprocal(denominator))
    return _shift_left(high_mul(z, _LN_2) + part, _ONE)


def _power(bits: jax.Array) -> jax.Array:
    """12 - bits in Q6.25."""
    return (np.int32(12) - bits) << np.int32(25)


def _shift_left(x: jax.Array, bits: jax.Array) -> jax.Array:
    """x * 2^bits of x >= 0, saturating."""
    return jnp.where(x > (_MOST >> bits), _MOST, x << bits)
