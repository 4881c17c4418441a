"""A RELU, RELU6 or RELU_N1_TO_1 of its own becomes the fused activation of the op before it."""

from __future__ import annotations

from ..graph import Graph, Node
from .change import CLAMPS, Change, Refusal, activation, after, real, shared

# op: version from which its fused activation counts; 1 where it always did
CARRIERS = {
    **dict.fromkeys("CONV_2D DEPTHWISE_CONV_2D FULLY_CONNECTED ADD SUB MUL DIV AVERAGE_POOL_2D MAX_POOL_2D".split(), 1),
    "TRANSPOSE_CONV": 4,
}


def relu(graph: Graph, node: Node) -> Change | Refusal | None:
    """act(f(x)) = f with act fused: the same numbers, since a fused activation clamps the float result."""
    if node.op not in ("RELU", "RELU6", "RELU_N1_TO_1") or not real(graph, *node.inputs, *node.outputs):
        return None
    x = node.inputs[0]
    before = graph.nodes[graph.producer[x]] if x in graph.producer else None
    if before is None:
        return Refusal((node.index,), (x,), "its input is not computed by an op")
    nodes, fused = (before.index, node.index), _fused(before, node.op)
    reason = _why_not(before, node.op, fused) or shared(graph, x)
    if reason or fused is None:
        return Refusal(nodes, (x,), reason)
    options = before.options.but(fused_activation_function=fused)
    changed = before.but(outputs=node.outputs, options=options, version=max(before.version, CARRIERS[before.op]))
    return Change(nodes, frozenset((node.index,)), (x,), f"{before.op} clamps its own result: {fused}", {before.index: changed})


def _fused(before: Node, op: str) -> str | None:
    return after(activation(before), op) if activation(before) in CLAMPS else None


def _why_not(before: Node, op: str, fused: str | None) -> str:
    if before.op not in CARRIERS:
        return f"{before.op} has no fused activation"
    return "" if fused else f"no fused activation is {activation(before)}, then {op}"
