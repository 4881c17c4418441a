"""A linear op and a pointwise op by one constant a channel, as numbers: what the folds of the one into the other share.

Products are formed in float64 and rounded once. Where they leave the normal range of float32 there is no fold, so what is left of the
difference is rounding.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..graph import Graph, Node
from .change import real
from .constant import Stock

LINEAR = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV")
POINTWISE = ("MUL", "ADD", "SUB", "DIV")
HALF_STEP = 2.0**-24  # of a float32, relative
LARGEST = 2.0**100  # of a product: sums of many times it are still numbers
UNFIT = "the products do not fit float32"


class Pointwise(NamedTuple):
    """y = multiplier x + offset: float64, one value or one a channel."""

    multiplier: np.ndarray
    offset: np.ndarray


class Sums(NamedTuple):
    """A linear op and its constants in float64. channels: axis of the outputs in w. data, weights, bias: positions of its inputs."""

    node: Node
    w: np.ndarray
    b: np.ndarray
    channels: int
    data: int
    weights: int
    bias: int

    @property
    def others(self) -> tuple[int, ...]:
        """The axes of w that one output sums over."""
        return tuple(i for i in range(self.w.ndim) if i != self.channels)

    @property
    def has_bias(self) -> bool:
        return self.bias < len(self.node.inputs) and self.node.inputs[self.bias] >= 0

    def by_output(self, values: np.ndarray) -> np.ndarray:
        """One value an output channel, shaped to multiply w."""
        return values.reshape([-1 if i == self.channels else 1 for i in range(self.w.ndim)])

    @property
    def version(self) -> int:
        """The op version from which it takes a bias and an activation."""
        return max(self.node.version, 4) if self.node.op == "TRANSPOSE_CONV" else self.node.version


def varying(graph: Graph, node: Node) -> int | None:
    """The tensor that a pointwise float op combines with a constant; None for every other node."""
    if node.op not in POINTWISE or len(node.inputs) != 2 or not real(graph, *node.inputs, *node.outputs):
        return None
    computed = [t for t in node.inputs if not graph.tensors[t].is_constant]
    return computed[0] if len(computed) == 1 else None


def pointwise(graph: Graph, node: Node, x: int) -> Pointwise | str:
    """The node as m x + a, or why it is not that by channels."""
    position = 1 - node.inputs.index(x)
    c = np.asarray(graph.tensors[node.inputs[position]].data, np.float64)
    if graph.tensors[node.outputs[0]].shape != graph.tensors[x].shape:
        return "it changes the shape"
    if c.size != (c.shape[-1] if c.ndim else 1):
        return "its constant differs along other axes than the channels"
    if not np.isfinite(c).all():
        return "its constant is NaN or infinite"
    c, one, nothing = c.reshape(-1), np.ones(1), np.zeros(1)
    if node.op == "DIV":
        if position == 0 or not c.all():
            return "its constant is divided by what varies" if position == 0 else "it divides by zero"
        return Pointwise(1 / c, nothing)
    if node.op == "SUB":
        return Pointwise(one, -c) if position == 1 else Pointwise(-one, c)
    return Pointwise(c, nothing) if node.op == "MUL" else Pointwise(one, c)


def data_position(node: Node) -> int:
    from ..ops import REGISTRY

    return REGISTRY[node.op].rule.data_inputs(node)[0]


def sums(graph: Graph, node: Node) -> Sums | str:
    """A linear op with constant float weights, or what it is instead."""
    from ..ops import REGISTRY

    rule = REGISTRY[node.op].rule
    wp, bp, axis = rule.weights or 0, rule.bias or 0, rule.weight_axis or 0
    used = [graph.tensors[t] for p in (wp, bp) for t in node.inputs[p : p + 1] if t >= 0]
    if not real(graph, node.inputs[data_position(node)], *node.outputs):
        return f"{node.op} does not work on float32"
    if any(t.type != "float32" or t.data is None for t in used):
        return f"weights or bias of {node.op} are not float32 constants"
    if node.options.get("weights_format", "DEFAULT") != "DEFAULT":
        return "its weights are shuffled"
    w, *rest = (np.asarray(t.data, np.float64) for t in used)
    b = rest[0].reshape(-1) if rest else np.zeros(w.shape[axis])
    if b.size != w.shape[axis] or not (np.isfinite(w).all() and np.isfinite(b).all()):
        return f"weights or bias of {node.op} are not finite, or not one bias a channel"
    return Sums(node, w, b, axis, data_position(node), wp, bp)


def single(exact: np.ndarray, peak: np.ndarray) -> np.ndarray | None:
    """float64 as float32; None where that moves a value by more than half a step of its `peak` (overflow, underflow)."""
    with np.errstate(over="ignore", invalid="ignore"):
        rounded = exact.astype(np.float32)
        fits = (np.abs(rounded) < LARGEST).all() and (np.abs(rounded - exact) <= HALF_STEP * peak).all()
    return rounded if fits else None


def with_constants(stock: Stock, s: Sums, w: np.ndarray, b: np.ndarray | None) -> tuple[int, ...]:
    """The inputs of the linear op with new weights, and a new bias where there is one."""
    inputs = list(s.node.inputs)
    inputs[s.weights] = stock.put(inputs[s.weights], w)
    if b is None:
        return tuple(inputs)
    name = f"{stock.graph.tensors[s.node.outputs[0]].name}_bias"
    inputs += [-1] * (s.bias + 1 - len(inputs))
    inputs[s.bias] = stock.put(inputs[s.bias], b) if s.has_bias else stock.add(name, b)
    return tuple(inputs)
