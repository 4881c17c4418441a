"""HARD_SWISH, ABS, SQRT, RSQRT by tables over all codes; NEG of the codes; SQUARE, SIN, COS, FLOOR, CEIL, ROUND, SIGN over the reals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import Unsupported
from ..fixed import lookup, quantize_multiplier, requantize_host, shift_away_host
from ..graph import Options
from ..op import FLAVOURS, Kernel, Op, Plan, Rule, Site, namespace
from ..types import code_range
from .common import Leaves, affine, each, f32, require_centred, where_positive
from .inverse_sqrt import inverse_sqrt_host
from .tables import UNARY, interpolated, interpolation_table, reciprocal_root

Codes = Callable[[Site, np.ndarray], np.ndarray]  # int64 codes above the zero point -> int64 output codes, not yet clipped


def _plan_codes(function: Codes, note: str) -> Callable[[Site, str], Plan]:
    def plan(site: Site, flavour: str) -> Plan:
        require_centred(site)
        low, high = code_range(site.outputs[0].type)
        centred = np.arange(low, high + 1, dtype=np.int64) - affine(site, site.inputs[0])[1]
        return Plan((), {"table": np.clip(function(site, centred), low, high).astype(site.outputs[0].type)}, note)

    return plan


def _run_table(options: Options, static: tuple, leaves: Leaves, x: jax.Array) -> jax.Array:
    """y = table[q]: the kernel's own steps for each of the 256 or 65536 codes, taken on the host.

    *Restates*: HARD_SWISH, ABS, SQRT, RSQRT of LiteRT, the same in every flavour (XNNPACK does not take them quantized).
    """
    return lookup(leaves["table"], x)


# ---------------------------------------------------------------- HARD_SWISH


def _real_hard_swish(options: Options, x: Any) -> Any:
    ns = namespace(x)
    three, six = (np.asarray(v, x.dtype) for v in (3, 6))
    return x * ns.minimum(ns.maximum(x + three, np.asarray(0, x.dtype)), six) / six


def _wrap16(x: np.ndarray) -> np.ndarray:
    return x.astype(np.int16).astype(np.int64)


def _saturate16(x: np.ndarray) -> np.ndarray:
    return np.clip(x, -32768, 32767)


def _multiplier16(real: np.float32) -> tuple[int, int]:
    (m,), (e,) = quantize_multiplier(real)
    return min((int(m) + (1 << 15)) >> 16, 32767), int(e)


def _hard_swish(site: Site, x: np.ndarray) -> np.ndarray:
    """y = (x / s_y) relu6(x + 3) / 6 in 16 bits: q - z_x with 7 more bits, times s_x / s_y, times a ReLU-like factor in Q0.15."""
    (sx, _), (sy, zy) = affine(site, site.inputs[0]), affine(site, site.outputs[0])
    fine = f32(f32(1 / 128) * sx)
    (mo, eo), (mr, er) = _multiplier16(f32(fine / sy)), _multiplier16(f32(fine / f32(3 / 32768)))
    if eo > 0:
        raise Unsupported("HARD_SWISH needs an input scale below 128 output scales", where=site.where, found=float(sx / sy))
    fine_x = _wrap16(x * 128)
    swung = _half_up(fine_x * mo, 15)
    factor = _saturate16(fine_x << max(er - 1, 0))
    factor = _half_up(factor * mr, 15)
    factor = _saturate16(factor << 1) if er > 0 else shift_away_host(factor, -er)
    factor = (factor + 32768) >> 1
    product = factor * swung
    product = np.sign(product) * (np.abs(product) >> 15)
    return _wrap16(shift_away_host(product, -eo) + zy)


def _half_up(x: np.ndarray, bits: int) -> np.ndarray:
    return (x + (1 << bits >> 1)) >> bits


# ---------------------------------------------------------------- ABS, SQRT, RSQRT


def _abs(site: Site, x: np.ndarray) -> np.ndarray:
    """|q - z_x|, requantized by f32(s_x / s_y) where the scales differ."""
    (sx, _), (sy, zy) = affine(site, site.inputs[0]), affine(site, site.outputs[0])
    (m,), (e,) = quantize_multiplier(f32(sx / sy))
    return (np.abs(x) if sx == sy else requantize_host(np.abs(x), int(m), int(e))) + zy


def _sqrt(site: Site, x: np.ndarray) -> np.ndarray:
    """trunc(f32(sqrt(f32(s_x (q - z_x))) / s_y)) + z_y; 0 below the zero point, where LiteRT stops with an error."""
    (sx, _), (sy, zy) = affine(site, site.inputs[0]), affine(site, site.outputs[0])
    return np.trunc(np.sqrt(np.maximum(x, 0).astype(f32) * sx) / sy).astype(np.int64) + zy


def _rsqrt(site: Site, x: np.ndarray) -> np.ndarray:
    """int8, in fixed point: 1 / sqrt of the integer q - z_x, times 1 / (sqrt(s_x) s_y); 127 at the zero point and below."""
    (sx, _), (sy, zy) = affine(site, site.inputs[0]), affine(site, site.outputs[0])
    (m,), (e,) = quantize_multiplier(1.0 / float(f32(np.sqrt(sx) * sy)))
    multipliers, shifts = inverse_sqrt_host(np.maximum(x, 1))
    roots = zip(multipliers.tolist(), shifts.tolist(), strict=True)
    found = [requantize_host(requantize_host(1, a, b + 20), int(m), int(e) - 20) for a, b in roots]
    return np.where(x <= 0, 127, np.array(found) + zy)


def _plan_rsqrt16(site: Site, flavour: str) -> Plan:
    require_centred(site)
    (sx, _), (sy, _) = affine(site, site.inputs[0]), affine(site, site.outputs[0])
    entries = interpolation_table(lambda x: reciprocal_root(x, site), (sx, 0), (sy, 0))
    return Plan((), {"table": interpolated(entries, np.arange(-32768, 32768)).astype(np.int16)}, "513-entry table, interpolated")


def _plan_negated(site: Site, flavour: str) -> Plan:
    return Plan(note="the stored numbers negated")


def _run_negated(options: Options, static: tuple, leaves: Leaves, x: jax.Array) -> jax.Array:
    """y = -q of the stored codes, wrapping; neither scales nor zero points are read. *Restates*: NEG of LiteRT, in every flavour."""
    return -x


def _float(name: str, function: Callable[[Any], Any]) -> Op:
    return Op(name, lambda options, x: function(x), Rule(versions={"float32": 1, "int8": 1}), (), UNARY)


_T = ("T",)

OPS = (
    Op(
        "HARD_SWISH",
        _real_hard_swish,
        Rule(versions={"float32": 1, "int8": 1}),
        each(("int8", "uint8"), _T, _T, _plan_codes(_hard_swish, "16-bit fixed point, as a table"), _run_table),
        UNARY,
    ),
    Op(
        "ABS",
        lambda options, x: abs(x),
        Rule(),
        each(("int8", "int16"), _T, _T, _plan_codes(_abs, "requantized sizes, as a table"), _run_table),
        UNARY,
    ),
    Op(
        "SQRT",
        where_positive(jnp.sqrt, lambda limits: 0),
        Rule(keep_float=True, typed=True),
        each(("int8", "int16"), _T, _T, _plan_codes(_sqrt, "float32 root, truncated, as a table"), _run_table),
        UNARY,
    ),
    Op(
        "RSQRT",
        where_positive(jax.lax.rsqrt, lambda limits: limits.max),
        Rule(keep_float=True, typed=True),
        (
            *each(("int8",), _T, _T, _plan_codes(_rsqrt, "fixed-point root, as a table"), _run_table),
            Kernel(("int16",), ("int16",), FLAVOURS, _plan_rsqrt16, _run_table),
        ),
        UNARY,
    ),
    Op(
        "NEG",
        lambda options, x: -x,
        Rule(versions={"float32": 1, "int8": 1}, keep_float=True),
        each(("int8", "int16"), _T, _T, _plan_negated, _run_negated),
        UNARY,
    ),
    _float("SQUARE", lambda x: x * x),
    _float("SIN", lambda x: namespace(x).sin(x)),
    _float("COS", lambda x: namespace(x).cos(x)),
    _float("FLOOR", lambda x: namespace(x).floor(x)),
    _float("CEIL", lambda x: namespace(x).ceil(x)),
    _float("ROUND", lambda x: namespace(x).round(x)),
    _float("SIGN", lambda x: namespace(x).sign(x)),
)
