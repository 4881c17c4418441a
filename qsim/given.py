"""Ranges that a float model brings along: those of its FAKE_QUANT ops (quantization-aware training) and of min/max fields in the file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from .assembly import compact, moved_signatures
from .errors import BadRange
from .graph import Graph, Model, Node, Tensor
from .layout import known_values
from .minmax import Range, stored_range

UNKNOWN_INPUT = (0.0, 255.0)  # what old converters wrote for a float input of which they were told nothing (mean 0, std 1)


class Taken(NamedTuple):
    """A model without FAKE_QUANT ops. ranges: {tensor key: (low, high)} in it, real units. kept: node indexes that could not go."""

    model: Model
    ranges: dict[str, Range]
    kept: tuple[int, ...] = ()


def given_ranges(model: Model, *, trusted: bool = False) -> dict[str, Range]:
    """{tensor key: (low, high)}, real units, of the float tensors whose range the model brings along.

    Of a FAKE_QUANT: its input and output get (min, max), nudged so that 0.0 is on the grid of its bits. Of a QUANTIZE with DEQUANTIZE ops
    behind it, as newer converters write FAKE_QUANT in a float file: the same, by what the codes cover. Of a computed float tensor
    with one min and one max in its quantization record: those, unless a FAKE_QUANT says otherwise. A model input's [0, 255] is left out,
    since old converters wrote it where nothing was known, unless the file is `trusted`. Several ranges of one tensor give their hull.
    *Raises*: BadRange for a FAKE_QUANT whose min and max are no range.
    """
    graph = model.graph
    return {graph.key(t): ends for t, ends in _given(graph, trusted).items()}


def _given(graph: Graph, trusted: bool = False) -> dict[int, Range]:
    found: dict[int, Range] = {}
    for node in graph.nodes:
        if node.op == "FAKE_QUANT":
            told = {t: nudged(node) for t in (node.inputs[0], node.outputs[0])}
        else:
            told = _of_codes(graph, node)
        found |= {t: _union(found.get(t), ends) for t, ends in told.items()}
    stored = {t.index: ends for t in graph.tensors if (ends := stored_range(t)) is not None}
    doubtful = set() if trusted else {t for t in graph.inputs if stored.get(t) == UNKNOWN_INPUT}
    return {t: ends for t, ends in stored.items() if t not in doubtful} | found


def _of_codes(graph: Graph, node: Node) -> dict[int, Range]:
    """What a QUANTIZE that only DEQUANTIZE ops read says of its input and of their outputs."""
    readers = [graph.nodes[n] for n, _ in graph.consumers.get(node.outputs[0], ())] if node.op == "QUANTIZE" else []
    q = graph.tensors[node.outputs[0]].qparams if readers and all(n.op == "DEQUANTIZE" for n in readers) else None
    if q is None or q.per_channel or graph.tensors[node.inputs[0]].type != "float32":
        return {}
    low, high = (float(end[0]) for end in q.real_range())
    return dict.fromkeys((node.inputs[0], *(n.outputs[0] for n in readers)), (low, high))


def nudged(node: Node) -> Range:
    """(lowest, highest) value that a FAKE_QUANT lets through, real units. *Raises*: BadRange where its min is not below its max."""
    from .ops.neighbours import fake_grid

    low, high, bits = (node.options.get(name, default) for name, default in (("min", 0.0), ("max", 0.0), ("num_bits", 8)))
    if not (np.isfinite(low) and np.isfinite(high) and low < high and 2 <= bits <= 16):
        found, wanted = (low, high, bits), "min below max, and 2 to 16 bits"
        raise BadRange("its range is none", where=f"op {node.index} FAKE_QUANT", found=found, expected=wanted)
    return float(fake_grid(node.options)[1]), float(fake_grid(node.options)[2])


def _union(a: Range | None, b: Range) -> Range:
    return b if a is None else (min(a[0], b[0]), max(a[1], b[1]))


def without_fake_quant(model: Model) -> Taken:
    """The model with each FAKE_QUANT of its primary graph taken out, and the ranges it brings along, as keys of the new model.

    What read a FAKE_QUANT's output reads its input, which carries the range. A constant's FAKE_QUANT becomes the constant with the
    values it computes, so that weights stay clipped as they were trained. A model output keeps its name: its producer writes it
    directly. A FAKE_QUANT between a model input and a model output, or between two model outputs, stays.
    The float function changes by the rounding alone. *Raises*: BadRange as `given_ranges`.
    """
    graph = model.graph
    if not any(n.op == "FAKE_QUANT" for n in graph.nodes):
        return Taken(model, given_ranges(model))
    ranges, joined, values = _given(graph), _Joined(graph), known_values(graph)
    constants = {n.outputs[0]: _snapped(n, values) for n in graph.nodes if n.op == "FAKE_QUANT" and n.inputs[0] in values}
    kept = [n for n in graph.nodes if n.op != "FAKE_QUANT" or not (n.outputs[0] in constants or joined.join(n))]
    nodes = tuple(joined.renamed(n).but(index=i) for i, n in enumerate(kept))
    tensors = tuple(_constant(t, constants[t.index]) if t.index in constants else t for t in graph.tensors)
    made, moved = compact(graph.but(nodes=nodes, tensors=tensors), graph)
    result = model.but(graphs=(made, *model.graphs[1:]), signatures=moved_signatures(model, moved))
    return Taken(result, _renamed(made, ranges, joined, moved), tuple(n.index for n in nodes if n.op == "FAKE_QUANT"))


class _Joined:
    """Which tensors became one: tensor index -> the index that stands for it."""

    def __init__(self, graph: Graph):
        self.graph = graph
        self.now: dict[int, int] = {}

    def root(self, t: int) -> int:
        while t in self.now:
            t = self.now[t]
        return t

    def join(self, node: Node) -> bool:
        """Make a FAKE_QUANT's output one tensor with its input; False where both are names that the model's users see."""
        x, y = self.root(node.inputs[0]), node.outputs[0]
        seen = {*self.graph.inputs, *self.graph.outputs}
        if y not in seen:
            self.now[y] = x
        elif x not in seen and x in self.graph.producer:
            self.now[x] = y
        else:
            return False
        return True

    def renamed(self, node: Node) -> Node:
        inputs = tuple(t if t < 0 else self.root(t) for t in node.inputs)
        return node.but(inputs=inputs, outputs=tuple(self.root(t) for t in node.outputs))


def _snapped(node: Node, values: Mapping[int, np.ndarray]) -> np.ndarray:
    """What a FAKE_QUANT makes of a constant, float32."""
    from .ops import REGISTRY

    nudged(node)
    made = np.array(REGISTRY["FAKE_QUANT"].real(node.options, values[node.inputs[0]]), np.float32)
    made.setflags(write=False)
    return made


def _constant(tensor: Tensor, values: np.ndarray) -> Tensor:
    return tensor.but(data=values, buffer=0)


def _renamed(made: Graph, ranges: Mapping[int, Range], joined: _Joined, moved: Mapping[int, int]) -> dict[str, Any]:
    """The ranges of computed tensors by their keys in the new graph; those of tensors that became one give their hull."""
    found: dict[str, Any] = {}
    for t, ends in ranges.items():
        at = moved.get(joined.root(t))
        if at is not None and not made.tensors[at].is_constant:
            key = made.key(at)
            found[key] = _union(found.get(key), ends)
    return found
