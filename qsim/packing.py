"""Constants as stored bytes and as arrays: little endian; 4- and 2-bit integers packed with the first element in the low bits."""

from __future__ import annotations

import math

import numpy as np

from .types import TYPES


def stored_size(type_name: str, shape: tuple[int, ...]) -> int | None:
    """Bytes a constant takes in a file: ceil(elements * bits / 8). None for types without a fixed size (strings, resources)."""
    bits = TYPES[type_name].bits
    return -(-math.prod(shape) * bits // 8) if bits else None


def unpack(stored: np.ndarray, type_name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Array of a constant from its stored bytes (uint8 (B,), B >= stored_size). A view where the element type allows it.

    Types that numpy lacks: bfloat16 as its uint16 bit pattern, float8 as uint8, strings as the stored bytes themselves.
    """
    t, size = TYPES[type_name], stored_size(type_name, shape)
    if size is None:
        return _frozen(stored)
    if t.bits < 8:
        return _frozen(_spread(stored[:size], t.bits, t.low != 0)[: math.prod(shape)].reshape(shape))
    dtype = np.dtype(t.dtype or f"uint{t.bits}").newbyteorder("<")
    return _frozen(stored[:size].view(dtype).reshape(shape))


def pack(array: np.ndarray, type_name: str) -> np.ndarray:
    """Stored bytes, uint8 (B,), of a constant; the inverse of `unpack`. Sub-byte values keep their low bits."""
    bits = TYPES[type_name].bits
    if bits in (2, 4):
        return _squeeze(np.asarray(array), bits)
    array = np.asarray(array)
    return np.frombuffer(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes(), np.uint8)


def _spread(stored: np.ndarray, bits: int, signed: bool) -> np.ndarray:
    """Each byte becomes 8/bits elements, low bits first; signed ones get their sign extended by an arithmetic shift."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    fields = np.left_shift(stored[:, None], 8 - bits - shifts)  # wanted bits on top, the rest pushed out
    return (np.right_shift(fields.view(np.int8), 8 - bits) if signed else np.right_shift(fields, 8 - bits)).reshape(-1)


def _squeeze(array: np.ndarray, bits: int) -> np.ndarray:
    per_byte, flat = 8 // bits, array.reshape(-1).astype(np.uint8) & ((1 << bits) - 1)
    flat = np.concatenate([flat, np.zeros(-flat.size % per_byte, np.uint8)]).reshape(-1, per_byte)
    return np.bitwise_or.reduce(flat << np.arange(0, 8, bits, dtype=np.uint8), axis=1)


def _frozen(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array
