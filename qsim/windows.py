"""Geometry of windows that slide over height and width: output sizes, padding."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import lax


def window(n: int, kernel: int, stride: int, dilation: int, padding: str) -> tuple[int, int, int]:
    """(output size, padding before, padding after) of one spatial axis; the odd extra of SAME goes after.

    Where the stride leaves a rest, the last rows are not read.
    *Restates*: ComputeOutSize and ComputePaddingHeightWidth of the LiteRT kernels.
    """
    reach = (kernel - 1) * dilation + 1
    out = -(-n // stride) if padding == "SAME" else (n + stride - reach) // stride
    before = max((out - 1) * stride + reach - n, 0) // 2
    return out, before, max((out - 1) * stride + reach - n - before, 0)


def pad_window(x: Any, value: Any, rows: tuple[int, int, int], cols: tuple[int, int, int]) -> Any:
    """x (n, h, w, c) padded in h and w as `window` says, with `value`."""
    return pad(x, value, (rows[1:], cols[1:]))


def pad(x: Any, value: Any, pads: Any) -> Any:
    """x (n, h, w, c) with pads ((top, bottom), (left, right)) of `value`."""
    low_high = [(0, 0, 0), *((low, high, 0) for low, high in pads), (0, 0, 0)]
    return x if all(p == (0, 0, 0) for p in low_high) else lax.pad(x, jnp.asarray(value, x.dtype), low_high)
