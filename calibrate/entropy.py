"""Entropy calibration: the clip whose quantized histogram is nearest to the real one, in the two meanings that tools give it.

Both tools work on a linear histogram that grows with the data. Here it is made once, over all data, from the bins of a sketch: a bin of
the sketch is 2^-7 of its value wide, so that at the top of 2048 linear bins it covers up to 16 of them, over which its elements are
spread (see `distribution.histogram`). Where a distribution is known exactly, so is the histogram.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qsim.types import code_range

from .distribution import Distribution, absolute, histogram

TIE = 1e-12  # divergences that differ by less are equal, in nats
SMOOTHING = 1e-4  # counts that onnxruntime gives an empty bin
STRIDE = 64  # candidates that are worked out together


@dataclass(frozen=True)
class TensorRTEntropy:
    """The clip m of |x| at which a histogram clipped there and one of `levels` levels up to there are nearest: argmin KL(P || Q).

    P: bins 0 .. i-1 of a histogram of |x| over [0, max |x|], what lies beyond added to the last. Q: the same bins without what lies
    beyond, in `levels` groups of equal width; a group's sum is shared by those of its bins that are not empty. Both are scaled to 1. Bin
    0, where zeros are, counts as much as bin 1. i runs from 128 to all bins, m is the upper edge of bin i-1; the last of equal ones wins.
    levels: 2^(bits - 1), or 2^bits where no value is below 0. With as many levels as bins nothing is gained by clipping: minmax.
    The range is (-m, m), cut to (min, max).

    *Restates*: pytorch-quantization 2.1 of NVIDIA's TensorRT, `HistogramCalibrator`, method "entropy" (`unsigned` where no value is below
    0), after Migacz, "8-bit inference with TensorRT", GTC 2017, which leaves bin 0 as it is and clips at the middle of the next bin.
    *Differs*: one histogram of all data, not one that began with the first batch.
    """

    type_name: str = "int8"
    bins: int = 2048
    first: int = 128

    def __call__(self, d: Distribution) -> tuple[float, float]:
        levels, top = _codes(self.type_name) // (2 if d.min < 0.0 else 1), max(-d.min, d.max)
        if top == 0.0 or levels >= self.bins:
            return d.min, d.max
        edges = np.linspace(0.0, top, self.bins + 1)
        counts = histogram(absolute(d), edges)
        counts[0] = counts[1]
        m = float(edges[clipped_bins(counts, levels, self.first)]) if counts.any() else top
        return max(-m, d.min), min(m, d.max)


def _codes(type_name: str) -> int:
    low, high = code_range(type_name)
    return high - low + 1


def clipped_bins(counts: np.ndarray, levels: int, first: int) -> int:
    """The number i of bins to keep, first <= i <= K, that gives the smallest divergence of `TensorRTEntropy`; the last of equal ones.

    Formula: with T the sum of all counts, C of the first i, o = T - C, S_k the sums of the groups and N_k their occupied bins,
    KL = (sum_j<i p_j log p_j - sum_k S_k log(S_k / N_k) - o log q_last) / T - log T + log C, where p_last holds o and q_last = S / N of
    the last group, 0 where the last bin is empty. A group k holds the bins j with k i / levels <= j < (k + 1) i / levels.
    """
    sizes = np.arange(min(first, len(counts)), len(counts) + 1)
    found = np.concatenate([_divergences(counts, levels, sizes[k : k + STRIDE]) for k in range(0, len(sizes), STRIDE)])
    return int(sizes[len(found) - 1 - np.argmax((found <= found.min() + TIE)[::-1])])


def _divergences(counts: np.ndarray, levels: int, sizes: np.ndarray) -> np.ndarray:
    """Nats, for each number of bins kept."""
    sums, full = _summed(counts), _summed(counts > 0.0)
    ends = -(-np.arange(levels + 1) * sizes[:, None] // levels)
    group, occupied = np.diff(sums[ends], axis=1), np.diff(full[ends], axis=1)
    shared = np.divide(group, occupied, out=np.zeros_like(group), where=occupied > 0)
    kept, total, last = sums[sizes], sums[-1], counts[sizes - 1]
    beyond = total - kept
    real = _summed(_entropy(counts))[sizes - 1] + _entropy(last + beyond)
    end = np.take_along_axis(shared, np.argmax(ends[:, 1:] >= sizes[:, None], axis=1)[:, None], axis=1)[:, 0]
    q_last = np.where(last > 0.0, end, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        lost = np.where(beyond > 0.0, -beyond * np.log(q_last), 0.0)
        found = (real - _times_log(group, shared).sum(axis=1) + lost) / total - np.log(total) + np.log(kept)
    return np.where(kept > 0.0, found, np.inf)


def _summed(x: np.ndarray) -> np.ndarray:
    return np.concatenate([[0.0], np.cumsum(x, dtype=np.float64)])


def _entropy(x: np.ndarray) -> np.ndarray:
    return _times_log(x, x)


def _times_log(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """x log y, 0 where x is 0."""
    return x * np.log(np.where(x > 0.0, y, 1.0))


@dataclass(frozen=True)
class OnnxEntropy:
    """The clip about 0 at which a histogram clipped there and one of `levels` levels are nearest, as onnxruntime works it out.

    A histogram of x over [-m, m], m = max |x|, has an even number of `bins`. Candidates keep i bins on either side of the middle one (at
    most all), from levels / 2 on. P: their counts, what lies outside added to the end bins. Q: their counts without that, merged to
    `levels` groups of floor(n / levels) bins; every bin of a group gets floor(sum / occupied bins of P), bins beyond the last group 0,
    though the last group's sum holds their counts. Empty bins of both get 1e-4, which the others give up in equal parts. KL(P || Q) in
    float32; the first of equal ones wins. The range is the candidate's edges, cut to (min, max).
    levels: 2^(bits - 1), at most `bins`. **With as many bins as levels (onnxruntime's own default: 128 and 128) there is one candidate
    and the range is (min, max)**; ask for more bins.

    *Restates*: onnxruntime 1.32, `EntropyCalibrater` fed one batch. *Differs*: it takes 128 levels whatever the type, and its number of
    bins grows with every batch that holds a new largest value, so that its ranges depend on the order of batches.
    """

    type_name: str = "int8"
    bins: int = 128

    def __call__(self, d: Distribution) -> tuple[float, float]:
        top, half = max(-d.min, d.max), self.bins // 2
        levels = min(_codes(self.type_name) // 2, self.bins)
        if top == 0.0 or levels == self.bins:
            return d.min, d.max
        edges = np.linspace(-top, top, self.bins + 1)
        counts = histogram(d, edges)
        kept = [(half - i, min(half + i + 1, self.bins)) for i in range(levels // 2, half + 1)]
        best = kept[int(np.argmin([_merged_divergence(counts, *ends, levels) for ends in kept]))]
        return max(float(edges[best[0]]), d.min), min(float(edges[best[1]]), d.max)


def _merged_divergence(counts: np.ndarray, start: int, end: int, levels: int) -> float:
    """KL(P || Q), nats, of the bins start .. end - 1; infinite where one of them is empty."""
    inside = counts[start:end]
    p = inside.copy()
    p[0] += counts[:start].sum()
    p[-1] += counts[end:].sum()
    width = len(p) // levels
    sums = inside[: levels * width].reshape(levels, width).sum(axis=1)
    sums[-1] += inside[levels * width :].sum()
    occupied = (p[: levels * width].reshape(levels, width) != 0).sum(axis=1)
    q = np.zeros(len(p))
    q[: levels * width] = np.floor(np.divide(sums, occupied, out=np.zeros(levels), where=occupied > 0)).repeat(width)
    return _smoothed_divergence(p, q)


def _smoothed_divergence(p: np.ndarray, q: np.ndarray) -> float:
    if not (p.any() and q.any()):
        return np.inf
    a, b = (part / part.sum() for part in (_smoothed(p), _smoothed(q)))
    return float((a * np.log(a / b)).sum())


def _smoothed(counts: np.ndarray) -> np.ndarray:
    """float32 counts with SMOOTHING in empty bins."""
    empty = counts == 0
    taken = SMOOTHING * empty.sum() / (~empty).sum()
    return counts.astype(np.float32) + np.where(empty, SMOOTHING, -taken).astype(np.float32)
