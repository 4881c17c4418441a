"""The figures that `qsim eval` reports, from real outputs as (N, C) arrays; the measures themselves are `calibrate.evaluation`'s."""

from __future__ import annotations

from typing import Any

import numpy as np

from calibrate import evaluation as ev


def reals(y: np.ndarray, qparams: Any) -> np.ndarray:
    """Outputs as float64 (N, C): codes dequantized, reals as they are."""
    flat = ev.rows(y)
    if qparams is None or y.dtype.kind not in "iu":
        return flat
    return (flat - float(np.ravel(qparams.zero_point)[0])) * float(np.ravel(qparams.scale)[0])


def probabilities(y: np.ndarray) -> bool:
    """True if rows are distributions: not negative, sum 1 within 5 % (8-bit codes round each entry)."""
    return y.shape[1] > 1 and not (y < -1e-6).any() and not (np.abs(y.sum(1) - 1) > 0.05).any()


def accuracy(y: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """top1, top5 (above five classes) as fractions, for integer labels; mean absolute error for real ones and one output."""
    if labels.dtype.kind in "iu":
        return {"top1": ev.top_k(y, labels)} | ({"top5": ev.top_k(y, labels, 5)} if y.shape[1] > 5 else {})
    return {"mean_absolute_error": float(np.abs(y[:, 0] - labels).mean())} if y.shape[1] == 1 else {}


def comparison(y: np.ndarray, reference: np.ndarray, labels: np.ndarray | None, classification: bool) -> dict[str, Any]:
    """agreement of the largest output, KL where outputs are distributions (or made so), SQNR; lost and won samples with labels."""
    noise = ev.sqnr(reference, y)
    found: dict[str, Any] = {"sqnr_db": noise if np.isfinite(noise) else None, "equal_outputs": float((y == reference).all(1).mean())}
    if y.shape[1] > 1:
        found["agreement"] = ev.agreement(reference, y)
    if probabilities(reference) and probabilities(y):
        found["kl_nats"] = ev.kl(reference, y)
    elif classification and y.shape[1] > 1:
        found["kl_nats"] = ev.kl(ev.softmax(reference), ev.softmax(y))
    if labels is not None and labels.dtype.kind in "iu" and y.shape[1] > 1:
        pair = ev.paired(ev.right(reference, labels), ev.right(y, labels))
        found |= {"lost": pair.lost, "won": pair.won}
    return found
