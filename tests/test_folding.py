"""Folding: what goes into what, what is left and why, and that no fold changes the float function, however odd the graph around it."""

from __future__ import annotations

import numpy as np
import pytest
from folded import CLOSE, LINEAR, content, image, left, linear, ops, padded, require_same, two
from nets import Net

import qsim
from qsim.check import check
from qsim.distance import STEP, TIMES, distances, step
from qsim.errors import BadRecipe
from qsim.folding import ALL, fold
from qsim.folds.clamps import CARRIERS
from qsim.graph import Model
from qsim.writer import to_bytes

# activations


@pytest.mark.parametrize(
    "inner, outer, fused",
    [("NONE", "RELU_N1_TO_1", "RELU_N1_TO_1"), ("RELU", "RELU6", "RELU6"), ("RELU6", "RELU", "RELU6"), ("RELU_N1_TO_1", "RELU", None)],
)
def test_activations_join_where_one_says_the_same(inner, outer, fused, oracle):
    rng = np.random.default_rng(10)
    net, x = image(rng)
    model = net.model(net.one(outer, two(net, "ADD", x, net.constant([3.0, 0, -3], "float32"), inner)))
    if fused is None:
        assert "then RELU" in left(model)[0].reason
        return
    folded, _ = fold(model)
    assert [(n.op, n.options.fused_activation_function) for n in folded.graph.nodes] == [("ADD", fused)]
    require_same(model, folded, oracle)


def test_a_relu_stays_behind_what_has_no_activation_or_other_readers():
    rng = np.random.default_rng(11)
    net, x = image(rng)
    a, b = net.one("TANH", x), linear(net, x, "CONV_2D", rng)[0]
    rows = left(net.model(net.one("RELU", x), net.one("RELU", a), net.one("RELU6", b), b))
    assert [r.reason.split("x")[0] for r in rows] == ["its input is not computed by an op", "TANH has no fused activation", ""]
    assert rows[2].reason.endswith("is an output of the model")


@pytest.mark.parametrize("op", CARRIERS)
def test_every_op_that_takes_a_relu_has_it_in_litert(op, oracle):
    rng = np.random.default_rng(17)
    net, x = image(rng)
    if op in LINEAR:
        y = linear(net, x, op, rng)[0]
    else:
        y = net.pool(op, x) if op.endswith("POOL_2D") else two(net, op, x, net.input(*net.shape(x)))
    model = net.model(net.one("RELU6", y))
    folded, _ = fold(model)
    assert [(n.op, n.options.fused_activation_function) for n in folded.graph.nodes] == [(op, "RELU6")]
    require_same(model, folded, oracle)


# padding


@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("op", ["CONV_2D", "DEPTHWISE_CONV_2D"])
def test_padding_goes_in_exactly_where_it_says_the_same(op, stride, dilation, oracle):
    """Every border of up to two zeros, on even and odd sizes: whatever is folded gives the same bits in LiteRT."""
    folds = 0
    for top, bottom, h, padding in (
        (0, 1, 6, "VALID"),
        (1, 1, 6, "VALID"),
        (1, 1, 5, "VALID"),
        (1, 2, 7, "VALID"),
        (0, 0, 6, "SAME"),
        (1, 0, 6, "SAME"),
    ):
        for left_, right in ((0, 1), (1, 0), (1, 1), (0, 2)):
            rng = np.random.default_rng([top, bottom, h, left_, right])
            net, x = image(rng, 1, h, 5, 2)
            y = padded(net, x, (0, 0), (top, bottom), (left_, right), (0, 0))
            model = net.model(linear(net, y, op, rng, padding=padding, stride=stride, dilation=dilation)[0])
            folded, (row,) = fold(model)
            assert ops(folded) == ([op] if row.done else ["PAD", op])
            data = [rng.normal(size=(1, 1, h, 5, 2)).astype(np.float32)]
            (a,), (b,) = (oracle.run(to_bytes(m), data, "reference").values() for m in (model, folded))
            assert a.tobytes() == b.tobytes()
            folds += row.done
    assert folds


def test_padding_that_is_something_else_stays():
    rng = np.random.default_rng(12)
    for pairs, reason in (
        (((0, 0), (0, 1), (0, 1), (0, 1)), "other axes"),
        (((1, 0), (0, 1), (0, 1), (0, 0)), "other axes"),
        (((0, 0), (2, 2), (2, 2), (0, 0)), "neither SAME nor VALID pads 2 + 2 rows and 2 + 2 columns"),
    ):
        net, x = image(rng)
        assert reason in left(net.model(linear(net, padded(net, x, *pairs), "CONV_2D", rng)[0]))[0].reason
    net, x = image(rng)
    value = net.constant(1.0, "float32")
    y = net.op("PADV2", [x, net.constant(((0, 0), (0, 1), (0, 1), (0, 0)), "int32"), value], (1, 6, 5, 3))
    assert "with zeros" in left(net.model(linear(net, y, "CONV_2D", rng)[0]))[0].reason
    open_size = net.tensors[x].but(shape_signature=(1, -1, -1, 3))
    net.tensors[x], net.tensors[value] = open_size, net.tensors[value].but(data=np.zeros((), np.float32))
    assert "neither" in left(net.model(net.nodes[-1].outputs[0]))[0].reason


# constants


def test_chains_of_constants_become_constants():
    net, x = image(np.random.default_rng(13))
    half = net.constant(np.ones((6, 1, 1, 3)), "float16")
    w = net.op("DEQUANTIZE", [half], (6, 1, 1, 3))
    scaled = two(net, "MUL", w, net.constant(2.0, "float32"))
    shown = two(net, "ADD", net.constant(1.0, "float32"), net.constant(2.0, "float32"))
    shape = net.op("SHAPE", [x], (4,), kind="int32", out_type="INT32")
    y = net.op("CONV_2D", [x, scaled], (1, 5, 4, 6), fused_activation_function="NONE", padding="SAME", stride_h=1, stride_w=1,
               dilation_h_factor=1, dilation_w_factor=1)  # fmt: skip
    model = net.model(y, shown, shape)
    folded, rows = fold(model, ["constants"])
    assert ops(folded) == ["ADD", "SHAPE", "CONV_2D"] and [r.done for r in rows] == [True, True, False]
    assert "output" in rows[2].reason
    weights = folded.graph.tensors[folded.graph.nodes[2].inputs[1]]
    assert weights.data.tolist() == np.full((6, 1, 1, 3), 2.0).tolist() and half not in [t.name for t in folded.graph.tensors]
    require_same(model, folded)


# all of them


def test_each_fold_is_optional_by_name():
    rng = np.random.default_rng(14)
    net, x = image(rng, 1, 6, 6, 3)
    y = padded(net, two(net, "MUL", x, net.op("DEQUANTIZE", [net.constant(2.0, "float16")], ())), (0, 0), (0, 1), (0, 0), (0, 0))
    y, _ = linear(net, y, "CONV_2D", rng, stride=2, padding="VALID", dilation=1)
    model = net.model(net.one("RELU", two(net, "ADD", y, net.constant(1.0, "float32"))))
    assert content(fold(model, ())[0]) == content(model)
    for name in ALL:
        assert {r.fold for r in fold(model, [name])[1]} <= {name}
    with pytest.raises(BadRecipe, match="pads"):
        fold(model, ["pads"])


CONSTANTS = (1.0, -2.5, 0.0, 1e-9, 1e9)


def chain(rng: np.random.Generator) -> Model:
    """A random chain around one or two linear ops, with what folds and what must not."""
    net, x = image(rng, int(rng.integers(1, 3)), int(rng.integers(5, 8)), int(rng.integers(4, 7)), int(rng.choice([2, 4])))
    outputs = []
    for _ in range(int(rng.integers(1, 3))):
        x = _around(net, rng, x, outputs)
        if len(net.shape(x)) == 4 and rng.random() < 0.3:
            x = padded(net, x, (0, 0), *((int(a), int(b)) for a, b in rng.integers(0, 2, (2, 2))), (0, 0))
        x = x if len(net.shape(x)) == 4 else net.reshape(x, 1, 1, -1 + 1 + net.shape(x)[0], net.shape(x)[1])
        op = str(rng.choice(LINEAR))
        if op in LINEAR[:2] and min(net.shape(x)[1:3]) < 4:
            op = "FULLY_CONNECTED"
        more = {"padding": str(rng.choice(["SAME", "VALID"])), "stride": int(rng.integers(1, 3)), "dilation": int(rng.integers(1, 3))}
        groups = {"groups": 2} if op == "CONV_2D" and net.shape(x)[3] % 2 == 0 and rng.random() < 0.3 else {}
        x, _ = linear(
            net,
            x,
            op,
            rng,
            act=str(rng.choice(["NONE", "NONE", "RELU"])),
            bias=op in LINEAR[:2] or bool(rng.random() < 0.7),
            **more,
            **groups,
        )
        x = _around(net, rng, x, outputs)
    return net.model(x, *dict.fromkeys(t for t in outputs if t != x))


def _around(net: Net, rng: np.random.Generator, x: int, outputs: list[int]) -> int:
    for _ in range(int(rng.integers(0, 4))):
        shape = net.shape(x)
        wide = rng.random() < 0.15
        size = shape if wide else [(), shape[-1:], (1,) * (len(shape) - 1) + shape[-1:]][int(rng.integers(3))]
        values = rng.normal(size=size) * rng.choice(CONSTANTS, size, p=[0.7, 0.15, 0.05, 0.05, 0.05])
        if rng.random() < 0.03:
            values = np.full(size, np.nan)
        how, act = str(rng.choice(["MUL", "ADD", "SUB"])), str(rng.choice(["NONE", "NONE", "NONE", "RELU6"]))
        operands = [x, net.constant(values, "float32")]
        y = two(net, how, *(operands if rng.random() < 0.8 else operands[::-1]), act)
        if rng.random() < 0.08:
            outputs.append(x)
        x = net.one("RELU", y) if rng.random() < 0.15 else y
    return x


@pytest.mark.parametrize("seed", range(60))
def test_random_chains_keep_their_function(seed, oracle):
    model = chain(np.random.default_rng([15, seed]))
    folded, rows = fold(model)
    gone = [r for r in rows if r.done]
    assert len(model.graph.nodes) - len(folded.graph.nodes) == len(gone)
    assert not check(folded) and oracle.loads(to_bytes(folded), "xnnpack") == oracle.loads(to_bytes(model), "xnnpack")
    again, more = fold(folded)
    assert content(again) == content(folded) and not any(r.done for r in more)
    rng = np.random.default_rng(seed)
    data = [rng.normal(size=(3, *model.graph.tensors[t].shape)).astype(np.float32) for t in model.graph.inputs]
    for flavour in ("xnnpack", "reference"):
        runs = (oracle.run(to_bytes(m), data, flavour).values() for m in (model, folded, stepped(model, rng)))
        for a, b, c in zip(*runs, strict=True):
            require_close(a, b, c)


def stepped(model: Model, rng: np.random.Generator) -> Model:
    """The model with every constant moved by one float32 step up or down."""
    tensors = tuple(t if t.data is None else t.but(data=step(t.data, rng), buffer=0) for t in model.graph.tensors)
    return model.but(graphs=(model.graph.but(tensors=tensors),))


def require_close(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> None:
    """a and b differ by what rounding explains; c is a, rounded otherwise. NaN stays NaN."""
    assert np.array_equal(np.isnan(a), np.isnan(b)) and not np.isinf(a).any()
    a, b, c = (v[~np.isnan(a)].astype(np.float64) for v in (a, b, c))
    rounding = np.abs(a - c).max(initial=0.0) + STEP * np.abs(a).max(initial=0.0)
    assert np.abs(a - b).max(initial=0.0) <= TIMES * rounding


def test_a_folded_model_quantizes_and_saves(tmp_path, oracle):
    rng = np.random.default_rng(16)
    net, x = image(rng)
    y, _ = linear(net, x, "CONV_2D", rng)
    model, _ = fold(net.model(net.one("RELU", two(net, "MUL", y, net.constant(np.arange(1, 7), "float32")))))
    made = qsim.quantize(model, {model.graph.key(t): (-3, 9) for t in (*model.graph.inputs, *model.graph.outputs)})
    assert [n.op for n in made.graph.nodes] == ["QUANTIZE", "CONV_2D", "DEQUANTIZE"]
    qsim.save(made, tmp_path / "m.tflite")
    assert oracle.loads((tmp_path / "m.tflite").read_bytes()) is None


# real models

NETS = {  # ops before, after
    "aeq_mnist_weightonly": (9, 6), "conv_resnet8_fp16": (39, 19), "conv_vit_mnist_f32": (280, 262), "blazeface_front_f32": (164, 73),
    "hand_landmark_lite_fp16": (167, 65), "selfie_segmentation_fp16": (246, 114), "meter_needle_class100_f32": (23, 23),
    "blazeface_mlkit_f32": (78, 78), "transformer_kv_cache_f32": (97, 97), "mlperf_resnet8_f32": (16, 16),
}  # fmt: skip
SLOW = ("blazeface_front_f32", "hand_landmark_lite_fp16", "selfie_segmentation_fp16")  # minutes to compile in float mode, twice


@pytest.mark.models
@pytest.mark.parametrize("name", NETS)
def test_real_models_run_folded_in_litert(name, models_dir, oracle):
    model = qsim.load(models_dir / "nets" / f"{name}.tflite")
    folded, rows = fold(model)
    assert (len(model.graph.nodes), len(folded.graph.nodes)) == NETS[name] and sum(r.done for r in rows) == NETS[name][0] - NETS[name][1]
    assert {r.fold for r in rows} <= set(ALL) and all(r.ops and r.reason for r in rows)
    for flavour in ("xnnpack", "reference"):
        assert (oracle.loads(to_bytes(folded), flavour) is None) == (oracle.loads(to_bytes(model), flavour) is None)
        if oracle.loads(to_bytes(folded), flavour) is None and any(r.done for r in rows):
            rng = np.random.default_rng(0)
            data = [rng.normal(size=(1, *model.graph.tensors[t].shape)).astype(np.float32) for t in model.graph.inputs]
            for a, b in zip(*(oracle.run(to_bytes(m), data, flavour).values() for m in (model, folded)), strict=True):
                assert np.abs(a - b).max() <= CLOSE * np.abs(a).max()


@pytest.mark.models
@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.nightly) if n in SLOW else n for n, (a, b) in NETS.items() if a != b])
def test_float_mode_of_real_models_stays(name, models_dir):
    model = qsim.load(models_dir / "nets" / f"{name}.tflite")
    for d in distances(model, fold(model)[0], samples=1):
        assert d.same and d.difference <= CLOSE * d.largest, d
