"""ADD, SUB, MUL: elementwise arithmetic with broadcasting and a fused activation."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from ..errors import Unsupported
from ..fixed import quantize_multiplier, requantize, scale_round, store
from ..graph import Options
from ..op import Case, Op, Plan, Rule, Site
from .common import activate, affine, align, bounds, each, f32, same_type

Operator = Callable[[Any, Any], Any]


def _real(function: Operator) -> Callable[..., Any]:
    def real(options: Options, a: Any, b: Any) -> Any:
        a, b = align(*same_type(a, b))
        return activate(options.get("fused_activation_function", "NONE"), function(a, b))

    return real


def _centred(leaves: dict, a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(a - z_a, b - z_b) as int32 of one rank."""
    a, b = align(a, b)
    return a.astype(np.int32) - leaves["a_zero_point"], b.astype(np.int32) - leaves["b_zero_point"]


def _scales(site: Site) -> tuple[tuple[np.float32, np.float32, np.float32], dict[str, np.ndarray]]:
    (sa, za), (sb, zb), (sy, _) = (affine(site, t) for t in (*site.inputs, site.outputs[0]))
    return (sa, sb, sy), {"a_zero_point": np.int32(za), "b_zero_point": np.int32(zb)}


# ---------------------------------------------------------------- ADD, SUB

_LEFT = 20  # headroom bits the fixed-point sum keeps below one output step


def _plan_sum(sign: int) -> Callable[[Site, str], Plan]:
    def plan(site: Site, flavour: str) -> Plan:
        (sa, sb, sy), leaves = _scales(site)
        if flavour == "xnnpack":
            ratios = f32(sa / sy), f32(sb / sy)
            if all(2.0**-10 <= r < 2.0**8 for r in ratios):
                return _plan_xnnpack_sum(site, ratios, sign, leaves)
            return _plan_fixed_sum(
                site, "builtin", (sa, sb, sy), leaves, "scale ratio outside [2^-10, 2^8): XNNPACK refuses, builtin kernel"
            )
        return _plan_fixed_sum(site, flavour, (sa, sb, sy), leaves, f"{flavour} fixed point")

    return plan


def _plan_xnnpack_sum(site: Site, ratios: tuple[np.float32, np.float32], sign: int, leaves: dict) -> Plan:
    exponent = int(np.frexp(max(ratios))[1]) - 1
    shift = 20 - exponent
    a, b = (int(np.rint(np.ldexp(np.float64(r), shift))) for r in ratios)
    numbers = {"a_multiplier": np.int32(a), "b_multiplier": np.int32(sign * b), "shift": np.int32(shift)}
    return Plan(("xnnpack",), {**leaves, **numbers, **bounds(site, "xnnpack")}, "XNNPACK: one shift, halves up")


def _plan_fixed_sum(site: Site, flavour: str, scales: tuple, leaves: dict, note: str) -> Plan:
    sa, sb, sy = (float(s) for s in scales)
    twice = 2 * max(sa, sb)
    out = twice / (2.0**_LEFT * sy)
    if out >= 1:
        raise Unsupported(
            "the sum's output scale is too small for the kernel", where=site.where, found=f"output scale {sy:g}",
            expected=f"more than {twice / 2.0**_LEFT:g}",
        )  # fmt: skip
    numbers = {}
    for name, real in (("a", sa / twice), ("b", sb / twice), ("output", out)):
        (numbers[f"{name}_multiplier"],), (numbers[f"{name}_shift"],) = quantize_multiplier(real)
    return Plan((flavour,), {**leaves, **numbers, **bounds(site, flavour)}, note)


def _run_sum(function: Operator) -> Callable[..., jax.Array]:
    def run(options: Options, static: tuple, leaves: dict, a: jax.Array, b: jax.Array) -> jax.Array:
        """Sum or difference of int8/uint8 codes.

        XNNPACK: y = clip(((A (a - z_a) + B (b - z_b) + 2^(k-1)) >> k) + z_y), A = rint(2^k s_a / s_y), B likewise, k = 20 - floor(log2 of
        the larger ratio). Reference: both operands times 2^20 s / (2 max(s_a, s_b)), summed, times 2 max(s_a, s_b) / (2^20 s_y), three
        double roundings.

        *Domain*: XNNPACK takes ratios s / s_y in [2^-10, 2^8), computed in float32; outside the builtin kernel runs.
        *Restates*: qs8-vadd of XNNPACK; ADD and SUB of LiteRT (reference).
        """
        dtype = a.dtype
        x, y = _centred(leaves, a, b)
        limits = leaves["zero_point"], leaves["act_min"], leaves["act_max"], dtype
        if static[0] == "xnnpack":
            total = x * leaves["a_multiplier"] + y * leaves["b_multiplier"]
            half = np.int32(1) << (leaves["shift"] - np.int32(1))
            return store((total + half) >> leaves["shift"], *limits)
        # |codes << 20| < 2^28 and both operands are scaled by at most 1/2: the cheap high multiply serves.
        x = requantize(x << np.int32(_LEFT), leaves["a_multiplier"], leaves["a_shift"], small=True, left=False)
        y = requantize(y << np.int32(_LEFT), leaves["b_multiplier"], leaves["b_shift"], small=True, left=False)
        total = requantize(function(x, y), leaves["output_multiplier"], leaves["output_shift"], small=True, left=False)
        return store(total, *limits)

    return run


# ---------------------------------------------------------------- MUL


def _plan_product(site: Site, flavour: str) -> Plan:
    (sa, sb, sy), leaves = _scales(site)
    scale = f32(f32(sa * sb) / sy)
    if flavour == "xnnpack" and 2.0**-16 <= scale < 2.0**8:
        return Plan(("xnnpack",), {**leaves, "scale": scale, **bounds(site, flavour)}, "XNNPACK: one float32 product, half to even")
    refused = flavour == "xnnpack"
    note = "scale product outside [2^-16, 2^8): XNNPACK refuses, builtin kernel" if refused else f"{flavour} fixed point"
    (multiplier,), (shift,) = quantize_multiplier(scale)
    small = (255 * 255) << max(int(shift), 0) < 1 << 30
    numbers = {"multiplier": multiplier, "shift": shift, **bounds(site, "builtin" if refused else flavour)}
    return Plan(("builtin" if refused else flavour, small), {**leaves, **numbers}, note)


def _run_product(options: Options, static: tuple, leaves: dict, a: jax.Array, b: jax.Array) -> jax.Array:
    """Product of int8/uint8 codes: y = clip(round(M (a - z_a)(b - z_b)) + z_y), M = f32(f32(s_a s_b) / s_y).

    XNNPACK rounds one float32 product half to even; the LiteRT kernels round twice in fixed point.
    *Domain*: XNNPACK takes M in [2^-16, 2^8); outside the builtin kernel runs.
    *Restates*: qs8-vmul of XNNPACK (x86; ARM rounds otherwise), MUL of LiteRT.
    """
    x, y = _centred(leaves, a, b)
    limits = leaves["zero_point"], leaves["act_min"], leaves["act_max"], a.dtype
    if static[0] == "xnnpack":
        return scale_round(x * y, leaves["scale"], *limits)
    return store(requantize(x * y, leaves["multiplier"], leaves["shift"], small=static[1]), *limits)


_SHAPES = (
    Case(((1, 4, 5, 3), (1, 4, 5, 3)), {"fused_activation_function": "NONE"}),
    Case(((1, 7, 3, 5), (5,)), {"fused_activation_function": "RELU"}),
    Case(((1, 3, 1), (2, 1, 4)), {"fused_activation_function": "RELU6"}),
    Case(((1, 13), (1, 1)), {"fused_activation_function": "RELU_N1_TO_1"}),
    Case(((1, 2, 3, 8), (1, 1, 1, 8)), {"fused_activation_function": "NONE"}, constant=(1,)),
    Case(((3,), (1, 2, 1, 3)), {"fused_activation_function": "RELU"}),
)
_TYPES = ("int8", "uint8")

OPS = (
    Op(
        "ADD",
        _real(operator.add),
        Rule(data=(0, 1)),
        each(_TYPES, ("T", "T"), ("T",), _plan_sum(1), _run_sum(operator.add)),
        _SHAPES,
        host=True,
    ),
    Op(
        "SUB",
        _real(operator.sub),
        Rule(data=(0, 1)),
        each(_TYPES, ("T", "T"), ("T",), _plan_sum(-1), _run_sum(operator.sub)),
        _SHAPES,
        host=True,
    ),
    Op("MUL", _real(operator.mul), Rule(data=(0, 1)), each(_TYPES, ("T", "T"), ("T",), _plan_product, _run_product), _SHAPES, host=True),
)
