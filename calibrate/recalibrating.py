"""Ranges for the tensors of a quantized file from what was observed of its real function, and what they would gain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from qsim.graph import Graph, Model
from qsim.relayout import CONVERSIONS, Relayout, record
from qsim.requantizer import Changes, RangeRow, ends_of, group_name

from .distribution import Distribution, distribution
from .feeding import declared
from .folding import COPIES
from .ranging import Problem
from .rounding import losses, mesh
from .statistics import Statistics


def problems_of(model: Model, plan: Relayout, stats: Statistics, input_range: Any = None) -> tuple[list[Problem], tuple[str, ...]]:
    """One estimation problem for each group that may change, and notes.

    What holds the model's input covers its domain, not what was seen of it: that given, that which integer data declare, else the range
    of the file, widened where the data leave it.
    """
    given, notes, problems = declared(model, input_range), list[str](), list[Problem]()
    for group in plan.groups:
        kind = model.graph.tensors[group[0]].type
        source = next((s for t in group if (s := input_of(model.graph, t)) is not None), None)
        if source is not None:
            known = _domain(model.graph, stats, group[0], source, given.get(source), notes)
            problems += [] if known is None else [Problem(group, None, known, kind)]
            continue
        own = (stats.find(t) for t in group if not _is_copy(model.graph, t, group))
        sketches = [sketch for sketch in own if sketch is not None and not sketch.empty]
        if sketches:
            problems.append(Problem(group, distribution(sketches), type=kind))
        else:
            notes.append(f"{group_name(model.graph, group)}: nothing was observed, the range stays")
    return problems, tuple(notes)


def input_of(graph: Graph, t: int) -> int | None:
    """The model input whose values a tensor holds: itself, or what a QUANTIZE makes of it; None for other tensors."""
    if t in graph.inputs:
        return t
    node = graph.nodes[graph.producer[t]] if t in graph.producer else None
    return node.inputs[0] if node is not None and node.op == "QUANTIZE" and node.inputs[0] in graph.inputs else None


def _domain(
    graph: Graph, stats: Statistics, t: int, source: int, given: tuple[float, float] | None, notes: list[str]
) -> tuple[float, float] | None:
    """The new range of what holds a model input; None where the file's serves, within a step."""
    (low, high), seen, domain = ends_of(graph.tensors[t]), stats.tensors[source], stats.domains.get(source)
    slack, where = (high - low) / 255, f"input {graph.key(source)!r}"
    wanted = given or (None if domain is None else (domain.low, domain.high))
    if wanted is not None and graph.tensors[t].type == "int16":  # symmetric
        wanted = min(wanted[0], -wanted[1]), max(wanted[1], -wanted[0])
    if wanted is not None:
        if abs(wanted[0] - low) <= slack and abs(wanted[1] - high) <= slack:
            return None
        notes.append(f"{where}: range [{wanted[0]:g}, {wanted[1]:g}], {'as declared' if given or domain is None else domain.words}")
        return wanted
    if seen.min < low - slack or seen.max > high + slack:
        notes.append(f"{where}: data in [{seen.min:g}, {seen.max:g}] leave the file's range [{low:g}, {high:g}]")
        return min(low, seen.min), max(high, seen.max)
    return None


def _is_copy(graph: Graph, t: int, group: Sequence[int]) -> bool:
    node = graph.nodes[graph.producer[t]] if t in graph.producer else None
    return node is not None and node.op in (*COPIES, *CONVERSIONS) and node.inputs[0] in group


def borrowed(model: Model, own: Statistics, original: Model, theirs: Statistics) -> Statistics:
    """`own` with the sketches of the original's tensors in place of those of equal name and shape."""
    names = {(t.name, t.shape): t.index for t in original.graph.tensors if original.graph.key(t.index) == t.name}
    found = {t: names.get((model.graph.tensors[t].name, model.graph.tensors[t].shape)) for t in own.tensors}
    taken = {t: s for t, o in found.items() if o is not None and (s := theirs.find(o)) is not None}
    return replace(own, tensors={**own.tensors, **taken})


# ---------------------------------------------------------------- what it gains


def measured(graph: Graph, made: Model, problems: Sequence[Problem]) -> Changes:
    """The report of a requantized model with what the observed values say of each new range."""
    report: Changes = made.report
    values = {group_name(graph, p.group): p for p in problems if p.values is not None}
    rows = (_gain(graph, made.graph, values[r.tensor], r) if r.tensor in values else r for r in report.ranges)
    return replace(report, ranges=tuple(rows))


def _gain(graph: Graph, made: Graph, problem: Problem, row: RangeRow) -> RangeRow:
    d, (old, new) = problem.values, (g.tensors[problem.group[0]].qparams for g in (graph, made))
    assert d is not None and old is not None and new is not None
    pairs = [(float(np.ravel(q.scale)[0]), int(np.ravel(q.zero_point)[0])) for q in (old, new)]
    before, after = losses(mesh(d), pairs, row.type, (2.0,))[0]
    tiny = np.finfo(np.float64).tiny
    gain = float(10 * np.log10(max(before, tiny) / max(after, tiny)))
    shares = [clipped(d, ends, scale / 2) for ends, (scale, _) in zip((row.old, row.new), pairs, strict=True)]
    return replace(row, clipped_before=shares[0], clipped=shares[1], gain_db=gain)


def clipped(d: Distribution, ends: tuple[float, float], slack: float = 0.0) -> float:
    """The share of a distribution's elements outside a range by more than `slack` (half a step: they are not only rounded).

    Elements of an interval count as spread evenly over it.
    """
    width, low, high = d.upper - d.lower, ends[0] - slack, ends[1] + slack
    with np.errstate(divide="ignore", invalid="ignore"):
        below = np.where(width > 0, np.clip((low - d.lower) / width, 0, 1), d.lower < low)
        above = np.where(width > 0, np.clip((d.upper - high) / width, 0, 1), d.upper > high)
    return float(((below + above) * d.weight).sum() / max(d.total, 1.0))


def channel_ratios(graph: Graph) -> dict[int, float]:
    """node index -> the largest |weight| of a layer over that of its smallest output channel, where one scale serves all channels.

    Channels of zeros alone do not count: the ratio is at most 127 for int8.
    """
    found = {}
    for node in graph.nodes:
        op = record(node)
        if op is None or op.rule.weights is None or op.rule.weight_axis is None or op.rule.weights >= len(node.inputs):
            continue
        w = graph.tensors[node.inputs[op.rule.weights]]
        if w.data is not None and w.qparams is not None and not w.qparams.per_channel:
            rows = np.moveaxis(w.data.astype(np.int64) - int(np.ravel(w.qparams.zero_point)[0]), op.rule.weight_axis, 0)
            peak = np.abs(rows.reshape(len(rows), -1)).max(1, initial=0)
            peak = peak[peak > 0]
            found[node.index] = float(peak.max() / peak.min()) if peak.size else 1.0
    return found
