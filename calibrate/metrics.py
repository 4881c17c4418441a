"""Metrics as records: what each sample contributes, and the figure of any weighting of the samples (which makes intervals easy)."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from qsim.errors import BadData, BadRecipe

from . import evaluation

Array = np.ndarray
MARGIN = 0.003  # of shares (0.3 points): what `evaluation.verdict` takes as no loss


class Items(NamedTuple):
    """Samples as metrics see them. y: the first output as reals (n, C); labels, reference (the other model's y), or None;
    inputs: arrays (n, ...), one per model input; outputs: every output as reals (n, C)."""

    y: Array
    labels: Array | None = None
    reference: Array | None = None
    inputs: tuple[Array, ...] = ()
    outputs: tuple[Array, ...] = ()


def mean(columns: Array, weights: Array) -> Array:
    """sum w v / sum w."""
    return (weights @ columns[:, 0]) / weights.sum(axis=1)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Metric:
    """A figure over samples.

    columns: Items -> (n, k) numbers, each row of one sample alone. value: ((N, k) columns, (b, N) weights) -> (b,) figures; the default
    is the weighted mean of the only column. better: 1 where larger is better, -1 where smaller is. needs: "labels", "reference" or "".
    margin: a loss up to it is none.
    """

    name: str
    columns: Callable[[Items], Array]
    value: Callable[[Array, Array], Array] = mean
    better: int = 1
    needs: str = ""
    margin: float = 0.0

    def of(self, items: Items) -> Array:
        """(n, k) columns in float64. *Raises*: BadData where labels or reference are missing, or the rows are not one a sample."""
        if self.needs and getattr(items, self.needs) is None:
            hint = "Give labels (y)" if self.needs == "labels" else "Give another model to compare with"
            raise BadData(f"metric {self.name!r} needs {self.needs}", hint=hint)
        found = np.asarray(self.columns(items), np.float64)
        if found.ndim not in (1, 2) or len(found) != len(items.y):
            raise BadData(f"metric {self.name!r} must give one number a sample", found=found.shape, expected=(len(items.y),))
        return found.reshape(len(found), -1)


def named(name: str | Metric | Callable[[Items], Array]) -> Metric:
    """The metric of a name: top1, top5, topK, auc, mae, agreement, kl, sqnr, cosine, equal_outputs; or a function of `Items` giving (n,)
    numbers, larger being better, whose mean is the figure; or a `Metric` as it is. *Raises*: BadRecipe for another name."""
    if isinstance(name, Metric):
        return name
    if callable(name):
        return Metric(getattr(name, "__name__", "metric"), name)
    if match := re.fullmatch(r"top([1-9]\d{0,4})", name):
        return _top(int(match[1]))
    if name not in TABLE:
        raise BadRecipe("unknown metric", found=name, expected="top1, top5, topK, " + ", ".join(TABLE) + ", or a function")
    return TABLE[name]


def usual(items: Items, task: str | None = None) -> tuple[str, ...]:
    """What fits the samples: top1 and top5, or mae, against labels; sqnr, cosine, equal_outputs, agreement and kl against a reference.
    KL where the reference is probabilities, or the task is classification."""
    y, labels, reference = items.y, items.labels, items.reference
    found: list[str] = []
    if labels is not None and labels.dtype.kind in "iu" and y.shape[1] > 1:
        found += ["top1", *(["top5"] if y.shape[1] > 5 else [])]
    elif labels is not None and y.shape[1] == 1 and labels.dtype.kind not in "iu":
        found += ["mae"]
    if reference is not None:
        soft = y.shape[1] > 1 and (task == "classification" or (evaluation.distributions(reference) and not (y < -1e-6).any()))
        found += ["sqnr", "cosine", "equal_outputs", *(["agreement"] if y.shape[1] > 1 else []), *(["kl"] if soft else [])]
    return tuple(found)


def auc_of(score: Callable[[Items], Array], name: str = "auc") -> Metric:
    """Area under the ROC curve of a score (n,), higher for positive samples; labels: 0 or 1."""
    return Metric(name, lambda items: np.stack([score(items), _binary(items)], axis=1), _auc, needs="labels", margin=MARGIN)


def _top(k: int) -> Metric:
    return Metric(f"top{k}", lambda i: evaluation.right(i.y, _classes(i), k), needs="labels", margin=MARGIN)


def _classes(items: Items) -> Array:
    labels = items.labels
    if labels is None or labels.dtype.kind not in "iu" or labels.ndim != 1:
        raise BadData("top-k needs one class number a sample", found=None if labels is None else (labels.dtype, labels.shape))
    return labels


def _binary(items: Items) -> Array:
    labels = np.asarray(items.labels)
    if labels.ndim != 1 or not np.isin(labels, (0, 1)).all():
        raise BadData("AUC needs one label a sample, 0 or 1", found=sorted(set(np.ravel(labels).tolist()))[:5])
    return labels


def _score(items: Items) -> Array:
    if items.y.shape[1] > 2:
        raise BadData("AUC needs one output, or two classes", found=items.y.shape[1])
    return items.y[:, -1]


def _auc(columns: Array, weights: Array) -> Array:
    """The weighted share of (positive, negative) pairs that the score orders rightly, ties counting half. NaN without such pairs."""
    _, level = np.unique(columns[:, 0], return_inverse=True)
    order = np.argsort(level, kind="stable")
    starts = np.flatnonzero(np.diff(level[order], prepend=-1))
    positive = columns[order, 1] == 1
    w = weights[:, order]
    p, n = (np.add.reduceat(w * side, starts, axis=1) for side in (positive, ~positive))
    below = np.cumsum(n, axis=1) - n / 2
    with np.errstate(invalid="ignore"):
        return (p * below).sum(axis=1) / (p.sum(axis=1) * n.sum(axis=1))  # type: ignore[no-any-return]


def _error(items: Items) -> Array:
    labels = np.asarray(items.labels, np.float64)
    return np.abs(items.y - labels.reshape(len(labels), -1)).mean(axis=1)


def _agreement(items: Items) -> Array:
    return items.y.argmax(1) == _other(items).argmax(1)


def _other(items: Items) -> Array:
    other = np.asarray(items.reference)
    if other.shape != items.y.shape:
        raise BadData("the two models' outputs have different sizes", found=items.y.shape, expected=other.shape)
    return other


def _noise(items: Items) -> Array:
    """Signal and noise of each sample, sums of squares."""
    r = _other(items)
    return np.stack([(r**2).sum(axis=1), ((r - items.y) ** 2).sum(axis=1)], axis=1)


def _sqnr(columns: Array, weights: Array) -> Array:
    """10 log10(sum signal / sum noise), dB; infinite without noise."""
    signal, noise = weights @ columns[:, 0], weights @ columns[:, 1]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(noise == 0, np.inf, 10 * np.log10(signal / noise))


def _cosine(items: Items) -> Array:
    """Of the angle between both outputs; 1 where both are 0, 0 where one is."""
    r, y = _other(items), items.y
    size = np.sqrt((r**2).sum(axis=1) * (y**2).sum(axis=1))
    equal = (r == y).all(axis=1)
    return np.where(equal, 1.0, np.divide((r * y).sum(axis=1), size, out=np.zeros(len(y)), where=size > 0))


def _divergences(items: Items) -> Array:
    """KL from the reference as it is and after softmax, nats; and whether the row is no distribution."""
    r, y = _other(items), items.y
    bad = (np.abs(r.sum(axis=1) - 1) > 0.05) | (r < -1e-6).any(axis=1) | (y < -1e-6).any(axis=1)
    soft = evaluation.divergences(evaluation.softmax(r), evaluation.softmax(y))
    return np.stack([evaluation.divergences(r, y), soft, bad], axis=1)


def _kl(columns: Array, weights: Array) -> Array:
    """Mean over samples; outputs that are not probabilities throughout go through a softmax."""
    return mean(columns[:, 1:] if columns[:, 2].any() else columns, weights)


def single(metric: Metric, columns: Array) -> Array | None:
    """(N,) the one number a sample whose mean is the figure; None for a figure of the whole set."""
    if metric.value is _kl:
        return columns[:, 1] if columns[:, 2].any() else columns[:, 0]  # type: ignore[no-any-return]
    return columns[:, 0] if metric.value is mean else None


TABLE = {
    m.name: m
    for m in (
        auc_of(_score),
        Metric("mae", _error, better=-1, needs="labels"),
        Metric("agreement", _agreement, needs="reference", margin=MARGIN),
        Metric("kl", _divergences, _kl, better=-1, needs="reference"),
        Metric("sqnr", _noise, _sqnr, needs="reference"),
        Metric("cosine", _cosine, needs="reference"),
        Metric("equal_outputs", lambda i: (_other(i) == i.y).all(axis=1), needs="reference"),
    )
}


def require_distinct(metrics: Sequence[Any]) -> tuple[Metric, ...]:
    """The metrics of names and functions. *Raises*: BadRecipe where two have one name."""
    found = tuple(named(m) for m in metrics)
    names = [m.name for m in found]
    if len(set(names)) < len(names):
        raise BadRecipe("two metrics of one name", found=", ".join(names))
    return found
