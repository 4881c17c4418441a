"""FULLY_CONNECTED of float data by 4-bit weights with scales by blocks: LiteRT's numbers in each flavour that reads such scales."""

from __future__ import annotations

import numpy as np
import progress
import pytest

from qsim import flat
from qsim.errors import Unsupported
from qsim.flat import Record
from qsim.function import build
from qsim.graph import Graph, Model, Node, Options, Tensor
from qsim.litert import cpu_class
from qsim.ops import REGISTRY
from qsim.ops.blockwise import KERNELS
from qsim.reader import read
from qsim.writer import to_bytes

Y = 4  # index of the result
KERNEL = KERNELS[0]
TYPES = ("float32", "int4 by blocks", "float32"), ("float32",)


def dense(rng, outputs: int, depth: int, size: int, rows: int = 1, scales: str = "float16", act: str = "NONE", bias: bool = True) -> bytes:
    """A file with one FULLY_CONNECTED; weights at both ends, scales over four decades."""
    w = rng.integers(-8, 8, (outputs, depth)).astype(np.int8)
    w[0], w[-1] = 7, -8
    scale = np.exp(rng.uniform(-9, 1, (outputs, depth // size))).astype(scales)
    details = Record("BlockwiseQuantization", {"scales": 2, "zero_points": -1, "block_size": size})
    raw = Record("Tensor", {"quantization": Record("QuantizationParameters", {"details_type": 2, "details": details})})
    tensors = (
        Tensor(0, "x", (rows, depth), "float32"),
        Tensor(1, "w", w.shape, "int4", None, w, raw=raw.but(shape=np.int32(w.shape))),
        Tensor(2, "scales", scale.shape, scales, None, scale),
        Tensor(3, "b", (outputs,), "float32", None, rng.normal(0, 30, outputs).astype(np.float32)),
        Tensor(Y, "y", (rows, outputs), "float32"),
    )
    options = Options(fused_activation_function=act, keep_num_dims=False, weights_format="DEFAULT", asymmetric_quantize_inputs=False)
    node = Node(0, "FULLY_CONNECTED", (0, 1, 3 if bias else -1), (Y,), options, 13)
    return to_bytes(Model((Graph(tensors, (node,), (0,), (Y,)),)))


def samples(rng, rows: int, depth: int, count: int = 40) -> np.ndarray:
    """float32 (count, rows, depth): random, off centre, of one size (whose zero point is a tie), on a coarse grid, and all zero."""
    x = rng.uniform(-1, 1, (count, rows, depth)) * rng.choice([0.1, 1, 1000], (count, 1, 1)) + rng.choice([0, 0.5, -3], (count, 1, 1))
    x[:10] = np.sign(x[:10]) * rng.uniform(0.1, 3, (10, 1, 1))
    x[10:20] = np.round(x[10:20] * 8) / 8
    x[20] = 0
    return x.astype(np.float32)


# (outputs, depth, block size, rows): blocks of 16 and less run in builtin whatever the flavour
FORMS = ((16, 64, 32, 1), (7, 256, 64, 3), (40, 512, 256, 1), (5, 96, 32, 4), (4, 32, 32, 1), (6, 64, 16, 2), (5, 40, 1, 1), (9, 44, 11, 2))


@pytest.fixture(autouse=True)
def only_where_it_was_measured(request, oracle):
    elsewhere = KERNEL.measured.why_not(oracle.version(), cpu_class())
    if elsewhere and "exact" in request.keywords:
        pytest.skip(elsewhere)


@pytest.mark.exact
@pytest.mark.parametrize("flavour", ["xnnpack", "builtin"])
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_it_equals_litert(form, flavour, request, oracle, record_property):
    draws, row = request.config.getoption("--draws"), progress.Row(f"blockwise-{form}", REGISTRY["FULLY_CONNECTED"], flavour, TYPES)
    recorder = request.config.pluginmanager.get_plugin("progress")
    if recorder is not None and recorder.work.done(row, draws):
        return
    counts, fn = dict.fromkeys(progress.COUNTS, 0), None
    for draw in range(draws):
        rng = np.random.default_rng((*form, draw))
        data, x = dense(rng, *form), samples(rng, form[3], form[1])
        model, theirs = read(data), oracle.run(data, [x], flavour)[Y]
        fn = fn or build(model, "integer", flavour)
        fn.params = fn.lower(model)
        assert np.array_equal(fn.batch(x)[0], theirs), draw
        counts = {"draws": draw + 1, "elements": counts["elements"] + theirs.size, "differing": 0}
    assert all(np.array_equal(fn(x[n])[0], theirs[n]) for n in range(0, 40, 5))
    record_property("draws", counts["draws"])
    record_property("elements", counts["elements"])
    record_property("finished", progress.record(row, counts))


@pytest.mark.exact
@pytest.mark.parametrize("flavour", ["xnnpack", "builtin"])
@pytest.mark.parametrize("act", ["RELU", "RELU6", "RELU_N1_TO_1"])
def test_fused_activations(act, flavour, oracle):
    rng = np.random.default_rng(len(act))
    data, x = dense(rng, 8, 64, 32, act=act, bias=False), samples(rng, 1, 64)
    assert np.array_equal(build(read(data), "integer", flavour).batch(x)[0], oracle.run(data, [x], flavour)[Y])


@pytest.mark.exact
def test_few_outputs_run_in_xnnpack_alone(oracle):
    rng = np.random.default_rng(3)
    data, x = dense(rng, 3, 64, 32), samples(rng, 1, 64)
    assert np.array_equal(build(read(data)).batch(x)[0], oracle.run(data, [x])[Y])
    for flavour in ("reference", "builtin"):
        with pytest.raises(Unsupported, match="by blocks"):
            build(read(data), "integer", flavour)


@pytest.mark.parametrize("mode", ["float", "fake"])
def test_reals(mode):
    rng = np.random.default_rng(5)
    model = read(dense(rng, 8, 64, 16))
    tensors, x = model.graph.tensors, samples(rng, 1, 64)
    real = tensors[1].data.astype(np.float64) * np.repeat(tensors[2].data.astype(np.float64), 16, 1)
    y = build(model, mode).batch(x)[0]
    assert np.allclose(y, x @ real.T + tensors[3].data, rtol=1e-4, atol=1e-2)


def test_scales_of_another_type_are_refused():
    with pytest.raises(Unsupported, match="BlockwiseQuantization"):
        build(read(dense(np.random.default_rng(1), 8, 64, 32, scales="float32")))


def test_a_file_is_written_as_it_was_read():
    model = read(dense(np.random.default_rng(1), 8, 64, 32))
    again = read(to_bytes(model, "rebuild"))
    assert again.graph.tensors[1].blocks is not None and np.array_equal(again.graph.tensors[1].data, model.graph.tensors[1].data)
    assert flat.read(to_bytes(model, "rebuild")) is not None
