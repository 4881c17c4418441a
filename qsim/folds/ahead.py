"""MUL, ADD, SUB and DIV by a constant a channel ahead of a linear op (a normalization of its data) become part of its weights and bias."""

from __future__ import annotations

import numpy as np

from ..graph import Graph, Node
from ..windows import window
from .change import Change, Refusal, activation, fixed_size, shared
from .constant import Stock
from .sums import LINEAR, UNFIT, Sums, data_position, pointwise, single, sums, varying, with_constants


def normalize(graph: Graph, node: Node) -> Change | Refusal | None:
    """w (m x + a) + b = (w m) x + (b + sum w a); a only where no output reads a padded zero, to which nothing was added."""
    x, linear = varying(graph, node), _reader(graph, node)
    if x is None or linear is None:
        return None
    found = _constants(graph, node, linear, x)
    if isinstance(found, str):
        return Refusal((node.index, linear.index), node.outputs, found)
    return _taken(graph, node, x, *found)


def _reader(graph: Graph, node: Node) -> Node | None:
    """The linear op that takes what a node computes as its data."""
    readers = [(graph.nodes[n], p) for t in node.outputs[:1] for n, p in graph.consumers.get(t, ())]
    return next((n for n, p in readers if n.op in LINEAR and p == data_position(n)), None)


def _constants(graph: Graph, node: Node, linear: Node, x: int) -> tuple[Sums, np.ndarray, np.ndarray | None] | str:
    """The linear op, its new weights, and its new bias where it needs one; or why there are none."""
    if activation(node) != "NONE":
        return f"{node.op} has the fused activation {activation(node)}"
    affine, s = pointwise(graph, node, x), sums(graph, linear)
    if isinstance(affine, str) or isinstance(s, str):
        return affine if isinstance(affine, str) else str(s)
    m, a = (by_input(s, v, (graph.tensors[x].shape or (1,))[-1]) for v in affine)
    if m is None or a is None:
        return "its channels are not those of the weights"
    if reason := shared(graph, node.outputs[0]) or (a.any() and _reads_padding(graph, x, s)) or "":
        return reason
    return _products(s, m, a)


def _products(s: Sums, m: np.ndarray, a: np.ndarray) -> tuple[Sums, np.ndarray, np.ndarray | None] | str:
    w = single(s.w * m, np.abs(s.w * m))
    b = single(s.b + (s.w * a).sum(s.others), np.abs(s.b) + np.abs(s.w * a).sum(s.others))
    if w is None or b is None:
        return UNFIT
    return s, w, b if s.has_bias or b.any() else None


def by_input(s: Sums, values: np.ndarray, channels: int) -> np.ndarray | None:
    """One value, or one for each of the `channels` of the data, shaped to multiply w; None where they do not fit it."""
    w, op = s.w, s.node.op
    if values.size == 1:
        return values.reshape((1,) * w.ndim)
    if op == "FULLY_CONNECTED":  # a row of weights may span several pixels
        return np.tile(values, w.shape[1] // channels)[None] if w.shape[1] % channels == 0 else None
    if op == "DEPTHWISE_CONV_2D":  # output c k + j reads channel c
        return np.repeat(values, w.shape[3] // channels).reshape(1, 1, 1, -1) if w.shape[3] % channels == 0 else None
    groups, rest = divmod(channels, w.shape[3])
    if rest or w.shape[0] % groups or (op == "TRANSPOSE_CONV" and groups != 1):
        return None
    return np.repeat(values.reshape(groups, 1, 1, -1), w.shape[0] // groups, axis=0)


def _reads_padding(graph: Graph, x: int, s: Sums) -> str:
    """Why an offset ahead of the op reaches its outputs unevenly; empty where each sees all of it."""
    node, t = s.node, graph.tensors[x]
    if node.op == "TRANSPOSE_CONV":
        return "the outputs of TRANSPOSE_CONV read different numbers of inputs"
    if node.op == "FULLY_CONNECTED" or node.options.padding == "VALID":
        return ""
    pads = [
        window(t.shape[1 + d], s.w.shape[1 + d], node.options[f"stride_{side}"], node.options[f"dilation_{side}_factor"], "SAME")[1:]
        for d, side in enumerate("hw")
    ]
    return f"{node.op} pads with zeros, to which nothing is added" if np.any(pads) or not fixed_size(t) else ""


def _taken(graph: Graph, node: Node, x: int, s: Sums, w: np.ndarray, b: np.ndarray | None) -> Change:
    """The linear op with new constants, reading x in place of the node's output."""
    linear, stock = s.node, Stock(graph)
    inputs = list(with_constants(stock, s, w, b))
    inputs[s.data] = x
    changed = linear.but(inputs=tuple(inputs), version=linear.version if b is None else s.version)
    reason = f"a constant a channel ahead of {linear.op} is part of its weights and bias"
    return Change((node.index, linear.index), frozenset((node.index,)), node.outputs, reason, {linear.index: changed}, stock.made)
