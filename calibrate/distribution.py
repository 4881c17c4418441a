"""One estimation problem: the values of one tensor, or of several that must share a range, as weighted intervals on the real line."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from math import floor
from typing import Any

import numpy as np

from .statistics import HUGE, NEGATIVE_ZERO, SHIFT, ZERO, Sketch, bin_edges, key_of

MOST_POINTS = 4096  # distinct exact values up to which a distribution is a table of points


@dataclass(frozen=True, eq=False)
class Distribution:
    """What a strategy sees of a tensor (or tied group).

    lower, upper: float64 (K,), ascending, real units; disjoint intervals, points where both are equal (zero always is one).
    weight: float64 (K,), the number of elements in each; pixels sampled from a large tensor stand for the whole of it.
    min, max: the exact extremes over every element. exact: all intervals are points, known exactly.
    sequence: (samples, 2) smallest and largest value of each sample in the order seen, where that was kept.
    importance: float64 (K,), the sum of the squared gradients of the output log-likelihood with respect to the elements in each, where
    the statistics hold gradients.
    """

    lower: np.ndarray
    upper: np.ndarray
    weight: np.ndarray
    min: float
    max: float
    exact: bool
    samples: int
    sequence: np.ndarray | None = None
    importance: np.ndarray | None = None

    @cached_property
    def total(self) -> float:
        """The number of elements."""
        return float(self.weight.sum())

    @cached_property
    def _ends(self) -> list[float]:
        return np.cumsum(self.weight).tolist()  # type: ignore[no-any-return]

    def cut(self, below: Fraction | float = 0, above: Fraction | float = 0) -> tuple[float, float]:
        """(low, high) after leaving out the floor(below * N) smallest and the floor(above * N) largest of the N elements.

        Formula: with the elements sorted as x[0..N-1], (x[floor(below N)], x[N-1-floor(above N)]). Exact for points; in an interval of
        n elements the k-th is taken to lie at lower + (k + 1/2) / n * (upper - lower), so the error is below one interval: 2^-7 of
        the value. The extremes are exact. *Domain*: 0 <= below, above < 1.
        """
        n = self.total
        low, high = _part(below, n), _part(above, n)
        return (
            self.min if low == 0 else self._value(float(low)),
            self.max if high == 0 else self._value(max(n - 1.0 - high, 0.0)),
        )

    def _value(self, rank: float) -> float:
        """The element of 0-based rank in ascending order."""
        k = min(bisect_right(self._ends, rank), len(self._ends) - 1)
        weight, lower, upper = float(self.weight[k]), float(self.lower[k]), float(self.upper[k])
        part = min(max((rank - (self._ends[k] - weight) + 0.5) / weight, 0.0), 1.0)
        return lower + part * (upper - lower)


def absolute(d: Distribution) -> Distribution:
    """The distribution of |x|: intervals below 0 are mirrored onto those above it, whose edges are the same but at the extremes."""
    below = d.lower < 0.0
    lower = np.where(below, -d.upper, d.lower)
    starts, where = np.unique(lower, return_inverse=True)
    upper = np.full(len(starts), 0.0)
    np.maximum.at(upper, where, np.where(below, -d.lower, d.upper))
    sums = _collected(d, where, len(starts))
    return replace(d, lower=starts, upper=upper, min=float(starts[0]), max=max(-d.min, d.max), sequence=None, **sums)


def clamped(d: Distribution, low: float, high: float) -> Distribution:
    """The distribution of min(max(x, low), high). *Domain*: low <= 0 <= high; ends may be infinite."""
    pairs = np.clip(np.stack([d.lower, d.upper], axis=1), low, high)
    ends, where = np.unique(pairs, axis=0, return_inverse=True)
    sums = _collected(d, where.reshape(-1), len(ends))
    sequence = None if d.sequence is None else np.clip(d.sequence, low, high)
    least, most = (float(np.clip(end, low, high)) for end in (d.min, d.max))
    return replace(d, lower=ends[:, 0], upper=ends[:, 1], min=least, max=most, sequence=sequence, **sums)


def _collected(d: Distribution, where: np.ndarray, n: int) -> dict[str, Any]:
    """Weight and importance of n new intervals, from the number of the one that each old interval goes to."""
    columns = {"weight": d.weight, "importance": d.importance}
    return {k: None if v is None else np.bincount(where, weights=v, minlength=n) for k, v in columns.items()}


def nonzero(d: Distribution) -> Distribution:
    """The elements other than 0; those of `d` where there are none."""
    kept = (d.lower != 0.0) | (d.upper != 0.0)
    importance = None if d.importance is None else d.importance[kept]
    return replace(d, lower=d.lower[kept], upper=d.upper[kept], weight=d.weight[kept], importance=importance) if kept.any() else d


def deviations(d: Distribution, around: float) -> tuple[float, float]:
    """(mean of |x - around|, mean of (x - around)^2), the elements of an interval spread over it evenly."""
    a, b = d.lower - around, d.upper - around
    flat = a == b
    size = np.where(flat, np.abs(a), (b * np.abs(b) - a * np.abs(a)) / np.where(flat, 1.0, 2.0 * (b - a)))
    return float(size @ d.weight) / d.total, float((a * a + a * b + b * b) @ d.weight) / (3.0 * d.total)


def mean(d: Distribution) -> float:
    return float((0.5 * (d.lower + d.upper)) @ d.weight) / d.total


def histogram(d: Distribution, edges: np.ndarray) -> np.ndarray:
    """(K,) whole numbers of elements between ascending edges (K + 1,): [a, b), the last one [a, b].

    Points are counted as they are. Elements of an interval are spread over it evenly and then rounded to whole ones, one after another,
    so that few elements stay few: the total is kept, and no element is further from its place than its interval is wide.
    """
    points = d.lower == d.upper
    counts = np.histogram(d.lower[points], edges, weights=d.weight[points])[0]
    if points.all():
        return np.rint(counts)
    weight = np.where(points, 0.0, d.weight)
    ends = np.cumsum(weight)
    at = np.stack([d.lower, d.upper], axis=1).reshape(-1)
    reached = np.interp(edges, at, np.stack([ends - weight, ends], axis=1).reshape(-1))
    return np.rint(counts) + np.diff(np.rint(reached))


def _part(part: Fraction | float, n: float) -> int:
    """floor(part * n) without rounding; fast for whole n."""
    f = Fraction(part)
    return int(n) * f.numerator // f.denominator if n.is_integer() else floor(f * Fraction(n))


def distribution(sketches: Sequence[Sketch], sequences: Sequence[np.ndarray] | None = None) -> Distribution:
    """The pooled distribution of tensors that share a range: elements of all of them, counted alike.

    *Domain*: at least one sketch that is not empty.
    """
    full = [s for s in sketches if not s.empty]
    low, high = min(s.min for s in full), max(s.max for s in full)
    tables = [s.table for s in full]
    exact = all(t is not None and len(t[0]) <= MOST_POINTS for t in tables)
    bins, counts = _pooled(full, [s.counts for s in full])
    lower, upper, weight = _points(tables) if exact else (*_ends(bins, low, high), counts)  # type: ignore[arg-type]
    importance = None
    if all(s.importance is not None for s in full):
        sums = _pooled(full, [s.importance for s in full])[1]  # type: ignore[misc]
        importance = _shared(sums, bins, lower, weight) if exact else sums
    samples = max(s.samples for s in full)
    return Distribution(lower, upper, weight, low, high, exact, samples, _pooled_sequence(sequences), importance)


def _points(tables: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    values, where = np.unique(np.concatenate([t[0] for t in tables]), return_inverse=True)
    weight = np.bincount(where, weights=np.concatenate([t[1] for t in tables]), minlength=len(values))
    return values, values, weight


def _pooled(sketches: Sequence[Sketch], columns: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The bins in use of all sketches together, both zeros as one, and the sums of a column of each; sampled pixels stand for all."""
    bins = np.concatenate([s.bins for s in sketches])
    bins, where = np.unique(np.where(bins == NEGATIVE_ZERO, np.uint16(ZERO), bins), return_inverse=True)
    parts = [c * (s.size / s.sampled) for s, c in zip(sketches, columns, strict=True)]
    sums = np.bincount(where, weights=np.concatenate(parts), minlength=len(bins))
    good = (bins >= ZERO - (HUGE >> SHIFT)) & (bins < ZERO + (HUGE >> SHIFT))
    return bins[good], sums[good]


def _ends(bins: np.ndarray, low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
    """Bins as intervals, cut off at the exact extremes; zero is a point."""
    lower, upper = bin_edges(bins)
    lower, upper = np.clip(lower, low, high), np.clip(upper, low, high)
    lower[bins == ZERO] = upper[bins == ZERO] = 0.0
    return lower, upper


def _shared(sums: np.ndarray, bins: np.ndarray, points: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Each bin's sum, shared out among its points by their weights: which of them it came from is not known."""
    where = np.searchsorted(bins, (key_of(points) >> SHIFT) + ZERO)
    return sums[where] * weight / np.bincount(where, weights=weight, minlength=len(bins))[where]


def _pooled_sequence(sequences: Sequence[np.ndarray] | None) -> np.ndarray | None:
    if not sequences:
        return None
    return np.stack([np.min([s[:, 0] for s in sequences], axis=0), np.max([s[:, 1] for s in sequences], axis=0)], axis=1)
