"""From statistics to one range per tensor: ties merged into one estimation problem each, model inputs from their declared domain."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from qsim.errors import BadData, BadRange
from qsim.graph import Model
from qsim.layout import Layout, layout
from qsim.recipe import Schemes
from qsim.report import some
from qsim.scheme import INT8

from .deadrange import group_interval, live_intervals
from .distribution import Distribution, clamped, distribution
from .feeding import declared
from .statistics import Statistics, model_hash
from .strategies import Strategy, parse, solve

log = logging.getLogger("qsim")


class Ranges(dict[str, tuple[float, float]]):
    """{tensor key: (low, high)}, real units. `strategy`: its name. `notes`: what was assumed or is worth knowing, in words."""

    def __init__(self, items: Mapping[str, tuple[float, float]], strategy: str = "", notes: Sequence[str] = ()):
        super().__init__(items)
        self.strategy, self.notes = strategy, tuple(notes)


@dataclass(frozen=True, eq=False)
class Problem:
    """Tensors (indices) that share one range. values: what a strategy decides on; known: a range settled beforehand, or None; type: of
    the codes."""

    group: tuple[int, ...]
    values: Distribution | None
    known: tuple[float, float] | None = None
    type: str = "int8"


def ranges(
    model: Model,
    stats: Statistics,
    strategy: str | Strategy = "minmax",
    scheme: Schemes = INT8,
    input_range: Any = None,
    split: Iterable[Sequence[Any]] = (),
    dead_range: bool = False,
) -> Ranges:
    """The range of every tensor that a scheme or recipe quantizes, by one strategy.

    Tensors that must share their parameters are one problem: the strategy sees their values pooled. Outputs whose parameters an op
    dictates are left out. A model input's range is its domain, not an estimate: `input_range` ((low, high), or a mapping by input name)
    where given; else, for integer data, all that the data type can hold; else the smallest and largest value seen, with a note.
    strategy: a name (see `strategies`) or a function of a `Distribution`. split: ties to cut, as `quantize` takes them.
    dead_range: values that all that reads a tensor maps to one value are moved to that end before the strategy sees them; see `deadrange`.
    *Raises*: BadRange naming tensor and strategy for a range that is NaN, infinite or inverted, and listing all tensors that were not
    observed; BadData for another model's statistics.
    """
    return several(model, stats, [strategy], scheme, input_range, split, dead_range)[0]


def several(
    model: Model,
    stats: Statistics,
    strategies: Sequence[str | Strategy],
    scheme: Schemes = INT8,
    input_range: Any = None,
    split: Iterable[Sequence[Any]] = (),
    dead_range: bool = False,
) -> list[Ranges]:
    """`ranges` by each of several strategies, which share the pooling and the search."""
    problems, notes = estimation_problems(model, stats, scheme, input_range, split, dead_range)
    return rank(model, problems, strategies, notes)


def rank(model: Model, problems: Sequence[Problem], strategies: Sequence[str | Strategy], notes: Sequence[str] = ()) -> list[Ranges]:
    """Each strategy's ranges for problems that are set already. A tensor with codes of 16 and of 8 bits gets the range for 8 bits."""
    ready = {kind: [parse(s, kind) for s in strategies] for kind in {p.type for p in problems}}
    names = [s if isinstance(s, str) else getattr(s, "__name__", type(s).__name__) for s in strategies]
    found: list[dict[str, tuple[float, float]]] = [{} for _ in strategies]
    for problem in sorted(problems, key=lambda p: p.type != "int16"):
        answers = answered(model, problem, ready[problem.type], names)
        for answer, into in zip(answers, found, strict=True):
            into.update((model.graph.key(t), answer) for t in problem.group)
    return [Ranges(items, name, notes) for items, name in zip(found, names, strict=True)]


def answered(model: Model, problem: Problem, strategies: Sequence[Strategy], names: Sequence[str]) -> list[tuple[float, float]]:
    """Each strategy's range of one problem, which holds the range that is known beforehand."""
    answers = solve(problem.values, strategies) if problem.values is not None else [problem.known] * len(names)
    found = [checked_answer(answer, model.graph.key(problem.group[0]), name) for name, answer in zip(names, answers, strict=True)]
    return found if problem.known is None else [(min(r[0], problem.known[0]), max(r[1], problem.known[1])) for r in found]


def checked_answer(answer: Any, key: str, strategy: str) -> tuple[float, float]:
    where = f"tensor {key!r}, strategy {strategy!r}"
    try:
        low, high = (float(v) for v in answer)
    except (TypeError, ValueError):
        raise BadRange("a strategy returns a pair (low, high)", where=where, found=answer) from None
    if not (np.isfinite(low) and np.isfinite(high)):
        raise BadRange("a range must be finite", where=where, found=(low, high))
    if low > high:
        raise BadRange("the low end of a range is above its high end", where=where, found=(low, high))
    return low, high


def estimation_problems(
    model: Model,
    stats: Statistics,
    scheme: Schemes = INT8,
    input_range: Any = None,
    split: Iterable[Sequence[Any]] = (),
    dead_range: bool = False,
) -> tuple[list[Problem], tuple[str, ...]]:
    """The problems of a model under a scheme, in the layout's order, and notes on what was assumed."""
    plan = layout(model, scheme, split=split)
    notes: list[str] = []
    require_observed(model, stats, plan)
    given = declared(model, input_range)
    problems = []
    for group, kind in zip(plan.groups, plan.types, strict=True):
        if group[0] in plan.cells and stats.find(group[0]) is None:
            notes.append(f"cell state {model.graph.key(group[0])!r} was not observed: it may hold all that its op lets it")
            continue
        problems.append(problem_of(model, stats, group, kind, given, notes))
    if dead_range:
        problems = without_dead_range(model, stats, plan, problems, notes)
    for note in dict.fromkeys(notes):
        log.info("%s", note)
    return problems, tuple(dict.fromkeys(notes))


def problem_of(
    model: Model, stats: Statistics, group: tuple[int, ...], kind: str, given: Mapping[int, tuple[float, float]], notes: list[str]
) -> Problem:
    """The problem of one group: its members' merged sketches, and the domain of a model input among them. given: declared domains."""
    roots = list(dict.fromkeys(stats.copies.get(t, t) for t in group))
    inputs = [t for t in roots if t in model.graph.inputs]
    known = None
    for t in inputs:
        domain = _domain(model, stats, t, given, notes)
        known = domain if known is None else (min(known[0], domain[0]), max(known[1], domain[1]))
    rest = [t for t in roots if t not in inputs]
    values = _pooled(model, stats, rest, notes) if rest else None
    if values is not None and known is not None and known[0] <= values.min and values.max <= known[1]:
        values = None  # moved input values: the domain holds them
    return Problem(group, values, known, kind)


def without_dead_range(model: Model, stats: Statistics, plan: Layout, problems: Sequence[Problem], notes: list[str]) -> list[Problem]:
    """The problems with their values, and the domains of inputs, moved into what is read of them (see `deadrange`)."""
    live = live_intervals(model.graph, plan, stats)
    found = [_clamped(p, *group_interval(p.group, live)) for p in problems]
    names = [model.graph.key(p.group[0]) for p, q in zip(problems, found, strict=True) if p is not q]
    if names:
        notes.append(f"values that make no difference to what reads them are left out of the ranges of {some(names)}")
    return found


def _clamped(problem: Problem, low: float, high: float) -> Problem:
    """The problem itself where nothing of it lies outside."""
    ends = [(problem.values.min, problem.values.max)] if problem.values is not None else []
    ends += [problem.known] if problem.known is not None else []
    if all(low <= a and b <= high for a, b in ends):
        return problem
    values = None if problem.values is None else clamped(problem.values, low, high)
    known = None if problem.known is None else tuple(min(max(end, low), high) for end in problem.known)
    return replace(problem, values=values, known=known)  # type: ignore[arg-type]


def require_observed(model: Model, stats: Statistics, plan: Layout) -> None:
    """*Raises*: BadData for another model's statistics, BadRange listing the tensors of a layout's groups that were not observed."""
    if stats.model != model_hash(model):
        raise BadData("these statistics are of another model", where=model.path, found=stats.model[:12], expected=model_hash(model)[:12])
    groups = [g for g in plan.groups if g[0] not in plan.cells]
    missing = [model.graph.key(t) for group in groups for t in group if stats.find(t) is None]
    if missing:
        raise BadRange(f"{len(missing)} tensors were not observed: {', '.join(missing)}", hint="Observe them: leave `taps` out")
    empty = [model.graph.key(t) for group in groups for t in group if stats.find(t).empty]  # type: ignore[union-attr]
    if empty:
        raise BadRange(f"{len(empty)} tensors hold nothing but NaN or infinity: {', '.join(empty)}", hint="Check the model in float mode")


def _pooled(model: Model, stats: Statistics, tensors: Sequence[int], notes: list[str]) -> Distribution:
    sketches = [stats.tensors[t] for t in tensors]
    for t, s in zip(tensors, sketches, strict=True):
        if s.bad:
            notes.append(f"tensor {model.graph.key(t)!r}: {s.bad} of {s.elements} values are NaN, infinite or +-FLT_MAX and were left out")
    return distribution(sketches, None if stats.sequence is None else [stats.sequence[t] for t in tensors])


def _domain(model: Model, stats: Statistics, t: int, given: Mapping[int, tuple[float, float]], notes: list[str]) -> tuple[float, float]:
    """A model input's range, and a note on where it came from."""
    seen, where = stats.tensors[t], f"input {model.graph.key(t)!r}"
    if t in given:
        low, high = given[t]
        if seen.min < low or seen.max > high:
            notes.append(f"{where}: data in [{seen.min:g}, {seen.max:g}] leave the declared range [{low:g}, {high:g}]")
        return low, high
    if t in stats.domains:
        domain = stats.domains[t]
        notes.append(f"{where}: range [{domain.low:g}, {domain.high:g}], {domain.words}")
        return domain.low, domain.high
    notes.append(f"{where}: range [{seen.min:g}, {seen.max:g}] as seen in {stats.samples} samples; declare it if inputs can be larger")
    return seen.min, seen.max
