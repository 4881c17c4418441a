"""Ranges by channel of activations, for simulated schemes: each channel (last axis) of a tensor is a distribution of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qsim.errors import BadData, BadRange
from qsim.function import Function
from qsim.graph import Model
from qsim.layout import layout, record
from qsim.recipe import Schemes

from .distribution import distribution
from .feeding import declared, feed, finite, ports
from .ranging import checked_answer
from .statistics import Sketch, Statistics, merge_sketches, model_hash, sketch_array
from .strategies import Strategy, parse, solve

PART = 64  # samples computed at once
COMPARING = ("SOFTMAX", "LOG_SOFTMAX", "ARG_MAX", "ARG_MIN", "TOPK_V2")  # ops that hold channels against each other


class ByChannel:
    """Sketches of tensors by channel, on the host and over every element: gathered part by part."""

    def __init__(self, model: Model, tensors: Sequence[int]):
        self.tensors = tuple(tensors)
        self.function = Function(model, "float", "xnnpack", taps=self.tensors) if self.tensors else None
        self.found: dict[int, tuple[Sketch, ...]] = {}

    def add(self, arrays: Sequence[np.ndarray]) -> None:
        """Count samples in: (n, *shape) of each model input."""
        if self.function is None:
            return
        for first in range(0, len(arrays[0]), PART):
            taps = self.function.run_samples(self.function.params, *(a[first : first + PART] for a in arrays))[1]
            for t in self.tensors:
                rows = np.moveaxis(np.asarray(taps[t]), -1, 0)
                new = tuple(sketch_array(row.reshape(len(row), -1)) for row in rows)
                self.found[t] = tuple(map(merge_sketches, self.found[t], new)) if t in self.found else new


def channel_ranges(
    model: Model, batches: Any, strategy: str | Strategy = "minmax", *, scheme: Schemes, input_range: Any = None
) -> dict[str, tuple[Any, Any]]:
    """{tensor key: (low (C,), high (C,))}, real units, of every tensor that a scheme quantizes and that its op computes anew.

    What an op only moves keeps the grids it comes from, and gets none here (see `qsim.channels.parameters`). The model's outputs and what
    an op of COMPARING reads get one pair for all channels, by the strategy on their pooled values: scores of classes that lie on grids
    of their own are no longer in order (4 bits cost resnet8 7 points so, though every tensor is closer). A model input's ends are
    its domain where `input_range` declares one (as in `ranges`), else the smallest and largest value of each channel. batches: see
    `feeding.feed`. *Domain*: data that fit a run of PART samples with every tensor held. *Raises*: BadData; BadRange naming tensor and
    channel where a channel has no finite value, or its range is none; Statistics in place of batches need the channels of these tensors.
    """
    plan, given = layout(model, scheme), declared(model, input_range)
    moved = {t for n in model.graph.nodes if n.index in plan.quantized and record(n).rule.tied for t in n.outputs}
    wanted = {t: kinds[0] for t, kinds in plan.grouped.items() if t not in moved and model.graph.tensors[t].shape}
    together = {*model.graph.outputs, *(t for n in model.graph.nodes if n.op in COMPARING for t in n.inputs)}
    found = _sketches(model, batches, [t for t in wanted if t not in given])
    made: dict[str, tuple[Any, Any]] = {model.graph.key(t): ends for t, ends in given.items() if t in wanted}
    for t, sketches in found.items():
        rule, name = parse("minmax" if t in model.graph.inputs else strategy, wanted[t]), model.graph.key(t)
        if t in together:
            made[name] = _ends(sketches, rule, name, str(strategy))
            continue
        ends = [_ends([s], rule, f"{name}, channel {c}", str(strategy)) for c, s in enumerate(sketches)]
        made[name] = tuple(np.array(end) for end in zip(*ends, strict=True))  # type: ignore[assignment]
    return made


def _ends(sketches: Sequence[Sketch], rule: Strategy, name: str, strategy: str) -> tuple[float, float]:
    if all(s.empty for s in sketches):
        raise BadRange("it holds nothing but NaN or infinity", where=name, hint="Check the model in float mode")
    return checked_answer(solve(distribution(sketches), [rule])[0], name, strategy)


def _sketches(model: Model, batches: Any, tensors: list[int]) -> Mapping[int, Sequence[Sketch]]:
    """Each tensor's sketches, one a channel."""
    if isinstance(batches, Statistics):
        return _observed(model, batches, tensors)
    gathered, count, wanted = ByChannel(model, tensors), 0, ports(model)
    for batch in feed(model, batches):
        kept, _ = finite(batch, wanted, count, "raise")
        count += len(kept)
        gathered.add(kept.arrays)
    return gathered.found


def _observed(model: Model, stats: Statistics, tensors: list[int]) -> Mapping[int, Sequence[Sketch]]:
    if stats.model != model_hash(model):
        raise BadData("these statistics are of another model", where=model.path, found=stats.model[:12], expected=model_hash(model)[:12])
    missing = [model.graph.key(t) for t in tensors if t not in stats.channels]
    if missing:
        raise BadRange(f"{len(missing)} tensors were not observed by channel: {', '.join(missing)}", hint="observe(..., channels=[...])")
    return {t: stats.channels[t] for t in tensors}
