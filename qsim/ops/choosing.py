"""SELECT, SELECT_V2, ARG_MAX, ARG_MIN, TOPK_V2, CUMSUM, REVERSE_V2, REVERSE_SEQUENCE: elements chosen, ordered, summed along an axis."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from ..graph import Options
from ..op import Case, Op, Rule, namespace
from .common import align, carried, same_type
from .copying import WHOLE, copies

RAW = "stored numbers compared"
RANKED = ("float32", "int8", "uint8", "int32", "bool")  # types of ARG_MAX


def _select(options: Options, condition: Any, a: Any, b: Any) -> Any:
    """a where the condition holds, else b; the condition has their shape, or that of their first axis. *Restates*: SELECT of LiteRT."""
    a, b = same_type(a, b)
    ns = namespace(condition, a, b)
    if condition.shape != a.shape:
        condition = ns.broadcast_to(condition.reshape(condition.shape[:1] + (1,) * (np.ndim(a) - np.ndim(condition[:1]))), a.shape)
    return ns.where(condition, a, b)


def _select_v2(options: Options, condition: Any, a: Any, b: Any) -> Any:
    """a where the condition holds, else b; all three broadcast. *Restates*: SELECT_V2 of LiteRT."""
    a, b = same_type(a, b)
    ns = namespace(condition, a, b)
    shape = np.broadcast_shapes(condition.shape, a.shape, b.shape)
    return ns.where(*(ns.broadcast_to(v, shape) for v in (condition, a, b)))


def _extreme(name: str) -> Any:
    def real(options: Options, x: Any, axis: Any) -> Any:
        """Index of the largest (smallest) element along an axis, the first of equals. *Restates*: ARG_MAX, ARG_MIN of LiteRT."""
        ns = namespace(x)
        return getattr(ns, name)(x, axis=int(np.ravel(axis)[0])).astype(carried(options.get("output_type", "INT64").lower(), ns))

    return real


_arg_max, _arg_min = _extreme("argmax"), _extreme("argmin")


def _top(options: Options, x: Any, count: Any) -> tuple[Any, Any]:
    """The k largest along the last axis, descending, and their indices; equals by index. *Restates*: TOPK_V2 of LiteRT."""
    values, indices = jax.lax.top_k(x, int(np.ravel(count)[0]))
    return values, indices.astype(np.int32)


def _top_16(options: Options, x: Any, count: Any) -> tuple[Any, Any]:
    values, indices = _top(options, x, count)
    return values, indices.astype(np.int16)


def _cumsum(options: Options, x: Any, axis: Any) -> Any:
    """Running sums; `exclusive`: without the element itself; `reverse`: from the end. *Restates*: CUMSUM of LiteRT."""
    ns, axis = namespace(x), int(np.ravel(axis)[0]) % np.ndim(x)
    if options.get("reverse", False):
        x = ns.flip(x, axis)
    if options.get("exclusive", False):
        kept = x[(slice(None),) * axis + (slice(None, -1),)]
        x = ns.concatenate([ns.zeros((*x.shape[:axis], 1, *x.shape[axis + 1 :]), x.dtype), kept], axis)
    total = ns.cumsum(x, axis, dtype=x.dtype)
    return ns.flip(total, axis) if options.get("reverse", False) else total


def _reverse(options: Options, x: Any, axes: Any) -> Any:
    """Elements in reverse order along the axes. *Restates*: REVERSE_V2 of LiteRT."""
    return namespace(x).flip(x, tuple(np.ravel(axes).tolist()))


def _reverse_sequence(options: Options, x: Any, lengths: Any) -> Any:
    """The first lengths[b] elements along seq_dim in reverse order, b counting along batch_dim. *Restates*: REVERSE_SEQUENCE of LiteRT."""
    ns, seq, batch = namespace(x, lengths), int(options.get("seq_dim", 0)), int(options.get("batch_dim", 0))
    along = np.arange(x.shape[seq], dtype=lengths.dtype).reshape([-1 if a == seq else 1 for a in range(x.ndim)])
    ends = lengths.reshape([-1 if a == batch else 1 for a in range(x.ndim)])
    along, ends = (ns.broadcast_to(v, x.shape) for v in align(along, ends))
    return ns.take_along_axis(x, ns.where(along < ends, ends - along - lengths.dtype.type(1), along), axis=seq)


def _argued(shape: tuple, axis: int, kind: str) -> Case:
    return Case((shape, ()), {"output_type": kind.upper()}, {1: axis}, {1: "int32"})


def _chosen(condition: tuple, a: tuple, b: tuple) -> Case:
    return Case((condition, a, b), types={0: "bool"})


def _summed(shape: tuple, axis: int, **options: bool) -> Case:
    return Case((shape, ()), options, {1: axis}, {1: "int32"})


OPS = (
    Op(
        "SELECT",
        _select,
        Rule(data=(1, 2), tied=True),
        copies(_select, (*WHOLE, "bool"), ("bool", "T", "T"), ("T",)),
        (_chosen((2, 3), (2, 3), (2, 3)), _chosen((2,), (2, 3, 2), (2, 3, 2))),
        host=True,
    ),
    Op(
        "SELECT_V2",
        _select_v2,
        Rule(data=(1, 2), tied=True, versions={"float32": 1, "int8": 1}),
        copies(_select_v2, (*WHOLE, "bool"), ("bool", "T", "T"), ("T",)),
        (
            _chosen((2, 3), (2, 3), (2, 3)),
            _chosen((3, 1), (1, 2, 1, 4), (3, 4)),
            _chosen((), (2, 3), (3,)),
        ),
        host=True,
    ),
    *(
        Op(
            name,
            real,
            Rule(static=(1,)),
            tuple(k for kind in ("int32", "int64") for k in copies(real, RANKED, ("T", "int32|int64"), (kind,), static=(1,), note=RAW)),
            (_argued((1, 4, 7), -1, "int32"), _argued((2, 37), 1, "int64"), _argued((3, 4, 2), 0, "int32")),
            host=True,
        )
        for name, real in (("ARG_MAX", _arg_max), ("ARG_MIN", _arg_min))
    ),
    Op(
        "TOPK_V2",
        _top,
        Rule(tied=True, static=(1,)),
        (
            *copies(_top, WHOLE, ("T", "int32"), ("T", "int32"), static=(1,), note=RAW),
            *copies(_top_16, WHOLE, ("T", "int32"), ("T", "int16"), static=(1,), note=RAW),
        ),
        (Case(((2, 9), ()), {}, {1: 4}, {1: "int32"}, outputs=2), Case(((1, 40), ()), {}, {1: 40}, {1: "int32"}, outputs=2)),
    ),
    Op(
        "CUMSUM",
        _cumsum,
        Rule(static=(1,), versions={"float32": 1, "int8": 1}),
        copies(_cumsum, ("int32", "int64"), ("T", "int32"), ("T",), static=(1,)),
        (
            _summed((2, 5, 3), 1, exclusive=False, reverse=False),
            _summed((2, 5), -1, exclusive=True, reverse=False),
            _summed((3, 4), 0, exclusive=False, reverse=True),
            _summed((3, 4), 1, exclusive=True, reverse=True),
        ),
        host=True,
    ),
    Op(
        "REVERSE_V2",
        _reverse,
        Rule(tied=True, static=(1,)),
        copies(_reverse, (*WHOLE, "bool"), ("T", "int32"), ("T",), static=(1,)),
        (
            Case(((1, 4, 3), (1,)), {}, {1: (1,)}, {1: "int32"}),
            Case(((2, 3, 2), (2,)), {}, {1: (0, 1)}, {1: "int32"}),
        ),
        host=True,
    ),
    Op(
        "REVERSE_SEQUENCE",
        _reverse_sequence,
        Rule(tied=True, versions={"float32": 1, "int8": 1}),
        copies(_reverse_sequence, ("float32", "uint8", "int16", "int32", "int64"), ("T", "int32|int64"), ("T",)),
        (
            Case(((3, 5, 2), (3,)), {"seq_dim": 1, "batch_dim": 0}, {1: (0, 5, 3)}, {1: "int32"}),
            Case(((4, 2, 3), (2,)), {"seq_dim": 0, "batch_dim": 1}, {1: (1, 4)}, {1: "int64"}),
        ),
        host=True,
    ),
)
