"""SQUARED_DIFFERENCE, DIV, POW, FLOOR_DIV, FLOOR_MOD: arithmetic of two operands, with broadcasting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..errors import Unsupported
from ..fixed import high_mul, quantize_multiplier, requantize, shift_away, store
from ..graph import Options
from ..op import FLAVOURS, Case, Kernel, Op, Plan, Rule, Site, namespace
from .common import Leaves, activate, affine, align, body, bounds, each, f32, require_centred, same_type, type_bounds
from .softmax import reciprocal


def _real(function: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    def real(options: Options, a: Any, b: Any) -> Any:
        return activate(options.get("fused_activation_function", "NONE"), function(*align(*same_type(a, b))))

    return real


def _zeros(site: Site) -> Leaves:
    return {f"{name}_zero_point": np.int32(affine(site, t)[1]) for name, t in zip("ab", site.inputs, strict=True)}


def _centred(leaves: Leaves, a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    a, b = align(a, b)
    return a.astype(np.int32) - leaves["a_zero_point"], b.astype(np.int32) - leaves["b_zero_point"]


# ---------------------------------------------------------------- SQUARED_DIFFERENCE


def _plan_squared(site: Site, flavour: str) -> Plan:
    (sa, _), (sb, _), (sy, _) = (affine(site, t) for t in (*site.inputs, site.outputs[0]))
    twice = 2.0 * max(float(sa), float(sb))
    out = twice * twice / float(f32(f32(1 << 14) * sy))
    if out >= 1:
        raise Unsupported("the output scale of SQUARED_DIFFERENCE is too small for the kernel", where=site.where, found=float(sy))
    leaves: Leaves = {**_zeros(site), **type_bounds(site)}
    for name, real in (("a", float(sa) / twice), ("b", float(sb) / twice), ("output", out)):
        (leaves[f"{name}_multiplier"],), (leaves[f"{name}_shift"],) = quantize_multiplier(real)
    return Plan((), leaves, "fixed point, three double roundings")


def _run_squared(options: Options, static: tuple, leaves: Leaves, a: jax.Array, b: jax.Array) -> jax.Array:
    """y = clip(MBQM(d^2, (2 max(s_a, s_b))^2 / (2^14 s_y)) + z_y), d the difference of MBQM(2^7 (q - z), s / (2 max(s_a, s_b))).

    *Restates*: SQUARED_DIFFERENCE of LiteRT for int8, the same in every flavour.
    """
    x, y = (
        requantize(v << np.int32(7), leaves[f"{name}_multiplier"], leaves[f"{name}_shift"], small=True, left=False)
        for name, v in zip("ab", _centred(leaves, a, b), strict=True)
    )
    d = x - y
    square = requantize(d * d, leaves["output_multiplier"], leaves["output_shift"], left=False)
    return store(square, leaves["zero_point"], leaves["act_min"], leaves["act_max"], a.dtype)


# ---------------------------------------------------------------- DIV


def _divide(a: Any, b: Any) -> Any:
    """a / b; integers toward zero."""
    if not np.issubdtype(a.dtype, np.integer):
        return a / b
    quotient = abs(a) // abs(b)
    return namespace(a, b).where((a < 0) == (b < 0), quotient, -quotient)


def _plan_quotient(site: Site, flavour: str) -> Plan:
    require_centred(site)
    (sa, _), (sb, _), (sy, _) = (affine(site, t) for t in (*site.inputs, site.outputs[0]))
    (m,), (e,) = quantize_multiplier(f32(sa / f32(sb * sy)))
    if e > 14:  # operands have at least 15 spare bits: every shift is to the right
        raise Unsupported("DIV needs s_a / (s_b s_y) below 2^14", where=site.where, found=float(f32(sa / f32(sb * sy))))
    leaves = {**_zeros(site), **bounds(site, "builtin"), "multiplier": m, "shift": e}
    return Plan((), leaves, "a fixed-point reciprocal of each divisor")


def _run_quotient(options: Options, static: tuple, leaves: Leaves, a: jax.Array, b: jax.Array) -> jax.Array:
    """y = clip(RS(HM(HM(x 2^h, 1 / d), m), right) + z_y): x, d the operands less their zero points, d made positive and scaled to
    [1/2, 1) for its reciprocal by three Newton steps, h the spare sign bits of x, m 2^e = s_a / (s_b s_y).

    Right shifts beyond 31 (x near its zero point) are undefined in C++ and taken as x86 takes them: small quotients come out wrong,
    and 0 / d one step above the zero point. So no model is quantized here.

    *Domain*: no divisor at its zero point (LiteRT stops there); s_a / (s_b s_y) < 2^14.
    *Restates*: DIV of LiteRT, the same in every flavour.
    """
    x, d = jnp.broadcast_arrays(*_centred(leaves, a, b))
    x, d = jnp.where(d < 0, -x, x), jnp.abs(d)
    zeros = lax.clz(d)
    inverse = reciprocal((d << zeros) ^ np.int32(-(2**31)))
    spare = lax.clz(jnp.where(x < 0, ~x, x)) - np.int32(1)
    quotient = high_mul(high_mul(x << spare, inverse), jnp.asarray(leaves["multiplier"], np.int32))
    right = (np.int32(31) - zeros) + spare - leaves["shift"]
    near = shift_away(quotient, jnp.clip(right, np.int32(0), np.int32(31)))
    far = (quotient >> (right & np.int32(31))) + (quotient >= 0).astype(np.int32)
    y = jnp.where(right > 31, far, near)
    return store(y, leaves["zero_point"], leaves["act_min"], leaves["act_max"], a.dtype)


# ---------------------------------------------------------------- numbers without quantization


def _plan_numbers(site: Site, flavour: str) -> Plan:
    return Plan()


def _floor_divide(a: Any, b: Any, alike: bool) -> Any:
    """floor(a / b). The lowest of int8 or int16 by -1 wraps; of two arrays of one shape it saturates in whole blocks of 8."""
    ns = namespace(a, b)
    quotient = ns.floor_divide(a, b)
    if a.dtype not in (np.int8, np.int16) or not alike:
        return quotient
    ends, block = np.iinfo(a.dtype), body(a.shape, 8)
    beyond = (a == np.asarray(ends.min, a.dtype)) & (b == np.asarray(-1, a.dtype))
    return ns.where(beyond if block is None else beyond & block, np.asarray(ends.max, a.dtype), quotient)


def _floor_mod(a: Any, b: Any, alike: bool) -> Any:
    return namespace(a, b).mod(a, b)


def _power(a: Any, b: Any, alike: bool) -> Any:
    """a^b. int32, by squaring: -2^31 where the power does not fit (the x86 conversion); wraps where b alone is a single number."""
    if not np.issubdtype(a.dtype, np.integer):
        return a**b
    ns = namespace(a, b)
    if b.size == 1 and not alike:
        return _squared(ns, a, b)
    if ns is np:
        return _fitting(np, _squared(np, a.astype(np.float64), b), a.dtype)
    with jax.enable_x64(True):
        return _fitting(jnp, _squared(jnp, a.astype(np.float64), b), a.dtype)


def _squared(ns: Any, base: Any, b: Any) -> Any:
    """base^b, b below 2^31; in float64 exact up to 2^53."""
    result = ns.ones(np.broadcast_shapes(base.shape, b.shape), base.dtype)
    with np.errstate(over="ignore"):
        for bit in range(31):
            odd = (b >> np.asarray(bit, b.dtype)) & np.asarray(1, b.dtype) != np.asarray(0, b.dtype)
            result = ns.where(odd, result * base, result)
            base = base * base
    return result


def _fitting(ns: Any, x: Any, dtype: Any) -> Any:
    fits = (x >= np.float64(-(2.0**31))) & (x < np.float64(2.0**31))
    return ns.where(fits, x, np.float64(-(2.0**31))).astype(dtype)


def _numbers(name: str, function: Callable[..., Any], types: tuple[str, ...]) -> Op:
    """function: of two arrays of one rank, and whether their shapes were the same as they came."""

    def real(options: Options, a: Any, b: Any) -> Any:
        return function(*align(*same_type(a, b)), np.shape(a) == np.shape(b))

    def run(options: Options, static: tuple, leaves: Leaves, a: Any, b: Any) -> Any:
        """The function of the stored numbers; scales and zero points are never read. *Domain*: no divisor of 0, no power below 0.

        *Restates*: POW, FLOOR_DIV, FLOOR_MOD of LiteRT.
        """
        return real(options, a, b)

    rows = each(types, ("T", "T"), ("T",), _plan_numbers, run)
    rule = Rule(data=(0, 1), versions={"float32": 1, "int8": 1}, keep_float=True)
    return Op(name, real, rule, rows, (*_PLAIN, Case(((5,), (1, 5)))), host=True)


_FUSED = {"fused_activation_function": "NONE"}
_PLAIN = (
    Case(((1, 4, 5, 3), (1, 4, 5, 3))),
    Case(((1, 7, 3, 5), (5,))),
    Case(((1, 3, 1), (2, 1, 4))),
    Case(((1, 13), (1, 1))),
)
_DIV = tuple(Case(c.inputs, _FUSED) for c in _PLAIN)
_TYPES = ("int8", "uint8", "int16")

OPS = (
    Op(
        "SQUARED_DIFFERENCE",
        _real(lambda a, b: (a - b) * (a - b)),
        Rule(data=(0, 1)),
        (Kernel(("int8", "int8"), ("int8",), FLAVOURS, _plan_squared, _run_squared),),
        _PLAIN,
        host=True,
    ),
    Op(
        "DIV",
        _real(_divide),
        Rule(data=(0, 1), keep_float=True),
        each(_TYPES, ("T", "T"), ("T",), _plan_quotient, _run_quotient),
        _DIV,
        host=True,
    ),
    _numbers("POW", _power, ("int32",)),
    _numbers("FLOOR_DIV", _floor_divide, ("int8", "int16", "int32")),
    _numbers("FLOOR_MOD", _floor_mod, ("int8", "int16", "int32", "int64")),
)
