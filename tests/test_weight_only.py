"""Weight-only graphs: a DEQUANTIZE of a constant in front of a float op, beside LiteRT in every flavour."""

from __future__ import annotations

import numpy as np
import pytest

from qsim import flat
from qsim.errors import Unsupported
from qsim.function import build
from qsim.graph import Graph, Model, Node, Options, QParams, Tensor
from qsim.op import FLAVOURS
from qsim.reader import read
from qsim.types import TYPES, code_range
from qsim.writer import to_bytes

ONE = {"stride_h": 1, "stride_w": 1, "dilation_h_factor": 1, "dilation_w_factor": 1}
CONV = {"padding": "SAME", "fused_activation_function": "RELU", **ONE}
DENSE = {"fused_activation_function": "NONE", "keep_num_dims": False, "weights_format": "DEFAULT", "asymmetric_quantize_inputs": False}
OPS = {  # shape of the weights, axis of their channels, shapes of data and result, options
    "FULLY_CONNECTED": ((6, 20), 0, (2, 20), (2, 6), DENSE),
    "CONV_2D": ((6, 3, 3, 4), 0, (1, 5, 5, 4), (1, 5, 5, 6), CONV),
    "DEPTHWISE_CONV_2D": ((1, 3, 3, 4), 3, (1, 5, 5, 4), (1, 5, 5, 4), {**CONV, "depth_multiplier": 1}),
}
CENTRED = ("int16", "int4", "int2")  # LiteRT wants zero points of 0
TYPES_AND_CHANNELS = [(t, c) for t in ("int8", "uint8", "int16", "int4", "uint4", "int2", "float16") for c in (False, True)]
TYPES_AND_CHANNELS = [(t, c) for t, c in TYPES_AND_CHANNELS if not (c and t in ("int16", "float16"))]


def constant(rng: np.random.Generator, kind: str, shape: tuple[int, ...], axis: int, channels: bool) -> Tensor:
    if kind == "float16":
        return Tensor(0, "w", shape, kind, None, rng.normal(0, 1, shape).astype(np.float16))
    low, high = code_range(kind)
    count = shape[axis] if channels else 1
    zero = np.zeros(count, np.int64) if kind in CENTRED else rng.integers(low, high + 1, count)
    q = QParams(rng.uniform(0.01, 0.2, count).astype(np.float32), zero, low, high, axis if channels else 0)
    return Tensor(0, "w", shape, kind, q, rng.integers(low, high + 1, shape).astype(TYPES[kind].dtype))


def model(w: Tensor, op: str, x: tuple[int, ...], y: tuple[int, ...], options: dict, *more: Tensor) -> Model:
    """op(x, DEQUANTIZE(w), *more)."""
    tensors = (w, Tensor(1, "real", w.shape, "float32"), Tensor(2, "x", x, "float32"), *more, Tensor(3 + len(more), "y", y, "float32"))
    inputs = (2, 1, *(t.index for t in more))
    nodes = (Node(0, "DEQUANTIZE", (0,), (1,), Options(), 6), Node(1, op, inputs, (3 + len(more),), Options(options)))
    return Model((Graph(tensors, nodes, (2,), (3 + len(more),)),))


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize(("kind", "channels"), TYPES_AND_CHANNELS)
def test_a_dequantized_constant_has_litert_s_bits(kind, channels, flavour, oracle):
    rng, shape = np.random.default_rng(len(kind)), (3, 5, 7)
    made = model(
        constant(rng, kind, shape, 1, channels), "ADD", shape, shape, {"fused_activation_function": "NONE", "pot_scale_int16": False}
    )
    x = np.zeros((1, *shape), np.float32)
    theirs = oracle.run(to_bytes(made), [x], flavour)[3]
    assert np.array_equal(build(made, "integer", flavour).batch(x)[0], theirs)


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize(("kind", "channels"), TYPES_AND_CHANNELS)
def test_a_float_op_on_a_dequantized_constant_is_close(kind, channels, op, flavour, oracle):
    rng, (shape, axis, x, y, options) = np.random.default_rng(len(kind)), OPS[op]
    bias = Tensor(3, "b", (shape[axis],), "float32", None, rng.normal(0, 1, shape[axis]).astype(np.float32))
    made = model(constant(rng, kind, shape, axis, channels), op, x, y, options, bias)
    data = rng.normal(0, 1, (4, *x)).astype(np.float32)
    theirs = oracle.run(to_bytes(made), [data], flavour)[4]
    assert np.abs(build(made, "integer", flavour).batch(data)[0] - theirs).max() <= 1e-6 * max(2.0, np.abs(theirs).max())


@pytest.mark.parametrize("mode", ["integer", "float", "fake"])
def test_scales_by_blocks_are_refused(mode):
    """By ops that do not compute with them: EMBEDDING_LOOKUP must not take the codes for numbers."""
    tensors = (
        Tensor(0, "ids", (3,), "int32"), Tensor(1, "w", (4, 64), "int4", None, np.ones((4, 64), np.int8)),
        Tensor(2, "scales", (4, 2), "float16", None, np.ones((4, 2), np.float16)), Tensor(3, "y", (3, 64), "float32"),
    )  # fmt: skip
    node = Node(0, "EMBEDDING_LOOKUP", (0, 1), (3,), Options(), 3)
    root = flat.read(to_bytes(Model((Graph(tensors, (node,), (0,), (3,)),))))
    blocks = flat.Record("BlockwiseQuantization", {"scales": 2, "zero_points": -1, "block_size": 32})
    root["subgraphs"][0]["tensors"][1]["quantization"] = flat.Record("QuantizationParameters", {"details_type": 2, "details": blocks})
    with pytest.raises(Unsupported, match="BlockwiseQuantization"):
        build(read(flat.write(root)), mode)
