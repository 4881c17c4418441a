"""Nets for the tests of folding: linear ops, padding and images by a line each, and what must stay the same in a folded model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from nets import DENSE, Net

from qsim.check import check
from qsim.distance import distances
from qsim.folding import ALL, Folded, fold
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
