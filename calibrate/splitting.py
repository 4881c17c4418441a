"""Where sharing one (scale, zero point) costs a tensor's readers much: ties of the layout worth cutting, from statistics alone.

The unit of cost is what an op reads. An op that only moves values (CONCATENATION, PAD, MAX_POOL_2D, ...) gives its readers what it
read, so a cut in front of it helps nobody behind it: there the values are rounded to the shared grid all the same, once more. A cut
helps the other readers of the tensor, those of the tensors upstream that were tied through it, and those of the rest of the group.

Expected noise of a value of tensor t, mean square in real units:
    N(t) = R(t) + C(t)
    R(t) = mean |x - real(code(x))|^2 over the sketch of t, with the (scale, zero point) of t's group (`rounding.losses`)
    C(t) = sum_p n_p (C(x_p), or N(x_p) where the tie at p is cut) / sum_p n_p  for an op that moves inputs x_p of n_p elements; else 0
Readers see N(t) / P(t), P(t) the mean square of t's values; in dB, -10 log10 of it. Errors of several roundings count as independent:
between nearly equal grids that overstates what a cut costs.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import log10
from typing import Any, NamedTuple

import numpy as np

from qsim.graph import Graph, Model, Node
from qsim.inference import sized
from qsim.layout import Edge, Layout, Use, layout, record, tied, tied_edges, with_cuts
from qsim.ranges import hull
from qsim.recipe import Schemes
from qsim.scheme import INT8, affine

from .distribution import Distribution, distribution
from .feeding import declared
from .ranging import answered, problem_of, require_observed
from .rounding import losses, mesh
from .statistics import Statistics
from .strategies import Strategy, parse

MARGIN = 6.0  # dB: one bit; a cut that gives no reader so much is not proposed
ENOUGH = 40.0  # dB: readers that have as much already ask for no cut; 8-bit weights alone add noise of that size


class Split(NamedTuple):
    """A tie, and what cutting it does to the readers that gain most.

    node, position: the tie, as `quantize(split=...)` takes it. tensor: what gets the QUANTIZE. op: in front of which. readers_of: the
    tensor whose readers gain most. shared_db, split_db: signal to noise of what they read, without and with the QUANTIZE. elements:
    codes that the QUANTIZE converts.
    """

    node: int
    position: int
    tensor: str
    op: str
    readers_of: str
    shared_db: float
    split_db: float
    elements: int


def tie_costs(
    model: Model, stats: Statistics, strategy: str | Strategy = "minmax", scheme: Schemes = INT8, input_range: Any = None
) -> tuple[Split, ...]:
    """Both costs of every tie that a single cut undoes, in the graph's order; see the module for the formula.

    Left out are ties of tensors that only repeat each other's values (RESHAPE, TRANSPOSE): they cost nothing.

    *Domain*: schemes with integer activations; others have no ties. *Raises*: as `calibrate.ranges`.
    """
    costs = _Costs(model, stats, strategy, scheme, input_range)
    shared = costs.noise(frozenset())
    return tuple(
        costs.row(edge, shared, costs.noise(frozenset([edge]))) for edge in costs.edges if with_cuts(model.graph, costs.plan, [edge]).cuts
    )


def propose_splits(
    model: Model, stats: Statistics, strategy: str | Strategy = "minmax", scheme: Schemes = INT8, input_range: Any = None
) -> tuple[Split, ...]:
    """The cuts that help, best first: what `ranges(split=...)` and `quantize(split=...)` take.

    One after the other, each in addition to those before it, the cut that lowers the relative noise most, summed over all tensors that
    ops read. It must lower that sum, and give some readers below 40 dB at least 6 dB (one bit). A tie is cut alone; where no such cut
    helps, all ties of one tensor together. Cuts that help nobody are not tried again. *Raises*: as `calibrate.ranges`.
    """
    costs = _Costs(model, stats, strategy, scheme, input_range)
    found: list[Split] = []
    cuts, before = frozenset[Edge](), costs.noise(frozenset())
    for moves in (costs.single(), costs.joint()):
        while moves:
            tried = {m: costs.noise(cuts | m) for m in moves - {cuts}}
            moves = {m for m, after in tried.items() if _helps(before, after)}
            if moves:
                best = min(sorted(moves, key=sorted), key=lambda m: sum(tried[m].values()))
                found += [costs.row(edge, before, tried[best]) for edge in sorted(best - cuts)]
                cuts, before, moves = cuts | best, tried[best], moves - {best}
    return tuple(found)


def splits_named(model: Model, scheme: Schemes, names: Iterable[str]) -> tuple[Edge, ...]:
    """Every tie of the named tensors with an op that moves their values. *Raises*: BadRecipe for a tensor without one."""
    from qsim.errors import BadRecipe

    graph, plan = model.graph, layout(model, scheme)
    edges, found = tied_edges(graph, plan), list[Edge]()
    for name in names:
        mine = [e for e in edges if graph.nodes[e[0]].inputs[e[1]] == graph.find(name)]
        if not mine:
            known = ", ".join(dict.fromkeys(graph.key(graph.nodes[i].inputs[p]) for i, p in edges))
            raise BadRecipe("no op ties this tensor to its output's scale", where=name, expected=known or "none is tied in this model")
        found += mine
    return tuple(dict.fromkeys(found))


def _helps(before: dict[Use, float], after: dict[Use, float]) -> bool:
    gains = (_db(after[u]) - _db(before[u]) for u in before if _db(before[u]) < ENOUGH)
    return sum(after.values()) < sum(before.values()) and max(gains, default=0.0) >= MARGIN


def _db(noise: float) -> float:
    return -10 * log10(max(noise, 1e-30))


class _Costs:
    """Expected noise under any cuts. What was worked out for a group, or for a tensor on a grid, is kept."""

    def __init__(self, model: Model, stats: Statistics, strategy: str | Strategy, scheme: Schemes, input_range: Any):
        self.model, self.graph, self.stats, self.strategy = model, sized(model.graph), stats, strategy
        self.plan = layout(model, scheme)
        require_observed(model, stats, self.plan)
        self.given = declared(model, input_range)
        self.edges = [e for e in tied_edges(self.graph, self.plan) if self._mixed(e)]
        self.read = self._read()
        self.ranges: dict[tuple, tuple[float, float]] = {}
        self.grids: dict[tuple, tuple[float, int]] = {}
        self.errors: dict[tuple, float] = {}
        self.values: dict[int, Distribution] = {}

    def single(self) -> set[frozenset[Edge]]:
        return {frozenset([e]) for e in self.edges}

    def joint(self) -> set[frozenset[Edge]]:
        """All ties of one tensor, where there are several."""
        found: dict[int, set[Edge]] = {}
        for i, p in self.edges:
            found.setdefault(self.graph.nodes[i].inputs[p], set()).add((i, p))
        return {frozenset(edges) for edges in found.values() if len(edges) > 1}

    def noise(self, cuts: frozenset[Edge]) -> dict[Use, float]:
        """(tensor, type), as ops that do not just move it read it -> N / P."""
        plan, carried = with_cuts(self.graph, self.plan, cuts), dict[Use, float]()
        for i in sorted(i for i in plan.quantized if tied(self.graph.nodes[i])):
            node, kind = self.graph.nodes[i], plan.quantized[i].activation
            carried.update(dict.fromkeys(((t, kind) for t in node.outputs), self._moved(plan, node, carried)))
        return {u: self._total(plan, u, carried) / self._power(u[0]) for u in self.read if self._power(u[0]) > 0}

    def row(self, edge: Edge, before: dict[Use, float], after: dict[Use, float]) -> Split:
        (i, p), graph = edge, self.graph
        t = graph.nodes[i].inputs[p]
        changed = [u for u in before if after[u] != before[u]] or list(before)
        most = max(changed, key=lambda u: (_db(after[u]) - _db(before[u]), u[0] == t))
        op = f"op {i} {graph.nodes[i].op}"
        return Split(i, p, graph.key(t), op, graph.key(most[0]), _db(before[most]), _db(after[most]), _size(self.graph, t))

    def _read(self) -> list[Use]:
        """Members of groups, in the types in which something other than a tied op reads them."""
        plan = self.plan
        seen = [(t, plan.native.get(t, "")) for t in self.graph.outputs]
        for node in self.graph.nodes:
            if node.index not in plan.quantized:
                seen += [(t, plan.native.get(t, "")) for t in node.inputs]
            elif not tied(node):
                kind = plan.quantized[node.index].activation
                seen += [(node.inputs[p], kind) for p in record(node).rule.data_inputs(node)]
        return sorted({use for use in seen if use in plan.group_of})

    def _mixed(self, edge: Edge) -> bool:
        """Whether the group at a tie holds more than one tensor's values, which RESHAPE and the like only repeat."""
        node, kind = self.graph.nodes[edge[0]], self.plan.quantized[edge[0]].activation
        return len(self._roots(self.plan.groups[self.plan.group_of[node.inputs[edge[1]], kind]])) > 1

    def _roots(self, group: tuple[int, ...]) -> frozenset[int]:
        return frozenset(self.stats.copies.get(t, t) for t in group)

    def _moved(self, plan: Layout, node: Node, carried: dict[Use, float]) -> float:
        """C of what a tied op gives."""
        kind, sizes, total = plan.quantized[node.index].activation, 0, 0.0
        for p in record(node).rule.data_inputs(node):
            t = node.inputs[p]
            size, noise = _size(self.graph, t), 0.0
            if (node.index, p) in plan.requantized:
                noise = self._total(plan, (t, plan.native.get(t, kind)), carried)
            elif t not in plan.values:
                noise = self._entering(plan, (t, kind), carried)
            sizes, total = sizes + size, total + size * noise
        return total / max(sizes, 1)

    def _entering(self, plan: Layout, use: Use, carried: dict[Use, float]) -> float:
        """Noise that values have before they are rounded in a type: that of earlier grids, or of the type in which they come into being."""
        native = plan.native.get(use[0], use[1])
        return carried.get(use, 0.0) if native == use[1] else self._total(plan, (use[0], native), carried)

    def _total(self, plan: Layout, use: Use, carried: dict[Use, float]) -> float:
        return self._error(use, self._grid(plan, use)) + self._entering(plan, use, carried)

    def _grid(self, plan: Layout, use: Use) -> tuple[float, int]:
        owner = plan.owner_of(*use)
        if owner[0] == "fixed":
            return plan.fixed[use[0]]
        group, kind = plan.groups[owner[1]], plan.types[owner[1]]
        if (group, kind) not in self.grids:
            held = hull(self.graph, plan, owner[1], dict.fromkeys(group, self._ends(group, kind)))
            scale, zero = affine(held.low, held.high, kind, symmetric=kind == "int16")
            self.grids[group, kind] = float(scale), zero
        return self.grids[group, kind]

    def _ends(self, group: tuple[int, ...], kind: str) -> tuple[float, float]:
        """The strategy's range of a group."""
        key = self._roots(group), kind
        if key not in self.ranges:
            problem = problem_of(self.model, self.stats, group, kind, self.given, [])
            (self.ranges[key],) = answered(self.model, problem, [parse(self.strategy, kind)], [str(self.strategy)])
        return self.ranges[key]

    def _error(self, use: Use, grid: tuple[float, int]) -> float:
        """R: mean squared error of a tensor's values on a grid; 0 where nothing was seen of it."""
        root, sketch = self.stats.copies.get(use[0], use[0]), self.stats.find(use[0])
        if sketch is None or sketch.empty:
            return 0.0
        key = (root, use[1], grid)
        if key not in self.errors:
            d = self._values(root)
            self.errors[key] = float(losses(mesh(d), [grid], use[1], (2.0,))[0, 0]) / d.total
        return self.errors[key]

    def _power(self, t: int) -> float:
        """P: mean square of a tensor's values, over intervals as if evenly filled."""
        d = self._values(self.stats.copies.get(t, t))
        squares = (d.lower**2 + d.lower * d.upper + d.upper**2) / 3
        return float(squares @ d.weight) / d.total

    def _values(self, root: int) -> Distribution:
        if root not in self.values:
            self.values[root] = distribution([self.stats.tensors[root]])
        return self.values[root]


def _size(graph: Graph, t: int) -> int:
    return int(np.prod(graph.tensors[t].shape, dtype=np.int64))
