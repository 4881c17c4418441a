"""DILATE, REDUCE_WINDOW, STABLEHLO_PAD, STABLEHLO_GATHER: elements spread, windows reduced, slices read at places that data name."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..errors import Invalid
from ..graph import Options
from ..op import Case, Op, Rule
from .common import same_type
from .copying import WHOLE, copies

ONCE = {"float32": 1}


def _dilate(options: Options, x: Any, dilations: Any, filler: Any) -> Any:
    """x with dilation - 1 fillers between neighbours along each axis. *Restates*: DILATE of LiteRT."""
    x, filler = (jnp.asarray(v) for v in same_type(x, filler))
    return lax.pad(x, filler.reshape(()), [(0, 0, int(d) - 1) for d in np.ravel(dilations)])


def pad(options: Options, x: Any, filler: Any) -> Any:
    """x with fillers before, behind and between; negative edges cut. *Restates*: STABLEHLO_PAD of LiteRT."""
    x, filler = (jnp.asarray(v) for v in same_type(x, filler))
    edges = zip(options.edge_padding_low, options.edge_padding_high, options.interior_padding, strict=True)
    return lax.pad(x, filler.reshape(()), [(int(low), int(high), int(inner)) for low, high, inner in edges])


_FUNCTIONS = {"ADD": lax.add, "MUL": lax.mul, "MINIMUM": lax.min, "MAXIMUM": lax.max, "ALL": lax.min, "ANY": lax.max}


def reduce_window(options: Options, x: Any, start: Any, window: Any, strides: Any, dilations: Any) -> Any:
    """start, and after it the elements of each window in order, reduced by reduce_function. ALL and ANY give 0 or 1.

    *Restates*: REDUCE_WINDOW of LiteRT.
    """
    name = options.get("reduce_function", "UNSUPPORTED")
    x, start = (jnp.asarray(v) for v in same_type(x, start))
    if name not in _FUNCTIONS or (x.dtype == bool and name in ("ADD", "MUL")):
        raise Invalid("REDUCE_WINDOW without a function of its type", found=f"{name} of {x.dtype}")
    if name in ("ALL", "ANY"):
        x, start = ((v != v.dtype.type(0)).astype(v.dtype) for v in (x, start))
    sizes, steps, gaps = (tuple(int(n) for n in np.ravel(v)) for v in (window, strides, dilations))
    shape = tuple((n - (w - 1) * d - 1) // s + 1 for n, w, s, d in zip(x.shape, sizes, steps, gaps, strict=True))
    found = jnp.broadcast_to(start.reshape(()), shape)
    for place in itertools.product(*map(range, sizes)):
        first = [p * d for p, d in zip(place, gaps, strict=True)]
        part = x[tuple(slice(f, f + (n - 1) * s + 1, s) for f, n, s in zip(first, shape, steps, strict=True))]
        found = _FUNCTIONS[name](found, part)
    return found


def _gather(options: Options, x: Any, index: Any) -> Any:
    """Slices of x that start where the vectors of `index` say, moved inside x where they stick out. *Restates*: STABLEHLO_GATHER."""
    axis = int(options.index_vector_dim)
    index = jnp.asarray(index)
    index = index[..., None] if axis == index.ndim else jnp.moveaxis(index, axis, -1)
    fields = (options.offset_dims, options.collapsed_slice_dims, options.start_index_map)
    numbers = lax.GatherDimensionNumbers(*(tuple(int(n) for n in field) for field in fields))
    sizes = tuple(int(n) for n in options.slice_sizes)
    return lax.gather(jnp.asarray(x), index, numbers, sizes, mode=jax.lax.GatherScatterMode.CLIP)


def _windows(shape: tuple, window: tuple, strides: tuple, dilations: tuple, function: str) -> Case:
    sizes = [(len(window),)] * 3
    values = {2: window, 3: strides, 4: dilations}
    return Case((shape, (), *sizes), {"reduce_function": function}, values, dict.fromkeys(values, "int64"))


def _slices(
    shape: tuple, index: tuple, offset: tuple, collapsed: tuple, start: tuple, axis: int, sizes: tuple, kind: str = "int32"
) -> Case:
    options = {
        "offset_dims": offset, "collapsed_slice_dims": collapsed, "start_index_map": start, "index_vector_dim": axis, "slice_sizes": sizes,
        "indices_are_sorted": False,
    }  # fmt: skip
    return Case((shape, np.shape(index)), options, {1: index}, {1: kind})


def _edges(shape: tuple, low: tuple, high: tuple, inner: tuple) -> Case:
    return Case((shape, ()), {"edge_padding_low": low, "edge_padding_high": high, "interior_padding": inner})


_MOVED = (*WHOLE, "bool")
_PLACES = (((1, 0), (0, 3), (2, 9)), ((0, 0), (-1, 1), (1, 1)))

OPS = (
    Op(
        "DILATE",
        _dilate,
        Rule(data=(0, 2), tied=True, static=(1,), keep_float=True, versions=ONCE),
        copies(_dilate, _MOVED, ("T", "int32", "T"), ("T",), static=(1,)),
        (
            Case(((2, 3, 2), (3,), ()), {}, {1: (2, 1, 3)}, {1: "int32"}),
            Case(((4,), (1,), ()), {}, {1: (1,)}, {1: "int32"}),
        ),
    ),
    Op(
        "REDUCE_WINDOW",
        reduce_window,
        Rule(data=(0, 1), static=(2, 3, 4), keep_float=True, versions=ONCE),
        copies(
            reduce_window, WHOLE[:-1], ("T", "T", "int64", "int64", "int64"), ("T",), static=(2, 3, 4),
        ),
        (
            _windows((4, 5), (2, 2), (1, 2), (1, 1), "ADD"),
            _windows((7,), (3,), (2,), (2,), "MUL"),
            _windows((2, 6, 5), (1, 3, 2), (1, 1, 1), (1, 2, 1), "MAXIMUM"),
            _windows((3, 4), (3, 1), (1, 1), (1, 1), "MINIMUM"),
            _windows((4, 5), (2, 2), (2, 2), (1, 1), "ALL"),
            _windows((4, 5), (2, 3), (1, 1), (2, 1), "ANY"),
        ),
    ),
    Op(
        "STABLEHLO_PAD",
        pad,
        Rule(data=(0, 1), tied=True, keep_float=True, versions=ONCE),
        copies(pad, _MOVED, ("T", "T"), ("T",)),
        (
            _edges((2, 3), (1, 2), (2, 0), (0, 0)),
            _edges((2, 3, 2), (1, -1, 0), (0, 2, -1), (1, 0, 2)),
        ),
    ),
    Op(
        "STABLEHLO_GATHER",
        _gather,
        Rule(tied=True, keep_float=True, versions=ONCE),
        copies(_gather, _MOVED, ("T", "int32|int64"), ("T",)),
        (
            _slices((3, 4, 2), _PLACES, (2, 3), (0,), (1, 0), 2, (1, 2, 2)),
            _slices((5, 3), (4, 0, 7), (1,), (0,), (0,), 1, (1, 3), "int64"),
            _slices((4, 4), ((0, 3), (2, 1)), (0,), (0,), (0, 1), 0, (1, 3)),
        ),
    ),
)  # fmt: skip
