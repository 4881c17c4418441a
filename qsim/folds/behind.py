"""MUL, ADD, SUB and DIV by a constant a channel behind a linear op (a batch norm) become part of its weights and bias."""

from __future__ import annotations

import numpy as np

from ..graph import Graph, Node
from .change import CLAMPS, Change, Refusal, activation, shared
from .constant import Stock
from .sums import LINEAR, UNFIT, Sums, pointwise, single, sums, varying, with_constants


def batch_norm(graph: Graph, node: Node) -> Change | Refusal | None:
    """m (w x + b) + a = (w m) x + (b m + a); the fused activation of the node becomes the linear op's.

    Between the two may stand RESHAPEs that keep the channels last.
    """
    x = varying(graph, node)
    path = [] if x is None else _up(graph, x)
    if x is None or not path:
        return None
    found = _constants(graph, path, node, x)
    if isinstance(found, str):
        return Refusal(_about(path, node), tuple(n.outputs[0] for n in path[::-1]), found)
    return _moved(graph, path, node, *found)


def _up(graph: Graph, x: int) -> list[Node]:
    """The linear op that computes x and the RESHAPEs behind it, from x upwards; empty where no linear op is there."""
    path: list[Node] = []
    while x in graph.producer:
        path.append(graph.nodes[graph.producer[x]])
        if path[-1].op in LINEAR:
            return path
        if path[-1].op != "RESHAPE":
            return []
        x = path[-1].inputs[0]
    return []


def _about(path: list[Node], node: Node) -> tuple[int, ...]:
    return tuple(n.index for n in (*path[::-1], node))


def _constants(graph: Graph, path: list[Node], node: Node, x: int) -> tuple[Sums, np.ndarray, np.ndarray] | str:
    """The linear op, its new weights and bias; or why there are none."""
    for reason in (_in_between(graph, path, node), *(shared(graph, n.outputs[0]) for n in path)):
        if reason:
            return reason
    affine, s = pointwise(graph, node, x), sums(graph, path[-1])
    if isinstance(affine, str) or isinstance(s, str):
        return affine if isinstance(affine, str) else str(s)
    m, a = (np.broadcast_to(v, s.b.shape) for v in affine)
    product = s.w * s.by_output(m)
    w = single(product, np.abs(product).max(s.others, initial=0.0, keepdims=True))
    b = single(s.b * m + a, np.abs(s.b * m) + np.abs(a))
    return UNFIT if w is None or b is None else (s, w, b)


def _in_between(graph: Graph, path: list[Node], node: Node) -> str:
    """What of the ops or between them keeps the two apart; empty where nothing does."""
    linear, ends = path[-1], [graph.tensors[n.outputs[0]] for n in path]
    if activation(linear) != "NONE":
        return f"{linear.op} has the fused activation {activation(linear)} in between"
    if activation(node) not in CLAMPS:
        return f"{linear.op} has no fused activation {activation(node)}"
    if any(t.shape[-1:] != ends[-1].shape[-1:] or -1 in (t.shape_signature or ())[-1:] for t in ends[:-1]):
        return "a RESHAPE in between does not keep the channels last"
    return ""


def _moved(graph: Graph, path: list[Node], node: Node, s: Sums, w: np.ndarray, b: np.ndarray) -> Change:
    """The linear op with new constants and the activation of the node, whose output the last op of the path now computes."""
    linear, last, stock = path[-1], path[0], Stock(graph)
    options = linear.options.but(fused_activation_function=activation(node))
    changed = {linear.index: linear.but(inputs=with_constants(stock, s, w, b), options=options, version=s.version)}
    changed[last.index] = changed.get(last.index, last).but(outputs=node.outputs)
    reason = f"a constant a channel behind {linear.op} is part of its weights and bias"
    return Change(_about(path, node), frozenset((node.index,)), last.outputs, reason, changed, stock.made)
