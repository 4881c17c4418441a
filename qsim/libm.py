"""float32 functions of the C library as LiteRT's tables call them, step by step: not the nearest float32 to the true value.

erfcf, expm1f and tanhf of msun (bionic, glibc before 2.41) err by up to 3 units in the last place, which moves an entry of a table now and
then. *Differs from*: glibc since 2.41, whose functions are rounded correctly; there LiteRT itself gives other entries.
*Restates*: the algorithms and coefficients of s_erff.c, s_expm1f.c and s_tanhf.c, and glibc's e_expf.c, which rounds all but one value in
a thousand correctly.
"""

from __future__ import annotations

import numpy as np

f32 = np.float32

_ERX = 8.4506291151e-01  # erf(1), float32
_SMALL = (
    (1.2837916613e-01, -3.2504209876e-01, -2.8481749818e-02, -5.7702702470e-03, -2.3763017452e-05),
    (1.0, 3.9791721106e-01, 6.5022252500e-02, 5.0813062117e-03, 1.3249473704e-04, -3.9602282413e-06),
)  # |x| < 0.84375, of x^2
_MIDDLE = (
    (-2.3621185683e-03, 4.1485610604e-01, -3.7220788002e-01, 3.1834661961e-01, -1.1089469492e-01, 3.5478305072e-02, -2.1663755178e-03),
    (1.0, 1.0642088205e-01, 5.4039794207e-01, 7.1828655899e-02, 1.2617121637e-01, 1.3637083583e-02, 1.1984500103e-02),
)  # 0.84375 <= |x| < 1.25, of |x| - 1
_LARGE = (
    (
        -9.8649440333e-03, -6.9385856390e-01, -1.0558626175e01, -6.2375331879e01, -1.6239666748e02, -1.8460508728e02, -8.1287437439e01,
        -9.8143291473e00,
    ),
    (
        1.0, 1.9651271820e01, 1.3765776062e02, 4.3456588745e02, 6.4538726807e02, 4.2900814819e02, 1.0863500214e02, 6.5702495575e00,
        -6.0424413532e-02,
    ),
)  # 1.25 <= |x| < 1 / 0.35, of 1 / x^2  # fmt: skip
_FAR = (
    (-9.8649431020e-03, -7.9928326607e-01, -1.7757955551e01, -1.6063638306e02, -6.3756646729e02, -1.0250950928e03, -4.8351919556e02),
    (1.0, 3.0338060379e01, 3.2579251099e02, 1.5367296143e03, 3.1998581543e03, 2.5530502930e03, 4.7452853394e02, -2.2440952301e01),
)  # beyond


def erfcf(x: np.ndarray) -> np.ndarray:
    """1 - erf(x), float32."""
    x = np.asarray(x, f32)
    size = np.abs(x)
    with np.errstate(all="ignore"):
        found = np.where(size < f32(0.84375), _erfc_small(x), _erfc_middle(x, size))
        return np.where(size >= f32(1.25), _erfc_large(x, size), found)


def _erfc_small(x: np.ndarray) -> np.ndarray:
    y = _ratio(_SMALL, x * x)
    near = f32(1) - (x + x * y)
    far = f32(0.5) - (x * y + (x - f32(0.5)))
    return np.where(x < f32(0.25), near, far)


def _erfc_middle(x: np.ndarray, size: np.ndarray) -> np.ndarray:
    y = _ratio(_MIDDLE, size - f32(1))
    return np.where(x >= 0, (f32(1) - f32(_ERX)) - y, f32(1) + (f32(_ERX) + y))


def _erfc_large(x: np.ndarray, size: np.ndarray) -> np.ndarray:
    s = f32(1) / (size * size)
    ratio = np.where(size.view(np.int32) < 0x4036DB6D, _ratio(_LARGE, s), _ratio(_FAR, s))
    short = (size.view(np.int32) & np.int32(-0x2000)).view(f32)  # its square is exact
    r = expf(-short * short - f32(0.5625)) * expf((short - size) * (short + size) + ratio)
    tiny = f32(1e-30)
    near = np.where(x > 0, r / size, f32(2) - r / size)
    return np.where(size >= 28, np.where(x > 0, tiny * tiny, f32(2) - tiny), np.where(x < -6, f32(2) - tiny, near))


def _ratio(coefficients: tuple[tuple[float, ...], tuple[float, ...]], s: np.ndarray) -> np.ndarray:
    """One polynomial by another, each from its highest coefficient down."""
    above, below = (_polynomial(c, s) for c in coefficients)
    return above / below  # type: ignore[no-any-return]


def _polynomial(coefficients: tuple[float, ...], s: np.ndarray) -> np.ndarray:
    found = np.full_like(s, f32(coefficients[-1]))
    for c in coefficients[-2::-1]:
        found = f32(c) + s * found
    return found


_PER_OCTAVE = 32
_POWERS = np.exp2(np.arange(_PER_OCTAVE) / _PER_OCTAVE)
_EXP2 = ("0x1.c6af84b912394p-5", "0x1.ebfce50fac4f3p-3", "0x1.62e42ff0c52d6p-1")  # of the cube, the square and the step itself


def expf(x: np.ndarray) -> np.ndarray:
    """exp(x), float32: 2^(k / 32) from a table by a cubic in float64, rounded once. *Domain*: |x| < 88, or results that vanish."""
    scaled = np.asarray(x, np.float64) * (float.fromhex("0x1.71547652b82fep+0") * _PER_OCTAVE)
    k = np.rint(scaled)
    r = scaled - k
    power = np.ldexp(_POWERS[k.astype(np.int64) % _PER_OCTAVE], k.astype(np.int64) // _PER_OCTAVE)
    a, b, c = (float.fromhex(v) / _PER_OCTAVE**n for v, n in zip(_EXP2, (3, 2, 1), strict=True))
    return (((a * r + b) * (r * r) + (c * r + 1.0)) * power).astype(f32)  # type: ignore[no-any-return]


_EXPM1 = (1.0, -3.3333335072e-02, 1.5873016091e-03, -7.9365076090e-05, 4.0082177293e-06, -2.0109921195e-07)
_LN2_HIGH, _LN2_LOW, _INVERSE_LN2 = f32(6.9313812256e-01), f32(9.0580006145e-06), f32(1.4426950216e00)


def expm1f(x: np.ndarray) -> np.ndarray:
    """exp(x) - 1, float32. *Domain*: |x| < 88."""
    x = np.asarray(x, f32)
    with np.errstate(all="ignore"):
        k, reduced, c = _reduced(x)
        found = _scaled(k, reduced, *_expm1_core(reduced, c))
        found = np.where((x < 0) & (x <= f32(-18.714973)), f32(1e-30) - f32(1), found)
        return np.where(np.abs(x) < f32(2.0**-25), x, found)


def _reduced(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(k, x - k ln 2 in float32, what that rounding lost)."""
    size = np.abs(x)
    far = np.trunc(_INVERSE_LN2 * x + np.where(x < 0, f32(-0.5), f32(0.5))).astype(f32)
    k = np.where(size < f32(1.0397207), np.sign(x).astype(f32), far)
    k = np.where(size > f32(0.34657359), k, f32(0))
    high, low = x - k * _LN2_HIGH, k * _LN2_LOW
    reduced = high - low
    return k.astype(np.int32), np.where(k == 0, x, reduced), np.where(k == 0, f32(0), (high - reduced) - low)


def _expm1_core(x: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    half = f32(0.5) * x
    square = x * half
    r1 = _polynomial(_EXPM1, square)
    t = f32(3) - r1 * half
    e = square * ((r1 - t) / (f32(6) - x * t))
    return square, e, x * (e - c) - c


def _scaled(k: np.ndarray, x: np.ndarray, square: np.ndarray, e: np.ndarray, corrected: np.ndarray) -> np.ndarray:
    """2^k (1 + expm1(x)) - 1, in the order of steps that the size of k asks for."""
    none = x - (x * e - square)
    e = corrected - square
    minus = f32(0.5) * (x - e) - f32(0.5)
    plus = np.where(x < f32(-0.25), f32(-2) * (e - (x + f32(0.5))), f32(1) + f32(2) * (x - e))
    power = np.ldexp(f32(1), k).astype(f32)
    outside = (f32(1) - (e - x)) * power - f32(1)
    few = ((f32(1) - np.ldexp(f32(1), -k).astype(f32)) - (e - x)) * power
    many = ((x - (e + np.ldexp(f32(1), -k).astype(f32))) + f32(1)) * power
    found = np.where((k <= -2) | (k > 56), outside, np.where(k < 23, few, many))
    return np.where(k == 0, none, np.where(k == -1, minus, np.where(k == 1, plus, found)))


def tanhf(x: np.ndarray) -> np.ndarray:
    """tanh(x), float32."""
    x = np.asarray(x, f32)
    size = np.abs(x)
    with np.errstate(all="ignore"):
        large = f32(1) - f32(2) / (expm1f(f32(2) * np.minimum(size, f32(22))) + f32(2))
        t = expm1f(f32(-2) * np.minimum(size, f32(1)))
        small = -t / (t + f32(2))
        z = np.where(size < 22, np.where(size >= 1, large, small), f32(1) - f32(1e-30))
        z = np.where(size < f32(2.0**-55), size, z)
    return np.where(x >= 0, z, -z)
