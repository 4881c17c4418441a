"""Figures of merit over samples, and the paired comparison of two models on the same ones. Arrays in, plain numbers out (numpy)."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np

FLOOR = 2.0**-9  # half a step of an 8-bit probability: below it quantized outputs cannot tell small from none


def rows(y: np.ndarray) -> np.ndarray:
    """(N, values) float64 of outputs (N, ...)."""
    return np.asarray(y, np.float64).reshape(len(y), -1)


def right(outputs: np.ndarray, labels: np.ndarray, k: int = 1) -> np.ndarray:
    """(N,) bool: whether the label is among the k largest outputs; of equal outputs the one with the lower index counts as larger."""
    y, labels = rows(outputs), np.asarray(labels).reshape(-1)
    best = np.argsort(-y, axis=1, kind="stable")[:, :k]
    return (best == labels[:, None]).any(axis=1)


def top_k(outputs: np.ndarray, labels: np.ndarray, k: int = 1) -> float:
    """The part of samples whose label is among the k largest outputs (N, classes)."""
    return float(right(outputs, labels, k).mean())


def agreement(a: np.ndarray, b: np.ndarray) -> float:
    """The part of samples on which both outputs have the same largest value's index."""
    return float((rows(a).argmax(axis=1) == rows(b).argmax(axis=1)).mean())


def softmax(y: np.ndarray) -> np.ndarray:
    """Along the last axis."""
    e = np.exp(np.asarray(y, np.float64) - np.max(y, axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def divergences(reference: np.ndarray, other: np.ndarray, floor: float = FLOOR) -> np.ndarray:
    """(N,) KL(reference || other) = sum p log(p / q) in nats, over the last axis, averaged over positions before it.

    Both are raised to at least `floor` and normalized again, since a code of 0 only means "below half a step".
    *Domain*: probabilities (N, ..., classes).
    """
    p, q = (np.maximum(np.asarray(v, np.float64), floor) for v in (reference, other))
    p, q = p / p.sum(axis=-1, keepdims=True), q / q.sum(axis=-1, keepdims=True)
    return (p * np.log(p / q)).sum(axis=-1).reshape(len(p), -1).mean(axis=1)


def kl(reference: np.ndarray, other: np.ndarray, floor: float = FLOOR) -> float:
    """Mean over samples of `divergences`."""
    return float(divergences(reference, other, floor).mean())


def noise(reference: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(N,) each sample's mean squared difference, in units of the reference's mean square over all samples."""
    r, o = rows(reference), rows(other)
    return ((r - o) ** 2).mean(axis=1) / max(float((r**2).mean()), np.finfo(np.float64).tiny)


def sqnr(reference: np.ndarray, other: np.ndarray) -> float:
    """10 log10(sum r^2 / sum (r - o)^2) over all samples, dB; infinite where both are equal."""
    level = float(noise(reference, other).mean())
    return float("inf") if level == 0 else float(-10 * np.log10(level))


def auc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Area under the ROC curve: the probability that a positive sample scores higher than a negative one, ties counting half.

    *Domain*: at least one sample of either kind.
    """
    scores, positive = np.asarray(scores, np.float64).reshape(-1), np.asarray(positive).reshape(-1).astype(bool)
    if positive.all() or not positive.any():
        raise ValueError("AUC needs samples of both kinds")
    _, where, counts = np.unique(scores, return_inverse=True, return_counts=True)
    rank = (np.cumsum(counts) - (counts - 1) / 2)[where]
    n = int(positive.sum())
    return float((rank[positive].sum() - n * (n + 1) / 2) / (n * (len(scores) - n)))


@dataclass(frozen=True)
class Paired:
    """Two models on the same samples. lost: only the first is right; won: only the second. drop: accuracy lost, in points."""

    samples: int
    lost: int
    won: int

    @property
    def drop(self) -> float:
        return 100.0 * (self.lost - self.won) / self.samples

    @property
    def non_inferior(self) -> bool:
        """lost - won <= 2 sqrt(lost + won): the difference is within two standard errors of a fair coin over the disagreements."""
        return self.lost - self.won <= 2.0 * sqrt(self.lost + self.won)


def paired(first: np.ndarray, second: np.ndarray) -> Paired:
    """Count over samples: (N,) bool each, whether a model was right."""
    a, b = np.asarray(first, bool).reshape(-1), np.asarray(second, bool).reshape(-1)
    if a.shape != b.shape or not len(a):
        raise ValueError(f"the same samples are needed, at least one: {a.shape}, {b.shape}")
    return Paired(len(a), int((a & ~b).sum()), int((b & ~a).sum()))


def standard_error(differences: np.ndarray, groups: np.ndarray | None = None) -> float:
    """Of the mean of per-sample differences; with groups (an id per sample) groups are the independent units.

    Formula: over G groups with sums d_g of residuals about the mean, sqrt(G / (G - 1) * sum d_g^2) / N. Infinite for one group.
    """
    d = np.asarray(differences, np.float64)
    ids = np.arange(len(d)) if groups is None else np.unique(groups, return_inverse=True)[1]
    sums = np.bincount(ids, weights=d - d.mean())
    n = len(sums)
    return float("inf") if n < 2 else float(np.sqrt(n / (n - 1) * (sums**2).sum()) / len(d))
