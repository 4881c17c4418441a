"""What several families share: fused activations and the geometry of windows."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

ENDS: dict[str, tuple[float, float]] = {
    "NONE": (-np.inf, np.inf),
    "RELU": (0.0, np.inf),
    "RELU6": (0.0, 6.0),
    "RELU_N1_TO_1": (-1.0, 1.0),
    "RELU_0_TO_1": (0.0, 1.0),
}


def activate(name: str, y: Any) -> Any:
    """The fused activation `name` of real values: clip to its ends. TANH and SIGN_BIT are computed as such on floats."""
    if name == "TANH":
        return jnp.tanh(y)
    if name == "SIGN_BIT":
        return jnp.signbit(y).astype(y.dtype)
    low, high = ENDS[name]
    if low > -np.inf:
        y = jnp.maximum(y, jnp.asarray(low, y.dtype))
    return jnp.minimum(y, jnp.asarray(high, y.dtype)) if high < np.inf else y


def window(n: int, kernel: int, stride: int, dilation: int, padding: str) -> tuple[int, int, int]:
    """(output size, padding before, padding after) of one spatial axis; the odd extra of SAME goes after.

    after may be negative under VALID when the stride leaves a rest (the input is cropped).
    *Restates*: ComputeOutSize and ComputePaddingHeightWidth of the LiteRT kernels.
    """
    reach = (kernel - 1) * dilation + 1
    out = -(-n // stride) if padding == "SAME" else (n + stride - reach) // stride
    before = max((out - 1) * stride + reach - n, 0) // 2
    return out, before, (out - 1) * stride + reach - n - before


def pad_window(x: Any, value: Any, rows: tuple[int, int, int], cols: tuple[int, int, int]) -> Any:
    """x (n, h, w, c) padded (or cropped) in h and w as `window` says, with `value`."""
    from jax import lax

    low_high = [(0, 0, 0), (rows[1], rows[2], 0), (cols[1], cols[2], 0), (0, 0, 0)]
    return x if all(p == (0, 0, 0) for p in low_high) else lax.pad(x, jnp.asarray(value, x.dtype), low_high)
