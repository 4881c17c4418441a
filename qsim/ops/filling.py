"""TILE, BROADCAST_TO, BROADCAST_ARGS, FILL, RANGE, ZEROS_LIKE, ONE_HOT, RANK, MATRIX_DIAG, MATRIX_SET_DIAG: elements repeated and made."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..graph import Options
from ..op import Case, Op, Rule, namespace
from .common import align, same_type
from .copying import WHOLE, copies

ONCE = {"float32": 1, "int8": 1}


def _tile(options: Options, x: Any, multiples: Any) -> Any:
    """x repeated along every axis. *Restates*: TILE of LiteRT."""
    return namespace(x).tile(x, tuple(np.ravel(multiples).tolist()))


def _broadcast_to(options: Options, x: Any, shape: Any) -> Any:
    """x repeated along axes of size 1 and new leading axes. *Restates*: BROADCAST_TO of LiteRT."""
    return namespace(x).broadcast_to(x, tuple(np.ravel(shape).tolist()))


def _broadcast_args(options: Options, a: Any, b: Any) -> Any:
    """The shape to which two shapes broadcast: where a is 1, b. *Restates*: BROADCAST_ARGS of LiteRT."""
    a, b = same_type(a, b)
    ns, rank = namespace(a, b), max(a.shape[0], b.shape[0])
    a, b = (ns.concatenate([ns.ones(rank - s.shape[0], s.dtype), s]) for s in (a, b))
    return ns.where(a == 1, b, a)


def _fill(options: Options, dims: Any, value: Any) -> Any:
    """One value everywhere. *Restates*: FILL of LiteRT."""
    return namespace(value).broadcast_to(value.reshape(()), tuple(np.ravel(dims).tolist()))


def _range(options: Options, start: Any, limit: Any, delta: Any) -> np.ndarray:
    """start, start + delta, ... short of limit; floats by repeated addition. *Restates*: RANGE of LiteRT."""
    start, limit, delta = (np.asarray(v).reshape(()) for v in (start, limit, delta))
    if start.dtype.kind != "f":
        return np.arange(start, limit, delta, dtype=start.dtype)
    count = max(int(np.ceil(np.abs(np.float64(limit) - np.float64(start)) / np.abs(np.float64(delta)))), 0)
    steps = np.full(count, delta, start.dtype)
    steps[:1] = start
    return np.cumsum(steps, dtype=start.dtype)


def _zeros_like(options: Options, x: Any) -> Any:
    return namespace(x).zeros_like(x)


def _one_hot(options: Options, index: Any, depth: Any, on: Any, off: Any) -> Any:
    """`on` at position index of a new axis, `off` elsewhere; off everywhere for an index outside. *Restates*: ONE_HOT of LiteRT."""
    on, off = same_type(on, off)
    ns, rank, depth = namespace(index, on, off), np.ndim(index) + 1, int(np.ravel(depth)[0])
    axis = int(options.get("axis", 0)) % rank
    steps = np.arange(depth, dtype=index.dtype).reshape((-1,) + (1,) * (rank - 1 - axis))
    hit = ns.equal(*align(ns.expand_dims(index, axis), steps))
    return ns.where(hit, *(ns.broadcast_to(v.reshape(()), hit.shape) for v in (on, off)))


def _rank(options: Options, x: Any) -> np.ndarray:
    """The number of axes, a host value."""
    return np.array(np.ndim(x), np.int32)


def _matrix_diag(options: Options, x: Any) -> Any:
    """Vectors on the diagonals of matrices of 0 (the code 0 where x is quantized). *Restates*: MATRIX_DIAG of LiteRT."""
    ns, shape = namespace(x), (*x.shape, x.shape[-1])
    on = ns.broadcast_to(np.eye(x.shape[-1], dtype=bool), shape)
    return ns.where(on, ns.broadcast_to(x[..., None], shape), ns.zeros(shape, x.dtype))


def _matrix_set_diag(options: Options, x: Any, diagonal: Any) -> Any:
    """Matrices with other diagonals. *Restates*: MATRIX_SET_DIAG of LiteRT."""
    x, diagonal = same_type(x, diagonal)
    ns, (rows, columns) = namespace(x, diagonal), x.shape[-2:]
    position = np.minimum(np.arange(rows), min(rows, columns) - 1)
    spread = ns.broadcast_to(diagonal[..., position][..., None], x.shape)
    return ns.where(ns.broadcast_to(np.eye(rows, columns, dtype=bool), x.shape), spread, x)


def _shaped(shape: tuple, value: tuple, kind: str = "int32") -> Case:
    return Case((shape, (len(value),)), {}, {1: value}, {1: kind})


def _filled(dims: tuple, kind: str) -> Case:
    return Case(((len(dims),), ()), {}, {0: dims}, {0: kind})


def _hot(shape: tuple, axis: int, kind: str) -> Case:
    return Case((shape, (), (), ()), {"axis": axis}, {1: 5}, {0: kind, 1: "int32"})


OPS = (
    Op(
        "TILE",
        _tile,
        Rule(tied=True, static=(1,)),
        copies(_tile, (*WHOLE, "bool"), ("T", "int32|int64"), ("T",), static=(1,)),
        (_shaped((1, 3, 2), (1, 2, 3)), _shaped((2, 3), (2, 1), "int64")),
        host=True,
    ),
    Op(
        "BROADCAST_TO",
        _broadcast_to,
        Rule(tied=True, static=(1,), versions=dict.fromkeys((*WHOLE, "bool"), 2)),
        copies(_broadcast_to, (*WHOLE, "bool"), ("T", "int32|int64"), ("T",), static=(1,)),
        (_shaped((1, 3, 1), (2, 3, 4)), _shaped((3,), (1, 2, 3), "int64")),
        host=True,
    ),
    Op(
        "BROADCAST_ARGS",
        _broadcast_args,
        Rule(data=(), versions=ONCE, keep_float=True),
        copies(_broadcast_args, ("int32", "int64"), ("T", "T"), ("T",)),
        (Case(((3,), (2,)), {}, {1: (1, 1)}), Case(((1,), (3,)), {}, {0: (1,)})),
        host=True,
    ),
    Op(
        "FILL",
        _fill,
        Rule(data=(1,), tied=True, static=(0,)),
        copies(_fill, (*WHOLE, "bool"), ("int32|int64", "T"), ("T",), static=(0,), tied=(1,)),
        (_filled((2, 3), "int32"), _filled((1, 2, 2), "int64")),
        host=True,
    ),
    Op("RANGE", _range, Rule(data=(), static=(0, 1, 2), versions=ONCE, keep_float=True), host=True),
    Op(
        "ZEROS_LIKE",
        _zeros_like,
        Rule(data=(), versions=ONCE, keep_float=True),
        copies(_zeros_like, ("float32", "int32", "int64"), ("T",), ("T",)),
        (Case(((1, 3, 2),)),),
        host=True,
    ),
    Op(
        "ONE_HOT",
        _one_hot,
        Rule(data=(2, 3), tied=True, static=(1,), versions=ONCE),
        copies(_one_hot, ("float32", "int8", "uint8", "int32", "int64", "bool"), ("int32|int64", "int32", "T", "T"), ("T",), static=(1,)),
        (_hot((2, 3), -1, "int32"), _hot((4, 3), 1, "int64"), _hot((3,), 0, "int32")),
        host=True,
    ),
    Op(
        "RANK",
        _rank,
        Rule(data=(), versions=ONCE, keep_float=True),
        copies(_rank, WHOLE, ("T",), ("int32",)),
        (Case(((1, 4, 3),)),),
        host=True,
    ),
    Op(
        "MATRIX_DIAG",
        _matrix_diag,
        Rule(tied=True, versions=ONCE, keep_float=True),
        copies(_matrix_diag, WHOLE, ("T",), ("T",)),
        (Case(((2, 4),)), Case(((1, 2, 3),))),
    ),
    Op(
        "MATRIX_SET_DIAG",
        _matrix_set_diag,
        Rule(data=(0, 1), tied=True, versions=ONCE),
        copies(_matrix_set_diag, WHOLE, ("T", "T"), ("T",)),
        (Case(((2, 3, 4), (2, 3))), Case(((4, 2), (2,)))),
    ),
)
