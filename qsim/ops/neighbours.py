"""Float ops over windows and neighbourhoods: L2_POOL_2D, LOCAL_RESPONSE_NORMALIZATION, FAKE_QUANT. No integer kernels exist."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..fixed import round_away
from ..graph import Options
from ..op import Case, Op, Rule
from .common import activate, f32
from .pooling import window_sizes, window_sums


def _l2_pool(options: Options, x: Any) -> Any:
    """y = act(sqrt(sum x^2 / n)) over the elements of each window inside the image. *Restates*: L2_POOL_2D of LiteRT."""
    mean = window_sums(options, x * x) / jnp.asarray(window_sizes(options, x.shape).astype(x.dtype))
    return activate(options.get("fused_activation_function", "NONE"), jnp.sqrt(mean))


def _local_response(options: Options, x: Any) -> Any:
    """y[c] = x[c] (bias + alpha sum of x^2 over channels c - radius .. c + radius)^-beta.

    *Restates*: LOCAL_RESPONSE_NORMALIZATION of LiteRT. *Differs from*: the reference kernel, which leaves out channel c + radius.
    """
    radius, last = int(options.get("radius", 0)), x.ndim - 1
    squares = jnp.pad(x * x, [(0, 0)] * last + [(radius, radius)])
    sums = sum(lax.slice_in_dim(squares, i, i + x.shape[last], axis=last) for i in range(2 * radius + 1))
    bias, alpha, beta = (x.dtype.type(options.get(k, 0.0)) for k in ("bias", "alpha", "beta"))
    return x * (bias + alpha * sums) ** -beta


def fake_grid(options: Options) -> tuple[np.float32, np.float32, np.float32]:
    """(scale, lowest value, highest value) of FAKE_QUANT: min and max moved so that zero is on the grid; narrow_range leaves code 0 out.

    *Domain*: min < max. *Restates*: the nudging of TF's FakeQuantWithMinMaxArgs. (LiteRT refuses narrow_range.)
    """
    low, high, top = f32(options.get("min", 0.0)), f32(options.get("max", 0.0)), f32((1 << int(options.get("num_bits", 8))) - 1)
    bottom = f32(bool(options.get("narrow_range", False)))
    scale = f32(f32(high - low) / f32(top - bottom))
    zero = np.clip(round_away(f32(bottom - f32(low / scale))), bottom, top)
    return scale, f32(f32(bottom - zero) * scale), f32(f32(top - zero) * scale)


@jax.custom_jvp
def _nearest_step(x: jax.Array) -> jax.Array:
    """Whole numbers nearest to x >= 0, halves up; its derivative is 1."""
    whole = jnp.floor(x)
    return jnp.where(x - whole >= np.float32(0.5), whole + np.float32(1), whole)


@_nearest_step.defjvp
def _(primals: tuple, tangents: tuple) -> tuple:
    return _nearest_step(*primals), tangents[0]


def _fake_quant(options: Options, x: Any) -> Any:
    """y = round_away((clip(x, low, high) - low) / s) s + low, each step rounded to float32. *Restates*: FAKE_QUANT of LiteRT."""
    scale, low, high = fake_grid(options)
    inside = jnp.where(x < low, low, jnp.where(x > high, high, x))
    return _nearest_step((inside - low) * f32(f32(1) / scale)) * scale + low


def _pooled(shape: tuple, size: tuple, stride: tuple, padding: str, act: str = "NONE") -> Case:
    options = {
        "filter_height": size[0], "filter_width": size[1], "stride_h": stride[0], "stride_w": stride[1],
        "padding": padding, "fused_activation_function": act,
    }  # fmt: skip
    return Case((shape,), options)


FLOAT = {"float32": 1}

OPS = (
    Op(
        "L2_POOL_2D",
        _l2_pool,
        Rule(versions=FLOAT),
        (),
        (_pooled((1, 7, 9, 3), (2, 3), (2, 2), "SAME"), _pooled((1, 6, 7, 2), (3, 2), (2, 3), "VALID", "RELU6")),
    ),
    Op(
        "LOCAL_RESPONSE_NORMALIZATION",
        _local_response,
        Rule(versions=FLOAT),
        (),
        (
            Case(((1, 3, 4, 9),), {"radius": 2, "bias": 1.0, "alpha": 0.5, "beta": 0.5}),
            Case(((2, 2, 3, 5),), {"radius": 1, "bias": 2.0, "alpha": 0.1, "beta": 0.75}),
        ),
    ),
    Op(
        "FAKE_QUANT",
        _fake_quant,
        Rule(versions=FLOAT),
        (),
        (
            Case(((1, 5, 7),), {"min": -1.3, "max": 2.7, "num_bits": 8, "narrow_range": False}),
            Case(((3, 11),), {"min": 0.0, "max": 6.0, "num_bits": 4, "narrow_range": False}),
        ),
    ),
)
