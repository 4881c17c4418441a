"""`qsim sweep` and `qsim merge`: a file says what to try; killed at any instant, the same command ends with the same figures."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from sweeping import facts, job_in

from calibrate.candidates import grid
from calibrate.scoring import VERSION, lab_of
from calibrate.store import Store
from calibrate.sweeper import Search, run_sweep
from calibrate.sweepfile import load_plan
from qsim.errors import BadRecipe
from qsim_cli.app import run

FILE = """model = "net.tflite"
data = "data.npz"
input_range = [0, 255]
[split]
parts = [0.4, 0.3, 0.3]
[grid]
scheme = ["int8"]
activation = ["minmax", "mse", "percentile:99.9"]
[search]
rounds = 2
final = 2
"""


@pytest.fixture
def folder(tmp_path):
    job_in(tmp_path)
    (tmp_path / "sweep.toml").write_text(FILE)
    return tmp_path


def told(capsys, *arguments: object) -> dict:
    assert run([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_file_becomes_jobs_and_candidates(folder):
    path = folder / "sweep.toml"
    path.write_text(FILE.replace('"net.tflite"', '["net.tflite", "other.tflite"]').replace("[grid]", "[grid]\nbits = [4, 12]"))
    plan = load_plan(path)
    assert [Path(j.model) for j in plan.jobs] == [folder / "net.tflite", folder / "other.tflite"] and plan.jobs[0].parts == (0.4, 0.3, 0.3)
    assert [c.scheme for c in plan.candidates[::3]] == ["int8", "sim:a4w4", "sim:a12w8"] and plan.search == Search(rounds=2, final=2)


def test_rules_multiply_the_grid(folder):
    path = folder / "sweep.toml"
    path.write_text(FILE + '[[rule]]\nselect = "op:CONV_2D"\nactivation = ["mse", "minmax"]\n')
    assert len(load_plan(path).candidates) == 6


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("[grid]", "[gird]"), "unknown field `gird`"), (("scheme =", "schemes ="), r"\$.grid"), (('"mse"', '"mmse"'), "unknown strategy"),
        (("rounds = 2", "rounds = 0"), r"\[search\] rounds"), (("rounds = 2", 'rounds = "2"'), r"\[search\] rounds"),
        (("rounds", "round"), "unknown entry"), (('"mse"', '"os:getcwd"'), "--allow-plugins"), (("[grid]", "[grid"), "not a sweep's file"),
        (('"net.tflite"', "[]"), "model"), (('data.npz"', 'data.npz"\nscale = 0'), "scale"), (("0, 255", "255, 0"), "input_range"),
        (('data.npz"', 'data.npz"\ntask = "clasification"'), "task"),
        (("[split]", "[split]\nblocks = 2\ngroups = 'g'"), "groups or blocks"),
        (('["int8"]', "[]"), "without values"), (("[grid]", '[grid]\nweights = ["msee"]'), "msee"),
        (("final", 'proxy = "fishy"\nfinal'), "proxy"),
        (("[0.4, 0.3, 0.3]", "[0.4, 0.6]"), r"\$.split.parts"), (('"int8"', '"int8x"'), "no such scheme"),
    ],
)  # fmt: skip
def test_faults_of_a_file_are_named(folder, change, words):
    path = folder / "sweep.toml"
    path.write_text(FILE.replace(*change))
    with pytest.raises(BadRecipe, match=words) as fault:
        load_plan(path)
    assert str(path) in str(fault.value)


def test_an_absent_file_shows_a_first_one(tmp_path):
    with pytest.raises(BadRecipe, match="activation ="):
        load_plan(tmp_path / "none.toml")


def test_the_command_goes_on_where_it_stopped(folder, capsys):
    command = ["sweep", folder / "sweep.toml", "--store", folder / "s.sqlite"]
    first, again = told(capsys, *command), told(capsys, *command, "-o", folder / "best.tflite")
    assert first["results"][0]["count"]["new"] > 0 == again["results"][0]["count"]["new"]
    assert first["results"][0]["rows"] == again["results"][0]["rows"] and (folder / "best.tflite").stat().st_size > 0
    run(list(map(str, command)))
    assert "winner: " in capsys.readouterr().out


def test_workers_and_merge(folder, capsys):
    alone = told(capsys, "sweep", folder / "sweep.toml", "--store", folder / "s.sqlite")
    for k in range(2):
        told(capsys, "sweep", folder / "sweep.toml", "--store", folder / "stores", "--worker", f"{k}/2")
    assert told(capsys, "merge", folder / "stores", "-o", folder / "all.sqlite")["stores"] == 2
    assert (
        told(capsys, "sweep", folder / "sweep.toml", "--store", folder / "all.sqlite")["results"][0]["rows"] == alone["results"][0]["rows"]
    )
    assert run(["sweep", str(folder / "sweep.toml"), "--worker", "2/2"]) == 2


def test_an_own_strategy_needs_leave_and_its_source_is_in_the_key(folder, capsys, monkeypatch):
    (folder / "own_rule.py").write_text("def half(d):\n    return d.min / 2, d.max / 2\n")
    monkeypatch.syspath_prepend(folder)
    (folder / "sweep.toml").write_text(FILE.replace('"mse"', '"own_rule:half"'))
    command = ["sweep", folder / "sweep.toml", "--store", folder / "s.sqlite", "--allow-plugins"]
    assert "own_rule:half" in str(told(capsys, *command)["results"][0]["rows"])
    lab = lab_of(load_plan(folder / "sweep.toml", plugins=True).jobs[0])
    from calibrate.candidates import Candidate
    from calibrate.scoring import Unit

    unit = Unit(Candidate(activation="own_rule:half").text, "select", 0, 16)
    before = lab.key(unit)
    (folder / "own_rule.py").write_text("def half(d):\n    return d.min / 3, d.max / 3\n")
    del sys.modules["own_rule"]
    __import__("linecache").clearcache()
    assert lab.key(unit) != before and "numerics" in VERSION


def test_processes_of_their_own_give_the_same(folder):
    plan = load_plan(folder / "sweep.toml")
    here = run_sweep(plan.jobs[0], plan.candidates, plan.search)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        there = run_sweep(plan.jobs[0], plan.candidates, plan.search, pool=pool)
    assert facts(here) == facts(there) and there.count.failed == 0


def killed(folder: Path, seconds: float) -> None:
    """Start the command and kill it after so long."""
    command = [sys.executable, "-m", "qsim_cli", "sweep", "sweep.toml", "--store", "s.sqlite"]
    with subprocess.Popen(command, cwd=folder, env={**os.environ, "PYTHONPATH": os.getcwd()}, stderr=subprocess.DEVNULL) as child:
        time.sleep(seconds)
        child.send_signal(signal.SIGKILL)


@pytest.mark.parametrize("kills", [2, pytest.param(60, marks=pytest.mark.nightly)])
def test_kills_at_random_instants_lose_nothing(folder, kills):
    (folder / "sweep.toml").write_text(FILE.replace("percentile:99.9", '", "'.join(f"percentile:99.{k}" for k in range(10, 60))))
    plan = load_plan(folder / "sweep.toml")
    rng, counts = np.random.default_rng(kills), []
    for _ in range(kills):
        killed(folder, rng.uniform(4, 12))
        with Store(folder / "s.sqlite") as store:
            counts.append(len(store))
            assert all(r.status == "done" and np.isfinite(r.arrays["loss"]).all() for r in store.rows())
    assert counts == sorted(counts)
    with Store(folder / "s.sqlite") as store:
        found = run_sweep(plan.jobs[0], plan.candidates, plan.search, store=store)
    assert facts(found) == facts(run_sweep(plan.jobs[0], plan.candidates, plan.search)) and found.count.reused == counts[-1]
    assert not list(folder.glob("*.tmp"))


def test_a_winner_of_many_is_refused_before_any_work(folder, capsys):
    (folder / "sweep.toml").write_text(FILE.replace("[grid]", "[grid]\nbits = [4]"))
    assert run(["sweep", str(folder / "sweep.toml"), "-o", str(folder / "best.tflite"), "--store", str(folder / "s.sqlite")]) == 2
    assert "1 models, 2 schemes" in capsys.readouterr().err and not (folder / "s.sqlite").exists()


def test_two_commands_at_once_share_a_store(folder):
    command = [sys.executable, "-m", "qsim_cli", "sweep", "sweep.toml", "--store", "s.sqlite"]
    how = {"cwd": folder, "env": {**os.environ, "PYTHONPATH": os.getcwd()}, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    both = [subprocess.Popen(command, **how) for _ in range(2)]
    said = [child.communicate()[0] for child in both]
    assert [child.returncode for child in both] == [0, 0] and said[0] == said[1]
    plan = load_plan(folder / "sweep.toml")
    with Store(folder / "s.sqlite") as store:
        rows = len(store)
        assert run_sweep(plan.jobs[0], plan.candidates, plan.search, store=store).count.reused == rows


def test_an_interruption_says_how_to_go_on(folder, capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("calibrate.scoring.Lab.score", interrupted)
    assert run(["sweep", str(folder / "sweep.toml"), "--store", str(folder / "s.sqlite")]) == 130
    assert "goes on from there" in capsys.readouterr().err


def test_grids_of_two_sweeps_share_a_store(folder):
    plan = load_plan(folder / "sweep.toml")
    with Store(folder / "s.sqlite") as store:
        run_sweep(plan.jobs[0], plan.candidates[:2], replace(plan.search, final=1), store=store)
        before = len(store)
        found = run_sweep(plan.jobs[0], grid({"activation": ["minmax", "mse", "percentile:99"]}), plan.search, store=store)
        assert found.count.reused > 0 and len(store) == before + found.count.new
