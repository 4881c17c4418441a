"""QUANTIZE, DEQUANTIZE, CAST: from one element type to another, and the quantization of float arrays at a model's border."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..errors import Invalid
from ..fixed import quantize_multiplier, requantize, round_away, store, words
from ..graph import Options, QParams, Tensor
from ..op import FLAVOURS, Case, Kernel, Op, Plan, Rule, Site, namespace
from ..types import TYPES, code_range
from .common import Leaves, affine, body, carried, f32, plain, require_centred

# ---------------------------------------------------------------- the border: numpy


def quantize_array(x: Any, qparams: QParams, type_name: str, flavour: str) -> np.ndarray:
    """Real values -> stored codes by the flavour's QUANTIZE rule, in numpy (used on model inputs).

    xnnpack, builtin: clip(round_half_even(f32(x f32(1 / s))) + z); reference: clip(round_away(f32(x / s)) + z), where a quotient
    beyond int32 becomes -2^31 before the (wrapping) sum. *Domain*: finite x, scale > 0. Per-channel parameters apply along qparams.axis.
    *Differs from*: the builtin kernel's last n mod 8 elements, which divide in float64.
    """
    x = np.asarray(x, f32)
    low, high = code_range(type_name)
    scale, zero = (_along(np.asarray(v), x.ndim, qparams.axis) for v in (qparams.scale, qparams.zero_point))
    scale = scale.astype(f32)
    with np.errstate(over="ignore", invalid="ignore"):
        if flavour == "reference":
            codes = _host_int32(round_away(x / scale)) + zero.astype(np.int64)
            codes = (codes + (1 << 31)) % (1 << 32) - (1 << 31)
        else:
            codes = np.rint(np.clip(x * (f32(1) / scale), f32(-65536), f32(32767))).astype(np.int64) + zero.astype(np.int64)
    return np.clip(codes, low, high).astype(type_name)


def dequantize_array(codes: Any, qparams: QParams, type_name: str, flavour: str) -> np.ndarray:
    """Codes of a constant with one scale -> float32 by the flavour's DEQUANTIZE, in numpy: f32((q - z) s).

    In flavour builtin the first 8 floor(n / 8) elements of 8-bit and uint4 codes are f32(f32(q s) + f32(-z s)), and under XNNPACK,
    which leaves them to that kernel, those of int8 and uint4 codes.
    """
    codes, scale, zero = np.asarray(codes), f32(np.ravel(qparams.scale)[0]), int(np.ravel(qparams.zero_point)[0])
    y = ((codes.astype(np.int64) - zero).astype(f32) * scale).astype(f32)
    if flavour == "reference" or type_name not in (("int8", "uint4") if flavour == "xnnpack" else ("int8", "uint8", "uint4")):
        return y
    n = codes.size // 8 * 8
    block = (codes.reshape(-1)[:n].astype(f32) * scale + f32(f32(-zero) * scale)).astype(f32)
    return np.concatenate([block, y.reshape(-1)[n:]]).reshape(codes.shape)


def _along(values: np.ndarray, rank: int, axis: int) -> np.ndarray:
    values = np.ravel(values)
    return values[0] if values.size == 1 else values.reshape([-1 if i == axis else 1 for i in range(rank)])


def _host_int32(x: np.ndarray) -> np.ndarray:
    """float -> int64 with -2^31 for everything int32 cannot hold, NaN included (the x86 conversion)."""
    fits = (x >= -(2.0**31)) & (x < 2.0**31)
    return np.where(fits, np.where(fits, x, 0).astype(np.int64), -(1 << 31))


# ---------------------------------------------------------------- QUANTIZE


def _real_quantize(options: Options, x: Any) -> Any:
    """Identity: over the reals nothing happens."""
    return x


def _plan_quantize(site: Site, flavour: str) -> Plan:
    """static: (form, numpy type that holds the codes, mask shape or None)."""
    y = site.outputs[0]
    if y.qparams is not None and y.qparams.per_channel:
        return _plan_quantize_channels(y)
    scale, zero = affine(site, y)
    held = TYPES[y.type].dtype
    limits = _limits(zero, y.type)
    if flavour == "xnnpack" and y.type in _8:
        return Plan(("xnnpack", held), {"inverse": f32(1) / scale, **limits}, "x * f32(1 / s), half to even")
    inverse = words(np.float64(1) / np.float64(scale)).reshape(2)
    if flavour == "reference" or y.type == "int4":
        return Plan(("reference", held), {"inverse64": inverse, **limits}, "f32(x / s), half away from zero")
    leaves: Leaves = {"inverse": f32(1) / scale, "inverse64": inverse, **limits}
    return Plan(("builtin", held, y.shape), leaves, "blocks of 8: x * f32(1 / s), half to even; rest: f64 quotient, half away")


def _plan_quantize_channels(y: Tensor) -> Plan:
    held = TYPES[y.type].dtype
    inverse, limits = words(np.float64(1) / _spread(y, np.float32).astype(np.float64)), _limits(0, y.type)
    leaves = {"inverse64": inverse, **limits, "zero_point": _spread(y, np.int32)}
    return Plan(("reference", held), leaves, "per channel: the reference kernel in every flavour")


def _limits(zero: int, type_name: str) -> Leaves:
    low, high = code_range(type_name)
    return {"zero_point": np.int32(zero), "act_min": np.int32(low), "act_max": np.int32(high)}


def _run_quantize(options: Options, static: tuple, leaves: Leaves, x: jax.Array) -> jax.Array:
    """float32 -> codes (per channel, and to int4, in every flavour as the reference).

    XNNPACK: clip(round_half_even(min(f32(x f32(1 / s)), 32767)) + z). Reference: clip(round_away(f32(x / s)) + z).
    Builtin: the first 8 floor(n / 8) elements clip(round_half_even(f32(x f32(1 / s))) + z), the rest clip(round_away(x / f64(s)) + z).
    Numbers that do not fit int32 become -2^31 before the (wrapping) sum, but not under XNNPACK, which clips first.

    *Domain*: finite x. *Restates*: XNNPACK's f32-qs8-vcvt, QUANTIZE of LiteRT on x86.
    """
    form, dtype = static[0], static[1]
    limits = leaves["zero_point"], leaves["act_min"], leaves["act_max"], dtype
    if form == "reference":
        return store(_divided(x, leaves, single=True), *limits)
    product = x * leaves["inverse"]
    if form == "xnnpack":
        return store(jnp.round(jnp.clip(product, np.float32(-65536), np.float32(32767))).astype(np.int32), *limits)
    vector, mask = _to_int32(jnp.round(product)), body(static[2], 8)
    if mask is None:
        return store(vector, *limits)
    return store(jnp.where(mask, vector, _divided(x, leaves, single=False)), *limits)


def _divided(x: jax.Array, leaves: Leaves, single: bool) -> jax.Array:
    """round_away(x / s) as int32; `single`: the quotient is a float32 number, else a float64 one.

    XLA turns a division by a scalar into a product with its reciprocal. In float64 that is within 2^-51 of the quotient q of two
    float32 numbers. q is either a float32 rounding boundary or at least 2^-49 away from it, and either a half (of a code, so below
    2^17) or at least 2^-42 away from it: rounding the product to float32, or to 45 bits, gives what rounding q would.
    """
    with jax.enable_x64(True):
        inverse = lax.bitcast_convert_type(jnp.asarray(leaves["inverse64"], np.uint32), np.float64)
        real = lax.convert_element_type(x, np.float64) * inverse
        real = lax.convert_element_type(real, np.float32) if single else lax.reduce_precision(real, 11, 45)
        whole = jnp.trunc(real)
        half = jnp.abs(real - whole) >= np.asarray(0.5, real.dtype)
        return _to_int32(whole + jnp.where(half, jnp.sign(real), np.asarray(0, real.dtype)))


def _to_int32(real: jax.Array) -> jax.Array:
    """Whole numbers in floating point -> int32, -2^31 for everything that does not fit (the x86 conversion)."""
    low, high = np.asarray(-(2.0**31), real.dtype), np.asarray(2.0**31, real.dtype)
    return lax.convert_element_type(jnp.where((real >= low) & (real < high), real, low), np.int32)


# ---------------------------------------------------------------- requantize


def _plan_requantize(site: Site, flavour: str) -> Plan:
    """static: (form, type name, small, shape)."""
    x, y = site.inputs[0], site.outputs[0]
    assert x is not None
    (sx, zx), (sy, zy) = affine(site, x), affine(site, y)
    leaves: Leaves = {"input_zero_point": np.int32(zx), **_limits(zy, y.type)}
    ratio = f32(sx / sy)
    if flavour == "xnnpack" and plain(site) and x.type == y.type in _8 and 2.0**-8 <= ratio <= 2.0**7:
        leaves["multiplier"] = np.int32(np.rint(f32(256) * ratio))
        return Plan(("xnnpack", y.type), leaves, "XNNPACK: 8 fractional bits, halves up")
    (m,), (e,) = quantize_multiplier(np.float64(sx) / np.float64(sy))
    leaves |= {"multiplier": m, "shift": e}
    wide = x.type not in _8 or y.type not in _8
    if x.type == y.type == "int16":
        require_centred(site)
    small = x.type != "int32" and (65535 if wide else 255) << max(int(e), 0) < 1 << 30
    form = "reference" if flavour == "reference" or wide else "builtin"
    note = "fixed point" if form == "reference" else "fixed point, halves up in blocks of 16"
    return Plan((form, y.type, small, y.shape), leaves, note)


def _run_requantize(options: Options, static: tuple, leaves: Leaves, x: jax.Array) -> jax.Array:
    """8-bit, int16 or int32 codes -> codes of other parameters.

    XNNPACK, one type, ratio r = f32(s_x / s_y) in [2^-8, 2^7]: clip((((q - z_x) rint(256 r) + 128) >> 8) + z_y).
    Reference, and more than 8 bits in any flavour: clip(MBQM(q - z_x) + z_y). Builtin (and what XNNPACK refuses): the first
    16 floor(n / 16) elements round the last shift halves up, the rest as the reference.

    *Restates*: XNNPACK's qs8-vcvt, Requantize of LiteRT.
    """
    centred = x.astype(np.int32) - leaves["input_zero_point"]
    limits = leaves["zero_point"], leaves["act_min"], leaves["act_max"], static[1]
    if static[0] == "xnnpack":
        return store((centred * leaves["multiplier"] + np.int32(128)) >> np.int32(8), *limits)
    form, _, small, shape = static
    up, away = (requantize(centred, leaves["multiplier"], leaves["shift"], small=small, rounding=r) for r in ("up", "away"))
    if form == "reference":
        return store(away, *limits)
    mask = body(shape, 16)
    return store(up if mask is None else jnp.where(mask, up, away), *limits)


# ---------------------------------------------------------------- DEQUANTIZE


def _real_dequantize(options: Options, x: Any) -> Any:
    """Identity over the reals; float16 becomes float32."""
    return x.astype(np.float32) if x.dtype == np.float16 else x


def _plan_dequantize(site: Site, flavour: str) -> Plan:
    """static: (form, shape)."""
    x = site.inputs[0]
    assert x is not None
    if x.qparams is None:
        raise Invalid(f"{x.name!r} has no quantization parameters", where=site.where)
    if x.type == "int16":
        require_centred(site)  # one scale, too
    scale, zero = _spread(x, np.float32), _spread(x, np.int32)
    leaves: Leaves = {"scale": scale, "zero_point": zero}
    blocks = {"builtin": (*_8, "int4"), "xnnpack": ("int4",), "reference": ()}[flavour]
    if x.type in blocks and not x.qparams.per_channel:
        return Plan(("builtin", x.shape), {**leaves, "offset": f32(f32(-zero) * scale)}, "blocks of 8: q s + (-z s); rest (q - z) s")
    return Plan(("plain",), leaves, "f32((q - z) s)")


def _spread(x: Tensor, dtype: Any) -> np.ndarray:
    """Scale (float32) or zero point (int32) of a tensor, shaped to broadcast along its axis."""
    assert x.qparams is not None
    values = x.qparams.scale if dtype is np.float32 else x.qparams.zero_point
    return np.asarray(_along(np.asarray(values), len(x.shape), x.qparams.axis)).astype(dtype)


def _run_dequantize(options: Options, static: tuple, leaves: Leaves, x: Any) -> Any:
    """codes -> float32: f32((q - z) s), per channel along the axis of the parameters.

    Builtin, 8 and 4 bits (which XNNPACK does not take), per tensor: the first 8 floor(n / 8) elements are f32(f32(q s) + f32(-z s)).
    *Restates*: DEQUANTIZE of XNNPACK and of LiteRT.
    """
    ns = namespace(x)
    y = (x.astype(np.int32) - leaves["zero_point"]).astype(np.float32) * leaves["scale"]
    if static[0] != "builtin":
        return y
    # The maximum keeps XLA from contracting product and sum to an FMA.
    block = ns.maximum(x.astype(np.float32) * leaves["scale"], np.float32(-3e38)) + leaves["offset"]
    mask = body(static[1], 8)
    return block if mask is None else ns.where(mask, block, y)


def _run_widen(options: Options, static: tuple, leaves: Leaves, x: Any) -> Any:
    """float16 -> float32, exact."""
    return x.astype(np.float32)


# ---------------------------------------------------------------- CAST


def cast(x: Any, type_name: str) -> Any:
    """x as another type: floats to integers truncate toward zero and saturate, NaN becomes the largest integer; bool is x != 0."""
    ns = namespace(x)
    dtype = carried(type_name, ns)
    if dtype == np.bool_:
        return x != np.zeros((), x.dtype)
    if not np.issubdtype(x.dtype, np.floating) or not np.issubdtype(dtype, np.integer):
        return x.astype(dtype)
    low, high = (int(v) for v in (np.iinfo(dtype).min, np.iinfo(dtype).max))
    over = ns.isnan(x) | (x >= np.asarray(float(high), x.dtype))
    inside = ns.where(over | (x <= np.asarray(float(low), x.dtype)), np.zeros((), x.dtype), x)
    whole = ns.trunc(inside).astype(dtype)
    return ns.where(over, np.asarray(high, dtype), ns.where(x <= np.asarray(float(low), x.dtype), np.asarray(low, dtype), whole))


def _real_cast(options: Options, x: Any) -> Any:
    return cast(x, options.get("out_data_type", "FLOAT32").lower())


def _run_cast(options: Options, static: str, leaves: Leaves, x: Any) -> Any:
    """The stored number as another type; quantization parameters are never read. *Restates*: CAST of LiteRT."""
    return cast(x, static)


_8 = ("int8", "uint8")
_CAST = "float32|float16|int8|uint8|int16|uint16|int32|uint32|int64|bool"
_32 = (("int16", "int32"), ("int32", "int8"), ("int32", "int16"))
_PAIRS = (*((a, b) for a in _8 for b in _8), ("int8", "int16"), ("uint8", "int16"), ("int16", "int8"), ("int16", "int16"), *_32)

OPS = (
    Op(
        "QUANTIZE",
        _real_quantize,
        Rule(versions={"float32": 1, "int8": 1, "int16": 2}, keep_float=True),
        (
            *(Kernel(("float32",), (t,), FLAVOURS, _plan_quantize, _run_quantize) for t in (*_8, "int16", "int4")),
            *(Kernel((a,), (b,), FLAVOURS, _plan_requantize, _run_requantize) for a, b in _PAIRS),
        ),
        (
            Case(((1, 7, 5, 3),), {}, types={0: "float32"}),
            Case(((1, 37),), {}, types={0: "float32"}),
            Case(((1, 3, 11),), {}),
            Case(((2, 37),), {}),
        ),
    ),
    Op(
        "DEQUANTIZE",
        _real_dequantize,
        Rule(versions={"float32": 1, "uint8": 1, "int8": 2, "int16": 3, "float16": 3, "int4": 6}, keep_float=True),
        (
            *(Kernel((t,), ("float32",), FLAVOURS, _plan_dequantize, _run_dequantize) for t in (*_8, "int16", "int4")),
            Kernel(("float16",), ("float32",), FLAVOURS, lambda site, flavour: Plan(note="exact"), _run_widen),
        ),
        (Case(((1, 7, 5, 3),), {}), Case(((2, 37),), {})),
        host=True,
    ),
    Op(
        "CAST",
        _real_cast,
        Rule(data=(), versions={"float32": 1, "int8": 3}, keep_float=True),
        (Kernel((_CAST,), (_CAST,), FLAVOURS, lambda site, flavour: Plan(site.outputs[0].type, note="number kept"), _run_cast),),
        (
            Case(((1, 6),), {"in_data_type": "FLOAT32", "out_data_type": "INT32"}, types={0: "float32"}),
            Case(((1, 6),), {"in_data_type": "INT32", "out_data_type": "FLOAT32"}, types={0: "int32"}),
        ),
        host=True,
    ),
)
