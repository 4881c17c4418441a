"""Chains that are computed from constants alone, widened float16 and dequantized constants included, become constants."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..graph import Graph, Node
from ..layout import known_values
from .change import Change, Refusal


def constant_chains(graph: Graph) -> Iterator[Change | Refusal]:
    """The nodes all of whose inputs are constants, or results of such nodes, each as a change of its own.

    What follows from a shape alone (SHAPE of a computed tensor) is left: another batch size would change it.
    """
    from ..inference import host_values

    values = host_values(graph) | known_values(graph)
    known = {t.index for t in graph.tensors if t.is_constant}
    for node in graph.nodes:
        if not node.inputs or not node.outputs or not known.issuperset(t for t in node.inputs if t >= 0):
            continue
        reason = _why_not(graph, node, values)
        if reason:
            yield Refusal((node.index,), node.outputs, reason)
            continue
        known.update(node.outputs)
        tensors = {t: graph.tensors[t].but(data=_frozen(v := values[t]), shape=v.shape, shape_signature=None) for t in node.outputs}
        yield Change((node.index,), frozenset((node.index,)), node.outputs, "it is computed from constants alone", tensors=tensors)


def _why_not(graph: Graph, node: Node, values: dict[int, np.ndarray]) -> str:
    if any(t in graph.outputs for t in node.outputs):
        return "an output of the model cannot be a constant"
    return "" if all(t in values for t in node.outputs) else "its value cannot be computed ahead"


def _frozen(value: np.ndarray) -> np.ndarray:
    value = np.ascontiguousarray(value).reshape(value.shape)
    value.setflags(write=False)
    return value
