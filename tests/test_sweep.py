"""Sweeps: what is tried, in what order it drops out, and that neither interruption nor the way of computing changes a figure."""

from __future__ import annotations

import linecache
import sys
from concurrent.futures import Future
from dataclasses import replace

import numpy as np
import pytest
from small import float_net, images
from sweeping import Hostile, Poisoned, Silent, facts, job_in

import qsim
from calibrate import halving
from calibrate.candidates import Candidate, grid, normal, of_text, strategy_for
from calibrate.data import open_data
from calibrate.dispatch import Desk
from calibrate.halving import Score
from calibrate.scoring import Unit, chosen_samples, lab_of
from calibrate.store import Store, merge
from calibrate.strategies import candidates
from calibrate.sweeper import Search, run_sweep, sweep
from qsim.errors import BadData, BadRecipe
from qsim.function import Function
from qsim.writer import to_bytes

SEARCH = Search(shortlist=3, rounds=2, final=2, draws=2)
SMALL = grid({"scheme": ["int8", "sim:a4w4"], "activation": ["minmax", "mse", "percentile:99.9", "percentile:99"]})


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    return job_in(tmp_path_factory.mktemp("sweep"), input_range=(0.0, 255.0))


@pytest.fixture(scope="module")
def plain(job):
    return run_sweep(job, SMALL, SEARCH)


# ---------------------------------------------------------------- candidates


def test_a_grid_holds_each_combination_once():
    found = grid({"scheme": ["int8", "INT8", "uint8"], "per_channel": [True, False], "activation": ["minmax", "mse"]})
    assert len(found) == 6 and all(of_text(c.text) == c for c in found)
    assert not any(c.per_channel for c in found if c.scheme == "uint8")


def test_a_draw_means_nothing_where_all_samples_are_taken():
    assert normal(Candidate(draw=3)) == Candidate() and normal(Candidate(samples=8, draw=3)).draw == 3


@pytest.mark.parametrize(
    ("axes", "words"),
    [
        ({"sheme": ["int8"]}, "unknown axis"), ({"activation": []}, "without values"), ({"scheme": ["int7"]}, "no such scheme"),
        ({"activation": ["mmse"]}, "unknown strategy"),
        ({"correction": ["auto"]}, "unknown correction"),
        ({"samples": [-1]}, "counts start"),
        ({"rules": [(("kind:ADD", "mse"),)]}, "not a selector"), ({"rules": [(("name:(", "mse"),)]}, "regular expression"),
        ({"scheme": ["sim:a4w4"], "correction": ["bias"]}, "integer kernels"),
    ],
)  # fmt: skip
def test_axes_that_mean_nothing_are_refused(axes, words):
    with pytest.raises(BadRecipe, match=words):
        grid(axes)


def test_the_last_rule_that_matches_decides():
    graph = float_net().graph
    rules = (("class:inner", "mse"), ("op:CONV_2D", "percentile:99"), ("name:dee", "percentile:99.9"), ("tensor:probabilities", "mse:p=3"))
    c = Candidate(rules=rules)
    named = {graph.key(t): strategy_for(c, graph, [t]) for t in (0, 3, 6, 8, 12)}
    assert named == {"image": "minmax", "hidden": "percentile:99", "deep": "percentile:99.9", "flat": "mse", "probabilities": "mse:p=3"}


def test_subsets_follow_the_samples_and_nest():
    rng = np.random.default_rng(0)
    hashes = [int(h) for h in rng.integers(0, 2**62, 100)]
    order = rng.permutation(100)
    some = {hashes[k] for k in chosen_samples(hashes, 20, 1)}
    assert some == {[hashes[i] for i in order][k] for k in chosen_samples([hashes[i] for i in order], 20, 1)}
    assert some < {hashes[k] for k in chosen_samples(hashes, 40, 1)} and some != {hashes[k] for k in chosen_samples(hashes, 20, 2)}
    with pytest.raises(BadData, match="fewer calibration samples"):
        chosen_samples(hashes, 101, 0)


# ---------------------------------------------------------------- the search


def test_the_winner_was_chosen_on_one_split_and_measured_on_another(job, plain):
    lab = lab_of(job)
    assert not set(lab.hashes["select"]) & set(lab.hashes["test"]) and not set(lab.hashes["calibrate"]) & set(lab.hashes["test"])
    for outcome in plain.outcomes:
        whole = [s for s in outcome.scores if len(s.losses) == len(lab.hashes["select"])]
        assert outcome.winner == min(whole, key=lambda s: s.mean).candidate
        unit = Unit(outcome.winner.text, "test", 0, len(lab.hashes["test"]))
        assert outcome.tested[0].loss == lab.score(unit)["loss"].mean()
        assert outcome.baseline.candidate == Candidate(outcome.scheme) and outcome.baseline.gain[0] == 0.0
    assert plain.best("sim:a4w4").tested[0].gain[0] > 0 and plain.compiles == 2


def test_all_candidates_of_a_static_plan_share_one_compile(job):
    lab = lab_of(job)
    before = lab.compiles
    names = [*candidates(), *(f"percentile:{p}" for p in np.linspace(95, 99.99, 55).round(4))]
    many = [Candidate(activation=name) for name in names]
    found = run_sweep(job, many, Search(shortlist=64, rounds=1, final=1))
    assert len(found.best().scores) >= 64 and lab.compiles == max(before, 1)


def test_a_failed_candidate_is_listed_and_the_others_go_on(job, monkeypatch):
    lab = lab_of(job)
    allotted = lab.allotted
    monkeypatch.setattr(lab, "allotted", lambda c: 1 / 0 if c.activation == "mse" else allotted(c))
    found = run_sweep(job, [*SMALL[:3], Candidate(activation="mse", rules=(("class:output", "minmax"),))], SEARCH)
    failed = {s.candidate.activation: s.failed for s in found.best().scores if s.failed}
    assert set(failed) == {"mse"} and "ZeroDivisionError" in failed["mse"] and found.best().winner.activation != "mse"
    assert found.count.failed == len([s for s in found.best().scores if s.failed]) and found.rows()[-1]["failed"]


def test_the_ranking_knows_a_range_that_is_much_too_narrow(job):
    found = run_sweep(job, grid({"activation": ["percentile:20", "minmax", "mse"]}), replace(SEARCH, shortlist=2))
    assert "percentile:20" not in [s.candidate.activation for s in found.best().scores]


def test_descent_needs_many_samples_and_is_never_worse(job, tmp_path):
    assert "fewer than 256" in run_sweep(job, SMALL[4:], replace(SEARCH, descent=1)).best().notes[0]
    large = job_in(tmp_path, 900)
    found = run_sweep(large, SMALL[4:], replace(SEARCH, descent=2)).best()
    start = next(s for s in found.scores if not s.candidate.rules)
    assert found.scores[0].mean <= start.mean and "got a strategy of their own" in found.notes[0]


def test_axes_reach_the_model(job):
    lab = lab_of(job)
    base = lab.made(Candidate("int8w4"))
    changed = [
        Candidate("int8w4", **{axis: value})
        for axis, value in (("weights", "mse"), ("per_channel", False), ("samples", 4), ("activation", "mse"))
    ]
    assert all(to_bytes(lab.made(c)) != to_bytes(base) for c in changed)
    assert lab.problems(Candidate(dead_range=True)) is not lab.problems(Candidate())


def test_labels_can_be_the_objective(job):
    found = run_sweep(job, SMALL[:3], replace(SEARCH, objective="task")).best()
    assert found.tested[0].loss == pytest.approx(np.mean(found.scores[0].losses), rel=0.5) and found.float_right == 1.0
    with pytest.raises(BadRecipe, match="unknown objective"):
        run_sweep(job, SMALL[:3], replace(SEARCH, objective="accuracy"))


def test_draws_are_averaged(job):
    c = Candidate(activation="mse", samples=16)
    desk = Desk(lab_of(job), Store(None))
    (mean,) = halving.scores(desk, [c], "select", [32], "loss", 3)
    singles = [halving.scores(desk, [replace(c, samples=16, draw=k)], "select", [32], "loss", 1)[0] for k in range(1)]
    rows = [desk.results([Unit(replace(c, draw=k).text, "select", 0, 32)]) for k in range(3)]
    each = [next(iter(r.values())).arrays["loss"] for r in rows]
    assert np.array_equal(mean.losses, np.mean(each, axis=0)) and np.array_equal(singles[0].losses, each[0])


# ---------------------------------------------------------------- the statistics of it


def test_rounds_double_and_end_with_all_samples():
    assert halving.bounds(360, 3) == [90, 180, 360] and halving.bounds(40, 3) == [20, 40] and halving.bounds(10, 3) == [10]


def test_optimism_is_what_choosing_the_best_of_many_equals_adds():
    rng = np.random.default_rng(0)
    sweeps = [[Score(Candidate(), row, {}) for row in rng.normal(1, 0.1, (20, 100))] for _ in range(12)]
    true = np.mean([1.0 - min(s.mean for s in found) for found in sweeps])  # all have a true mean of 1
    assert np.mean([halving.optimism(found) for found in sweeps]) == pytest.approx(true, rel=0.2)
    assert halving.optimism(sweeps[0][:1]) == pytest.approx(0, abs=5e-4)


def test_candidates_within_two_standard_errors_are_alike():
    rng = np.random.default_rng(0)
    base = rng.normal(1, 0.1, 200)
    near, far = base + rng.normal(0.001, 0.1, 200), base + rng.normal(0.1, 0.1, 200)
    assert halving.alike([Score(Candidate(), x, {}) for x in (base, near, far)]) == 1


# ---------------------------------------------------------------- the same figures however they came about


def test_a_second_run_computes_nothing(job, plain, tmp_path):
    with Store(tmp_path / "s.sqlite") as store:
        first = run_sweep(job, SMALL, SEARCH, store=store)
        again = run_sweep(job, SMALL, SEARCH, store=store)
        assert (first.count.new, first.count.reused) == (again.count.reused, again.count.new) == (len(store), 0)
    assert facts(first) == facts(again) == facts(plain)


def test_another_seed_or_range_has_keys_of_its_own(job):
    unit = Unit(Candidate().text, "select", 0, 16)
    jobs = [job, replace(job, seed=1), replace(job, input_range=(0.0, 200.0)), replace(job, task="regression")]
    assert len({lab_of(j).key(unit) for j in jobs}) == 4


def test_workers_stores_merge_to_the_same(job, plain, tmp_path):
    for k in range(3):
        with Store(tmp_path / f"worker-{k}.sqlite") as store:
            assert not run_sweep(job, SMALL, SEARCH, store=store, worker=(k, 3)).outcomes
            assert len(store) > 0
    merge(tmp_path, tmp_path / "all.sqlite")
    with Store(tmp_path / "all.sqlite") as store:
        found = run_sweep(job, SMALL, SEARCH, store=store)
    assert facts(found) == facts(plain) and found.count.new == sum(
        len({t.candidate for t in (*o.tested, o.baseline)}) for o in found.outcomes
    )


@pytest.mark.parametrize("seed", [0, 1, 2, 4])  # with 3 one unit meets three faults in a row, and is kept as failed
def test_a_hostile_executor_changes_nothing_but_time(job, plain, seed):
    rng = np.random.default_rng(seed)
    found = run_sweep(job, SMALL, SEARCH, pool=lambda: Hostile(rng))
    assert not found.count.failed
    assert facts(found) == facts(plain)


def test_a_broken_executor_of_the_users_own_is_told(job):
    dead = Hostile(np.random.default_rng(0))
    dead.dead = True
    with pytest.raises(Exception, match="a worker was killed"):
        run_sweep(job, SMALL, SEARCH, pool=dead)


def test_the_public_function_takes_files_or_objects(job, plain, tmp_path):
    more = {"scheme": ["int8", "sim:a4w4"], "search": SEARCH, "input_range": (0.0, 255.0), "parts": job.parts}
    names = ["minmax", "mse", "percentile:99.9", "percentile:99"]
    found = sweep(job.model, job.data[0], names, **more, store=tmp_path / "s.sqlite")
    assert facts(found) == facts(plain)
    again = sweep(float_net(), open_data(job.data[0], float_net()), names, **more)
    assert [s.candidate for o in again.outcomes for s in o.scores] == [s.candidate for o in plain.outcomes for s in o.scores]
    with pytest.raises(BadRecipe, match="files to open"):
        run_sweep(found.lab, SMALL, SEARCH, pool=lambda: Hostile(np.random.default_rng(0)))


def test_a_worker_that_never_answers_is_given_up(job, plain):
    desk = Desk(lab_of(job), Store(None), Silent(3), patience=0.05)
    units = [Unit(c.text, "select", 0, 16) for c in SMALL[:4]]
    assert {u for u, row in desk.results(units).items() if row.status == "done"} == set(units)
    desk = Desk(lab_of(job), Store(None), Silent(100), patience=0.01)
    (row,) = desk.results(units[:1]).values()
    assert row.status == "failed" and "no answer" in row.reason


def test_only_the_unit_that_breaks_executors_fails(job):
    units = [Unit(Candidate(activation=f"percentile:99.{k}").text, "select", 0, 16) for k in range(1, 9)]
    desk = Desk(lab_of(job), Store(None), lambda: Poisoned(units[5].candidate))
    rows = desk.results(units)
    assert {u for u, row in rows.items() if row.status == "failed"} == {units[5]}


def test_a_worker_that_saw_something_else_is_not_believed(job):
    class Elsewhere(Hostile):
        def submit(self, fn, /, *args, **kwargs):
            found = Future()
            found.set_result(("another key", fn(*args, **kwargs)[1]))
            return found

    desk = Desk(lab_of(job), Store(None), Elsewhere(np.random.default_rng(0)))
    (row,) = desk.results([Unit(Candidate().text, "select", 0, 16)]).values()
    assert row.status == "failed" and "saw another model" in row.reason


def test_labels_types_and_scaling_are_in_the_key(tmp_path):
    unit, keys = Unit(Candidate().text, "select", 0, 16), []
    job = job_in(tmp_path)
    with np.load(job.data[0]) as z:
        x, y = z["x"], z["y"]
    for arrays, more in (
        ({"x": x, "y": y}, {}), ({"x": x, "y": (y + 1) % 4}, {}), ({"x": x}, {}), ({"x": x.astype(np.float32), "y": y}, {}),
        ({"x": x, "y": y}, {"label_offset": 1}), ({"x": x, "y": y}, {"scale": 0.5}),
    ):  # fmt: skip
        np.savez(job.data[0], **arrays)
        keys.append(lab_of(replace(job, **more)).key(unit))
    assert len(set(keys)) == len(keys)


def test_an_own_strategy_that_changed_is_computed_anew(job, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    path, unit, lab = tmp_path / "changing_rule.py", Unit(Candidate(activation="changing_rule:part").text, "select", 0, 60), lab_of(job)
    path.write_text("def part(d):\n    return d.min / 2, d.max / 2\n")
    before = lab.score(unit)["loss"]
    path.write_text("def part(d):\n    return d.min / 16, d.max / 16\n")
    del sys.modules["changing_rule"]
    linecache.clearcache()
    assert not np.array_equal(lab.score(unit)["loss"], before)
    path.write_text("def part(d):\n    raise ValueError('no')\n")
    del sys.modules["changing_rule"]
    linecache.clearcache()
    found = run_sweep(job, [*SMALL[:2], Candidate(activation="changing_rule:part")], SEARCH)
    assert [s.failed for s in found.best().scores if s.failed] == ["ValueError: no"] and found.count.failed == 1
    del sys.modules["changing_rule"]


def test_the_baseline_is_plain_min_max(job):
    found = run_sweep(job, grid({"weights": ["mse"], "activation": ["mse"]}), SEARCH).best()
    assert found.baseline.candidate == Candidate()
    with pytest.raises(BadRecipe, match="no such scheme"):
        run_sweep(job, SMALL[:1], SEARCH).best("int4")
    with pytest.raises(BadRecipe, match="matches no tensor"):
        run_sweep(job, [Candidate(rules=(("op:CONV2D", "mse"),))], SEARCH)


def test_a_part_without_samples_is_refused(tmp_path):
    with pytest.raises(BadData, match="nothing is left to select"):
        lab_of(replace(job_in(tmp_path), parts=(0.8, 0.0, 0.2)))


def test_where_memory_does_not_hold_them_samples_go_by_halves(job, monkeypatch):
    lab, unit, sizes = lab_of(job), Unit(Candidate().text, "select", 0, 60), []
    expected = lab.score(unit)
    run = Function.run_samples

    def tight(self, params, *arrays):
        sizes.append(len(arrays[0]))
        if len(arrays[0]) > 20:
            raise RuntimeError("RESOURCE_EXHAUSTED: out of memory")
        return run(self, params, *arrays)

    monkeypatch.setattr(Function, "run_samples", tight)
    found = lab.score(unit)
    assert sizes == [60, 30, 15, 15, 30, 15, 15] and all(np.array_equal(found[k], expected[k]) for k in expected)


def test_changed_files_are_opened_anew_and_get_keys_of_their_own(tmp_path):
    job = job_in(tmp_path)
    unit = Unit(Candidate().text, "select", 0, 16)
    keys = [lab_of(job).key(unit)]
    assert lab_of(job) is lab_of(job)
    qsim.save(float_net(seed=1), job.model, force=True)
    keys.append(lab_of(job).key(unit))
    np.savez(job.data[0], x=images(100, seed=9))
    keys.append(lab_of(job).key(unit))
    assert len(set(keys)) == 3


def test_groups_of_the_file_stay_together(tmp_path):
    job = job_in(tmp_path, groups="recording")
    with np.load(job.data[0]) as z:
        np.savez(job.data[0], **z, recording=np.arange(len(z["x"])) // 25)
    lab = lab_of(job)
    found = [set(lab.splits[name].groups.tolist()) for name in ("calibrate", "select", "test")]
    assert not found[0] & found[1] and not found[1] & found[2] and len(set.union(*found)) == 16
