"""16-bit fixed-point logistic and tanh on the host, in the steps of the optimized kernels. Raw codes in int64 arrays; products in Q0.15.

*Restates*: gemmlowp's logistic and tanh for 16-bit raw types.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .fixed import shift_away_host

# e^(-2^k) for k = -2 .. 4, 1/3, e^(-1/8), and 48/17, -32/17 of the first guess of a reciprocal (Q2.29), all in Q0.31.
_POWERS = ((-2, 1672461947), (-1, 1302514674), (0, 790015084), (1, 290630308), (2, 39332535), (3, 720401), (4, 242))
_THIRD, _EIGHTH, _GUESS, _SLOPE = (int(shift_away_host(v, 16)) for v in (715827883, 1895147668, 1515870810, -1010580540))


def _wrap(x: Any) -> np.ndarray:
    return np.asarray(x, np.int64).astype(np.int16).astype(np.int64)


def _saturate(x: Any) -> np.ndarray:
    return np.clip(x, -32768, 32767)


def _mul(a: Any, b: Any) -> np.ndarray:
    return (np.asarray(a, np.int64) * b + (1 << 14)) >> 15


def _exp_of_negative(a: np.ndarray, bits: int) -> np.ndarray:
    """exp(a) in Q0.15 of a <= 0 with `bits` integer bits."""
    fraction = 15 - bits
    quarter = 1 << (fraction - 2)
    part = (a & (quarter - 1)) - quarter
    x = _wrap(_saturate(part << bits) + (1 << 12))
    x2 = _mul(x, x)
    cubic = _mul(_wrap(shift_away_host(_mul(x2, x2), 2) + _mul(x2, x)), _THIRD)
    result = _saturate(_EIGHTH + _mul(_EIGHTH, _wrap(x + shift_away_host(_wrap(cubic + x2), 1))))
    rest = _wrap(part - a)
    for k, power in _POWERS:
        if bits > k:
            result = np.where(rest >> (fraction + k) & 1, _mul(result, shift_away_host(power, 16)), result)
    if bits > 5:
        result = np.where(a < -(1 << (fraction + 5)), 0, result)
    return np.where(a == 0, 32767, result)


def _half_reciprocal(a: np.ndarray) -> np.ndarray:
    """1 / (1 + a), halved twice (Q2.13), of a in Q0.15: three Newton steps."""
    half = (a + 32767 + 1) >> 1
    x = _wrap(_GUESS + _mul(half, _SLOPE))
    for _ in range(3):
        x = _wrap(x + _saturate(_mul(x, _wrap((1 << 13) - _mul(half, x))) << 2))
    return x


def logistic(a: Any, bits: int) -> np.ndarray:
    """1 / (1 + exp(-a)) in Q0.15; a has `bits` integer bits."""
    a = np.asarray(a, np.int64)
    y = _saturate(_half_reciprocal(_exp_of_negative(_wrap(-_wrap(np.abs(a))), bits)) << 1)
    return np.where(a == 0, 1 << 14, np.where(a > 0, y, 32767 - y))


def tanh(a: Any, bits: int) -> np.ndarray:
    """tanh(a) in Q0.15; a has `bits` integer bits."""
    a = np.asarray(a, np.int64)
    y = _saturate(_wrap(_half_reciprocal(_exp_of_negative(-np.abs(a), bits + 1)) - (1 << 13)) << 2)
    return np.where(a == 0, 0, np.where(a < 0, -y, y))
