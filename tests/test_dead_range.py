"""What is left out of a range makes no difference to what reads it, and codes go where they do."""

from __future__ import annotations

import json

import numpy as np
import pytest
import small
from nets import Net

import calibrate
import qsim
from calibrate.deadrange import PART, live_intervals
from calibrate.distribution import clamped, distribution
from calibrate.statistics import sketch_array
from qsim.layout import layout
from qsim.scheme import INT8, INT16X8, scheme_named
from qsim_cli.app import run

ENDS = {
    "RELU": (0, np.inf), "RELU6": (0, 6), "RELU_N1_TO_1": (-1, 1), "HARD_SWISH": (-3, np.inf), "LOGISTIC": (-7.847, 7.847),
    "TANH": (-3.924, 3.924), "LEAKY_RELU": (-np.inf, np.inf),
}  # fmt: skip


def one(op: str, **options) -> tuple[Net, int]:
    """in -> FULLY_CONNECTED -> op."""
    net = Net()
    x = net.dense(net.input(1, 16), np.eye(16, dtype=np.float32))
    return net, net.one(op, x, **options)


def live(model, scheme=INT8, stats=None):
    return live_intervals(model.graph, layout(model, scheme), stats)


def spread(n: int = 400, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_t(2, size=(n, 1, 16)) * 3).astype(np.float32)


@pytest.mark.parametrize("op", ENDS)
def test_values_beyond_the_live_interval_make_no_difference(op):
    options = {"alpha": 0.1} if op == "LEAKY_RELU" else {}
    net, y = one(op, **options)
    model, x = net.model(y), spread()
    ends = live(model)[model.graph.nodes[1].inputs[0]]
    assert ends == pytest.approx(ENDS[op], abs=1e-3)
    run = model.function("float")
    plain, cut = run.batch(x)[0], run.batch(np.clip(x, *ends).astype(np.float32))[0]
    step = {"LOGISTIC": 1 / 256, "TANH": 1 / 128}.get(op, 0.0)
    assert np.abs(plain - cut).max() <= PART * step + 1e-6 * (step > 0)
    assert (x != np.clip(x, *ends)).any() or op == "LEAKY_RELU"


def test_the_bound_goes_with_the_step_of_the_output():
    net, y = one("LOGISTIC")
    t = net.nodes[1].inputs[0]
    assert live(net.model(y), INT16X8)[t][1] == pytest.approx(np.log(10 * 2**15 - 1))
    assert live(net.model(y), scheme_named("sim:a4w4"))[t] == (-np.inf, np.inf)  # its output's step is not dictated there


def test_all_readers_count_and_outputs_of_the_model_are_read():
    net, y = one("RELU6")
    t = net.nodes[1].inputs[0]
    z = net.one("HARD_SWISH", t)
    assert live(net.model(y, z))[t] == (-3.0, np.inf)
    assert live(net.model(y, z, t))[t] == (-np.inf, np.inf)
    w = net.two("ADD", t, net.inputs[0])
    assert live(net.model(y, w))[t] == (-np.inf, np.inf)


def test_ops_that_select_pass_on_what_their_readers_read():
    net = Net()
    x = net.dense(net.input(1, 16), np.eye(16, dtype=np.float32))
    image = net.reshape(x, 1, 4, 4, 1)
    pooled = net.pool("MAX_POOL_2D", image)
    both = net.concat([pooled, net.one("NEG", pooled)])
    y = net.one("RELU6", both)
    found = live(net.model(y))
    assert found[both] == (0, 6) and found[pooled] == found[x] == (-np.inf, np.inf)  # NEG reads it all
    ready = net.one("RELU6", net.pool("MAX_POOL_2D", image))
    net.nodes = [n for n in net.nodes if n.op != "NEG" and both not in (*n.inputs, *n.outputs) and n.outputs[0] != pooled]
    net.nodes = [n.but(index=i) for i, n in enumerate(net.nodes)]
    assert live(net.model(ready))[x] == (0, 6)


def test_numbers_far_below_the_largest_of_a_row_make_no_difference_to_softmax():
    net, y = one("SOFTMAX", beta=1.0)
    model, x = net.model(y), spread() * 3
    t = model.graph.nodes[1].inputs[0]
    stats = calibrate.observe(model, x)
    ends = live(model, INT8, stats)[t]
    assert ends == (pytest.approx(x.max(axis=(1, 2)).min() - np.log(16 * 256 / PART)), np.inf) and ends[0] > x.min()
    run = model.function("float")
    plain, cut = run.batch(x)[0], run.batch(np.clip(x, *ends).astype(np.float32))[0]
    assert 0 < np.abs(plain - cut).max() <= PART / 256
    assert live(model, INT8, calibrate.observe(model, x, sequence=False))[t] == (-np.inf, np.inf)


@pytest.mark.parametrize("op, strategy", [("HARD_SWISH", "mse"), ("LOGISTIC", "minmax"), ("RELU6", "minmax")])
def test_codes_go_where_they_make_a_difference(op, strategy):
    rng, net = np.random.default_rng(0), Net()
    y = net.one(op, net.dense(net.input(1, 16), rng.normal(size=(16, 16)).astype(np.float32) * 3))
    model, x = net.model(y), rng.normal(size=(200, 1, 16)).astype(np.float32)
    stats = calibrate.observe(model, x)
    want = model.function("float").batch(x)[0]
    noise = {}
    for dead in (False, True):
        ranges = calibrate.ranges(model, stats, strategy, dead_range=dead)
        got = qsim.quantize(model, ranges, INT8).function("integer").batch(x)[0]
        noise[dead] = float(np.square(got - want).mean())
        assert ("make no difference" in " ".join(ranges.notes)) == dead
    assert noise[True] < noise[False] * (0.9 if strategy == "minmax" else 1.0)


def test_tensors_of_one_range_are_live_where_any_of_them_is():
    net = Net()
    x = net.dense(net.input(1, 16), np.eye(16, dtype=np.float32))
    model = net.model(net.one("RELU", x), net.one("RELU6", net.reshape(x, 1, 4, 4)))
    stats = calibrate.observe(model, spread())
    found = calibrate.ranges(model, stats, dead_range=True)
    top = calibrate.ranges(model, stats)["x2"][1]
    assert found["x2"] == found[model.graph.key(model.graph.nodes[2].outputs[0])] == (0.0, top)


@pytest.mark.parametrize("n", [30, 6000])
def test_clamped_is_the_distribution_of_clamped_values(n):
    x = spread(n).reshape(n, 16)
    d, ends = clamped(distribution([sketch_array(x)], [np.stack([x.min(1), x.max(1)], 1)]), -1.5, 4.0), (-1.5, 4.0)
    y = np.clip(x, *ends)
    assert (d.min, d.max, d.total) == (y.min(), y.max(), y.size) and (d.lower[1:] >= d.upper[:-1]).all()
    assert d.weight[(d.lower == 4.0)].sum() == (x >= 4.0).sum() and d.sequence.max() == 4.0
    assert d.cut(0.3, 0.3) == pytest.approx((np.quantile(y, 0.3), np.quantile(y, 0.7)), rel=0.03 if n > 30 else 0.1)


def test_the_command_line_takes_it(tmp_path, capsys):
    qsim.save(small.float_net(), tmp_path / "net.tflite")
    np.savez(tmp_path / "data.npz", x=small.images(40).astype(np.float32) * 4)
    ranges = []
    for more in ([], ["--dead-range"]):
        command = [
            "calibrate",
            str(tmp_path / "net.tflite"),
            "--data",
            str(tmp_path / "data.npz"),
            "-o",
            str(tmp_path / "r.json"),
            "--force",
        ]
        assert run([*command, "--strategy", "minmax", "--json", *more]) == 0
        ranges.append(json.loads(capsys.readouterr().out)["ranges"])
    assert ranges[1]["logits"][0] > ranges[0]["logits"][0] and ranges[1]["hidden"] == ranges[0]["hidden"]
    assert run(["strategies"]) == 0 and "aciq[:gauss]" in capsys.readouterr().out
