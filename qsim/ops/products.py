"""TRANSPOSE_CONV: sums of products scattered with the stride, and the rescaling that BATCH_MATMUL shares."""

from __future__ import annotations

import functools
import itertools
import operator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .. import dot, fixed
from ..errors import Invalid, Unsupported
from ..graph import Options, Tensor
from ..op import Case, Kernel, Op, Plan, Rule, Site
from ..windows import window
from .common import Leaves, activate, affine, body, f32
from .hybrid import NOTES as ROW_NOTES
from .hybrid import QUANTIZERS

FLAVOURS = ("xnnpack", "reference", "builtin")


class Rescale(NamedTuple):
    """rule: "scale" (XNNPACK, float32, half even), "away", "mixed", "blocks" (two fixed-point steps; the second half away, or up for
    whole groups of 8 channels, or for whole blocks of 16 elements), "wide" (int64 sums, 15-bit multiplier, half up).
    type, shape: of the output."""

    rule: str
    type: str
    shape: tuple[int, ...] = ()


NOTES = {
    "scale": "XNNPACK: float32 scale, round half even",
    "away": "two fixed-point roundings: half up, then half away from zero",
    "mixed": "two fixed-point roundings: second half up for whole groups of 8 channels, half away for the rest",
    "blocks": "two fixed-point roundings: second half up in blocks of 16 elements, half away for the rest",
    "wide": "64-bit sums, 15-bit multiplier, one rounding half up",
}


def rescaling(site: Site, rule: str, sx: np.float32, sw: np.ndarray, exact: bool, flavour: str) -> tuple[Rescale, Leaves]:
    """Static part and leaves of s_x s_w / s_y with the output's zero point and clamp.

    exact: the product of the scales is a float64 one, else rounded to float32.
    """
    y = site.outputs[0]
    sy, zy = affine(site, y)
    low, high = fixed.activation_range(site.options.get("fused_activation_function", "NONE"), sy, zy, y.type, flavour)
    leaves: Leaves = {"output_zero_point": np.int32(zy), "act_min": np.int32(low), "act_max": np.int32(high)}
    if rule == "scale":
        return Rescale(rule, y.type, y.shape), leaves | {"scale": ((f32(sx) * sw).astype(f32) / sy).astype(f32)}
    product = np.float64(sx) * sw.astype(np.float64) if exact else (f32(sx) * sw).astype(np.float64)
    m, e = fixed.quantize_multiplier(product / np.float64(sy))
    if rule == "wide":
        short = np.where(m >= 0x7FFF0000, 0x7FFF, (m.astype(np.int64) + (1 << 15)) >> 16)
        return Rescale(rule, y.type, y.shape), leaves | {"multiplier": short.astype(np.int32), "right": (15 - e).astype(np.int32)}
    return Rescale(rule, y.type, y.shape), leaves | {"multiplier": m, "shift": e}


def rescaled(how: Rescale, leaves: Leaves, acc: jax.Array) -> jax.Array:
    """Sums (channels last; int32, int64 for "wide") -> stored output."""
    zero, low, high = leaves["output_zero_point"], leaves["act_min"], leaves["act_max"]
    if how.rule == "scale":
        return fixed.scale_round(acc, leaves["scale"], zero, low, high, how.type)
    if how.rule == "wide":
        return fixed.store(fixed.requantize_wide(acc, leaves["multiplier"], leaves["right"]), zero, low, high, how.type)
    m, e = leaves["multiplier"], leaves["shift"]
    if how.rule == "away":
        return fixed.store(fixed.requantize(acc, m, e), zero, low, high, how.type)
    mask = body(how.shape, 8, how.shape[-1]) if how.rule == "mixed" else body(how.shape, 16)
    up, away = (fixed.requantize(acc, m, e, rounding=r) for r in ("up", "away"))
    return fixed.store(up if mask is None else jnp.where(mask, up, away), zero, low, high, how.type)


# ---------------------------------------------------------------- TRANSPOSE_CONV


def _steps(options: Options, size: tuple[int, ...], kernel: tuple[int, int], d: int) -> tuple[int, int, int]:
    """`window` of the forward convolution that takes the output back to the input, along height (d = 0) or width."""
    return window(size[1 + d], kernel[d], (options.stride_h, options.stride_w)[d], 1, options.padding)


def _place(options: Options, size: tuple[int, ...], taps: Any, kernel: tuple[int, int]) -> Any:
    """Sum of the taps (n, h, w, kh, kw, o) where they fall in the output (n, H, W, o): y = i stride + a - padding."""
    places = itertools.product(range(kernel[0]), range(kernel[1]))
    return functools.reduce(operator.add, (_place_one(options, size, taps[:, :, :, a, b], (a, b), kernel) for a, b in places))


def _place_one(options: Options, size: tuple[int, ...], tap: Any, at: tuple[int, ...], kernel: tuple[int, int]) -> Any:
    """The tap (n, h, w, o) of place `at` in the kernel, where it falls in the output."""
    edges = [(0, 0, 0)]
    for d, stride in enumerate((options.stride_h, options.stride_w)):
        low, reach = at[d] - _steps(options, size, kernel, d)[1], (tap.shape[1 + d] - 1) * stride + 1
        edges.append((low, size[1 + d] - low - reach, stride - 1))
    return lax.pad(tap, jnp.zeros((), tap.dtype), (*edges, (0, 0, 0)))


def _output_size(value: Any) -> tuple[int, ...]:
    return tuple(int(v) for v in np.ravel(value))


def _clamp(options: Options) -> str:
    """The fused activation as the kernels have it: TANH and SIGN_BIT do nothing."""
    name = options.get("fused_activation_function", "NONE")
    return "NONE" if name in ("TANH", "SIGN_BIT") else name


def real_transpose_conv(options: Options, size: Any, w: Any, x: Any, bias: Any = None) -> Any:
    """y[n, i s + a - p, j s + b - p, o] = act(sum x[n, i, j, c] w[o, a, b, c] + bias[o]). size: the output's shape."""
    o, kh, kw, c = w.shape
    taps = dot.dense_float(x, jnp.transpose(w, (3, 1, 2, 0)).reshape(c, kh * kw * o)).reshape(*x.shape[:3], kh, kw, o)
    y = dot.add_bias(_place(options, _output_size(size), taps, (kh, kw)), bias)
    return activate(_clamp(options), y)


def _constant(site: Site, position: int, what: str) -> np.ndarray:
    value = site.values[position]
    if value is None:
        raise Unsupported(f"the {what} is computed, not constant", where=site.where, hint="Float and fake mode run it")
    return value


def _transpose_rule(site: Site, flavour: str) -> str:
    x, w = site.inputs[2], site.inputs[1]
    assert x is not None and w is not None
    o = site.options
    if x.type == "int16":
        bias, short = site.inputs[3] if len(site.inputs) > 3 else None, o.get("quantized_bias_type", "FLOAT32") == "INT32"
        if bias is not None and (bias.type == "int32") != short:
            raise Invalid("the options do not name the type of the bias", where=site.where, found=bias.type)
        return "wide" if not short else "away" if flavour == "reference" else "mixed"
    gaps = o.stride_h > w.shape[1] or o.stride_w > w.shape[2]
    refused = gaps or o.get("fused_activation_function", "NONE") in ("TANH", "SIGN_BIT")
    kernel = "builtin" if flavour == "xnnpack" and refused else flavour
    return {"xnnpack": "scale", "reference": "away", "builtin": "mixed" if x.type == "int8" else "blocks"}[kernel]


def _scales(w: Tensor, count: int, site: Site) -> np.ndarray:
    """float32 scale of each of `count` output channels."""
    if w.qparams is None or (w.qparams.per_channel and (w.qparams.axis != 0 or np.size(w.qparams.scale) != count)):
        raise Unsupported("weights need one scale, or one per output channel (axis 0)", where=site.where)
    return np.broadcast_to(np.asarray(w.qparams.scale, f32).reshape(-1), (count,)).copy()


def _plan_transpose_conv(site: Site, flavour: str) -> Plan:
    """static: (rescaling, output shape, kernel). acc[o] = sum (x - z_x)(w[o] - z_w) + bias[o]."""
    w, x = site.inputs[1], site.inputs[2]
    assert w is not None and x is not None and w.qparams is not None
    codes, size = _constant(site, 1, "weights").astype(np.int64), _output_size(_constant(site, 0, "output shape"))
    o, kh, kw, c = codes.shape
    wanted = tuple(_steps(site.options, size, (kh, kw), d)[0] for d in (0, 1))
    if wanted != x.shape[1:3]:
        raise Invalid("the output shape does not fit the input", where=site.where, found=str(x.shape[1:3]), expected=str(wanted))
    if x.type == "uint8":
        codes = codes - int(w.qparams.zero_point[0])
    bias = np.zeros(o, np.int64)
    if len(site.inputs) > 3 and site.inputs[3] is not None:
        bias = _constant(site, 3, "bias").astype(np.int64).reshape(o)
    sx, zx = affine(site, x)
    rule = _transpose_rule(site, flavour)
    how, leaves = rescaling(site, rule, sx, _scales(w, o, site), x.type != "uint8", "xnnpack" if rule == "scale" else "builtin")
    weights = np.transpose(codes, (3, 1, 2, 0)).reshape(c, kh * kw * o)
    leaves |= {"weights": weights.astype(np.int8 if x.type == "int8" or rule == "wide" else np.int32), "input_zero_point": np.int32(zx)}
    leaves |= {"bias": np.ascontiguousarray(bias)[:, None].view(np.uint32) if rule == "wide" else bias.astype(np.int32)}
    return Plan((how, size, (kh, kw)), leaves, NOTES[rule])


def _run_transpose_conv(options: Options, static: tuple, leaves: Leaves, _size: Any, _w: Any, x: jax.Array, *_: Any) -> jax.Array:
    """int8, uint8 or int16 codes by int8 (uint8) weights, scattered with the stride, padded taps dropped; see `Rescale`.

    Multiplier: f64(s_x) f64(s_w) / f64(s_y); uint8: f64(f32(s_x s_w)) / f64(s_y). XNNPACK: f32(f32(s_x s_w) / s_y).
    *Domain*: int8 weights with zero point 0; int16 with zero points 0, 64-bit sums unless the options name an int32 bias.
    *Restates*: TransposeConv of the LiteRT kernels, XNNPACK's deconvolution. *Differs*: only in the rounding.
    """
    how, size, kernel = static
    w = leaves["weights"]
    shape = (*x.shape[:3], *kernel, w.shape[1] // (kernel[0] * kernel[1]))
    if how.rule == "wide":
        with jax.enable_x64(True):
            wide = (lax.convert_element_type(v, np.int64) for v in (x, w))
            taps = jnp.matmul(*wide).reshape(shape)
            bias = lax.bitcast_convert_type(jnp.asarray(leaves["bias"], np.uint32), np.int64).reshape(1, 1, 1, -1)
            acc = _place(options, size, taps, kernel) + bias
        return rescaled(how, leaves, acc)
    if x.dtype == np.int8:
        folded = -leaves["input_zero_point"] * jnp.sum(w, axis=0, dtype=np.int32)
        taps = dot.dense(x, w, folded)
    else:
        taps = jnp.matmul(x.astype(np.int32) - leaves["input_zero_point"], w)
    acc = dot.add_bias(_place(options, size, taps.reshape(shape), kernel), leaves["bias"])
    return rescaled(how, leaves, acc)


# ---------------------------------------------------------------- float data by int8 weights


def _plan_hybrid(site: Site, flavour: str) -> Plan:
    """static: (quantizer of the images, output shape, kernel)."""
    w, o = site.inputs[1], site.options
    assert w is not None and w.qparams is not None
    codes, size = _constant(site, 1, "weights"), _output_size(_constant(site, 0, "output shape"))
    count, kh, kw, _ = codes.shape
    if np.any(w.qparams.zero_point):
        raise Unsupported("float data by weights with a zero point", where=site.where, hint="Float and fake mode run it")
    bias = _constant(site, 3, "bias") if len(site.inputs) > 3 and site.inputs[3] is not None else np.zeros(count, f32)
    refused = o.stride_h > kh or o.stride_w > kw or _clamp(o) != o.get("fused_activation_function", "NONE")
    how = "dynamic" if flavour == "xnnpack" and not refused else "asymmetric"
    leaves = {"weights": np.transpose(codes, (1, 2, 3, 0)), "scale": _scales(w, count, site), "bias": np.asarray(bias, f32).reshape(-1)}
    return Plan((how, size, (kh, kw)), leaves, ROW_NOTES[how])


def _run_hybrid(options: Options, static: tuple, leaves: Leaves, _size: Any, _w: Any, x: jax.Array, *_: Any) -> jax.Array:
    """Images quantized with a zero point. XNNPACK: fma(s acc, s_w, b). LiteRT kernels: a float sum of ((q - z) w s_w) s, tap by tap
    and channel by channel in the order of the input, then + b. *Restates*: HybridTransposeConv, XNNPACK's qd8 deconvolution.
    """
    how, size, kernel = static
    w, (scale, bias) = leaves["weights"], (leaves[k].reshape(1, 1, 1, -1) for k in ("scale", "bias"))
    q = QUANTIZERS[how](x.reshape(x.shape[0], -1))
    zero, s = (v.reshape(-1, 1, 1, 1) for v in (q.zero, q.scale))
    centred = q.codes.reshape(x.shape).astype(np.int32) - zero
    if how == "dynamic":
        flat = jnp.transpose(w, (2, 0, 1, 3)).reshape(x.shape[3], -1).astype(np.int32)
        acc = _place(options, size, jnp.matmul(centred, flat).reshape(*x.shape[:3], *kernel, w.shape[3]), kernel)
        y = fixed.fma(acc.astype(f32) * s, scale, bias)
        return activate(_clamp(options), y)
    y = jnp.zeros(size, f32)
    for at in itertools.product(*(reversed(range(k)) for k in kernel)):

        def add(total: Any, channel: Any, at: tuple[int, ...] = at) -> tuple[Any, None]:
            tap = (channel[0][..., None] * channel[1].reshape(1, 1, 1, -1)).astype(f32) * scale * s
            return total + _place_one(options, size, fixed.clamp(tap, f32(-3e38), f32(3e38)), at, kernel), None

        y = lax.scan(add, y, (jnp.moveaxis(centred, 3, 0), w[at].astype(np.int32)))[0]
    return activate(_clamp(options), y + bias)


# ---------------------------------------------------------------- cases


def _transposed(x: tuple, w: tuple, size: tuple, stride: tuple, padding: str, act: str = "NONE", bias: bool = True) -> Case:
    options = {"padding": padding, "stride_h": stride[0], "stride_w": stride[1], "fused_activation_function": act}
    return Case(((4,), w, x, (w[0],) if bias else None), options, {0: size}, {0: "int32"})


_TRANSPOSE = Rule(
    data=(2,), weights=1, weight_axis=0, bias=3, static=(0,), prepared=(1, 3),
    versions={"float32": 4, "uint8": 4, "int8": 4, "int16": 4, "float32 x int8": 5},
)  # fmt: skip

OPS = (
    Op(
        "TRANSPOSE_CONV",
        real_transpose_conv,
        _TRANSPOSE,
        (
            Kernel(("int32", "int8", "int8", "int32?"), ("int8",), FLAVOURS, _plan_transpose_conv, _run_transpose_conv),
            Kernel(("int32", "uint8", "uint8", "int32?"), ("uint8",), FLAVOURS, _plan_transpose_conv, _run_transpose_conv),
            Kernel(("int32", "int8", "int16", "int64?"), ("int16",), FLAVOURS, _plan_transpose_conv, _run_transpose_conv),
            Kernel(("int32", "int8", "int16", "int32"), ("int16",), FLAVOURS, _plan_transpose_conv, _run_transpose_conv),
            Kernel(("int32", "int8", "float32", "float32?"), ("float32",), FLAVOURS, _plan_hybrid, _run_hybrid),
        ),
        (
            _transposed((1, 4, 3, 5), (7, 3, 3, 5), (1, 8, 6, 7), (2, 2), "SAME"),
            _transposed((1, 3, 4, 6), (19, 2, 3, 6), (1, 6, 9, 19), (2, 2), "VALID", "RELU6"),
            _transposed((2, 4, 3, 4), (3, 4, 2, 4), (2, 7, 9, 3), (2, 3), "SAME", "RELU", bias=False),
            _transposed((1, 5, 4, 3), (8, 3, 3, 3), (1, 5, 4, 8), (1, 1), "SAME", "RELU_N1_TO_1"),
            _transposed((1, 3, 2, 8), (10, 2, 2, 8), (1, 9, 6, 10), (3, 3), "SAME", "TANH"),
        ),
    ),
)
