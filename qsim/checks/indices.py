"""Indices that are known before any data must lie inside the axes they speak of: LiteRT fails on others when it runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import Invalid
from ..graph import Model
from ..op import Site
from .faults import nodes_of

# op -> (position of the array that is read or of its shape, position of the indices)
_READS = {"GATHER": (0, 1), "GATHER_ND": (0, 1), "EMBEDDING_LOOKUP": (1, 0)}


def outside(op: str, options: Mapping[str, Any], shape: Sequence[int], index: np.ndarray) -> str | None:
    """What is wrong with the indices of an op on an array of this shape, in words; None where all lie inside."""
    if not index.size or not len(shape):
        return None
    if op == "GATHER_ND":
        parts = [(d, index[..., d]) for d in range(min(index.shape[-1] if index.ndim else 0, len(shape)))]
    else:
        parts = [(int(options.get("axis", 0)) % len(shape) if op == "GATHER" else 0, index)]
    for axis, part in parts:
        wrong = part[(part < 0) | (part >= shape[axis])]
        if wrong.size:
            return f"index {wrong[0]} is outside axis {axis} of size {shape[axis]}"
    return None


def _fault(op: str, options: Mapping[str, Any], tensors: Sequence[Any], values: Sequence[np.ndarray | None]) -> str | None:
    position, indices = _READS.get(op, (0, 0))
    if position == indices or len(tensors) < 2 or tensors[position] is None or values[indices] is None:
        return None
    return outside(op, options, tensors[position].shape, np.asarray(values[indices]))


def require_inside(site: Site) -> None:
    """*Raises*: Invalid with the place where an index known on the host lies outside the array."""
    fault = _fault(site.node.op, site.options, site.inputs, site.values)
    if fault:
        raise Invalid(fault, where=site.where, hint="LiteRT fails on it when it runs")


def indices_inside(model: Model) -> Iterator[str]:
    """Constant indices of GATHER, GATHER_ND and EMBEDDING_LOOKUP lie inside the array they read."""
    for _, graph, node, where in nodes_of(model):
        tensors = [graph.tensors[t] if t >= 0 else None for t in node.inputs]
        fault = _fault(node.op, node.options, tensors, [None if t is None else t.data for t in tensors])
        if fault:
            yield f"{where}: {fault}"
