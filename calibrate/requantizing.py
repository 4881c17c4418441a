"""New ranges for a quantized file, from data: observe the real function it stands for, decide on samples that no range was made from.

The observed function is the file's own in float mode (real weights, the activations that only ranges carry, no clipping by bad ranges),
or that of a float original. Old and new are compared in exact integer mode.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from qsim.errors import BadData, BadRecipe, Unsupported
from qsim.function import Function
from qsim.graph import Graph, Model, Tensor
from qsim.ops.convert import quantize_array
from qsim.relayout import CONVERSIONS, Relayout, relayout
from qsim.requantizer import Changes, group_name, requantize
from qsim.scheme import INT8, INT16X8, affine

from . import evaluation
from .choosing import FEWEST, TASKS, decide, held_back, loss_of
from .choosing import _group_ids as group_ids
from .choosing import _parted as parted
from .choosing import _Repeatable as Repeatable
from .choosing import _score as score
from .distribution import Distribution, distribution
from .feeding import Batch, declared
from .folding import COPIES
from .observer import observe_fed
from .ranging import Problem, Ranges, rank
from .rounding import losses, mesh
from .statistics import Statistics, sample_hash
from .strategies import Strategy, candidates

CONVERTED = "of the model's input"


@dataclass(frozen=True)
class Trial:
    """A candidate's mean loss on the held-back samples, and how many of them it gets right (mean |error| for real labels)."""

    strategy: str
    loss: float
    metric: float | None = None

    def row(self, measure: str) -> dict[str, Any]:
        return {"strategy": self.strategy, **score(measure, self.loss), **({} if self.metric is None else {"metric": self.metric})}


@dataclass(frozen=True)
class Verdict:
    """Whether the new file is better, and why. measure: "kl" (nats) or "sqnr" (dB) to the observed function. old, new: on the held-back
    samples. words: the decision. limits: what holds ranges back. changes: of the best candidate, taken or not."""

    better: bool
    words: str
    measure: str = ""
    old: Trial | None = None
    new: Trial | None = None
    trials: tuple[Trial, ...] = ()
    calibrated: int = 0
    held_back: int = 0
    changes: Changes | None = None
    limits: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def rows(self) -> list[dict[str, Any]]:
        """Plain rows, for tables and JSON: the file as it is, then the candidates."""
        return [] if self.old is None else [t.row(self.measure) for t in (self.old, *self.trials)]

    def __str__(self) -> str:
        changes = [] if self.changes is None else [str(self.changes)]
        return "\n".join([*changes, self.words, *self.limits, *(f"note: {n}" for n in self.notes)])


@dataclass(frozen=True, eq=False)
class Asked:
    """What `improve` was asked for, beside model and data."""

    only: str | None = None
    keep: str | None = None
    keep_ends: bool = False
    strategies: Sequence[str | Strategy] = ()
    task: str | None = None
    input_range: Any = None


def improve(
    model: Model,
    batches: Any,
    *,
    original: Model | None = None,
    labels: np.ndarray | None = None,
    groups: Sequence[Any] | None = None,
    asked: Asked | None = None,
    progress: Callable[[int], None] | None = None,
) -> tuple[Model | None, Verdict]:
    """(the quantized model with better ranges, or None where none are better; the verdict).

    One fifth of the samples is held back (`choosing.held_back`); every strategy's ranges come from the rest. labels: one a sample,
    integer classes or reals. Better means, on the held-back samples: the metric of the labels improves by more than its standard error,
    or does not fall and the loss to the observed function (KL for classes, else noise relative to the signal) falls by more than its
    standard error, both paired with the file as it is. original: the float model, observed in place of the file's own real function.

    *Raises*: as `observe`; BadRecipe for an unknown task; BadData for labels of another number; Unsupported for an original with other
    inputs or outputs.
    """
    asked = asked or Asked()
    if asked.task not in (None, *TASKS):
        raise BadRecipe("unknown task", found=asked.task, expected=", ".join(TASKS))
    source = Repeatable(model, batches)
    hashes = [sample_hash(a[i] for a in b.arrays) for b in source.fed() for i in range(len(b))]
    ids = group_ids(groups, len(hashes))
    held = held_back(hashes, ids) if len(hashes) >= FEWEST else np.zeros(len(hashes), bool)
    if labels is not None and len(labels) != len(hashes):
        raise BadData("labels are one a sample", found=len(labels), expected=len(hashes))
    if not held.any():
        why = f"fewer than {FEWEST}" if len(hashes) < FEWEST else "all in one group"
        return None, Verdict(False, f"{len(hashes)} samples, {why}, are too few to hold some back and compare", calibrated=len(hashes))
    kept: list[Batch] = []
    stats = observe_fed(model, parted(source.fed(), held, kept), source.scaling, sequence=False, progress=progress)
    arrays = tuple(np.concatenate(parts) for parts in zip(*(b.arrays for b in kept), strict=True))
    y = None if labels is None else np.asarray(labels)[held]
    trial = _Trials(model, original or model, arrays, y, None if ids is None else ids[held], asked.task)
    return _decided(model, stats, trial, asked, (stats.samples, int(held.sum())))


def _decided(model: Model, stats: Statistics, trial: _Trials, asked: Asked, counts: tuple[int, int]) -> tuple[Model | None, Verdict]:
    plan = relayout(model.graph, only=asked.only, keep=asked.keep, keep_ends=asked.keep_ends)
    if not plan.groups:
        return None, Verdict(False, "no tensor may change", limits=_limits(model.graph, plan), calibrated=counts[0], held_back=counts[1])
    problems, notes = problems_of(model, plan, stats, asked.input_range)
    names = asked.strategies or candidates()
    made = [requantize(model, r, only=asked.only, keep=asked.keep, keep_ends=asked.keep_ends) for r in _ranked(model, problems, names)]
    found = [trial(m) for m in made]
    chosen = decide(np.stack([f.losses for f in found]), trial.groups)
    old = trial(model)
    better, words = trial.compared(old, found[chosen], _name(names[chosen]))
    changes = _measured(model.graph, plan, problems, made[chosen])
    limits = () if better else _limits(model.graph, plan)
    trials = tuple(f.trial(_name(n)) for f, n in zip(found, names, strict=True))
    verdict = Verdict(
        better, words, trial.measure, old.trial("as it is"), trials[chosen], trials, *counts, changes, limits, (*notes, *changes.notes)
    )
    return (made[chosen].but(report=changes) if better else None), verdict


def _name(strategy: str | Strategy) -> str:
    return strategy if isinstance(strategy, str) else getattr(strategy, "__name__", type(strategy).__name__)


# ---------------------------------------------------------------- ranges


def problems_of(model: Model, plan: Relayout, stats: Statistics, input_range: Any) -> tuple[list[Problem], tuple[str, ...]]:
    """One estimation problem a group, and notes. What the model's inputs are stored in covers their domain, not what was seen of it."""
    given, notes, problems = declared(model, input_range), list[str](), list[Problem]()
    for group in plan.groups:
        source = next((s for t in group if (s := input_of(model.graph, t)) is not None), None)
        if source is not None:
            known = given.get(source) or _domain(model.graph, stats, group, source, notes)
            problems.append(Problem(group, None, known))
            continue
        own = [t for t in group if not _copies(model.graph, t, group)]
        sketches = [s for t in own if (s := stats.find(t)) is not None and not s.empty]
        if sketches:
            problems.append(Problem(group, distribution(sketches)))
        else:
            notes.append(f"{group_name(model.graph, group)}: nothing was observed, the range stays")
    return problems, tuple(notes)


def input_of(graph: Graph, t: int) -> int | None:
    """The model input whose values a tensor holds: itself, or what a QUANTIZE makes of it."""
    if t in graph.inputs:
        return t
    node = graph.nodes[graph.producer[t]] if t in graph.producer else None
    return node.inputs[0] if node is not None and node.op == "QUANTIZE" and node.inputs[0] in graph.inputs else None


def _domain(graph: Graph, stats: Statistics, group: Sequence[int], source: int, notes: list[str]) -> tuple[float, float]:
    """What integer data declare; else the range that the file has, widened where the data leave it."""
    if source in stats.domains:
        domain = stats.domains[source]
        notes.append(f"input {graph.key(source)!r}: range [{domain.low:g}, {domain.high:g}], {domain.words}")
        return domain.low, domain.high
    low, high = (float(e[0]) for e in graph.tensors[group[0]].qparams.real_range())  # type: ignore[union-attr]
    seen, step = stats.tensors[stats.copies.get(source, source)], float(graph.tensors[group[0]].qparams.scale[0])  # type: ignore[union-attr]
    if seen.min < low - step / 2 or seen.max > high + step / 2:
        notes.append(f"input {graph.key(source)!r}: data in [{seen.min:g}, {seen.max:g}] leave the file's range [{low:g}, {high:g}]")
        return min(low, seen.min), max(high, seen.max)
    return low, high


def _copies(graph: Graph, t: int, group: Sequence[int]) -> bool:
    node = graph.nodes[graph.producer[t]] if t in graph.producer else None
    return node is not None and node.op in (*COPIES, *CONVERSIONS) and node.inputs[0] in group


def _ranked(model: Model, problems: Sequence[Problem], names: Sequence[str | Strategy]) -> list[Ranges]:
    """Each strategy's ranges; 16-bit tensors are searched as such."""
    wide = [p for p in problems if model.graph.tensors[p.group[0]].type == "int16"]
    narrow = [p for p in problems if p not in wide]
    both = zip(rank(model, narrow, names, INT8), rank(model, wide, names, INT16X8), strict=True)
    return [Ranges({**a, **b}, a.strategy) for a, b in both]


def _measured(graph: Graph, plan: Relayout, problems: Sequence[Problem], made: Model) -> Changes:
    """The report of a requantized model with what the observed values say of each new range."""
    report: Changes = made.report
    values = {group_name(graph, p.group): p for p in problems if p.values is not None}
    rows = (_gain(graph, made.graph, values[r.tensor], r) if r.tensor in values else r for r in report.ranges)
    return replace(report, ranges=tuple(rows))


def _gain(graph: Graph, made: Graph, problem: Problem, row: Any) -> Any:
    d, (old, new) = problem.values, (g.tensors[problem.group[0]] for g in (graph, made))
    assert d is not None
    pairs = [(float(t.qparams.scale[0]), int(t.qparams.zero_point[0])) for t in (old, new)]  # type: ignore[union-attr]
    before, after = losses(mesh(d), pairs, old.type, (2.0,))[0]
    gain = float(10 * np.log10(max(before, 1e-300) / max(after, 1e-300)))
    return replace(row, clipped_before=clipped(d, row.old), clipped=clipped(d, row.new), gain_db=gain)


def clipped(d: Distribution, ends: tuple[float, float]) -> float:
    """The share of a distribution's elements outside a range, those of an interval spread evenly over it."""
    width = d.upper - d.lower
    with np.errstate(divide="ignore", invalid="ignore"):
        below = np.where(width > 0, np.clip((ends[0] - d.lower) / width, 0, 1), d.lower < ends[0])
        above = np.where(width > 0, np.clip((d.upper - ends[1]) / width, 0, 1), d.upper > ends[1])
    return float(((below + above) * d.weight).sum() / max(d.total, 1.0))


# ---------------------------------------------------------------- trials


@dataclass(frozen=True, eq=False)
class Result:
    """Of one model on the held-back samples: losses (N,) to the observed function; scores (N,) against the labels, higher is better."""

    losses: np.ndarray
    scores: np.ndarray | None

    def trial(self, name: str) -> Trial:
        return Trial(name, float(self.losses.mean()), None if self.scores is None else float(abs(self.scores.mean())))


class _Trials:
    """Runs models in exact integer mode on the held-back samples; those of one static plan share a compile."""

    def __init__(self, model: Model, observed: Model, arrays: tuple[np.ndarray, ...], labels: Any, groups: Any, task: str | None):
        self.arrays, self.labels, self.groups = arrays, labels, groups
        self.functions: list[Function] = []
        self.done: dict[tuple, Result] = {}
        roots = tuple(_unconverted(observed.graph, t) for t in observed.graph.outputs)
        self.measure, self.loss = loss_of(observed.graph.but(outputs=roots), task)
        self.reference = Function(observed, "float", "xnnpack").batch(*arrays)
        if [y.shape for y in self.reference] != [(len(arrays[0]), *model.graph.tensors[t].shape) for t in model.graph.outputs]:
            raise Unsupported("the original has other outputs than the file", where=observed.path)

    def __call__(self, model: Model) -> Result:
        key = tuple(t.qparams for t in model.graph.tensors)
        if key not in self.done:
            outputs = self._outputs(model)
            self.done[key] = Result(self.loss(self.reference, outputs), self._scores(outputs[0]))
        return self.done[key]

    def _outputs(self, model: Model) -> list[np.ndarray]:
        inputs = [_stored(x, model.graph.tensors[t]) for x, t in zip(self.arrays, model.graph.inputs, strict=True)]
        outputs = self._run(model, inputs)
        return [_real(y, model.graph.tensors[t]) for y, t in zip(outputs, model.graph.outputs, strict=True)]

    def _run(self, model: Model, inputs: list[np.ndarray]) -> Any:
        for function in self.functions:
            try:
                return function.run_samples(function.lower(model), *inputs)
            except Unsupported:
                continue
        self.functions.append(Function(model, "integer", "xnnpack"))
        return self.functions[-1].run_samples(self.functions[-1].params, *inputs)

    def _scores(self, y: np.ndarray) -> np.ndarray | None:
        if self.labels is None:
            return None
        flat = y.reshape(len(y), -1)
        if self.labels.dtype.kind in "iu" and flat.shape[1] > 1:
            return evaluation.right(flat, self.labels.reshape(-1)).astype(np.float64)
        return -np.abs(flat[:, 0] - self.labels.reshape(-1)) if flat.shape[1] == 1 else None

    def compared(self, old: Result, new: Result, name: str) -> tuple[bool, str]:
        """(whether the new model is better, in words)."""
        gain, error = self._paired(old.losses - new.losses)
        words = [f"{name}: {self._figures(old, new)}"]
        clear, level = gain > error, True
        if old.scores is not None and new.scores is not None:
            won, doubt = self._paired(new.scores - old.scores)
            clear, level = clear or won > doubt, won >= 0
            words.append(f"the metric goes from {abs(old.scores.mean()):.4g} to {abs(new.scores.mean()):.4g}")
        better = clear and level
        words.append("better by more than the standard error" if better else "not better by more than the standard error")
        return better, ", ".join(words) + f" ({len(old.losses)} samples held back)"

    def _figures(self, old: Result, new: Result) -> str:
        (_, a), (_, b) = (next(iter(score(self.measure, float(r.losses.mean())).items())) for r in (old, new))
        return f"SQNR {a:.2f} -> {b:.2f} dB" if self.measure == "sqnr" else f"KL {a:.4g} -> {b:.4g} nats"

    def _paired(self, differences: np.ndarray) -> tuple[float, float]:
        return float(differences.mean()), evaluation.standard_error(differences, self.groups)


def _unconverted(graph: Graph, t: int) -> int:
    """The tensor behind the conversions of type that make an output."""
    while t in graph.producer and graph.nodes[graph.producer[t]].op in CONVERSIONS:
        t = graph.nodes[graph.producer[t]].inputs[0]
    return t


def _stored(x: np.ndarray, t: Tensor) -> np.ndarray:
    return quantize_array(x, t.qparams, t.type, "xnnpack") if t.qparams is not None and t.type != "float32" else x


def _real(y: np.ndarray, t: Tensor) -> np.ndarray:
    return evaluation.reals(y, t.qparams).reshape(y.shape)


# ---------------------------------------------------------------- what holds it back


def _limits(graph: Graph, plan: Relayout) -> tuple[str, ...]:
    """Why better ranges would not help: tensors that keep theirs, weights with one scale for very different channels."""
    return tuple([*_weights_in_words(graph), *_kept_in_words(graph, plan)])


def _weights_in_words(graph: Graph) -> Iterator[str]:
    ratios = channel_ratios(graph)
    if ratios:
        node, ratio = max(ratios.items(), key=lambda item: item[1])
        yield (
            f"weights are per tensor in {len(ratios)} ops, with a channel ratio up to {ratio:.3g} (op {node} {graph.nodes[node].op}); "
            "give --original for per-channel weights"
        )


def _kept_in_words(graph: Graph, plan: Relayout) -> Iterator[str]:
    reasons: dict[str, int] = {}
    for why in plan.kept.values():
        reasons[why] = reasons.get(why, 0) + 1
    yield from (f"{count} tensor{'s' if count > 1 else ''} kept: {why}" for why, count in reasons.items() if "dictates" not in why)


def channel_ratios(graph: Graph) -> dict[int, float]:
    """node index -> the largest |weight| of a layer over that of its smallest output channel, where one scale serves all channels.

    Channels of zeros alone do not count.
    """
    from qsim.relayout import record

    found = {}
    for node in graph.nodes:
        op = record(node)
        if op is None or op.rule.weights is None or op.rule.weight_axis is None or op.rule.weights >= len(node.inputs):
            continue
        w = graph.tensors[node.inputs[op.rule.weights]]
        if w.data is not None and w.qparams is not None and not w.qparams.per_channel:
            rows = np.moveaxis(w.data.astype(np.int64) - int(np.ravel(w.qparams.zero_point)[0]), op.rule.weight_axis, 0)
            peak = np.abs(rows.reshape(len(rows), -1)).max(1, initial=0)
            found[node.index] = float(peak.max(initial=1) / max(peak[peak > 0].min(initial=peak.max(initial=1)), 1))
    return found


__all__ = ["Asked", "Mapping", "Trial", "Verdict", "affine", "channel_ratios", "improve"]
