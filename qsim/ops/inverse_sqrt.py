"""1 / sqrt of integers in fixed point, one form for the host and the device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..fixed import high_mul


def inverse_sqrt(n: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(multiplier, shift), both int32, with 1 / sqrt(n) ~ multiplier 2^(shift - 31); n: int32 >= 0 (0 and 1 give 2^31 - 1, 0).

    *Restates*: GetInvSqrtQuantizedMultiplierExp of the LiteRT kernels.
    """
    return _inverse_sqrt(n, jnp, lambda a, b: high_mul(a, jnp.asarray(b, np.int32)), lax.clz, np.int32)


def inverse_sqrt_host(n: Any) -> tuple[np.ndarray, np.ndarray]:
    """`inverse_sqrt` in numpy, int64."""
    return _inverse_sqrt(np.asarray(n, np.int64), np, lambda a, b: (a * b + (1 << 30)) >> 31, lambda v: 32 - np.frexp(v)[1], np.int64)


def _inverse_sqrt(n: Any, ns: Any, mul: Callable[[Any, Any], Any], zeros: Callable[[Any], Any], whole: Any) -> tuple[Any, Any]:
    one = whole(1)
    tiny = n <= one
    n = ns.maximum(n, one)
    large = n >= whole(1 << 29)
    n = ns.where(large, n >> whole(2), n)
    pairs = ((zeros(n) - one) >> one) - one  # n goes up by an even number of bits, to [2^27, 2^29)
    shift = whole(11) + large.astype(whole) - pairs
    a = (n << (pairs + pairs)) >> one
    half = (a >> one) + (a & one)
    x = ns.full_like(a, 1 << 28)
    for _ in range(5):
        cube = _left(mul(mul(x, x), x), 6, ns, whole)
        x = _left(mul(x, whole(3 << 27)) - mul(half, cube), 3, ns, whole)
    x = mul(x, whole(1518500250))  # sqrt(1/2)
    x = ns.where(shift < 0, x << ns.maximum(-shift, whole(0)), x)
    shift = ns.maximum(shift, whole(0))
    return ns.where(tiny, whole(2**31 - 1), x), ns.where(tiny, whole(0), -shift)


def _left(x: Any, bits: int, ns: Any, whole: Any) -> Any:
    """x << bits, saturating to int32."""
    most = whole((1 << (31 - bits)) - 1)
    return ns.where(x > most, whole(2**31 - 1), ns.where(x < -most, whole(-(2**31)), x << whole(bits)))
