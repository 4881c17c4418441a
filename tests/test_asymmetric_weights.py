"""Weights with zero points behind a DEQUANTIZE: ai-edge-quantizer's codes, LiteRT's numbers; refused where nothing reads them."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import small
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import Net
from test_weight_schemes import ONE_OP, drawn, named

import qsim
from qsim.certificate import certify
from qsim.check import check
from qsim.function import build
from qsim.graph import Model
from qsim.op import FLAVOURS
from qsim.reader import read
from qsim.recipe import load_recipe, parse_recipe
from qsim.scheme import BLOCKWISE4, DYNAMIC8, FLOAT16, INT8, WEIGHTS4, WEIGHTS8, Scheme
from qsim.storage import Storage, stored, why_not
from qsim.weightonly import store_weights
from qsim.writer import to_bytes
from qsim_cli import main

SPANS = tuple(replace(s, name=f"{s.name}+symmetric", symmetric=False) for s in (WEIGHTS8, WEIGHTS4))
OPS = ("FULLY_CONNECTED", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "BATCH_MATMUL", "EMBEDDING_LOOKUP", "GATHER", "LSTM", "SVDF")
schemes = pytest.mark.parametrize("scheme", SPANS, ids=lambda s: s.weight)

# Both sides of 0, above it, below it, a dead channel, one narrower than the narrowest span.
WEIGHTS = np.array(
    [
        [-1.0, 0.3, 0.7, 2.9, -0.05],
        [0.1, 0.45, 0.2, 0.8, 0.33],
        [-0.6, -0.2, -0.35, -0.01, -0.9],
        [0, 0, 0, 0, 0],
        [2.5e-10, -1e-10, 1e-11, 0, 3e-10],
    ],
    np.float32,
)
GOLDEN = {  # what ai-edge-quantizer 0.10.0 wrote for them under its recipes default_af32w8float and default_af32w4float
    8: (
        [[-128, -43, -17, 127, -66], [-96, 15, -64, 127, -23], [-43, 70, 28, 124, -128], [-128] * 5, [-38, -128, -99, -102, -25]],
        [-63, -128, 127, -128, -102],
        ["0x1.f5285cp-7", "0x1.9b34cep-9", "0x1.ce9b68p-9", "0x1.13f4b2p-38", "0x1.13f4b2p-38"],
    ),
    4: (
        [[-8, -3, -1, 7, -4], [-6, 0, -4, 7, -2], [-3, 4, 1, 7, -8], [-8] * 5, [-2, -8, -6, -6, -2]],
        [-4, -8, 7, -8, -6],
        ["0x1.0a3d72p-2", "0x1.b4e81cp-5", "0x1.eb851ep-5", "0x1.2533fep-34", "0x1.2533fep-34"],
    ),
}


def recipe(bits: int) -> list[dict]:
    """The rule of ai-edge-quantizer's recipe for weights of so many bits behind a DEQUANTIZE."""
    weight = {"num_bits": bits, "symmetric": False, "granularity": "CHANNELWISE", "dtype": "INT"}
    config = {"weight_tensor_config": weight, "compute_precision": "FLOAT", "explicit_dequantize": True, "skip_checks": False}
    return [{"regex": ".*", "operation": "*", "algorithm_key": "min_max_uniform_quantize", "op_config": config}]


@pytest.mark.parametrize("bits", GOLDEN)
def test_codes_and_parameters_are_those_of_ai_edge_quantizer(bits, tmp_path):
    net = Net()
    model = net.model(net.dense(net.input(1, 5), WEIGHTS))
    (tmp_path / "r.json").write_text(json.dumps(recipe(bits)))
    asked = load_recipe(tmp_path / "r.json")
    made = read(to_bytes(qsim.quantize(model, {}, asked)))
    w = next(t for t in made.graph.tensors if t.type == f"int{bits}")
    codes, zeros, scales = GOLDEN[bits]
    assert [n.op for n in made.graph.nodes] == ["DEQUANTIZE", "FULLY_CONNECTED"]
    assert w.data.tolist() == codes and w.qparams.zero_point.tolist() == zeros
    assert w.qparams.scale.tolist() == [float.fromhex(s) for s in scales] and w.qparams.axis == 0


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**31), st.sampled_from(["int8", "int4"]), st.sampled_from([None, 0, 1, 2]), st.sampled_from(["nearest", "sum"]),
    st.sampled_from([1e-6, 1.0, 1e30]), st.sampled_from([-3.0, 0.0, 2.0]),
)  # fmt: skip
def test_zero_is_a_code_and_values_are_within_a_step(seed, kind, axis, rounding, size, offset):
    values = ((np.random.default_rng(seed).normal(size=(3, 5, 4)) + offset) * size).astype(np.float32)
    found = stored(values, Storage(kind, axis, rounding, symmetric=False))
    low, high = {"int8": (-128, 127), "int4": (-8, 7)}[kind]
    scale, zero = (np.expand_dims(v, [i for i in range(3) if i != (axis or 0)]) for v in (found.qparams.scale, found.qparams.zero_point))
    assert found.qparams.scale.size == (1 if axis is None else values.shape[axis])
    assert np.all((zero >= low) & (zero <= high)) and (found.data.min() == low or found.data.max() == high)
    error = np.abs((found.data - zero) * scale.astype(np.float64) - values)
    assert np.all(error <= scale * (1.01 if rounding == "nearest" else 1.51))


def test_the_sum_of_a_channel_is_kept():
    values = (np.random.default_rng(3).normal(size=(6, 200)) + 0.5).astype(np.float32)
    off = {}
    for rounding in ("nearest", "sum"):
        found = stored(values, Storage("int4", 0, rounding, symmetric=False))
        back = (found.data - found.qparams.zero_point[:, None]) * found.qparams.scale.astype(np.float64)[:, None]
        off[rounding] = np.abs((back - values).sum(1)) / found.qparams.scale
    assert off["sum"].max() <= 0.501 < off["nearest"].max()


def test_what_no_kernel_reads_is_refused():
    for scheme in (DYNAMIC8, INT8, FLOAT16, BLOCKWISE4):
        with pytest.raises(qsim.BadRecipe, match="explicit DEQUANTIZE"):
            replace(scheme, symmetric=False)
    entry = recipe(8)
    entry[0]["op_config"]["explicit_dequantize"] = False
    for rules in (entry, {"rules": [{"scheme": {"base": "dynamic4", "symmetric": False}}]}):
        with pytest.raises(qsim.BadRecipe, match="rule 1.*explicit DEQUANTIZE"):
            parse_recipe(rules, "r.json")
    assert "span" in why_not(np.array([-3e38, 3e38], np.float32), Storage("int8", symmetric=False))


def shifted(model: Model) -> Model:
    """The model with every weight moved up, so that zero points are far from 0."""
    tensors = (t.but(data=t.data + np.float32(0.5)) if t.type == "float32" and t.data is not None else t for t in model.graph.tensors)
    return model.but(graphs=(model.graph.but(tensors=tuple(tensors)), *model.graphs[1:]))


@schemes
@pytest.mark.parametrize("op", OPS)
def test_litert_reads_the_zero_points_in_every_flavour(op, scheme, oracle):
    """Data of a DEQUANTIZE that XNNPACK folds into its op are not handed out, so outputs are compared."""
    model = shifted(ONE_OP[op]())
    made = store_weights(model, scheme)
    assert not check(made) and any(t.qparams is not None and t.qparams.zero_point.any() for t in made.graph.tensors)
    data, xs = to_bytes(made), drawn(model, len(op))
    for flavour in FLAVOURS:
        theirs, mine = oracle.run(data, xs, flavour), build(made, "integer", flavour).batch(*xs)
        for t, y in zip(made.graph.outputs, mine, strict=True):
            assert np.abs(theirs[t] - y).max() <= 3e-6 * np.abs(theirs[t]).max(), flavour


@pytest.mark.exact
@schemes
@pytest.mark.parametrize("per_channel", [True, False])
def test_a_net_is_exact(scheme, per_channel):
    made = store_weights(small.float_net(), replace(scheme, per_channel=per_channel))
    assert named(made, "w1").qparams.scale.size == (8 if per_channel else 1)
    found = certify(made, samples=2, flavours=FLAVOURS)
    assert {f: (o.status, o.cause) for f, o in found.flavours.items()} == dict.fromkeys(FLAVOURS, ("exact", ""))


def test_spans_lose_less_than_symmetric_codes():
    """Weights on one side of 0 use twice the codes."""
    values = np.random.default_rng(5).uniform(0.2, 1.0, (4, 300)).astype(np.float32)

    def error(how: Storage) -> float:
        found = stored(values, how)
        back = (found.data - found.qparams.zero_point[:, None]) * found.qparams.scale.astype(np.float64)[:, None]
        return float(np.mean((back - values) ** 2))

    assert error(Storage("int4", 0, symmetric=False)) < 0.3 * error(Storage("int4", 0))


def test_a_scheme_says_so_in_python():
    made = qsim.quantize(small.float_net(), {}, Scheme("w", "float32", "int4", "float32", runtime="dequantize", symmetric=False))
    assert named(made, "w1").qparams.zero_point.any() and named(made, "w1").type == "int4"


def test_the_command_line_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    qsim.save(small.float_net(), "net.tflite")
    assert main(["quantize", "net.tflite", "--scheme", "weights4", "--asymmetric", "-o", "w.tflite"]) == 0
    assert named(qsim.load("w.tflite"), "w1").qparams.zero_point.any()
    assert main(["quantize", "net.tflite", "--scheme", "dynamic8", "--asymmetric", "-o", "d.tflite"]) == 2
    assert "explicit DEQUANTIZE" in capsys.readouterr().err
