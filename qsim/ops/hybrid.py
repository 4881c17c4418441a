"""Float data by int8 weights ("dynamic range"): the data are quantized as they come, a scale for each row, and the result is float."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .. import dot, fixed
from ..errors import Invalid, Unsupported
from ..graph import Options
from ..op import Plan, Site
from .common import activate
from .sums import packed_whole, rows, weights_of

f32 = np.float32


class Codes(NamedTuple):
    """x ~ scale * (codes - zero): int8 codes (..., k); zero int32 and scale float32 (..., 1)."""

    codes: Any
    zero: Any
    scale: Any


# A product that is added to something passes through a clamp first: else XLA may contract the two to an FMA, which rounds once.


def symmetric(x: Any) -> Codes:
    """scale = r / 127, r = max |x|; codes = round_away(f32(x f32(127 / r))). *Restates*: SymmetricQuantizeFloats of the LiteRT kernels."""
    reach = jnp.max(jnp.abs(x), axis=-1, keepdims=True)
    none = reach == 0
    inverse = f32(127) / jnp.where(none, f32(1), reach)
    codes = _away(fixed.clamp(x * inverse, f32(-127), f32(127))).astype(np.int8)
    scale = jnp.where(none, f32(1), fixed.divide(reach, 127.0))
    return Codes(codes, jnp.zeros(reach.shape, np.int32), scale)


def asymmetric(x: Any) -> Codes:
    """scale = f32(high - low) / 255 of the range with 0, the zero point found at the end where it loses less, both in float64.

    codes = round_away(x / scale) + zero: the zero point comes after the rounding.

    *Restates*: AsymmetricQuantizeFloats of the LiteRT kernels.
    """
    low, high = _ends(x)
    none = low == high
    with jax.enable_x64(True):
        wide, start, end = (jax.lax.convert_element_type(v, np.float64) for v in (high - low, low, high))
        # Neither a constant divisor nor a plain quotient as divisor: XLA would multiply by reciprocals, and ties would go elsewhere.
        step = jnp.where(none, np.float64(1), wide) / jnp.where(none, np.float64(1), np.float64(255))
        step = fixed.clamp(step, np.float64(1e-300), np.float64(1e300))
        below, above = start / step, end / step
        zero = jnp.where(128 + jnp.abs(below) < 127 + jnp.abs(above), -128 - below, 127 - above)
        zero, scale = (jax.lax.convert_element_type(v, f32) for v in (_round(jnp.clip(zero, -128, 127)), step))
    zero = jnp.where(none, f32(0), zero)
    codes = _away(fixed.clamp(x * (f32(1) / scale), f32(-300), f32(300))) + zero
    return Codes(fixed.clamp(codes, f32(-128), f32(127)).astype(np.int8), zero.astype(np.int32), scale)


def dynamic(x: Any) -> Codes:
    """As `asymmetric`, by 255 / (high - low) and rounding half to even. *Restates*: XNNPACK's qd8 parameters and its f32-qs8-vcvt."""
    low, high = _ends(x)
    steps = jnp.where(low == high, f32(1), f32(255) / jnp.where(low == high, f32(1), high - low))
    below, above = (fixed.clamp(v * steps, f32(-300), f32(300)) for v in (low, high))
    first = (f32(-128) + below) + (f32(127) + above) > 0
    zero = jnp.round(fixed.clamp(jnp.where(first, f32(-128) - below, f32(127) - above), f32(-128), f32(127))).astype(np.int32)
    codes = jnp.round(fixed.clamp(x * steps, f32(-300), f32(300))).astype(np.int32) + zero
    return Codes(jnp.clip(codes, -128, 127).astype(np.int8), zero, f32(1) / steps)


def _ends(x: Any) -> tuple[Any, Any]:
    low, high = jnp.min(x, axis=-1, keepdims=True), jnp.max(x, axis=-1, keepdims=True)
    return jnp.minimum(low, f32(0)), jnp.maximum(high, f32(0))


def _away(x: Any) -> Any:
    """Half away from zero. Whole groups of 8 go through trunc(x +- 0.5), whose sum is rounded: there the float below 0.5 becomes 1."""
    n = x.shape[-1]
    inside = (jnp.arange(n) < n // 8 * 8).reshape((1,) * (x.ndim - 1) + (-1,))
    return jnp.where(inside, jnp.trunc(x + jnp.where(x < 0, f32(-0.5), f32(0.5))), _round(x))


def _round(x: Any) -> Any:
    """Half away from zero."""
    whole = jnp.trunc(x)
    return whole + jnp.where(jnp.abs(x - whole) >= 0.5, jnp.sign(x), jnp.zeros((), x.dtype))


def nibbles(x: Any) -> Codes:
    """As `symmetric` with scales from float64 quotients and exact rounding.

    *Restates*: the quantizer of the 4-bit FULLY_CONNECTED of LiteRT on x86.
    """
    reach = jnp.max(jnp.abs(x), axis=-1, keepdims=True)
    reach = jnp.where(reach == 0, f32(127), reach)
    with jax.enable_x64(True):
        wide = jax.lax.convert_element_type(reach, np.float64)
        inverse, scale = (jax.lax.convert_element_type(v, f32) for v in (np.float64(127) / wide, wide / np.float64(127)))
    codes = _round(fixed.clamp(x * inverse, f32(-127), f32(127))).astype(np.int8)
    return Codes(codes, jnp.zeros(reach.shape, np.int32), scale)


QUANTIZERS = {"nibbles": nibbles, "symmetric": symmetric, "asymmetric": asymmetric, "dynamic": dynamic}
NOTES = {
    "symmetric": "rows quantized symmetrically, half away",
    "asymmetric": "rows quantized with a zero point, half away",
    "nibbles": "rows quantized symmetrically, half away; the 4-bit kernel",
    "dynamic": "XNNPACK: rows quantized with a zero point, half to even; product and bias rounded once",
}


class Rows(NamedTuple):
    """How FULLY_CONNECTED quantizes its rows. lost: some weight is -128 where the x86 kernels multiply it wrongly, see `_lost`."""

    quantizer: str
    lost: bool = False


def dense_plan(site: Site, flavour: str) -> Plan:
    """q, z, s per row of x; acc[o] = sum (q - z) w[o]; y[o] = act(s s_w[o] acc[o] + bias[o]), rounded as the flavour does.

    *Domain*: int8, int4 or int2 weights with zero point 0; no -8 where the 4-bit kernel runs (it packs codes from -7).
    *Restates*: EvalHybrid of FULLY_CONNECTED of the LiteRT kernels, XNNPACK's qd8-f32-qc8w-gemm and qd8-f32-qc4w-gemm.
    *Differs*: XNNPACK quantizes with a zero point whatever `asymmetric_quantize_inputs` says, and adds the bias by an FMA. It leaves
    weights that are not `packed_whole` to the builtin kernel, which has a 4-bit kernel of its own for 32 or more columns and
    4 or more rows.
    """
    w = weights_of(site).T
    depth, nibbles = w.shape[0], site.inputs[1].type == "int4"  # type: ignore[union-attr]
    kernel = "builtin" if flavour == "xnnpack" and not packed_whole(site.inputs[1]) else flavour
    how = "asymmetric" if site.options.asymmetric_quantize_inputs else "symmetric"
    if kernel == "xnnpack":
        how = "dynamic"
    elif kernel == "builtin" and nibbles and depth % 2 == 0 and depth >= 32 and w.shape[1] >= 4:
        how = "nibbles"
        if (w == -8).any():
            raise Unsupported("an int4 weight of -8", where=site.where, hint="LiteRT's 4-bit kernel packs it into its neighbour")
    leaves, lost = _leaves(site, w, 0), _lost(w) if how in ("asymmetric", "symmetric") else None
    if lost is not None:
        leaves["lost"] = lost
    return Plan(Rows(how, lost is not None), leaves, NOTES[how])


def _lost(w: np.ndarray) -> np.ndarray | None:
    """Mask, int8, of the weights (k, o) of -128 in the first 16 floor(k / 16) rows; None where there are none.

    There the x86 kernels multiply |q| by sign(q) w as a byte, in which 128 is -128: with q < 0 the product has the wrong sign.
    """
    mask = (w == -128) & (np.arange(len(w)) < len(w) // 16 * 16)[:, None]
    return mask.astype(np.int8) if mask.any() else None


def _leaves(site: Site, w: np.ndarray, axis: int) -> dict[str, Any]:
    """Leaves of a sum of float data by weights (..., o). Raises: Unsupported outside the domain of `dense_plan`."""
    q, act, count = site.inputs[1].qparams, site.options.fused_activation_function, w.shape[-1]  # type: ignore[union-attr]
    if q is None or np.any(q.zero_point) or act not in ("NONE", "RELU", "RELU6", "RELU_N1_TO_1"):
        raise Unsupported(
            "float data by such weights", where=site.where, found=f"activation {act}",
            expected="zero point 0, no TANH", hint="Float and fake mode run it",
        )  # fmt: skip
    if q.per_channel and (q.axis != axis or np.size(q.scale) != count):
        raise Unsupported("per-channel weights along another axis", where=site.where, found=q.axis, expected=axis)
    bias = site.values[2] if len(site.inputs) > 2 and site.inputs[2] is not None else np.zeros(count, f32)
    if bias is None:
        raise Unsupported("the bias is computed, not constant", where=site.where, hint="Float and fake mode run it")
    return {
        "weights": np.ascontiguousarray(w),
        "sums": w.reshape(-1, count).astype(np.int64).sum(0).astype(np.int32),
        "scale": np.broadcast_to(np.asarray(q.scale, f32).reshape(-1), (count,)).copy(),
        "bias": np.asarray(bias, f32).reshape(-1),
    }


def dense_run(options: Options, how: Any, leaves: dict[str, Any], x: Any, *_: Any) -> Any:
    x = rows(options, x, leaves["weights"].shape[0])
    q = QUANTIZERS[how.quantizer](x)
    scale, bias, sums = (leaves[k].reshape((1,) * (x.ndim - 1) + (-1,)) for k in ("scale", "bias", "sums"))
    acc = dot.dense(q.codes, leaves["weights"]) - q.zero * sums
    if how.lost:
        acc = acc + np.int32(256) * dot.dense(jnp.minimum(q.codes, np.int8(0)), leaves["lost"])
    if how.quantizer == "dynamic":
        return activate(options.fused_activation_function, fixed.fma(acc.astype(f32) * q.scale, scale, bias))
    if how.quantizer == "nibbles":
        return activate(options.fused_activation_function, _nibbles(acc, q, scale, bias))
    product = fixed.clamp(acc.astype(f32) * (q.scale * scale), f32(-3e38), f32(3e38))
    return activate(options.fused_activation_function, bias + product)


def _nibbles(acc: Any, q: Codes, scale: Any, bias: Any) -> Any:
    """The 4-bit kernel sums w + 7 and takes 7 sum q off in float: (((-7 sum q) s) s_w + b) + ((sum q (w + 7)) s) s_w."""
    seven = np.int32(7) * jnp.sum(q.codes, axis=-1, keepdims=True, dtype=np.int32)
    parts = ((v.astype(f32) * q.scale * scale) for v in (-seven, acc + seven))
    off, product = (fixed.clamp(v, f32(-3e38), f32(3e38)) for v in parts)
    return (off + bias) + product


class Sums(NamedTuple):
    """How a convolution quantizes its data and multiplies the scales. by: "image", or "pixel" (over the channels).

    order: "fma" (acc s) s_w + bias, the last two steps rounded once; "joint" acc (s s_w) + bias; "weights" (acc s_w) s + bias;
    "mixed" that for whole groups of 4 channels, (acc s) s_w + bias for the rest.
    """

    quantizer: str
    order: str
    by: str = "image"


def conv_plan(site: Site, flavour: str) -> Plan:
    """As `dense_plan` with a scale per image; XNNPACK per pixel where the window is one pixel with stride 1.

    *Restates*: EvalHybrid and EvalHybridPerChannel of CONV_2D of the LiteRT kernels, XNNPACK's qd8-f32-qc8w convolution.
    *Differs*: with one scale, or equal ones, the LiteRT kernels quantize symmetrically. XNNPACK refuses int4 weights.
    """
    w, options = np.transpose(weights_of(site), (1, 2, 3, 0)), site.options
    leaves = _leaves(site, w, 0)
    if flavour == "xnnpack" and site.inputs[1].type == "int8":  # type: ignore[union-attr]
        one = w.shape[:2] == (1, 1) and (options.stride_h, options.stride_w) == (1, 1)
        how = Sums("dynamic", "fma", "pixel" if one else "image")
        return Plan(how, leaves, NOTES[how.quantizer])
    grouped = site.inputs[0].shape[3] != w.shape[2]  # type: ignore[union-attr]
    if grouped:
        _require_per_channel(site, w.shape[3])
    if len(set(leaves["scale"].tolist())) == 1 and not grouped:
        how = Sums("symmetric", "joint")
        if w.shape[3] % 4 and _lost(w.reshape(-1, w.shape[3])) is not None:
            raise Unsupported(
                "a weight of -128", where=site.where, hint="LiteRT's kernel multiplies it wrongly where channels are no multiple of 4"
            )
    else:
        how = Sums("asymmetric", "weights" if flavour == "reference" or grouped else "joint")
    return Plan(how, leaves, NOTES[how.quantizer])


def depthwise_plan(site: Site, flavour: str) -> Plan:
    """As `conv_plan`, always with a zero point. *Restates*: EvalHybridPerChannel of DEPTHWISE_CONV_2D; XNNPACK has no such kernel."""
    how, w = Sums("asymmetric", "joint" if flavour == "reference" else "mixed"), np.transpose(weights_of(site), (1, 2, 0, 3))
    _require_per_channel(site, w.shape[3])
    return Plan(how, _leaves(site, w, 3), NOTES[how.quantizer])


def _require_per_channel(site: Site, count: int) -> None:
    found = np.size(site.inputs[1].qparams.scale)  # type: ignore[union-attr]
    if found != count:
        raise Invalid(
            "one scale for all weights of channels on their own", where=site.where, found=found, expected=count,
            hint="LiteRT refuses such a file",
        )  # fmt: skip


def images(options: Options, how: Sums, leaves: dict[str, Any], x: Any, product: Any) -> Any:
    """The result of a convolution. product(x, bias, zero): the int32 sums of int8 x, padded with `zero`."""
    q = QUANTIZERS[how.quantizer](x if how.by == "pixel" else x.reshape(x.shape[0], -1))
    none = jnp.zeros(leaves["scale"].shape, np.int32)
    if how.by == "pixel":
        zero, s, acc = q.zero, q.scale, product(q.codes, none, np.int8(0))
    else:
        zero, s = (v.reshape(-1, 1, 1, 1) for v in (q.zero, q.scale))
        each = jax.vmap(lambda c, z: product(c[None], none, z)[0])
        acc = each(q.codes.reshape(x.shape), q.zero[:, 0].astype(np.int8))
    scale, bias, sums = (leaves[k].reshape(1, 1, 1, -1) for k in ("scale", "bias", "sums"))
    return activate(options.fused_activation_function, _scaled(how.order, (acc - zero * sums).astype(f32), s, scale, bias))


def _scaled(order: str, acc: Any, s: Any, scale: Any, bias: Any) -> Any:
    if order == "fma":
        return fixed.fma(acc * s, scale, bias)
    y = acc * (s * scale) if order == "joint" else (acc * scale) * s
    if order == "mixed":
        channels = acc.shape[-1]
        y = jnp.where((jnp.arange(channels) < channels // 4 * 4).reshape(1, 1, 1, -1), y, (acc * s) * scale)
    return fixed.clamp(y, f32(-3e38), f32(3e38)) + bias
