"""STABLEHLO_REDUCE_WINDOW, STABLEHLO_SCATTER: reductions whose function is a subgraph of one op, which `named` turns into an option."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from ..errors import Unsupported
from ..graph import Graph, Model, Node, Options
from ..op import Op, Rule
from .common import same_type
from .copying import WHOLE, copies
from .windows import pad, reduce_window

BODIES = {"STABLEHLO_REDUCE_WINDOW": "body_subgraph_index", "STABLEHLO_SCATTER": "update_computation_subgraph_index"}
_STABLE = {"STABLEHLO_ADD": "ADD", "STABLEHLO_MULTIPLY": "MUL", "STABLEHLO_MAXIMUM": "MAXIMUM", "STABLEHLO_MINIMUM": "MINIMUM"}
_FUNCTIONS = {
    "STABLEHLO_SCATTER": _STABLE,
    "STABLEHLO_REDUCE_WINDOW": {
        **_STABLE,
        **{"ADD": "ADD", "MUL": "MUL", "MAXIMUM": "MAXIMUM", "MINIMUM": "MINIMUM"},
        **{"LOGICAL_AND": "ALL", "STABLEHLO_AND": "ALL", "LOGICAL_OR": "ANY", "STABLEHLO_OR": "ANY"},
    },
}


def named(model: Model, node: Node) -> Node:
    """The node with the function of its body as the option reduce_function. Raises: Unsupported for other bodies than LiteRT takes."""
    index = int(node.options[BODIES[node.op]])
    body = model.graphs[index] if 0 <= index < len(model.graphs) else Graph((), (), (), ())
    ops = [n.op for n in body.nodes]
    name = "UPDATE" if node.op == "STABLEHLO_SCATTER" and not ops else _FUNCTIONS[node.op].get(ops[0]) if len(ops) == 1 else None
    if name is None:
        raise Unsupported("a body that LiteRT does not take", where=f"op {node.index} {node.op}", found=", ".join(ops) or "nothing")
    return node.but(options=node.options.but(reduce_function=name))


def _reduce(options: Options, x: Any, start: Any) -> Any:
    """x spread and padded by start, then the windows of it reduced. *Restates*: STABLEHLO_REDUCE_WINDOW of LiteRT."""
    x, start = (jnp.asarray(v) for v in same_type(x, start))
    ones = (1,) * x.ndim
    edges = np.reshape(options.padding or (0,) * (2 * x.ndim), (x.ndim, 2))
    window, strides, base, dilations = (
        options.get(n) or ones for n in ("window_dimensions", "window_strides", "base_dilations", "window_dilations")
    )
    spread = Options(edge_padding_low=(0,) * x.ndim, edge_padding_high=(0,) * x.ndim, interior_padding=tuple(b - 1 for b in base))
    framed = Options(edge_padding_low=edges[:, 0], edge_padding_high=edges[:, 1], interior_padding=(0,) * x.ndim)
    return reduce_window(options, pad(framed, pad(spread, x, start), start), start, window, strides, dilations)


_WRITES = {"UPDATE": "set", "ADD": "add", "MUL": "multiply", "MAXIMUM": "max", "MINIMUM": "min"}


def _scatter(options: Options, x: Any, index: Any, updates: Any) -> Any:
    """x with the elements of windows combined with updates, those outside x left out; repeated places one after another.

    *Restates*: STABLEHLO_SCATTER of LiteRT.
    """
    x, updates = (jnp.asarray(v) for v in same_type(x, updates))
    index, axis = jnp.asarray(index).astype(np.int32), int(options.index_vector_dim)
    index = index[..., None] if axis == index.ndim else jnp.moveaxis(index, axis, -1)
    inner = tuple(options.update_window_dims)
    outer = [d for d in range(updates.ndim) if d not in inner]
    place = np.indices(updates.shape).reshape(updates.ndim, -1)
    starts = index[tuple(place[outer])] if outer else jnp.broadcast_to(index, (place.shape[1], index.shape[-1]))
    kept = [d for d in range(x.ndim) if d not in options.inserted_window_dims]
    where = []
    for d in range(x.ndim):
        at = jnp.zeros(place.shape[1], np.int32)
        if d in options.scatter_dims_to_operand_dims:
            at = at + starts[:, tuple(options.scatter_dims_to_operand_dims).index(d)]
        if d in kept:
            at = at + place[inner[kept.index(d)]].astype(np.int32)
        where.append(at)
    inside = jnp.ones(place.shape[1], bool)
    for at, size in zip(where, x.shape, strict=True):
        inside = inside & (at >= 0) & (at < np.int32(size))
    where = [jnp.where(inside, at, np.int32(size)) for at, size in zip(where, x.shape, strict=True)]
    return getattr(x.at[tuple(where)], _WRITES[options.reduce_function])(updates.reshape(-1), mode="drop")


_RULE = Rule(data=(), keep_float=True, versions={"float32": 1})

OPS = (
    Op("STABLEHLO_REDUCE_WINDOW", _reduce, _RULE, copies(_reduce, WHOLE[:-1], ("T", "T"), ("T",))),
    Op("STABLEHLO_SCATTER", _scatter, _RULE, copies(_scatter, (*WHOLE, "bool"), ("T", "int32|int64", "T"), ("T",))),
)
