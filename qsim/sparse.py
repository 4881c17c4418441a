"""Sparse constants: the stored values and the tree that says where they belong, as a dense array.

A tensor of rank r is cut into blocks along some axes; outer axes count blocks, one more axis a blocked axis counts inside a block.
`traversal_order` puts these axes into levels. A dense level holds every index, a sparse level those that `array_indices` lists between
two of `array_segments`, for each entry of the level above. Values follow in the order of the last level's entries.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .errors import Invalid, TooLarge, Unsupported
from .flat import Record
from .packing import stored_size, unpack

MAX_ELEMENTS = 1 << 31  # of the dense form
DENSE = 0  # format of a level


def densify(sparsity: Record, stored: np.ndarray, type_name: str, shape: tuple[int, ...], where: str = "") -> np.ndarray:
    """The dense constant, zeros where nothing is stored. *Restates*: FormatConverter::SparseToDense of LiteRT.

    *Raises*: Invalid for a tree that does not fit the shape or the values; TooLarge; Unsupported for blocks in another order than their
    axes (LiteRT mixes up their sizes) and for types without a fixed size.
    """
    if math.prod(shape) > MAX_ELEMENTS:
        raise TooLarge("a sparse constant is too large", where=where, found=shape, expected=f"at most {MAX_ELEMENTS} elements")
    order, blocked = (tuple(_numbers(sparsity, name)) for name in ("traversal_order", "block_map"))
    levels = sparsity.get("dim_metadata", [])
    if blocked != tuple(sorted(set(blocked))):
        raise Unsupported("a sparse constant has blocks in another order than their axes", where=where, found=blocked)
    axes = len(shape) + len(blocked)
    if sorted(order) != list(range(axes)) or len(levels) != axes or any(not 0 <= b < len(shape) for b in blocked):
        raise Invalid("a sparse constant has other levels than axes", where=where, found=(order, blocked, len(levels)))
    sizes = _sizes(levels, order, blocked, shape, where)
    places = _places(levels, order, sizes, where)
    size = stored_size(type_name, places.shape[1:])
    if size is None:
        raise Unsupported(f"a sparse constant of {type_name}", where=where)
    if stored.size < size:
        raise Invalid("a sparse constant has too few values", where=where, found=f"{stored.size} bytes", expected=f"{size}")
    values = unpack(stored, type_name, places.shape[1:])
    index = list(places[: len(shape)])
    for extra, axis in enumerate(blocked):
        index[axis] = index[axis] * sizes[len(shape) + extra] + places[len(shape) + extra]
    dense = np.zeros(shape, values.dtype.newbyteorder("="))
    dense[tuple(index)] = values
    dense.flags.writeable = False
    return dense


def _numbers(record: Record, name: str) -> list[int]:
    return record[name].tolist() if name in record else []


def _sizes(levels: list[Record], order: tuple[int, ...], blocked: tuple[int, ...], shape: tuple[int, ...], where: str) -> list[int]:
    """Sizes of the outer axes (in blocks) and of the axes inside a block."""
    inside = []
    for extra in range(len(blocked)):
        level = levels[order.index(len(shape) + extra)]
        inside.append(level.value("dense_size"))
    outer = list(shape)
    for axis, size in zip(blocked, inside, strict=True):
        if size < 1 or shape[axis] % size:
            raise Invalid("a sparse constant has blocks that do not fit", where=where, found=size, expected=f"a divisor of {shape[axis]}")
        outer[axis] = shape[axis] // size
    return outer + inside


def _places(levels: list[Record], order: tuple[int, ...], sizes: list[int], where: str) -> np.ndarray:
    """Index along every axis of each stored value, int64 (axes, values)."""
    places = np.zeros((len(order), 1), np.int64)
    for level, axis in zip(levels, order, strict=True):
        count = places.shape[1]
        if level.value("format") == DENSE:
            size = level.value("dense_size")
            if size != sizes[axis]:
                raise Invalid("a sparse constant has a level of the wrong size", where=where, found=size, expected=sizes[axis])
            places, inner = np.repeat(places, sizes[axis], axis=1), np.tile(np.arange(sizes[axis]), count)
        else:
            segments, indices = (_vector(level, name) for name in ("array_segments", "array_indices"))
            steps = np.diff(segments)
            sound = segments.size == count + 1 and segments[0] == 0 and segments[-1] == indices.size and not np.any(steps < 0)
            if not sound or np.any(indices < 0) or np.any(indices >= sizes[axis]):
                raise Invalid("a sparse constant has segments or indices that do not fit", where=where, found=f"axis {axis}")
            places, inner = np.repeat(places, steps, axis=1), indices
        places[axis] = inner
        if places.shape[1] > math.prod(sizes):
            raise Invalid("a sparse constant stores an element twice", where=where)
    return places


def _vector(level: Record, name: str) -> np.ndarray:
    found: Any = level.get(name)
    return np.zeros(0, np.int64) if found is None or "values" not in found else found["values"].astype(np.int64)
