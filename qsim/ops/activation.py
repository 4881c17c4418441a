"""SOFTMAX, LOGISTIC, TANH, RELU, RELU6: the nonlinear functions of one input."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..errors import Invalid, Unsupported
from ..fixed import activation_range, high_mul, lookup, quantize_multiplier, requantize, round_away, shift_up, store
from ..graph import Options
from ..op import Case, Op, Plan, Rule, Site, namespace
from ..types import code_range
from .common import Leaves, activate, affine, each, f32

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
    """static: the form, "reference" or "builtin"."""
    scale, _ = affine(site, site.inputs[0])
    sy, zy = affine(site, site.outputs[0])
    if site.outputs[0].type == "int8" and (zy != -128 or abs(float(sy) * 256 - 1) > 1e-3):
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
        return Plan("reference", {"exp": exp_table(scale, beta)}, "fixed-point exponentials from a table, one reciprocal a row")
    note = "float32 exponentials from a table, summed in order, one float32 reciprocal a row"
    return Plan("builtin", {"exp": float_exp_table(scale, beta), "output_scale": sy}, note)


def _run_softmax(options: Options, static: str, leaves: Leaves, x: jax.Array) -> jax.Array:
    """Softmax of int8/uint8 codes over the last axis; both forms take exp(beta s_x (q - rowmax)) from a table of 256.

    Reference: e in Q0.31, their sum in Q12.19, y = clip(RS(HM(1 / sum, e), shift) + low). Builtin (and the default interpreter, whose
    delegate does not take SOFTMAX): e in float32, summed in order, y = clip(round_away(f32(e r)) - 128), r = f32(1 / f32(sum s_y));
    uint8: y = clip(trunc(f32(f32(e r) + 0.5))).

    *Domain*: output scale 1/256, zero point at the type's low end. Reference: the exponentials of a row sum to less than 512 (there the
    runtime stops the process); those below e^-31 count as 0.
    *Restates*: SOFTMAX of LiteRT (reference; optimized for x86, ARM differs).
    """
    codes = x.astype(np.int32)
    place = codes - jnp.max(codes, axis=-1, keepdims=True) + np.int32(255)
    e = jnp.take(jnp.asarray(leaves["exp"]), place, mode="clip")
    return _fixed_shares(e, x.dtype) if static == "reference" else _float_shares(e, leaves["output_scale"], x.dtype)


def _fixed_shares(e: jax.Array, dtype: Any) -> jax.Array:
    """e in Q0.31 -> codes of e / sum."""
    total = jnp.sum((e >> np.int32(12)) + (e >> np.int32(11) & np.int32(1)), axis=-1, keepdims=True, dtype=np.int32)
    zeros = lax.clz(total)
    inverse = reciprocal((total << zeros) ^ np.int32(-(2**31)))
    product = high_mul(jnp.broadcast_to(inverse, e.shape), e)
    low, high = (np.int32(v) for v in (np.iinfo(dtype).min, np.iinfo(dtype).max))
    # Products are never negative: halves away from zero are halves up.
    return store(shift_up(product, jnp.minimum(np.int32(35) - zeros, np.int32(31))), low, low, high, dtype)


def _float_shares(e: jax.Array, scale: Any, dtype: Any) -> jax.Array:
    """e in float32 -> codes of e / sum."""
    with jax.enable_x64(True):  # a float32 reciprocal through float64 is rounded as the CPU's own, whatever the device divides with
        divisor = lax.convert_element_type(ordered_sum(e) * scale, np.float64)
        inverse = lax.convert_element_type(np.float64(1) / divisor, np.float32)
    share = jnp.maximum(e * inverse, np.float32(0))  # the maximum keeps product and sum from becoming one FMA
    low, high = (np.int32(v) for v in (np.iinfo(dtype).min, np.iinfo(dtype).max))
    if dtype == np.uint8:
        return store((share + np.float32(0.5)).astype(np.int32), np.int32(0), low, high, dtype)
    whole = jnp.trunc(share)
    rounded = whole.astype(np.int32) + (share - whole >= np.float32(0.5)).astype(np.int32)
    return store(rounded, low, low, high, dtype)


def ordered_sum(x: jax.Array) -> jax.Array:
    """Sum over the last axis, kept, strictly from the first element to the last (a float sum depends on its order)."""
    n = x.shape[-1]
    if n <= 32:
        return functools.reduce(operator.add, (lax.slice_in_dim(x, i, i + 1, axis=-1) for i in range(n)))
    columns = jnp.moveaxis(x, -1, 0)
    total, _ = lax.scan(lambda t, v: (t + v, None), jnp.zeros_like(columns[0]), columns, unroll=16)
    return total[..., None]


# ---------------------------------------------------------------- LOGISTIC, TANH


def _sigmoid_xnnpack(x: np.ndarray) -> np.ndarray:
    e = np.exp(np.clip(x.astype(np.float64), -700, 700))
    return (e / (1 + e)).astype(f32)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return f32(1) / (f32(1) + np.exp(-x.astype(np.float64)).astype(f32))


def _tanh(x: np.ndarray) -> np.ndarray:
    return np.tanh(x.astype(np.float64)).astype(f32)


def table(function: Callable[[np.ndarray], np.ndarray], site: Site, flavour: str) -> np.ndarray:
    """256 output codes of a function of one 8-bit input, in float32 steps: g = function(f32(s_x (q - z_x))).

    XNNPACK: clip(round_half_even(f32(f32(g / s_y) + z_y))). LiteRT: clip(trunc(round_away(f32(g / s_y)) + z_y)). Both multiply by
    f32(1 / s_y). *Domain*: int8 and uint8.
    """
    (sx, zx), (sy, zy) = affine(site, site.inputs[0]), affine(site, site.outputs[0])
    low, high = code_range(site.outputs[0].type)
    q = np.arange(low, high + 1, dtype=np.int32)
    with np.errstate(over="ignore"):
        g = function((q - zx).astype(f32) * sx).astype(f32) * f32(f32(1) / sy)
        g = np.rint(g + f32(zy)) if flavour == "xnnpack" else np.trunc(round_away(g) + f32(zy))
    return np.clip(g, low, high).astype(site.outputs[0].type)


def _plan_table(functions: dict[str, Callable]) -> Callable[[Site, str], Plan]:
    def plan(site: Site, flavour: str) -> Plan:
        scale, _ = affine(site, site.outputs[0])
        if flavour != "xnnpack" and site.node.op == "LOGISTIC" and scale != 1 / 256:
            raise Invalid("LOGISTIC gives scale 1/256 only", where=site.where, found=float(scale), hint="LiteRT refuses such a file")
        function = functions.get(flavour, functions["reference"])
        return Plan((), {"table": table(function, site, flavour)}, f"256-entry table, {flavour} rounding")

    return plan


def _run_table(options: Options, static: tuple, leaves: Leaves, x: jax.Array) -> jax.Array:
    """y = table[q]: the kernel's own float32 steps for each of the 256 codes, taken on the host (see `table`).

    *Restates*: LOGISTIC and TANH of XNNPACK and of LiteRT, both of which use a table.
    """
    return lookup(leaves["table"], x)


# ---------------------------------------------------------------- RELU family


def _plan_clamp(name: str) -> Callable[[Site, str], Plan]:
    def plan(site: Site, flavour: str) -> Plan:
        (sx, zx), (sy, zy) = affine(site, site.inputs[0]), affine(site, site.outputs[0])
        (multiplier,), (shift,) = quantize_multiplier(f32(sx / sy))
        low, high = activation_range(name, sy, zy, site.outputs[0].type, "builtin")
        numbers = {"input_zero_point": zx, "multiplier": multiplier, "shift": shift, "zero_point": zy, "act_min": low, "act_max": high}
        small = 255 << max(int(shift), 0) < 1 << 30
        return Plan((small,), {k: np.int32(v) for k, v in numbers.items()}, "requantize, then clamp")

    return plan


def _run_clamp(options: Options, static: tuple, leaves: Leaves, x: jax.Array) -> jax.Array:
    """y = clip(MBQM(q - z_x, f32(s_x / s_y)) + z_y, low, high).

    *Restates*: RELU and RELU6 of LiteRT, the same in every flavour (XNNPACK does not take them quantized).
    """
    centred = x.astype(np.int32) - leaves["input_zero_point"]
    y = requantize(centred, leaves["multiplier"], leaves["shift"], small=static[0])
    return store(y, leaves["zero_point"], leaves["act_min"], leaves["act_max"], x.dtype)


def _clamp(name: str) -> Op:
    def real(options: Options, x: Any) -> Any:
        return activate(name, x)

    return Op(name, real, Rule(), each(_TYPES, ("T",), ("T",), _plan_clamp(name), _run_clamp), _UNARY)


_TYPES = ("int8", "uint8")
_UNARY = (Case(((1, 3, 5, 7),)), Case(((1, 259),)), Case(((1, 1),)))

OPS = (
    Op(
        "SOFTMAX",
        _real_softmax,
        Rule(fixed={"int8": (1 / 256, -128), "uint8": (1 / 256, 0)}),
        each(_TYPES, ("T",), ("T",), _plan_softmax, _run_softmax),
        (
            Case(((1, 10),), {"beta": 1.0}),
            Case(((3, 1, 33),), {"beta": 0.5}),
            Case(((1, 2, 3, 4),), {"beta": 2.0}),
            Case(((1, 1001),), {"beta": 1.0}),
        ),
    ),
    Op(
        "LOGISTIC",
        lambda options, x: jax.nn.sigmoid(x),
        Rule(fixed={"int8": (1 / 256, -128), "uint8": (1 / 256, 0)}),
        each(_TYPES, ("T",), ("T",), _plan_table({"xnnpack": _sigmoid_xnnpack, "reference": _sigmoid}), _run_table),
        _UNARY,
    ),
    Op(
        "TANH",
        lambda options, x: namespace(x).tanh(x),
        Rule(fixed={"int8": (1 / 128, 0), "uint8": (1 / 128, 128)}),
        each(_TYPES, ("T",), ("T",), _plan_table({"reference": _tanh}), _run_table),
        _UNARY,
    ),
    _clamp("RELU"),
    _clamp("RELU6"),
)
