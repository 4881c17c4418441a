"""SEGMENT_SUM, UNSORTED_SEGMENT_*, SPARSE_TO_DENSE, BUCKETIZE, ADD_N: elements gathered by numbers, and numbers of elements."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from ..graph import Options
from ..op import Case, Op, Rule
from .common import same_type
from .copying import copies

NUMBERS = ("float32", "int32")
ONCE = {"float32": 1}


def _segment_sum(options: Options, x: Any, ids: Any) -> Any:
    """Sums of the rows with equal ids, as many as the last id says.

    *Domain*: ids from 0 on, each as the one before or 1 more. *Restates*: SEGMENT_SUM of LiteRT.
    """
    ids = np.ravel(ids)
    rows = int(ids[-1]) + 1 if ids.size else 0
    return jnp.zeros((rows, *x.shape[1:]), x.dtype).at[ids.astype(np.int32)].add(x)


def _lowest(dtype: Any) -> Any:
    return np.finfo(dtype).min if np.dtype(dtype).kind == "f" else np.iinfo(dtype).min


def _highest(dtype: Any) -> Any:
    return np.finfo(dtype).max if np.dtype(dtype).kind == "f" else np.iinfo(dtype).max


_STARTS: dict[str, Callable[[Any], Any]] = {"add": lambda _: 0, "multiply": lambda _: 1, "max": _lowest, "min": _highest}


def _unsorted(name: str) -> Callable[..., Any]:
    def real(options: Options, x: Any, ids: Any, count: Any) -> Any:
        """Sum (product, largest, smallest) of the parts of x with equal ids; negative ids take part in none, parts without any hold
        0 (1, the lowest, the highest number). *Domain*: ids below the count. *Restates*: UNSORTED_SEGMENT_* of LiteRT."""
        x, ids, count = jnp.asarray(x), jnp.asarray(ids).astype(np.int32), int(np.ravel(count)[0])
        start = jnp.full((count, *x.shape[ids.ndim :]), _STARTS[name](x.dtype), x.dtype)
        flat = x.reshape(-1, *x.shape[ids.ndim :])
        place = jnp.where(ids < 0, np.int32(count), ids).reshape(-1)
        return getattr(start.at[place], name)(flat, mode="drop")

    return real


def _sparse_to_dense(options: Options, index: Any, shape: Any, values: Any, default: Any) -> Any:
    """The default everywhere but at the indices. *Domain*: indices inside the shape. *Restates*: SPARSE_TO_DENSE of LiteRT."""
    values, default = same_type(values, default)
    size = tuple(int(n) for n in np.ravel(shape))
    index = jnp.asarray(index).reshape(-1, len(size))
    dense = jnp.broadcast_to(jnp.asarray(default).reshape(()), size)
    places = tuple(index[:, axis] for axis in range(len(size)))
    return dense.at[places].set(jnp.broadcast_to(jnp.asarray(values), index.shape[:1]), mode="drop")


def _bucketize(options: Options, x: Any) -> Any:
    """int32: how many boundaries are not above x; whole numbers are compared as float32. *Restates*: BUCKETIZE of LiteRT."""
    count, x = jnp.zeros(x.shape, np.int32), jnp.asarray(x).astype(np.float32)
    for boundary in options.get("boundaries", ()):
        count = count + (~(x < np.float32(boundary))).astype(np.int32)
    return count


def _add_n(options: Options, *xs: Any) -> Any:
    """The sum of all, one after another. *Restates*: ADD_N of LiteRT."""
    total = xs[0]
    for x in xs[1:]:
        total = total + x
    return total


def _segmented(name: str, function: str) -> Op:
    real = _unsorted(function)
    kernels = copies(real, NUMBERS, ("T", "int32", "int32"), ("T",), static=(2,))
    cases = (
        Case(((5, 3), (5,), ()), {}, {1: (0, 2, 0, -1, 2), 2: 4}, {1: "int32", 2: "int32"}),
        Case(((2, 3, 2), (2, 3), ()), {}, {1: ((0, 1, 1), (0, 0, 1)), 2: 2}, {1: "int32", 2: "int32"}),
        Case(((6,), (6,), ()), {}, {1: (3, 3, 0, 1, 1, 3), 2: 5}, {1: "int32", 2: "int32"}),
    )
    return Op(name, real, Rule(static=(2,), keep_float=True, versions=ONCE), kernels, cases)


def _sparse(index: tuple, shape: tuple, values: tuple) -> Case:
    return Case((np.shape(index), (len(shape),), values, ()), {}, {0: index, 1: shape}, {0: "int32", 1: "int32"})


OPS = (
    Op(
        "SEGMENT_SUM",
        _segment_sum,
        Rule(static=(1,), keep_float=True, versions=ONCE),
        tuple(k for k in copies(_segment_sum, NUMBERS, ("T", "int32"), ("T",), static=(1,), flavours=("xnnpack", "builtin"))),
        (
            Case(((5, 3), (5,)), {}, {1: (0, 0, 1, 2, 2)}, {1: "int32"}),
            Case(((4,), (4,)), {}, {1: (0, 1, 2, 2)}, {1: "int32"}),
        ),
    ),
    _segmented("UNSORTED_SEGMENT_SUM", "add"),
    _segmented("UNSORTED_SEGMENT_PROD", "multiply"),
    _segmented("UNSORTED_SEGMENT_MAX", "max"),
    _segmented("UNSORTED_SEGMENT_MIN", "min"),
    Op(
        "SPARSE_TO_DENSE",
        _sparse_to_dense,
        Rule(data=(2, 3), static=(1,), keep_float=True, versions={"float32": 1, "int8": 3, "uint8": 3}),
        copies(_sparse_to_dense, ("float32", "int32", "int64", "int8", "uint8"), ("int32", "int32", "T", "T"), ("T",), static=(1,)),
        (
            _sparse(((0, 1), (2, 0), (3, 3)), (4, 4), (3,)),
            _sparse((1, 4), (6,), (2,)),
            _sparse(((0, 1, 1), (1, 0, 0)), (2, 2, 2), (2,)),
        ),
    ),
    Op(
        "BUCKETIZE",
        _bucketize,
        Rule(data=(), keep_float=True, versions=ONCE),
        copies(_bucketize, ("float32", "int32", "int64"), ("T",), ("int32",)),
        (Case(((3, 5),), {"boundaries": (-1.5, 0.0, 0.25, 3.0, 100.0)}), Case(((4,),), {"boundaries": (0.5,)})),
    ),
    Op(
        "ADD_N",
        _add_n,
        Rule(data="all", keep_float=True, versions=ONCE),
        copies(_add_n, NUMBERS, ("T*",), ("T",)),
        (Case(((2, 3), (2, 3))), Case(((2, 3, 4),) * 5)),
        host=True,
    ),
)
