"""`sweep`: which way of quantizing a model is best, found on one split and measured on another, with nothing computed twice."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from qsim.errors import BadData, BadRecipe, QsimError
from qsim.graph import Model
from qsim.reader import load
from qsim.scheme import scheme_named

from . import halving
from .candidates import BASELINE, Candidate, grid, matches, normal, strategies_of
from .data import Data, open_data
from .descent import FEWEST, descend
from .dispatch import Count, Desk, Pool
from .evaluation import standard_error, verdict
from .halving import Score
from .ranking import PROXIES, best_of_each, table, totals
from .scoring import Job, Lab, lab_of
from .splits import SHARES, three_way
from .store import Store
from .strategies import candidates as usual

OBJECTIVES = ("loss", "task")


@dataclass(frozen=True)
class Search:
    """How a sweep goes about it.

    shortlist: strategies that go on from the ranking, of each scheme and its other axes. proxy: what ranks, one of `ranking.PROXIES`
    (default: the first that the statistics allow). rounds: of halving. descent: tensors that get a strategy of their own where that helps
    (0: none). final: candidates that are tested. draws: choices of calibration samples that are averaged, for candidates that do not take
    all. objective: "loss" (KL, or noise to signal) or "task" (the labels').
    """

    shortlist: int = 8
    proxy: str = ""
    rounds: int = 3
    descent: int = 0
    final: int = 3
    draws: int = 5
    objective: str = "loss"


@dataclass(frozen=True, eq=False)
class Tested:
    """A finalist on the test split, against the float model and against the baseline on the same samples.

    loss: mean, and `error`, its standard error. gain: mean of (the baseline's loss - its own) and the standard error of that mean.
    Both errors hold what the choice of calibration samples adds, where there were several draws. right: share of samples with the right
    label. against_float: lost and won samples (see `evaluation.verdict`), of a single draw.
    """

    candidate: Candidate
    loss: float
    error: float
    gain: tuple[float, float]
    right: float | None = None
    against_float: Mapping[str, Any] | None = None


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a sweep found for one scheme. scores: on the select split, best first, then those that dropped out or failed.

    tested: the finalists in the order of their select scores; the first is the winner. baseline: min/max of all calibration samples and
    nothing else, on the same samples. alike: how many candidates cannot be told from the winner; optimism: by how much its select score
    flatters it, expected. notes: what was left out, and why. groups: of the select samples.
    """

    scheme: str
    measure: str
    scores: Sequence[Score]
    tested: Sequence[Tested]
    baseline: Tested
    float_right: float | None
    alike: int
    optimism: float
    notes: tuple[str, ...] = ()
    groups: np.ndarray | None = None

    @property
    def winner(self) -> Candidate:
        return self.tested[0].candidate


@dataclass(frozen=True, eq=False)
class Result:
    """words: how the data were split. count: results reused, new and failed. compiles: functions compiled here."""

    outcomes: tuple[Outcome, ...]
    words: str
    count: Count
    compiles: int
    lab: Lab

    def best(self, scheme: str | None = None) -> Outcome:
        """The outcome of a scheme; the first without one. *Raises*: BadRecipe."""
        name = None if scheme is None else scheme_named(scheme).name
        found = next((o for o in self.outcomes if name in (None, o.scheme)), None)
        if found is None:
            raise BadRecipe("the sweep has no such scheme", found=scheme, expected=", ".join(o.scheme for o in self.outcomes))
        return found

    def rows(self) -> list[dict[str, Any]]:
        """One plain row per candidate, for tables and files."""
        return [row for o in self.outcomes for row in rows_of(o)]

    def model(self, scheme: str | None = None, io: str = "float32") -> Model:
        """The winner of a scheme as a quantized model; of several draws of calibration samples, the one with the best select score."""
        outcome = self.best(scheme)
        draws = next(s.draws for s in outcome.scores if s.candidate == outcome.winner)
        return self.lab.made(replace(outcome.winner, draw=int(np.argmin(draws)) if outcome.winner.samples else 0), io)


def sweep(
    model: Model | str | os.PathLike[str],
    data: Data | str | os.PathLike[str],
    strategies: Sequence[str] | None = None,
    *,
    scheme: str | Sequence[str] = "int8",
    search: Search | None = None,
    store: str | os.PathLike[str] | None = None,
    progress: Callable[[Count], None] | None = None,
    input_range: tuple[float, float] | None = None,
    parts: tuple[float, float, float] = SHARES,
    groups: str | None = None,
    blocks: int = 0,
    seed: int = 0,
    task: str | None = None,
    gradients: int = 1,
    label_offset: int = 0,
    **axes: Sequence[Any],
) -> Result:
    """The best of several strategies for a model under each scheme: `run_sweep` on one data set, split in three as `three_way` does.

    model, data: objects or files (data by `open_data`, as they are). strategies: names of `strategies.TABLE` or module:function; default:
    those that `choose` compares. axes: more of `candidates.grid`, such as weights=["max", "mse"] or correction=["no", "bias"].
    store: a .sqlite file where results are kept and found again. *Raises*: as `run_sweep` and `grid`.
    """
    opened = model if isinstance(model, Model) else load(os.fspath(model))
    samples = data if isinstance(data, Data) else open_data(data, opened, groups=groups or blocks or None)
    job = Job("", (samples.where,), seed=seed, input_range=input_range, task=task, gradients=gradients, label_offset=label_offset)
    lab = Lab(opened, three_way(opened, samples, parts, seed=seed), job)
    names = [scheme] if isinstance(scheme, str) else scheme
    candidates = grid({"scheme": names, "activation": usual() if strategies is None else strategies, **axes})
    with Store(store) as kept:
        return run_sweep(lab, candidates, search, store=kept, progress=progress)


def run_sweep(
    job: Job | Lab,
    candidates: Sequence[Candidate],
    search: Search | None = None,
    *,
    store: Store | None = None,
    pool: Pool | None = None,
    worker: tuple[int, int] | None = None,
    patience: float | None = None,
    progress: Callable[[Count], None] | None = None,
) -> Result:
    """The best candidates of each scheme, in four steps.

    0. One pass over the calibrate split (and one over each smaller choice of its samples). 1. Strategies ranked from the sketches alone;
    the first of them go on, min/max and the best mixture (each tensor its own best) with them. 2. Successive halving on the select
    split, in exact integer mode (fake mode for simulated schemes), one compile for all candidates of a static plan. 3. Where asked,
    coordinate descent from the winner. 4. The first few on the test split, which nothing before has seen, paired with float and with
    min/max.

    store: results are kept there and reused (default: in memory). pool: an executor, or a function that makes one; its workers open `job`
    themselves, so it is a `Job` then. worker (i, n): score only every n-th unit on the whole select split and stop; stores of all workers
    are merged and a run without `worker` ends the work. patience: see `Desk`. *Raises*: as `Lab`; BadRecipe, BadData where no candidate
    of a scheme can be scored.
    """
    search = search or Search()
    if pool is not None and isinstance(job, Lab):
        raise BadRecipe("other processes need files to open", hint="Give a Job, not a Lab")
    lab = lab_of(job) if isinstance(job, Job) else job
    _check(search, lab)
    desk = Desk(lab, Store(None) if store is None else store, pool, worker, progress, patience)
    try:
        families: dict[str, list[Candidate]] = {}
        for c in map(normal, candidates):
            families.setdefault(c.scheme, []).append(c)
        outcomes = [o for scheme, members in families.items() if (o := _outcome(desk, scheme, members, search))]
        return Result(tuple(outcomes), lab.words, desk.count, lab.compiles, lab)
    finally:
        desk.close()


def _check(search: Search, lab: Lab) -> None:
    if search.objective not in OBJECTIVES:
        raise BadRecipe("unknown objective", found=search.objective, expected=", ".join(OBJECTIVES))
    if search.proxy not in ("", *PROXIES):
        raise BadRecipe("unknown proxy", found=search.proxy, expected=", ".join(PROXIES))
    for split in ("select", "test") if search.objective == "task" else ():
        if "task" not in lab.float_scores(split):
            raise BadData("no labels to judge by", where=lab.splits[split].where, hint='Give them ("y"), or let the objective be "loss"')


def _outcome(desk: Desk, scheme: str, members: Sequence[Candidate], search: Search) -> Outcome | None:
    """None for one worker of several: it only fills its store."""
    notes: list[str] = []
    require_selectors(desk.lab, members)
    going, baseline, failed = shortlist(desk.lab, members, search)
    if desk.worker is not None:
        stops = halving.bounds(len(desk.lab.splits["select"]), search.rounds)
        halving.scores(desk, going, "select", stops, search.objective, search.draws)
        return None
    how = {"objective": search.objective, "draws": search.draws}
    found = halving.compete(desk, going, [baseline], rounds=search.rounds, last=search.final, **how)  # type: ignore[arg-type]
    desk.count.failed += len(failed)
    if not found or found[0].failed:
        raise BadData(f"no candidate of {scheme} could be scored", found=found[0].failed if found else "none")
    if search.descent:
        found = [*_descended(desk, found, search, notes), *found]
    found = [*found, *failed]
    groups = desk.lab.splits["select"].groups
    finalists = list(dict.fromkeys([*(s.candidate for s in found[: search.final] if not s.failed), baseline]))
    tested = {t.candidate: t for t in _tested(desk, finalists, baseline, search)}
    return Outcome(
        scheme, desk.lab.measure, found, [tested[c] for c in finalists[: search.final] if c in tested], tested[baseline],
        _share(desk.lab.float_scores("test")), halving.alike(found, groups), halving.optimism(found, groups),
        (*dict.fromkeys(desk.lab.notes), *notes), groups,
    )  # fmt: skip


def require_selectors(lab: Lab, members: Sequence[Candidate]) -> None:
    """*Raises*: BadRecipe for a rule that no tensor matches."""
    graph = lab.model.graph
    for selector in dict.fromkeys(selector for c in members for selector, _ in c.rules):
        if not any(matches(graph, t, selector) for t in range(len(graph.tensors))):
            raise BadRecipe("a rule matches no tensor", found=selector, hint="`qsim inspect` shows ops and tensors")


def shortlist(lab: Lab, members: Sequence[Candidate], search: Search) -> tuple[list[Candidate], Candidate, list[Score]]:
    """(the candidates that go on from the ranking, the baseline, those whose strategies failed): of candidates that differ in their
    strategies alone, the first few go on."""
    frames: dict[Candidate, list[Candidate]] = {}
    for c in members:
        frames.setdefault(replace(c, activation=BASELINE, rules=()), []).append(c)
    going, failed = list[Candidate](), list[Score]()
    for frame, given in frames.items():
        faults = {s: f for s in strategies_of(given) if (f := _fault(lab, frame, s))}
        mine = [c for c in given if not faults.keys() & set(strategies_of([c]))]
        failed += [Score(c, np.zeros(0), {}, faults[next(s for s in strategies_of([c]) if s in faults)]) for c in given if c not in mine]
        going += _ranked(lab, frame, mine, search) if mine else []
    baseline = normal(Candidate(members[0].scheme))
    return list(dict.fromkeys([*going, baseline])), baseline, failed


def _fault(lab: Lab, frame: Candidate, strategy: str) -> str:
    """Why a strategy gives no ranges; "" where it does."""
    lab.problems(frame)
    try:
        lab.ranges(frame, strategy)
    except Exception as fault:
        return str(fault) if isinstance(fault, QsimError) else f"{type(fault).__name__}: {fault}"
    return ""


def _ranked(lab: Lab, frame: Candidate, mine: Sequence[Candidate], search: Search) -> list[Candidate]:
    """The first few by the proxy, and the best mixture."""
    names = strategies_of([*mine, frame])
    proxies = table(lab, frame, names)
    proxy = search.proxy or next(iter(proxies))
    if proxy not in proxies:
        raise BadRecipe("the statistics hold no gradients to rank by", found=proxy, hint="gradients = 1")
    order = np.argsort(totals(lab, mine, names, proxies)[proxy], kind="stable")
    chosen = [mine[k] for k in order[: search.shortlist]]
    mixture = normal(best_of_each(lab, mine[order[0]], names, proxies[proxy]))
    return [*chosen, mixture] if len(names) > 1 and len(mine) > 1 else chosen


def _descended(desk: Desk, found: Sequence[Score], search: Search, notes: list[str]) -> list[Score]:
    """The winner with strategies of their own for a few tensors, where that is better; nothing where it is not."""
    if len(desk.lab.splits["select"]) < FEWEST:
        notes.append(f"no descent: {len(desk.lab.splits['select'])} select samples are fewer than {FEWEST}")
        return []
    names = strategies_of(s.candidate for s in found)
    better, words = descend(desk, found[0], names, search.descent, search.objective, search.draws)
    notes.append(words)
    return [] if better is found[0] else [better]


def _tested(desk: Desk, finalists: Sequence[Candidate], baseline: Candidate, search: Search) -> list[Tested]:
    count = len(desk.lab.splits["test"])
    found = halving.scores(desk, finalists, "test", [count], search.objective, search.draws)
    reference, groups = desk.lab.float_scores("test"), desk.lab.splits["test"].groups
    base = next(s for s in found if s.candidate == baseline)
    if base.failed:
        raise BadData("the baseline could not be tested", found=base.failed)
    tested = []
    for s in (s for s in found if not s.failed):
        gain, spread = base.losses - s.losses, _spread(s)
        pair = float(gain.mean()), float(np.hypot(standard_error(gain, groups), spread))
        error = float(np.hypot(standard_error(s.losses, groups), spread))
        against = _against(s, reference, count) if len(s.draws) == 1 else None
        tested.append(Tested(s.candidate, s.mean, error, pair, _share(s.more), against))
    return tested


def _spread(s: Score) -> float:
    """The standard error of a mean over draws of calibration samples."""
    return float(np.std(s.draws, ddof=1) / np.sqrt(len(s.draws))) if len(s.draws) > 1 else 0.0


def _against(s: Score, reference: Mapping[str, np.ndarray], count: int) -> dict[str, Any] | None:
    if "right" not in s.more or "right" not in reference:
        return None
    ours, theirs = s.more["right"] > 0.5, reference["right"] > 0.5
    return verdict(int((theirs & ~ours).sum()), int((ours & ~theirs).sum()), count)


def _share(scores: Mapping[str, np.ndarray]) -> float | None:
    return float(scores["right"].mean()) if "right" in scores else None


def rows_of(o: Outcome) -> list[dict[str, Any]]:
    """One plain row per candidate, best first."""
    best, tested = o.scores[0], {t.candidate: t for t in [*o.tested, o.baseline]}
    rows = []
    for s in o.scores:
        d = s.losses - best.losses[: len(s.losses)]
        test = tested.get(s.candidate)
        rows.append({
            "scheme": o.scheme, "candidate": str(s.candidate), "measure": o.measure, "select_samples": len(s.losses),
            "select_loss": s.mean if len(d) else None, "behind": float(d.mean()) if len(d) else None,
            "behind_error": standard_error(d, None if o.groups is None else o.groups[: len(d)]) if len(d) > 1 else None,
            "test_loss": test.loss if test else None, "test_right": test.right if test else None,
            "winner": s.candidate == o.winner, "failed": s.failed, "text": s.candidate.text,
        })  # fmt: skip
    return rows
