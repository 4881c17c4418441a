"""Ranges that a float model brings along: FAKE_QUANT ops are read, taken out, and nothing is left of them but their ranges."""

from __future__ import annotations

import numpy as np
import pytest
import small
from nets import Net

import qsim
from qsim.check import check
from qsim.errors import BadRange
from qsim.flat import Record
from qsim.given import given_ranges, nudged, without_fake_quant
from qsim.graph import Model, Node, Options, QParams
from qsim.minmax import with_min_max
from qsim.reader import read
from qsim.records import diff
from qsim.writer import to_bytes

X = (small.images(16) / 64 - 2).astype(np.float32)


def fake(net: Net, x: int, low: float, high: float, bits: int = 8) -> int:
    return net.one("FAKE_QUANT", x, min=low, max=high, num_bits=bits, narrow_range=False)


def trained(bits: int = 8, fine: bool = False) -> Model:
    """As quantization-aware training leaves it: FAKE_QUANT on the input, weights, activations and output. fine: hardly any clipping."""
    rng, net = np.random.default_rng(1), Net()
    x = fake(net, net.input(1, 4, 4, 2), -1.0, 1.1, bits)
    w = fake(net, net.constant(rng.normal(size=(3, 1, 1, 2)).astype(np.float32)), *((-4.0, 4.0) if fine else (-0.5, 0.5)), bits)
    y = net.op("CONV_2D", [x, w, net.constant(np.zeros(3, np.float32))], (1, 4, 4, 3), fused_activation_function="RELU",
               padding="SAME", stride_h=1, stride_w=1, dilation_h_factor=1, dilation_w_factor=1)  # fmt: skip
    y = fake(net, y, 0.0, 20.0 if fine else 2.5, bits)
    z = fake(net, net.two("ADD", y, y), 0.0, 40.0 if fine else 5.0, bits)
    return net.model(z)


def node(low: float, high: float, bits: int = 8, narrow: bool = False) -> Node:
    return Node(0, "FAKE_QUANT", (0,), (1,), Options(min=low, max=high, num_bits=bits, narrow_range=narrow))


@pytest.mark.parametrize(
    ("low", "high", "bits", "narrow", "moved"),
    [  # a scale of 1/4: the zero point 0.4 goes to 0, 0.5 to 1, 254.6 to 255
        (-0.1, 63.65, 8, False, (0.0, 63.75)),
        (-0.125, 63.625, 8, False, (-0.25, 63.5)),
        (-63.65, 0.1, 8, False, (-63.75, 0.0)),
        (-0.1, 63.4, 8, True, (0.0, 63.5)),
        (-0.125, 63.375, 8, True, (-0.25, 63.25)),
        (-0.1, 31.65, 7, False, (0.0, 31.75)),
        (1.0, 64.75, 8, False, (0.0, 63.75)),  # a range without 0 is moved, as wide as it was
        (-0.4, 0.4, 2, True, (-0.4, 0.4)),
    ],
)
def test_ranges_are_nudged_as_training_nudged_them(low, high, bits, narrow, moved):
    assert nudged(node(low, high, bits, narrow)) == pytest.approx(moved, abs=1e-6)


@pytest.mark.parametrize("wrong", [node(1, 1), node(2, 1), node(0, float("inf")), node(0, 1, 1), node(0, 1, 17)])
def test_a_range_that_is_none_is_refused(wrong):
    with pytest.raises(BadRange, match="op 0 FAKE_QUANT"):
        nudged(wrong)


def test_input_and_output_of_each_op_have_its_range():
    model = trained()
    found = given_ranges(model)
    assert set(found) == {model.graph.key(t) for n in model.graph.nodes if n.op == "FAKE_QUANT" for t in (n.inputs[0], n.outputs[0])}
    assert found["in0"] == found["x1"] == nudged(model.graph.nodes[0])


def test_nothing_is_left_of_the_ops_but_their_ranges(oracle):
    model = read(to_bytes(trained()))
    made, ranges, kept = without_fake_quant(model)
    assert [n.op for n in made.graph.nodes] == ["CONV_2D", "ADD"] and kept == () and check(made) == []
    assert made.graph.key(made.graph.outputs[0]) == model.graph.key(model.graph.outputs[0])
    assert made.signatures[0]["outputs"] == {"out0": made.graph.outputs[0]}
    quantized = qsim.quantize(made, ranges)
    assert quantized.report.kept_float == ()
    for flavour in ("xnnpack", "reference"):
        assert oracle.loads(to_bytes(quantized), flavour) is None


def test_the_quantizer_takes_the_grid_of_the_training():
    model = trained()
    made, ranges, _ = without_fake_quant(model)
    rows = {row.tensor: row for row in qsim.quantize(made, ranges, io="int8").report.tensors}
    for n in (n for n in model.graph.nodes if n.op == "FAKE_QUANT" and not model.graph.tensors[n.inputs[0]].is_constant):
        low, high = nudged(n)
        key = next(k for k in ranges if ranges[k] == (low, high))
        assert rows[key].scale == pytest.approx((high - low) / 255, rel=1e-6)
        assert rows[key].zero_point == round(-128 - low / ((high - low) / 255))


def test_weights_stay_clipped_as_they_were_trained():
    model = trained()
    made, _, _ = without_fake_quant(model)
    before = next(t for t in model.graph.tensors if t.shape == (3, 1, 1, 2) and t.is_constant)
    after = next(t for t in made.graph.tensors if t.shape == (3, 1, 1, 2) and t.is_constant)
    low, high = nudged(next(n for n in model.graph.nodes if n.inputs[0] == before.index))
    assert before.data.max() > high and after.data.max() <= high and after.data.min() >= low
    steps = (after.data - low) / ((high - low) / 255)
    np.testing.assert_allclose(steps, np.rint(steps), atol=1e-3)
    assert np.abs(after.data - np.clip(before.data, low, high)).max() <= (high - low) / 255


def test_the_float_function_changes_by_the_rounding_alone():
    x = np.random.default_rng(4).uniform(-1, 1, (8, 1, 4, 4, 2)).astype(np.float32)
    model = trained(16, fine=True)
    (before,), (after,) = (m.function("float").batch(x) for m in (model, without_fake_quant(model).model))
    assert 0 < np.abs(after - before).max() < 3 * 40 / 65535


@pytest.mark.exact
def test_the_quantized_model_equals_litert(oracle):
    made, ranges, _ = without_fake_quant(trained())
    data = to_bytes(qsim.quantize(made, ranges))
    x = np.random.default_rng(4).uniform(-1, 1, (40, 1, 4, 4, 2)).astype(np.float32)
    model = read(data)
    (mine,) = model.function("integer").batch(x)
    assert np.array_equal(mine, oracle.run(data, [x])[model.graph.outputs[0]])


def test_a_chain_gives_the_hull_and_what_users_see_stays():
    net = Net()
    x = net.input(1, 4)
    twice = fake(net, fake(net, net.one("TANH", x), -1.0, 1.0), -2.0, 0.5)
    through = fake(net, x, -1.0, 1.0)
    made, ranges, kept = without_fake_quant(net.model(twice, through))
    assert [n.op for n in made.graph.nodes] == ["TANH", "FAKE_QUANT"] and kept == (1,)
    key = made.graph.key(made.graph.nodes[0].outputs[0])
    assert ranges[key] == pytest.approx((-2.0, 1.0), abs=0.02)
    assert made.graph.outputs[0] == made.graph.nodes[0].outputs[0]
    (y, z) = made.function("float").batch(np.linspace(-3, 3, 8, dtype=np.float32).reshape(2, 1, 4))
    assert y.shape == z.shape == (2, 1, 4)


def test_a_model_without_them_is_returned_as_it_is():
    model = small.float_net()
    assert without_fake_quant(model) == (model, {}, ())


def with_fields(**ends: tuple[float, float]) -> Model:
    """The small net with min and max in the quantization records of tensors, whatever they are."""
    model = read(to_bytes(small.float_net()))

    def marked(t):
        if t.name not in ends:
            return t
        low, high = (np.float32([v]) for v in ends[t.name])
        return t.but(raw=t.raw.but(quantization=Record("QuantizationParameters", {"min": low, "max": high})))

    return model.but(graphs=(model.graph.but(tensors=tuple(map(marked, model.graph.tensors))),))


def test_fields_of_the_file_are_ranges():
    nan = float("nan")
    model = read(to_bytes(with_fields(hidden=(0.0, 3.0), w1=(-1.0, 1.0), deep=(nan, 1.0), logits=(2.0, 2.0)), "rebuild"))
    assert given_ranges(model) == {"hidden": (0.0, 3.0)}
    assert given_ranges(with_fields(image=(-1.0, 1.0))) == {"image": (-1.0, 1.0)}


def test_what_old_converters_wrote_for_want_of_knowledge_is_no_range():
    model = with_fields(image=(0.0, 255.0), hidden=(0.0, 255.0))
    assert given_ranges(model) == {"hidden": (0.0, 255.0)}
    assert given_ranges(model, trusted=True) == dict.fromkeys(("image", "hidden"), (0.0, 255.0))


def test_pairs_of_quantize_and_dequantize_are_ranges():
    """As newer converters write FAKE_QUANT in a float file. A QUANTIZE whose codes an op computes with is something else."""
    net = Net()
    x = net.input(1, 4)
    q = QParams(np.float32([0.5]), np.int64([-28]), -128, 127)
    codes = [net.op("QUANTIZE", [x], (1, 4), kind="int8") for _ in range(2)]
    y, z = net.one("DEQUANTIZE", codes[0]), net.op("RELU", [codes[1]], (1, 4), kind="int8")
    for t in (*codes, z):
        net.tensors[t] = net.tensors[t].but(qparams=q)
    assert given_ranges(net.model(y, z)) == dict.fromkeys(("in0", net.tensors[y].name), (-50.0, 77.5))


def test_written_fields_come_back_and_nothing_else_changes(oracle):
    """Both for a model that was read and for one made here."""
    ranges = {"image": (-2.0, 2.0), "hidden": (0.0, 3.25), "probabilities": (0.0, 1.0)}
    for model in (read(to_bytes(small.float_net())), small.float_net()):
        made = read(to_bytes(with_min_max(model, ranges)))
        assert given_ranges(made) == ranges
        found = [path for path in diff(made.source.root, read(to_bytes(model)).source.root) if not path.endswith("quantization")]
        assert found == []
        for flavour in ("xnnpack", "reference"):
            before, after = (oracle.run(to_bytes(m), [X], flavour, tensors="all") for m in (model, made))
            assert before.keys() == after.keys() and all(np.array_equal(before[t], after[t]) for t in before)


def test_new_numbers_for_old_fields_are_a_patch(tmp_path):
    once = read(to_bytes(with_min_max(small.float_net(), {"hidden": (0.0, 3.0)})))
    assert qsim.save(with_min_max(once, {"hidden": (0.0, 5.0)}), tmp_path / "m.tflite") == "patch"
    assert given_ranges(qsim.load(tmp_path / "m.tflite")) == {"hidden": (0.0, 5.0)}


@pytest.mark.parametrize(("key", "words"), [("w1", "not a computed float32 tensor"), ("hiden", "Nearest: hidden"), ("shape", "int32")])
def test_what_has_no_range_is_refused(key, words):
    with pytest.raises(BadRange, match=words):
        with_min_max(small.float_net(), {key: (0.0, 1.0)})


@pytest.mark.models
@pytest.mark.parametrize("name", ["mlperf_resnet8_f32", "blazeface_front_f32"])
def test_a_real_file_with_ranges_runs_as_it_did(name, models_dir, oracle):
    model = qsim.load(models_dir / "nets" / f"{name}.tflite")
    graph = model.graph
    ranges = {graph.key(t): (-1.5, 2.0) for n in graph.nodes for t in n.outputs if graph.tensors[t].type == "float32"}
    made = to_bytes(with_min_max(model, ranges))
    assert given_ranges(read(made)) == ranges
    x = np.random.default_rng(0).normal(size=(2, *graph.tensors[graph.inputs[0]].shape)).astype(np.float32)
    for flavour, tensors in (("builtin", "all"), ("xnnpack", "outputs")):  # XNNPACK leaves anything in the constants that it folds
        before, after = (oracle.run(data, [x], flavour, tensors) for data in (model.source.data, made))
        assert before.keys() == after.keys() and all(np.array_equal(before[t], after[t]) for t in before)


@pytest.mark.models
@pytest.mark.parametrize(
    ("name", "expected"),
    [("deeplabv3_257_f32", {"sub_7": (-1.0, 0.9921875)}), ("mobilenet_v1_025_224_f32", {}), ("mlperf_resnet8_f32", {})],
)
def test_fields_of_real_files(name, expected, models_dir):
    assert given_ranges(qsim.load(models_dir / "nets" / f"{name}.tflite")) == expected
