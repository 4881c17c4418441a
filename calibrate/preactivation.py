"""Values before a fused activation, by a model in which the activation is an op of its own. Its tensors keep their indices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from qsim.errors import BadRange
from qsim.graph import Graph, Model, Node, Options

ACTIVATIONS = ("RELU", "RELU6", "RELU_N1_TO_1", "TANH")  # fused ones that are ops too, of the same name


def require_activation(model: Model, tensors: Sequence[int]) -> None:
    """*Raises*: BadRange for a tensor that no op with a fused activation gives."""
    graph = model.graph
    for t in tensors:
        if t not in graph.producer or activation(graph.nodes[graph.producer[t]]) not in ACTIVATIONS:
            raise BadRange("no fused activation: there is nothing before it", where=graph.key(t), expected=", ".join(ACTIVATIONS))


def activation(node: Node) -> str:
    return str(node.real_options.get("fused_activation_function", "NONE"))


def separated(model: Model, tensors: Sequence[int]) -> tuple[Model, dict[int, int]]:
    """(the model with these tensors' activations as ops of their own, tensor -> the new tensor with its values before that)."""
    graph = model.graph
    new = {t: len(graph.tensors) + k for k, t in enumerate(tensors)}
    added = tuple(
        graph.tensors[t].but(index=i, name=f"{graph.tensors[t].name}:before", qparams=None, type="float32") for t, i in new.items()
    )
    nodes = tuple(n.but(index=k) for k, n in enumerate(_nodes(graph, new)))
    return model.but(graphs=(graph.but(tensors=graph.tensors + added, nodes=nodes), *model.graphs[1:])), new


def _nodes(graph: Graph, new: dict[int, int]) -> Iterator[Node]:
    for node in graph.nodes:
        t = node.outputs[0] if node.outputs else -1
        if t not in new:
            yield node
            continue
        bare = node.options.but(fused_activation_function="NONE")
        yield node.but(options=bare, outputs=(new[t], *node.outputs[1:]), inferred_activation=None)
        yield Node(0, activation(node), (new[t],), (t,), Options())
