"""EMBEDDING_LOOKUP_SPARSE: weighted rows of a table, added up where a sparse tensor of row numbers puts them."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from ..graph import Options
from ..op import Case, Op, Rule


def _combined(options: Options, ids: Any, index: Any, shape: Any, weights: Any, table: Any) -> Any:
    """The sum over i of weights[i] table[ids[i]] at index[i, :-1]; MEAN divides it by the sum of those weights, SQRTN by the root of the
    sum of their squares; zero where nothing lands. shape (r,) of the sparse tensor, index (n, r), result (*shape[:-1], *table.shape[1:]).

    *Domain*: entries in the order of their places; ids inside the table. *Restates*: EMBEDDING_LOOKUP_SPARSE of LiteRT.
    """
    outer, inner = tuple(int(n) for n in np.ravel(shape)[:-1]), table.shape[1:]
    index, weights = jnp.asarray(index), jnp.asarray(weights)
    places = tuple(index[:, axis] for axis in range(len(outer)))
    rows = jnp.take(table, jnp.asarray(ids), axis=0, mode="clip") * weights.reshape(-1, *(1,) * len(inner))
    total = jnp.zeros((*outer, *inner), table.dtype).at[places].add(rows)
    if options.combiner == "SUM":
        return total
    share = jnp.zeros(outer, table.dtype).at[places].add(weights if options.combiner == "MEAN" else weights * weights)
    share = jnp.where(share == 0, table.dtype.type(1), share if options.combiner == "MEAN" else jnp.sqrt(share))
    return total / share.reshape(*outer, *(1,) * len(inner))


def _case(combiner: str, ids: tuple, index: tuple, shape: tuple, row: tuple) -> Case:
    inputs = (len(ids),), (len(ids), len(shape)), (len(shape),), (len(ids),), (5, *row)
    return Case(inputs, {"combiner": combiner}, {0: ids, 1: index, 2: shape}, dict.fromkeys((0, 1, 2), "int32"))


OPS = (
    Op(
        "EMBEDDING_LOOKUP_SPARSE",
        _combined,
        Rule(data=(3, 4), static=(2,), versions={"float32": 1}),
        (),
        (
            *(_case(c, (1, 3, 0, 3), ((0, 0), (2, 0), (2, 1), (3, 0)), (4, 2), (3,)) for c in ("SUM", "MEAN", "SQRTN")),
            _case("MEAN", (4, 4, 2), ((0, 1, 0), (1, 0, 0), (1, 0, 1)), (2, 3, 2), (2, 2)),
        ),
    ),
)
