"""How far the codes of symmetric weights reach: the clip of each channel, by rule. Weights beyond it get the last code."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from .errors import BadRecipe
from .types import code_range

RULES = ("max", "mse", "octav", "percentile:99.9")
STEPS = 0.94 ** np.arange(32)  # clips that "mse" tries first, in parts of the largest weight: down to 15 %
FINER = (np.linspace(0.95, 1.05, 21), np.linspace(0.995, 1.005, 11))  # then around the best
ROUNDS = 60  # of Newton-Raphson; it has long converged


def clips(rows: np.ndarray, rule: str, type_name: str) -> np.ndarray:
    """(C,) the clip c of each row of weights (C, K), real units, 0 where a row holds nothing but zeros; scale = c / qmax.

    max: max |w|. mse: the c with the smallest sum of (w - s clip(round(w / s), -qmax, qmax))^2, s = c / qmax, of 64 that are tried, max
    |w| among them. percentile:P: the size |w| that P percent of a row do not exceed. octav: see `octav`.
    *Domain*: finite; signed types of 2 to 8 bits. *Raises*: BadRecipe for another rule.
    """
    size, kept = np.abs(np.asarray(rows, np.float64)), require_rule(rule)
    peak = size.max(axis=1, initial=0.0)
    if rule == "mse":
        return _least_squares(size, peak, code_range(type_name)[1])
    if rule == "octav":
        return octav(size, (code_range(type_name)[1] + 1).bit_length())
    return peak if kept is None else _percentile(size, peak, kept)


def require_rule(rule: str) -> Fraction | None:
    """The percentage of a percentile rule, None for the others. *Raises*: BadRecipe for a rule that there is none of."""
    if rule in ("max", "mse", "octav"):
        return None
    try:
        name, _, number = rule.partition(":")
        kept = Fraction(number) if name == "percentile" and "/" not in number else Fraction(0)
    except ValueError:
        kept = Fraction(0)
    if not 0 < kept <= 100:
        raise BadRecipe("no such rule for the ranges of weights", found=rule, expected=", ".join(RULES))
    return kept


def octav(size: np.ndarray, bits: int) -> np.ndarray:
    """The clip of each row of |w| (C, K) with the smallest expected squared error, if errors inside are spread over a step evenly.

    Formula: s <- sum of |w| > s / (4^-bits / 3 * count of 0 < |w| <= s + count of |w| > s), from the mean of |w|, at most max |w|.
    *Restates*: OCTAV, Sakr et al., "Optimal clipping and magnitude-aware differentiation for improved quantization-aware training" (ICML
    2022), equation 6. *Differs*: ai-edge-quantizer counts zeros as well and stops after 10 rounds, from 1.
    """
    inside = 4.0**-bits / 3.0
    s = size.mean(axis=1) if size.shape[1] else np.zeros(len(size))
    for _ in range(ROUNDS):
        beyond = size > s[:, None]
        weight = inside * ((size > 0.0) & ~beyond).sum(axis=1) + beyond.sum(axis=1)
        before, s = s, np.where(weight > 0.0, (size * beyond).sum(axis=1) / np.where(weight > 0.0, weight, 1.0), 0.0)
        if np.allclose(s, before, rtol=1e-6, atol=0.0):
            break
    return np.minimum(s, size.max(axis=1, initial=0.0))


def _percentile(size: np.ndarray, peak: np.ndarray, kept: Fraction) -> np.ndarray:
    """The element of |w| that leaves floor((1 - kept / 100) K) above it; max |w| where that is 0."""
    n = size.shape[1]
    if not n:
        return peak
    above = int((1 - kept / 100) * n)
    found = np.partition(size, n - 1 - above, axis=1)[:, n - 1 - above]
    return np.where(found > 0.0, found, peak)


def _least_squares(size: np.ndarray, peak: np.ndarray, qmax: int) -> np.ndarray:
    part = size.astype(np.float32)
    best, least = peak.copy(), _squares(part, peak, qmax)
    for factors in (STEPS[1:], *FINER):
        start = peak if factors[0] < 0.95 else best.copy()
        for factor in factors:
            tried = np.minimum(start * factor, peak)
            error = _squares(part, tried, qmax)
            best, least = np.where(error < least, tried, best), np.minimum(error, least)
    return best


def _squares(size: np.ndarray, clip: np.ndarray, qmax: int) -> np.ndarray:
    """(C,) sum of squared errors."""
    scale = (np.where(clip > 0.0, clip, 1.0) / qmax).astype(np.float32)[:, None]
    return np.square(np.minimum(np.rint(size / scale), np.float32(qmax)) * scale - size).sum(axis=1, dtype=np.float64)
