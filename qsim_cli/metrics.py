"""Figures that `qsim eval` reports, from real outputs as (N, C) arrays."""

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


def distributions(y: np.ndarray) -> np.ndarray | None:
    """Rows as probabilities where they are some (not negative, sum 1 within 5 %); None elsewhere."""
    if y.shape[1] < 2 or (y < -1e-6).any() or (np.abs(y.sum(1) - 1) > 0.05).any():
        return None
    return y


def softmax(y: np.ndarray) -> np.ndarray:
    e = np.exp(y - y.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def divergence(reference: np.ndarray, ours: np.ndarray) -> float:
    """Mean over samples of KL(reference || ours) = sum p log(p / q), nats; p and q floored to `FLOOR` and normalized again."""
    p, q = (np.maximum(v, FLOOR) for v in (reference, ours))
    p, q = p / p.sum(1, keepdims=True), q / q.sum(1, keepdims=True)
    return float((p * np.log(p / q)).sum(1).mean())


def sqnr(reference: np.ndarray, ours: np.ndarray) -> float | None:
    """10 log10(sum r^2 / sum (r - y)^2), dB; None where both are equal."""
    noise, signal = float(((reference - ours) ** 2).sum()), float((reference**2).sum())
    return None if noise == 0 else float(10 * np.log10(max(signal, 1e-300) / noise))


def right(y: np.ndarray, labels: np.ndarray, among: int = 1) -> np.ndarray:
    """Whether the label is among the `among` largest outputs of each sample; of equal outputs the first counts as larger."""
    order = np.argsort(-y, axis=1, kind="stable")[:, :among]
    return (order == labels[:, None]).any(1)


def accuracy(y: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """top1, top5 (above five classes) as fractions, for integer labels; mean absolute error for real ones and one output."""
    if labels.dtype.kind in "iu":
        found = {"top1": float(right(y, labels).mean())}
        return found | ({"top5": float(right(y, labels, 5).mean())} if y.shape[1] > 5 else {})
    return {"mean_absolute_error": float(np.abs(y[:, 0] - labels).mean())} if y.shape[1] == 1 else {}


def comparison(y: np.ndarray, reference: np.ndarray, labels: np.ndarray | None, classification: bool) -> dict[str, Any]:
    """agreement of the largest output, KL where outputs are distributions (or made so), SQNR; lost and won samples with labels."""
    found: dict[str, Any] = {"sqnr_db": sqnr(reference, y), "equal_outputs": float((y == reference).all(1).mean())}
    if y.shape[1] > 1:
        found["agreement"] = float((y.argmax(1) == reference.argmax(1)).mean())
    p, q = distributions(reference), distributions(y)
    if p is not None and q is not None:
        found["kl_nats"] = divergence(p, q)
    elif classification and y.shape[1] > 1:
        found["kl_nats"] = divergence(softmax(reference), softmax(y))
    if labels is not None and labels.dtype.kind in "iu" and y.shape[1] > 1:
        ours, theirs = right(y, labels), right(reference, labels)
        found |= {"lost": int((theirs & ~ours).sum()), "won": int((ours & ~theirs).sum())}
    return found
