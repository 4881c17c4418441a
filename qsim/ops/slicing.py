"""SPLIT, SPLIT_V, UNPACK, SLICE: parts of an array; codes are copied, scales never read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import Invalid
from ..graph import Options
from ..op import Case, Op, Rule
from .copying import WHOLE, copies


def _cut(x: Any, axis: int, sizes: Sequence[int]) -> tuple[Any, ...]:
    """x in consecutive pieces of these sizes along an axis."""
    axis %= np.ndim(x)
    ends = np.cumsum([0, *sizes]).tolist()
    return tuple(x[(slice(None),) * axis + (slice(a, b),)] for a, b in zip(ends, ends[1:], strict=False))


def _split(options: Options, axis: Any, x: Any) -> tuple[Any, ...]:
    """num_splits equal pieces. *Restates*: SPLIT of LiteRT and XNNPACK."""
    axis, count = int(np.ravel(axis)[0]), max(int(options.get("num_splits", 1)), 1)
    if x.shape[axis] % count:
        raise Invalid(f"SPLIT: axis {axis} of size {x.shape[axis]} has no {count} equal pieces")
    return _cut(x, axis, [x.shape[axis] // count] * count)


def _split_v(options: Options, x: Any, sizes: Any, axis: Any) -> tuple[Any, ...]:
    """Pieces of the given sizes; one -1 takes what is left. *Restates*: SPLIT_V of LiteRT."""
    axis, wanted = int(np.ravel(axis)[0]), np.ravel(sizes).tolist()
    rest = x.shape[axis] - sum(n for n in wanted if n != -1)
    if min(wanted, default=0) < -1 or wanted.count(-1) > 1 or (rest < 0 if -1 in wanted else rest):
        raise Invalid(f"SPLIT_V: pieces {wanted} do not make up axis {axis} of size {x.shape[axis]}")
    return _cut(x, axis, [rest if n == -1 else n for n in wanted])


def _unpack(options: Options, x: Any) -> tuple[Any, ...]:
    """The slices at every index of an axis. *Restates*: UNPACK of LiteRT."""
    axis = int(options.get("axis", 0)) % np.ndim(x)
    return tuple(x[(slice(None),) * axis + (i,)] for i in range(x.shape[axis]))


def _slice(options: Options, x: Any, begin: Any, size: Any) -> Any:
    """`size` elements from `begin` of every axis, -1 for all that follow. *Restates*: SLICE of LiteRT and XNNPACK."""
    starts, sizes = np.ravel(begin).tolist(), np.ravel(size).tolist()
    if any(a < 0 or n < -1 or a + max(n, 0) > size for a, n, size in zip(starts, sizes, x.shape, strict=True)):
        raise Invalid(f"SLICE: begin {starts} with size {sizes} leaves the shape {x.shape}")
    return x[tuple(slice(a, None if n == -1 else a + n) for a, n in zip(starts, sizes, strict=True))]


def _sliced(shape: tuple, begin: tuple, size: tuple, kind: str = "int32") -> Case:
    n = (len(begin),)
    return Case((shape, n, n), {}, {1: begin, 2: size}, {1: kind, 2: kind})


OPS = (
    Op(
        "SPLIT",
        _split,
        Rule(data=(1,), tied=True, static=(0,)),
        (
            *copies(_split, ("int8", "uint8"), ("int32", "T"), ("T*",), static=(0,), tied=(1,), tied_in=("xnnpack",)),
            *copies(_split, ("float32", "int16", "int32"), ("int32", "T"), ("T*",), static=(0,)),
        ),
        (
            Case(((), (1, 4, 6)), {"num_splits": 3}, {0: 2}, {0: "int32"}, outputs=3),
            Case(((), (1, 4, 3, 2)), {"num_splits": 2}, {0: -3}, {0: "int32"}, outputs=2),
        ),
        host=True,
    ),
    Op(
        "SPLIT_V",
        _split_v,
        Rule(tied=True, static=(1, 2)),
        copies(_split_v, WHOLE, ("T", "int32|int64", "int32"), ("T*",), static=(1, 2)),
        (
            Case(((1, 4, 6), (3,), ()), {"num_splits": 3}, {1: (1, 3, 2), 2: 2}, {1: "int32", 2: "int32"}, outputs=3),
            Case(((1, 5, 3), (2,), ()), {"num_splits": 2}, {1: (-1, 2), 2: -2}, {1: "int32", 2: "int32"}, outputs=2),
        ),
        host=True,
    ),
    Op(
        "UNPACK",
        _unpack,
        Rule(tied=True),
        copies(_unpack, (*WHOLE[:-1], "bool"), ("T",), ("T*",), tied=(0,)),
        (Case(((1, 3, 4),), {"axis": 1, "num": 3}, outputs=3), Case(((2, 3, 2),), {"axis": -1, "num": 2}, outputs=2)),
        host=True,
    ),
    Op(
        "SLICE",
        _slice,
        Rule(tied=True, static=(1, 2)),
        copies(_slice, (*WHOLE, "bool"), ("T", "int32|int64", "int32|int64"), ("T",), static=(1, 2)),
        (
            _sliced((1, 6, 5, 3), (0, 1, 2, 0), (1, 4, -1, 2)),
            _sliced((2, 6, 5), (1, 0, 4), (-1, 3, 1), "int64"),
        ),
        host=True,
    ),
)
