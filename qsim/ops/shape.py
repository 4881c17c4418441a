"""RESHAPE, SQUEEZE, EXPAND_DIMS, SHAPE: the same elements under another shape, and the shape itself."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import Unsupported
from ..graph import Options
from ..op import FLAVOURS, Case, Kernel, Op, Plan, Rule, Site
from .common import each, require_tied
from .copying import WHOLE


def reshape_target(options: Options, shape: tuple[int, ...], value: Any) -> tuple[int, ...]:
    """Target shape of RESHAPE: the shape input's value if there is one, else the option new_shape; -1 takes what is left.

    A lone [0] means a scalar (old converters wrote it so).
    """
    wanted = options.get("new_shape", ()) if value is None else np.ravel(value)
    target = [int(v) for v in wanted]
    if target == [0] and np.prod(shape, dtype=np.int64) == 1:
        return ()
    rest = int(np.prod([v for v in target if v != -1], dtype=np.int64))
    return tuple(int(np.prod(shape, dtype=np.int64)) // max(rest, 1) if v == -1 else v for v in target)


def squeeze_target(options: Options, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape without the axes `squeeze_dims` (all axes of size 1 where the option is empty)."""
    axes = {a % len(shape) for a in options.get("squeeze_dims", ()) or ()}
    return tuple(n for i, n in enumerate(shape) if not (i in axes if axes else n == 1))


def expand_target(shape: tuple[int, ...], value: Any) -> tuple[int, ...]:
    axis = int(np.ravel(value)[0])
    axis = axis + len(shape) + 1 if axis < 0 else axis
    return (*shape[:axis], 1, *shape[axis:])


def _reshape(options: Options, x: Any, shape: Any = None) -> Any:
    return x.reshape(reshape_target(options, x.shape, shape))


def _squeeze(options: Options, x: Any) -> Any:
    return x.reshape(squeeze_target(options, x.shape))


def _expand(options: Options, x: Any, axis: Any) -> Any:
    return x.reshape(expand_target(x.shape, axis))


def _shape(options: Options, x: Any) -> np.ndarray:
    """The shape as a host value: it is static also inside a traced function."""
    return np.array(np.shape(x), options.get("out_type", "INT32").lower())


def _plan(site: Site, flavour: str) -> Plan:
    """static: the target shape (RESHAPE, SQUEEZE, EXPAND_DIMS)."""
    x, value = site.inputs[0], site.values[1] if len(site.values) > 1 else None
    if len(site.inputs) > 1 and site.inputs[1] is not None and value is None:
        raise Unsupported(f"the value of input 1 ({site.inputs[1].name!r}) is not known before the model runs", where=site.where)
    assert x is not None
    if site.node.op == "SQUEEZE":
        return Plan(squeeze_target(site.options, x.shape))
    if site.node.op == "EXPAND_DIMS":
        require_tied(site)
        return Plan(expand_target(x.shape, value))
    return Plan(reshape_target(site.options, x.shape, value))


def _run(options: Options, static: tuple[int, ...], leaves: dict, x: Any, *_: Any) -> Any:
    """A raw copy under the static shape; scales are never read."""
    return x.reshape(static)


def _run_shape(options: Options, static: tuple, leaves: dict, x: Any) -> np.ndarray:
    return _shape(options, x)


def _copies(inputs: tuple[str, ...]) -> tuple[Kernel, ...]:
    return each((*WHOLE, "bool", "int4"), inputs, ("T",), _plan, _run)


OPS = (
    Op(
        "RESHAPE",
        _reshape,
        Rule(tied=True, static=(1,), versions={"float32": 1, "int8": 1}),
        _copies(("T", "int32?")),
        (
            Case(((1, 4, 6), (2,)), {"new_shape": (1, 24)}, {1: (1, 24)}, {1: "int32"}),
            Case(((1, 4, 6), (3,)), {"new_shape": (-1, 8, 3)}, {1: (-1, 8, 3)}, {1: "int32"}),
            Case(((1, 5, 1, 2), (4,)), {}, {1: (1, 2, 5, 1)}, {1: "int32"}),
        ),
        host=True,
    ),
    Op(
        "SQUEEZE",
        _squeeze,
        Rule(tied=True, versions={"float32": 1, "int8": 1}),
        _copies(("T",)),
        (
            Case(((1, 1, 5, 1),), {"squeeze_dims": (1, 3)}),
            Case(((1, 3, 1, 7),), {"squeeze_dims": (-2,)}),
            Case(((2, 1, 7),), {"squeeze_dims": ()}),
        ),
        host=True,
    ),
    Op(
        "EXPAND_DIMS",
        _expand,
        Rule(tied=True, static=(1,), versions={"float32": 1, "int8": 1}),
        _copies(("T", "int32|int64")),
        (
            Case(((1, 4, 3), ()), {}, {1: 1}, {1: "int32"}),
            Case(((1, 4, 3), (1,)), {}, {1: (-1,)}, {1: "int32"}),
            Case(((1, 5), ()), {}, {1: -2}, {1: "int32"}),
        ),
        host=True,
    ),
    Op(
        "SHAPE",
        _shape,
        Rule(data=(), versions={"float32": 1, "int8": 1}, keep_float=True),
        (Kernel(("any",), ("int32|int64",), FLAVOURS, lambda site, flavour: Plan(), _run_shape),),
        (Case(((1, 4, 3),), {"out_type": "INT32"}), Case(((2, 1, 5, 3),), {"out_type": "INT64"})),
        host=True,
    ),
)
