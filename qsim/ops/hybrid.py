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
from .sums import rows, weights_of

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
    """scale = (high - low) / 255 of the range with 0; the zero point is found at the end where it loses less; every step float32.

    codes = round_away(x / scale) + zero: the zero point comes after the rounding.

    *Restates*: AsymmetricQuantizeFloats of the LiteRT kernels.
    """
    low, high = _ends(x)
    none = low == high
    scale = jnp.where(none, f32(1), fixed.divide(high - low, 255.0))
    below, above = low / scale, high / scale
    zero = jnp.where(f32(128) + jnp.abs(below) < f32(127) + jnp.abs(above), f32(-128) - below, f32(127) - above)
    zero = jnp.where(none, f32(0), _away(fixed.clamp(zero, f32(-128), f32(127))))
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
    whole, n = jnp.trunc(x), x.shape[-1]
    exact = whole + jnp.where(jnp.abs(x - whole) >= f32(0.5), jnp.sign(x), f32(0))
    inside = (jnp.arange(n) < n // 8 * 8).reshape((1,) * (x.ndim - 1) + (-1,))
    return jnp.where(inside, jnp.trunc(x + jnp.where(x < 0, f32(-0.5), f32(0.5))), exact)


QUANTIZERS = {"symmetric": symmetric, "asymmetric": asymmetric, "dynamic": dynamic}
NOTES = {
    "symmetric": "rows quantized symmetrically, half away",
    "asymmetric": "rows quantized with a zero point, half away",
    "dynamic": "XNNPACK: rows quantized with a zero point, half to even; product and bias rounded once",
}


def dense_plan(site: Site, flavour: str) -> Plan:
    """q, z, s per row of x; acc[o] = sum (q - z) w[o]; y[o] = act(s s_w[o] acc[o] + bias[o]), rounded as the flavour does.

    *Domain*: int8 weights within -127..127 (the x86 kernels multiply -128 wrongly), zero point 0.
    *Restates*: EvalHybrid of FULLY_CONNECTED of the LiteRT kernels, XNNPACK's qd8-f32-qc8w-gemm.
    *Differs*: XNNPACK quantizes with a zero point whatever `asymmetric_quantize_inputs` says, and adds the bias by an FMA.
    """
    how = "dynamic" if flavour == "xnnpack" else "asymmetric" if site.options.asymmetric_quantize_inputs else "symmetric"
    return Plan(how, _leaves(site, weights_of(site).T, 0), NOTES[how])


def _leaves(site: Site, w: np.ndarray, axis: int) -> dict[str, Any]:
    """Leaves of a sum of float data by weights (..., o). Raises: Unsupported outside the domain of `dense_plan`."""
    q, act, count = site.inputs[1].qparams, site.options.fused_activation_function, w.shape[-1]  # type: ignore[union-attr]
    if q is None or np.any(q.zero_point) or (w == -128).any() or act not in ("NONE", "RELU", "RELU6", "RELU_N1_TO_1"):
        raise Unsupported(
            "float data by such weights", where=site.where, found=f"weights down to {w.min()}, activation {act}",
            expected="zero point 0, codes of -127 or more, no TANH", hint="Float and fake mode run it",
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


def dense_run(options: Options, how: str, leaves: dict[str, Any], x: Any, *_: Any) -> Any:
    x = rows(options, x, leaves["weights"].shape[0])
    q = QUANTIZERS[how](x)
    scale, bias, sums = (leaves[k].reshape((1,) * (x.ndim - 1) + (-1,)) for k in ("scale", "bias", "sums"))
    acc = (dot.dense(q.codes, leaves["weights"]) - q.zero * sums).astype(f32)
    if how == "dynamic":
        return activate(options.fused_activation_function, fixed.fma(acc * q.scale, scale, bias))
    product = fixed.clamp(acc * (q.scale * scale), f32(-3e38), f32(3e38))
    return activate(options.fused_activation_function, bias + product)


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
    *Differs*: with one scale, or equal ones, the LiteRT kernels quantize symmetrically.
    """
    w, options = np.transpose(weights_of(site), (1, 2, 3, 0)), site.options
    leaves = _leaves(site, w, 0)
    if flavour == "xnnpack":
        one = w.shape[:2] == (1, 1) and (options.stride_h, options.stride_w) == (1, 1)
        how = Sums("dynamic", "fma", "pixel" if one else "image")
        return Plan(how, leaves, NOTES[how.quantizer])
    grouped = site.inputs[0].shape[3] != w.shape[2]  # type: ignore[union-attr]
    if grouped:
        _require_per_channel(site, w.shape[3])
    if len(set(leaves["scale"].tolist())) == 1 and not grouped:
        how = Sums("symmetric", "joint")
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
