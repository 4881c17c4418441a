"""Custom ops of MediaPipe that XNNPACK runs."""

from __future__ import annotations

import struct
from typing import Any

from ..errors import Invalid
from ..graph import Options
from ..op import Op, Rule
from .products import real_transpose_conv

PADDING = {1: "SAME", 2: "VALID"}


def _real_transpose_conv_bias(options: Options, x: Any, w: Any, bias: Any = None) -> Any:
    """TRANSPOSE_CONV of x (n, h, w, c) by w (o, kh, kw, c) plus bias (o,), real units.

    Output size along an axis: SAME h stride; VALID (h - 1) stride + kh. custom_options: three int32: padding (1 SAME, 2 VALID),
    stride along the width, along the height. *Restates*: XNNPACK's delegate; LiteRT has no kernel of its own, so other flavours
    refuse the file. *Raises*: Invalid for options of another form.
    """
    stored = bytes(options.custom_options)
    if len(stored) != 12 or struct.unpack("<3i", stored)[0] not in PADDING:
        raise Invalid("its options are not padding, stride_w, stride_h", found=stored.hex())
    code, stride_w, stride_h = struct.unpack("<3i", stored)
    padding, size = PADDING[code], [x.shape[0], 0, 0, w.shape[0]]
    for d, stride in ((1, stride_h), (2, stride_w)):
        size[d] = x.shape[d] * stride if padding == "SAME" else (x.shape[d] - 1) * stride + w.shape[d]
    named = Options(padding=padding, stride_h=stride_h, stride_w=stride_w, fused_activation_function="NONE")
    return real_transpose_conv(named, size, w, x, bias)


OPS = (Op("CUSTOM:Convolution2DTransposeBias", _real_transpose_conv_bias, Rule(weights=1, keep_float=True)),)
