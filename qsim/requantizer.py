"""A quantized model and new ranges -> the same model with other parameters, and everything that hangs on them repaired.

Weights keep their codes and scales. What changes with a range: the parameters of all tensors that share it, constants that share it, the
scale and the codes of every bias behind it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from .assembly import as_type
from .graph import Graph, Model, Node, QParams, Tensor
from .ranges import activation_ends
from .ranges import checked as checked_ranges
from .reader import inferred_activation
from .relayout import Relayout, relayout
from .report import RepairRow, printable, some
from .resolve import Move, Resolved, product_of, resolve
from .snap import dequantize
from .weights import quantize_bias, quantize_constant


@dataclass(frozen=True)
class RangeRow:
    """One new range, real units, of the tensors that share it. clipped: share of the observed values outside the old and the new
    range by more than half a step. gain_db: expected squared error of storing the observed values, old over new, dB. None where nothing
    was observed.
    """

    tensor: str
    type: str
    old: tuple[float, float]
    new: tuple[float, float]
    clipped_before: float | None = None
    clipped: float | None = None
    gain_db: float | None = None

    def __str__(self) -> str:
        ends = " -> ".join(f"{low:.5g} .. {high:.5g}" for low, high in (self.old, self.new))
        seen = "" if self.clipped is None else f"; clipped {self.clipped_before:.2%} -> {self.clipped:.2%}, gain {self.gain_db:.1f} dB"
        return f"{printable(self.tensor)} ({self.type}): {ends}{seen}"


@dataclass(frozen=True)
class Changes:
    """What `requantize` did: new ranges, tensors that keep theirs with the reason, ranges widened for a kernel's limits, notes."""

    ranges: tuple[RangeRow, ...]
    kept: tuple[tuple[str, str], ...] = ()
    repairs: tuple[RepairRow, ...] = ()
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        repairs = (f"widened: {printable(r.tensor)}: scale {r.before:.6g} -> {r.after:.6g}, {r.asked_by}: {r.reason}" for r in self.repairs)
        return "\n".join([*map(str, self.ranges), *repairs, *(f"note: {printable(n)}" for n in self.notes)])


def requantize(
    model: Model, ranges: Mapping[Any, Any], *, only: str | None = None, keep: str | None = None, keep_ends: bool = False
) -> Model:
    """The quantized model with new real ranges for some of its tensors; `.report` (`Changes`) says what that changed.

    ranges: {tensor key or index: (low, high)}, real units; of tensors that share parameters the hull counts, extended to hold 0, cut
    to what their ops' activations let through. Tensors without a range keep theirs. int8, uint8, int16 (symmetric) activations.
    only, keep: regular expressions searched in tensor keys: change these alone, leave those. keep_ends: integer inputs and outputs of
    the model stay (otherwise they may change, and the report says so). Bias: s_b = f32(s_x s_w), codes round(b / s_b) of the real
    bias. A scale that breaks a kernel's limit is widened least, or not changed at all; both are listed.

    *Raises*: BadRange naming every faulty range; otherwise as `relayout`.
    """
    graph = model.graph
    plan = relayout(graph, only=only, keep=keep, keep_ends=keep_ends)
    solved = resolve(graph, plan, group_ranges(graph, plan, ranges))
    made = _rewritten(graph, plan, solved.parameters)
    return model.but(graphs=(made, *model.graphs[1:]), report=_report(graph, made, plan, solved, ranges))


def group_ranges(graph: Graph, plan: Relayout, ranges: Mapping[Any, Any]) -> dict[int, tuple[float, float]]:
    """position of a group -> its new range: the hull of its members' given ranges and of the constants tied to it, with 0.

    A range that the file has already, within a thousandth of a step, is left out.
    *Raises*: BadRange naming all faults at once.
    """
    ends: dict[int, list[tuple[float, float]]] = {}
    for t, given in checked_ranges(graph, ranges).items():
        if t in plan.group_of:
            ends.setdefault(plan.group_of[t], []).append(_cut(graph, t, given))
    for g in ends:
        ends[g] += [_constant_ends(graph, use) for use in plan.tied_constants.get(g, ())]
    hulls = {g: (min(0.0, *(e[0] for e in found)), max(0.0, *(e[1] for e in found))) for g, found in sorted(ends.items())}
    return {g: hull for g, hull in hulls.items() if not _is_own(graph.tensors[plan.groups[g][0]], hull)}


def _is_own(t: Tensor, ends: tuple[float, float]) -> bool:
    slack = 1e-3 * float(np.ravel(t.qparams.scale)[0])  # type: ignore[union-attr]
    return all(abs(a - b) <= slack for a, b in zip(ends, ends_of(t), strict=True))


def _cut(graph: Graph, tensor: int, ends: tuple[float, float]) -> tuple[float, float]:
    producer = graph.producer.get(tensor)
    if producer is None:
        return ends
    node = graph.nodes[producer]
    low, high = activation_ends(node.but(options=node.real_options))
    return float(np.clip(ends[0], low, high)), float(np.clip(ends[1], low, high))


def _constant_ends(graph: Graph, use: tuple[int, int]) -> tuple[float, float]:
    t = graph.tensors[graph.nodes[use[0]].inputs[use[1]]]
    values = dequantize(t.data, t.qparams)  # type: ignore[arg-type]
    return float(values.min(initial=0.0)), float(values.max(initial=0.0))


# ---------------------------------------------------------------- the new graph


class _Use(NamedTuple):
    """A constant in one role, with the codes and parameters that it gets there."""

    node: int
    position: int
    codes: np.ndarray
    q: QParams


def _rewritten(graph: Graph, plan: Relayout, parameters: Mapping[int, QParams]) -> Graph:
    """The graph with the new parameters of the groups (by position) and of what hangs on them."""
    tensors, nodes = list(graph.tensors), list(graph.nodes)
    for g, q in parameters.items():
        for t in plan.groups[g]:
            tensors[t] = tensors[t].but(qparams=as_type(q, tensors[plan.groups[g][0]].type, tensors[t].type))
    for use in (*_recoded_constants(graph, plan, parameters), *_biases(graph, tensors)):
        nodes[use.node] = _with_constant(graph, tensors, nodes[use.node], use)
    made = graph.but(tensors=tuple(tensors))
    changed = {t for g in parameters for t in plan.groups[g]}
    return made.but(nodes=tuple(_with_activation(made, n, changed) for n in nodes))


def _recoded_constants(graph: Graph, plan: Relayout, parameters: Mapping[int, QParams]) -> Iterator[_Use]:
    for g, q in parameters.items():
        for n, p in plan.tied_constants.get(g, ()):
            t = graph.tensors[graph.nodes[n].inputs[p]]
            own = as_type(q, graph.tensors[plan.groups[g][0]].type, t.type)
            yield _Use(n, p, quantize_constant(dequantize(t.data, t.qparams), own, t.type), own)  # type: ignore[arg-type]


def _biases(graph: Graph, tensors: list[Tensor]) -> Iterator[_Use]:
    """The biases of ops whose input's scale is another one now."""
    for node in graph.nodes:
        found = product_of(graph, node)
        if found is None or found.bias is None or tensors[found.x].qparams == graph.tensors[found.x].qparams:
            continue
        t = graph.tensors[node.inputs[found.bias_at]]
        scale = np.float32(np.ravel(tensors[found.x].qparams.scale)[0])  # type: ignore[union-attr]
        codes, q = quantize_bias(found.bias, scale, np.ravel(found.scales).astype(np.float32), t.type)
        yield _Use(node.index, found.bias_at, codes, q)


def _with_constant(graph: Graph, tensors: list[Tensor], node: Node, use: _Use) -> Node:
    """The node with a constant's new codes: in place where nothing else reads that constant, else in a copy of it."""
    index = node.inputs[use.position]
    codes = np.ascontiguousarray(use.codes).reshape(graph.tensors[index].shape)
    codes.setflags(write=False)
    if len(graph.consumers[index]) == 1 and index not in graph.outputs:
        tensors[index] = tensors[index].but(qparams=use.q, data=codes)
        return node
    old, at = graph.tensors[index], len(tensors)
    tensors.append(Tensor(at, f"{old.name}_{node.index}", old.shape, old.type, use.q, codes, old.shape_signature))
    return node.but(inputs=(*node.inputs[: use.position], at, *node.inputs[use.position + 1 :]))


def _with_activation(graph: Graph, node: Node, changed: set[int]) -> Node:
    """An activation that only the old range carried goes into the options, unless the new range carries it too."""
    if node.inferred_activation is None or node.outputs[0] not in changed:
        return node
    if inferred_activation(graph, node) == node.inferred_activation:
        return node
    return node.but(options=node.real_options, inferred_activation=None)


# ---------------------------------------------------------------- the report


def _report(graph: Graph, made: Graph, plan: Relayout, solved: Resolved, ranges: Mapping[Any, Any]) -> Changes:
    rows = []
    for group in plan.groups:
        old, new = graph.tensors[group[0]], made.tensors[group[0]]
        if old.qparams != new.qparams:
            rows.append(RangeRow(group_name(graph, group), old.type, ends_of(old), ends_of(new)))
    kept = {**plan.kept, **{t: why for g, why in solved.given_up.items() for t in plan.groups[g]}}
    repairs = tuple(_repair(graph, plan, m) for m in solved.moves)
    reasons = tuple((graph.key(t), why) for t, why in sorted(kept.items()))
    return Changes(tuple(rows), reasons, repairs, tuple(_notes(graph, made, plan, solved, ranges)))


def ends_of(t: Tensor) -> tuple[float, float]:
    """(low, high) that a tensor's codes cover, real units."""
    low, high = t.qparams.real_range()  # type: ignore[union-attr]
    return float(low[0]), float(high[0])


def group_name(graph: Graph, group: tuple[int, ...]) -> str:
    return ", ".join(graph.key(t) for t in group)


def _repair(graph: Graph, plan: Relayout, move: Move) -> RepairRow:
    place = "" if move.node < 0 else f"op {move.node} {graph.nodes[move.node].op}"
    return RepairRow(group_name(graph, plan.groups[move.group]), move.before, move.after, place, move.reason)


def _notes(graph: Graph, made: Graph, plan: Relayout, solved: Resolved, ranges: Mapping[Any, Any]) -> Iterator[str]:
    for g, reason in solved.given_up.items():
        yield f"{group_name(graph, plan.groups[g])} keeps its range: {reason}"
    for node, reason in solved.unmet:
        yield f"op {node} {graph.nodes[node].op}: {reason}; not repaired, the builtin kernel runs"
    ends = [t for t in (*graph.inputs, *graph.outputs) if graph.tensors[t].qparams != made.tensors[t].qparams]
    if ends:
        yield f"the model's own inputs or outputs have other parameters now: {some([graph.key(t) for t in ends])}"
    unused = [graph.key(t) for k in ranges if (t := graph.find(k)) not in plan.group_of]
    if unused:
        yield f"ranges given but not used: {some(unused)}"
