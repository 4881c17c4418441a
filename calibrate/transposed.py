"""Gradients of convolutions with respect to their input, in forms that are fast on CPUs.

XLA's own derivative of a convolution reads the weights in an order for which its CPU backend has plain loops only: ten times slower
than the same sums as a convolution of the padded gradient by the turned weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from qsim import dot
from qsim.graph import Node, Options
from qsim.ops import REGISTRY
from qsim.ops.common import activate
from qsim.windows import window

CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D")


def convolution(node: Node) -> Callable[..., Any]:
    """`real` of a CONV_2D or DEPTHWISE_CONV_2D as a function of (x, w, bias): the same values, its derivative for x as `input_gradient`.

    No derivative for w and bias: they count as constants.
    """
    options = node.real_options
    bare, act, real = options.but(fused_activation_function="NONE"), options.fused_activation_function, REGISTRY[node.op].real

    def call(x: Any, w: Any, *bias: Any) -> Any:
        if not _turns(node.op, x, w):
            return real(options, x, w, *bias)
        shape = x.shape
        linear = jax.custom_vjp(lambda x, w, *bias: real(bare, x, w, *bias))
        linear.defvjp(
            lambda x, w, *bias: (real(bare, x, w, *bias), (w, bias)),
            lambda kept, ct: (input_gradient(node.op, bare, shape, kept[0], ct), *jax.tree.map(jnp.zeros_like, (kept[0], *kept[1]))),
        )
        return activate(act, linear(x, w, *bias))

    return call


def _turns(op: str, x: Any, w: Any) -> bool:
    """Whether every input channel has one group of weights that can be turned: no grouped convolution, no channel multiplier."""
    return x.shape[3] == w.shape[3]


def input_gradient(op: str, options: Options, shape: tuple[int, ...], w: Any, ct: Any) -> Any:
    """d/dx of sum(ct * conv(x, w)), x of `shape` (n, h, w, c): ct spread by the stride, padded, convolved by the turned weights.

    w: as the op takes them, (o, kh, kw, c) or (1, kh, kw, c). ct: (n, oh, ow, o).
    """
    sizes, strides = w.shape[1:3], (options.stride_h, options.stride_w)
    dilation = (options.dilation_h_factor, options.dilation_w_factor)
    edges = []
    for n, k, s, d, out in zip(shape[1:3], sizes, strides, dilation, ct.shape[1:3], strict=True):
        low = (k - 1) * d - window(n, k, s, d, options.padding)[1]
        edges.append((low, n + (k - 1) * d - low - ((out - 1) * s + 1), s - 1))
    spread = lax.pad(ct, np.float32(0), [(0, 0, 0), *edges, (0, 0, 0)])
    turned = w[:, ::-1, ::-1]
    if op == "DEPTHWISE_CONV_2D":
        return dot.depthwise_float(spread, jnp.transpose(turned, (1, 2, 0, 3)), (1, 1), dilation)
    return dot.conv_float(spread, jnp.transpose(turned, (1, 2, 0, 3)), (1, 1), dilation)
