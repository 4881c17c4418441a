"""How good outputs are: right classes, divergence, noise, AUC, and the paired comparison of two models by their counts.

All functions take real outputs as float64 arrays (N, C), one row a sample, as `reals` makes them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

FLOOR = 2.0**-9  # half a step of an 8-bit probability: below it, quantized outputs cannot tell zero from small


def reals(y: np.ndarray, qparams: Any) -> np.ndarray:
    """Outputs as float64 (N, C): codes dequantized, reals as they are."""
    flat = np.asarray(y, np.float64).reshape(len(y), -1)
    if qparams is None or y.dtype.kind not in "iu":
        return flat
    return (flat - float(np.ravel(qparams.zero_point)[0])) * float(np.ravel(qparams.scale)[0])


def distributions(y: np.ndarray) -> bool:
    """True if rows are probabilities: not negative, sum 1 within 5 %."""
    return y.shape[1] > 1 and not (y < -1e-6).any() and not (np.abs(y.sum(1) - 1) > 0.05).any()


def softmax(y: np.ndarray) -> np.ndarray:
    """Along the last axis, in float64."""
    e = np.exp(np.asarray(y, np.float64) - np.max(y, axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def divergences(reference: np.ndarray, ours: np.ndarray) -> np.ndarray:
    """(N,) KL(reference || ours) = sum p log(p / q) in nats over the last axis, averaged over positions before it.

    p, q: probabilities (N, ..., C), floored to `FLOOR` and normalized again, since a code of 0 only means "below half a step".
    """
    p, q = (np.maximum(np.asarray(v, np.float64), FLOOR) for v in (reference, ours))
    p, q = p / p.sum(axis=-1, keepdims=True), q / q.sum(axis=-1, keepdims=True)
    return (p * np.log(p / q)).sum(axis=-1).reshape(len(p), -1).mean(axis=1)


def divergence(reference: np.ndarray, ours: np.ndarray) -> float:
    """Mean over samples of `divergences`, nats."""
    return float(divergences(reference, ours).mean())


def squares(reference: np.ndarray, ours: np.ndarray) -> np.ndarray:
    """(N,) each sample's mean squared difference."""
    r, o = (np.asarray(v, np.float64).reshape(len(v), -1) for v in (reference, ours))
    return ((r - o) ** 2).mean(axis=1)  # type: ignore[no-any-return]


def power(reference: np.ndarray) -> float:
    """The mean square over all samples; never 0."""
    return max(float((np.asarray(reference, np.float64) ** 2).mean()), float(np.finfo(np.float64).tiny))


def noise(reference: np.ndarray, ours: np.ndarray) -> np.ndarray:
    """(N,) each sample's mean squared difference, in units of the reference's mean square over all samples."""
    return squares(reference, ours) / power(reference)


def sqnr(reference: np.ndarray, ours: np.ndarray) -> float | None:
    """10 log10(sum r^2 / sum (r - y)^2) over all samples, dB; None where both are equal."""
    level = float(noise(reference, ours).mean())
    return None if level == 0 else float(-10 * np.log10(level))


def standard_error(differences: np.ndarray, groups: np.ndarray | None = None) -> float:
    """Of the mean of per-sample differences (N,); with groups (an id per sample) groups are the independent units.

    Formula: over G groups with sums d_g of residuals about the mean, sqrt(G / (G - 1) * sum d_g^2) / N. Infinite for one group.
    """
    d = np.asarray(differences, np.float64)
    ids = np.arange(len(d)) if groups is None else np.unique(groups, return_inverse=True)[1]
    sums = np.bincount(ids, weights=d - d.mean())
    n = len(sums)
    return float("inf") if n < 2 else float(np.sqrt(n / (n - 1) * (sums**2).sum()) / len(d))


def right(y: np.ndarray, labels: np.ndarray, among: int = 1) -> np.ndarray:
    """Whether the label is among the `among` largest outputs of each sample; of equal outputs the first counts as larger."""
    order = np.argsort(-y, axis=1, kind="stable")[:, :among]
    return (order == labels[:, None]).any(1)


def verdict(lost: int, won: int, samples: int) -> dict[str, Any]:
    """Is a model not inferior to another on the same samples? lost, won: samples that only the other, only it gets right.

    Not inferior where lost - won <= 2 sqrt(lost + won) (two standard errors of the paired difference) or where the drop is at most
    0.3 points. `interval`: the drop in points and its two-standard-error bounds.
    """
    drop, error = 100 * (lost - won) / samples, 200 * np.sqrt(lost + won) / samples
    return {
        "lost": lost, "won": won, "drop_points": drop, "interval": (drop - error, drop + error),
        "not_inferior": bool(lost - won <= 2 * np.sqrt(lost + won) or drop <= 0.3),
    }  # fmt: skip


def auc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Area under the ROC curve: the share of (positive, negative) pairs that the score orders rightly, ties counting half."""
    _, where, counts = np.unique(scores, return_inverse=True, return_counts=True)
    rank = (np.cumsum(counts) - (counts - 1) / 2)[where]  # mean rank among equal scores, from 1
    positive = np.asarray(positive, bool)
    p, n = int(positive.sum()), int((~positive).sum())
    return float((rank[positive].sum() - p * (p + 1) / 2) / (p * n))
