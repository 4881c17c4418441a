"""What a model keeps between invocations: resource variables (VAR_HANDLE, READ_VARIABLE, ASSIGN_VARIABLE), set up by CALL_ONCE, and
variable tensors, which some ops (SVDF, LSTM) replace."""

from __future__ import annotations

import numpy as np

from .errors import Unsupported
from .graph import Graph, Model, Node, Tensor
from .types import TYPES

OPS = ("CALL_ONCE", "VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE")


def handles(graph: Graph) -> dict[int, str]:
    """Tensor index of every handle of a graph -> name of its variable, shared by all graphs of the model."""
    return {n.outputs[0]: _name(n) for n in graph.nodes if n.op == "VAR_HANDLE"}


def _name(node: Node) -> str:
    container, name = node.options.get("container", ""), node.options.get("shared_name", "")
    return f"{container}/{name}" if container else str(name)


def variables(graph: Graph) -> dict[int, str]:
    """Tensor index of every variable tensor of a graph -> its name in the state."""
    return {t.index: graph.key(t.index) for t in graph.tensors if t.is_variable}


def initial(model: Model) -> dict[str, tuple[Tensor, np.ndarray]]:
    """Variable name -> (the constant it starts with, as a tensor with its parameters; its stored value): what CALL_ONCE assigns;
    variable tensors start with zero, int8 ones with their zero point.

    *Raises*: Unsupported where a starting value is computed rather than constant.
    """
    found: dict[str, tuple[Tensor, np.ndarray]] = {}
    for once in (n for n in model.graph.nodes if n.op == "CALL_ONCE"):
        graph = model.graphs[once.options.init_subgraph_index]
        names = handles(graph)
        for node in (n for n in graph.nodes if n.op not in ("VAR_HANDLE", "READ_VARIABLE")):
            value = graph.tensors[node.inputs[1]] if node.op == "ASSIGN_VARIABLE" else None
            if value is None or value.data is None:
                where = f"subgraph {once.options.init_subgraph_index}, op {node.index} {node.op}"
                raise Unsupported("a variable starts with a computed value", where=where)
            found[names[node.inputs[0]]] = value, value.data
    for index, name in variables(model.graph).items():
        t = model.graph.tensors[index]
        zero = int(np.ravel(t.qparams.zero_point)[0]) if t.qparams is not None and t.type == "int8" else 0
        value = np.full(t.shape, zero, TYPES[t.type].dtype)
        found[name] = t.but(data=value), value
    return found
