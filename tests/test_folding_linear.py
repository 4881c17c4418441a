"""Folding into linear ops: what stands behind one and ahead of one, and what looks so and is not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from folded import LINEAR, image, left, linear, ops, require_same, two
from nets import DENSE, Net

from qsim.folding import fold
from qsim.graph import Model

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
