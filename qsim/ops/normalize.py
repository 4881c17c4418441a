"""L2_NORMALIZATION, LOG_SOFTMAX: functions of the last axis as a whole."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from ..fixed import high_mul, requantize, shift_away, store
from ..graph import Options
from ..op import Case, Op, Plan, Rule, Site
from .common import Leaves, affine, each
from .inverse_sqrt import inverse_sqrt


def _real_l2(options: Options, x: jax.Array) -> jax.Array:
    total = jnp.sum(x * x, axis=-1, keepdims=True)
    return x / jnp.sqrt(jnp.maximum(total, np.asarray(1e-12, x.dtype)))


def _plan_l2(site: Site, flavour: str) -> Plan:
    return Plan((), {"input_zero_point": np.int32(affine(site, site.inputs[0])[1])}, "fixed-point 1 / sqrt of the sum of squares")


def _run_l2(options: Options, static: tuple, leaves: Leaves, x: jax.Array) -> jax.Array:
    """y = x / sqrt(sum x^2) over the last axis in steps of 1/128, x = q - z_x; (m, e) of 1 / sqrt as in `inverse_sqrt`.

    int8: clip(MBQM(x, m, e + 7)). uint8: clip(128 + RS(HM(128 x, m), -e)). The input's scale cancels.

    *Domain*: the sum of squares fits int32. *Restates*: L2_NORMALIZATION of LiteRT, the same in every flavour.
    """
    centred = x.astype(np.int32) - leaves["input_zero_point"]
    multiplier, shift = inverse_sqrt(jnp.sum(centred * centred, axis=-1, keepdims=True, dtype=np.int32))
    if x.dtype == np.int8:
        y = requantize(centred, jnp.broadcast_to(multiplier, x.shape), shift + np.int32(7))
        return store(y, np.int32(0), np.int32(-128), np.int32(127), x.dtype)
    y = shift_away(high_mul(centred * np.int32(128), multiplier), -shift)
    return store(y, np.int32(128), np.int32(0), np.int32(255), x.dtype)


_L2 = {"fused_activation_function": "NONE"}

OPS = (
    Op(
        "L2_NORMALIZATION",
        _real_l2,
        Rule(fixed={"int8": (1 / 128, 0), "uint8": (1 / 128, 128)}),
        each(("int8", "uint8"), ("T",), ("T",), _plan_l2, _run_l2),
        (Case(((1, 3, 5, 7),), _L2), Case(((2, 259),), _L2), Case(((1, 1),), _L2)),
    ),
    Op(
        "LOG_SOFTMAX",
        lambda options, x: jax.nn.log_softmax(x, axis=-1),
        Rule(),
        (),
        (Case(((1, 10),)), Case(((3, 1, 33),))),
    ),
)
