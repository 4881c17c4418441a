"""`qsim sweep`: which way of quantizing is best, by a file that says what to try."""

from __future__ import annotations

import os
import signal
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from . import options as o
from .screen import cells, emit, progress, say, table, text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calibrate.candidates import Candidate
    from calibrate.store import Store
    from calibrate.sweeper import Outcome, Result, Search
    from calibrate.sweepfile import Plan

Config = Annotated[Path, Parameter(help="A TOML file: model, data, [grid] (see the README).")]
StorePath = Annotated[
    Path, Parameter(name="--store", help="Where results are kept and found again: a .sqlite file; with --worker a folder, for a file each.")
]
Worker = Annotated[str | None, Parameter(help="i/n: the i-th of n workers (from 0): it only fills a store of its own; then `qsim merge`.")]
Jobs = Annotated[int, Parameter(help="Processes that score candidates.")]
Plugins = Annotated[bool, Parameter(name="--allow-plugins", negative="", help="Strategies of the file may be module:function.")]
Winner = Annotated[Path | None, Parameter(name=["--output", "-o"], help="Write the winner as a .tflite (of one model and scheme).")]


def command(
    config: Config,
    /,
    *,
    store: StorePath = Path("sweep.sqlite"),
    worker: Worker = None,
    jobs: Jobs = 1,
    output: Winner = None,
    allow_plugins: Plugins = False,
    device: o.Device = "auto",
    force: o.Force = False,
    json: o.Json = False,
) -> int:
    """Score many ways of quantizing a model on held-out samples; interrupted or repeated, it goes on where it stopped."""
    from .outputs import may_write

    if output is not None:
        may_write(output, (config,), force)
    place, share = _place(store, worker)

    from calibrate.store import Store
    from calibrate.sweeper import run_sweep
    from calibrate.sweepfile import load_plan

    from .computing import choose_device

    choose_device(device)
    kept = (place if share is None else store).with_suffix(".statistics")
    if allow_plugins:
        _may_import(config.resolve().parent)
    plan = load_plan(config, kept=str(kept.resolve()), plugins=allow_plugins)
    if output is not None:
        _require_one(plan, share)
    say(f"{len(plan.candidates)} candidates for {', '.join(Path(job.model).name for job in plan.jobs)}")
    pool = (lambda: ProcessPoolExecutor(jobs, get_context("spawn"), _quiet)) if jobs > 1 else None
    results = []
    with Store(place) as opened:
        kept.mkdir(exist_ok=True)
        try:
            for job in plan.jobs:
                how: dict[str, Any] = {"store": opened, "pool": pool, "worker": share}
                with progress(f"scoring {Path(job.model).name}", None) as step:
                    found = run_sweep(job, plan.candidates, plan.search, **how, progress=_steps(step))
                results.append(found)
                _keep(opened, found, plan.candidates, plan.search)
        except KeyboardInterrupt:
            say(f"interrupted; {len(opened)} results are kept in {place}: the same command goes on from there")
            return 130
    for job, found in zip(plan.jobs, results, strict=True):
        c = found.count
        say(f"{Path(job.model).name}: {found.words}")
        say(f"{c.reused} results reused, {c.new} new, {c.failed} failed; {found.compiles} compiled")
    if json:
        emit({"store": str(place), "results": [_facts(r) for r in results]})
    else:
        for job, found in zip(plan.jobs, results, strict=True):
            for outcome in found.outcomes:
                show(Path(job.model).name, outcome)
    if output is not None:
        _write(results[0], output, force)
    if share is not None:
        say(f"worker {worker}: wrote {place}; when all have: `qsim merge {place.parent} -o ALL.sqlite`, then this with --store ALL.sqlite")
    return 0


def _keep(store: Store, found: Result, candidates: Sequence[Candidate], search: Search) -> None:
    """What `qsim report` shows, kept beside the results. A worker of several has nothing to keep yet."""
    from calibrate.summary import key_of, summary

    key = key_of(found.lab, candidates, search)
    if found.outcomes and (found.count.new or not store.has_summary(key)):
        store.keep_summary(key, summary(found))


def show(model: str, found: Outcome) -> None:
    """Print what a sweep found for one scheme."""
    from calibrate.summary import unit_of
    from calibrate.sweeper import rows_of

    rows = [{k: v for k, v in r.items() if k not in ("text", "scheme", "measure")} for r in rows_of(found)]
    numeric = [k for k, v in rows[0].items() if isinstance(v, int | float)]
    table(
        f"{model}, {found.scheme}: {unit_of(found)}, best first; behind: paired, +- one standard error",
        list(rows[0]),
        map(cells, rows),
        numeric,
    )
    for line in sentences(found):
        text(line)


def sentences(found: Outcome) -> list[str]:
    """The outcome in words."""
    best, base = found.tested[0], found.baseline
    lines = [
        f"winner: {best.candidate}: {best.loss:.4g} +- {best.error:.2g} on the test split",
        f"min/max: {base.loss:.4g} there, {best.gain[0]:.3g} +- {best.gain[1]:.2g} more, paired",
        f"{found.alike} other candidates cannot be told from it; its select score flatters it by {found.optimism:.2g}, expected",
    ]
    if best.against_float is not None:
        v = best.against_float
        words = "not inferior to float" if v["not_inferior"] else "inferior to float"
        lines.append(f"right {best.right:.4f}, float {found.float_right:.4f}: {v['lost']} lost, {v['won']} won, {words}")
    return [*lines, *found.notes]


def _facts(found: Result) -> dict[str, Any]:
    told = [{"scheme": o.scheme, "winner": str(o.winner), "words": sentences(o)} for o in found.outcomes]
    return {"split": found.words, "count": vars(found.count), "compiles": found.compiles, "outcomes": told, "rows": found.rows()}


def _require_one(plan: Plan, share: tuple[int, int] | None) -> None:
    """*Raises*: BadRecipe where there will not be one winner to write."""
    from qsim.errors import BadRecipe

    schemes = {c.scheme for c in plan.candidates}
    if share is not None or len(plan.jobs) * len(schemes) != 1:
        found = "one worker of several" if share is not None else f"{len(plan.jobs)} models, {len(schemes)} schemes"
        raise BadRecipe("--output goes with one model and one scheme", found=found)


def _write(found: Result, output: Path, force: bool) -> None:
    import qsim

    qsim.save(found.model(), output, force=force)
    say(f"wrote {output}: {found.outcomes[0].winner}")


def _may_import(folder: Path) -> None:
    """Strategies of the user's own lie beside the file that names them; worker processes look there too."""
    sys.path.insert(0, str(folder))
    os.environ["PYTHONPATH"] = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])


def _quiet() -> None:
    """A worker leaves Ctrl-C to the process that started it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _place(store: Path, worker: str | None) -> tuple[Path, tuple[int, int] | None]:
    """(the store's file, which worker of how many). *Raises*: BadRecipe."""
    from qsim.errors import BadRecipe

    if worker is None:
        return store, None
    i, _, n = worker.partition("/")
    if not (i.isdigit() and n.isdigit() and int(i) < int(n)):
        raise BadRecipe("not a worker", found=worker, expected="i/n with i from 0 to n - 1, for example --worker 0/4")
    store.mkdir(parents=True, exist_ok=True)
    return store / f"worker-{i}-of-{n}.sqlite", (int(i), int(n))


def _steps(step: Any) -> Any:
    seen = 0

    def told(count: Any) -> None:
        nonlocal seen
        now = count.reused + count.new + count.failed
        step(now - seen)
        seen = now

    return told
