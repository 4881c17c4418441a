"""Numbers that others published, reproduced: parameters of well-known ranges, and the dense layer of a re-implementer's question."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import small

import qsim
from qsim.fixed import quantize_multiplier
from qsim.graph import Graph, Model, Node, Options, QParams, Tensor
from qsim.scheme import affine
from qsim.types import code_range
from qsim.writer import to_bytes
from qsim_cli import main

INPUT, WEIGHT, OUTPUT, BIAS = 0.003921568859368563, 0.01087072491645813, 0.22868551313877106, 4.263029768480919e-05
MULTIPLIER, SHIFT = 1639719310, -12
ROUNDED = 1639719363  # of the product of the scales in float32, as the optimized kernel takes it where weights have one scale
CLASSES, WIDTH = 10, 784
FLAVOURS = ("xnnpack", "reference", "builtin")


def test_a_unit_range_and_the_default_range():
    assert [(float(s), z) for s, z in (affine(0.0, 1.0, "uint8"), affine(-100.0, 100.0, "uint8"))] == [
        (0.003921568859368563, 0),
        (0.7843137383460999, 128),
    ]
    assert affine(-100.0, 100.0, "int8") == (np.float32(200 / 255), -1)


@pytest.mark.parametrize(
    ("low", "high", "kind", "scale", "zero"),
    [
        (-13.107339859008789, 42.45222473144531, "int8", 0.21788063645362854, -68),  # the difference is rounded to float32
        (-38.0394401550293, 1.3242274522781372, "int8", 0.15436731278896332, 118),
        (-41.40235900878906, 41.40235900878906, "int8", 0.32472437620162964, 0),
        (-41.1259765625, 148.27737426757812, "uint8", 0.7427582144737244, 55),
    ],
)
def test_parameters_are_those_of_the_converter(low, high, kind, scale, zero):
    """As TF 2.21 wrote them: int8 from min and max in a float file, uint8 from `default_ranges_stats`."""
    found = affine(low, high, kind)
    assert (float(found[0]), found[1]) == (scale, zero)


def test_the_scales_of_the_dense_layer():
    assert float(np.float32(INPUT) * np.float32(WEIGHT)) == BIAS
    (multiplier,), (shift,) = quantize_multiplier(INPUT * WEIGHT / OUTPUT)
    assert (multiplier, shift) == (MULTIPLIER, SHIFT)
    (multiplier,), (shift,) = quantize_multiplier(BIAS / OUTPUT)
    assert (multiplier, shift) == (ROUNDED, SHIFT)


def dense(channels: int, bias: np.ndarray | None = None) -> bytes:
    """The layer as a file. channels: scales of the weights (all the same), 1 or one for each of the outputs."""
    rng = np.random.default_rng(3)
    w = rng.integers(-127, 128, (CLASSES, WIDTH)).astype(np.int8)
    b = rng.integers(-9000, 9000, CLASSES).astype(np.int32) if bias is None else bias.astype(np.int32)
    tensors = (
        Tensor(0, "image", (1, WIDTH), "int8", _parameters(INPUT, -128)),
        Tensor(1, "weights", w.shape, "int8", _parameters(WEIGHT, 0, count=channels), w),
        Tensor(2, "bias", b.shape, "int32", _parameters(BIAS, 0, "int32", channels), b),
        Tensor(3, "logits", (1, CLASSES), "int8", _parameters(OUTPUT, 49)),
    )
    node = Node(0, "FULLY_CONNECTED", (0, 1, 2), (3,), Options(small.DENSE), 5 if channels > 1 else 4)
    return to_bytes(Model((Graph(tensors, (node,), (0,), (3,)),)))


def _parameters(scale: float, zero: int, kind: str = "int8", count: int = 1) -> QParams:
    return QParams(np.full(count, scale, np.float32), np.full(count, zero, np.int64), *code_range(kind))


def test_the_dense_layer_is_listed_with_its_parameters(tmp_path: Path, capsys: pytest.CaptureFixture):
    (tmp_path / "dense.tflite").write_bytes(dense(1))
    assert main(["inspect", str(tmp_path / "dense.tflite"), "--json"]) == 0
    (graph,) = json.loads(capsys.readouterr().out)["graphs"]
    listed = {t["name"]: (t["index"], t["role"], t["scale"], t["zero_point"]) for t in graph["tensors"]}
    assert listed == {
        "image": (0, "input", [INPUT], [-128]),
        "weights": (1, "constant", [WEIGHT], [0]),
        "bias": (2, "constant", [BIAS], [0]),
        "logits": (3, "output", [OUTPUT], [49]),
    }
    assert main(["inspect", str(tmp_path / "dense.tflite")]) == 0
    shown = capsys.readouterr().out
    assert "0.00392157" in shown and "0.228686" in shown and "-40.48 .. 17.84" in shown


@pytest.mark.parametrize(("channels", "multiplier"), [(1, ROUNDED), (CLASSES, MULTIPLIER)])
def test_the_dense_layer_is_explained(channels, multiplier):
    model = qsim.load(dense(channels))
    (plan,) = qsim.explain(model, 0, "builtin").plans
    assert Counter(plan.leaves["multiplier"].tolist()) == {multiplier: CLASSES}
    assert Counter(plan.leaves["shift"].tolist()) == {SHIFT: CLASSES}
    assert str(multiplier) in str(qsim.explain(model, 0, "builtin"))
    (plan,) = qsim.explain(model, 0, "xnnpack").plans
    assert set(plan.leaves["scale"].tolist()) == {float(np.float32(np.float32(INPUT) * np.float32(WEIGHT) / np.float32(OUTPUT)))}
    (plan,) = qsim.explain(model, 0, "reference").plans
    assert "float64 multiplier" in plan.rule and "shift" not in plan.leaves


@pytest.mark.exact
@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("channels", [1, CLASSES])
def test_the_dense_layer_computes_what_litert_does(channels, flavour, oracle):
    data = dense(channels)
    x = np.random.default_rng(5).integers(-128, 128, (200, 1, WIDTH)).astype(np.int8)
    x[::2] //= 16  # half of the samples do not saturate
    (mine,) = qsim.load(data).function("integer", flavour).batch(x)
    theirs = oracle.run(data, [x], flavour)[3]
    assert np.array_equal(mine, theirs)
    assert len(np.unique(mine)) > 100


def telling_sums() -> np.ndarray:
    """Accumulators that the two multipliers turn into different codes, by the optimized kernel's two roundings."""
    sums = np.arange(-900_000, 400_000)
    codes = [((((sums * m + (1 << 30)) >> 31) + (1 << 11)) >> 12) for m in (MULTIPLIER, ROUNDED)]
    return sums[codes[0] != codes[1]]


@pytest.mark.exact
def test_the_multipliers_are_those_litert_uses(oracle):
    bias, x = np.resize(telling_sums(), CLASSES), np.full((1, 1, WIDTH), -128, np.int8)
    codes = []
    for channels in (1, CLASSES):
        data = dense(channels, bias)
        (mine,) = qsim.load(data).function("integer", "builtin").batch(x)
        assert np.array_equal(mine, oracle.run(data, [x], "builtin")[3])
        codes.append(mine)
    assert np.all(codes[0] != codes[1])
