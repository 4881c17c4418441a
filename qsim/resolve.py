"""New ranges of a quantized graph -> legal scales, its weights being what they are: limits are met by the smallest widening.

Where a limit asks for another scale of a tensor that keeps its parameters, the ranges that led there are given up instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .graph import Graph, Node, QParams, Tensor
from .limits import OUTPUT, Need, Operands, needs
from .relayout import Relayout, is_activation, record
from .scheme import SMALLEST_SCALE, affine
from .solve import ROUNDS
from .types import code_range
from .weights import ACCUMULATOR_LIMIT, round_up

WIDE_LIMIT = 2.0**46  # of a 64-bit accumulator: its rescaling shifts in 64 bits


class Move(NamedTuple):
    """One widened range: position of the group, scale before and after, the node whose limit asked (-1: the floor), and the limit."""

    group: int
    before: float
    after: float
    node: int
    reason: str


class Resolved(NamedTuple):
    """parameters: position of a group -> its new ones, in the type of its first tensor. given_up: groups whose new range is not used,
    with the reason. unmet: (node, limit) that only choose another kernel."""

    parameters: Mapping[int, QParams]
    moves: Sequence[Move]
    given_up: Mapping[int, str]
    unmet: Sequence[tuple[int, str]]


@dataclass(frozen=True, eq=False)
class Product:
    """An op that sums products with constant weights. x: index of its input. scales: of the weights, float32 (1,) or (C,).

    total: per channel the sum of |weight code - zero point|. bias: real, float64 (C,), None where absent; bias_at: its position;
    steps: its largest |code| per channel in the file. limit: of an accumulator.
    """

    x: int
    scales: np.ndarray
    total: np.ndarray
    bias: np.ndarray | None
    bias_at: int
    steps: np.ndarray
    limit: float


def resolve(graph: Graph, plan: Relayout, ranges: Mapping[int, tuple[float, float]]) -> Resolved:
    """Scales and zero points for the groups in `ranges` (position -> real range with 0 inside)."""
    wanted, given_up = dict(ranges), dict[int, str]()
    products = {n.index: found for n in graph.nodes if (found := product_of(graph, n)) is not None}
    while True:
        state = _State(graph, plan, wanted, products)
        refused = state.settle()
        if refused is None:
            kind = {g: graph.tensors[plan.groups[g][0]].type for g in wanted}
            parameters = {g: _qparams(state.scale[g], state.zero[g], kind[g]) for g in wanted}
            return Resolved(parameters, state.moves(), given_up, list(state.unmet))
        groups, reason = refused
        given_up.update(dict.fromkeys(groups, reason))
        wanted = {g: r for g, r in wanted.items() if g not in groups}


class _State:
    """Scales of the groups that change, while limits widen them."""

    def __init__(self, graph: Graph, plan: Relayout, wanted: Mapping[int, tuple[float, float]], products: Mapping[int, Product]):
        self.graph, self.plan, self.products = graph, plan, products
        self.scale, self.zero = dict[int, float](), dict[int, int]()
        self.found: list[Move] = []
        self.unmet: dict[tuple[int, str], None] = {}
        for g, (low, high) in wanted.items():
            self._put(g, low, high)

    def _put(self, g: int, low: float, high: float) -> None:
        kind = self.graph.tensors[self.plan.groups[g][0]].type
        scale, zero = affine(low, high, kind, symmetric=kind == "int16")
        self.scale[g], self.zero[g] = float(scale), zero
        codes = code_range(kind)
        plain = max(-low, high) / codes[1] if kind == "int16" else (high - low) / (codes[1] - codes[0])
        if plain < SMALLEST_SCALE:
            self.found.append(Move(g, plain, float(scale), -1, "narrower than the smallest scale, 2^-23"))

    def settle(self) -> tuple[list[int], str] | None:
        """Widen until every limit is met; None then, else (groups that must not change, the limit)."""
        for _ in range(ROUNDS):
            changed = False
            self.unmet.clear()
            for node in self.graph.nodes:
                for need, owner, groups in list(self._needs(node)):
                    if owner in self.scale and (need.must or groups.count(owner) == 1):
                        changed |= self._widen(owner, need, node)
                    elif need.must:
                        return sorted(set(groups) & self.scale.keys()), f"op {node.index} {node.op}: {need.reason}"
                    else:
                        self.unmet[node.index, need.reason] = None
            if not changed:
                return None
        last = self.found[-1]
        return [last.group], f"no legal scale: {last.reason}"

    def _widen(self, g: int, need: Need, node: Node) -> bool:
        after = float(round_up(np.asarray(need.scale)))
        if after <= self.scale[g]:
            return False
        self.found.append(Move(g, self.scale[g], after, node.index, need.reason))
        self.scale[g] = after
        return True

    def _needs(self, node: Node) -> Iterator[tuple[Need, int | None, list[int]]]:
        """(need, owner of its operand, groups of all operands) of an op that changed parameters touch."""
        op = record(node)
        if op is None:
            return
        at = {p: node.inputs[p] for p in op.rule.data_inputs(node)} | ({OUTPUT: node.outputs[0]} if node.outputs else {})
        owner = {p: self.plan.group_of.get(t, -1) for p, t in at.items()}
        if not any(g in self.scale for g in owner.values()) or any(self.graph.tensors[t].qparams is None for t in at.values()):
            return
        operands = self._operands(node, at, owner)
        groups = list(owner.values())
        for need in needs(node.op, operands):
            yield need, owner[need.operand], groups
        if node.index in self.products and owner[self._x(node)] in self.scale:
            yield from ((need, owner[self._x(node)], groups) for need in self._bias_needs(node, operands))

    def _x(self, node: Node) -> int:
        return record(node).rule.data_inputs(node)[0]  # type: ignore[union-attr]

    def _operands(self, node: Node, at: Mapping[int, int], owner: Mapping[int, int]) -> Operands:
        scale = {p: self.scale.get(owner[p], _scale(self.graph, t)) for p, t in at.items()}
        constants = frozenset(p for p, t in at.items() if self.graph.tensors[t].data is not None)
        found = self.products.get(node.index)
        if found is None:
            return Operands(scale, node.real_options, constants=constants)
        x = self._x(node)
        step = scale[x] * found.scales.astype(np.float64)
        worst = float((step * self._reach(found) * found.total + np.abs(found.bias if found.bias is not None else 0.0)).max(initial=0.0))
        return Operands({0: scale[x], **scale}, node.real_options, float(found.scales.max(initial=0.0)), worst, constants)

    def _reach(self, found: Product) -> int:
        """The largest |code - zero point| of a product's input."""
        g, q = self.plan.group_of.get(found.x, -1), self.graph.tensors[found.x].qparams
        assert q is not None
        zero, (low, high) = int(np.ravel(q.zero_point)[0]), (q.low, q.high)
        if g in self.zero:
            zero, (low, high) = self.zero[g], code_range(self.graph.tensors[self.plan.groups[g][0]].type)
        return max(high - zero, zero - low)

    def _bias_needs(self, node: Node, operands: Operands) -> Iterator[Need]:
        """Bias and sum of products within the accumulator; a channel that is above the limit in the file stays where it is."""
        found = self.products[node.index]
        if found.bias is None:
            return
        room = np.maximum(found.limit - self._reach(found) * found.total, found.steps)
        with np.errstate(divide="ignore", invalid="ignore"):
            least = np.where(found.bias == 0, 0.0, np.abs(found.bias) / (found.scales.astype(np.float64) * room))
        worst = float(least.max(initial=0.0)) * (1 + 2.0**-20)  # scales are rounded to float32
        if worst > operands.scale[0]:
            yield Need(self._x(node), worst, "bias and sum of products must fit the accumulator")

    def moves(self) -> list[Move]:
        """One line per group and limit: the first scale before, the last after."""
        merged: dict[tuple, Move] = {}
        for m in self.found:
            key = (m.group, m.node, m.reason)
            merged[key] = m if key not in merged else m._replace(after=m.after)
        return list(merged.values())


def product_of(graph: Graph, node: Node) -> Product | None:
    """What the scales of a sum of products depend on; None for other ops, and where weights are computed or the input has no codes."""
    op = record(node)
    if op is None or op.rule.weights is None or op.rule.weights >= len(node.inputs):
        return None
    x, w = (graph.tensors[node.inputs[p]] for p in (op.rule.data_inputs(node)[0], op.rule.weights))
    if not is_activation(x) or w.data is None or w.qparams is None or op.rule.weight_axis is None:
        return None
    zeros = np.zeros_like(np.ravel(w.qparams.scale), np.int64) + np.ravel(w.qparams.zero_point)
    rows = np.moveaxis(w.data.astype(np.int64), op.rule.weight_axis, 0).reshape(w.shape[op.rule.weight_axis], -1)
    total = np.abs(rows - zeros.reshape(-1, 1)).sum(1).astype(np.float64)
    at = -1 if op.rule.bias is None or op.rule.bias >= len(node.inputs) else op.rule.bias
    b = graph.tensors[node.inputs[at]] if at >= 0 and node.inputs[at] >= 0 else None
    limit = WIDE_LIMIT if b is not None and b.type == "int64" else ACCUMULATOR_LIMIT
    real, steps = _bias(b, x.qparams, w.qparams)  # type: ignore[arg-type]
    return Product(x.index, np.ravel(w.qparams.scale).astype(np.float32), total, real, at, steps, limit)


def _bias(b: Tensor | None, x: QParams, weights: QParams) -> tuple[np.ndarray | None, np.ndarray]:
    """(real values float64, |codes|) of a constant bias; a scale that the file leaves out is that of the products."""
    if b is None or b.data is None or b.type == "float32":
        return None, np.zeros(1)
    codes = np.ravel(b.data).astype(np.float64)
    scale = np.ravel(b.qparams.scale) if b.qparams is not None else np.ravel(x.scale) * np.ravel(weights.scale)
    return codes * scale.astype(np.float64), np.abs(codes)


def _scale(graph: Graph, t: int) -> float:
    q: QParams = graph.tensors[t].qparams  # type: ignore[assignment]
    return float(np.ravel(q.scale)[0])


def _qparams(scale: float, zero: int, type_name: str) -> QParams:
    return QParams(np.asarray([scale], np.float32), np.asarray([zero], np.int64), *code_range(type_name))
