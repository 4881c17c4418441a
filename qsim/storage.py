"""How a constant is stored: real values -> codes with scales of a tensor, of channels or of blocks of columns, or float16."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .blockwise import Blocks
from .types import code_range
from .weights import SMALLEST_PRODUCT, plain_scales, quantize_spans, quantize_weights, survey

# Scales by blocks are normal float16 numbers of 8 significant bits: XNNPACK rounds them to bfloat16, and these it leaves as they are.
SMALLEST_HALF, LARGEST_HALF, SIGNIFICANT = 2.0**-14, 65504.0, 8
LARGEST_FLOAT = float(np.finfo(np.float32).max)
BEYOND_HALF = 65520.0  # from here on float16 rounds to infinity


class Storage(NamedTuple):
    """How the reals of a constant are stored.

    kind: element type. axis: of the channels that have a scale each; None: one scale for all. rounding: see
    `weights.quantize_weights`. block: columns of a row that share a scale; 0: none. symmetric: whether zero points are 0. clip: how far
    the codes reach, see `weightclip.clips`.
    """

    kind: str
    axis: int | None = None
    rounding: str = "nearest"
    block: int = 0
    symmetric: bool = True
    clip: str = "max"


class Stored(NamedTuple):
    """A constant as stored: fields of its `Tensor`."""

    type: str
    data: np.ndarray
    qparams: Any = None
    blocks: Blocks | None = None


def why_not(values: np.ndarray, how: Storage) -> str | None:
    """Why such values cannot be stored so, in words, or None."""
    if not np.isfinite(values).all():
        return "a value is NaN or infinite"
    peak = float(np.abs(values).max(initial=0.0))
    if how.kind == "float16" and (peak >= BEYOND_HALF or 0 < peak < SMALLEST_HALF):
        return f"its largest value, {peak:g}, is beyond float16" if peak > 1 else f"its largest value, {peak:g}, is too small for float16"
    if not how.symmetric and float(values.max(initial=0.0)) - float(values.min(initial=0.0)) > LARGEST_FLOAT:
        return "its values span more than a float32"
    return _no_blocks(values, peak, how.block) if how.block else None


def _no_blocks(values: np.ndarray, peak: float, size: int) -> str | None:
    if values.ndim != 2 or values.shape[1] % size:
        return f"shape {values.shape} has no whole blocks of {size} columns"
    most = code_range("int4")[1]
    if 0 < peak < most * SMALLEST_HALF or peak > most * LARGEST_HALF * (1 - 2.0**-SIGNIFICANT):
        return f"its largest value, {peak:g}, asks for a scale that float16 does not have"
    return None


def stored(values: np.ndarray, how: Storage) -> Stored:
    """The values as stored. Codes: clip(round(v / s), -qmax, qmax), zero point 0, the lowest code never used; s = clip / qmax of the
    tensor or channel, where clip is max |v| unless a rule takes less, not below 2^-100; by blocks see `block_scales`, with zero points
    `weights.quantize_spans`. float16: rounded half to even. float32: as they are.

    *Domain*: `why_not` finds nothing.
    """
    if how.kind in ("float16", "float32"):
        return Stored(how.kind, _frozen(values.astype(how.kind)))
    if how.block:
        return _by_blocks(values, how)
    if not how.symmetric:
        codes, qparams = quantize_spans(values, how.axis, how.kind, how.rounding)
        return Stored(how.kind, _frozen(codes), qparams)
    found = survey(values, None, how.axis or 0, how.clip, how.kind, how.axis is not None)
    scales = np.maximum(plain_scales(found, how.kind, how.axis is not None), SMALLEST_PRODUCT).astype(np.float32)
    scales = scales if how.axis is not None else scales.max(keepdims=True)
    codes, qparams = quantize_weights(values, scales, how.axis or 0, how.kind, how.rounding)
    return Stored(how.kind, _frozen(codes), qparams)


def _by_blocks(values: np.ndarray, how: Storage) -> Stored:
    scales = block_scales(values, how.block)
    codes, _ = quantize_weights(values.reshape(-1, how.block), scales.reshape(-1), 0, how.kind, how.rounding)
    return Stored(how.kind, _frozen(codes.reshape(values.shape)), None, Blocks(scales, how.block))


def block_scales(values: np.ndarray, size: int) -> np.ndarray:
    """Scales of 4-bit weights (outputs, depth), float32 (outputs, depth / size): max |v| / 7 of a block, at least 2^-14, rounded up to
    8 significant bits, so that float16 and bfloat16 hold the same number."""
    peak = np.abs(np.asarray(values, np.float64)).reshape(len(values), -1, size).max(-1)
    least = np.maximum(peak / code_range("int4")[1], SMALLEST_HALF)
    step = np.ldexp(1.0, np.frexp(least)[1] - SIGNIFICANT)
    return (np.ceil(least / step) * step).astype(np.float32)


def _frozen(array: np.ndarray) -> np.ndarray:
    array = np.ascontiguousarray(array)
    array.setflags(write=False)
    return array
