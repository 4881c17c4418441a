"""L2_NORMALIZATION, LOG_SOFTMAX: functions of the last axis as a whole."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import Invalid, Unsupported
from ..fixed import high_mul, quantize_multiplier, requantize, shift_away, store
from ..graph import Options
from ..op import Case, Op, Plan, Rule, Site
from ..types import code_range
from .common import Leaves, affine, each, f32
from .inverse_sqrt import inverse_sqrt
from .logarithm import log_of_at_least_one
from .softmax import exp_table, float_exp_table, ordered_sum


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


# ---------------------------------------------------------------- LOG_SOFTMAX


def _plan_log_softmax(site: Site, flavour: str) -> Plan:
    """static: the form, "reference" or "builtin"."""
    scale, _ = affine(site, site.inputs[0])
    (sy, zy), high = affine(site, site.outputs[0]), code_range(site.outputs[0].type)[1]
    if (sy, zy) != (1 / 16, high):
        raise Invalid(
            "LOG_SOFTMAX gives scale 1/16 and the type's largest zero point only",
            where=site.where,
            found=(float(sy), zy),
            hint="LiteRT refuses such a file",
        )
    if flavour != "reference":
        leaves = {"exp": float_exp_table(scale, 1.0), "input_scale": scale, "input_steps": f32(scale * f32(16))}
        return Plan("builtin", leaves, "float32 exponentials from a table, summed in order, their logarithm in float32")
    if scale <= 2.0**-26:
        raise Unsupported("the input scale must exceed 2^-26", where=site.where, found=float(scale))
    (m,), (e,) = quantize_multiplier(min(float(scale) * 2.0**26, 2.0**31 - 1))
    (reverse,), (shift,) = quantize_multiplier(2.0 ** (31 - int(e)) / float(m))
    lowest = -int(np.floor(31.0 * 2.0**26 / 2.0 ** int(e)))
    d = np.arange(-255, 1, dtype=np.int64)
    steps = (((d << int(e)).astype(np.int32).astype(np.int64) * int(m)) + (1 << 30)) >> 31
    leaves = {
        "exp": exp_table(scale, 1.0),
        "steps": steps.astype(np.int32),
        "reverse": reverse,
        "shift": shift,
        "lowest": np.int32(lowest),
    }
    return Plan("reference", leaves, "fixed-point exponentials from a table, their logarithm in fixed point")


def _run_log_softmax(options: Options, static: str, leaves: Leaves, x: jax.Array) -> jax.Array:
    """y = log softmax of int8/uint8 codes over the last axis in steps of 1/16; d = q - rowmax, e = exp(s_x d) from a table of 256.

    Reference: lg = log of the sum of e (Q12.19) in Q5.26; y = clip(RS(s_x d - lg, 22) + high), s_x d in Q5.26; the lowest code where
    d <= max(floor(-31 / s_x) - 1, -lg / s_x), in steps. Builtin (and the default interpreter, whose delegate does not take it): e summed in
    order, y = clip(round_half_even(f32(f32(f32(16 s_x) q) - f32(16 f32(f32(s_x rowmax) + lg)))) + high), lg their float32 logarithm
    (rounded from float64: C's logf differs in the last bit once in 400, which a code shows once in 10^8).

    *Domain*: rows of fewer than 4096 elements. *Restates*: LOG_SOFTMAX of LiteRT.
    """
    codes = x.astype(np.int32)
    largest = jnp.max(codes, axis=-1, keepdims=True)
    d = codes - largest
    e = jnp.take(jnp.asarray(leaves["exp"]), d + np.int32(255), mode="clip")
    low, high = (np.int32(v) for v in (np.iinfo(x.dtype).min, np.iinfo(x.dtype).max))
    if static == "builtin":
        whole = _float_logs(leaves, codes, largest, ordered_sum(e))
        return store(whole, high, low, high, x.dtype)
    total = jnp.sum((e >> np.int32(12)) + (e >> np.int32(11) & np.int32(1)), axis=-1, keepdims=True, dtype=np.int32)
    log = log_of_at_least_one(total)
    least = shift_away(high_mul(log ^ np.int32(-(2**31)), leaves["reverse"]), -leaves["shift"])
    steps = jnp.take(jnp.asarray(leaves["steps"]), d + np.int32(255), mode="clip")
    y = store(shift_away(steps - log, jnp.int32(22)), high, low, high, x.dtype)
    return jnp.where(d > jnp.maximum(leaves["lowest"] - np.int32(1), least), y, low.astype(x.dtype))


def _float_logs(leaves: Leaves, codes: jax.Array, largest: jax.Array, total: jax.Array) -> jax.Array:
    """Steps of 1/16, as int32. The maxima keep XLA from contracting product and sum to an FMA."""
    with jax.enable_x64(True):
        log = jnp.log(total.astype(np.float64)).astype(np.float32)
    floor = np.float32(-3e38)
    offset = (jnp.maximum(largest.astype(np.float32) * leaves["input_scale"], floor) + log) * np.float32(16)
    return jnp.round(jnp.maximum(codes.astype(np.float32) * leaves["input_steps"], floor) - offset).astype(np.int32)


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
        Rule(fixed={"int8": (1 / 16, 127), "uint8": (1 / 16, 255)}),
        each(("int8", "uint8"), ("T",), ("T",), _plan_log_softmax, _run_log_softmax),
        (Case(((1, 10),)), Case(((3, 1, 33),)), Case(((1, 2, 3, 4),)), Case(((1, 1001),))),
    ),
)
