"""What a fold answers: a rewrite of a graph as data, or why there is none; and what all folds ask of a graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from ..graph import Graph, Node, Tensor

CLAMPS = {"NONE": (-np.inf, np.inf), "RELU": (0.0, np.inf), "RELU6": (0.0, 6.0), "RELU_N1_TO_1": (-1.0, 1.0)}  # fused, over the reals


@dataclass(frozen=True, eq=False)
class Change:
    """nodes: those it is about, in their order; removed, changed: among them, by index. tensors: new values by index; indexes past
    the graph's are new tensors. gone: tensors that nothing computes any more. reason: why the function stays the same."""

    nodes: tuple[int, ...]
    removed: frozenset[int]
    gone: tuple[int, ...]
    reason: str
    changed: Mapping[int, Node] = field(default_factory=dict)
    tensors: Mapping[int, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Refusal:
    """What looked foldable and is not. nodes: those it is about, in their order. tensors: those between them."""

    nodes: tuple[int, ...]
    tensors: tuple[int, ...]
    reason: str


Attempt = Callable[[Graph, Node], "Change | Refusal | None"]


def shared(graph: Graph, t: int) -> str:
    """Why a computed tensor must stay; empty where one input of one op is all that reads it."""
    if t in graph.outputs:
        return f"{graph.key(t)} is an output of the model"
    readers = len(graph.consumers.get(t, ()))
    return "" if readers == 1 else f"{graph.key(t)} has {readers} readers"


def real(graph: Graph, *tensors: int) -> bool:
    """Whether the tensors hold float32 values and no state."""
    return all(t >= 0 and graph.tensors[t].type == "float32" and not graph.tensors[t].is_variable for t in tensors)


def activation(node: Node) -> str:
    return node.options.get("fused_activation_function", "NONE")


def after(first: str, second: str) -> str | None:
    """The clamp that is `first`, then `second`; None where no fused activation is."""
    low, high = np.clip(CLAMPS[first], *CLAMPS[second])
    return next((name for name, ends in CLAMPS.items() if ends == (low, high)), None)


def fixed_size(t: Tensor) -> bool:
    """Whether height and width of an image tensor (n, h, w, c) cannot change when a model is resized."""
    return len(t.shape) == 4 and -1 not in (t.shape_signature or ())[1:3]
