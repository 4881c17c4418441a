"""Tensors that lack a range ("lacking min/max data"): the complete list, what their data propose, and one default for all of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from qsim.errors import BadRange
from qsim.graph import Model
from qsim.layout import layout
from qsim.ranges import missing as without_range
from qsim.recipe import Schemes
from qsim.scheme import INT8

from .ranging import ranges as estimated
from .statistics import Statistics
from .strategies import Strategy

Range = tuple[float, float]


class Lacking(NamedTuple):
    """A tensor without a range. proposed: the range that its statistics give, None where there are none."""

    tensor: str
    proposed: Range | None = None

    def __str__(self) -> str:
        return f"{self.tensor}: {_words(self.proposed)}" if self.proposed else self.tensor


def _words(ends: Range) -> str:
    return f"[{ends[0]:.6g}, {ends[1]:.6g}]"


def lacking(
    model: Model,
    ranges: Mapping[str, Range],
    scheme: Schemes = INT8,
    stats: Statistics | None = None,
    strategy: str | Strategy = "minmax",
) -> tuple[Lacking, ...]:
    """Every tensor for which `qsim.quantize` would miss a range, in the graph's order, with the one that the statistics propose.

    *Raises*: BadRange for a range of an unknown tensor, and as `calibrate.ranges`.
    """
    graph, proposals = model.graph, {} if stats is None else estimated(model, stats, strategy, scheme)
    missing = without_range(graph, layout(model, scheme), {graph.find(k): v for k, v in ranges.items()})
    return tuple(Lacking(graph.key(t), proposals.get(graph.key(t))) for t in missing)


def require(
    model: Model,
    ranges: Mapping[str, Range],
    scheme: Schemes = INT8,
    stats: Statistics | None = None,
    strategy: str | Strategy = "minmax",
) -> None:
    """*Raises*: BadRange with the complete list, one tensor a line, where `ranges` lacks some; see `lacking`."""
    missing = lacking(model, ranges, scheme, stats, strategy)
    if missing:
        hint = "Take the proposed ranges, or a default range for all" if stats else "Calibrate the model, or give a default range for all"
        raise BadRange(f"{len(missing)} tensors lack min/max data:\n  " + "\n  ".join(map(str, missing)), hint=hint)


def with_default(
    model: Model,
    ranges: Mapping[str, Range],
    default: Range,
    scheme: Schemes = INT8,
    stats: Statistics | None = None,
) -> tuple[dict[str, Range], tuple[str, ...]]:
    """(the ranges, completed by the default one; notes): every tensor without a range gets `default`, as `default_ranges_stats` says.

    The notes name the tensors and, where statistics are given, say what their data need and which of them the default clips.
    *Raises*: BadRange for a default that is no range, and as `lacking`.
    """
    low, high = (float(v) for v in default)
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise BadRange("a default range is a pair (low, high), low below high", found=tuple(default))
    missing = lacking(model, ranges, scheme, stats)
    completed = {**ranges, **{m.tensor: (low, high) for m in missing}}
    return completed, tuple(_default_notes(missing, (low, high)))


def _default_notes(missing: tuple[Lacking, ...], default: Range) -> list[str]:
    if not missing:
        return []
    notes = [f"{len(missing)} tensors use the default range {_words(default)}: {', '.join(m.tensor for m in missing)}"]
    needed = [m for m in missing if m.proposed]
    if needed:
        hull = min(m.proposed[0] for m in needed), max(m.proposed[1] for m in needed)  # type: ignore[index]
        notes.append(f"the data of these tensors lie in {_words(hull)}")
    notes += [f"the default range clips {m}" for m in needed if m.proposed[0] < default[0] or m.proposed[1] > default[1]]  # type: ignore[index]
    return notes
