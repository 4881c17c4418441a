"""Ties between tensors: what sharing a scale costs, which cuts are proposed, and what cutting does to the file."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from nets import Net
from test_cli import result, run

import calibrate
import qsim
from calibrate import evaluation
from calibrate.distribution import distribution
from calibrate.rounding import search
from calibrate.splitting import propose_splits, splits_named, tie_costs
from calibrate.statistics import Statistics
from qsim.graph import Model
from qsim.layout import layout, tied_edges
from qsim.writer import to_bytes

WIDE = 50.0  # how much wider the wide branch is
SCHEMES = (qsim.INT8, qsim.UINT8, qsim.INT16X8)


def conv(net: Net, x: int, out: int, gain: float = 1.0) -> int:
    c = net.shape(x)[3]
    rng = np.random.default_rng([x, out])
    return net.conv(x, (rng.normal(size=(out, 3, 3, c)) * gain / np.sqrt(9 * c)).astype(np.float32), np.zeros(out, np.float32))


@cache
def inception(read_alone: bool = True, joints: int = 1) -> Model:
    """narrow and `joints` wide branches, narrow concatenated with each; op 2 is the first CONCATENATION."""
    net = Net()
    x = net.input(1, 6, 6, 4)
    narrow, wide = conv(net, x, 5), conv(net, x, 6, WIDE)
    joined = [net.concat([narrow, wide])]
    joined += [net.concat([narrow, conv(net, x, 6 + k, WIDE)]) for k in range(1, joints)]
    return net.model(*([conv(net, narrow, 3)] if read_alone else []), *(conv(net, j, 3) for j in joined))


def samples(model: Model, count: int = 32) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, *model.graph.tensors[0].shape[1:])).astype(np.float32)


@cache
def observed(model: Model) -> Statistics:
    return calibrate.observe(model, samples(model))


def edges(splits) -> list[tuple[int, int]]:
    return [(s.node, s.position) for s in splits]


# the cost


def uniform_noise(step: float, end: float) -> float:
    """Mean square of x - step * round(x / step), x uniform in [-end, end]: the integral over whole steps and the rest, in closed form."""
    rest = end - step * np.floor(end / step + 0.5)
    whole = end - rest
    return float((whole * step**2 / 12 + rest**3 / 3) / end)


def test_costs_are_those_of_uniform_values_in_closed_form():
    """Shared: N / P with the wide tensor's step; split: with the own step, and the joined tensor's readers get both roundings."""
    net = Net()
    a, b = net.input(1, 100), net.input(1, 300)
    joined = net.concat([a, b])
    model = net.model(net.one("TANH", a), net.one("TANH", joined))
    rng = np.random.default_rng(0)
    x = [rng.uniform(-e, e, (800, n)).astype(np.float32) for e, n in ((1.0, 100), (100.0, 300))]
    x[1][0, :2] = -100, 100
    found = tie_costs(model, calibrate.observe(model, [tuple(x)]), input_range={"in0": (-1.0, 1.0), "in1": (-100.0, 100.0)})
    assert edges(found) == [(0, 0), (0, 1)] and found[0].readers_of == "in0" and found[0].elements == 100
    for level, step in ((found[0].shared_db, 200 / 255), (found[0].split_db, 2 / 255)):
        assert level == pytest.approx(10 * np.log10(1 / 3 / uniform_noise(step, 1.0)), abs=0.1)
    shared = 0.25 * uniform_noise(200 / 255, 1.0) + 0.75 * uniform_noise(200 / 255, 100.0)
    twice = shared + 0.75 * uniform_noise(200 / 255, 100.0)  # cutting the wide one: its values are rounded to equal grids in a row
    power = 0.25 / 3 + 0.75 * 100**2 / 3
    assert found[1].readers_of == model.graph.key(joined)
    assert (found[1].shared_db, found[1].split_db) == pytest.approx((10 * np.log10(power / shared), 10 * np.log10(power / twice)), abs=0.1)


@pytest.mark.parametrize("strategy", ["minmax", "mse"])
def test_only_what_helps_other_readers_is_proposed(strategy):
    for model, wanted in ((inception(), [(2, 0)]), (inception(read_alone=False), [])):
        found = propose_splits(model, observed(model), strategy)
        assert edges(found) == wanted
        assert all(s.split_db - s.shared_db > 6 and s.shared_db < 40 for s in found)


def test_ties_that_only_help_together_are_proposed_together():
    model = inception(joints=2)
    stats = observed(model)
    alone = {(s.node, s.position): s.split_db - s.shared_db for s in tie_costs(model, stats)}
    found = edges(propose_splits(model, stats))
    assert found == [(2, 0), (4, 0)] and all(alone[e] < 6 for e in found)


def test_equal_branches_are_left_alone():
    net = Net()
    x = net.input(1, 6, 6, 4)
    a, b = conv(net, x, 5), conv(net, x, 6)
    model = net.model(conv(net, a, 3), conv(net, net.concat([a, b]), 3))
    assert propose_splits(model, observed(model)) == ()


def test_a_group_is_estimated_once_on_its_merged_values():
    """Tied tensors have the range that a search over all their values gives; a cut one has its own."""
    model = inception()
    stats = observed(model)
    node = model.graph.nodes[2]
    tensors = (*node.inputs, *node.outputs)
    merged, apart = (calibrate.ranges(model, stats, "mse", split=s) for s in ((), [(2, 0)]))
    pooled = search(distribution([stats.tensors[t] for t in tensors]))[0]
    alone = search(distribution([stats.tensors[node.inputs[0]]]))[0]
    assert {merged[model.graph.key(t)] for t in tensors} == {pooled} and apart[model.graph.key(node.inputs[0])] == alone


# the file


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda s: s.name)
def test_a_cut_tensor_keeps_its_scale(scheme):
    model = inception()
    stats = observed(model)
    made = [qsim.quantize(model, calibrate.ranges(model, stats, scheme=scheme, split=s), scheme, split=s) for s in ((), [(2, 0)])]
    name = model.graph.key(model.graph.nodes[2].inputs[0])
    shared, own = (m.graph.tensors[m.graph.find(name)].qparams.scale[0] for m in made)
    assert own < shared / 10 and len(made[1].graph.nodes) == len(made[0].graph.nodes) + 1
    assert any("op 2 CONCATENATION: input 0 keeps its own range" in n for n in made[1].report.notes)


@pytest.mark.exact
def test_other_readers_of_a_cut_tensor_gain_and_litert_gives_the_same(oracle):
    model = inception()
    x = samples(model, 64)
    stats, real = calibrate.observe(model, x[:32]), model.function("float").batch(x[32:])
    levels = []
    for split in ((), [(2, 0)]):
        made = qsim.quantize(model, calibrate.ranges(model, stats, split=split), split=split)
        found = made.function().batch(x[32:])
        assert all(np.array_equal(y, e) for y, e in zip(found, oracle.run(to_bytes(made), [x[32:, None]]).values(), strict=True))
        levels.append([evaluation.sqnr(r, y) for r, y in zip(real, found, strict=True)])
    assert levels[1][0] > levels[0][0] + 15 and levels[1][1] > levels[0][1] - 0.5


def test_ranges_made_without_the_cut_change_nothing():
    model = inception()
    ranges = calibrate.ranges(model, observed(model))
    made = [qsim.quantize(model, ranges, split=s) for s in ((), [(2, 0)])]
    assert [n.op for n in made[0].graph.nodes] == [n.op for n in made[1].graph.nodes]


def test_a_cut_that_leaves_the_tensor_tied_is_told():
    net = Net()
    x = conv(net, net.input(1, 6, 6, 4), 5)
    model = net.model(conv(net, net.concat([x, x]), 3))
    ranges = {model.graph.key(t): (-1.0, 1.0) for group in layout(model).groups for t in group}
    made = qsim.quantize(model, ranges, split=[(1, 0)])
    assert any("op 1 CONCATENATION: input 0 keeps no range of its own" in n for n in made.report.notes)
    assert layout(model, split=[(1, 0), (1, 1)]).cuts == {(1, 0), (1, 1)}


def test_what_cannot_be_cut_is_refused():
    """Ops that compute, and those that average: the range of an average would clip what it is made of."""
    net = Net()
    x = net.input(1, 6, 6, 4)
    model = net.model(conv(net, net.pool("AVERAGE_POOL_2D", x), 3))
    assert tied_edges(model.graph, layout(model)) == []
    ranges = {model.graph.key(t): (-1.0, 1.0) for group in layout(model).groups for t in group}
    for edge in ((0, 0), (1, 0), (9, 0)):
        with pytest.raises(qsim.BadRecipe, match=f"op {edge[0]}.*no tie"):
            qsim.quantize(model, ranges, split=[edge])


def test_behind_a_cut_the_moved_values_need_a_range():
    model = inception()
    joined = model.graph.key(model.graph.nodes[2].outputs[0])
    ranges = {model.graph.key(t): (-1.0, 1.0) for group in layout(model).groups for t in group}
    del ranges[joined]
    qsim.quantize(model, ranges)
    with pytest.raises(qsim.BadRange, match=f"no range for 1.*{joined}"):
        qsim.quantize(model, ranges, split=[(2, 0)])


# the command line


@pytest.fixture
def files(tmp_path, monkeypatch):
    """net.tflite with a narrow and a wide branch, data.npz."""
    monkeypatch.chdir(tmp_path)
    model = inception()
    qsim.save(model, "net.tflite")
    np.savez("data.npz", x=samples(model))
    return model.graph.key(model.graph.nodes[2].inputs[0])


def test_quantize_proposes_splits_and_takes_them(capsys, files):
    common = ("quantize", "net.tflite", "--data", "data.npz", "--strategy", "minmax")
    code, out, _ = run(capsys, *common, "-o", "shared.tflite")
    assert code == 0 and "op 2 CONCATENATION" in out and "--split proposed" in out
    made = {}
    for name, more in (("told", ()), ("proposed", ("--split", "proposed")), ("named", ("--split", files))):
        made[name] = result(capsys, *common, "-o", f"{name}.tflite", *more)
        (row,) = made[name]["splits"]
        assert (row["tensor"], row["node"], row["position"], row["accepted"]) == (files, 2, 0, name != "told")
        assert row["shared_db"] + 20 < row["split_db"]
    before, *after = (len(qsim.load(f"{name}.tflite").graph.nodes) for name in made)
    assert after == [before + 1, before + 1]


@pytest.mark.parametrize(
    "arguments, hint",
    [
        (["--data", "data.npz", "--split", "in0"], "no op ties"),
        (["--default-range=-1,1", "--split", "proposed"], "--data"),
    ],
)
def test_splits_that_cannot_be_are_told(capsys, files, arguments, hint):
    code, _, err = run(capsys, "quantize", "net.tflite", "-o", "q.tflite", "--strategy", "minmax", *arguments)
    assert code == 2 and hint in err


def test_names_give_every_tie_of_a_tensor():
    model = inception(joints=2)
    narrow = model.graph.nodes[2].inputs[0]
    assert splits_named(model, qsim.INT8, [model.graph.key(narrow), f"t{narrow}"]) == ((2, 0), (4, 0))
