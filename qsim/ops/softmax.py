"""SOFTMAX: shares of exponentials along the last axis."""

from __future__ import annotations

import functools
import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..errors import Invalid, Unsupported
from ..fixed import high_mul, lookup, quantize_multiplier, requantize_host, shift_up, store
from ..graph import Options
from ..op import Case, Op, Plan, Rule, Site
from .common import Leaves, affine, each, f32
from .tables import interpolated, interpolation_table

# ---------------------------------------------------------------- SOFTMAX


def _real_softmax(options: Options, x: jax.Array) -> jax.Array:
    return jax.nn.softmax(x * np.asarray(options.get("beta", 1.0), x.dtype), axis=-1)


def _high_mul_host(a: Any, b: Any) -> np.ndarray:
    return (np.asarray(a, np.int64) * np.asarray(b, np.int64) + (1 << 30)) >> 31


# e^(-2^k) for k = -2 .. 4 in Q0.31: the factors by which exp is put together from the bits of its argument.
_EXP_FACTORS = ((-2, 1672461947), (-1, 1302514674), (0, 790015084), (1, 290630308), (2, 39332535), (3, 720401), (4, 242))


def exp_of_negative(a: Any) -> np.ndarray:
    """exp(a / 2^26) * 2^31 in the fixed-point steps of the kernels; a: integers <= 0 in Q5.26, result Q0.31 (0 gives 2^31 - 1).

    The argument is split into a part in [-1/4, 0), by Taylor's series about -1/8, and multiples of 1/4, by a product of constants.
    *Restates*: gemmlowp's exp_on_negative_values with 5 integer bits.
    """
    a = np.asarray(a, np.int64)
    quarter = 1 << 24
    part = (a & (quarter - 1)) - quarter
    x = (part << 5) + (1 << 28)
    x2 = _high_mul_host(x, x)
    x4 = _high_mul_host(x2, x2)
    cubic = _high_mul_host(_half_away(x4, 2) + _high_mul_host(x2, x), 715827883)
    centre = 1895147668  # e^(-1/8)
    result = centre + _high_mul_host(centre, x + _half_away(cubic + x2, 1))
    rest = part - a
    for k, factor in _EXP_FACTORS:
        result = np.where(rest >> (26 + k) & 1, _high_mul_host(result, factor), result)
    return np.where(a == 0, (1 << 31) - 1, result)


def _half_away(x: np.ndarray, bits: int) -> np.ndarray:
    """x / 2^bits, halves away from zero, on the host."""
    return np.sign(x) * ((np.abs(x) + (1 << bits >> 1)) >> bits)


def exp_table(scale: np.float32, beta: float) -> np.ndarray:
    """int32 (256,): exp(beta * scale * d) in Q0.31 for d = -255 .. 0; 0 where d is below the range the kernel sums."""
    (m,), (left,) = quantize_multiplier(min(float(f32(beta)) * float(scale) * 2.0**26, 2.0**31 - 1))
    m, left = int(m), int(left)
    d = np.arange(-255, 1, dtype=np.int64)
    lowest = -int(np.floor(31.0 * 2.0**26 / 2.0**left))
    raw = _high_mul_host(np.maximum(d, lowest) << left, m)
    return np.where(d >= lowest, exp_of_negative(raw), 0).astype(np.int32)


def reciprocal(a: jax.Array) -> jax.Array:
    """1 / (1 + a) for a in [0, 1), both Q0.31 in int32: three Newton steps from 48/17 - 32/17 d, d = (1 + a) / 2.

    *Restates*: gemmlowp's one_over_one_plus_x_for_x_in_0_1.
    """
    d = (a >> np.int32(1)) + np.int32(1 << 30)
    x = np.int32(1515870810) + high_mul(d, jnp.int32(-1010580540))
    for _ in range(3):
        x = x + (high_mul(x, np.int32(1 << 29) - high_mul(d, x)) << np.int32(2))
    return jnp.where(x > np.int32((1 << 30) - 1), np.int32((1 << 31) - 1), x << np.int32(1))


def float_exp_table(scale: np.float32, beta: float) -> np.ndarray:
    """float32 (256,): exp(-f32(beta * scale) * d) for d = 255 .. 0, each argument and result rounded to float32."""
    step = f32(-scale * f32(beta))
    return np.exp((step * np.arange(255, -1, -1, dtype=f32)).astype(np.float64)).astype(f32)


def _plan_softmax(site: Site, flavour: str) -> Plan:
    """static: (form, "reference" or "builtin", type of the output)."""
    scale, _ = affine(site, site.inputs[0])
    sy, zy = affine(site, site.outputs[0])
    out = site.outputs[0].type
    if out == "int8" and (zy != -128 or abs(float(sy) * 256 - 1) > 1e-3):
        raise Invalid(
            "SOFTMAX gives scale 1/256 and zero point -128 only",
            where=site.where,
            found=(float(sy), zy),
            hint="LiteRT refuses such a file",
        )
    beta = site.options.get("beta", 1.0)
    if flavour == "reference" and float(f32(beta)) * float(scale) <= 2.0**-26:
        raise Unsupported("beta times the input scale must exceed 2^-26", where=site.where, found=float(f32(beta)) * float(scale))
    if flavour == "reference":
        note = "fixed-point exponentials from a table, one reciprocal a row"
        return Plan(("reference", out), {"exp": exp_table(scale, beta)}, note)
    note = "float32 exponentials from a table, summed in order, one float32 reciprocal a row"
    leaves = {"exp": float_exp_table(scale, beta), "output_scale": sy, "zero_point": np.int32(0 if out == "uint8" else zy)}
    return Plan(("builtin", out), leaves, note)


def _run_softmax(options: Options, static: tuple[str, str], leaves: Leaves, x: jax.Array) -> jax.Array:
    """Softmax of int8/uint8 codes over the last axis; both forms take exp(beta s_x (q - rowmax)) from a table of 256.

    Reference: e in Q0.31, their sum in Q12.19, y = clip(RS(HM(1 / sum, e), shift) + low). Builtin (and the default interpreter, whose
    delegate does not take SOFTMAX): e in float32, summed in order, y = clip(round_away(f32(e r)) + z_y), r = f32(1 / f32(sum s_y));
    uint8: y = clip(trunc(f32(f32(e r) + 0.5))).

    *Domain*: output scale 1/256 (int16: 1/65536), zero point at the type's low end. Reference: the exponentials
    of a row sum to less than 512 (there the runtime stops the process); those below e^-31 count as 0.
    *Restates*: SOFTMAX of LiteRT (reference; optimized for x86, ARM differs).
    """
    codes = x.astype(np.int32)
    place = codes - jnp.max(codes, axis=-1, keepdims=True) + np.int32(255)
    e = jnp.take(jnp.asarray(leaves["exp"]), place, mode="clip")
    form, dtype = static[0], np.dtype(static[1])
    return _fixed_shares(e, dtype) if form == "reference" else _float_shares(e, leaves, dtype)


def _fixed_shares(e: jax.Array, dtype: np.dtype) -> jax.Array:
    """e in Q0.31 -> codes of e / sum."""
    total = jnp.sum((e >> np.int32(12)) + (e >> np.int32(11) & np.int32(1)), axis=-1, keepdims=True, dtype=np.int32)
    zeros = lax.clz(total)
    inverse = reciprocal((total << zeros) ^ np.int32(-(2**31)))
    product = high_mul(jnp.broadcast_to(inverse, e.shape), e)
    low, high = (np.int32(v) for v in (np.iinfo(dtype).min, np.iinfo(dtype).max))
    # Products are never negative: halves away from zero are halves up.
    right = np.int32(43 - 8 * dtype.itemsize) - zeros
    return store(shift_up(product, jnp.minimum(right, np.int32(31))), low, low, high, dtype)


def _float_shares(e: jax.Array, leaves: Leaves, dtype: np.dtype) -> jax.Array:
    """e in float32 -> codes of e / sum."""
    with jax.enable_x64(True):  # a float32 reciprocal through float64 is rounded as the CPU's own, whatever the device divides with
        divisor = lax.convert_element_type(ordered_sum(e) * leaves["output_scale"], np.float64)
        inverse = lax.convert_element_type(np.float64(1) / divisor, np.float32)
    share = jnp.maximum(e * inverse, np.float32(0))  # the maximum keeps product and sum from becoming one FMA
    low, high = (np.int32(v) for v in (np.iinfo(dtype).min, np.iinfo(dtype).max))
    if dtype == np.uint8:
        return store((share + np.float32(0.5)).astype(np.int32), leaves["zero_point"], low, high, dtype)
    whole = jnp.trunc(share)
    rounded = whole.astype(np.int32) + (share - whole >= np.float32(0.5)).astype(np.int32)
    return store(rounded, leaves["zero_point"], low, high, dtype)


def ordered_sum(x: jax.Array) -> jax.Array:
    """Sum over the last axis, kept, strictly from the first element to the last (a float sum depends on its order)."""
    n = x.shape[-1]
    if n <= 32:
        return functools.reduce(operator.add, (lax.slice_in_dim(x, i, i + 1, axis=-1) for i in range(n)))
    columns = jnp.moveaxis(x, -1, 0)
    total, _ = lax.scan(lambda t, v: (t + v, None), jnp.zeros_like(columns[0]), columns, unroll=16)
    return total[..., None]


# ---------------------------------------------------------------- SOFTMAX of int16


def _plan_softmax16(site: Site, flavour: str) -> Plan:
    scale, zero = affine(site, site.inputs[0])
    sy, zy = affine(site, site.outputs[0])
    if zero or zy or abs(float(sy) * 32768 - 1) > 1e-3:
        raise Invalid(
            "SOFTMAX of int16 has zero points of 0 and gives scale 1/32768 only",
            where=site.where,
            found=(zero, float(sy), zy),
            hint="LiteRT refuses such a file",
        )
    (m,), (e,) = quantize_multiplier(float(f32(scale * f32(site.options.get("beta", 1.0)))) / (10.0 / 65535.0))
    steps = requantize_host(np.arange(-65535, 1), int(m), int(e))
    exp = interpolation_table(np.exp, (10.0 / 65535.0, 32767), (2.0 / 65535.0, 0), np.float64)
    inverse = interpolation_table(lambda v: 1 / (1 + v), (1.0 / 65535.0, -32768), (2.0 / 65535.0, 0), np.float64)
    leaves = {
        "exp": interpolated(exp, np.clip(steps + 32767, -32768, 32767)).astype(np.int16),
        "inverse": interpolated(inverse, np.arange(-32768, 32768)).astype(np.int16),
    }
    return Plan((), leaves, "exponentials and reciprocals from tables")


def _run_softmax16(options: Options, static: tuple, leaves: Leaves, x: jax.Array) -> jax.Array:
    """y = clip(round(e r 2^-(31 - h)), 0, 32767): e = exp(beta s_x (q - rowmax)) in Q0.15 from a table, S their sum, h its leading zeros,
    r from a table of 1 / (1 + v) at S shifted to 17 bits. Both tables are LiteRT's of 513 entries, interpolated on the host.

    *Domain*: rows of at most 65535 elements. *Restates*: SOFTMAX of LiteRT for int16, the same in every flavour.
    """
    codes = x.astype(np.int32)
    place = codes - jnp.max(codes, axis=-1, keepdims=True) + np.int32(65535)
    e = jnp.take(jnp.asarray(leaves["exp"]), place, mode="clip").astype(np.int32)
    total = jnp.sum(e, axis=-1, keepdims=True, dtype=np.int32)
    zeros = lax.clz(total)
    unit = ((total << (zeros - np.int32(1))) + np.int32(1 << 13)) >> np.int32(14)
    at = jnp.clip(unit - np.int32(98304), np.int32(-32768), np.int32(32767)).astype(np.int16)
    inverse = lookup(leaves["inverse"], at).astype(np.int32)
    share = (e * inverse + (np.int32(1) << (np.int32(30) - zeros))) >> (np.int32(31) - zeros)
    return store(share, np.int32(0), np.int32(0), np.int32(32767), x.dtype)


_TYPES = ("int8", "uint8")

OPS = (
    Op(
        "SOFTMAX",
        _real_softmax,
        Rule(fixed={"int8": (1 / 256, -128), "uint8": (1 / 256, 0), "int16": (1 / 32768, 0)}),
        (
            *each(_TYPES, ("T",), ("T",), _plan_softmax, _run_softmax),
            *each(_TYPES, ("T",), ("int16",), _plan_softmax, _run_softmax),
            *each(("int16",), ("T",), ("T",), _plan_softmax16, _run_softmax16),
        ),
        (
            Case(((1, 10),), {"beta": 1.0}),
            Case(((3, 1, 33),), {"beta": 0.5}),
            Case(((1, 2, 3, 4),), {"beta": 2.0}),
            Case(((1, 1001),), {"beta": 1.0}),
        ),
    ),
)
