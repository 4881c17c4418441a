"""Values inside ops that get ranges of their own: what the cell state of an LSTM holds at every step, not only at the last."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from qsim.graph import Graph, Model, Node
from qsim.layout import known_values
from qsim.lstm_quantizing import cell, parts, why_not
from qsim.ops.lstm import lstm_cells
from qsim.scheme import INT8


class Inside(NamedTuple):
    """An op whose cell state is watched, and the shape of all values that it takes in one invocation."""

    node: Node
    shape: tuple[int, ...]


def cells(model: Model) -> dict[int, Inside]:
    """The cell state (a variable tensor) of every LSTM that `quantize` could make an integer one -> what to watch of it.

    Not of an LSTM of one step: it is fed a step an invocation and keeps its state between them, so samples from the initial state do
    not show its range.
    """
    graph, found = model.graph, dict[int, Inside]()
    inner = [n for n in graph.nodes if parts(n)]
    values = known_values(graph) if inner else {}
    for node in inner:
        shape = (*graph.tensors[node.outputs[0]].shape[:-1], graph.tensors[cell(node)].shape[-1])
        steps = shape[0 if node.options.get("time_major") else 1] if len(shape) > 2 else 1
        if steps > 1 and graph.tensors[node.inputs[0]].type == "float32" and why_not(graph, node, values, INT8) is None:
            found[cell(node)] = Inside(node, shape)
    return found


def values(graph: Graph, inside: Inside, params: Mapping[str, Any], x: Any) -> Any:
    """Every value of a cell state in one invocation on the op's input x, from the initial state. Pure."""
    constants, state = params["constants"], params["state"]
    known = (None if t < 0 else constants[t] if t in constants else state[graph.key(t)] for t in inside.node.inputs[1:])
    return lstm_cells(inside.node.real_options, x, *known)
