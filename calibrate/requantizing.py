"""New ranges for a quantized file, from data: `improve` observes the real function it stands for, and decides on samples that the
compared ranges were not made from.

The observed function is the file's own in float mode (real weights, activations that only ranges carry, no clipping by bad ranges), or
that of a float original.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from qsim.errors import BadData, BadRecipe
from qsim.graph import Graph, Model
from qsim.quantizer import quantize
from qsim.relayout import Relayout, relayout
from qsim.requantizer import Changes, requantize
from qsim.scheme import INT8, INT16X8, UINT8, Scheme

from . import evaluation
from .choosing import FEWEST, PART, TASKS, Repeatable, decide, score
from .feeding import Batch
from .observer import observe_fed
from .ranging import rank, several
from .recalibrating import borrowed, channel_ratios, measured, problems_of
from .splits import deal, units
from .statistics import Statistics
from .strategies import Strategy, candidates
from .trials import Bench, scores

LEAST_GAIN = 0.05  # of the noise that the rounding of weights and of activations make together: less is not worth a new file
ANEW = " of the original"  # suffix of candidates that are quantized from the original, weights and all


@dataclass(frozen=True)
class Trial:
    """A candidate on the samples that its ranges were not made from. loss: mean. metric: share of right classes, or mean |error|."""

    strategy: str
    loss: float
    metric: float | None = None

    def row(self, measure: str) -> dict[str, Any]:
        return {"strategy": self.strategy, **score(measure, self.loss), **({} if self.metric is None else {"metric": self.metric})}


@dataclass(frozen=True)
class Verdict:
    """Whether the new file is better, and why. measure: "kl" (nats) or "sqnr" (dB) to the observed function, "" where nothing was
    compared. trials: the file as it is, then the candidates; chosen: which of them. words: the decision. limits: what holds ranges
    back. changes: those of the chosen candidate, taken or not; None for one made anew from the original."""

    better: bool
    words: str
    measure: str = ""
    trials: tuple[Trial, ...] = ()
    chosen: int = 0
    samples: int = 0
    changes: Changes | None = None
    limits: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def rows(self) -> list[dict[str, Any]]:
        """Plain rows, for tables and JSON."""
        return [{**t.row(self.measure), "chosen": k == self.chosen} for k, t in enumerate(self.trials)]

    def __str__(self) -> str:
        changes = [] if self.changes is None else [str(self.changes)]
        return "\n".join([*changes, self.words, *self.limits, *(f"note: {n}" for n in self.notes)])


@dataclass(frozen=True, eq=False)
class Asked:
    """What `improve` may do. only, keep, keep_ends: as `requantize`. strategies: names or functions, by default those of `choose`.
    task: "classification" or "regression". input_range: the domain of the model's inputs."""

    only: str | None = None
    keep: str | None = None
    keep_ends: bool = False
    strategies: Sequence[str | Strategy] = ()
    task: str | None = None
    input_range: Any = None

    @property
    def partly(self) -> bool:
        return self.only is not None or self.keep is not None or self.keep_ends


def improve(
    model: Model,
    batches: Any,
    *,
    original: Model | None = None,
    labels: Any = None,
    groups: Sequence[Any] | None = None,
    asked: Asked | None = None,
    progress: Callable[[int], None] | None = None,
) -> tuple[Model | None, Verdict]:
    """(the quantized model with better ranges, or None where none are better; the verdict).

    The samples are dealt into five parts by their content (`parts`; groups stay together). Each part is run, in integer mode, through
    models whose ranges come from the other four; the file as it is runs beside. Of the strategies `choosing.decide` takes one. It is
    better where the metric of the labels (integer classes or reals, one a sample) rises by more than its standard error; or where it
    does not fall, and the loss to the observed function (KL for classes, else noise relative to the signal) falls by more than its
    standard error and by at least 5 % of itself and of what the rounding of the file's weights adds to it. All paired. The ranges
    of the model that is returned come from all samples. original: the float model, observed in place of the file's own real function;
    quantizing it anew, weights and all, is a candidate too. progress: called with the number of samples observed.

    *Raises*: as `observe`; BadRecipe for an unknown task; BadData for labels of another number; Unsupported for an original with other
    inputs or outputs.
    """
    asked = asked or Asked()
    if asked.task not in (None, *TASKS):
        raise BadRecipe("unknown task", found=asked.task, expected=", ".join(TASKS))
    source = Repeatable(model, batches)
    hashes = source.contents()
    ids = source.groups(groups, len(hashes))
    if labels is not None and len(labels) != len(hashes):
        raise BadData("labels are one a sample", found=len(labels), expected=len(hashes))
    part = parts(hashes, ids)
    plan = relayout(model.graph, only=asked.only, keep=asked.keep, keep_ends=asked.keep_ends)
    if len(hashes) < FEWEST or not part.any() or not plan.groups:
        return None, Verdict(False, _hopeless(len(hashes), plan), samples=len(hashes), limits=_limits(model.graph, plan))
    data = _Data(source, part, None if labels is None else np.asarray(labels), ids)
    return _decided(_Makers(model, original, plan, asked), data, progress)


def parts(hashes: Sequence[int], groups: np.ndarray | None = None, count: int = PART) -> np.ndarray:
    """(N,) the part of each sample, 0 to count - 1. A unit (`splits.units`: a group, samples of equal content) stays together.

    Units are dealt in ascending order of their hash, each to the part that has the fewest samples so far.
    """
    return deal(units(hashes, groups), np.ones(count))


def _hopeless(count: int, plan: Relayout) -> str:
    if not plan.groups:
        return "no tensor may change"
    why = f"fewer than {FEWEST}" if count < FEWEST else "all in one group"
    return f"{count} samples, {why}, are too few to hold some back and compare"


# ---------------------------------------------------------------- the data, part by part


class _Data:
    """The samples by parts; labels and groups in the order in which the parts come."""

    def __init__(self, source: Repeatable, part: np.ndarray, labels: np.ndarray | None, groups: np.ndarray | None):
        self.source, self.part, self.numbers = source, part, sorted(set(part.tolist()))
        order = np.concatenate([np.flatnonzero(part == k) for k in self.numbers])
        self.labels, self.groups = (None if v is None else v[order] for v in (labels, groups))

    def fed(self, number: int) -> Iterator[Batch]:
        at = 0
        for b in self.source.fed():
            mask = self.part[at : at + len(b)] == number
            at += len(b)
            if len(mask) < len(b):
                break
            if mask.any():
                yield Batch(tuple(a[mask] for a in b.arrays), b.types)
        if at != len(self.part):
            raise BadData("the data gave another number of samples when gone through again", expected=len(self.part))

    def arrays(self, number: int) -> tuple[np.ndarray, ...]:
        return tuple(np.concatenate(p) for p in zip(*(b.arrays for b in self.fed(number)), strict=True))

    def observed(self, model: Model, number: int) -> Statistics:
        return observe_fed(model, self.fed(number), self.source.scaling, sequence=False)


# ---------------------------------------------------------------- the candidates


class _Seen(NamedTuple):
    """What was observed of the file's own function, and of the original's."""

    own: Statistics
    theirs: Statistics | None

    def merged(self, others: Iterable[_Seen]) -> _Seen:
        others = list(others)
        theirs = None if self.theirs is None else self.theirs.merge(*(o.theirs for o in others if o.theirs is not None))
        return _Seen(self.own.merge(*(o.own for o in others)), theirs)


class _Makers:
    """From what was observed to one model a candidate."""

    def __init__(self, model: Model, original: Model | None, plan: Relayout, asked: Asked):
        self.model, self.original, self.plan, self.asked = model, original, plan, asked
        self.strategies = tuple(asked.strategies or candidates())
        self.anew = None if original is None or asked.partly else _scheme_of(model.graph)
        names = [s if isinstance(s, str) else getattr(s, "__name__", type(s).__name__) for s in self.strategies]
        self.names = [*names, *(n + ANEW for n in names if self.anew)]

    def observe(self, data: _Data, number: int) -> _Seen:
        theirs = None if self.original is None else data.observed(self.original, number)
        return _Seen(data.observed(self.model, number), theirs)

    def problems(self, seen: _Seen) -> tuple[list[Any], tuple[str, ...]]:
        stats = seen.own if self.original is None or seen.theirs is None else borrowed(self.model, seen.own, self.original, seen.theirs)
        return problems_of(self.model, self.plan, stats, self.asked.input_range)

    def __call__(self, seen: _Seen) -> list[Model]:
        ranges = rank(self.model, self.problems(seen)[0], self.strategies)
        asked = self.asked
        made = [requantize(self.model, r, only=asked.only, keep=asked.keep, keep_ends=asked.keep_ends) for r in ranges]
        if self.anew is None or self.original is None or seen.theirs is None:
            return made
        scheme, io = self.anew
        found = several(self.original, seen.theirs, self.strategies, scheme, asked.input_range)
        return [*made, *(quantize(self.original, r, scheme, io=io) for r in found)]


def _scheme_of(graph: Graph) -> tuple[Scheme, tuple[str, str]] | None:
    """The scheme that a file's activations are of, and the types of its inputs and outputs; None where there is no such scheme."""
    kinds = Counter(graph.tensors[t].type for n in graph.nodes for t in n.outputs if graph.tensors[t].qparams is not None)
    schemes = {"int8": INT8, "uint8": UINT8, "int16": INT16X8}
    sides = [{graph.tensors[t].type for t in side} for side in (graph.inputs, graph.outputs)]
    known = [k for k, _ in kinds.most_common() if k in schemes]
    return (schemes[known[0]], (sides[0].pop(), sides[1].pop())) if known and [len(s) for s in sides] == [1, 1] else None


# ---------------------------------------------------------------- the decision


def _decided(makers: _Makers, data: _Data, progress: Callable[[int], None] | None) -> tuple[Model | None, Verdict]:
    seen = []
    for number in data.numbers:
        seen.append(makers.observe(data, number))
        if progress:
            progress(sum(s.own.samples for s in seen))
    bench = Bench(makers.original or makers.model, makers.asked.task)
    found = _Compared(bench, data)
    for k, number in enumerate(data.numbers):
        others = seen[:k] + seen[k + 1 :]
        found.add(data.arrays(number), [makers.model, *makers(others[0].merged(others[1:]))], makers.original is None)
    whole = seen[0].merged(seen[1:])
    chosen = 1 + decide(found.losses[1:], data.groups)
    made = makers(whole)[chosen - 1]
    problems, notes = makers.problems(whole)
    better, words = found.judged(chosen, makers.names[chosen - 1])
    changes = measured(makers.model.graph, made, problems) if isinstance(made.report, Changes) else None
    limits = () if better else (*found.bounds(), *_limits(makers.model.graph, makers.plan))
    verdict = Verdict(
        better,
        words,
        bench.measure,
        found.trials(["as it is", *makers.names]),
        chosen if better else 0,
        len(data.part),
        changes,
        limits,
        notes,
    )
    return (made.but(report=changes or made.report) if better else None), verdict


class _Compared:
    """Losses and scores (models, samples), part after part; the first model is the file as it is."""

    def __init__(self, bench: Bench, data: _Data):
        self.bench, self.data = bench, data
        self.losses, self.floor = np.zeros((0, 0)), np.zeros(0)
        self.scores: np.ndarray | None = None

    def add(self, arrays: tuple[np.ndarray, ...], models: Sequence[Model], recovered: bool) -> None:
        """One part. recovered: the observed function is the file's own, which its weights know up to their rounding only."""
        reference = self.bench.reference(arrays)
        outputs = [self.bench.outputs(m, arrays) for m in models]
        losses = np.stack([self.bench.losses(reference, y) for y in outputs])
        floor = self.bench.losses(reference, self.bench.rounded(arrays)) if recovered else np.zeros(losses.shape[1])
        at = self.losses.shape[1] if self.losses.size else 0
        self.losses = np.concatenate([self.losses, losses], 1) if self.losses.size else losses
        self.floor = np.concatenate([self.floor, floor])
        if self.data.labels is not None:
            self._score([scores(y[0], self.data.labels[at : self.losses.shape[1]]) for y in outputs])

    def _score(self, rows: Sequence[np.ndarray | None]) -> None:
        if all(r is not None for r in rows):
            new = np.stack([r for r in rows if r is not None])
            self.scores = new if self.scores is None else np.concatenate([self.scores, new], 1)

    def judged(self, chosen: int, name: str) -> tuple[bool, str]:
        """(whether a model is better than the first, in words)."""
        gain, error = self._paired(self.losses[0] - self.losses[chosen])
        part = gain / max(float((self.losses[0] + self.floor).mean()), np.finfo(np.float64).tiny)
        clear, level, metric = gain > error and part >= LEAST_GAIN, True, ""
        if self.scores is not None:
            won, doubt = self._paired(self.scores[chosen] - self.scores[0])
            clear, level = clear or won > doubt, won >= 0
            metric = f", the metric from {abs(self.scores[0].mean()):.4g} to {abs(self.scores[chosen].mean()):.4g}"
        better = clear and level
        why = "" if better else "the metric falls: " if not level else _small(gain, error, part)
        samples = f"on {self.losses.shape[1]} samples, each with ranges made without it"
        return better, f"{'better' if better else 'not better'}: {why}{name}: {self._figures(chosen)}{metric}, {samples}"

    def _figures(self, chosen: int) -> str:
        a, b = (next(iter(score(self.bench.measure, float(self.losses[k].mean())).values())) for k in (0, chosen))
        return f"SQNR {a:.2f} -> {b:.2f} dB" if self.bench.measure == "sqnr" else f"KL {a:.4g} -> {b:.4g} nats"

    def _paired(self, differences: np.ndarray) -> tuple[float, float]:
        return float(differences.mean()), evaluation.standard_error(differences, self.data.groups)

    def bounds(self) -> tuple[str, ...]:
        """What any ranges could gain at most, beside what the weights' own rounding does to the outputs."""
        old, floor = float(self.losses[0].mean()), float(self.floor.mean())
        if floor == 0 or old == 0:
            return ()
        if self.bench.measure == "sqnr":
            gain, level = 10 * np.log10((old + floor) / floor), -10 * np.log10(floor)
            return (f"ranges cannot gain more than {gain:.2g} dB: the rounding of the weights alone leaves an SQNR of {level:.1f} dB",)
        return (
            f"ranges cannot gain more than {old / (old + floor):.1%} of the KL: the rounding of the weights alone makes {floor:.3g} nats",
        )

    def trials(self, names: Sequence[str]) -> tuple[Trial, ...]:
        metrics = [None] * len(names) if self.scores is None else [float(abs(m)) for m in self.scores.mean(1)]
        return tuple(Trial(n, float(row.mean()), m) for n, row, m in zip(names, self.losses, metrics, strict=True))


def _small(gain: float, error: float, part: float) -> str:
    if gain <= error:
        return "the change is within its standard error: "
    return f"the gain is {part:.1%} of the noise that weights and ranges make together, less than {LEAST_GAIN:.0%}: "


def _limits(graph: Graph, plan: Relayout) -> tuple[str, ...]:
    """What holds ranges back: weights with one scale for channels of very different size, tensors that keep their parameters."""
    found, ratios = [], channel_ratios(graph)
    if ratios:
        node, ratio = max(ratios.items(), key=lambda item: item[1])
        place = f"op {node} {graph.nodes[node].op}"
        found.append(
            f"weights are per tensor in {len(ratios)} ops, with a channel ratio up to {ratio:.3g} ({place}): "
            "give --original for per-channel weights"
        )
    for why, count in Counter(plan.kept.values()).items():
        found.append(f"{count} tensor{'s keep their' if count > 1 else ' keeps its'} parameters: {why}")
    return tuple(found)


__all__ = ["Asked", "Trial", "Verdict", "improve", "parts"]
