"""Successive halving: candidates compete on more and more samples, each time the better half goes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from .candidates import Candidate
from .dispatch import Desk
from .evaluation import standard_error
from .scoring import Unit

LEAST = 16  # samples that the first round has at least
HALVES = 1000
SEED = 20_261_124  # of the halves; part of the numerics


@dataclass(frozen=True, eq=False)
class Score:
    """A candidate on the first samples of a split. losses: (n,) means over its draws; more: other per-sample results; failed: why.
    draws: the mean loss of each draw."""

    candidate: Candidate
    losses: np.ndarray
    more: dict[str, np.ndarray]
    failed: str = ""
    draws: tuple[float, ...] = ()

    @property
    def mean(self) -> float:
        return float(self.losses.mean()) if len(self.losses) else float("inf")


def draws_of(c: Candidate, draws: int) -> list[Candidate]:
    """The candidate on each of several choices of calibration samples; itself where it takes them all."""
    return [replace(c, draw=k) for k in range(draws)] if c.samples else [c]


def bounds(count: int, rounds: int) -> list[int]:
    """How many samples each round sees in all: doubling, from at least LEAST, up to all."""
    found = [count >> k for k in range(rounds - 1, -1, -1)]
    return [n for n in found if n >= LEAST] or [count]


def scores(desk: Desk, candidates: Sequence[Candidate], split: str, stops: Sequence[int], objective: str, draws: int) -> list[Score]:
    """Each candidate on the first `stops[-1]` samples of a split, in units that end at `stops`; those that failed, with their reason."""
    edges = list(zip([0, *stops], stops, strict=False))
    units = {c: [[Unit(d.text, split, *e) for e in edges] for d in draws_of(c, draws)] for c in candidates}
    rows = desk.results([u for per_draw in units.values() for draw in per_draw for u in draw])
    found = []
    for c, per_draw in units.items():
        mine = [[rows[u] for u in draw if u in rows] for draw in per_draw]
        failed = next((r.reason for draw in mine for r in draw if r.status != "done"), "")
        whole = [draw for draw in mine if len(draw) == len(edges)]
        if failed or len(whole) < len(mine):
            found.append(Score(c, np.zeros(0), {}, failed or "not computed: it is another worker's"))
            continue
        names = list((whole[0][0].arrays or {}).keys())
        drawn = {n: np.stack([np.concatenate([(r.arrays or {})[n] for r in draw]) for draw in whole]) for n in names}
        arrays = {n: x.mean(axis=0) for n, x in drawn.items()}
        found.append(Score(c, arrays[objective], arrays, draws=tuple(map(float, drawn[objective].mean(axis=1)))))
    return found


def compete(
    desk: Desk, candidates: Sequence[Candidate], keep: Sequence[Candidate], *, rounds: int, last: int, objective: str, draws: int
) -> list[Score]:
    """The scores on the select split after the last round that each candidate took part in, those of the finalists first, best first.

    A round scores the candidates that are left on twice as many samples as the one before and drops those of the worse half, by mean loss
    on the same samples, but never below `last` candidates nor one of `keep`.
    """
    left, out = list(dict.fromkeys(candidates)), list[Score]()
    stops = bounds(len(desk.lab.splits["select"]), rounds)
    for k in range(len(stops)):
        found = sorted(scores(desk, left, "select", stops[: k + 1], objective, draws), key=lambda s: s.mean)
        out += [s for s in found if s.failed]
        found = [s for s in found if not s.failed]
        if k + 1 < len(stops):
            going = max(last, -(-len(found) // 2))
            out += [s for s in found[going:] if s.candidate not in keep]
            found = [s for n, s in enumerate(found) if n < going or s.candidate in keep]
        left = [s.candidate for s in found]
    return found + sorted(out, key=lambda s: (-len(s.losses), s.mean))


def alike(found: Sequence[Score], groups: np.ndarray | None = None) -> int:
    """How many candidates cannot be told from the best: mean paired difference at most two standard errors. The best is not counted."""
    best = found[0].losses
    rest = [s.losses - best[: len(s.losses)] for s in found[1:] if not s.failed]
    return sum(bool(d.mean() <= 2 * standard_error(d, None if groups is None else groups[: len(d)])) for d in rest)


def optimism(found: Sequence[Score], groups: np.ndarray | None = None) -> float:
    """How much better the best of K looks on the samples it was chosen by than on others, expected, in units of the loss.

    Formula: over random halves A and B of the samples (of groups, where given), the mean of (loss on B - loss on A) of the candidate that
    is best on A, divided by sqrt(2), as all samples choose with so much less noise than half of them. Of the candidates that were scored
    on all samples; what dropped out before is not counted.
    """
    whole = np.stack([s.losses for s in found if len(s.losses) == len(found[0].losses)])
    ids = np.arange(whole.shape[1]) if groups is None else np.unique(groups, return_inverse=True)[1]
    count = int(ids.max()) + 1
    if count < 2:
        return float("nan")
    sums = np.stack([np.bincount(ids, row, count) for row in whole])  # (candidates, groups)
    sizes = np.bincount(ids, minlength=count)
    rng = np.random.default_rng(SEED)
    first = np.stack([rng.permutation(count) < count // 2 for _ in range(HALVES)])  # (halves, groups)
    a, b = (sums @ half.T / (half @ sizes) for half in (first, ~first))
    best = np.argmin(a, axis=0)
    return float((b - a)[best, np.arange(HALVES)].mean() / np.sqrt(2))
