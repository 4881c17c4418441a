"""Coordinate descent: from a good candidate, one tensor after the other gets the strategy that serves the outputs best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import NormalDist

import numpy as np

from . import halving
from .candidates import Candidate, normal, strategy_for
from .dispatch import Desk
from .evaluation import standard_error
from .halving import Score
from .ranking import table

FEWEST = 256  # select samples below which single tensors cannot be told apart


def descend(desk: Desk, start: Score, strategies: Sequence[str], tensors: int, objective: str, draws: int) -> tuple[Score, str]:
    """(the best candidate found, what was done in words).

    The `tensors` problems with the largest rounding error under the start, in that order, try every other strategy on the whole select
    split; the best one is taken where its mean paired gain is more than the best of so many equals would show once in twenty. One round;
    *Domain*: at least FEWEST samples.
    """
    count, groups = len(desk.lab.splits["select"]), desk.lab.splits["select"].groups
    best, taken = start, 0
    order = _largest(desk, start.candidate, strategies)[:tensors]
    for g in order:
        tried = _variants(desk, best.candidate, g, strategies)
        found = [s for s in halving.scores(desk, tried, "select", halving.bounds(count, 1), objective, draws) if not s.failed]
        challenger = min(found, key=lambda s: s.mean, default=best)
        gain = best.losses - challenger.losses
        if gain.mean() > _threshold(len(found)) * standard_error(gain, groups):
            best, taken = challenger, taken + 1
    return best, f"descent: {taken} of {len(order)} tensors got a strategy of their own"


def _threshold(tried: int) -> float:
    """In standard errors: what the best of so many equals exceeds once in twenty."""
    return NormalDist().inv_cdf(1 - 0.05 / max(tried, 1))


def _largest(desk: Desk, c: Candidate, strategies: Sequence[str]) -> list[int]:
    """Numbers of the problems that a strategy has a say in, by their error under the candidate, largest first."""
    lab, at = desk.lab, {s: k for k, s in enumerate(strategies)}
    errors, problems = table(lab, c, strategies)["mse"], lab.problems(c)[0]
    mine = np.array([errors[at[strategy_for(c, lab.model.graph, p.group)], g] for g, p in enumerate(problems)])
    return [int(g) for g in np.argsort(-mine, kind="stable") if problems[g].values is not None]


def _variants(desk: Desk, c: Candidate, g: int, strategies: Sequence[str]) -> list[Candidate]:
    problem, graph = desk.lab.problems(c)[0][g], desk.lab.model.graph
    selector, now = f"tensor:{graph.key(problem.group[0])}", strategy_for(c, graph, problem.group)
    rest = tuple(r for r in c.rules if r[0] != selector)
    return [normal(replace(c, rules=(*rest, (selector, s)))) for s in strategies if s != now]
