"""Ranges by channel, of simulated schemes: each channel of an activation (its last axis) has a scale and a zero point of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from .errors import BadRange
from .graph import Graph, QParams
from .layout import AVERAGING, Layout, record, tied
from .ranges import activation_ends
from .scheme import Scheme, affine
from .types import code_range, holder

Ends = tuple[np.ndarray, np.ndarray]  # (low, high), float64 (C,)


def split(graph: Graph, schemes: Iterable[Scheme], ranges: Mapping[Any, Any]) -> tuple[dict[Any, Any], dict[int, Ends]]:
    """(ranges with the hull of all channels in place of arrays, tensor -> its ends by channel).

    *Raises*: BadRange for arrays of another length than the tensor's last axis, for ends that are NaN, infinite or inverted, and where no
    scheme has activations by channel.
    """
    given = {k: _ends(graph, k, v) for k, v in ranges.items() if _is_by_channel(v)}
    found = {graph.find(k): ends for k, ends in given.items()}
    if found and not any(s.per_channel_activations for s in schemes):
        raise BadRange(
            "ranges by channel are for simulated schemes", where=f"range of {graph.key(min(found))!r}", expected="a pair (low, high)",
            hint="sim:a4cw4 and the like have them",
        )  # fmt: skip
    hulls = {k: (float(low.min()), float(high.max())) for k, (low, high) in given.items()}
    return {**ranges, **hulls}, found


def _is_by_channel(value: Any) -> bool:
    return isinstance(value, (tuple, list, np.ndarray)) and len(value) == 2 and any(np.ndim(end) for end in value)


def _ends(graph: Graph, key: Any, value: Any) -> Ends:
    t = graph.tensors[graph.find(key)]
    where, shape = f"range of {key!r}", t.shape[-1:]
    try:
        low, high = (np.broadcast_to(np.asarray(end, np.float64), shape) for end in value)
    except (TypeError, ValueError):
        found = tuple(np.shape(end) for end in value)
        raise BadRange("ends by channel are as many as channels", where=where, found=found, expected=shape) from None
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise BadRange("a range must be finite", where=where)
    if (low > high).any():
        raise BadRange("the low end is above the high end", where=where, found=f"channel {int(np.argmax(low > high))}")
    return low, high


def parameters(graph: Graph, plan: Layout, ends: Mapping[int, Ends]) -> dict[tuple[int, str], QParams | None]:
    """(tensor, type in which ops see it) -> its parameters by channel, None where its values lie on grids already.

    Each channel's range is cut to what the op's activation lets through and extended to hold 0. What an op only moves (its `Rule.tied`)
    stays on the grids of the channels that it comes from, so ends given for it are not used; means and interpolated values of channels
    are snapped to the grids of their input. Codes that a kernel would take for its own get another type, or one code less.
    """
    kinds = {s.activation for s in plan.quantized.values() if s.per_channel_activations}
    found = {(t, k): _qparams(graph, t, *ends[t], k) for t in graph.inputs if t in ends for k in kinds if (t, k) in plan.group_of}
    made: dict[tuple[int, str], QParams | None] = dict(found)
    for node in (n for n in graph.nodes if n.index in plan.quantized):
        kind = plan.quantized[node.index].activation
        sources = [(node.inputs[p], kind) for p in record(node).rule.data_inputs(node)] if tied(node) else []
        for t in (t for t in node.outputs if kind in kinds and (t, kind) in plan.group_of):
            if not sources and t in ends:
                made[t, kind] = _qparams(graph, t, *ends[t], kind)
            elif any(s in made for s in sources):
                made[t, kind] = made[sources[0]] if node.op in AVERAGING else None
    return made


def whole(graph: Graph, plan: Layout, ends: Mapping[int, Ends]) -> list[int]:
    """Tensors of schemes with activations by channel that got one range for all, of those that their op computes anew."""
    made = parameters(graph, plan, ends)
    kinds = {s.activation for s in plan.quantized.values() if s.per_channel_activations}
    moved = {t for n in graph.nodes if n.index in plan.quantized and tied(n) for t in n.outputs}
    return [t for t, kind in plan.group_of if kind in kinds and (t, kind) not in made and t not in moved]


def _qparams(graph: Graph, t: int, low: np.ndarray, high: np.ndarray, kind: str) -> QParams:
    producer = graph.producer.get(t)
    least, most = activation_ends(graph.nodes[producer]) if producer is not None else (-np.inf, np.inf)
    pairs = zip(np.clip(low, least, most), np.clip(high, least, most), strict=True)
    scales, zeros = zip(*(affine(a, b, kind, symmetric=kind == "int16") for a, b in pairs), strict=True)
    first, last = code_range(kind)
    first += kind == "int16"
    return QParams(np.asarray(scales, np.float32), np.asarray(zeros, np.int64), first, last, len(graph.tensors[t].shape) - 1)


def held(kind: str) -> str:
    """The type that holds codes by channel: never the one whose kernels have exactly these codes."""
    return "int16" if kind == "int8" else holder(kind)
