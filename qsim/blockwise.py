"""Scales by blocks: weights (outputs, depth) of which every `size` columns of a row share a scale, kept in a float16 tensor of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from .flat import Record
from .graph import Graph, Tensor

DETAILS = 2  # number of BlockwiseQuantization in the union of details


@dataclass(frozen=True, eq=False)
class Blocks:
    """real[o, k] = scale[o, k // size] * code[o, k]. scale: float32 (outputs, depth / size), real per step; size: columns.

    *Differs*: zero points that a file names beside the scales are ignored, as LiteRT ignores them.
    """

    scale: np.ndarray
    size: int

    def dequantize(self, codes: np.ndarray) -> np.ndarray:
        """float32 (outputs, depth) of such codes."""
        return codes.astype(np.float32) * np.repeat(self.scale, self.size, axis=1)


def with_blocks(graph: Graph) -> Graph:
    """The graph with `Tensor.blocks` filled in where a 4-bit constant has float16 scales by blocks that fit its shape."""
    found = {t.index: blocks for t in graph.tensors if (blocks := _blocks(graph, t)) is not None}
    return graph.but(tensors=tuple(t.but(blocks=found[t.index]) if t.index in found else t for t in graph.tensors)) if found else graph


def _blocks(graph: Graph, t: Tensor) -> Blocks | None:
    details = (t.raw or {}).get("quantization", {}).get("details")
    if details is None or details.table != "BlockwiseQuantization" or t.type != "int4" or t.data is None or t.data.ndim != 2:
        return None
    at, size = details.value("scales"), details.value("block_size")
    scales = graph.tensors[at] if 0 <= at < len(graph.tensors) else None
    if scales is None or scales.type != "float16" or scales.data is None or size < 1:
        return None
    rows, depth = t.data.shape
    return Blocks(scales.data.astype(np.float32), size) if scales.data.shape == (rows, depth // size) and depth % size == 0 else None


def attached(t: Tensor, scales: int) -> Tensor:
    """A tensor with `blocks` whose record, which files are written from, says that its scales are tensor number `scales`."""
    assert t.blocks is not None
    details = Record("BlockwiseQuantization", {"scales": scales, "zero_points": -1, "block_size": t.blocks.size})
    raw = t.raw if isinstance(t.raw, Record) else Record("Tensor", {"shape": np.asarray(t.shape, "<i4"), "has_rank": True})
    return t.but(raw=raw.but(quantization=Record("QuantizationParameters", {"details_type": DETAILS, "details": details})))


def renumbered(graph: Graph, new: Mapping[int, int]) -> Graph:
    """The graph, whose tensors have been given the indexes new[old], with the references to scales by blocks following."""
    return graph.but(tensors=tuple(t if t.blocks is None else attached(t, new[_scales_of(t)]) for t in graph.tensors))


def _scales_of(t: Tensor) -> int:
    return t.raw["quantization"]["details"].value("scales")  # type: ignore[index]
