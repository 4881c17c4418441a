"""What sums of products share: zero points folded into the bias, the accumulator from int8 products, and its rescaling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

from .. import fixed
from ..errors import Invalid, Unsupported
from ..graph import Options, QParams, Tensor
from ..op import Site
from ..types import code_range

f32 = np.float32


class Rescale(NamedTuple):
    """Which rounding takes an accumulator to the output's steps, and what the host could prove about it.

    rule: "scale" (XNNPACK, float32, half even), "away" and "up" (two fixed-point steps), "mixed" (up for whole groups of 8 channels,
    away for the rest), "double" (float64, half away), "wide" (64-bit sums, a multiplier of 15 bits, half up). small:
    |acc * 2^L| < 2^30. left: some shift is positive. out: type of the output. columns: how many columns of ones the weights carry,
    one a group, 0 where the weights' zero point is 0.
    """

    rule: str
    small: bool
    left: bool
    out: str = "int8"
    columns: int = 0


def scales(site: Site, axis: int, count: int) -> tuple[np.float32, np.ndarray, np.float32]:
    """(s_x, s_w per channel, s_y) as float32 values, exactly as stored."""
    x, w, y = (_parameters(t, site) for t in (site.inputs[0], site.inputs[1], site.outputs[0]))
    if w.per_channel and (w.axis != axis or np.size(w.scale) != count):
        raise Unsupported(
            "per-channel weights along another axis",
            where=site.where, found=f"axis {w.axis}, {np.size(w.scale)} scales", expected=f"axis {axis}, {count} scales",
        )  # fmt: skip
    sw = np.broadcast_to(np.asarray(w.scale, f32).reshape(-1), (count,)).copy()
    return f32(x.scale[0]), sw, f32(y.scale[0])


def _parameters(t: Tensor | None, site: Site) -> QParams:
    if t is None or t.qparams is None:
        raise Unsupported(f"tensor {t.name if t else 'absent'!r} has no quantization parameters", where=site.where)
    return t.qparams


def rescale(site: Site, rule: str, axis: int, bound: np.ndarray) -> tuple[Rescale, dict[str, Any]]:
    """Static part and leaves of the rescaling s_x * s_w / s_y. bound: largest |accumulator| per channel, steps (float64).

    scale: f32(f32(s_x * s_w) / s_y). Fixed-point rules and double: f64(s_x) * f64(s_w) / f64(s_y); uint8 kernels with a fixed-point
    rule, and the builtin FULLY_CONNECTED with one weight scale, take f64(f32(s_x * s_w)) / f64(s_y).
    """
    sx, sw, sy = scales(site, axis, len(bound))
    out = site.outputs[0].type
    if rule == "scale":
        scale = (f32(sx) * sw).astype(f32) / f32(sy) / f32(_times(site, rule))
        return Rescale(rule, False, False, out), {"scale": scale.astype(f32)}
    x, w = site.inputs[0], site.inputs[1]
    single = site.node.op == "FULLY_CONNECTED" and rule == "up" and not w.qparams.per_channel  # type: ignore[union-attr]
    legacy = single or (x.type == "uint8" and rule != "double")  # type: ignore[union-attr]
    product = (f32(sx) * sw).astype(np.float64) if legacy else np.float64(sx) * sw.astype(np.float64)
    real = product / np.float64(sy)
    if rule == "double":
        return Rescale(rule, False, False, out), {"real_multiplier": fixed.words(real)}
    if rule == "wide":
        short, right = fixed.quantize_multiplier_16(real)
        return Rescale(rule, False, False, out), {"multiplier": short, "shift": right}
    m, e = fixed.quantize_multiplier(real)
    small = bool((bound * 2.0 ** np.maximum(e, 0) < 2.0**30).all())
    return Rescale(rule, small, bool((e > 0).any()), out), {"multiplier": m, "shift": e}


def finish(how: Rescale, leaves: dict[str, Any], acc: Any) -> Any:
    """Accumulator (int32, or int64 for "wide" and "double"; channels last) -> stored output: rescale, add the zero point, clamp."""
    zero, low, high, dtype = leaves["output_zero_point"], leaves["act_min"], leaves["act_max"], np.dtype(how.out)
    if how.rule == "scale":
        return fixed.scale_round(acc, leaves["scale"], zero, low, high, dtype)
    if how.rule == "double":
        return fixed.store(fixed.double_round(acc, leaves["real_multiplier"]), zero, low, high, dtype)
    m, e = leaves["multiplier"], leaves["shift"]
    if how.rule == "wide":
        return fixed.store(fixed.requantize_wide(acc, m, e), zero, low, high, dtype)
    if how.rule != "mixed":
        return fixed.store(fixed.requantize(acc, m, e, small=how.small, left=how.left, rounding=how.rule), zero, low, high, dtype)
    channels = acc.shape[-1]
    whole = jnp.arange(channels) < channels // 8 * 8
    up, away = (fixed.requantize(acc, m, e, small=how.small, left=how.left, rounding=r) for r in ("up", "away"))
    return fixed.store(jnp.where(whole.reshape((1,) * (acc.ndim - 1) + (-1,)), up, away), zero, low, high, dtype)


def weights_of(site: Site) -> np.ndarray:
    """The codes of the weights. Raises: Unsupported where they are computed."""
    if site.values[1] is None:
        raise Unsupported("the weights are computed, not constant", where=site.where, hint="Float and fake mode run it")
    return site.values[1]


def _bias(site: Site, count: int) -> np.ndarray:
    if len(site.inputs) < 3 or site.inputs[2] is None:
        return np.zeros(count, np.int64)
    if site.values[2] is None:
        raise Unsupported("the bias is computed, not constant", where=site.where, hint="Float and fake mode run it")
    return site.values[2].astype(np.int64).reshape(count)


def _weights_zero(site: Site) -> int:
    """Zero point of the weights where the kernel reads it: one for all, and of int8 weights only in FULLY_CONNECTED."""
    w = site.inputs[1]
    zero = np.ravel(w.qparams.zero_point)  # type: ignore[union-attr]
    read = zero.size == 1 and (site.node.op == "FULLY_CONNECTED" or w.type == "uint8")  # type: ignore[union-attr]
    return int(zero[0]) if read else 0


def prepare(site: Site, rule: str, w: np.ndarray, axis: int, groups: int = 1) -> tuple[Rescale, dict[str, Any]]:
    """Static part and leaves of a sum of products. w: codes of the weights with the output channels last, (..., o).

    acc[o] = sum x * w[o] + bias[o] - z_x * sum w[o] - z_w * sum (x - z_x), in wrapping int32: the zero point of x is folded into the
    bias, and padding is done with z_x. Where z_w is not 0, a column of ones in each group of the weights gives sum x. uint8 codes
    become int8 codes less 128, with zero points less 128. int16 codes, see `_two_bytes`.
    """
    x, y = site.inputs[0], site.outputs[0]
    half, times = 128 if x.type == "uint8" else 0, _times(site, rule)  # type: ignore[union-attr]
    codes = (w.astype(np.int64) - half) * times
    flat, bias = codes.reshape(-1, w.shape[-1]), _bias(site, w.shape[-1]) * times
    zx, zw = int(x.qparams.zero_point[0]) - half, _weights_zero(site) - half  # type: ignore[union-attr]
    low, high = (end - half for end in code_range(x.type))  # type: ignore[union-attr]
    bound = np.abs(flat - zw).sum(0) * float(max(high - zx, zx - low)) + np.abs(bias)
    how, leaves = rescale(site, rule, axis, bound)
    folded = bias - zx * flat.sum(0) + zw * zx * len(flat)
    if x.type == "int16":  # type: ignore[union-attr]
        _require_symmetric(site)
        folded = bias + 128 * (flat - zw).sum(0)
    if zw:
        codes = _with_ones(codes, groups)
        folded = folded if _is_wide(site, rule) else _with_zeros(folded, groups)
        how, leaves = how._replace(columns=groups), leaves | {"weights_zero_point": np.int32(zw)}
    act, kernel = site.options.fused_activation_function, "xnnpack" if rule == "scale" else "builtin"
    low, high = fixed.activation_range(act, y.qparams.scale[0], int(y.qparams.zero_point[0]), y.type, kernel)  # type: ignore[union-attr]
    leaves |= {
        "weights": np.ascontiguousarray(codes.astype(np.int8)),
        **({"bias_words": fixed.words(folded, np.int64)} if _is_wide(site, rule) else {"bias": folded.astype(np.int32)}),
        "input_zero_point": np.int8(zx),
        "output_zero_point": np.int32(y.qparams.zero_point[0]),  # type: ignore[union-attr]
        "act_min": np.int32(low),
        "act_max": np.int32(high),
    }
    return how, leaves


def _times(site: Site, rule: str) -> int:
    """XNNPACK sums 16 times the int4 weights and the bias (wrapping early), and takes a 16th of the scale."""
    return 16 if rule == "scale" and site.inputs[1].type == "int4" else 1  # type: ignore[union-attr]


def _has_long_bias(site: Site) -> bool:
    return len(site.inputs) > 2 and site.inputs[2] is not None and site.inputs[2].type == "int64"


def _is_wide(site: Site, rule: str) -> bool:
    """Sums of int16 codes are 64-bit unless the bias is int32; ruy's are 32-bit."""
    bias = site.inputs[2] if len(site.inputs) > 2 else None
    return site.inputs[0].type == "int16" and rule != "up" and (bias is None or bias.type == "int64")  # type: ignore[union-attr]


def _require_symmetric(site: Site) -> None:
    """Raises: Invalid unless the zero points of int16 data are 0, and the options name the type of an int32 bias."""
    zeros = [int(np.ravel(t.qparams.zero_point)[0]) for t in (site.inputs[0], site.outputs[0])]  # type: ignore[union-attr]
    if any(zeros):
        raise Invalid("int16 data with a zero point", where=site.where, found=zeros, expected=0, hint="LiteRT refuses such a file")
    named = site.options.get("quantized_bias_type", "FLOAT32")
    if len(site.inputs) > 2 and site.inputs[2] is not None and site.inputs[2].type == "int32" and named != "INT32":
        raise Invalid(
            "an int32 bias of int16 data that the options do not name", where=site.where, found=named, expected="quantized_bias_type INT32",
            hint="LiteRT reads it as 64-bit numbers, past its end",
        )  # fmt: skip


def _with_ones(w: np.ndarray, groups: int) -> np.ndarray:
    """w (..., o) with a last column of ones in each group: (..., o + groups)."""
    parts = w.reshape(*w.shape[:-1], groups, -1)
    return np.concatenate([parts, np.ones_like(parts[..., :1])], -1).reshape(*w.shape[:-1], -1)


def _with_zeros(bias: np.ndarray, groups: int) -> np.ndarray:
    return np.pad(bias.reshape(groups, -1), ((0, 0), (0, 1))).reshape(-1)


def accumulate(how: Rescale, leaves: dict[str, Any], x: Any, product: Callable[..., Any]) -> Any:
    """The accumulator of x as stored: int32, or int64 for int16 x without an int32 bias.

    product(x, bias, zero): int8 x, padded with `zero`, times the weights, plus bias (o,).
    """
    if x.dtype == np.int16:
        return _two_bytes(how, leaves, x, product)
    if x.dtype == np.uint8:
        x = lax.bitcast_convert_type(x ^ np.uint8(128), np.int8)
    return _less_ones(how, leaves, product(x, leaves["bias"], leaves["input_zero_point"]))


def _less_ones(how: Rescale, leaves: dict[str, Any], acc: Any) -> Any:
    """Sums without those of the columns of ones, which are multiplied by the weights' zero point and taken off."""
    if not how.columns:
        return acc
    parts = acc.reshape(*acc.shape[:-1], how.columns, -1)
    return (parts[..., :-1] - leaves["weights_zero_point"] * parts[..., -1:]).reshape(*acc.shape[:-1], -1)


def _two_bytes(how: Rescale, leaves: dict[str, Any], x: Any, product: Callable[..., Any]) -> Any:
    """x = 256 h + l + 128 with h, l in -128..127: two products of int8, and 128 sum w is in the bias."""
    high = (x >> np.int16(8)).astype(np.int8)
    low = lax.bitcast_convert_type((x & np.int16(255)).astype(np.uint8) ^ np.uint8(128), np.int8)
    none = jnp.zeros(leaves["weights"].shape[-1], np.int32)
    bias = none if "bias_words" in leaves else leaves["bias"]
    high, low = (_less_ones(how, leaves, product(*args)) for args in ((high, none, np.int8(0)), (low, bias, np.int8(-128))))
    return fixed.wide_sum(high, low, leaves["bias_words"]) if "bias_words" in leaves else (high << np.int32(8)) + low


def rows(options: Options, x: Any, depth: int) -> Any:
    """x as the kernel reads it: (..., depth) with keep_num_dims, else (size / depth, depth)."""
    return x if options.keep_num_dims and x.shape[-1] == depth else x.reshape(-1, depth)


RULES = {
    "CONV_2D": {"xnnpack": "scale", "reference": "away", "builtin": "up"},
    "DEPTHWISE_CONV_2D": {"xnnpack": "scale", "reference": "away", "builtin": "mixed"},
    "FULLY_CONNECTED": {"xnnpack": "scale", "reference": "double", "builtin": "up"},
}
NOTES = {
    "scale": "XNNPACK: float32 scale, round half even",
    "away": "two fixed-point roundings: half up, then half away from zero",
    "up": "two fixed-point roundings, both half up (ruy, AVX)",
    "mixed": "two fixed-point roundings: second half up for whole groups of 8 channels, half away for the rest",
    "double": "float64 multiplier, round half away from zero",
    "wide": "64-bit sums, multiplier of 15 bits, round half up",
}


def rule_of(site: Site, flavour: str) -> str:
    """The rounding of this site: the builtin kernel runs what XNNPACK refuses, and leaves grouped convolutions and depthwise uint8 to
    the reference kernel. Depthwise uint8 weights XNNPACK takes where their scale is stored for axis 0, as the oldest converters do."""
    x, w, op = site.inputs[0], site.inputs[1], site.node.op
    if x.type == "uint8" and op == "DEPTHWISE_CONV_2D":  # type: ignore[union-attr]
        return "scale" if flavour == "xnnpack" and w.qparams.axis == 0 and not _refused(site) else "away"  # type: ignore[union-attr]
    if x.type == "int16":  # type: ignore[union-attr]
        if op == "FULLY_CONNECTED":
            ruy = flavour != "reference" and not _has_long_bias(site) and not _weights_zero(site)
            return "up" if ruy else "double"
        if _has_long_bias(site) or len(site.inputs) < 3 or site.inputs[2] is None:
            return "wide"
    kernel = "builtin" if flavour == "xnnpack" and _refused(site) else flavour
    grouped = op == "CONV_2D" and x.shape[3] != w.shape[3]  # type: ignore[union-attr]
    return RULES[op]["reference" if kernel == "builtin" and grouped else kernel]


def packed_whole(w: Tensor | None) -> bool:
    """Does XNNPACK take these weights of FULLY_CONNECTED? int4 rows of an even length; int2 rows of whole bytes, a scale per channel."""
    if w is None or w.type not in ("int4", "int2"):
        return True
    return w.shape[1] % 2 == 0 if w.type == "int4" else w.shape[1] % 4 == 0 and np.size(w.qparams.scale) == w.shape[0]  # type: ignore[union-attr]


def _refused(site: Site) -> bool:
    """XNNPACK refuses int16, TANH and SIGN_BIT activations, another type of the output, asymmetric int8 weights, and of int4
    and int2 weights those that `packed_whole` is not true of."""
    w = site.inputs[1]
    if site.inputs[0].type == "int16":  # type: ignore[union-attr]
        return True
    if w.type in ("int4", "int2") and (site.node.op != "FULLY_CONNECTED" or not packed_whole(w)):  # type: ignore[union-attr]
        return True
    if site.inputs[0].type != site.outputs[0].type:  # type: ignore[union-attr]
        return True
    asymmetric = w.type != "uint8" and bool(np.any(w.qparams.zero_point))  # type: ignore[union-attr]
    return asymmetric or site.options.fused_activation_function in ("TANH", "SIGN_BIT")
