"""How sure a figure is, and whether one model is worse than another on the same samples: the bootstrap over samples or groups."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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


Columns = Mapping[str, np.ndarray]  # metric name -> (N, k), see `metrics.Metric`


def estimates(
    metrics: Sequence[Metric], columns: Columns, groups: np.ndarray | None = None, *, draws: int = DRAWS, seed: int = 0
) -> dict[str, Estimate]:
    """The figure of each metric's columns and its percentile interval: `draws` resamples of N samples (of all groups, where groups are
    given: an id a sample; samples of one group are drawn together) with replacement, the same for every metric.

    The interval of a share that is exactly 0 or 1 has no width. *Restates*: Efron, The Jackknife, the Bootstrap and Other Resampling
    Plans (1982), percentile method; groups as units: the cluster bootstrap.
    """
    found = _resampled_figures([(m, columns[m.name]) for m in metrics], groups, draws, seed)
    return {m.name: Estimate(_value(m, columns[m.name]), *_interval(v)) for m, v in zip(metrics, found, strict=True)}


def paired(
    metrics: Sequence[Metric], ours: Columns, theirs: Columns, groups: np.ndarray | None = None, *, draws: int = DRAWS, seed: int = 0
) -> tuple[Paired, ...]:
    """Is one model worse than another? Both figures are taken of the same resamples, and their difference is judged; see `Paired`.

    ours, theirs: columns of each metric, in the same order of samples. *Raises*: BadData where they differ in shape.
    """
    for m in metrics:
        if ours[m.name].shape != theirs[m.name].shape:
            raise BadData("not the same samples", where=m.name, found=ours[m.name].shape, expected=theirs[m.name].shape)
    both = [(m, columns[m.name]) for columns in (ours, theirs) for m in metrics]
    drawn = _resampled_figures(both, groups, draws, seed)
    sides = zip(metrics, drawn[: len(metrics)], drawn[len(metrics) :], strict=True)
    return tuple(_pair(m, ours[m.name], theirs[m.name], _interval(_difference(a, b))) for m, a, b in sides)


def _pair(metric: Metric, ours: np.ndarray, theirs: np.ndarray, ends: tuple[float, float]) -> Paired:
    a, b = _value(metric, ours), _value(metric, theirs)
    difference = float(_difference(np.array(a), np.array(b)))
    lost, won = _counts(metric, ours, theirs)
    return Paired(metric.name, a, b, difference, *ends, lost, won, _verdict(metric, difference, *ends))


def _resampled_figures(wanted: Sequence[tuple[Metric, np.ndarray]], groups: np.ndarray | None, draws: int, seed: int) -> list[np.ndarray]:
    """(draws,) figures of each metric and its columns, of the same resamples."""
    if not wanted:
        return []
    rows = [[m.value(columns, w) for m, columns in wanted] for w in resampled(len(wanted[0][1]), groups, draws, seed)]
    return [np.concatenate(parts) for parts in zip(*rows, strict=True)]


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


def _interval(values: np.ndarray) -> tuple[float, float]:
    """Percentiles of the draws that have a value (a resample of one class alone has no AUC); infinite ones stay."""
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
