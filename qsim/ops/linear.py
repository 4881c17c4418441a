"""CONV_2D, DEPTHWISE_CONV_2D, FULLY_CONNECTED: sums of products, then one rescaling whose rounding is the flavour's own."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from .. import dot, onednn
from ..errors import Invalid, Unsupported
from ..graph import Options
from ..onednn import Window
from ..op import Case, Kernel, Op, Plan, Rule, Site
from ..windows import pad, window
from . import blockwise, dense16, hybrid
from .common import activate
from .sums import NOTES, Rescale, accumulate, finish, prepare, rows, rule_of, weights_of


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

    *Domain*: int8, weight zero points 0 (others are ignored, as the kernels do); uint8 with (w - z_w[o]) for w[o], one weight scale.
    *Restates*: ConvPerChannel and Conv of the LiteRT reference and optimized kernels, XNNPACK's qs8-qc8w and qu8 convolutions.
    *Differs*: only in the rounding, see `Rescale`.
    """
    rule, w = rule_of(site, flavour), np.transpose(weights_of(site), (1, 2, 3, 0))
    how, leaves = prepare(site, rule, w, 0, site.inputs[0].shape[3] // w.shape[2])  # type: ignore[union-attr]
    return Plan(how, leaves, NOTES[rule])


def conv_run(options: Options, how: Rescale, leaves: dict[str, Any], x: Any, *_: Any) -> Any:
    w = leaves["weights"]
    window = _window(options, x, w, x.shape[3] // w.shape[2])
    return finish(how, leaves, accumulate(how, leaves, x, lambda x, bias, zero: dot.conv(x, w, bias, window, zero)))


def conv_hybrid_run(options: Options, how: Any, leaves: dict[str, Any], x: Any, *_: Any) -> Any:
    w = leaves["weights"]
    window = _window(options, x, w, x.shape[3] // w.shape[2])
    return hybrid.images(options, how, leaves, x, lambda x, bias, zero: dot.conv(x, w, bias, window, zero))


# DEPTHWISE_CONV_2D --------------------------------------------------


def depthwise_real(options: Options, x: Any, w: Any, bias: Any = None) -> Any:
    """y[n, h, w, c m + j] = act(sum x[n, h s + i d, w s + j d, c] * w[0, i, j, c m + j] + bias)."""
    return _real_sums(_depthwise_real, options, x, jnp.transpose(w, (1, 2, 0, 3)), bias, x.shape[3])


def _depthwise_real(how: Window, x: Any, w: Any, bias: Any = None) -> Any:
    y = dot.depthwise_float(pad(x, 0, how.pads), w, how.stride, how.dilation)
    return activate(how.activation, dot.add_bias(y, bias))


def depthwise_plan(site: Site, flavour: str) -> Plan:
    """As `conv_plan`, each input channel on its own: output channel c * multiplier + j reads channel c. Weights 1HWC, axis 3.

    *Restates*: DepthwiseConvPerChannel and DepthwiseConv of the LiteRT kernels, XNNPACK's qs8-qc8w-dwconv.
    """
    rule, w = rule_of(site, flavour), np.transpose(weights_of(site), (1, 2, 0, 3))
    how, leaves = prepare(site, rule, w, 3, site.inputs[0].shape[3])  # type: ignore[union-attr]
    return Plan(how, leaves, NOTES[rule])


def depthwise_run(options: Options, how: Rescale, leaves: dict[str, Any], x: Any, *_: Any) -> Any:
    w = leaves["weights"]
    window = _window(options, x, w, x.shape[3])
    return finish(how, leaves, accumulate(how, leaves, x, lambda x, bias, zero: dot.depthwise(x, w, bias, window, zero)))


def depthwise_hybrid_run(options: Options, how: Any, leaves: dict[str, Any], x: Any, *_: Any) -> Any:
    w = leaves["weights"]
    window = _window(options, x, w, x.shape[3])
    return hybrid.images(options, how, leaves, x, lambda x, bias, zero: dot.depthwise(x, w, bias, window, zero))


# FULLY_CONNECTED ----------------------------------------------------


def _require_plain(options: Options, where: str = "") -> None:
    if options.get("weights_format", "DEFAULT") != "DEFAULT":
        raise Unsupported("shuffled weights", where=where, found=options.weights_format, expected="DEFAULT")


def dense_real(options: Options, x: Any, w: Any, bias: Any = None) -> Any:
    """y[..., o] = act(sum_k x[..., k] * w[o, k] + bias[o]). x is read as rows of k unless keep_num_dims."""
    _require_plain(options)
    x = rows(options, x, w.shape[1])
    y = dot.dense_float(x, w.T)
    return activate(options.fused_activation_function, dot.add_bias(y, bias))


def dense_plan(site: Site, flavour: str) -> Plan:
    """acc[o] = sum (x - z_x)(w[o] - z_w) + bias[o]; y = rescale(acc, s_x s_w[o] / s_y) + z_y, clamped.

    *Domain*: int8; z_w may differ from 0 per tensor (XNNPACK then refuses and the builtin kernel runs). uint8; one weight scale.
    *Restates*: FullyConnected of the LiteRT kernels, XNNPACK's qs8-gemm and qu8-gemm.
    *Differs*: the reference kernel rounds the product with a float64 multiplier, once, half away from zero.
    """
    _require_plain(site.options, site.where)
    kinds, act = site.types[0][:2], site.options.fused_activation_function
    if kinds != ("int8", "int8") and act not in ("NONE", "RELU", "RELU6", "RELU_N1_TO_1"):
        raise Invalid(f"a FULLY_CONNECTED of {' and '.join(kinds)} with {act}", where=site.where, hint="LiteRT refuses such a file")
    rule = rule_of(site, flavour)
    how, leaves = prepare(site, rule, weights_of(site).T, 0)
    return Plan(how, leaves, NOTES[rule])


def dense_run(options: Options, how: Rescale, leaves: dict[str, Any], x: Any, *_: Any) -> Any:
    w = leaves["weights"]
    x = rows(options, x, w.shape[0])
    return finish(how, leaves, accumulate(how, leaves, x, lambda x, bias, _: dot.dense(x, w, bias)))


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
    _dense_case((2, 34), (7, 34), act="RELU"),
    _dense_case((1, 2, 3, 20), (7, 20), keep=True),
    _dense_case((1, 2, 3, 20), (4, 40), act="RELU_N1_TO_1"),
)

ALL = ("xnnpack", "reference", "builtin")
ROWS = (  # types of the inputs, type of the output
    (("int8", "int8", "int32?"), "int8"),
    (("uint8", "uint8", "int32?"), "uint8"),
    (("int8", "int4", "int32?"), "int8"),
    (("int16", "int8", "int64?"), "int16"),
)
SHORT_BIAS = (("int16", "int8", "int32"), "int16")
HYBRID = (("float32", "int8", "float32?"), "float32")
HYBRID_4 = (("float32", "int4", "float32?"), "float32")
HYBRID_2 = (("float32", "int2", "float32?"), "float32")
DENSE_ROWS = (
    *ROWS,
    SHORT_BIAS,
    (("int8", "int2", "int32?"), "int8"),
    (("int16", "int4", "int64?"), "int16"),
    (("int16", "int4", "int32"), "int16"),
    (("int16", "int2", "int64?"), "int16"),
    (("int16", "int2", "int32"), "int16"),
    (("uint8", "uint8", "int32"), "int16"),
)


def _kernels(plan: Any, run: Any, rows: Any) -> tuple[Kernel, ...]:
    return tuple(Kernel(ins, (out,), ALL, plan, run) for ins, out in rows)


CONV_VERSIONS = {"float32": 1, "int8": 3, "uint8": 1, "int16": 4, "float32 x int8": 5, "float32 x int4": 7}
DEPTHWISE_VERSIONS = {"float32": 1, "int8": 3, "uint8": 1, "int16": 5, "float32 x int8": 6}
DENSE_VERSIONS = {"float32": 1, "int8": 4, "uint8": 1, "int16": 7, "float32 x int8": 12, "float32 x int4 by blocks": 13}

OPS = (
    Op(
        "CONV_2D",
        conv_real,
        Rule(data=(0,), weights=1, weight_axis=0, bias=2, prepared=(1, 2), versions=CONV_VERSIONS),
        (*_kernels(conv_plan, conv_run, (*ROWS, SHORT_BIAS)), *_kernels(hybrid.conv_plan, conv_hybrid_run, (HYBRID, HYBRID_4))),
        CONV_CASES,
    ),
    Op(
        "DEPTHWISE_CONV_2D",
        depthwise_real,
        Rule(data=(0,), weights=1, weight_axis=3, bias=2, prepared=(1, 2), versions=DEPTHWISE_VERSIONS),
        (*_kernels(depthwise_plan, depthwise_run, ROWS), *_kernels(hybrid.depthwise_plan, depthwise_hybrid_run, (HYBRID,))),
        DEPTHWISE_CASES,
    ),
    Op(
        "FULLY_CONNECTED",
        dense_real,
        Rule(
            data=(0,),
            weights=1,
            weight_axis=0,
            bias=2,
            prepared=(1, 2),
            versions=DENSE_VERSIONS,
        ),
        (
            *_kernels(dense_plan, dense_run, DENSE_ROWS),
            *_kernels(dense16.plan, dense16.run, dense16.ROWS),
            *_kernels(hybrid.dense_plan, hybrid.dense_run, (HYBRID, HYBRID_4, HYBRID_2)),
            *blockwise.KERNELS,
        ),
        DENSE_CASES,
    ),
)
