"""The float32 model of a quantized file: the same function in float mode, element by element, in a file that LiteRT runs."""

from __future__ import annotations

import numpy as np
import pytest
import small
from nets import Net, random_net, random_range

import qsim
from qsim import reader
from qsim.check import check
from qsim.dequantizer import converted, dequantize
from qsim.graph import Graph, Model, Node, Options, QParams, Tensor
from qsim.layout import layout
from qsim.quantizer import quantize
from qsim.types import TYPES
from qsim.writer import to_bytes


def read_back(model: Model) -> Model:
    return reader.read(to_bytes(model))


def quantized(model: Model, rng: np.random.Generator, io: str = "int8") -> Model:
    return read_back(quantize(model, {model.graph.key(t): random_range(rng) for g in layout(model).groups for t in g}, io=io))


def reals(model: Model, rng: np.random.Generator, count: int = 3) -> list[np.ndarray]:
    """Inputs for float mode, inside the ranges of inputs with codes."""
    found = []
    for t in (model.graph.tensors[i] for i in model.graph.inputs):
        if t.type == "float32" or t.qparams is not None:
            low, high = (-1.0, 1.0) if t.qparams is None else (float(e[0]) for e in t.qparams.real_range())
            found.append(rng.uniform(low, high, (count, *t.shape)).astype(np.float32))
        else:
            found.append(rng.integers(0, 2, (count, *t.shape)).astype(TYPES[t.type].dtype))
    return found


def assert_same(model: Model, made: Model, xs: list[np.ndarray]) -> None:
    ours, theirs = (m.function("float").batch(*xs) for m in (made, model))
    assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("io", ["int8", "uint8", "float32"])
def test_a_small_net_is_float_again(io, oracle):
    source, rng = small.float_net(), np.random.default_rng(1)
    source = source.but(signatures=({"key": "run", "graph": 0, "inputs": {"a": 0}, "outputs": {"b": source.graph.outputs[0]}},))
    model = quantized(source, rng, io)
    made = read_back(dequantize(model))
    assert check(made) == [] and not made.is_quantized and all(t.qparams is None for t in made.graph.tensors)
    assert [n.op for n in made.graph.nodes] == [n.op for n in source.graph.nodes]
    ends = [[g.tensors[t].name for t in (*g.inputs, *g.outputs)] for g in (made.graph, model.graph)]
    assert ends[0] == ends[1] and {made.graph.tensors[t].type for t in (*made.graph.inputs, *made.graph.outputs)} == {"float32"}
    (signature,) = made.signatures
    assert (signature["inputs"]["a"],) == made.graph.inputs and (signature["outputs"]["b"],) == made.graph.outputs
    xs = reals(model, rng)
    assert_same(model, made, xs)
    got = oracle.run(to_bytes(made), xs)[made.graph.outputs[0]]
    np.testing.assert_allclose(got, made.function("float").batch(*xs)[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("seed", range(6))
def test_random_nets_are_the_same_function_and_load(seed, oracle):
    rng = np.random.default_rng([21, seed])
    for _ in range(3):
        source = random_net(rng, int(rng.integers(2, 9)))
        model = quantized(source, rng, str(rng.choice(["int8", "uint8", "float32"])))
        made = read_back(dequantize(model))
        assert check(made) == [] and not any(t.qparams for t in made.graph.tensors)
        assert not {n.op for n in made.graph.nodes} & {"QUANTIZE", "DEQUANTIZE"}
        assert_same(model, made, reals(model, rng))
        assert oracle.loads(to_bytes(made)) is None


def q(scale: float, zero: int = 0, kind: str = "int8") -> QParams:
    return QParams(np.float32([scale]), np.int64([zero]), TYPES[kind].low, TYPES[kind].high)


def test_an_input_that_is_an_output_is_copied_and_two_outputs_stay_two(oracle):
    x, middle = Tensor(0, "x", (1, 4), "float32"), Tensor(1, "q", (1, 4), "int8", q(0.5))
    ends = tuple(Tensor(i, f"y{i}", (1, 4), "float32") for i in (2, 3))
    nodes = (Node(0, "QUANTIZE", (0,), (1,)), Node(1, "DEQUANTIZE", (1,), (2,), version=2), Node(2, "DEQUANTIZE", (1,), (3,), version=2))
    model = read_back(Model((Graph((x, middle, *ends), nodes, (0,), (2, 3)),)))
    made = read_back(dequantize(model))
    assert [n.op for n in made.graph.nodes] == ["RESHAPE", "RESHAPE"]
    values = np.float32([[[0.3, -1, 2, 90]]])
    assert_same(model, made, [values])
    found = oracle.run(to_bytes(made), [values])
    assert [np.array_equal(found[t], values) for t in made.graph.outputs] == [True, True]


def test_an_activation_that_the_range_carried_becomes_a_fused_one():
    tensors = (Tensor(0, "x", (1, 4), "uint8", q(0.1, 128, "uint8")), Tensor(1, "y", (1, 4), "uint8", q(6 / 255, 0, "uint8")))
    node = Node(0, "ADD", (0, 0), (1,), Options(fused_activation_function="NONE", pot_scale_int16=False))
    model = read_back(Model((Graph(tensors, (node,), (0,), (1,)),)))
    made = read_back(dequantize(model))
    assert made.graph.nodes[0].options.fused_activation_function == "RELU6"
    x = np.linspace(-12, 12, 8, dtype=np.float32).reshape(2, 1, 4)
    assert_same(model, made, [x])
    assert np.array_equal(made.function("float").batch(x)[0], np.clip(2 * x, 0, 6))


def test_what_was_quantized_from_good_ranges_is_quantized_alike_again():
    source, rng = small.float_net(), np.random.default_rng(3)
    given = {source.graph.key(t): (-2.0, 3.0) for g in layout(source).groups for t in g}
    model = read_back(quantize(source, given, io="int8"))
    again = quantize(dequantize(model), given, io="int8")
    for a, b in zip(model.graph.tensors, again.graph.tensors, strict=True):
        assert (a.name, a.type, a.qparams) == (b.name, b.type, b.qparams) and (a.data is None or np.array_equal(a.data, b.data))
    x = reals(model, rng)[0]
    assert np.array_equal(*(m.function("integer").batch(x)[0] for m in (model, again)))


def test_a_float_model_stays_what_it_is():
    net = Net()
    model = read_back(net.model(net.one("TANH", net.input(1, 4))))
    assert to_bytes(dequantize(model)) == model.source.data


NETS = (
    "mobilenet_v1_025_224_uint8", "conv_resnet8_int16x8", "conv_resnet8_dr", "conv_resnet8_fp16", "aeq_mnist_weightonly", "mnist_lstm_int8",
    "conv_vit_mnist_int8", "microwakeword_hey_jarvis_v2_int8", "mlperf_kws_int8", "ssd_slim_120x160_int8",
)  # fmt: skip


@pytest.mark.models
@pytest.mark.parametrize("name", NETS)
def test_real_nets_of_every_scheme(name, models_dir, oracle):
    model, rng = qsim.load(models_dir / "nets" / f"{name}.tflite"), np.random.default_rng(0)
    made = read_back(dequantize(model))
    assert {t.type for g in made.graphs for t in g.tensors} <= {"float32", "int32", "bool", "resource", "int64"}
    xs = reals(model, rng, 2)
    assert_same(model, made, xs)
    found = oracle.run(to_bytes(made), xs)
    for t, y in zip(made.graph.outputs, made.function("float").batch(*xs), strict=True):
        assert np.abs(found[t] - y).max() <= 1e-4 * np.abs(y).max()


@pytest.mark.parametrize("scheme", [qsim.UINT8, qsim.INT16X8, qsim.INT8, qsim.WEIGHTS8], ids=lambda s: s.name)
def test_another_scheme_with_the_ranges_that_the_file_has(scheme, oracle):
    """Equal to LiteRT, and as close to the file's own function as its steps are fine."""
    source, x = small.float_net(), small.images(32).astype(np.float32) / 255
    taps = source.function("float", taps="all").batch(x)[1]
    model = read_back(quantize(source, {source.graph.key(t): (taps[t].min(), taps[t].max()) for g in layout(source).groups for t in g}))
    made = read_back(converted(model, scheme))
    mine, theirs = made.function("integer").batch(x)[0], oracle.run(to_bytes(made), [x])[made.graph.outputs[0]]
    assert np.array_equal(mine, theirs) or scheme.activation == "float32"
    real = model.function("float").batch(x)[0]
    assert np.abs(mine - real).max() < (0.02 if scheme.activation in ("int16", "float32") else 0.05)
    assert ({t.type for t in made.graph.tensors if t.qparams is not None} & {"uint8", "int16", "int8"}) - {"int8"} == {
        "uint8": {"uint8"}, "int16x8": {"int16"}, "int8": set(), "weights8": set(),
    }[scheme.name]  # fmt: skip


def test_an_int8_file_comes_back_from_its_own_ranges():
    source, rng = small.float_net(), np.random.default_rng(1)
    model = quantized(source, rng, "float32")
    again = converted(model, qsim.INT8)
    for a, b in zip(model.graph.tensors, again.graph.tensors, strict=True):
        assert (a.type, a.qparams is None) == (b.type, b.qparams is None)
        if a.qparams is not None and not a.is_constant:
            assert np.allclose(a.qparams.scale, b.qparams.scale, rtol=1e-6) and np.array_equal(a.qparams.zero_point, b.qparams.zero_point)
