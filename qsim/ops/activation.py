"""RELU, RELU6, RELU_N1_TO_1, RELU_0_TO_1, LEAKY_RELU, PRELU: functions of one input that are lines, bent at their ends or at 0."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..fixed import activation_range, quantize_multiplier, requantize, store
from ..graph import Options
from ..op import FLAVOURS, Case, Kernel, Op, Plan, Rule, Site, namespace
from .common import Leaves, activate, affine, align, each, f32, plain, require_centred, type_bounds
from .tables import UNARY

# ---------------------------------------------------------------- RELU family


def _plan_clamp(name: str) -> Callable[[Site, str], Plan]:
    def plan(site: Site, flavour: str) -> Plan:
        require_centred(site)
        (sx, zx), (sy, zy) = affine(site, site.inputs[0]), affine(site, site.outputs[0])
        (multiplier,), (shift,) = quantize_multiplier(f32(sx / sy))
        low, high = activation_range(name, sy, zy, site.outputs[0].type, "builtin")
        numbers = {"input_zero_point": zx, "multiplier": multiplier, "shift": shift, "zero_point": zy, "act_min": low, "act_max": high}
        small = _span(site) << max(int(shift), 0) < 1 << 30
        return Plan((small,), {k: np.int32(v) for k, v in numbers.items()}, "requantize, then clamp")

    return plan


def _span(site: Site) -> int:
    """The largest distance of a code from a zero point."""
    return 1 << 15 if site.outputs[0].type == "int16" else 255


def _run_clamp(options: Options, static: tuple, leaves: Leaves, x: jax.Array) -> jax.Array:
    """y = clip(MBQM(q - z_x, f32(s_x / s_y)) + z_y, low, high).

    *Restates*: the RELU ops of LiteRT, the same in every flavour (XNNPACK does not take them quantized).
    """
    centred = x.astype(np.int32) - leaves["input_zero_point"]
    y = requantize(centred, leaves["multiplier"], leaves["shift"], small=static[0])
    return store(y, leaves["zero_point"], leaves["act_min"], leaves["act_max"], x.dtype)


def _clamp(name: str, types: tuple[str, ...], rule: Rule) -> Op:
    def real(options: Options, x: Any) -> Any:
        return activate(name, x)

    return Op(name, real, rule, each(types, ("T",), ("T",), _plan_clamp(name), _run_clamp), UNARY)


# ---------------------------------------------------------------- LEAKY_RELU


def _real_leaky(options: Options, x: Any) -> Any:
    return namespace(x).where(x >= 0, x, x * np.asarray(options.get("alpha", 0.0), x.dtype))


def _plan_leaky(site: Site, flavour: str) -> Plan:
    """static: ("xnnpack",) | ("litert", small)."""
    require_centred(site)
    (sx, zx), (sy, _) = affine(site, site.inputs[0]), affine(site, site.outputs[0])
    alpha, ratio = f32(site.options.get("alpha", 0.0)), f32(sx / sy)
    leaves: Leaves = {"input_zero_point": np.int32(zx), **type_bounds(site)}
    slope = f32(ratio * alpha)
    if flavour == "xnnpack" and site.outputs[0].type != "int16" and plain(site) and _delegated(ratio, slope):
        steps = {name: np.int32(np.rint(f32(256) * v)) for name, v in (("multiplier", ratio), ("negative_multiplier", slope))}
        return Plan(("xnnpack",), {**leaves, **steps}, "XNNPACK: 8 fractional bits, halves up")
    (m,), (e,) = quantize_multiplier(ratio)
    (negative,), (shift,) = quantize_multiplier(f32(f32(sx * alpha) / sy))
    sign = -1 if negative < 0 and (flavour == "reference" or site.outputs[0].type != "int16") else 1
    leaves |= {"multiplier": m, "shift": e, "negative_multiplier": negative * np.int32(sign), "negative_shift": shift}
    leaves["sign"] = np.int32(sign)
    small = _span(site) << max(int(e), int(shift), 0) < 1 << 30
    return Plan(("litert", small), leaves, "fixed point, two roundings")


def _delegated(ratio: np.float32, slope: np.float32) -> bool:
    return bool(2.0**-8 <= ratio <= 2.0**7 and 2.0**-8 <= abs(slope) <= 2.0**7 and slope >= -127.99609375)


def _run_leaky(options: Options, static: tuple, leaves: Leaves, x: jax.Array) -> jax.Array:
    """y = clip(M (q - z_x) + z_y), M = s_x / s_y, times alpha below the zero point.

    XNNPACK (8-bit): M = rint(256 r) / 256, halves up; r = f32(s_x / s_y), or f32(r alpha). LiteRT: MBQM by f32(f32(s_x alpha) / s_y),
    where alpha is negative by its size, and negated after it (not in the builtin int16 kernel).

    *Domain*: XNNPACK takes r in [2^-8, 2^7] and |r alpha| in [2^-8, 2^7]; else LiteRT's own kernel runs.
    *Restates*: qs8-vlrelu of XNNPACK; LEAKY_RELU of LiteRT.
    """
    centred = x.astype(np.int32) - leaves["input_zero_point"]
    limits = leaves["zero_point"], leaves["act_min"], leaves["act_max"], x.dtype
    if static[0] == "xnnpack":
        slope = jnp.where(centred > 0, leaves["multiplier"], leaves["negative_multiplier"])
        return store((centred * slope + np.int32(128)) >> np.int32(8), *limits)
    above = requantize(centred, leaves["multiplier"], leaves["shift"], small=static[1])
    below = requantize(centred, leaves["negative_multiplier"], leaves["negative_shift"], small=static[1]) * leaves["sign"]
    return store(jnp.where(centred >= 0, above, below), *limits)


# ---------------------------------------------------------------- PRELU


def _real_prelu(options: Options, x: Any, alpha: Any) -> Any:
    x, alpha = align(x, alpha)
    return namespace(x, alpha).where(x >= 0, x, x * alpha)


def _plan_prelu(site: Site, flavour: str) -> Plan:
    """static: (small,)."""
    (sx, zx), (sa, za), (sy, _) = (affine(site, t) for t in (*site.inputs, site.outputs[0]))
    (m,), (e,) = quantize_multiplier(f32(sx / sy))
    (negative,), (shift,) = quantize_multiplier(f32(f32(sx * sa) / sy))
    leaves: Leaves = {"input_zero_point": np.int32(zx), "alpha_zero_point": np.int32(za), **type_bounds(site)}
    leaves |= {"multiplier": m, "shift": e, "negative_multiplier": negative, "negative_shift": shift}
    small = 255 * _span(site) << max(int(e), int(shift), 0) < 1 << 30
    return Plan((small,), leaves, "fixed point, two roundings")


def _run_prelu(options: Options, static: tuple, leaves: Leaves, x: jax.Array, alpha: jax.Array) -> jax.Array:
    """y = clip(MBQM(q - z_x, f32(s_x / s_y)) + z_y); below the zero point MBQM((q - z_x)(a - z_a), f32(f32(s_x s_a) / s_y)).

    *Restates*: PRELU of LiteRT, the same in every flavour (XNNPACK does not take it quantized).
    """
    x, alpha = align(x, alpha)
    centred = x.astype(np.int32) - leaves["input_zero_point"]
    product = centred * (alpha.astype(np.int32) - leaves["alpha_zero_point"])
    above = requantize(centred, leaves["multiplier"], leaves["shift"], small=static[0])
    below = requantize(product, leaves["negative_multiplier"], leaves["negative_shift"], small=static[0])
    y = jnp.where(centred >= 0, above, below)
    return store(y, leaves["zero_point"], leaves["act_min"], leaves["act_max"], x.dtype)


_8 = ("int8", "uint8")
_ALL = ("int8", "uint8", "int16")
_ONE = Rule(versions={"float32": 1, "int8": 1})

OPS = (
    _clamp("RELU", _ALL, Rule()),
    _clamp("RELU6", _ALL, Rule()),
    _clamp("RELU_N1_TO_1", _8, _ONE),
    _clamp("RELU_0_TO_1", _8, _ONE),
    Op(
        "LEAKY_RELU",
        _real_leaky,
        Rule(),
        each(_ALL, ("T",), ("T",), _plan_leaky, _run_leaky),
        (*(Case(c.inputs, {"alpha": 0.3}) for c in UNARY), *(Case(((1, 259),), {"alpha": a}) for a in (0.0078125, 2.0, -0.5, 0.0))),
    ),
    Op(
        "PRELU",
        _real_prelu,
        Rule(data=(0, 1), versions={"float32": 1, "int8": 1}),
        (
            *each(_8, ("T", "T"), ("T",), _plan_prelu, _run_prelu),
            Kernel(("int16", "int8"), ("int16",), FLAVOURS, _plan_prelu, _run_prelu),
        ),
        (
            Case(((1, 3, 5, 7), (1, 1, 7)), constant=(1,)),
            Case(((1, 3, 5, 7), (3, 5, 7))),
            Case(((1, 4, 4, 3), (1, 1, 1)), constant=(1,)),
        ),
    ),
)
