"""New ranges for a quantized model: what changes, what is repaired, what stays; and that LiteRT accepts and equals all of it."""

from __future__ import annotations

import numpy as np
import pytest
from nets import Net, random_net, random_range

import qsim
from qsim import reader
from qsim.check import check
from qsim.errors import BadRange, Unsupported
from qsim.graph import Model, Tensor
from qsim.layout import layout
from qsim.op import FLAVOURS
from qsim.quantizer import quantize
from qsim.relayout import is_activation, relayout
from qsim.requantizer import requantize
from qsim.snap import dequantize
from qsim.writer import save, to_bytes

ONES = np.ones((4, 1, 1, 4), np.float32)


def read_back(model: Model) -> Model:
    return reader.read(to_bytes(model))


def quantized(model: Model, low: float = -1.0, high: float = 1.0, io: str = "int8") -> Model:
    """An int8 file of a float net, every range alike."""
    return read_back(quantize(model, {model.graph.key(t): (low, high) for g in layout(model).groups for t in g}, io=io))


def named(model: Model, name: str | int) -> Tensor:
    return model.graph.tensors[model.graph.find(name)]


def ends(model: Model, name: str | int) -> list[float]:
    return [float(e[0]) for e in named(model, name).qparams.real_range()]


def pooled() -> tuple[Model, int, int, int]:
    """(int8 net, input, convolution's output, pool's output)."""
    net = Net()
    x = net.input(1, 4, 4, 4)
    y = net.conv(x, ONES, np.float32([0.5, -0.25, 0.125, 0]))
    out = net.pool("MAX_POOL_2D", y)
    return quantized(net.model(out)), *(net.tensors[t].name for t in (x, y, out))


def test_tied_tensors_share_the_hull_of_their_ranges():
    model, x, y, out = pooled()
    made = requantize(model, {y: (-2, 3), out: (-4, 1)})
    assert named(made, y).qparams == named(made, out).qparams and ends(made, y) == pytest.approx([-4, 3], abs=0.03)
    assert named(made, x).qparams == named(model, x).qparams
    assert [r.tensor for r in made.report.ranges] == [f"{y}, {out}"] and any("outputs have other" in n for n in made.report.notes)


def test_the_bias_follows_its_input_and_keeps_its_value():
    model, x, *_ = pooled()
    made = requantize(model, {x: (-3, 5)})
    node = made.graph.nodes[0]
    b, w, before = (made.graph.tensors[node.inputs[2]], made.graph.tensors[node.inputs[1]], model.graph.tensors[node.inputs[2]])
    assert np.array_equal(b.qparams.scale, named(made, x).qparams.scale * w.qparams.scale)
    assert np.array_equal(b.data, np.rint(dequantize(before.data, before.qparams).astype(np.float64) / b.qparams.scale))
    assert np.array_equal(w.data, model.graph.tensors[node.inputs[1]].data) and w.qparams == model.graph.tensors[node.inputs[1]].qparams


def test_only_and_keep_name_tensors_and_ties_go_along():
    model, x, y, out = pooled()
    everything = {x: (-3, 5), y: (-4, 3)}
    assert [r.tensor for r in requantize(model, everything, only=out).report.ranges] == [f"{y}, {out}"]
    made = requantize(model, everything, keep=f"^{out}$")
    assert [r.tensor for r in made.report.ranges] == [x] and (y, "asked to stay") in made.report.kept
    assert not requantize(model, everything, keep_ends=True).report.ranges


def test_dictated_parameters_stay():
    net = Net()
    x = net.input(1, 4)
    out = net.one("SOFTMAX", net.dense(x, np.eye(4, dtype=np.float32)), beta=1.0)
    model = quantized(net.model(out))
    made = requantize(model, {out: (0, 3), x: (-2, 2)})
    assert named(made, out).qparams == named(model, out).qparams and len(made.report.ranges) == 1
    assert ("x3", "SOFTMAX dictates its parameters") in made.report.kept and any("not used: x3" in n for n in made.report.notes)


def test_a_constant_in_a_tie_is_stored_anew_and_widens_the_range():
    net = Net()
    y = net.conv(net.input(1, 4, 4, 4), ONES, None)
    out = net.concat([y, net.constant(np.full((1, 4, 4, 1), -0.75))])
    model = quantized(net.model(out))
    made = requantize(model, {y: (-0.1, 2)})
    constant = made.graph.tensors[made.graph.nodes[1].inputs[1]]
    assert ends(made, out)[0] == pytest.approx(-0.75, abs=0.02) and constant.qparams == named(made, out).qparams
    assert dequantize(constant.data, constant.qparams) == pytest.approx(np.full((1, 4, 4, 1), -0.75), abs=0.02)


def test_a_bias_that_two_ops_share_is_written_for_each():
    net = Net()
    x = net.input(1, 4, 4, 4)
    y = net.conv(x, ONES, np.ones(4, np.float32))
    model = quantized(net.model(net.conv(y, ONES, np.ones(4, np.float32))))
    first, second = model.graph.nodes
    shared = second.but(inputs=(*second.inputs[:2], first.inputs[2]))  # both inputs have one scale, so this is legal
    model = read_back(model.but(graphs=(model.graph.but(nodes=(first, shared)),)))
    made = requantize(model, {y: (-7, 9)})
    one, other = (made.graph.tensors[n.inputs[2]] for n in made.graph.nodes)
    assert one.index != other.index and one.data is model.graph.tensors[one.index].data
    assert [dequantize(t.data, t.qparams) == pytest.approx(np.ones(4), abs=1e-3) for t in (one, other)] == [True, True]


def inferred(high: float) -> Model:
    """An int8 net whose ADD has its RELU6 only in the range."""
    net = Net()
    x = net.input(1, 4)
    model = quantized(net.model(net.two("ADD", x, x)), 0.0, high)
    return model


def test_an_activation_that_the_new_range_no_longer_carries_is_written():
    model = inferred(6.0)
    assert model.graph.nodes[0].inferred_activation == "RELU6"
    assert to_bytes(model) == model.source.data
    assert read_back(model).graph.nodes[0].options.fused_activation_function == "NONE"
    same, narrow = requantize(model, {"x1": (0, 6.01)}), requantize(model, {"x1": (0, 3)})
    assert same.graph.nodes[0].inferred_activation == "RELU6"
    assert narrow.graph.nodes[0].options.fused_activation_function == "RELU6" and narrow.graph.nodes[0].inferred_activation is None
    assert ends(requantize(model, {"x1": (-3, 9)}), "x1") == pytest.approx([0, 6], abs=1e-6)
    x = np.linspace(-1, 9, 44, dtype=np.float32).reshape(11, 1, 4)
    real = model.function("float").batch(x)[0]
    assert real.max() == 6 and np.array_equal(read_back(narrow).function("float").batch(x)[0], real)


def test_faulty_ranges_are_named_together():
    model, x, y, _ = pooled()
    with pytest.raises(BadRange, match="(?s)2 range.*above the high end.*no tensor 'nothing'"):
        requantize(model, {x: (3, -3), "nothing": (0, 1), y: (0, 1)})
    net = Net()
    with pytest.raises(Unsupported, match="no quantized activations"):
        requantize(net.model(net.one("RELU", net.input(1, 4))), {})


def test_a_limit_widens_least_or_gives_the_range_up():
    model, x, y, out = pooled()
    made = requantize(model, {y: (-1e-9, 1e-9)})
    assert {r.reason for r in made.report.repairs} == {
        "narrower than the smallest scale, 2^-23",
        "input scale x weight scale / output scale must stay below 2^8",
    }
    held = requantize(model, {x: (-1e6, 1e6)}, keep=out)
    assert not held.report.ranges and any(n.startswith(f"{x} keeps its range: op 0 CONV_2D") for n in held.report.notes)
    net = Net()
    net.conv(net.input(1, 4, 4, 4), ONES, np.full(4, 64, np.float32))
    tight = requantize(quantized(net.model(3)), {0: (-1e-9, 1e-9)})  # 64 would need a bias of 6.8e10 steps
    assert [r.reason for r in tight.report.repairs][-1] == "bias and sum of products must fit the accumulator"
    bias = tight.graph.tensors[tight.graph.nodes[0].inputs[2]]
    assert np.abs(bias.data.astype(np.int64)).max() > 2**30 and dequantize(bias.data, bias.qparams)[0] == pytest.approx(64)


@pytest.mark.models
def test_the_ranges_that_a_file_has_change_nothing(models_dir):
    for path in sorted((models_dir / "nets").glob("*int8.tflite")):
        model = qsim.load(path)
        own = {t.index: tuple(float(e[0]) for e in t.qparams.real_range()) for t in model.graph.tensors if is_activation(t)}
        made = requantize(model, {t: own[t] for g in relayout(model.graph).groups for t in g})
        assert not made.report.ranges and to_bytes(made) == model.source.data, path.name


@pytest.mark.exact
@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(k, marks=pytest.mark.nightly) for k in (2, 3, 4))])
def test_random_nets_stay_legal_and_litert_equals_them(seed, oracle, record_property):
    rng = np.random.default_rng([20, seed])
    for _ in range(3):
        float_net = random_net(rng, int(rng.integers(2, 9)), float_ops=False)
        given = {float_net.graph.key(t): random_range(rng) for g in layout(float_net).groups for t in g}
        model = read_back(quantize(float_net, given, io=str(rng.choice(["int8", "uint8", "float32"]))))
        plan = relayout(model.graph)
        wanted = {t: random_range(rng) for g in plan.groups for t in g if rng.random() < 0.7}
        if not any(map(is_activation, model.graph.tensors)):
            continue
        made = requantize(model, wanted)
        assert check(made) == [] or set(check(made)) <= set(check(model))
        data = to_bytes(made)
        again = reader.read(data)
        xs = [stored(rng, again.graph.tensors[t]) for t in again.graph.inputs]
        for flavour in FLAVOURS:
            ours = again.function("integer", flavour).batch(*xs)
            theirs = oracle.run(data, xs, flavour)
            for t, y in zip(again.graph.outputs, ours, strict=True):
                assert np.array_equal(y, theirs[t], equal_nan=True)
                record_property("elements", y.size)
        record_property("draws", 1)


def stored(rng: np.random.Generator, t: Tensor, count: int = 3) -> np.ndarray:
    shape = (count, *t.shape)
    if t.type == "float32":
        return (rng.normal(size=shape) * 10.0 ** rng.integers(-2, 3)).astype(np.float32)
    return rng.integers(np.iinfo(t.type).min, np.iinfo(t.type).max + 1, shape).astype(t.type)


NETS = ("conv_resnet8_int16x8", "conv_ad01_int16x8", "conv_resnet8_uint8io", "mobilenet_v1_025_224_uint8", "mlperf_vww96_int8")


@pytest.mark.models
@pytest.mark.exact
@pytest.mark.parametrize("name", NETS)
def test_real_nets_of_each_type_are_patched_and_exact(name, models_dir, oracle, tmp_path):
    model = qsim.load(models_dir / "nets" / f"{name}.tflite")
    graph, rng = model.graph, np.random.default_rng(7)
    factor = {g: rng.uniform(0.5, 1.5) for g in relayout(graph).groups}
    wanted = {t: tuple(f * e for e in ends(model, t)) for g, f in factor.items() for t in g}
    made = requantize(model, wanted)
    assert made.report.ranges and set(check(made)) <= set(check(model))
    if not any(n.inferred_activation for n in graph.nodes):
        assert save(made, tmp_path / "new.tflite") == "patch"
    data = to_bytes(made)
    xs = [stored(rng, graph.tensors[t], 2) for t in graph.inputs]
    for y, t in zip(reader.read(data).function("integer").batch(*xs), graph.outputs, strict=True):
        assert np.array_equal(y, oracle.run(data, xs)[t])
