"""GATHER_ND, SCATTER_ND, EMBEDDING_LOOKUP, DYNAMIC_UPDATE_SLICE: elements read and written at places that data name."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import Invalid, Unsupported
from ..graph import Options
from ..op import FLAVOURS, Case, Kernel, Op, Plan, Rule, Site, namespace
from ..types import TYPES
from .common import Leaves, same_type
from .copying import WHOLE, copies


def _places(index: Any, shape: tuple[int, ...]) -> tuple[Any, ...]:
    """index (..., d) as d index arrays, each held inside its axis."""
    ns = namespace(index)
    return tuple(ns.clip(index[..., d], index.dtype.type(0), index.dtype.type(shape[d] - 1)) for d in range(index.shape[-1]))


def _gather_nd(options: Options, x: Any, index: Any) -> Any:
    """Slices x[index[...]]. *Domain*: indices inside x; others read the nearest element (an error in LiteRT). *Restates*: GATHER_ND."""
    return (x if namespace(x, index) is np else jnp.asarray(x))[_places(index, x.shape)]


def _scatter_nd(options: Options, index: Any, updates: Any, shape: Any) -> Any:
    """Zeros (codes 0 where quantized) to which updates are added at the indices; sums wrap, bools are or-ed.

    *Domain*: indices inside the shape; others write to the nearest element (an error in LiteRT). *Restates*: SCATTER_ND of LiteRT.
    """
    size = tuple(np.ravel(shape).tolist())
    empty = jnp.zeros(size, updates.dtype).at[_places(index, size)]
    return empty.max(updates) if updates.dtype == bool else empty.add(updates)


def _embedding(options: Options, ids: Any, table: Any) -> Any:
    """Rows of a table. *Domain*: ids inside the table; others read the nearest row (an error in LiteRT). *Restates*: EMBEDDING_LOOKUP."""
    return namespace(ids, table).take(table, ids, axis=0, mode="clip")


def _plan_widened(site: Site, flavour: str) -> Plan:
    table = site.inputs[1]
    q = table.qparams if table is not None else None
    if table is None or q is None or np.any(q.zero_point) or q.axis != 0:
        raise Invalid("the table needs scales of its rows, zero point 0", where=site.where, hint="LiteRT refuses such a file")
    if math.prod(table.shape[1:]) * TYPES[table.type].bits % 8:
        raise Unsupported("rows of codes that do not fill bytes", where=site.where, hint="LiteRT reads them from whole bytes on")
    scale = np.asarray(q.scale, np.float32)
    return Plan(scale.size, {"scale": scale}, "rows times their scale")


def _run_widened(options: Options, static: int, leaves: Leaves, ids: Any, table: Any) -> Any:
    """f32(q) * s, s of the table or of the row; uint8 codes are read as int8.

    *Restates*: EMBEDDING_LOOKUP of LiteRT, hybrid.
    """
    rows = jax.lax.bitcast_convert_type(_embedding(options, ids, table), np.int8).astype(np.float32)
    scale = leaves["scale"] if static == 1 else jnp.take(leaves["scale"], ids, mode="clip")
    return rows * scale.reshape((-1,) + (1,) * (rows.ndim - 1))


def _update(options: Options, x: Any, update: Any, start: Any) -> Any:
    """x with `update` written at `start`, moved inside x where it would stick out. *Restates*: DYNAMIC_UPDATE_SLICE of LiteRT."""
    x, update = same_type(x, update)
    x, update, start = (jnp.asarray(v) for v in (x, update, start))
    return jax.lax.dynamic_update_slice(x, update, [jnp.maximum(start[i], start.dtype.type(0)) for i in range(x.ndim)])


def _scattered(index: tuple, updates: tuple, shape: tuple) -> Case:
    return Case((np.shape(index), updates, (len(shape),)), {}, {0: index, 2: shape}, {0: "int32", 2: "int32"})


OPS = (
    Op(
        "GATHER_ND",
        _gather_nd,
        Rule(tied=True),
        copies(_gather_nd, (*WHOLE, "bool"), ("T", "int32|int64"), ("T",)),
        (
            Case(((3, 4, 2), (3, 2)), {}, {1: ((0, 3), (2, 1), (2, 1))}, {1: "int32"}),
            Case(((5, 2), (2, 2, 1)), {}, {1: (((4,), (0,)), ((1,), (2,)))}, {1: "int64"}),
        ),
    ),
    Op(
        "SCATTER_ND",
        _scatter_nd,
        Rule(data=(1,), static=(2,), keep_float=True, versions={"float32": 1, "int8": 1}),
        copies(_scatter_nd, ("float32", "int8", "uint8", "int32", "int64", "bool"), ("int32", "T", "int32"), ("T",), static=(2,)),
        (_scattered(((3,), (0,), (3,)), (3, 2), (5, 2)), _scattered(((0, 1), (2, 3), (1, 1)), (3,), (3, 4))),
    ),
    Op(
        "EMBEDDING_LOOKUP",
        _embedding,
        Rule(data=(1,), keep_float=True, versions={"float32": 1, "int8": 3, "float32 x int8": 3, "float32 x int4": 4}),
        (
            *copies(_embedding, ("float32", "int8", "uint8", "int32"), ("int32", "T"), ("T",)),
            *(Kernel(("int32", t), ("float32",), FLAVOURS, _plan_widened, _run_widened) for t in ("int8", "uint8", "int4", "int2")),
        ),
        (Case(((4,), (6, 8)), {}, {}, {0: "int32"}, constant=(1,)),),
    ),
    Op(
        "DYNAMIC_UPDATE_SLICE",
        _update,
        Rule(data=(0, 1), tied=True),
        copies(_update, (*WHOLE, "bool"), ("T", "T", "int32|int64"), ("T",)),
        (
            Case(((1, 5, 4), (1, 2, 3), (3,)), {}, {2: (0, 2, 1)}, {2: "int32"}),
            Case(((6, 3), (2, 3), (2,)), {}, {}, {2: "int32"}),
            Case(((6, 3), (2, 2), (2,)), {}, {2: (5, -1)}, {2: "int64"}),
        ),
    ),
)
