"""EQUAL and its kin, LOGICAL_AND, LOGICAL_OR, LOGICAL_NOT, MAXIMUM, MINIMUM: choices between two operands, with broadcasting."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from ..errors import Unsupported
from ..fixed import quantize_multiplier, requantize
from ..graph import Options
from ..op import FLAVOURS, Case, Kernel, Op, Plan, Rule, Site, namespace
from .common import Leaves, affine, align, each, same_type

Operator = Callable[[Any, Any], Any]


def _real(function: Operator) -> Callable[..., Any]:
    def real(options: Options, a: Any, b: Any) -> Any:
        return function(*align(*same_type(a, b)))

    return real


# ---------------------------------------------------------------- comparisons


def _plan_scaled(site: Site, flavour: str) -> Plan:
    leaves: Leaves = {}
    for name, t in zip("ab", site.inputs, strict=True):
        scale, zero = affine(site, t)
        if scale >= 1:
            raise Unsupported("comparisons need scales below 1", where=site.where, found=float(scale))
        (m,), (e,) = quantize_multiplier(scale)
        leaves |= {f"{name}_zero_point": np.int32(zero), f"{name}_multiplier": m, f"{name}_shift": e}
    return Plan(("scaled",), leaves, "both sides in fixed point, 8 bits finer")


def _plan_raw(site: Site, flavour: str) -> Plan:
    return Plan(("raw",), {}, "stored numbers compared")


def _run_compare(function: Operator) -> Callable[..., jax.Array]:
    def run(options: Options, static: tuple, leaves: Leaves, a: jax.Array, b: jax.Array) -> jax.Array:
        """bool: a compared with b.

        8 bits, and int16 EQUAL and NOT_EQUAL: MBQM(2^8 (q - z), s) of both sides, in which different reals can be equal. int16 ordered:
        the codes, scales ignored. float32, int32, bool: the numbers.

        *Domain*: scales below 1. *Restates*: the comparisons of LiteRT, the same in every flavour.
        """
        if static[0] == "raw":
            return function(*align(a, b))
        sides = []
        for name, q in zip("ab", align(a, b), strict=True):
            fine = (q.astype(np.int32) - leaves[f"{name}_zero_point"]) << np.int32(8)
            sides.append(requantize(fine, leaves[f"{name}_multiplier"], leaves[f"{name}_shift"], small=True, left=False))
        return function(*sides)

    return run


_BROADCAST = (
    Case(((1, 4, 5, 3), (1, 4, 5, 3))),
    Case(((1, 7, 3, 5), (5,))),
    Case(((1, 3, 1), (2, 1, 4))),
    Case(((1, 13), (1, 1))),
)


def _comparison(name: str, function: Operator, types: tuple[str, ...]) -> Op:
    run, both = _run_compare(function), ("T", "T")
    wide = _plan_scaled if name in ("EQUAL", "NOT_EQUAL") else _plan_raw
    kernels = (
        *each(("int8", "uint8"), both, ("bool",), _plan_scaled, run),
        *each(("int16",), both, ("bool",), wide, run),
        *each(types, both, ("bool",), _plan_raw, run),
    )
    return Op(name, _real(function), Rule(data=(0, 1), keep_float=True), kernels, _BROADCAST, host=True)


# ---------------------------------------------------------------- LOGICAL_*


def _plan_none(site: Site, flavour: str) -> Plan:
    return Plan()


def _logical(name: str, function: Callable[..., Any], count: int) -> Op:
    def real(options: Options, *inputs: Any) -> Any:
        return function(*align(*inputs))

    def run(options: Options, static: tuple, leaves: Leaves, *inputs: Any) -> Any:
        """bool of bools. *Restates*: the LOGICAL ops of LiteRT."""
        return real(options, *inputs)

    cases = tuple(Case(c.inputs[:count]) for c in _BROADCAST)
    row = Kernel(("bool",) * count, ("bool",), FLAVOURS, _plan_none, run)
    return Op(name, real, Rule(data=(), keep_float=True, versions={"float32": 1, "bool": 1}), (row,), cases, host=True)


# ---------------------------------------------------------------- MAXIMUM, MINIMUM


def _extreme(name: str, lower: bool) -> Op:
    def choose(a: Any, b: Any) -> Any:
        ns = namespace(a, b)
        return ns.minimum(a, b) if lower else ns.maximum(a, b)

    def run(options: Options, static: tuple, leaves: Leaves, a: jax.Array, b: jax.Array) -> jax.Array:
        """The larger (smaller) of the stored codes; quantization parameters are never read.

        *Restates*: MAXIMUM and MINIMUM of LiteRT, the same in every flavour.
        """
        return choose(*align(a, b))

    types = ("int8", "uint8", "int16", "int32")
    return Op(name, _real(choose), Rule(data=(0, 1), tied=True), each(types, ("T", "T"), ("T",), _plan_none, run), _BROADCAST, host=True)


_ORDERED = ("float32", "int32")

OPS = (
    _comparison("EQUAL", operator.eq, (*_ORDERED, "bool")),
    _comparison("NOT_EQUAL", operator.ne, (*_ORDERED, "bool")),
    _comparison("LESS", operator.lt, _ORDERED),
    _comparison("LESS_EQUAL", operator.le, _ORDERED),
    _comparison("GREATER", operator.gt, _ORDERED),
    _comparison("GREATER_EQUAL", operator.ge, _ORDERED),
    _logical("LOGICAL_AND", operator.and_, 2),
    _logical("LOGICAL_OR", operator.or_, 2),
    _logical("LOGICAL_NOT", operator.invert, 1),
    _extreme("MAXIMUM", lower=False),
    _extreme("MINIMUM", lower=True),
)
