"""Ranges as the caller gives them -> one checked range per group of tensors that share their parameters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any, NamedTuple

import numpy as np

from .errors import BadRange
from .graph import Graph, Node, QParams
from .layout import Layout, record, tied
from .types import code_range

LARGEST_SCALE = 2.0**60  # beyond it products of scales leave float32
CELL_UNKNOWN = "not given: all that the cell state of an LSTM can hold"
ENDS = {"RELU": (0.0, np.inf), "RELU6": (0.0, 6.0), "RELU_N1_TO_1": (-1.0, 1.0), "RELU_0_TO_1": (0.0, 1.0)}


class GroupRange(NamedTuple):
    """Range of one group, real units, and what was done to it, in words ("" for nothing). exact: parameters that were given for it."""

    low: float
    high: float
    note: str = ""
    exact: QParams | None = None


def group_ranges(graph: Graph, plan: Layout, ranges: Mapping[Any, Any]) -> list[GroupRange]:
    """One range per group: the hull of its members' ranges, each cut to what its op's activation lets through, and of its constants.

    ranges: {tensor key or index: (low, high)}, real units, or `QParams`, which are taken as they are where no other member asks for
    more. A member without a range is fine where its op only moves values of members that have one, and no tie of it is cut. Ranges of
    tensors outside every group are not used.
    *Raises*: BadRange, naming all faults at once: unknown names, NaN, infinite or inverted ranges, missing tensors.
    """
    given = checked(graph, ranges)
    lacking = missing(graph, plan, given)
    if lacking:
        unused = [str(k) for k in ranges if graph.find(k) not in plan.grouped]
        raise BadRange(
            f"no range for {len(lacking)} of {len(plan.grouped)} tensors: {', '.join(graph.key(t) for t in lacking)}",
            hint=_nearest(graph.key(lacking[0]), unused) or "Give each a (low, high), or calibrate the model",
        )
    exact = {graph.find(k): v for k, v in ranges.items() if isinstance(v, QParams)}
    return [_with_exact(hull(graph, plan, i, given), [exact[t] for t in plan.groups[i] if t in exact]) for i in range(len(plan.groups))]


def _with_exact(found: GroupRange, given: list[QParams]) -> GroupRange:
    """The range with the given parameters of a member, where they cover it."""
    ends = ((q, _ends_of(q)) for q in given)
    return next((found._replace(exact=q) for q, (low, high) in ends if low <= found.low and found.high <= high), found)


def _ends_of(q: QParams) -> tuple[float, float]:
    scale, zero = float(np.ravel(q.scale)[0]), int(np.ravel(q.zero_point)[0])
    return scale * (int(q.low) - zero), scale * (int(q.high) - zero)


def checked(graph: Graph, ranges: Mapping[Any, Any]) -> dict[int, tuple[float, float]]:
    given, faults = {}, []
    for key, value in ranges.items():
        try:
            given[graph.find(key)] = _pair(key, value)
        except BadRange as fault:
            faults.append(str(fault))
    if faults:
        raise BadRange(f"{len(faults)} range(s) cannot be used:\n  " + "\n  ".join(faults))
    return given


def _pair(key: Any, value: Any) -> tuple[float, float]:
    try:
        low, high = _ends_of(value) if isinstance(value, QParams) else (float(v) for v in np.asarray(value, np.float64).reshape(-1))
    except (TypeError, ValueError):
        raise BadRange("a range is a pair (low, high)", where=f"range of {key!r}", found=value) from None
    if not (np.isfinite(low) and np.isfinite(high)):
        raise BadRange("a range must be finite", where=f"range of {key!r}", found=(low, high))
    if low > high:
        raise BadRange("the low end is above the high end", where=f"range of {key!r}", found=(low, high))
    if max(high, 0) - min(low, 0) > 255 * LARGEST_SCALE:
        raise BadRange("too wide for float32 scales", where=f"range of {key!r}", found=(low, high), expected="a scale below 2^60")
    return low, high


def missing(graph: Graph, plan: Layout, given: Mapping[int, Any]) -> list[int]:
    """Tensors whose range is neither given nor follows from the inputs of an op that only moves data."""
    known = set(given) | set(plan.fixed) | set(plan.values)
    found = [t for t in graph.inputs if t in plan.grouped and t not in known]
    known.update(graph.inputs)
    for node in graph.nodes:
        moved = (
            node.index in plan.quantized and tied(node) and all(_is_held(plan, node, p, known) for p in record(node).rule.data_inputs(node))
        )
        for t in node.outputs:
            if t in plan.grouped and t not in known and not moved:
                found.append(t)
            known.add(t)
    return found


def _is_held(plan: Layout, node: Node, position: int, known: set[int]) -> bool:
    """Whether the range of an op's group holds the values of an input."""
    return node.inputs[position] in known and (node.index, position) not in plan.cuts


def _nearest(name: str, unused: Iterable[str]) -> str:
    near = get_close_matches(name, list(unused), n=3)
    return f"Given but not used: {', '.join(near)}" if near else ""


def hull(graph: Graph, plan: Layout, index: int, given: Mapping[int, tuple[float, float]]) -> GroupRange:
    """The range of one group from those of its members, by tensor index; see `group_ranges`."""
    ends, notes = [], []
    for t in plan.groups[index]:
        if t in plan.cells:
            low, high = given.get(t, (-np.inf, np.inf))
            ends.append((max(low, -plan.cells[t]), min(high, plan.cells[t])))
            if ends[-1] != given.get(t):
                notes.append("cut to what the cell state of an LSTM can hold" if t in given else CELL_UNKNOWN)
        elif t in given:
            ends.append(_cut(graph, t, given[t]))
            if ends[-1] != given[t]:
                notes.append("cut to the activation's range")
        elif t in plan.fixed:
            ends.append(dictated_ends(plan, t))
    for t in plan.tied_constants.get(index, ()):
        ends.append((float(plan.values[t].min(initial=0.0)), float(plan.values[t].max(initial=0.0))))
    low, high = min((e[0] for e in ends), default=0.0), max((e[1] for e in ends), default=0.0)
    if low > 0 or high < 0:
        notes.append("extended to hold 0")
    return GroupRange(min(low, 0.0), max(high, 0.0), ", ".join(dict.fromkeys(notes)))


def dictated_ends(plan: Layout, t: int) -> tuple[float, float]:
    """The real range of an output whose op dictates its parameters."""
    (scale, zero), (low, high) = plan.fixed[t], code_range(plan.native[t])
    return scale * (low - zero), scale * (high - zero)


def _cut(graph: Graph, tensor: int, ends: tuple[float, float]) -> tuple[float, float]:
    producer = graph.producer.get(tensor)
    low, high = activation_ends(graph.nodes[producer]) if producer is not None else (-np.inf, np.inf)
    return float(np.clip(ends[0], low, high)), float(np.clip(ends[1], low, high))


def activation_ends(node: Node) -> tuple[float, float]:
    """The interval outside which a node's output never lies: that of the op itself or of its fused activation, real units."""
    return ENDS.get(node.op) or ENDS.get(node.options.get("fused_activation_function", "NONE"), (-np.inf, np.inf))
