"""Models with variables: each sample from the initial state, sequences carry it on; LiteRT gives the same."""

from __future__ import annotations

import jax
import numpy as np
import pytest

import qsim
from qsim.errors import Unsupported
from qsim.function import build
from qsim.graph import Graph, Model, Node, Options, QParams, Tensor
from qsim.reader import read
from qsim.writer import to_bytes

pytestmark = pytest.mark.exact

Q = QParams(np.float32([0.5]), np.int64([-3]), -128, 127)


def _tensor(index, name, shape=(1, 4), kind="int8", data=None):
    return Tensor(index, name, shape, kind, qparams=None if kind == "resource" else Q, data=data)


def adder() -> Model:
    """sum += x; returns sum."""
    main = Graph(
        (_tensor(0, "x"), _tensor(1, "handle", (), "resource"), _tensor(2, "old"), _tensor(3, "new")),
        (
            Node(0, "CALL_ONCE", (), (), Options(init_subgraph_index=1)),
            Node(1, "VAR_HANDLE", (), (1,), Options(container="", shared_name="sum")),
            Node(2, "READ_VARIABLE", (1,), (2,), Options()),
            Node(3, "ADD", (0, 2), (3,), Options(fused_activation_function="NONE", pot_scale_int16=False)),
            Node(4, "ASSIGN_VARIABLE", (1, 3), (), Options()),
        ),
        (0,), (3,), name="main",
    )  # fmt: skip
    once = Graph(
        (_tensor(0, "handle", (), "resource"), _tensor(1, "zeros", data=np.int8([[1, 2, 3, 4]]))),
        (Node(0, "VAR_HANDLE", (), (0,), Options(container="", shared_name="sum")), Node(1, "ASSIGN_VARIABLE", (0, 1), (), Options())),
        (), (), name="once",
    )  # fmt: skip
    return read(to_bytes(Model((main, once))))


X = np.random.default_rng(0).integers(-20, 20, (6, 1, 4)).astype(np.int8)


@pytest.mark.parametrize("flavour", ["xnnpack", "reference", "builtin"])
def test_samples_start_anew_and_sequences_carry_on(oracle, flavour):
    model = adder()
    fn, data = build(model, "integer", flavour), to_bytes(model)
    (alone,), (row,) = fn.batch(X), fn.sequence(X)
    assert np.array_equal(alone, oracle.run(data, [X], flavour)[3])
    assert np.array_equal(row, oracle.run(data, [X], flavour, sequence=True)[3])
    assert np.array_equal(alone[0], row[0]) and not np.array_equal(alone, row)
    assert np.array_equal(fn(X[2])[0], alone[2])


def test_step_is_pure_and_carries_the_state():
    fn = build(adder(), "integer", "reference")
    state, rows = fn.init(), []
    assert list(state) == ["sum"]
    step = jax.jit(fn.step)
    for x in X:
        (y,), state = step(fn.params, state, x)
        rows.append(np.asarray(y))
    assert np.array_equal(rows, fn.sequence(X)[0]) and np.array_equal(fn.init()["sum"], [[1, 2, 3, 4]])


def test_float_mode_carries_reals():
    fn = build(adder(), "float")
    x = X.astype(np.float32)
    start = (np.float32([[1, 2, 3, 4]]) + 3) / 2
    assert np.allclose(fn.sequence(x)[0], start + np.cumsum(x, axis=0))


def test_a_variable_without_a_start_is_named():
    model = adder()
    main = model.graph.but(nodes=tuple(n.but(index=i) for i, n in enumerate(model.graph.nodes[1:])))
    with pytest.raises(Unsupported, match="'sum' has no starting value"):
        build(model.but(graphs=(main, model.graphs[1])), "integer")


def test_explain_and_certify_know_variables(oracle):
    model = adder()
    assert "carried from invocation" in str(qsim.explain(model, 2))
    assert qsim.certify(model, samples=2).exact


@pytest.mark.models
@pytest.mark.parametrize("name", ["microwakeword_vad_int8", "microwakeword_hey_jarvis_v2_int8"])
def test_real_streaming_models_equal_litert_in_sequence(name, oracle, models_dir):
    path = models_dir / "nets" / f"{name}.tflite"
    model = qsim.load(path)
    t = model.graph.tensors[model.graph.inputs[0]]
    x = np.random.default_rng(1).integers(-128, 128, (30, *t.shape)).astype(np.int8)
    for flavour in ("xnnpack", "reference"):
        fn = build(model, "integer", flavour)
        theirs = oracle.run(path.read_bytes(), [x], flavour, sequence=True)
        for index, mine in zip(model.graph.outputs, fn.sequence(x), strict=True):
            assert np.array_equal(mine, theirs[index])


def svdf(seed: int) -> Model:
    """A random SVDF, with or without bias, whose state and output use their range."""
    rng = np.random.default_rng(seed)
    n, k, units, rank, length = (int(v) for v in rng.integers((1, 1, 1, 1, 1), (4, 20, 7, 4, 9)))
    filters, bias = units * rank, rng.integers(-(2**26), 2**26, units).astype(np.int32)
    sx, sf, st = (2.0 ** rng.uniform(low, low + 4) for low in (-6, -8, -14))
    ss = sx * sf * 74**2 * np.sqrt(k) / 8000 * 2.0 ** rng.uniform(-1, 1)  # 74 and 19,000: spreads of uniform codes
    sy = ss * st * 8000 * 19000 * np.sqrt(length * rank) / 60 * 2.0 ** rng.uniform(-1, 1)

    def q(scale, zero=0, low=-128, high=127):
        return QParams(np.float32([scale]), np.int64([zero]), low, high)

    words = {"low": -(2**15), "high": 2**15 - 1}
    features, time = (rng.integers(np.iinfo(c).min, np.iinfo(c).max, (filters, w), c) for c, w in (("int8", k), ("int16", length)))
    tensors = [
        Tensor(0, "x", (n, k), "int8", q(sx, int(rng.integers(-128, 128)))),
        Tensor(1, "features", (filters, k), "int8", q(sf), features),
        Tensor(2, "time", (filters, length), "int16", q(st, **words), time),
        Tensor(3, "bias", (units,), "int32", q(ss * st, 0, -(2**31), 2**31 - 1), bias),
        Tensor(4, "state", (n, filters * length), "int16", q(ss, **words), is_variable=True),
        Tensor(5, "y", (n, units), "int8", q(sy, int(rng.integers(-40, 40)))),
    ]
    options = Options(rank=rank, fused_activation_function="RELU", asymmetric_quantize_inputs=False)
    node = Node(0, "SVDF", (0, 1, 2, 3 if seed % 4 else -1, 4), (5,), options, version=3)
    return read(to_bytes(Model((Graph(tuple(tensors), (node,), (0,), (5,), name="main"),))))


@pytest.mark.parametrize("seed", range(8))
def test_svdf_equals_litert_in_sequence(seed, oracle):
    model = svdf(seed)
    t = model.graph.tensors[0]
    x = np.random.default_rng(seed).integers(-128, 128, (12, *t.shape)).astype(np.int8)
    data = to_bytes(model)
    for flavour in ("xnnpack", "reference", "builtin"):
        fn = build(model, "integer", flavour)
        assert np.array_equal(fn.sequence(x)[0], oracle.run(data, [x], flavour, sequence=True)[5])
        assert np.array_equal(fn.batch(x)[0], oracle.run(data, [x], flavour)[5])


@pytest.mark.models
@pytest.mark.parametrize("name", ["mnist_lstm_int8", "dtln_noise_suppression_int8"])
def test_real_recurrent_models_are_exact(name, oracle, models_dir):
    assert qsim.certify(qsim.load(models_dir / "nets" / f"{name}.tflite"), samples=8).exact


@pytest.mark.models
def test_a_real_float_lstm_is_close(oracle, models_dir):
    assert qsim.certify(qsim.load(models_dir / "nets" / "mnist_lstm_f32.tflite"), samples=4, flavours=["xnnpack"]).exact


def test_a_certificate_of_a_model_with_a_state_is_about_invocations_in_a_row(oracle):
    found = qsim.certify(adder(), [X], flavours=["reference"])
    assert found.exact and found.sequence and found.document()["sequence"]
    (tally,) = found.flavours["reference"].whole[-1:]
    assert (tally.kind, tally.elements) == ("ADD", X.size)
    assert not qsim.certify(adder(), [X], flavours=["reference"], sequence=False).sequence
