"""ACIQ: the clip that is best for a distribution of known form, from its spread alone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import erfc, exp, log, pi, sqrt

from qsim.types import code_range

from .distribution import Distribution, deviations, mean

SHAPES = ("laplace", "gauss")


@dataclass(frozen=True)
class Aciq:
    """mean +- alpha spread, cut to (min, max): the clip with the smallest expected squared error of a Laplace or Gauss distribution.

    spread: b = mean |x - mean| (Laplace) or sigma (Gauss). Where no value is below 0 (or above) the values are taken for the positive half
    of such a distribution about 0, as a RELU leaves it, whose other half is zeros: b = 2 mean x, sigma = sqrt(2 mean x^2); its
    range is (0, alpha spread), with one bit more for alpha, as half the width is stored. alpha: `laplace_alpha`, `gauss_alpha`.

    *Restates*: Banner, Nahshan and Soudry, "Post training 4-bit quantization of convolutional networks for rapid-deployment" (NeurIPS
    2019), its "Analytical clipping for integer quantization". *Differs*: 0 is a code and the mean need not be, as everywhere here; sigma
    is measured, where the authors' code takes it from the range.
    """

    shape: str = "laplace"
    type_name: str = "int8"

    def __call__(self, d: Distribution) -> tuple[float, float]:
        low, high = code_range(self.type_name)
        bits = (high - low + 1).bit_length() - 1
        one_sided = d.min >= 0.0 or d.max <= 0.0
        middle = 0.0 if one_sided else mean(d)
        size, square = deviations(d, middle)
        spread = size * (2.0 if one_sided else 1.0) if self.shape == "laplace" else sqrt(square * (2.0 if one_sided else 1.0))
        reach = spread * (laplace_alpha if self.shape == "laplace" else gauss_alpha)(bits + one_sided)
        return max(min(middle - reach, 0.0), d.min), min(max(middle + reach, 0.0), d.max)


@cache
def laplace_alpha(bits: int) -> float:
    """The clip of a Laplace distribution in units of its b: the a that solves a exp(a) = 3 * 4^bits, where the derivative of the expected
    error 2 exp(-a) + a^2 / (3 * 4^bits) is 0. 4 bits: 5.03; 8 bits: 9.90."""
    target, a = log(3.0) + bits * log(4.0), float(bits + 1)
    for _ in range(50):
        a -= (a + log(a) - target) / (1.0 + 1.0 / a)
    return a


@cache
def gauss_alpha(bits: int) -> float:
    """The clip of a normal distribution in units of its sigma: the root of the derivative of (1 + a^2) erfc(a / sqrt(2)) -
    sqrt(2 / pi) a exp(-a^2 / 2) + a^2 / (3 * 4^bits), by bisection. 4 bits: 2.56; 8 bits: 3.92."""

    def slope(a: float) -> float:
        return 2.0 * a * erfc(a / sqrt(2.0)) - 2.0 * sqrt(2.0 / pi) * exp(-a * a / 2.0) + 2.0 * a / (3.0 * 4.0**bits)

    low, high = 0.0, 12.0
    for _ in range(80):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if slope(middle) < 0.0 else (low, middle)
    return 0.5 * (low + high)
