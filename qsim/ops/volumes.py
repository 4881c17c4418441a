"""CONV_3D and CONV_3D_TRANSPOSE: float only, as LiteRT has them. Data are n, d, h, w, c."""

from __future__ import annotations

from typing import Any

import numpy as np
from jax import lax

from .. import dot
from ..graph import Options
from ..op import Case, Op, Rule
from ..windows import window
from .common import activate

STRIDES = ("stride_d", "stride_h", "stride_w")
DILATIONS = ("dilation_d_factor", "dilation_h_factor", "dilation_w_factor")
DIMENSIONS = ("NDHWC", "DHWIO", "NDHWC")


def _windows(options: Options, size: Any, kernel: Any) -> tuple[tuple[int, ...], tuple[int, ...], list[tuple[int, int, int]]]:
    """(strides, dilations, `window` of each axis) of a convolution of images of `size` (d, h, w)."""
    strides, dilations = (tuple(options[name] for name in names) for names in (STRIDES, DILATIONS))
    found = [window(*axis, options.padding) for axis in zip(size, kernel, strides, dilations, strict=True)]
    return strides, dilations, found


def _conv(options: Options, x: Any, w: Any, bias: Any = None) -> Any:
    """y[n, p, o] = act(sum x[n, p s + a d, c] w[a, c, o] + bias[o]) over places a of the kernel (d, h, w). *Restates*: CONV_3D."""
    strides, dilations, found = _windows(options, x.shape[1:4], w.shape[:3])
    pads = [(before, after) for _, before, after in found]
    y = lax.conv_general_dilated(
        x, w, strides, pads, rhs_dilation=dilations, dimension_numbers=DIMENSIONS, precision=lax.Precision.HIGHEST
    )  # fmt: skip
    return activate(options.fused_activation_function, dot.add_bias(y, bias))


def _transposed(options: Options, size: Any, w: Any, x: Any, bias: Any = None) -> Any:
    """y[n, p s + a d - before, o] = act(sum x[n, p, c] w[a, o, c] + bias[o]). size: the output's shape. *Restates*: CONV_3D_TRANSPOSE."""
    shape = tuple(int(v) for v in np.ravel(size))
    strides, dilations, found = _windows(options, shape[1:4], w.shape[:3])
    pads = []
    for n, length, kernel, s, d, (_, before, _) in zip(x.shape[1:4], shape[1:4], w.shape[:3], strides, dilations, found, strict=True):
        low = (kernel - 1) * d - before
        pads.append((low, length + (kernel - 1) * d - low - ((n - 1) * s + 1)))
    y = lax.conv_general_dilated(
        x, lax.rev(w, (0, 1, 2)), (1, 1, 1), pads, lhs_dilation=strides, rhs_dilation=dilations,
        dimension_numbers=("NDHWC", "DHWOI", "NDHWC"), precision=lax.Precision.HIGHEST,
    )  # fmt: skip
    return activate(options.fused_activation_function, dot.add_bias(y, bias))


def _options(stride: tuple, dilation: tuple, padding: str, act: str) -> dict[str, Any]:
    named = {**dict(zip(STRIDES, stride, strict=True)), **dict(zip(DILATIONS, dilation, strict=True))}
    return {"padding": padding, "fused_activation_function": act, **named}


ONE = (1, 1, 1)
OPS = (
    Op(
        "CONV_3D",
        _conv,
        Rule(data=(0,), weights=1, weight_axis=4, bias=2, versions={"float32": 1}),
        (),
        (
            Case(((1, 5, 6, 7, 3), (3, 3, 2, 3, 4), (4,)), _options(ONE, ONE, "SAME", "NONE")),
            Case(((2, 6, 5, 7, 2), (2, 3, 3, 2, 5), (5,)), _options((2, 1, 2), ONE, "VALID", "RELU")),
            Case(((1, 7, 7, 6, 2), (3, 2, 3, 2, 3), (3,)), _options(ONE, (2, 1, 2), "SAME", "RELU6")),
        ),
    ),
    Op(
        "CONV_3D_TRANSPOSE",
        _transposed,
        Rule(data=(2,), weights=1, weight_axis=3, bias=3, static=(0,), versions={"float32": 1}),
        (),
        (
            Case(
                ((5,), (3, 3, 2, 4, 3), (1, 3, 4, 3, 3), (4,)), _options((2, 1, 2), ONE, "SAME", "NONE"), {0: (1, 6, 4, 6, 4)}, {0: "int32"}
            ),
            Case(
                ((5,), (2, 3, 2, 2, 3), (2, 3, 2, 3, 3), (2,)),
                _options((2, 2, 1), ONE, "VALID", "RELU"),
                {0: (2, 6, 5, 4, 2)},
                {0: "int32"},
            ),
            Case(
                ((5,), (2, 3, 3, 3, 2), (1, 4, 5, 4, 2), None),
                _options(ONE, (1, 2, 1), "SAME", "RELU6"),
                {0: (1, 4, 5, 4, 3)},
                {0: "int32"},
            ),
        ),
    ),
)
