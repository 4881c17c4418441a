"""Folding: what goes into what, what is left and why, and that no fold changes the float function, however odd the graph around it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from nets import DENSE, Net

import qsim
from qsim.check import check
from qsim.distance import STEP, TIMES, distances, step
from qsim.errors import BadRecipe
from qsim.folding import ALL, Folded, fold
from qsim.folds.clamps import CARRIERS
from qsim.graph import Model
from qsim.windows import window
from qsim.writer import to_bytes

LINEAR = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV")
CLOSE = 1e-5  # of an output's largest value


def linear(net: Net, x: int, op: str, rng: np.random.Generator, w: int | None = None, act: str = "NONE", bias: bool = True, **more: Any):
    """One linear op on the image x (n, h, w, c), six channels out of it where nothing else is said; (its output, its weights)."""
    c = net.shape(x)[3]
    groups, out = more.pop("groups", 1), more.pop("out", 6)
    shapes = {
        "CONV_2D": (out, 3, 2, c // groups), "DEPTHWISE_CONV_2D": (1, 3, 2, 2 * c), "TRANSPOSE_CONV": (out, 3, 2, c),
        "FULLY_CONNECTED": (out, net.shape(x)[2] * c),
    }  # fmt: skip
    shape = shapes[op]
    w = net.constant(rng.normal(size=shape).astype(np.float32)) if w is None else w
    count = shape[3] if op == "DEPTHWISE_CONV_2D" else shape[0]
    parts = [w, *([net.constant(rng.normal(size=count).astype(np.float32))] if bias else [])]
    sliding = {"padding": more.pop("padding", "VALID"), "stride_h": more.pop("stride", 1), "stride_w": 1, "fused_activation_function": act}
    spread = {"dilation_h_factor": 1, "dilation_w_factor": more.pop("dilation", 1)}
    n, h, wide = net.shape(x)[:3]
    if op == "FULLY_CONNECTED":
        return net.op(op, [x, *parts], (n * h, out), fused_activation_function=act, **DENSE), w
    if op == "TRANSPOSE_CONV":
        size = (n, (h - 1) * sliding["stride_h"] + 3, wide + 1, out)
        sliding["padding"] = "VALID"
        return net.op(
            op, [net.constant(size, "int32"), w, x, *parts[1:]], size, 3 if bias else 1, quantized_bias_type="FLOAT32", **sliding
        ), w
    size = (
        n, window(h, 3, sliding["stride_h"], 1, sliding["padding"])[0],
        window(wide, 2, 1, spread["dilation_w_factor"], sliding["padding"])[0], count,
    )  # fmt: skip
    depth = {"depth_multiplier": 2} if op == "DEPTHWISE_CONV_2D" else {}
    return net.op(
        op,
        [x, *parts],
        size,
        fused_activation_function=act,
        **{k: v for k, v in sliding.items() if k != "fused_activation_function"},
        **spread,
        **depth,
    ), w


def padded(net: Net, x: int, *pairs: tuple[int, int], op: str = "PAD") -> int:
    shape = tuple(n + a + b for n, (a, b) in zip(net.shape(x), pairs, strict=True))
    return net.op(op, [x, net.constant(pairs, "int32")], shape)


def two(net: Net, op: str, a: int, b: int, act: str = "NONE") -> int:
    more = {"pot_scale_int16": False} if op in ("ADD", "SUB") else {}
    return net.op(op, [a, b], np.broadcast_shapes(net.shape(a), net.shape(b)), fused_activation_function=act, **more)


def image(rng: np.random.Generator, *shape: int) -> tuple[Net, int]:
    net = Net()
    return net, net.input(*(shape or (1, 5, 4, 3)))


def content(model: Model) -> list[tuple]:
    return [(n.op, n.inputs, n.outputs, n.options, n.version) for n in model.graph.nodes]


def ops(model: Model) -> list[str]:
    return [n.op for n in model.graph.nodes]


def require_same(model: Model, folded: Model, oracle: Any = None) -> None:
    """Both are legal, show the same inputs and outputs, and compute the same."""
    assert not check(folded)
    for side in ("inputs", "outputs"):
        names = [[m.graph.tensors[t].name for t in getattr(m.graph, side)] for m in (model, folded)]
        assert names[0] == names[1]
        assert [sorted(s[side]) for s in model.signatures] == [sorted(s[side]) for s in folded.signatures]
    for d in distances(model, folded):
        assert d.same and d.difference <= CLOSE * d.largest, d
    if oracle is not None:
        x = [np.random.default_rng(0).normal(size=(2, *model.graph.tensors[t].shape)).astype(np.float32) for t in model.graph.inputs]
        for a, b in zip(*(oracle.run(to_bytes(m), x, "reference").values() for m in (model, folded)), strict=True):
            assert np.abs(a - b).max() <= CLOSE * np.abs(a).max()


def left(model: Model, *what: str) -> list[Folded]:
    """The rows of a model that nothing is folded in; that it comes back as it was."""
    folded, rows = fold(model, what or ALL)
    assert content(folded) == content(model)
    assert all(t.data is u.data for t, u in zip(model.graph.tensors, folded.graph.tensors, strict=True))
    return [r for r in rows if not r.done] if not any(r.done for r in rows) else pytest.fail(str(rows))


# behind a linear op


@pytest.mark.parametrize("op, bias", [(op, b) for op in LINEAR for b in (True, False) if b or op != "CONV_2D"])
def test_a_batch_norm_and_its_activation_go_into_the_linear_op(op, bias, oracle):
    rng = np.random.default_rng(1)
    net, x = image(rng)
    y, _ = linear(net, x, op, rng, bias=bias)
    c = net.shape(y)[-1]
    for how, constant in (
        ("MUL", rng.normal(size=c)),
        ("ADD", rng.normal(size=(1, c))),
        ("DIV", rng.uniform(1, 2, (1,) * (len(net.shape(y)) - 1) + (c,))),
    ):
        y = two(net, how, y, net.constant(constant, "float32"))
    model = net.model(net.one("RELU6", two(net, "SUB", net.constant(0.5), y)))
    folded, rows = fold(model)
    assert ops(folded) == [op] and folded.graph.nodes[0].options.fused_activation_function == "RELU6"
    assert sum(r.done for r in rows) == 5 and all(r.done for r in rows)
    require_same(model, folded, oracle)


def test_reshapes_that_keep_the_channels_last_do_not_stand_in_the_way(oracle):
    rng = np.random.default_rng(2)
    net, x = image(rng)
    y, _ = linear(net, x, "FULLY_CONNECTED", rng)
    y = net.reshape(net.reshape(y, 1, 5, 1, 6), 5, 1, 6)
    model = net.model(two(net, "ADD", y, net.constant(rng.normal(size=6), "float32"), "RELU"))
    folded, _ = fold(model)
    assert ops(folded) == ["FULLY_CONNECTED", "RESHAPE", "RESHAPE"]
    require_same(model, folded, oracle)
    net, x = image(rng)
    y = net.reshape(linear(net, x, "FULLY_CONNECTED", rng)[0], 6, 5)
    (row,) = left(net.model(two(net, "ADD", y, net.constant(rng.normal(size=5), "float32"))))
    assert "does not keep the channels last" in row.reason


def test_rounding_is_that_of_each_channel():
    """Channels of very different size: none is judged by the largest. The bound is a few steps of the sum of magnitudes."""
    rng = np.random.default_rng(3)
    net, x = image(rng, 1, 1, 1, 40)
    y, w = linear(net, x, "FULLY_CONNECTED", rng, out=9)
    m, a = (10.0 ** rng.uniform(-12, 12, 9)).astype(np.float32), rng.normal(size=9).astype(np.float32)
    model = net.model(two(net, "ADD", two(net, "MUL", y, net.constant(m)), net.constant(a)))
    folded, _ = fold(model)
    assert ops(folded) == ["FULLY_CONNECTED"]
    data = rng.normal(size=(50, 1, 1, 40)).astype(np.float32)
    before, after = (f.function("float").batch(data)[0][:, 0] for f in (model, folded))
    bias = net.tensors[w + 1].data
    reach = (np.abs(data[:, 0, 0]) @ np.abs(net.tensors[w].data).T + np.abs(bias)) * m + np.abs(a)
    assert (np.abs(before - after) <= 16 * 2.0**-23 * reach).all()


def behind(constant: Any, how: str = "MUL", act: str = "NONE", inside: str = "NONE", swap: bool = False) -> Model:
    """CONV_2D (six channels), then one pointwise op."""
    rng = np.random.default_rng(4)
    net, x = image(rng)
    y, _ = linear(net, x, "CONV_2D", rng, act=inside)
    c = net.constant(constant, "float32")
    return net.model(two(net, how, *((c, y) if swap else (y, c)), act))


LEFT = {
    "along the width": (behind(np.ones((1, 3, 1))), "other axes than the channels"),
    "one value a pixel": (behind(np.ones((1, 3, 3, 6))), "other axes than the channels"),
    "a larger rank": (behind(np.ones((1, 1, 1, 1, 6))), "changes the shape"),
    "more rows": (behind(np.ones((2, 1, 1, 6))), "changes the shape"),
    "NaN": (behind([1, 2, 3, 4, 5, np.nan]), "NaN"),
    "infinity": (behind([1, 2, 3, 4, 5, -np.inf], "ADD"), "NaN or infinite"),
    "division by zero": (behind([1, 2, 3, 4, 5, 0], "DIV"), "divides by zero"),
    "a divided constant": (behind([1, 2, 3, 4, 5, 6], "DIV", swap=True), "divided"),
    "an activation in between": (behind(np.ones(6), inside="RELU"), "RELU in between"),
    "an activation it has not": (behind(np.ones(6), act="TANH"), "no fused activation TANH"),
    "overflow": (behind([1, 2, 3, 4, 5, 3e38]), "do not fit"),
    "underflow": (behind([1, 2, 3, 4, 5, 1e-40]), "do not fit"),
}


@pytest.mark.parametrize("case", LEFT, ids=str)
def test_what_looks_like_a_batch_norm_and_is_not(case):
    model, reason = LEFT[case]
    (row,) = left(model)
    assert reason in row.reason and row.ops[0].startswith("op 0 CONV_2D") and row.ops[1].startswith("op 1 ")


def test_a_tensor_that_something_else_needs_stays():
    rng = np.random.default_rng(5)
    for outside in ("reader", "output", "both operands", "signature"):
        net, x = image(rng)
        y, _ = linear(net, x, "CONV_2D", rng)
        z = two(net, "MUL", y, y if outside == "both operands" else net.constant(np.full(6, 2.0), "float32"))
        model = net.model(*{"reader": (z, net.one("TANH", y)), "output": (z, y)}.get(outside, (z,)))
        if outside == "signature":
            shown = {**model.signatures[0], "outputs": {"out0": z, "inside": y}}
            model = model.but(signatures=(shown,))
        assert len(left(model)) == (outside != "both operands")


def test_shared_weights_are_copied_and_the_other_reader_keeps_its_own(oracle):
    rng = np.random.default_rng(6)
    net, x = image(rng)
    y, w = linear(net, x, "CONV_2D", rng, padding="SAME")
    other, _ = linear(net, x, "CONV_2D", rng, w=w, padding="SAME")
    model = net.model(two(net, "MUL", y, net.constant(np.arange(1, 7), "float32")), other)
    folded, _ = fold(model)
    first, second = folded.graph.nodes
    assert first.inputs[1] != second.inputs[1]
    kept = folded.graph.tensors[second.inputs[1]]
    assert kept.name == net.tensors[w].name and kept.data is net.tensors[w].data
    assert len({t.name for t in folded.graph.tensors}) == len(folded.graph.tensors)
    require_same(model, folded, oracle)


def test_constants_that_do_not_change_stay_shared():
    rng = np.random.default_rng(6)
    net, x = image(rng)
    y, w = linear(net, x, "CONV_2D", rng)
    other, _ = linear(net, x, "CONV_2D", rng, w=w)
    folded, _ = fold(net.model(two(net, "ADD", y, net.constant(np.arange(1, 7), "float32")), other))
    first, second = folded.graph.nodes
    assert first.inputs[1] == second.inputs[1] and first.inputs[2] != second.inputs[2]


def test_weights_that_are_the_bias_or_the_factor_too():
    net = Net()
    x, one = net.input(1, 1), net.constant([[3.0]], "float32")
    y = net.op("FULLY_CONNECTED", [x, one, one], (1, 1), fused_activation_function="NONE", **DENSE)
    model = net.model(two(net, "MUL", y, one))
    folded, _ = fold(model)
    assert ops(folded) == ["FULLY_CONNECTED"]
    require_same(model, folded)


# ahead of a linear op


@pytest.mark.parametrize("more", [{}, {"groups": 2}, {"padding": "SAME"}, {"dilation": 2, "stride": 2}], ids=str)
@pytest.mark.parametrize("op", LINEAR)
@pytest.mark.parametrize("how", ["MUL", "SUB"])
def test_a_normalization_goes_in_where_padding_allows_it(op, how, more, oracle):
    if op != "CONV_2D" and "groups" in more:
        pytest.skip("only CONV_2D has groups")
    rng = np.random.default_rng(7)
    net, x = image(rng, 2, 6, 5, 4)
    y = two(net, how, x, net.constant(rng.normal(size=4), "float32"))
    model = net.model(linear(net, y, op, rng, bias=op == "CONV_2D" or "groups" in more, **more)[0])
    pads = op == "TRANSPOSE_CONV" or (op != "FULLY_CONNECTED" and "padding" in more)
    if how == "SUB" and pads:
        (row,) = left(model)
        assert row.fold == "normalize" and ("pads with zeros" in row.reason or "different numbers" in row.reason)
    else:
        folded, rows = fold(model)
        assert ops(folded) == [op] and [r.fold for r in rows] == ["normalize"]
        require_same(model, folded, oracle)


def test_a_normalization_for_two_readers_or_with_an_activation_stays():
    rng = np.random.default_rng(8)
    net, x = image(rng)
    y = two(net, "MUL", x, net.constant(2.0, "float32"))
    both = net.model(linear(net, y, "CONV_2D", rng)[0], linear(net, y, "CONV_2D", rng)[0])
    assert "2 readers" in left(both)[0].reason
    net, x = image(rng)
    y = two(net, "MUL", x, net.constant(2.0, "float32"), "RELU")
    assert "fused activation RELU" in left(net.model(linear(net, y, "CONV_2D", rng)[0]))[0].reason
    net, x = image(rng)
    y = two(net, "MUL", x, net.constant([1e-40, 1, 1], "float32"))
    assert "do not fit" in left(net.model(linear(net, y, "CONV_2D", rng)[0]))[0].reason


def test_an_offset_ahead_of_same_goes_in_where_same_pads_nothing(oracle):
    rng = np.random.default_rng(9)
    net, x = image(rng)
    y = two(net, "ADD", x, net.constant([1, 2, 3], "float32"))
    kernel = net.constant(rng.normal(size=(6, 1, 1, 3)), "float32")
    model = net.model(net.conv(y, net.tensors[kernel].data, np.zeros(6, np.float32)))
    folded, _ = fold(model)
    assert ops(folded) == ["CONV_2D"]
    require_same(model, folded, oracle)


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
