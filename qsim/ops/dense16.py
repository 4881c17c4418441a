"""FULLY_CONNECTED of int16 data by int16 weights."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .. import fixed
from ..errors import Invalid, Unsupported
from ..graph import Options
from ..op import Plan, Site
from .common import affine, f32
from .sums import NOTES, rows, scales, weights_of

ROWS = tuple((("int16", "int16", bias), "int16") for bias in ("int32?", "int64"))


def plan(site: Site, flavour: str) -> Plan:
    """acc[o] = sum x w[o] + bias[o] in int64; y = rescale(acc, s_x s_w[o] / s_y), clamped, by a multiplier of 15 bits.

    Multiplier: f64(f32(s_x s_w)) / f64(s_y) with one weight scale, f64(s_x) f64(s_w) / f64(s_y) with one per channel.
    *Domain*: zero points 0. *Restates*: FullyConnectedInt16FilterInt16 of the LiteRT kernels, in every flavour.
    """
    w, y, act = weights_of(site).T, site.outputs[0], site.options.fused_activation_function
    bias, named = (site.inputs[2] if len(site.inputs) > 2 else None), site.options.get("quantized_bias_type", "FLOAT32")
    zeros = [affine(site, t)[1] for t in (site.inputs[0], y)]
    if any(zeros) or np.any(site.inputs[1].qparams.zero_point) or act == "TANH":  # type: ignore[union-attr]
        raise Invalid("int16 data with a zero point, or TANH", where=site.where, hint="LiteRT refuses such a file")
    if bias is not None and named != bias.type.upper() and (named, bias.type) != ("FLOAT32", "int32"):
        raise Invalid("the options name another type of the bias", where=site.where, found=named, expected=bias.type.upper())
    if bias is not None and site.values[2] is None:
        raise Unsupported("the bias is computed, not constant", where=site.where, hint="Float and fake mode run it")
    sx, sw, sy = scales(site, 0, w.shape[1])
    single = not site.inputs[1].qparams.per_channel  # type: ignore[union-attr]
    product = (f32(sx) * sw).astype(np.float64) if single else np.float64(sx) * sw.astype(np.float64)
    short, right = fixed.quantize_multiplier_16(product / np.float64(sy))
    low, high = fixed.activation_range(act, sy, 0, y.type, "builtin")
    offset = np.zeros(w.shape[1], np.int64) if bias is None else np.asarray(site.values[2]).astype(np.int64).reshape(-1)
    leaves = {"weights": np.ascontiguousarray(w), "bias_words": fixed.words(offset, np.int64), "multiplier": short, "shift": right}
    return Plan((), leaves | {"act_min": np.int32(low), "act_max": np.int32(high)}, NOTES["wide"])


def run(options: Options, static: Any, leaves: dict[str, Any], x: Any, *_: Any) -> Any:
    w = leaves["weights"]
    x = rows(options, x, w.shape[0])
    with jax.enable_x64(True):
        bias = lax.bitcast_convert_type(jnp.asarray(leaves["bias_words"], np.uint32), np.int64)
        acc = jnp.matmul(*(lax.convert_element_type(v, np.int64) for v in (x, w))) + bias.reshape((1,) * (x.ndim - 1) + (-1,))
    return fixed.store(
        fixed.requantize_wide(acc, leaves["multiplier"], leaves["shift"]), np.int32(0), leaves["act_min"], leaves["act_max"], np.int16
    )
