"""Ranges inside a float file: min and max in the quantization records of its tensors."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .errors import BadRange
from .flat import Record
from .graph import Model, Tensor

Range = tuple[float, float]


def stored_range(tensor: Tensor) -> Range | None:
    """The (min, max) in a computed float tensor's quantization record, real units; None where there is no usable one."""
    quantization = (tensor.raw or {}).get("quantization") or {}
    ends = [quantization.get(name, np.zeros(0)) for name in ("min", "max")]
    if tensor.type != "float32" or tensor.is_constant or any(e.size != 1 for e in ends):
        return None
    low, high = (float(e[0]) for e in ends)
    return (low, high) if np.isfinite(low) and np.isfinite(high) and low < high else None


def with_min_max(model: Model, ranges: Mapping[str, Range]) -> Model:
    """The float model with each range in its tensor's quantization record (min, max), and nothing else changed.

    ranges: {tensor key: (low, high)}, real units. LiteRT reads neither field; the TFLite converter's `mlir_quantize` takes them for the
    range of the tensor. *Raises*: BadRange for an unknown tensor, and for one that is a constant or not float32.
    """
    graph, tensors = model.graph, list(model.graph.tensors)
    for key, (low, high) in ranges.items():
        t = tensors[graph.find(key)]
        if t.type != "float32" or t.is_constant:
            raise BadRange(f"tensor {key!r} is not a computed float32 tensor", where=model.path, found=t.type)
        raw = t.raw if isinstance(t.raw, Record) else Record("Tensor", {"has_rank": True})
        old = raw.get("quantization") or Record("QuantizationParameters")
        ends = {name: np.array([end], "<f4") for name, end in (("min", low), ("max", high))}
        tensors[t.index] = t.but(raw=raw.but(quantization=old.but(**ends)))
    return model.but(graphs=(graph.but(tensors=tuple(tensors)), *model.graphs[1:]))
