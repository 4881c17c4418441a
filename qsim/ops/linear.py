"""CONV_2D, DEPTHWISE_CONV_2D, FULLY_CONNECTED: sums of products, then one rescaling whose rounding is the flavour's own."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from .. import dot, fixed, onednn
from ..errors import Unsupported
from ..graph import Options, QParams, Tensor
from ..onednn import Window
from ..op import Case, Kernel, Op, Plan, Rule, Site
from ..windows import pad, window
from .common import activate

f32 = np.float32


class Rescale(NamedTuple):
    """Which rounding takes an accumulator to the output's steps, and what the host could prove about it.

    rule: "scale" (XNNPACK, float32, half even), "away" and "up" (two fixed-point steps), "mixed" (up for whole groups of 8 channels,
    away for the rest), "double" (float64, half away). small: |acc * 2^L| < 2^30. left: some shift is positive.
    """

    rule: str
    small: bool
    left: bool


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

    scale: f32(f32(s_x * s_w) / s_y). Fixed-point rules and double: f64(s_x) * f64(s_w) / f64(s_y); the builtin FULLY_CONNECTED with
    one weight scale takes f64(f32(s_x * s_w)) / f64(s_y).
    """
    sx, sw, sy = scales(site, axis, len(bound))
    if rule == "scale":
        scale = (f32(sx) * sw).astype(f32) / f32(sy)
        return Rescale(rule, False, False), {"scale": scale.astype(f32)}
    legacy = site.node.op == "FULLY_CONNECTED" and rule == "up" and not site.inputs[1].qparams.per_channel  # type: ignore[union-attr]
    product = (f32(sx) * sw).astype(np.float64) if legacy else np.float64(sx) * sw.astype(np.float64)
    real = product / np.float64(sy)
    if rule == "double":
        return Rescale(rule, False, False), {"real_multiplier": fixed.words(real)}
    m, e = fixed.quantize_multiplier(real)
    small = bool((bound * 2.0 ** np.maximum(e, 0) < 2.0**30).all())
    return Rescale(rule, small, bool((e > 0).any())), {"multiplier": m, "shift": e}


def finish(how: Rescale, leaves: dict[str, Any], acc: Any) -> Any:
    """Accumulator (int32, channels last) -> stored output: rescale, add the zero point, clamp."""
    zero, low, high = leaves["output_zero_point"], leaves["act_min"], leaves["act_max"]
    if how.rule == "scale":
        return fixed.scale_round(acc, leaves["scale"], zero, low, high, np.int8)
    if how.rule == "double":
        return fixed.store(fixed.double_round(acc, leaves["real_multiplier"]), zero, low, high, np.int8)
    m, e = leaves["multiplier"], leaves["shift"]
    if how.rule != "mixed":
        return fixed.store(fixed.requantize(acc, m, e, small=how.small, left=how.left, rounding=how.rule), zero, low, high, np.int8)
    channels = acc.shape[-1]
    whole = jnp.arange(channels) < channels // 8 * 8
    up, away = (fixed.requantize(acc, m, e, small=how.small, left=how.left, rounding=r) for r in ("up", "away"))
    return fixed.store(jnp.where(whole.reshape((1,) * (acc.ndim - 1) + (-1,)), up, away), zero, low, high, np.int8)


def _weights(site: Site) -> np.ndarray:
    if site.values[1] is None:
        raise Unsupported("the weights are computed, not constant", where=site.where, hint="Float and fake mode run it")
    return site.values[1]


def _bias(site: Site, count: int) -> np.ndarray:
    if len(site.inputs) < 3 or site.inputs[2] is None:
        return np.zeros(count, np.int64)
    if site.values[2] is None:
        raise Unsupported("the bias is computed, not constant", where=site.where, hint="Float and fake mode run it")
    return site.values[2].astype(np.int64).reshape(count)


def prepare(site: Site, flavour: str, rule: str, w: np.ndarray, axis: int) -> tuple[Rescale, dict[str, Any]]:
    """Static part and leaves of a sum of products. w: weights with the output channels last, (..., o).

    acc[o] = sum x * w[o] + bias[o] - z_x * sum w[o], in wrapping int32: the zero point is folded into the bias, and padding is
    done with z_x.
    """
    x, y = site.inputs[0], site.outputs[0]
    flat = w.reshape(-1, w.shape[-1]).astype(np.int64)
    bias, zx = _bias(site, w.shape[-1]), int(x.qparams.zero_point[0])  # type: ignore[union-attr]
    bound = np.abs(flat).sum(0) * float(max(127 - zx, zx + 128)) + np.abs(bias)
    how, leaves = rescale(site, rule, axis, bound)
    low, high = fixed.activation_range(
        site.options.fused_activation_function, y.qparams.scale[0], int(y.qparams.zero_point[0]), y.type, flavour  # type: ignore[union-attr]
    )  # fmt: skip
    leaves |= {
        "weights": np.ascontiguousarray(w.astype(np.int8)),
        "bias": (bias - zx * flat.sum(0)).astype(np.int32),
        "input_zero_point": np.int8(zx),
        "output_zero_point": np.int32(y.qparams.zero_point[0]),  # type: ignore[union-attr]
        "act_min": np.int32(low),
        "act_max": np.int32(high),
    }
    return how, leaves


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
}


def rule_of(site: Site, flavour: str) -> str:
    """The rounding of this site: XNNPACK leaves TANH and SIGN_BIT activations and asymmetric weights to the builtin kernel,
    which leaves grouped convolutions to the reference kernel."""
    x, w = site.inputs[0], site.inputs[1]
    refused = site.options.fused_activation_function in ("TANH", "SIGN_BIT") or bool(np.any(w.qparams.zero_point))  # type: ignore[union-attr]
    kernel = "builtin" if flavour == "xnnpack" and refused else flavour
    grouped = site.node.op == "CONV_2D" and x.shape[3] != w.shape[3]  # type: ignore[union-attr]
    return RULES[site.node.op]["reference" if kernel == "builtin" and grouped else kernel]


def _window(options: Options, x: Any, w: Any, groups: int, activation: str = "NONE") -> Window:
    """What the options ask of a convolution of x (n, h, w, c) by w (kh, kw, c / groups, o)."""
    rows = window(x.shape[1], w.shape[0], options.stride_h, options.dilation_h_factor, options.padding)
    cols = window(x.shape[2], w.shape[1], options.stride_w, options.dilation_w_factor, options.padding)
    dilation = (options.dilation_h_factor, options.dilation_w_factor)
    return Window((options.stride_h, options.stride_w), dilation, (rows[1:], cols[1:]), groups, activation)


# CONV_2D ------------------------------------------------------------


def conv_real(options: Options, x: Any, w: Any, bias: Any = None) -> Any:
    """y[n, h, w, o] = act(sum x[n, h s + i d, w s + j d, c] * w[o, i, j, c] + bias[o]); grouped where c is a multiple of w's depth."""
    return _real_sums(_conv_real, options, x, jnp.transpose(w, (1, 2, 3, 0)), bias, x.shape[3] // w.shape[3])


def _conv_real(how: Window, x: Any, w: Any, bias: Any = None) -> Any:
    y = dot.conv_float(pad(x, 0, how.pads), w, how.stride, how.dilation, groups=how.groups)
    return activate(how.activation, dot.add_bias(y, bias))


def _real_sums(plain: Any, options: Options, x: Any, w: Any, bias: Any, groups: int) -> Any:
    """A float convolution with its bias and activation. w: (kh, kw, c / groups, o)."""
    how = _window(options, x, w, groups, options.fused_activation_function)
    args = (x, w) if bias is None else (x, w, bias.reshape(-1))
    return onednn.conv(plain, how, *args) if onednn.enabled() else plain(how, *args)


def conv_plan(site: Site, flavour: str) -> Plan:
    """acc[o] = sum (x - z_x) w[o] + bias[o]; y = rescale(acc, s_x s_w[o] / s_y) + z_y, clamped. Padding contributes zero.

    *Domain*: int8, weight zero points 0 (others are ignored, as the kernels do). *Restates*: ConvPerChannel of the LiteRT reference
    and optimized kernels, XNNPACK's qs8-qc8w convolution. *Differs*: only in the rounding, see `Rescale`.
    """
    rule = rule_of(site, flavour)
    how, leaves = prepare(site, flavour, rule, np.transpose(_weights(site), (1, 2, 3, 0)), 0)
    return Plan(how, leaves, NOTES[rule])


def conv_run(options: Options, how: Rescale, leaves: dict[str, Any], x: Any, *_: Any) -> Any:
    w = leaves["weights"]
    acc = dot.conv(x, w, leaves["bias"], _window(options, x, w, x.shape[3] // w.shape[2]), leaves["input_zero_point"])
    return finish(how, leaves, acc)


# DEPTHWISE_CONV_2D --------------------------------------------------


def depthwise_real(options: Options, x: Any, w: Any, bias: Any = None) -> Any:
    """y[n, h, w, c m + j] = act(sum x[n, h s + i d, w s + j d, c] * w[0, i, j, c m + j] + bias)."""
    return _real_sums(_depthwise_real, options, x, jnp.transpose(w, (1, 2, 0, 3)), bias, x.shape[3])


def _depthwise_real(how: Window, x: Any, w: Any, bias: Any = None) -> Any:
    y = dot.depthwise_float(pad(x, 0, how.pads), w, how.stride, how.dilation)
    return activate(how.activation, dot.add_bias(y, bias))


def depthwise_plan(site: Site, flavour: str) -> Plan:
    """As `conv_plan`, each input channel on its own: output channel c * multiplier + j reads channel c. Weights 1HWC, axis 3.

    *Restates*: DepthwiseConvPerChannel of the LiteRT kernels, XNNPACK's qs8-qc8w-dwconv.
    """
    rule = rule_of(site, flavour)
    how, leaves = prepare(site, flavour, rule, np.transpose(_weights(site), (1, 2, 0, 3)), 3)
    return Plan(how, leaves, NOTES[rule])


def depthwise_run(options: Options, how: Rescale, leaves: dict[str, Any], x: Any, *_: Any) -> Any:
    w = leaves["weights"]
    return finish(how, leaves, dot.depthwise(x, w, leaves["bias"], _window(options, x, w, x.shape[3]), leaves["input_zero_point"]))


# FULLY_CONNECTED ----------------------------------------------------


def _rows(options: Options, x: Any, depth: int) -> Any:
    """x as the kernel reads it: (..., depth) with keep_num_dims, else (size / depth, depth)."""
    return x if options.keep_num_dims and x.shape[-1] == depth else x.reshape(-1, depth)


def dense_real(options: Options, x: Any, w: Any, bias: Any = None) -> Any:
    """y[..., o] = act(sum_k x[..., k] * w[o, k] + bias[o]). x is read as rows of k unless keep_num_dims."""
    x = _rows(options, x, w.shape[1])
    y = dot.dense_float(x, w.T)
    return activate(options.fused_activation_function, dot.add_bias(y, bias))


def dense_plan(site: Site, flavour: str) -> Plan:
    """acc[o] = sum (x - z_x)(w[o] - z_w) + bias[o]; y = rescale(acc, s_x s_w[o] / s_y) + z_y, clamped.

    *Domain*: int8; z_w may differ from 0 per tensor (XNNPACK then refuses and the builtin kernel runs).
    *Restates*: FullyConnected of the LiteRT kernels, XNNPACK's qs8-gemm.
    *Differs*: the reference kernel rounds the product with a float64 multiplier, once, half away from zero.
    """
    rule, w = rule_of(site, flavour), _weights(site)
    zw = np.asarray(site.inputs[1].qparams.zero_point, np.int64)  # type: ignore[union-attr]
    how, leaves = prepare(site, flavour, rule, w.T, 0)
    asymmetric = bool(zw.any()) and zw.size == 1
    if asymmetric:
        zx = int(site.inputs[0].qparams.zero_point[0])  # type: ignore[union-attr]
        leaves["weights_zero_point"] = np.int32(zw[0])
        leaves["bias"] = (leaves["bias"].astype(np.int64) + zw[0] * zx * w.shape[1]).astype(np.int32)
        how = how._replace(small=False)
    return Plan((how, asymmetric), leaves, NOTES[rule])


def dense_run(options: Options, static: tuple[Rescale, bool], leaves: dict[str, Any], x: Any, *_: Any) -> Any:
    how, asymmetric = static
    x = _rows(options, x, leaves["weights"].shape[0])
    acc = dot.dense(x, leaves["weights"], leaves["bias"])
    if asymmetric:
        acc = acc - leaves["weights_zero_point"] * jnp.sum(x.astype(np.int32), axis=-1, keepdims=True, dtype=np.int32)
    return finish(how, leaves, acc)


# cases --------------------------------------------------------------


def _conv_case(x: tuple, w: tuple, padding: str = "SAME", stride: int = 1, dilation: int = 1, act: str = "NONE", **more: Any) -> Case:
    options = {
        "padding": padding, "stride_h": stride, "stride_w": more.pop("stride_w", stride), "dilation_h_factor": dilation,
        "dilation_w_factor": dilation, "fused_activation_function": act, **more,
    }  # fmt: skip
    return Case((x, w, (more["depth_multiplier"] * x[3] if "depth_multiplier" in more else w[0],)), options)


CONV_CASES = (
    _conv_case((1, 7, 6, 3), (5, 3, 3, 3)),
    _conv_case((1, 8, 8, 4), (17, 3, 3, 4), stride=2, act="RELU"),
    _conv_case((1, 9, 5, 2), (3, 2, 3, 2), "VALID", stride=2, stride_w=1, act="RELU6"),
    _conv_case((1, 5, 5, 24), (8, 1, 1, 24), "VALID"),
    _conv_case((1, 9, 9, 5), (4, 3, 3, 5), dilation=2, act="RELU_N1_TO_1"),
    _conv_case((2, 6, 6, 8), (12, 3, 3, 2), stride=2),
)
DEPTHWISE_CASES = (
    _conv_case((1, 7, 6, 5), (1, 3, 3, 5), depth_multiplier=1),
    _conv_case((1, 8, 8, 19), (1, 3, 3, 19), stride=2, depth_multiplier=1, act="RELU6"),
    _conv_case((1, 9, 7, 3), (1, 3, 2, 6), "VALID", depth_multiplier=2, act="RELU"),
    _conv_case((1, 9, 9, 4), (1, 3, 3, 4), dilation=2, depth_multiplier=1),
    _conv_case((1, 12, 6, 1), (1, 10, 4, 8), stride=2, depth_multiplier=8, act="RELU"),
)


def _dense_case(x: tuple, w: tuple, bias: bool = True, act: str = "NONE", keep: bool = False) -> Case:
    options = {"fused_activation_function": act, "keep_num_dims": keep, "weights_format": "DEFAULT", "asymmetric_quantize_inputs": False}
    return Case((x, w, (w[0],) if bias else None), options)


DENSE_CASES = (
    _dense_case((1, 33), (10, 33)),
    _dense_case((3, 64), (1, 64), act="RELU"),
    _dense_case((1, 128), (19, 128), bias=False, act="RELU6"),
    _dense_case((1, 2, 3, 20), (7, 20), keep=True),
    _dense_case((1, 2, 3, 20), (4, 40), act="RELU_N1_TO_1"),
)

INT8 = (("int8", "int8", "int32?"), ("int8",), ("xnnpack", "reference", "builtin"))

OPS = (
    Op(
        "CONV_2D",
        conv_real,
        Rule(data=(0,), weights=1, weight_axis=0, bias=2, prepared=(1, 2), versions={"float32": 1, "int8": 3}),
        (Kernel(*INT8, conv_plan, conv_run),),
        CONV_CASES,
    ),
    Op(
        "DEPTHWISE_CONV_2D",
        depthwise_real,
        Rule(data=(0,), weights=1, weight_axis=3, bias=2, prepared=(1, 2), versions={"float32": 1, "int8": 3}),
        (Kernel(*INT8, depthwise_plan, depthwise_run),),
        DEPTHWISE_CASES,
    ),
    Op(
        "FULLY_CONNECTED",
        dense_real,
        Rule(data=(0,), weights=1, weight_axis=0, bias=2, prepared=(1, 2), versions={"float32": 1, "int8": 4}),
        (Kernel(*INT8, dense_plan, dense_run),),
        DENSE_CASES,
    ),
)
