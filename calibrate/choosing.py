"""`choose`: the strategy by what it does to the model's outputs, in exact integer mode, on samples that no range was made from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qsim.errors import BadData, BadRecipe, Unsupported
from qsim.function import Function
from qsim.graph import Graph, Model
from qsim.layout import layout
from qsim.quantizer import quantize
from qsim.recipe import Schemes
from qsim.scheme import INT8

from . import evaluation, sources
from .feeding import Batch, Scaling, feed
from .folding import COPIES
from .observer import observe_fed
from .ranging import Ranges, several
from .splits import contents, group_ids, units
from .statistics import Statistics
from .strategies import candidates

WIDE = "minmax:headroom=1.1"
FEWEST = 32  # samples below which nothing is held back
PART = 5  # one in so many samples is held back
MEASURES = {"kl": "output KL", "sqnr": "output SQNR"}
TASKS = ("classification", "regression")


@dataclass(frozen=True)
class Row:
    """A candidate's score on the held-back samples. loss: mean KL in nats, or mean noise relative to the signal.

    difference, error: mean of (its loss - the chosen one's) over samples, and the standard error of that mean.
    """

    strategy: str
    loss: float
    difference: float
    error: float
    chosen: bool


@dataclass(frozen=True)
class Table:
    """How `choose` decided. measure: "kl" (nats), "sqnr" (dB), or "" where nothing was compared; words: the decision as a sentence."""

    measure: str
    candidates: tuple[Row, ...]
    calibrated: int
    held_back: int
    words: str
    notes: tuple[str, ...] = ()

    @property
    def chosen(self) -> str:
        return next(r.strategy for r in self.candidates if r.chosen)

    def rows(self) -> list[dict[str, Any]]:
        """Plain rows, for tables and JSON."""
        return [
            {"strategy": r.strategy, **score(self.measure, r.loss), "difference": r.difference, "error": r.error, "chosen": r.chosen}
            for r in self.candidates
        ]

    def __str__(self) -> str:
        if not self.measure:
            return self.words
        lines = [self.words]
        for row in self.rows():
            told = next((f"{k} {v:.5g}" for k, v in row.items() if k in ("kl", "sqnr_db")), "")
            lines.append(f"{'*' if row['chosen'] else ' '} {row['strategy']:20s} {told:18s} {row['difference']:+.2e} +- {row['error']:.1e}")
        return "\n".join(lines)


def score(measure: str, loss: float) -> dict[str, float]:
    if measure == "sqnr":
        return {"sqnr_db": float("inf") if loss == 0 else float(-10 * np.log10(loss))}
    return {"kl": loss} if measure else {}


def choose(
    model: Model,
    batches: Any,
    scheme: Schemes = INT8,
    *,
    task: str | None = None,
    groups: Sequence[Any] | None = None,
    input_range: Any = None,
    progress: Callable[[int], None] | None = None,
    dead_range: bool = False,
) -> tuple[Ranges, Table]:
    """The ranges of the strategy that changes the model's outputs least, and the table of all candidates.

    One fifth of the samples is held back: those with the smallest content hashes, whole groups where `groups` gives a group id per
    sample (a file's windows, a block of consecutive frames). Every candidate's ranges come from one pass over the rest; its int8 model
    runs in integer mode (flavour xnnpack) on the held-back samples. The loss is KL(float || int8) where the outputs come from SOFTMAX
    or task="classification" (logits go through a softmax first), else the noise relative to the signal (SQNR). Of the candidates
    whose loss is above the smallest by no more than the standard error of the paired difference (over groups, where given) the one
    that clips least is taken: a strategy must beat min/max by more than that error, or min/max it is. The ranges returned are those
    that were compared, from four fifths of the samples. Fewer than 32 samples, or a single group: min/max, and the table says so; where
    all codes have 16 bits: min/max with headroom 1.1.

    progress: called with the number of samples seen so far, over all passes. dead_range: as in `ranges`. *Raises*: as `observe`, `ranges`
    and `quantize`; BadRecipe for another task.
    """
    return choose_with_statistics(
        model, batches, scheme, task=task, groups=groups, input_range=input_range, progress=progress, dead_range=dead_range
    )[:2]  # fmt: skip


def choose_with_statistics(
    model: Model,
    batches: Any,
    scheme: Schemes = INT8,
    *,
    task: str | None = None,
    groups: Sequence[Any] | None = None,
    input_range: Any = None,
    progress: Callable[[int], None] | None = None,
    dead_range: bool = False,
) -> tuple[Ranges, Table, Statistics]:
    """`choose`, and the statistics from which the ranges were made."""
    if task not in (None, *TASKS):
        raise BadRecipe("unknown task", found=task, expected=", ".join(TASKS))
    source = Repeatable(model, batches)
    if set(layout(model, scheme).types) <= {"int16"}:
        words = f"{WIDE}: 16 bits need no clipping"
        return _settled(model, source, scheme, input_range, WIDE, words, progress, dead_range)
    hashes = source.contents()
    ids = source.groups(groups, len(hashes))
    held = held_back(hashes, ids) if len(hashes) >= FEWEST else np.zeros(len(hashes), bool)
    if not held.any():
        why = f"fewer than {FEWEST}" if len(hashes) < FEWEST else "all in one group"
        words = f"minmax: {len(hashes)} samples, {why}, are too few to hold some back and compare strategies"
        return _settled(model, source, scheme, input_range, "minmax", words, progress, dead_range)
    kept: list[Batch] = []
    stats = observe_fed(model, _parted(source.fed(), held, kept), source.scaling, sequence=dead_range, progress=progress)
    names = candidates()
    found = several(model, stats, names, scheme, input_range, dead_range=dead_range)
    arrays = tuple(np.concatenate(parts) for parts in zip(*(b.arrays for b in kept), strict=True))
    seen = stats.samples

    def told(samples: int) -> None:
        nonlocal seen
        seen += samples
        if progress:
            progress(seen)

    measure, losses, notes = _losses(model, found, scheme, arrays, task, told)
    chosen = decide(losses, None if ids is None else ids[held])
    table = _table(measure, names, losses, chosen, None if ids is None else ids[held], (stats.samples, int(held.sum())), notes)
    return found[chosen], table, stats


# ---------------------------------------------------------------- the split


class Repeatable:
    """Data that can be gone through twice: an iterator's batches are kept as they came, up to 1 GiB (`sources.kept`)."""

    def __init__(self, model: Model, batches: Any):
        self.model, self.scaling = model, getattr(batches, "scaling", None) or Scaling()
        self.own_groups = getattr(batches, "groups", None)
        self.batches = _Kept(batches, self.scaling) if isinstance(batches, Iterator) else batches

    def fed(self) -> Iterator[Batch]:
        return feed(self.model, self.batches)

    def contents(self) -> list[int]:
        """The content hash of every sample; one pass."""
        return contents(self.model, self.batches)

    def groups(self, given: Any, count: int) -> np.ndarray | None:
        """Group numbers: the given ones, else the data's own."""
        return group_ids(self.own_groups if given is None else given, count)


class _Kept(list[Any]):
    def __init__(self, items: Iterable[Any], scaling: Scaling):
        super().__init__(sources.kept(items))
        self.scaling = scaling


def held_back(hashes: Sequence[int], groups: np.ndarray | None = None) -> np.ndarray:
    """(N,) bool: the held-back samples. A unit (`splits.units`: a group, samples of equal content) is held back or kept as a whole.

    Units are taken in ascending order of their hash (the sum of their samples' modulo 2^128) while at most a fifth of the samples is
    held back, the first one always; none where there is only one unit.
    """
    ordered, held = units(hashes, groups), np.zeros(len(hashes), bool)
    for unit in ordered if len(ordered) > 1 else ():
        if held.any() and held.sum() + len(unit) > len(hashes) // PART:
            break
        held[unit] = True
    return held


def _parted(fed: Iterable[Batch], held: np.ndarray, kept: list[Batch]) -> Iterator[Batch]:
    """The samples that are not held back; the others are put into `kept`. Raises: BadData where the data are not what they were."""
    at = 0
    for b in fed:
        mask = held[at : at + len(b)]
        if len(mask) < len(b):
            break
        at += len(b)
        kept.append(b.rows(mask))
        if not mask.all():
            yield b.rows(~mask)
    else:
        if at == len(held):
            return
    raise BadData("the data gave another number of samples when gone through again", expected=len(held))


# ---------------------------------------------------------------- the scores


def _losses(
    model: Model, found: Sequence[Ranges], scheme: Schemes, arrays: tuple[np.ndarray, ...], task: str | None, told: Callable[[int], None]
) -> tuple[str, np.ndarray, tuple[str, ...]]:
    """("kl" or "sqnr", (candidates, samples) losses, notes)."""
    function = Function(model, "float", "xnnpack")
    reference = function.run_samples(function.params, *arrays)
    told(len(arrays[0]))
    measure, loss = loss_of(model.graph, task)
    runner = _Runner()
    done: dict[tuple, np.ndarray] = {}
    rows = []
    for r in found:
        key = tuple(r.items())
        if key not in done:
            done[key] = loss(reference, runner(quantize(model, r, scheme, io="float32"), arrays))
        rows.append(done[key])
        told(len(arrays[0]))
    return measure, np.stack(rows), tuple(dict.fromkeys(runner.notes))


class _Runner:
    """Runs candidates; those with the same static plan share one compile."""

    def __init__(self) -> None:
        self.functions: list[Function] = []
        self.mode = "integer"
        self.notes: list[str] = []

    def __call__(self, model: Model, arrays: tuple[np.ndarray, ...]) -> Any:
        for function in self.functions:
            try:
                return function.run_samples(function.lower(model), *arrays)
            except Unsupported:
                continue
        self.functions.append(self._built(model))
        return self.functions[-1].run_samples(self.functions[-1].params, *arrays)

    def _built(self, model: Model) -> Function:
        try:
            return Function(model, self.mode, "xnnpack")
        except Unsupported as fault:
            if self.mode == "fake":
                raise
            self.mode = "fake"
            self.notes.append(f"compared in fake mode, integer mode lacks a kernel: {fault}")
            return Function(model, self.mode, "xnnpack")


def loss_of(graph: Graph, task: str | None) -> tuple[str, Callable[[Any, Any], np.ndarray]]:
    """("kl" or "sqnr", the loss of each sample from the float and the int8 outputs), summed over outputs.

    KL needs every output to be probabilities from SOFTMAX, or the task to be classification.
    """
    soft = [from_softmax(graph, t) for t in graph.outputs]
    if task == "regression" or not (all(soft) or task == "classification"):
        return "sqnr", lambda a, b: sum(evaluation.noise(r, o) for r, o in zip(a, b, strict=True))  # type: ignore[return-value]

    def loss(reference: Any, other: Any) -> np.ndarray:
        total = np.zeros(len(reference[0]))
        for is_soft, r, o in zip(soft, reference, other, strict=True):
            total += evaluation.divergences(*((r, o) if is_soft else (evaluation.softmax(r), evaluation.softmax(o))))
        return total

    return "kl", loss


def from_softmax(graph: Graph, t: int) -> bool:
    """Whether a tensor holds what a SOFTMAX gave, moved at most."""
    while t in graph.producer:
        node = graph.nodes[graph.producer[t]]
        if node.op not in COPIES:
            return node.op == "SOFTMAX"
        t = node.inputs[0]
    return False


def decide(losses: np.ndarray, groups: np.ndarray | None = None) -> int:
    """Index of the first candidate whose mean loss is within one standard error (paired, over groups) of the smallest mean.

    losses: (candidates, samples), candidates in order of preference.
    """
    best = int(np.argmin(losses.mean(axis=1)))
    for k, row in enumerate(losses):
        difference = row - losses[best]
        if difference.mean() <= evaluation.standard_error(difference, groups):
            return k
    return best


def _table(
    measure: str,
    names: Sequence[str],
    losses: np.ndarray,
    chosen: int,
    groups: np.ndarray | None,
    counts: tuple[int, int],
    notes: Sequence[str],
) -> Table:
    rows = []
    for k, (name, row) in enumerate(zip(names, losses, strict=True)):
        d = row - losses[chosen]
        error = evaluation.standard_error(d, groups)
        rows.append(Row(name, float(row.mean()), float(d.mean()), error, k == chosen))
    what = MEASURES[measure]
    kept, held = counts
    words = f"{names[chosen]}: clips least of those within a standard error of the best {what} ({held} of {kept + held} samples held back)"
    return Table(measure, tuple(rows), *counts, words, tuple(notes))


def _settled(
    model: Model, source: Repeatable, scheme: Schemes, input_range: Any, strategy: str, words: str, progress: Any, dead_range: bool
) -> tuple[Ranges, Table, Statistics]:
    """The ranges of a strategy that nothing is compared with, from all samples."""
    stats = observe_fed(model, source.fed(), source.scaling, sequence=dead_range, progress=progress)
    ranges = several(model, stats, [strategy], scheme, input_range, dead_range=dead_range)[0]
    return ranges, Table("", (Row(strategy, float("nan"), 0.0, 0.0, True),), stats.samples, 0, words), stats
