"""MEAN, SUM, REDUCE_MAX, REDUCE_MIN, REDUCE_ANY, REDUCE_ALL over any axes, REDUCE_PROD."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..errors import Unsupported
from ..fixed import quantize_multiplier, quantize_multiplier_16, requantize, requantize_wide, store
from ..graph import Options
from ..op import Case, Op, Plan, Rule, Site, namespace
from .common import Leaves, affine, each, f32, require_centred, require_tied, type_bounds


def reduced_axes(rank: int, value: Any) -> tuple[int, ...]:
    """Sorted distinct axes, negative ones counted from the end."""
    return tuple(sorted({int(a) % rank for a in np.ravel(value)}))


def _kept(options: Options) -> bool:
    return bool(options.get("keep_dims", False))


def _real_mean(options: Options, x: Any, axes: Any) -> Any:
    where = reduced_axes(x.ndim, axes)
    n = int(np.prod([x.shape[a] for a in where], dtype=np.int64))
    return namespace(x).sum(x, axis=where, keepdims=_kept(options)) / np.asarray(n, x.dtype)


def _real_sum(options: Options, x: Any, axes: Any) -> Any:
    return namespace(x).sum(x, axis=reduced_axes(x.ndim, axes), keepdims=_kept(options), dtype=x.dtype)


def _real_max(options: Options, x: Any, axes: Any) -> Any:
    return namespace(x).max(x, axis=reduced_axes(x.ndim, axes), keepdims=_kept(options))


def _real_min(options: Options, x: Any, axes: Any) -> Any:
    return namespace(x).min(x, axis=reduced_axes(x.ndim, axes), keepdims=_kept(options))


def _real_any(options: Options, x: Any, axes: Any) -> Any:
    return namespace(x).any(x, axis=reduced_axes(x.ndim, axes), keepdims=_kept(options))


def _real_all(options: Options, x: Any, axes: Any) -> Any:
    return namespace(x).all(x, axis=reduced_axes(x.ndim, axes), keepdims=_kept(options))


def _real_product(options: Options, x: Any, axes: Any) -> Any:
    ns = namespace(x)
    return ns.prod(x, axis=reduced_axes(x.ndim, axes), keepdims=_kept(options), dtype=x.dtype)


def _known_axes(site: Site) -> tuple[int, ...]:
    x = site.inputs[0]
    if site.values[1] is None or x is None:
        raise Unsupported("the axes are not known before the model runs", where=site.where)
    return reduced_axes(len(x.shape), site.values[1])


def _plan_mean(site: Site, flavour: str) -> Plan:
    """static: (form, axes); leaves of the form."""
    axes, x = _known_axes(site), site.inputs[0]
    assert x is not None
    n = int(np.prod([x.shape[a] for a in axes], dtype=np.int64))
    (sx, zx), (sy, zy) = affine(site, x), affine(site, site.outputs[0])
    if x.type == "int16":
        return _plan_fixed_mean(site, axes, n, sx, zx, sy)
    if flavour == "xnnpack" and axes:
        return _plan_float_mean(site, axes, n, sx, zx, sy, zy)
    if flavour == "builtin" and len(x.shape) == 4 and axes == (1, 2) and _kept(site.options):
        return _plan_image_mean(site, x.shape[3], n, sx, zx, sy, zy)
    return _plan_fixed_mean(site, axes, n, sx, zx, sy)


def _plan_float_mean(site: Site, axes: tuple, n: int, sx: np.float32, zx: int, sy: np.float32, zy: int) -> Plan:
    scale = f32(f32(sx / sy) * f32(f32(1) / f32(n))) if site.node.op == "MEAN" else f32(sx / sy)
    offset = f32(f32(zy) - f32(f32(f32(n) * f32(zx)) * scale))
    leaves: Leaves = {"scale": scale, "offset": offset, **type_bounds(site)}
    return Plan(("xnnpack", axes), leaves, "XNNPACK: float32 product and sum, rounded half to even")


def _plan_fixed_mean(site: Site, axes: tuple, n: int, sx: np.float32, zx: int, sy: np.float32) -> Plan:
    (m,), (e,) = quantize_multiplier(np.float64(sx) / np.float64(sy))
    k = min(n.bit_length() - 1, 32, 31 + int(e))
    multiplier, shift = (int(m) << k) // n, int(e) - k
    leaves: Leaves = {"multiplier": np.int32(multiplier), "shift": np.int32(shift), "input_zero_point": np.int32(zx), **type_bounds(site)}
    steps = 255 if site.outputs[0].type != "int16" else 1 << 15
    small = (steps * n) << max(shift, 0) < 1 << 30
    return Plan(("fixed", axes, n, small), leaves, "fixed point, the element count folded into the multiplier")


def _plan_image_mean(site: Site, channels: int, n: int, sx: np.float32, zx: int, sy: np.float32, zy: int) -> Plan:
    moved = f32(f32(f32(zx) * sx) / sy)
    bias = zy - int(f32(moved + f32(0.5)) if moved > 0 else f32(moved - f32(0.5)))
    (m,), (e,) = quantize_multiplier(f32(sx / f32(f32(n) * sy)))
    leaves = {**type_bounds(site), "multiplier": m, "shift": e, "zero_point": np.int32(bias)}
    return Plan(("image", channels // 16 * 16), leaves, "builtin kernel over height and width: halves up in whole blocks of 16 channels")


def _run_mean(options: Options, static: tuple, leaves: Leaves, x: jax.Array, _: Any) -> jax.Array:
    """Mean of codes over the static axes (S their sum, n their number).

    XNNPACK: y = clip(round_half_even(f32(f32(S) s) + o)), s = f32(f32(s_x / s_y) / n), o = f32(z_y - f32(n z_x s)); two roundings, no FMA.
    Reference, and int16 in any flavour: y = clip(MBQM(S - n z_x, m', e') + z_y), m' = floor(2^k m / n), e' = e - k, k = floor(log2 n).
    Builtin over (1, 2) of four axes, axes kept: MBQM(S) with M = f32(s_x / (n s_y)) and a rounded bias, the last right shift rounding
    halves up in whole blocks of 16 channels and away from zero in the rest; other axes as the reference.

    *Restates*: XNNPACK's qs8 mean, MEAN of LiteRT.
    """
    axes = (1, 2) if static[0] == "image" else static[1]
    total = jnp.sum(x, axis=axes, keepdims=_kept(options), dtype=np.int32)
    limits = leaves["zero_point"], leaves["act_min"], leaves["act_max"], x.dtype
    if static[0] == "xnnpack":
        # The maximum keeps XLA from contracting product and sum to an FMA, which rounds once.
        real = jnp.maximum(total.astype(np.float32) * leaves["scale"], np.float32(-3e38)) + leaves["offset"]
        low, high = leaves["act_min"].astype(np.float32), leaves["act_max"].astype(np.float32)
        return jnp.minimum(jnp.maximum(jnp.round(real), low), high).astype(x.dtype)
    if static[0] == "image":
        return store(_mixed(total, leaves, static[1]), *limits)
    _, _, n, small = static
    centred = total - np.int32(n) * leaves["input_zero_point"]
    return store(requantize(centred, leaves["multiplier"], leaves["shift"], small=small), *limits)


# ---------------------------------------------------------------- SUM


def _plan_sum(site: Site, flavour: str) -> Plan:
    """static: (form, axes, ...) as of MEAN."""
    axes, x = _known_axes(site), site.inputs[0]
    assert x is not None
    n = int(np.prod([x.shape[a] for a in axes], dtype=np.int64))
    (sx, zx), (sy, zy) = affine(site, x), affine(site, site.outputs[0])
    leaves: Leaves
    if flavour == "xnnpack" and x.type != "int16" and axes:
        return _plan_float_mean(site, axes, n, sx, zx, sy, zy)
    if flavour == "reference":
        (m,), (e,) = quantize_multiplier(np.float64(sx) / np.float64(sy))
        leaves = {"multiplier": m, "shift": e, "input_zero_point": np.int32(zx), **type_bounds(site)}
        return Plan(("fixed", axes, n, False), leaves, "fixed point, one multiplier of the sum")
    scale = f32(sx / sy)
    leaves = {"scale": scale, "offset": f32(f32(f32(-zx) * scale) * f32(n)), **type_bounds(site)}
    return Plan(("rounded", axes), leaves, "builtin: float32 product and sum, rounded half away from zero")


def _run_sum(options: Options, static: tuple, leaves: Leaves, x: jax.Array, _: Any) -> jax.Array:
    """Sum of codes over the static axes (S their sum, n their number).

    XNNPACK: y = clip(round_half_even(f32(f32(S) s) + o)), s = f32(s_x / s_y), o = f32(z_y - f32(n z_x s)).
    Builtin, and int16: y = clip(round_away(f32(f32(S) s) + f32(f32(-z_x s) n)) + z_y). Reference: y = clip(MBQM(S - n z_x) + z_y).
    *Restates*: XNNPACK's qs8 sum, SUM of LiteRT. *Differs from*: the reference kernel on int8 and int16, which it reads as uint8.
    """
    if static[0] != "rounded":
        return _run_mean(options, static, leaves, x, None)
    total = jnp.sum(x, axis=static[1], keepdims=_kept(options), dtype=np.int32)
    # The maximum keeps XLA from contracting product and sum to an FMA.
    real = jnp.maximum(total.astype(np.float32) * leaves["scale"], np.float32(-3e38)) + leaves["offset"]
    whole = jnp.trunc(real)
    whole = whole + jnp.where(jnp.abs(real - whole) >= np.float32(0.5), jnp.sign(real), np.float32(0))
    steps = jnp.clip(whole, np.float32(-(2.0**30)), np.float32(2.0**30)).astype(np.int32)
    return store(steps, leaves["zero_point"], leaves["act_min"], leaves["act_max"], x.dtype)


# ---------------------------------------------------------------- REDUCE_PROD


def _plan_product(site: Site, flavour: str) -> Plan:
    """static: (form, axes)."""
    require_centred(site)
    axes, x = _known_axes(site), site.inputs[0]
    assert x is not None
    n = int(np.prod([x.shape[a] for a in axes], dtype=np.int64))
    (sx, zx), (sy, _) = affine(site, x), affine(site, site.outputs[0])
    if n == 1 and flavour != "reference":
        return Plan(("copied", axes), {}, "builtin: nothing to multiply, the codes themselves")
    real = float(sx) / math.pow(float(sy), 1.0 / n)
    if quantize_multiplier(real)[1][0] > 14:
        raise Unsupported("REDUCE_PROD needs s_x / s_y^(1/n) below 2^14", where=site.where, found=real)
    (m,), (right,) = quantize_multiplier_16(real)
    leaves = {"multiplier": m, "right": right, "input_zero_point": np.int32(zx), **type_bounds(site)}
    return Plan(("scaled", axes), leaves, "rescaled after each product")


def _run_product(options: Options, static: tuple, leaves: Leaves, x: jax.Array, _: Any) -> jax.Array:
    """Product of codes over the static axes, in the order of their indices: p = p (q - z_x) M after the first, M = s_x / s_y^(1/n) in 15
    bits, halves up; y = clip(p M + z_y).

    Builtin, over a single element: the code itself. *Domain*: M < 2^14.
    *Restates*: REDUCE_PROD of LiteRT for int8 and int16.
    """
    form, axes = static
    if form == "copied":
        return x if _kept(options) else jnp.squeeze(x, axes)
    kept = [a for a in range(x.ndim) if a not in axes]
    shape = tuple(x.shape[a] for a in kept)
    terms = jnp.transpose(x, (*axes, *kept)).reshape(-1, *shape).astype(np.int32) - leaves["input_zero_point"]

    def rescaled(p: jax.Array, q: jax.Array) -> jax.Array:
        with jax.enable_x64(True):
            wide = lax.convert_element_type(p, np.int64) * lax.convert_element_type(q, np.int64)
        return requantize_wide(wide, leaves["multiplier"], leaves["right"])

    total, _ = lax.scan(lambda p, q: (rescaled(p, q), None), terms[0], terms[1:], unroll=min(len(terms), 16))
    total = rescaled(total, jnp.ones_like(total))
    y = store(total, leaves["zero_point"], leaves["act_min"], leaves["act_max"], x.dtype)
    return jnp.expand_dims(y, axes) if _kept(options) else y


# ---------------------------------------------------------------- numbers kept


def _plan_raw(site: Site, flavour: str) -> Plan:
    if site.node.op in ("REDUCE_MAX", "REDUCE_MIN"):
        require_tied(site)
    return Plan(_known_axes(site), note="the stored numbers themselves")


def _raw(function: Any) -> Any:
    def run(options: Options, static: tuple, leaves: Leaves, x: jax.Array, _: Any) -> jax.Array:
        """The stored numbers reduced; scales are never read. *Restates*: the LiteRT and XNNPACK kernels, alike in every flavour."""
        return function(options, x, static)

    return run


def _mixed(total: jax.Array, leaves: Leaves, blocks: int) -> jax.Array:
    """Requantize, halves up in the first `blocks` channels and away from zero in the rest."""
    up, away = (requantize(total, leaves["multiplier"], leaves["shift"], rounding=r) for r in ("up", "away"))
    channel = jnp.arange(total.shape[-1], dtype=np.int32).reshape(1, 1, 1, -1)
    return jnp.where(channel < np.int32(blocks), up, away)


def _reduced(shape: tuple, axes: Any, keep: bool) -> Case:
    return Case((shape, np.shape(axes)), {"keep_dims": keep}, {1: axes}, {1: "int32"})


_CASES = (
    _reduced((1, 7, 5, 19), (1, 2), True),
    _reduced((1, 8, 8, 32), (1, 2), False),
    _reduced((1, 4, 6, 5), (2,), True),
    _reduced((1, 4, 6, 5), (-1, 1), False),
    _reduced((1, 3, 11), (1,), True),
    _reduced((2, 3, 4, 3), (0, 1, 2, 3), True),
)
_8 = ("int8", "uint8")
_QUANTIZED = (*_8, "int16")
_SUM_DEFECT = {"reference": "it reads int8 and int16 and writes its result as uint8"}
_T = ("T", "int32"), ("T",)


def _extreme(name: str, real: Any) -> Op:
    rule = Rule(tied=True, static=(1,), versions={"float32": 1, "uint8": 1, "int8": 2, "int16": 3})
    return Op(name, real, rule, each((*_QUANTIZED, "int32", "int64"), *_T, _plan_raw, _raw(real)), _CASES[2:], host=True)


def _truth(name: str, real: Any) -> Op:
    cases = tuple(replace(c, types={0: "bool", 1: "int32"}) for c in _CASES[2:])
    return Op(name, real, Rule(data=(), static=(1,), keep_float=True), each(("bool",), *_T, _plan_raw, _raw(real)), cases, host=True)


OPS = (
    Op(
        "MEAN",
        _real_mean,
        Rule(static=(1,), versions={"float32": 1, "int8": 2, "int16": 3}),
        each(_QUANTIZED, *_T, _plan_mean, _run_mean),
        _CASES,
    ),
    Op(
        "SUM",
        _real_sum,
        Rule(static=(1,)),
        (
            *(k if k.inputs[0] == "uint8" else replace(k, defects=_SUM_DEFECT) for k in each(_QUANTIZED, *_T, _plan_sum, _run_sum)),
            *each(("int32", "int64"), *_T, _plan_raw, _raw(_real_sum)),
        ),
        _CASES,
        host=True,
    ),
    _extreme("REDUCE_MAX", _real_max),
    _extreme("REDUCE_MIN", _real_min),
    _truth("REDUCE_ANY", _real_any),
    _truth("REDUCE_ALL", _real_all),
    Op(
        "REDUCE_PROD",
        _real_product,
        Rule(data=(), static=(1,), versions={"float32": 1, "int8": 2}, keep_float=True),
        (
            *each(("int8", "int16"), *_T, _plan_product, _run_product),
            *each(("int32", "int64"), *_T, _plan_raw, _raw(_real_product)),
        ),
        (
            _reduced((4,), (0,), False),
            _reduced((2, 3), (-1,), True),
            _reduced((1, 4, 2, 5), (2,), False),
            _reduced((1, 4, 2, 5), (0,), True),
            _reduced((3, 4, 2, 2), (0, 2), False),
            _reduced((3, 4, 2, 2), (3, 1), True),
        ),
        host=True,
    ),
)
