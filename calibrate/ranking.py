"""Candidates ranked without running them: what the sketches say about each strategy's range of each tensor.

A proxy is additive: one number for each problem (tensors that share a range) and strategy, summed over the problems of a model. It orders
candidates of one scheme; it is not the loss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from qsim.scheme import affine

from .candidates import Candidate, strategy_for
from .distribution import Distribution
from .rounding import losses, mesh
from .scoring import Lab

PROXIES = ("fisher", "mse", "clipped")


def table(lab: Lab, c: Candidate, strategies: Sequence[str]) -> dict[str, np.ndarray]:
    """{proxy: (strategies, problems)} for the candidate's scheme and calibration samples; 0 where a strategy has no say.

    "fisher", where the statistics hold gradients g: half the mean over samples of the sum of g^2 (x - real(code(x)))^2: what the KL of
    the outputs would be, in nats, if the errors were small and had nothing to do with one another. "mse": the rounding error of a
    tensor's values, sum of (x - real(code(x)))^2, in units of the sum of their squares. "clipped": the share of the values outside the
    range.
    """
    problems = lab.problems(c)[0]
    weighed = all(p.values is None or p.values.importance is not None for p in problems)
    found = {name: np.zeros((len(strategies), len(problems))) for name in PROXIES[0 if weighed else 1 :]}
    for g, problem in enumerate(problems):
        if problem.values is None:
            continue
        key = lab.model.graph.key(problem.group[0])
        pairs = [lab.ranges(c, s)[key] for s in strategies]
        power = float((problem.values.weight * (0.5 * (problem.values.lower + problem.values.upper)) ** 2).sum())
        found["mse"][:, g] = _errors(problem.values, pairs, problem.type) / (power or 1.0)
        if weighed:
            found["fisher"][:, g] = _errors(_by_importance(problem.values), pairs, problem.type) / (2 * lab.statistics(c).samples)
        found["clipped"][:, g] = [_clipped(problem.values, *pair) for pair in pairs]
    return found


def totals(
    lab: Lab, candidates: Sequence[Candidate], strategies: Sequence[str], proxies: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """{proxy: (candidates,)}: each candidate's sum over its problems."""
    at = {s: k for k, s in enumerate(strategies)}
    found: dict[str, list[float]] = {name: [] for name in proxies}
    for c in candidates:
        rows = [at[strategy_for(c, lab.model.graph, p.group)] for p in lab.problems(c)[0]]
        for name, values in proxies.items():
            found[name].append(float(values[rows, np.arange(values.shape[1])].sum()))
    return {name: np.array(sums) for name, sums in found.items()}


def best_of_each(lab: Lab, c: Candidate, strategies: Sequence[str], proxy: np.ndarray) -> Candidate:
    """The candidate that takes for each problem the strategy with the smallest proxy, the first of equals."""
    problems, best = lab.problems(c)[0], np.argmin(proxy, axis=0)
    rules = [
        (f"tensor:{lab.model.graph.key(p.group[0])}", strategies[k])
        for p, k in zip(problems, best, strict=True)
        if p.values is not None and strategies[k] != c.activation
    ]
    return replace(c, rules=tuple(rules))


def _errors(d: Distribution, pairs: Sequence[tuple[float, float]], kind: str) -> np.ndarray:
    """(pairs,) sum of weight * (x - real(code(x)))^2."""
    stored = np.array([affine(*pair, kind, symmetric=kind == "int16") for pair in pairs], np.float64)
    return losses(mesh(d), stored, kind, (2.0,))[0]  # type: ignore[no-any-return]


def _by_importance(d: Distribution) -> Distribution:
    assert d.importance is not None
    return replace(d, weight=d.importance)


def _clipped(d: Distribution, low: float, high: float) -> float:
    middle = 0.5 * (d.lower + d.upper)
    return float(d.weight[(middle < low) | (middle > high)].sum() / d.total)
