"""What a sweep found, as plain data that a report can be made of without the model, the data or JAX."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from qsim.errors import QsimError
from qsim.function import Function
from qsim.graph import Model
from qsim.writer import to_bytes

from .candidates import Candidate, normal, strategies_of, strategy_for
from .distribution import Distribution, distribution
from .evaluation import standard_error
from .halving import Score
from .layererrors import float_function, layer_errors
from .ranging import Problem
from .ranking import table
from .scoring import VERSION, Lab, Unit
from .splits import PARTS
from .summaryform import FORM, Finalist, Found, Layer, Summary, Tensor, Tried
from .sweeper import Outcome, Result, Search, Tested, rows_of

BINS = 64
UNITS = {
    ("kl", "loss"): "KL from the float model, nats",
    ("kl", "task"): "-log probability of the label, nats",
    ("sqnr", "loss"): "noise to signal of the outputs",
    ("sqnr", "task"): "error against the labels",
}


def summary(result: Result, name: str = "") -> dict[str, Any]:
    """Everything that a report shows of a sweep, as plain JSON data (`summaryform.Summary`): equal for equal results.

    name: of the sweep (default: of the model's file). The winner of each scheme is quantized again, and run on a few select samples
    beside the float model.
    """
    lab = result.lab
    file, whole = Path(lab.job.model or lab.model.path or "model"), float_function(lab)
    return msgspec.to_builtins(  # type: ignore[no-any-return]
        Summary(
            FORM, name or file.stem, file.name, lab.hash, VERSION, len(lab.model.graph.nodes), _float_size(lab.model),
            [Path(p).name for p in lab.job.data], result.words, {part: len(lab.splits[part]) for part in PARTS},
            [_found(result, o, whole) for o in result.outcomes],
        ),
        enc_hook=lambda number: number.item(),  # numpy's
    )  # fmt: skip


def key_of(lab: Lab, candidates: Sequence[Candidate], search: Search) -> str:
    """The key of a sweep's summary: SHA-256 of the model, the data, the versions, the candidates asked for, and the search."""
    keys = [lab.key(Unit(normal(c).text, "", 0, 0)) for c in candidates]
    return hashlib.sha256(json.dumps([keys, asdict(search)], sort_keys=True).encode()).hexdigest()


def _found(result: Result, o: Outcome, whole: Function) -> Found:
    lab, made, notes = result.lab, result.model(o.scheme), list(o.notes)
    size, sized = _size(made, o.winner)
    try:
        layers = layer_errors(lab, o.winner, made, whole)
    except (QsimError, RuntimeError, MemoryError) as fault:
        layers, notes = list[Layer](), [*notes, f"no errors by layer: {fault}"]
    return Found(
        o.scheme, o.measure, unit_of(o),
        [_tried(lab, s, row, o) for s, row in zip(o.scores, rows_of(o), strict=True)], [_finalist(lab, t, o) for t in o.tested],
        _finalist(lab, o.baseline, o), o.float_right, o.alike, o.optimism, notes, size, sized, _tensors(lab, o.winner), layers,
    )  # fmt: skip


def unit_of(o: Outcome) -> str:
    """What the losses of an outcome are, in words."""
    best = o.scores[0]
    return UNITS[o.measure, "task" if best.more.get("task") is best.losses else "loss"]


def _tried(lab: Lab, s: Score, row: dict[str, Any], o: Outcome) -> Tried:
    c, groups, right = s.candidate, lab.splits["select"].groups, s.more.get("right")
    groups = None if groups is None else groups[: len(s.losses)]
    test_error = next((_known(t.error) for t in [*o.tested, o.baseline] if t.candidate == c), None)
    return Tried(
        **{k: _known(row[k]) for k in ("candidate", "text", "select_samples", "select_loss", "behind", "behind_error", "winner", "failed")},
        activation=c.activation, rules=len(c.rules), weights=c.weights, correction=c.correction,
        per_channel=c.per_channel, dead_range=c.dead_range, samples=c.samples,
        select_error=_error(s.losses, groups), select_right=None if right is None else float(right.mean()),
        select_right_error=None if right is None else _error(right, groups), draws=list(s.draws),
        **{k: _known(row[k]) for k in ("test_loss", "test_right")}, test_error=test_error,
    )  # fmt: skip


def _error(values: np.ndarray, groups: np.ndarray | None) -> float | None:
    return _known(standard_error(values, groups)) if len(values) > 1 else None


def _known(value: Any) -> Any:
    """None for a number that is not finite, which JSON has not."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _finalist(lab: Lab, t: Tested, o: Outcome) -> Finalist:
    gain, error = t.gain
    words = "itself" if t.candidate == o.baseline.candidate else "better" if gain > 2 * error else "worse" if gain < -2 * error else "alike"
    groups, count = lab.splits["test"].groups, len(lab.splits["test"])
    spread = None if t.right is None or groups is not None else math.sqrt(t.right * (1 - t.right) / count)
    against: dict[str, Any] = {k: list(v) if isinstance(v, tuple) else v for k, v in (t.against_float or {}).items()}
    return Finalist(str(t.candidate), t.candidate.text, t.loss, _known(t.error), gain, _known(error), words, t.right, spread, **against)


def _float_size(model: Model) -> int:
    return len(model.source.data if model.source is not None else to_bytes(model))


def _size(made: Model, c: Candidate) -> tuple[int, str]:
    """(bytes, of what): the file's; of a simulated scheme, which has none, its constants' with as many bits as their codes need."""
    if not c.parsed.is_simulated:
        return len(to_bytes(made)), "the file"
    constants = [t for t in made.graph.tensors if t.data is not None]
    bits = sum(t.data.size * (8 * t.data.dtype.itemsize if t.qparams is None else _bits(t.qparams)) for t in constants)  # type: ignore
    return -(-bits // 8), "the constants alone, at the simulated bits"


def _bits(qparams: Any) -> int:
    return math.ceil(math.log2(int(qparams.high) - int(qparams.low) + 1))


def _tensors(lab: Lab, c: Candidate) -> list[Tensor]:
    """In the order of the graph."""
    graph, names, ranges = lab.model.graph, strategies_of([c]), lab.allotted(c)
    proxies, found = table(lab, c, names), []
    for g, problem in enumerate(lab.problems(c)[0]):
        keys, strategy = [graph.key(t) for t in problem.group], strategy_for(c, graph, problem.group)
        values, maker = _values(lab, c, problem), graph.producer.get(problem.group[0])
        noise, clipped = (float(proxies[p][names.index(strategy), g]) for p in ("mse", "clipped"))
        low, high = ranges[keys[0]]
        found.append(Tensor(
            keys[0], keys[1:], "input" if maker is None else graph.nodes[maker].op,
            strategy if problem.values is not None else "declared", low, high,
            None if values is None else values.min, None if values is None else values.max, clipped,
            -10 * math.log10(noise) if noise > 0 else None, [] if values is None else _histogram(values),
        ))  # fmt: skip
    return found


def _values(lab: Lab, c: Candidate, problem: Problem) -> Distribution | None:
    """What was seen of a problem's tensors, also where no strategy decides on it."""
    if problem.values is not None:
        return problem.values
    sketches = [s for t in problem.group if (s := lab.statistics(c).find(t)) is not None and not s.empty]
    return distribution(sketches) if sketches else None


def _histogram(d: Distribution) -> list[float]:
    """How many values lie in each of BINS bins of equal width from min to max; those of an interval are spread evenly over it."""
    edges = np.linspace(d.min, d.max, BINS + 1)
    points = d.upper <= d.lower
    counts = np.histogram(d.lower[points], edges, weights=d.weight[points])[0] if d.max > d.min else np.zeros(BINS)
    lower, upper, weight = (x[~points] for x in (d.lower, d.upper, d.weight))
    below = (np.clip((edges[:, None] - lower) / (upper - lower), 0, 1) * weight).sum(1)
    return [float(f"{x:.6g}") for x in counts + np.diff(below)]
