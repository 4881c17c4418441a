"""BATCH_MATMUL: of codes, rescaled; of int8 codes as they are summed; of float data by constant int8 weights."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .. import fixed
from ..errors import Invalid, Unsupported
from ..graph import Options, Tensor
from ..op import FLAVOURS, Case, Kernel, Op, Plan, Rule, Site
from .common import Leaves, affine, f32
from .hybrid import NOTES as ROW_NOTES
from .hybrid import QUANTIZERS
from .products import NOTES, Rescale, rescaled, rescaling


def _turned(x: Any, adjoint: Any) -> Any:
    return jnp.swapaxes(x, -1, -2) if adjoint else x


def _operands(options: Options, x: Any, y: Any) -> tuple[Any, Any]:
    """Both operands as (..., m, k) and (..., k, n), of one rank."""
    x, y = _turned(x, options.get("adj_x", False)), _turned(y, options.get("adj_y", False))
    rank = max(x.ndim, y.ndim)
    return tuple(v.reshape((1,) * (rank - v.ndim) + v.shape) for v in (x, y))  # type: ignore[return-value]


def _real(options: Options, x: Any, y: Any) -> Any:
    """z[..., m, n] = sum_k x[..., m, k] y[..., k, n], leading axes broadcast; adj_x, adj_y swap the last two axes first."""
    return jnp.matmul(*_operands(options, x, y), precision=lax.Precision.HIGHEST)


# codes --------------------------------------------------------------


def _plan(site: Site, flavour: str) -> Plan:
    """static: rescaling."""
    x, y = site.inputs[0], site.inputs[1]
    assert x is not None and y is not None
    (sx, zx), (sw, zw) = affine(site, x), _second(site, y)
    if x.type == "int16" and any((zx, zw, affine(site, site.outputs[0])[1])):
        raise Invalid("int16 data with a zero point", where=site.where, expected="0", hint="LiteRT refuses such a file")
    rule = "wide" if x.type == "int16" else "away"
    if flavour == "xnnpack" and x.type == "int8" and zw == 0 and sw:
        rule = "scale"
    how, leaves = rescaling(site, rule, sx, np.array([sw]), False, flavour)
    note = NOTES[rule] if sw else "the weights have a scale per channel, which LiteRT reads as 0"
    return Plan(how, leaves | {"zero_point_0": np.int32(zx), "zero_point_1": np.int32(zw)}, note)


def _second(site: Site, y: Tensor) -> tuple[np.float32, int]:
    """(scale, zero point) of the second operand as the kernels read them: both 0 where there is one per channel."""
    return (f32(0), 0) if y.qparams is not None and y.qparams.per_channel else affine(site, y)


def _run(options: Options, how: Rescale, leaves: Leaves, x: jax.Array, y: jax.Array) -> jax.Array:
    """acc = sum_k (x - z_x)(y - z_y), rescaled by f64(f32(s_x s_y)) / f64(s_out) with two roundings (XNNPACK, where z_y = 0: float32).

    int16 by int16 or int8: 64-bit sums, zero points 0. *Domain*: with a scale per channel of y the result is z_out everywhere.
    *Restates*: BATCH_MATMUL of the LiteRT kernels, XNNPACK's batch-matrix-multiply.
    """
    x, y = _operands(options, x, y)
    if how.rule == "wide":
        with jax.enable_x64(True):
            acc = jnp.matmul(*(lax.convert_element_type(v, np.int64) for v in (x, y)))
        return rescaled(how, leaves, acc)
    return rescaled(how, leaves, jnp.matmul(x.astype(np.int32) - leaves["zero_point_0"], y.astype(np.int32) - leaves["zero_point_1"]))


def _plan_sums(site: Site, flavour: str) -> Plan:
    return Plan(note="sums of codes as they are, zero points ignored")


def _run_sums(options: Options, static: Any, leaves: Leaves, x: jax.Array, y: jax.Array) -> jax.Array:
    """sum_k x y of int8 codes, int32; no zero points, no scales. *Restates*: BATCH_MATMUL with int32 output of the LiteRT kernels."""
    return jnp.matmul(*(v.astype(np.int32) for v in _operands(options, x, y)))


# float data by int8 weights -----------------------------------------


def _plan_hybrid(site: Site, flavour: str) -> Plan:
    """static: quantizer of the rows.

    *Domain*: constant weights of at most 4 axes, zero point 0, one scale or one per column.
    """
    weights = site.inputs[1]
    assert weights is not None and weights.qparams is not None
    q, rank = weights.qparams, len(weights.shape)
    columns = rank - 2 if site.options.get("adj_y", False) else rank - 1
    if site.values[1] is None or rank > 4 or np.any(q.zero_point) or (q.per_channel and q.axis != columns):
        raise Unsupported(
            "float data by such weights", where=site.where, found=f"{weights.shape}, scales along axis {q.axis}",
            expected="constant weights, at most 4 axes, zero point 0, one scale or one per column", hint="Float and fake mode run it",
        )  # fmt: skip
    how = "dynamic" if flavour == "xnnpack" else "asymmetric" if site.options.asymmetric_quantize_inputs else "symmetric"
    return Plan(how, {"scale": np.asarray(q.scale, f32).reshape(-1)}, ROW_NOTES[how])


def _run_hybrid(options: Options, how: str, leaves: Leaves, x: jax.Array, y: jax.Array) -> jax.Array:
    """q, z, s per row of x; (s s_y) (sum q y - z sum y), XNNPACK (s (...)) s_y.

    The LiteRT kernels take scales, zero points and sums of weights from other rows where there are several leading axes, see `_read`.
    *Restates*: EvalHybrid of BATCH_MATMUL of the LiteRT kernels, XNNPACK's qd8-f32-qc8w-gemm. *Differs*: XNNPACK quantizes with a
    zero point whatever `asymmetric_quantize_inputs` says.
    """
    leading = np.broadcast_shapes(x.shape[:-2], y.shape[:-2])
    x, y = _operands(options, *_pressed(options, x, y))
    q, scale = QUANTIZERS[how](x), leaves["scale"].reshape((1,) * (x.ndim - 1) + (-1,))
    acc, sums = jnp.matmul(q.codes.astype(np.int32), y.astype(np.int32)), jnp.sum(y, axis=-2, keepdims=True, dtype=np.int32)
    if how == "dynamic":
        z = (acc - q.zero * sums).astype(f32) * q.scale * scale
    else:
        batch = acc.shape[:-2]
        s, zero = (_read(v, batch)[..., None] for v in (q.scale[..., 0], q.zero[..., 0].astype(f32)))
        product = fixed.clamp(_read(sums[..., 0, :], batch)[..., None, :].astype(f32) * zero, f32(-3e38), f32(3e38))
        z = (s * scale) * (acc.astype(f32) - product)
    return z.reshape(*leading, -1, z.shape[-1])


def _pressed(options: Options, x: Any, y: Any) -> tuple[Any, Any]:
    """The third axis from the end joins the rows of x where y has 1 there, as in the LiteRT kernel."""
    if options.get("adj_x", False) or x.ndim < 3 or y.ndim < 3 or y.shape[-3] != 1:
        return x, y
    return x.reshape(*x.shape[:-3], -1, x.shape[-1]), y.reshape(*y.shape[:-3], *y.shape[-2:])


def _read(values: jax.Array, batch: tuple[int, ...]) -> jax.Array:
    """values (*own batch, n) as the LiteRT kernel reads them for each matrix of `batch`: at the sum, not the place, of its indices."""
    at = np.zeros(batch, np.int32)
    for indices, size in zip(np.indices(batch), values.shape[:-1], strict=True):
        at += (indices if size > 1 else 0 * indices).astype(np.int32)
    flat = values.reshape(-1, values.shape[-1])
    return jnp.take(flat, at, axis=0)


def _matmul(x: tuple, y: tuple, adj_x: bool = False, adj_y: bool = False, constant: tuple = ()) -> Case:
    return Case((x, y), {"adj_x": adj_x, "adj_y": adj_y, "asymmetric_quantize_inputs": False}, constant=constant)


OPS = (
    Op(
        "BATCH_MATMUL",
        _real,
        Rule(data=(0, 1), versions={"float32": 1, "int8": 2, "int16": 3, "float32 x int8": 4}),
        (
            Kernel(("int8", "int8"), ("int8",), FLAVOURS, _plan, _run),
            Kernel(("int16", "int16"), ("int16",), FLAVOURS, _plan, _run),
            Kernel(("int16", "int8"), ("int16",), FLAVOURS, _plan, _run),
            Kernel(("int8", "int8"), ("int32",), FLAVOURS, _plan_sums, _run_sums),
            Kernel(("float32", "int8"), ("float32",), FLAVOURS, _plan_hybrid, _run_hybrid),
        ),
        (
            _matmul((1, 4, 20), (1, 20, 7)),
            _matmul((2, 3, 5, 12), (2, 3, 9, 12), adj_y=True),
            _matmul((2, 12, 5), (2, 12, 9), adj_x=True),
            _matmul((1, 6, 16), (1, 16, 10), constant=(1,)),
            _matmul((3, 4, 8), (1, 8, 5)),
            _matmul((5, 24), (24, 3), adj_y=False),
            _matmul((2, 3, 18), (9, 18), adj_y=True, constant=(1,)),
            _matmul((2, 3, 4, 33), (2, 1, 33, 5), constant=(1,)),
        ),
    ),
)
