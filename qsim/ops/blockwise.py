"""Float data by 4-bit weights whose scales go by blocks of columns: FULLY_CONNECTED."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .. import fixed
from ..errors import Unsupported
from ..graph import Options
from ..op import Kernel, Measured, Plan, Site
from .common import activate
from .hybrid import QUANTIZERS
from .sums import rows

f32 = np.float32
XNNPACK_SIZE = 32  # columns: XNNPACK takes blocks of a multiple of them
PACKED = 16  # columns whose sum XNNPACK scales at once when it packs weights
NOTES = {
    "dynamic": "XNNPACK: rows quantized with a zero point, half to even; blocks summed by FMA, with bfloat16 scales",
    "asymmetric": "rows quantized with a zero point, half away; blocks summed in float32",
}


class Blockwise(NamedTuple):
    """How the rows are quantized: "dynamic" (XNNPACK) or "asymmetric" (builtin)."""

    quantizer: str


def plan(site: Site, flavour: str) -> Plan:
    """acc_b = sum of q w over the columns of block b; with s, z of a row of data and S[b] of a block of weights, every step float32:

    * xnnpack: y = -Z (128 + z); then y = fma(acc_b + 128 sum w_b, S[b], y) block by block; y s + bias; S rounded to bfloat16, half to
      even; Z = the sum of S[b] sum w, 16 columns at a time;
    * builtin: y = the sum of acc_b S[b], block by block; ((y - z Z) s) + bias, Z = the sum of S[b] sum w_b; no activation is applied.

    *Domain*: float16 scales; builtin: at least 4 outputs, and 32 or more columns, an even number.
    *Restates*: XNNPACK's qd8-f32-qb4w-gemm of AVX512-VNNI, and the 4-bit FULLY_CONNECTED of LiteRT on x86.
    *Differs*: XNNPACK leaves blocks of other sizes than multiples of 32 to builtin. LiteRT's reference kernel (which has no row here),
    and builtin outside the domain, do not read such scales. Builtin leaves out the fused activation.
    """
    blocks, w = site.inputs[1].blocks, site.values[1]  # type: ignore[union-attr]
    assert blocks is not None and w is not None  # what `FULLY_CONNECTED` looks at before it comes here
    count, depth = w.shape
    fused = site.options.fused_activation_function
    if flavour == "xnnpack" and blocks.size % XNNPACK_SIZE == 0 and fused in ("NONE", "RELU", "RELU6", "RELU_N1_TO_1"):
        how, scale, size = "dynamic", _bfloat16(blocks.scale), PACKED
    elif count >= 4 and depth >= 32 and depth % 2 == 0:
        how, scale, size = "asymmetric", blocks.scale, blocks.size
    else:
        raise Unsupported("scales by blocks", where=site.where, hint="LiteRT's kernel here ignores them; float and fake mode run it")
    bias = site.values[2] if len(site.inputs) > 2 and site.inputs[2] is not None else np.zeros(count, f32)
    if bias is None:
        raise Unsupported("the bias is computed, not constant", where=site.where, hint="Float and fake mode run it")
    apart = w.reshape(count, -1, blocks.size).astype(np.int32)
    leaves = {
        "weights": np.ascontiguousarray(np.transpose(apart, (1, 2, 0))).astype(np.int8),
        "sums": apart.sum(2).T,
        "scale": np.ascontiguousarray(scale.T),
        "offset": _in_order(w.reshape(count, -1, size).sum(2, dtype=np.int32) * np.repeat(scale, blocks.size // size, 1)),
        "bias": np.asarray(bias, f32).reshape(-1),
    }
    return Plan(Blockwise(how), leaves, NOTES[how])


def _bfloat16(x: np.ndarray) -> np.ndarray:
    """float32 rounded to the nearest number of 8 significant bits, half to even."""
    bits = x.view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + (bits >> 16 & 1)) & np.uint32(0xFFFF0000)).view(f32)


def _in_order(terms: np.ndarray) -> np.ndarray:
    """Sums over the last axis in float32, from the first term to the last."""
    return np.cumsum(terms.astype(f32), axis=-1, dtype=f32)[..., -1]


def run(options: Options, how: Blockwise, leaves: dict[str, Any], x: Any, *_: Any) -> Any:
    """x: float32 (rows, depth); float32 (rows, outputs). See `plan`."""
    blocks, size, count = leaves["weights"].shape
    x = rows(options, x, blocks * size)
    quantized = QUANTIZERS[how.quantizer](x)
    ones = (1,) * (x.ndim - 1)
    offset, bias = (leaves[k].reshape(*ones, count) for k in ("offset", "bias"))
    scale, sums = (leaves[k].reshape(blocks, *ones, count) for k in ("scale", "sums"))
    codes = jnp.moveaxis(quantized.codes.reshape(*x.shape[:-1], blocks, size), -2, 0)
    acc = jax.vmap(_products)(codes, leaves["weights"])
    zero = quantized.zero.astype(f32)
    if how.quantizer == "dynamic":
        terms = (acc + np.int32(128) * sums).astype(f32)
        total = jax.lax.scan(lambda y, b: (fixed.fma(*b, y), None), -offset * (zero + f32(128)), (terms, scale))[0]
        return activate(options.fused_activation_function, fixed.unfused(total * quantized.scale) + bias)
    total = jax.lax.scan(lambda y, b: (y + fixed.unfused(b[0] * b[1]), None), jnp.zeros(acc.shape[1:], f32), (acc.astype(f32), scale))[0]
    return fixed.unfused((total - fixed.unfused(zero * offset)) * quantized.scale) + bias


def _products(codes: Any, weights: Any) -> Any:
    """int32 sums of int8 codes (..., size) by weights (size, outputs)."""
    return jax.lax.dot_general(codes, weights, (((codes.ndim - 1,), (0,)), ((), ())), preferred_element_type=np.int32)


KERNELS = (
    Kernel(
        ("float32", "int4 by blocks", "float32?"), ("float32",), ("xnnpack", "builtin"), plan, run,
        Measured(cpus=("x86-64 AVX512-VNNI",)),
    ),
)  # fmt: skip
