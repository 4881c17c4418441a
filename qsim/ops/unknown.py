"""Ops whose results no pure function of fixed shapes can give (WHERE, UNIQUE: unless their input is constant), BITCAST, and why others
are not there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jax import lax

from ..errors import Unsupported
from ..graph import Options
from ..op import Op, Rule
from ..types import TYPES

_TABLE = "hash tables are not supported"
_RANDOM = "its results are random"

MISSING: Mapping[str, str] = {
    **dict.fromkeys(("HASHTABLE", "HASHTABLE_FIND", "HASHTABLE_IMPORT", "HASHTABLE_SIZE", "HASHTABLE_LOOKUP"), _TABLE),
    **dict.fromkeys(("RANDOM_UNIFORM", "RANDOM_STANDARD_NORMAL", "MULTINOMIAL", "STABLEHLO_RNG_BIT_GENERATOR"), _RANDOM),
    "STABLEHLO_CASE": "its branches are subgraphs, which are not supported",
}


def why_missing(op: str) -> str:
    """Why there is no record of this op, in words."""
    return f"op {op} is not known" + (f": {MISSING[op]}" if op in MISSING else "")


def _where(options: Options, x: Any) -> np.ndarray:
    """Indices of the elements that are not 0, a host value (their number fixes the shape). *Restates*: WHERE of LiteRT."""
    return np.argwhere(np.asarray(x)).astype(np.int64)


def _unique(options: Options, x: Any) -> tuple[np.ndarray, np.ndarray]:
    """The different elements in the order in which they appear, and where each element is among them; host values.

    *Restates*: UNIQUE of LiteRT.
    """
    values, first, back = np.unique(np.ravel(x), return_index=True, return_inverse=True)
    order = np.argsort(first)
    place = np.empty_like(order)
    place[order] = np.arange(order.size)
    return values[order], place[np.ravel(back)].astype(options.get("idx_out_type", "INT32").lower())


def _bitcast(options: Options, x: Any) -> Any:
    """The same bytes as elements of another type, with a last axis where they are smaller. *Restates*: BITCAST of LiteRT."""
    dtype = np.dtype(TYPES[options.out_type].dtype)
    if dtype.itemsize == 8 or bool in (dtype, x.dtype):
        raise Unsupported("BITCAST of 64-bit numbers or bools", found=f"{x.dtype} to {dtype}")
    return lax.bitcast_convert_type(x, dtype)


OPS = (
    Op("WHERE", _where, Rule(data=(), static=(0,), keep_float=True, versions={"float32": 1}), host=True),
    Op("UNIQUE", _unique, Rule(data=(), static=(0,), keep_float=True, versions={"float32": 1}), host=True),
    Op("BITCAST", _bitcast, Rule(data=(), keep_float=True, typed=True, versions={"float32": 1})),
)
