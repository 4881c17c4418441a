"""What one candidate of a sweep is worth: quantize it, run it on samples of a split, and measure each sample's distance to the float model.

Everything that many candidates share is made once: the splits, the statistics of each calibration subset, each strategy's ranges, the
float outputs, one compile for all candidates of the same static plan.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from qsim import NUMERICS, __version__
from qsim.errors import BadData, Unsupported
from qsim.function import Function
from qsim.graph import Model
from qsim.quantizer import quantize
from qsim.reader import load

from . import evaluation
from .archive import load_statistics
from .candidates import Candidate, is_own, normal, of_text, resolved, strategies_of, strategy_for
from .choosing import from_softmax, loss_of
from .correcting import corrected
from .data import Data, open_data
from .feeding import admit, feed
from .folding import Wanted
from .observer import observe_fed
from .ranging import Problem, Ranges, estimation_problems, rank
from .splits import PARTS, SHARES, Splits, contents, given_splits, three_way
from .statistics import Statistics, model_hash
from .strategykey import strategy_key

VERSION = f"qsim {__version__}, numerics {NUMERICS}"
CORRECTED_ON = 512  # samples that corrections see
AT_ONCE = 64  # samples read at once


@dataclass(frozen=True)
class Job:
    """All that a process needs to score candidates, as plain data.

    model: a file. data: one data set (a file or folder, see `open_data`) that is split (`parts`, `groups`, `blocks`, `seed` as in
    `three_way`), or three: calibrate, select, test. input_range: declared range of the model's inputs. task: as in `choose`.
    gradients: draws of squared gradients that the pass gathers, for "fisher" (0: none). kept: folder where statistics are kept, or "".
    """

    model: str
    data: tuple[str, ...]
    scale: float = 1.0
    offset: float = 0.0
    parts: tuple[float, float, float] = SHARES
    groups: str | None = None
    blocks: int = 0
    seed: int = 0
    input_range: tuple[float, float] | None = None
    task: str | None = None
    label_offset: int = 0
    gradients: int = 1
    kept: str = ""


class Unit(NamedTuple):
    """A piece of work: a candidate (canonical text) on samples [start, stop) of a split."""

    candidate: str
    split: str
    start: int
    stop: int


class Lab:
    """One model, its splits, and what candidates share. *Raises*: as `three_way` and `observe`."""

    def __init__(self, model: Model, splits: Splits, job: Job):
        self.model, self.job = model, job
        self.words, self.hash = splits.words, model_hash(model)
        require_samples(splits)
        self.splits, self.hashes = _shuffled(model, splits, job.seed)
        ends = None if job.input_range is None else tuple(map(float, job.input_range))
        self._seen = [ends, job.task, job.gradients, *(_kind(d) for d in self.splits.values())]
        seen = [_digest([f"{h:032x}" for h in known]) for known in self.hashes.values()]
        self.fingerprint = _digest([*seen, *self._seen, job.label_offset, *(_labels(d) for d in self.splits.values())])
        self.measure, self._loss = loss_of(model.graph, job.task)
        self.is_soft = from_softmax(model.graph, model.graph.outputs[0])
        self.notes: list[str] = []
        self._functions: list[Function] = []
        self._correctors: list[Function] = []
        self._float: Function | None = None
        self._reference: dict[str, tuple[np.ndarray, ...]] = {}
        self._statistics: dict[tuple[int, int], Statistics] = {}
        self._problems: dict[tuple[Any, ...], tuple[list[Problem], tuple[str, ...]]] = {}
        self._ranges: dict[tuple[Any, ...], Ranges] = {}
        self._made: tuple[list[str], Model] | None = None

    @property
    def compiles(self) -> int:
        """How many functions candidates have needed so far: one for each static plan."""
        return len(self._functions)

    def key(self, unit: Unit) -> str:
        """The key of a unit's result: SHA-256 of all that the result depends on."""
        return _digest([self.hash, *_meaning(of_text(unit.candidate)), self.fingerprint, VERSION, part_of(unit)])

    # ranges

    def statistics(self, c: Candidate) -> Statistics:
        """Of the candidate's calibration samples; kept in the job's folder, where it has one."""
        subset = (c.samples, c.draw)
        if subset not in self._statistics:
            self._statistics[subset] = self._observed(*subset)
        return self._statistics[subset]

    def _observed(self, samples: int, draw: int) -> Statistics:
        rows = chosen_samples(self.hashes["calibrate"], samples, draw)
        data = self.splits["calibrate"].take(rows)
        name = _digest([self.hash, [f"{self.hashes['calibrate'][r]:032x}" for r in rows], *self._seen, VERSION])[:32]
        path = Path(self.job.kept) / f"statistics-{name}.npz"
        if self.job.kept and path.exists():
            return load_statistics(path)
        found = self._passed(data)
        if self.job.kept:
            found.save(path, force=True)
        return found

    def _passed(self, data: Data) -> Statistics:
        """With gradients where the model has any."""
        try:
            return observe_fed(self.model, feed(self.model, data), data.scaling, Wanted(gradients=self.job.gradients, task=self.job.task))
        except Unsupported as fault:
            if not self.job.gradients:
                raise
            self.notes.append(f"ranked without gradients: {fault}")
            return observe_fed(self.model, feed(self.model, data), data.scaling, Wanted(task=self.job.task))

    def problems(self, c: Candidate) -> tuple[list[Problem], tuple[str, ...]]:
        """The candidate's estimation problems, and notes on what was assumed."""
        key = (c.scheme, c.per_channel, c.dead_range, c.samples, c.draw)
        if key not in self._problems:
            declared = self.job.input_range
            self._problems[key] = estimation_problems(self.model, self.statistics(c), c.parsed, declared, dead_range=c.dead_range)
        return self._problems[key]

    def ranges(self, c: Candidate, strategy: str) -> Ranges:
        """One strategy's ranges of all problems."""
        rule = resolved(strategy)
        key = (c.scheme, c.per_channel, c.dead_range, c.samples, c.draw, strategy_key(rule) if is_own(strategy) else strategy)
        if key not in self._ranges:
            problems, notes = self.problems(c)
            self._ranges[key] = rank(self.model, problems, [rule], notes)[0]
        return self._ranges[key]

    def allotted(self, c: Candidate) -> Ranges:
        """The candidate's ranges: for tensors that share one, the strategy that its rules name."""
        found, graph = dict(self.ranges(c, c.activation)), self.model.graph
        for problem in self.problems(c)[0] if c.rules else ():
            other = self.ranges(c, strategy_for(c, graph, problem.group))
            found.update((graph.key(t), other[graph.key(t)]) for t in problem.group)
        return Ranges(found, str(c), self.problems(c)[1])

    def made(self, c: Candidate, io: str = "float32") -> Model:
        """The quantized model. *Raises*: as `quantize`."""
        made = quantize(self.model, self.allotted(c), c.parsed, io=io)
        if c.correction == "no":
            return made
        rows = chosen_samples(self.hashes["calibrate"], c.samples, c.draw)[:CORRECTED_ON]
        arrays = read_samples(self.splits["calibrate"].take(rows), 0, len(rows))
        return corrected(self.model, made, [arrays], c.correction, CORRECTED_ON, functions=self._correctors)

    # scores

    def score(self, unit: Unit) -> dict[str, np.ndarray]:
        """Per-sample results (stop - start,): "loss" (`measure`), and with labels "task" and "right" (see `_labelled`)."""
        c = normal(of_text(unit.candidate))
        if self._made is None or self._made[0] != _meaning(c):
            self._made = _meaning(c), self.made(c)
        data = self.splits[unit.split]
        arrays = read_samples(data, unit.start, unit.stop)
        outputs = self._run(self._made[1], arrays, "fake" if c.parsed.is_simulated else "integer")
        found = {"loss": self._losses(unit, outputs)}
        if data.labels is not None:
            found |= _labelled(outputs[0], data.labels[unit.start : unit.stop], self.is_soft, self.job.label_offset)
        if not all(np.isfinite(x).all() for x in found.values()):
            raise BadData("the score is not finite", where=str(c))
        return found

    def float_scores(self, split: str) -> dict[str, np.ndarray]:
        """The float model's own "task" and "right" on a split; empty without labels."""
        data = self.splits[split]
        if data.labels is None:
            return {}
        return _labelled(self.reference(split)[0], data.labels, self.is_soft, self.job.label_offset)

    def reference(self, split: str) -> tuple[np.ndarray, ...]:
        """The float model's outputs on a split; held in memory."""
        if split not in self._reference:
            self._float = self._float or Function(self.model, "float", "xnnpack")
            data, parts = self.splits[split], []
            for start in range(0, len(data), AT_ONCE):
                arrays = read_samples(data, start, min(start + AT_ONCE, len(data)))
                parts.append(self._float.run_samples(self._float.params, *arrays))
            self._reference[split] = tuple(np.concatenate(column) for column in zip(*parts, strict=True))
        return self._reference[split]

    def _losses(self, unit: Unit, outputs: Sequence[np.ndarray]) -> np.ndarray:
        whole = self.reference(unit.split)
        part = tuple(r[unit.start : unit.stop] for r in whole)
        if self.measure == "kl":
            return np.asarray(self._loss(part, outputs), np.float64)
        levels = [evaluation.power(r) for r in whole]
        return sum(evaluation.squares(r, o) / level for r, o, level in zip(part, outputs, levels, strict=True))  # type: ignore[return-value]

    def _run(self, model: Model, arrays: tuple[np.ndarray, ...], mode: str) -> tuple[np.ndarray, ...]:
        for function in self._functions:
            if function.mode == mode and len(function.graph.nodes) == len(model.graph.nodes):
                try:
                    return _in_parts(function, function.lower(model), arrays)
                except Unsupported:
                    continue
        self._functions.append(Function(model, mode, "xnnpack"))
        return _in_parts(self._functions[-1], self._functions[-1].params, arrays)


def lab_of(job: Job) -> Lab:
    """The lab of a job: kept while its files stay as they are, so that a process that scores many units opens them once."""
    return _labs(job, tuple(_stamp(path) for path in (job.model, *job.data)))


def _stamp(path: str) -> tuple[int, ...]:
    """Size and time of change, to the nanosecond; of a folder, of all in it. Nothing for what is not there (opening it tells)."""
    if os.path.isdir(path):
        return tuple(n for entry in sorted(Path(path).rglob("*")) for n in _stamp(str(entry)) if not entry.is_dir())
    try:
        found = os.stat(path)
    except OSError:
        return ()
    return found.st_size, found.st_mtime_ns


@functools.lru_cache(maxsize=2)
def _labs(job: Job, stamps: tuple[tuple[int, ...], ...]) -> Lab:
    model = load(job.model)
    how = {"input_scale": job.scale, "input_offset": job.offset, "groups": job.groups or job.blocks or None}
    opened = [open_data(path, model, **how) for path in job.data]  # type: ignore[arg-type]
    splits = given_splits(model, *opened) if len(opened) == 3 else three_way(model, opened[0], job.parts, seed=job.seed)
    return Lab(model, splits, job)


def scored(job: Job, unit: Unit) -> tuple[str, dict[str, np.ndarray]]:
    """(`Lab.key`, `Lab.score`) for a process of its own: arguments and result are plain data; the key tells what it saw."""
    lab = lab_of(job)
    return lab.key(unit), lab.score(unit)


def _in_parts(function: Function, params: Any, arrays: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
    """A function on samples; where the device's memory does not hold them, on one half after the other."""
    try:
        return function.run_samples(params, *arrays)  # type: ignore[no-any-return]
    except Exception as fault:
        n = len(arrays[0])
        if "RESOURCE_EXHAUSTED" not in str(fault) or n < 2:
            raise
    halves = [_in_parts(function, params, tuple(x[part] for x in arrays)) for part in (slice(0, n // 2), slice(n // 2, n))]
    return tuple(np.concatenate(column) for column in zip(*halves, strict=True))


def part_of(unit: Unit) -> str:
    return f"{unit.split}[{unit.start}:{unit.stop}]"


def chosen_samples(hashes: Sequence[int], count: int, draw: int) -> np.ndarray:
    """Ascending numbers of `count` samples (0: all), the first as `shuffled` by the draw: fewer of one draw are among more.

    *Raises*: BadData where there are not so many.
    """
    if count > len(hashes):
        raise BadData("fewer calibration samples than asked", found=len(hashes), expected=count)
    if not count:
        return np.arange(len(hashes))
    return np.sort(np.asarray(shuffled(hashes, draw)[:count]))


def shuffled(hashes: Sequence[int], seed: int) -> list[int]:
    """Numbers of samples in the order of SHA-256 of seed and content: whatever order the samples are in, the same."""
    return sorted(range(len(hashes)), key=lambda k: (_digest([seed, f"{hashes[k]:032x}"]), k))


def _shuffled(model: Model, splits: Splits, seed: int) -> tuple[dict[str, Data], dict[str, list[int]]]:
    """({split: data}, {split: content hashes}), each in an order of seed and contents: the first samples stand for all."""
    found, hashes = {}, {}
    for name in PARTS:
        data = getattr(splits, name)
        known = contents(model, data)
        order = shuffled(known, seed)
        found[name], hashes[name] = data.take(order), [known[k] for k in order]
    return found, hashes


def require_samples(splits: Splits) -> None:
    """*Raises*: BadData for an empty part."""
    if empty := [name for name in PARTS if not len(getattr(splits, name))]:
        raise BadData(f"nothing is left to {' and '.join(empty)}", found=splits.words, hint="A sweep needs samples for each of the three")


def _kind(data: Data) -> list[Any]:
    """What the stored values mean: the types and the scaling decide the domain of the model's inputs."""
    return [[str(x.dtype) for x in data.part(0, 1)], data.scaling.scale, data.scaling.offset]


def _labels(data: Data) -> str:
    return "" if data.labels is None else hashlib.sha256(np.ascontiguousarray(data.labels).tobytes()).hexdigest()


def _meaning(c: Candidate) -> list[str]:
    """A candidate's canonical text and the keys of the user's own strategies in it."""
    return [c.text, *(strategy_key(resolved(s)) for s in strategies_of([c]) if is_own(s))]


def read_samples(data: Data, start: int, stop: int) -> tuple[np.ndarray, ...]:
    """Samples [start, stop) as the float function takes them, one array per input."""
    return tuple(admit(p, x, data.scaling, f"{data.where}, {p.where}") for p, x in zip(data.ports, data.part(start, stop), strict=True))


def _labelled(y: np.ndarray, labels: np.ndarray, is_soft: bool, offset: int) -> dict[str, np.ndarray]:
    """ "task": -log of the label's probability (nats; floored like KL), or the absolute error of one real output; "right": 0 or 1."""
    flat, labels = np.asarray(y, np.float64).reshape(len(y), -1), np.asarray(labels).reshape(len(y), -1)
    if labels.shape[1] != 1:
        return {}
    if labels.dtype.kind in "iu" and flat.shape[1] > 1:
        at = labels[:, 0].astype(np.int64) + offset
        if at.min() < 0 or at.max() >= flat.shape[1]:
            raise BadData("labels outside the model's classes", found=f"{at.min()}..{at.max()}", expected=f"0..{flat.shape[1] - 1}")
        p = np.maximum(flat if is_soft else evaluation.softmax(flat), evaluation.FLOOR)
        chance = p[np.arange(len(p)), at] / p.sum(axis=1)
        return {"task": -np.log(chance), "right": evaluation.right(flat, at).astype(np.float64)}
    return {"task": np.abs(flat[:, 0] - labels[:, 0])} if flat.shape[1] == 1 else {}


def _digest(parts: Sequence[Any]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
