"""How sure a figure is, and whether one model is worse than another on the same samples: the bootstrap over samples or groups."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from qsim.errors import BadData

from .metrics import Metric, single

DRAWS = 1000
LEVEL = 0.95
ROOM = 1 << 22  # weights held at once


class Estimate(NamedTuple):
    """A figure over samples and the ends of its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Paired:
    """Two models on the same samples. difference: ours - theirs, in the metric's unit; low, high: its 95 % interval.

    lost, won: samples where ours is worse, where it is better (None for figures of a whole set). verdict: "better" where the interval
    lies on the better side of 0; "not inferior" where it does not lie on the worse side, or the loss is within the metric's margin; else
    "inferior".
    """

    metric: str
    ours: float
    theirs: float
    difference: float
    low: float
    high: float
    lost: int | None
    won: int | None
    verdict: str

    @property
    def not_inferior(self) -> bool:
        return self.verdict != "inferior"


def estimate(metric: Metric, columns: np.ndarray, groups: np.ndarray | None = None, *, draws: int = DRAWS, seed: int = 0) -> Estimate:
    """The figure of (N, k) columns and its percentile interval: `draws` resamples of N samples (of all groups, where groups are given:
    an id a sample; samples of one group are drawn together) with replacement.

    The interval of a share that is exactly 0 or 1 has no width. *Restates*: Efron, The Jackknife, the Bootstrap and Other Resampling
    Plans (1982), percentile method; groups as units: the cluster bootstrap.
    """
    value = _value(metric, columns)
    return Estimate(value, *_interval([metric.value(columns, w) for w in resampled(len(columns), groups, draws, seed)]))


def paired(
    metric: Metric, ours: np.ndarray, theirs: np.ndarray, groups: np.ndarray | None = None, *, draws: int = DRAWS, seed: int = 0
) -> Paired:
    """Is one model worse than another? Both figures are taken of the same resamples, and their difference is judged; see `Paired`.

    ours, theirs: (N, k) columns of the metric, in the same order of samples. *Raises*: BadData where they differ in shape.
    """
    if ours.shape != theirs.shape:
        raise BadData("not the same samples", found=ours.shape, expected=theirs.shape)
    a, b = _value(metric, ours), _value(metric, theirs)
    weights = resampled(len(ours), groups, draws, seed)
    low, high = _interval([_difference(metric.value(ours, w), metric.value(theirs, w)) for w in weights])
    difference = float(_difference(np.array(a), np.array(b)))
    lost, won = _counts(metric, ours, theirs)
    return Paired(metric.name, a, b, difference, low, high, lost, won, _verdict(metric, difference, low, high))


def resampled(count: int, groups: np.ndarray | None = None, draws: int = DRAWS, seed: int = 0) -> Iterator[np.ndarray]:
    """(b, count) how often each sample occurs in each of `draws` resamples, some at a time. The same for the same arguments."""
    ids = np.arange(count) if groups is None else np.unique(groups, return_inverse=True)[1]
    units, rng = int(ids.max(initial=-1)) + 1, np.random.default_rng(seed)
    at_once = max(1, min(draws, ROOM // max(count, 1)))
    for first in range(0, draws, at_once):
        n = min(at_once, draws - first)
        taken = rng.integers(0, units, (n, units)) + np.arange(n)[:, None] * units
        yield np.bincount(taken.reshape(-1), minlength=n * units).reshape(n, units)[:, ids].astype(np.float64)


def _value(metric: Metric, columns: np.ndarray) -> float:
    return float(metric.value(columns, np.ones((1, len(columns))))[0])


def _interval(parts: Sequence[np.ndarray]) -> tuple[float, float]:
    """Percentiles of the draws that have a value (a resample of one class alone has no AUC); infinite ones stay."""
    values = np.concatenate(parts)
    values = values[~np.isnan(values)]
    if not len(values):
        return float("nan"), float("nan")
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(values, [tail, 1 - tail], method="nearest")
    return float(low), float(high)


def _difference(a: np.ndarray, b: np.ndarray) -> Any:
    """a - b, 0 where both are infinite."""
    with np.errstate(invalid="ignore"):
        return np.where(a == b, 0.0, a - b)


def _counts(metric: Metric, ours: np.ndarray, theirs: np.ndarray) -> tuple[int | None, int | None]:
    a, b = single(metric, ours), single(metric, theirs)
    if a is None or b is None:
        return None, None
    gain = metric.better * (a - b)
    return int((gain < 0).sum()), int((gain > 0).sum())


def _verdict(metric: Metric, difference: float, low: float, high: float) -> str:
    gain, ends = metric.better * difference, sorted((metric.better * low, metric.better * high))
    if ends[0] > 0:
        return "better"
    return "not inferior" if ends[1] >= 0 or gain >= -metric.margin else "inferior"
