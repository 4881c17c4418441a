"""`evaluate`: a model's figures on data with their intervals; `compare`: two models on the same data."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from qsim.errors import BadData
from qsim.function import Function
from qsim.graph import Model

from .comparing import DRAWS, Estimate, Paired, estimates, paired
from .evaluation import reals
from .feeding import Batch, feed, finite, ports, rebatched
from .metrics import Items, Metric, require_distinct, usual
from .sharding import function_on
from .splits import group_ids
from .statistics import sample_hash

HELD, HELD_BYTES = 512, 32 << 20  # samples, and bytes of input, in one call of the model


@dataclass(frozen=True, eq=False)
class Evaluation:
    """A model's figures on samples: values[metric] is an `Estimate` (value, low, high).

    metrics, columns: what each sample contributes (see `metrics.Metric`), from which `compare` pairs two models. data: hash of the
    samples in their order.
    """

    samples: int
    values: Mapping[str, Estimate]
    data: str
    groups: np.ndarray | None = None
    metrics: tuple[Metric, ...] = ()
    columns: Mapping[str, np.ndarray] = field(default_factory=dict, repr=False)

    def rows(self) -> list[dict[str, Any]]:
        """Plain rows, for tables and JSON."""
        return [{"metric": name, **e._asdict()} for name, e in self.values.items()]


def evaluate(
    model: Model | Function,
    data: Any,
    metrics: Sequence[str | Metric | Callable[[Items], np.ndarray]] | None = None,
    *,
    reference: Model | Function | None = None,
    labels: Any = None,
    groups: Sequence[Any] | None = None,
    mode: str = "integer",
    flavour: str = "xnnpack",
    task: str | None = None,
    draws: int = DRAWS,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """Figures of a model on data, each with its 95 % bootstrap interval, in one pass that keeps a few numbers a sample.

    data: as `observe` takes them (reals; quantized inputs are quantized as the flavour does), or what `open_data` gives, with labels and
    groups of its own. labels: one a sample. groups: an id a sample; whole groups are the units of the interval. metrics: names (top1,
    topK, auc, mae, agreement, kl, sqnr, cosine), functions of `metrics.Items` that give one number a sample, or `metrics.Metric`;
    default: what fits the labels and the reference. reference: the model whose outputs agreement, KL, SQNR and cosine are measured
    against, run in float mode unless it is a `Function`. mode, flavour: how a `Model` runs.

    *Raises*: BadData for data that do not fit (as `observe`), labels of another number, a metric without what it needs; BadRecipe for an
    unknown metric.
    """
    run, other = _function(model, mode, flavour), None if reference is None else _function(reference, "float", flavour)
    labels = getattr(data, "labels", None) if labels is None else np.asarray(labels)
    groups = getattr(data, "groups", None) if groups is None else groups
    gathered = Gathered(metrics, task)
    digest = hashlib.sha256()
    for first, batch in _checked(run, data):
        digest.update(b"".join(sample_hash(a[i] for a in batch.arrays).to_bytes(16, "big") for i in range(len(batch))))
        y = outputs_of(run, batch.arrays)
        items = Items(y[0], _part(labels, first, len(batch)), _first(other, batch.arrays), batch.arrays, y)
        gathered.add(items)
        if progress:
            progress(gathered.samples)
    if labels is not None and len(labels) != gathered.samples:
        raise BadData("labels are one a sample", found=len(labels), expected=gathered.samples)
    ids = group_ids(groups, gathered.samples)
    return gathered.evaluation(digest.hexdigest(), ids, draws, seed)


def compare(ours: Evaluation, theirs: Evaluation, *, draws: int = DRAWS, seed: int = 0) -> tuple[Paired, ...]:
    """Is one model worse than another on the same samples? Every metric that both have, paired; see `comparing.Paired`.

    *Raises*: BadData where the two saw other samples, or the same in another order.
    """
    if ours.data != theirs.data:
        raise BadData("the two were evaluated on other samples, or in another order", found=ours.samples, expected=theirs.samples)
    both = [m for m in ours.metrics if m.name in theirs.columns]
    return paired(both, ours.columns, theirs.columns, ours.groups, draws=draws, seed=seed)


class Gathered:
    """The columns of metrics, batch by batch. metrics: None for what fits the first batch."""

    def __init__(self, metrics: Sequence[Any] | None, task: str | None = None):
        self.metrics = None if metrics is None else require_distinct(metrics)
        self.task, self.samples = task, 0
        self.parts: dict[str, list[np.ndarray]] = {}

    def add(self, items: Items) -> None:
        if self.metrics is None:
            self.metrics = require_distinct(usual(items, self.task))
        for m in self.metrics:
            self.parts.setdefault(m.name, []).append(m.of(items))
        self.samples += len(items.y)

    def evaluation(self, data: str = "", groups: np.ndarray | None = None, draws: int = DRAWS, seed: int = 0) -> Evaluation:
        columns = {name: np.concatenate(parts) for name, parts in self.parts.items()}
        metrics = self.metrics or ()
        values = estimates(metrics, columns, groups, draws=draws, seed=seed)
        return Evaluation(self.samples, values, data, groups, metrics, columns)


def outputs_of(function: Function, arrays: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
    """Every output as reals (n, C)."""
    tensors = [function.graph.tensors[t] for t in function.graph.outputs]
    return tuple(reals(y, t.qparams) for y, t in zip(function.batch(*arrays), tensors, strict=True))


def _function(model: Model | Function, mode: str, flavour: str) -> Function:
    return model if isinstance(model, Function) else function_on(model, mode, flavour)


def _checked(run: Function, data: Any) -> Iterator[tuple[int, Batch]]:
    """(number of the first sample, whole micro-batches). Raises: BadData, also for NaN and infinity."""
    first, wanted = 0, ports(run.model)
    bytes_each = sum(int(np.prod(p.shape)) * p.dtype.itemsize for p in wanted)
    size = run.micro_batch * max(1, min(HELD_BYTES // max(bytes_each, 1), HELD) // run.micro_batch)
    for batch in rebatched(feed(run.model, data), size):
        yield first, finite(batch, wanted, first, "raise")[0]
        first += len(batch)


def _part(labels: np.ndarray | None, first: int, count: int) -> np.ndarray | None:
    if labels is None:
        return None
    if len(labels) < first + count:
        raise BadData("fewer labels than samples", found=len(labels), expected=f"at least {first + count}")
    return labels[first : first + count]


def _first(reference: Function | None, arrays: Sequence[np.ndarray]) -> np.ndarray | None:
    return None if reference is None else outputs_of(reference, arrays)[0]
