"""Ranges -> legal scales: every runtime limit that a scale breaks is repaired by the smallest widening, and listed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from . import lstm_quantizing
from .graph import Graph, Node, QParams
from .layout import Layout, Variable, record, tied
from .limits import OUTPUT, Need, Operands, needs
from .ranges import GroupRange
from .scheme import affine, smallest_scale
from .types import code_range
from .weights import Survey, round_up, survey, weight_scales

ROUNDS = 64  # widenings that still go on after so many passes over the graph chase each other


class Conflict(Exception):
    """A node that no widening makes legal: (node index, reason)."""


class Repair(NamedTuple):
    """One widened range: owner, scale before and after, the node whose limit asked for it (-1: the floor), and the limit."""

    variable: Variable
    before: float
    after: float
    node: int
    reason: str


class Solution(NamedTuple):
    """Parameters of every owner; repairs made; needs that nothing could meet but that only choose another kernel, as (node, text)."""

    parameters: Mapping[Variable, QParams]
    repairs: Sequence[Repair]
    unmet: Sequence[tuple[int, str]]
    surveys: Mapping[int, Survey]


def solve(graph: Graph, plan: Layout, ranges: Sequence[GroupRange]) -> Solution:
    """Scales and zero points of all groups and constants. Widening keeps the zero point: a range grows by one factor at both ends.

    *Raises*: Conflict naming a node that cannot be made legal.
    """
    found = _start(graph, plan, ranges)
    unmet: dict[tuple[int, str], None] = {}
    for _ in range(ROUNDS):
        if not any([_settle(found, site, unmet) for site in _sites(graph, plan)]):
            parameters = {v: _qparams(found.scale[v], found.zero[v], plan.kind(v)) for v in found.scale}
            _require_narrow(graph, plan, parameters)
            return Solution(parameters, _merged(found.repairs), list(unmet), found.surveys)
        unmet.clear()
    raise Conflict(found.repairs[-1].node, f"no legal scales: {found.repairs[-1].reason}")


def _require_narrow(graph: Graph, plan: Layout, parameters: Mapping[Variable, QParams]) -> None:
    """*Raises*: Conflict naming an LSTM whose sums would leave 32 bits."""
    for node in (graph.nodes[i] for i in plan.quantized if lstm_quantizing.parts(graph.nodes[i])):
        x, y = (parameters[owner(plan, node, p)] for p in (record(node).rule.data_inputs(node)[0], OUTPUT))
        why = lstm_quantizing.too_wide(node, plan.values, x, y)
        if why:
            raise Conflict(node.index, why)


class _Site(NamedTuple):
    """One op whose scales are bound: operand -> owner. `node` is the node itself, or the reader of a requantized tensor."""

    node: Node
    op: str
    owner: Mapping[int, Variable]


class _State(NamedTuple):
    scale: dict[Variable, float]
    zero: dict[Variable, int]
    repairs: list[Repair]
    surveys: Mapping[int, Survey]
    plan: Layout


def owner(plan: Layout, node: Node, position: int) -> Variable:
    """Who owns the parameters of a quantized node's data input, or of its outputs (OUTPUT)."""
    if position == OUTPUT:
        t = node.outputs[0]
    elif (node.index, position) in plan.requantized or (tied(node) and node.inputs[position] in plan.values):
        t = node.outputs[0]
    else:
        t = node.inputs[position]
        if t in plan.values:
            return "constant", node.index, position
    return plan.owner_of(t, plan.quantized[node.index].activation)


def _sites(graph: Graph, plan: Layout) -> Iterator[_Site]:
    for node in graph.nodes:
        if node.index not in plan.quantized:
            continue
        data = record(node).rule.data_inputs(node)
        yield _Site(node, node.op, {OUTPUT: owner(plan, node, OUTPUT), **{p: owner(plan, node, p) for p in data}})
        for p in data:
            if (node.index, p) in plan.requantized:
                own = plan.owner_of(node.inputs[p], plan.quantized[node.index].activation)
                yield _Site(node, "QUANTIZE", {0: own, OUTPUT: owner(plan, node, p)})


def _start(graph: Graph, plan: Layout, ranges: Sequence[GroupRange]) -> _State:
    state = _State({}, {}, [], _surveys(graph, plan), plan)
    for i, r in enumerate(ranges):
        _put(state, ("group", i), r.low, r.high)
        if r.exact is not None and not plan.is_cell(("group", i)) and code_range(plan.types[i]) == (int(r.exact.low), int(r.exact.high)):
            state.scale["group", i], state.zero["group", i] = float(r.exact.scale[0]), int(r.exact.zero_point[0])
    for t, (scale, zero) in plan.fixed.items():
        state.scale["fixed", t], state.zero["fixed", t] = scale, zero
    for site in _sites(graph, plan):
        for p, v in site.owner.items():
            if v[0] == "constant":
                values = plan.values[site.node.inputs[p]]
                _put(state, v, float(values.min(initial=0.0)), float(values.max(initial=0.0)))
    return state


def _put(state: _State, v: Variable, low: float, high: float) -> None:
    kind = state.plan.kind(v)
    if state.plan.is_cell(v):
        state.scale[v], state.zero[v] = lstm_quantizing.cell_scale(low, high), 0
        return
    scale, zero = affine(low, high, kind, symmetric=kind == "int16")
    state.scale[v], state.zero[v] = float(scale), zero
    qmin, qmax = code_range(kind)
    plain = max(high, -low) / qmax if kind == "int16" else (max(high, 0.0) - min(low, 0.0)) / (qmax - qmin)
    if plain < smallest_scale(kind):
        state.repairs.append(Repair(v, plain, float(scale), -1, f"narrower than the smallest scale, 2^{np.log2(smallest_scale(kind)):.0f}"))


def _surveys(graph: Graph, plan: Layout) -> dict[int, Survey]:
    found = {}
    for node in graph.nodes:
        rule = record(node).rule if node.index in plan.quantized else None
        if rule is not None and rule.weights is not None and rule.weight_axis is not None:
            b = node.inputs[rule.bias] if rule.bias is not None and rule.bias < len(node.inputs) else -1
            scheme, w = plan.quantized[node.index], plan.values[node.inputs[rule.weights]]
            found[node.index] = survey(w, plan.values.get(b), rule.weight_axis, scheme.clip, scheme.weight, scheme.per_channel)
    return found


def _settle(state: _State, site: _Site, unmet: dict[tuple[int, str], None]) -> bool:
    """Meet the needs of one op; True if a scale was widened."""
    changed = False
    for need in needs(site.op, _operands(state, site)):
        v = site.owner[need.operand]
        chased = not need.must and list(site.owner.values()).count(v) > 1
        if v[0] == "fixed" or chased or not np.isfinite(need.scale):
            _give_up(site, need, unmet)
            continue
        after = float(round_up(np.asarray(need.scale)))
        if not after < 2.0**100:
            raise Conflict(site.node.index, f"no legal scales: {need.reason}")
        state.repairs.append(Repair(v, state.scale[v], after, site.node.index, need.reason))
        state.scale[v] = after
        changed = True
    return changed


def _give_up(site: _Site, need: Need, unmet: dict[tuple[int, str], None]) -> None:
    """A need on parameters that an op dictates, or a mild one that widening its own other operand would renew."""
    if need.must:
        raise Conflict(site.node.index, f"no legal scales: {need.reason}")
    unmet[site.node.index, need.reason] = None


def _operands(state: _State, site: _Site) -> Operands:
    scale = {p: state.scale[v] for p, v in site.owner.items()}
    constants = frozenset(p for p, v in site.owner.items() if v[0] == "constant")
    found = state.surveys.get(site.node.index)
    if found is None or site.op == "QUANTIZE":
        return Operands(scale, site.node.options, constants=constants, type=state.plan.kind(site.owner[OUTPUT]))
    scheme, x = state.plan.quantized[site.node.index], data_position(site.node)
    reach = largest_input(scale[x], state.zero[site.owner[x]], scheme.activation)
    weights = weight_scales(found, scale[x], reach, scheme)
    worst = float((found.bias + reach * found.total).max(initial=0.0))
    if not np.isfinite(weights).all() or scale[x] * float(weights.max(initial=0.0)) > 2.0**100:
        raise Conflict(site.node.index, "no legal scales: the bias scale would leave float32")
    return Operands(scale, site.node.options, float(weights.max(initial=0.0)), worst, constants, scheme.activation, x)


def data_position(node: Node) -> int:
    """The position of the data that an op multiplies by its weights."""
    return record(node).rule.data_inputs(node)[0]


def largest_input(scale: float, zero: int, type_name: str) -> float:
    """The largest |real value| that a code stands for."""
    low, high = code_range(type_name)
    return scale * max(high - zero, zero - low)


def _qparams(scale: float, zero: int, type_name: str) -> QParams:
    return QParams(np.asarray([scale], np.float32), np.asarray([zero], np.int64), *code_range(type_name))


def _merged(repairs: Sequence[Repair]) -> list[Repair]:
    """One line per owner and limit: the first scale before, the last after."""
    found: dict[tuple, Repair] = {}
    for r in repairs:
        key = (r.variable, r.node, r.reason)
        found[key] = r if key not in found else r._replace(before=found[key].before)
    return list(found.values())
