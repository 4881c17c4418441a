"""ADD, SUB, MUL: elementwise arithmetic with broadcasting and a fused activation."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import Unsupported
from ..fixed import quantize_multiplier, requantize, scale_round, store
from ..graph import Options
from ..op import Case, Op, Plan, Rule, Site
from .common import Leaves, activate, affine, align, body, bounds, each, f32, plain, require_centred, same_type

Operator = Callable[[Any, Any], Any]


def _real(function: Operator) -> Callable[..., Any]:
    def real(options: Options, a: Any, b: Any) -> Any:
        a, b = align(*same_type(a, b))
        return activate(options.get("fused_activation_function", "NONE"), function(a, b))

    return real


def inner_loop(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, bool]:
    """(length, one operand is a single number) of the innermost loop in which the builtin kernels walk two shapes; length 0: one by one.

    Equal shapes are one loop. Otherwise trailing equal axes are one loop; without any, the axes along which one operand is 1 are.
    More than five alternations of equal and broadcast axes are walked one by one. What matters here: the vector part of each loop
    takes whole blocks, and the rest of the loop rounds differently.
    """
    rank = max(len(a), len(b))
    a, b = (1,) * (rank - len(a)) + tuple(a), (1,) * (rank - len(b)) + tuple(b)
    if a == b:
        return int(np.prod(a, dtype=np.int64)), False
    last = max(i for i in range(rank) if a[i] != b[i])
    if b[last] == 1:
        a, b = b, a  # a is the one that is broadcast first
    pairs = list(zip(a, b, strict=True))
    equal, single_a, single_b = (lambda p: p[0] == p[1]), (lambda p: p[0] == 1), (lambda p: p[1] == 1)
    sizes = []
    for matches in (equal, single_a, equal, single_b, equal):
        size = 1
        while pairs and matches(pairs[-1]):
            size *= max(pairs.pop())
        sizes.append(size)
    if pairs:
        return 0, False
    return (sizes[0], False) if sizes[0] > 1 else (sizes[1], True)


def _centred(leaves: Leaves, a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(a - z_a, b - z_b) as int32 of one rank."""
    a, b = align(a, b)
    return a.astype(np.int32) - leaves["a_zero_point"], b.astype(np.int32) - leaves["b_zero_point"]


def _scales(site: Site) -> tuple[tuple[np.float32, np.float32, np.float32], Leaves]:
    (sa, za), (sb, zb), (sy, _) = (affine(site, t) for t in (*site.inputs, site.outputs[0]))
    return (sa, sb, sy), {"a_zero_point": np.int32(za), "b_zero_point": np.int32(zb)}


def _loop(site: Site) -> tuple[int, bool]:
    a, b = site.inputs
    assert a is not None and b is not None
    return inner_loop(a.shape, b.shape)


# ---------------------------------------------------------------- ADD, SUB

_LEFT = 20  # headroom bits the fixed-point sum keeps below one output step
_LEFT_16 = 15  # of int16


def _plan_sum(sign: int) -> Callable[[Site, str], Plan]:
    def plan(site: Site, flavour: str) -> Plan:
        """static: ("xnnpack",) | ("scalar", headroom) | ("joint", headroom) | ("vector", form, loop length, block)."""
        scales, leaves = _scales(site)
        ratios = f32(scales[0] / scales[2]), f32(scales[1] / scales[2])
        wide = site.outputs[0].type == "int16"
        if flavour == "xnnpack" and not wide and plain(site) and all(2.0**-10 <= r < 2.0**8 for r in ratios):
            return _plan_xnnpack_sum(site, ratios, sign, leaves)
        if wide:
            return _plan_int16_sum(site, flavour, sign, scales, leaves)
        leaves |= {**_sum_multipliers(site, _LEFT, *scales), **bounds(site, "builtin")}
        if flavour == "reference" or sign < 0:  # the builtin SUB is the reference kernel
            return Plan(("scalar", _LEFT), leaves, _refusal(flavour) + "fixed point, three double roundings")
        static = _vector_form(site)
        return Plan(static, leaves, _refusal(flavour) + _vector_note(static))

    return plan


def _plan_int16_sum(site: Site, flavour: str, sign: int, scales: tuple[np.float32, np.float32, np.float32], leaves: Leaves) -> Plan:
    require_centred(site)
    if site.options.get("pot_scale_int16", True) and all(np.frexp(s)[0] == 0.5 for s in scales):
        raise Unsupported("pot_scale_int16 with scales that are powers of two", where=site.where, hint="Set the option to false")
    leaves |= {**_sum_multipliers(site, _LEFT_16, *scales), **bounds(site, "builtin")}
    sizes = {int(np.prod(t.shape)) for t in (*site.inputs, site.outputs[0])}  # type: ignore[union-attr]
    if flavour == "reference" or sign < 0 or len(sizes) > 1:  # the builtin ADD broadcasts with the reference kernel
        return Plan(("scalar", _LEFT_16), leaves, "fixed point, three double roundings")
    return Plan(("joint", _LEFT_16), leaves, "fixed point, shifts of operands joined")


def _refusal(flavour: str) -> str:
    return "XNNPACK refuses (scale limits, rank or axis): builtin kernel; " if flavour == "xnnpack" else ""


def _plan_xnnpack_sum(site: Site, ratios: tuple[np.float32, np.float32], sign: int, leaves: Leaves) -> Plan:
    exponent = int(np.frexp(max(ratios))[1]) - 1
    shift = 20 - exponent
    a, b = (int(np.rint(np.ldexp(np.float64(r), shift))) for r in ratios)
    numbers = {"a_multiplier": np.int32(a), "b_multiplier": np.int32(sign * b), "shift": np.int32(shift)}
    return Plan(("xnnpack",), {**leaves, **numbers, **bounds(site, "xnnpack")}, "XNNPACK: one shift, halves up")


def _sum_multipliers(site: Site, left: int, *scales: np.float32) -> Leaves:
    sa, sb, sy = (float(s) for s in scales)
    twice = 2 * max(sa, sb)
    out = twice / (2.0**left * sy)
    if out >= 1:
        raise Unsupported(
            "the output scale of the sum is too small for the kernel",
            where=site.where,
            found=f"output scale {sy:g}",
            expected=f"more than {twice / 2.0**left:g}",
        )
    numbers: Leaves = {}
    for name, real in (("a", sa / twice), ("b", sb / twice), ("output", out)):
        (numbers[f"{name}_multiplier"],), (numbers[f"{name}_shift"],) = quantize_multiplier(real)
    return numbers


def _vector_form(site: Site) -> tuple:
    length, single = _loop(site)
    if not length:
        return ("scalar", _LEFT)
    joint = site.outputs[0].type == "int8" and not single
    return ("vector", "joint", length, 16) if joint else ("vector", "floor", length, 8)


def _vector_note(static: tuple) -> str:
    if static[0] == "scalar":
        return "builtin fixed point, three double roundings"
    _, form, length, block = static
    how = "operands shifted before one rounding" if form == "joint" else "shifts rounded down"
    return f"builtin fixed point: {how}, sums wrap to 16 bits, in whole blocks of {block} of every {length}; else double roundings"


def _run_sum(function: Operator) -> Callable[..., jax.Array]:
    def run(options: Options, static: tuple, leaves: Leaves, a: jax.Array, b: jax.Array) -> jax.Array:
        """Sum or difference of int8, uint8 or int16 codes.

        int16: 2^15 for 2^20, no zero points; the builtin ADD of operands of one size joins this shift with their own, before the multiply.
        XNNPACK: y = clip(((A (a - z_a) + B (b - z_b) + 2^(k-1)) >> k) + z_y), A = rint(2^k s_a / s_y), B likewise, k = 20 - floor(log2 of
        the larger ratio). Reference, and SUB of the builtin kernels: 2^20 times both operands, each MBQM by s / (2 max(s_a, s_b)), their
        sum MBQM by 2 max(s_a, s_b) / (2^20 s_y). Builtin ADD: the same with other roundings in whole blocks of its inner loops, where
        the sum also wraps to 16 bits: int8 shifts operands before their multiply (once rounded), uint8 and single numbers floor the shift.

        *Domain*: XNNPACK takes ratios s / s_y in [2^-10, 2^8), computed in float32; outside the builtin kernel runs.
        *Restates*: qs8-vadd of XNNPACK; ADD and SUB of LiteRT (reference, and optimized on x86).
        """
        x, y = _centred(leaves, a, b)
        limits = leaves["zero_point"], leaves["act_min"], leaves["act_max"], a.dtype
        if static[0] == "xnnpack":
            total = x * leaves["a_multiplier"] + y * leaves["b_multiplier"]
            half = np.int32(1) << (leaves["shift"] - np.int32(1))
            return store((total + half) >> leaves["shift"], *limits)
        if static[0] in ("scalar", "joint"):
            parts = (_scaled(leaves, name, v, "away", static[1], net=static[0] == "joint") for name, v in (("a", x), ("b", y)))
            return store(_rescaled_sum(leaves, function(*parts)), *limits)
        _, form, length, block = static
        total = _rescaled_sum(leaves, function(_scaled(leaves, "a", x, form), _scaled(leaves, "b", y, form)))
        wrapped = store((total + leaves["zero_point"]).astype(np.int16).astype(np.int32), np.int32(0), *limits[1:])
        mask = body(total.shape, block, length)
        if mask is None:
            return wrapped
        total = _rescaled_sum(leaves, function(_scaled(leaves, "a", x, "away"), _scaled(leaves, "b", y, "away")))
        return jnp.where(mask, wrapped, store(total, *limits))

    return run


def _scaled(leaves: Leaves, name: str, x: jax.Array, form: str, left: int = _LEFT, net: bool = False) -> jax.Array:
    """2^left x M in int32; form: how the right shift rounds (away, floor), or "joint" where it is taken off the left shift.

    net: "away" likewise with the shifts joined, what is left of the right shift rounded after the multiply.
    """
    # |x << left| is below 2^28 (int16: at most 2^30, of negative numbers) and M <= 1/2: the cheap high multiply serves.
    multiplier, shift = leaves[f"{name}_multiplier"], leaves[f"{name}_shift"]
    if net:
        return requantize(x, multiplier, shift + np.int32(left), small=True)
    if form == "away":
        return requantize(x << np.int32(left), multiplier, shift, small=True, left=False)
    zero = np.int32(0)
    if form == "floor":
        return requantize(x << np.int32(_LEFT), multiplier, zero, small=True, left=False) >> -shift
    net = np.int32(_LEFT) + shift
    x = (x << jnp.maximum(net, zero)) >> jnp.maximum(-net, zero)
    return requantize(x, multiplier, zero, small=True, left=False)


def _rescaled_sum(leaves: Leaves, total: jax.Array) -> jax.Array:
    return requantize(total, leaves["output_multiplier"], leaves["output_shift"], small=True, left=False)


# ---------------------------------------------------------------- MUL


def _plan_product(site: Site, flavour: str) -> Plan:
    """static: ("xnnpack",) | ("scalar", small) | ("vector", small, narrowing, loop length, block)."""
    require_centred(site)
    (sa, sb, sy), leaves = _scales(site)
    scale = f32(f32(sa * sb) / sy)
    wide = site.outputs[0].type == "int16"
    if flavour == "xnnpack" and not wide and plain(site) and 2.0**-16 <= scale < 2.0**8:
        return Plan(("xnnpack",), {**leaves, "scale": scale, **bounds(site, flavour)}, "XNNPACK: one float32 product, half to even")
    (multiplier,), (shift,) = quantize_multiplier(scale)
    small = not wide and (255 * 255) << max(int(shift), 0) < 1 << 30
    leaves |= {"multiplier": multiplier, "shift": shift, **bounds(site, "builtin")}
    length, single = (0, False) if wide or flavour == "reference" else _loop(site)
    if not length:
        return Plan(("scalar", small), leaves, _refusal(flavour) + "fixed point, two roundings")
    signed = site.outputs[0].type == "int8"
    narrowing = "wraps" if single and not signed else "saturates"
    static = ("vector", small, narrowing, length, 16 if signed else 8)
    return Plan(static, leaves, _refusal(flavour) + f"builtin fixed point, the product {narrowing} to 16 bits in blocks")


def _run_product(options: Options, static: tuple, leaves: Leaves, a: jax.Array, b: jax.Array) -> jax.Array:
    """Product of int8, uint8 or int16 codes: y = clip(round(M (a - z_a)(b - z_b)) + z_y), M = f32(f32(s_a s_b) / s_y).

    XNNPACK (8-bit only) rounds one float32 product half to even; the LiteRT kernels round twice in fixed point. The builtin kernel,
    in whole blocks of its 8-bit inner loops, narrows the product to 16 bits before the zero point is added (seen only where M is about
    1/2 or more).

    *Domain*: XNNPACK takes M in [2^-16, 2^8); outside the builtin kernel runs.
    *Restates*: qs8-vmul of XNNPACK (x86; ARM rounds otherwise), MUL of LiteRT (reference, and optimized on x86).
    """
    x, y = _centred(leaves, a, b)
    limits = leaves["zero_point"], leaves["act_min"], leaves["act_max"], a.dtype
    if static[0] == "xnnpack":
        return scale_round(x * y, leaves["scale"], *limits)
    product = requantize(x * y, leaves["multiplier"], leaves["shift"], small=static[1])
    if static[0] == "scalar":
        return store(product, *limits)
    _, _, narrowing, length, block = static
    narrow = product if narrowing == "wraps" else jnp.clip(product, np.int32(-(2**15)), np.int32(2**15 - 1))
    narrow = store((narrow + leaves["zero_point"]).astype(np.int16).astype(np.int32), np.int32(0), *limits[1:])
    mask = body(product.shape, block, length)
    return narrow if mask is None else jnp.where(mask, narrow, store(product, *limits))


_CASES = (
    Case(((1, 4, 5, 3), (1, 4, 5, 3)), {"fused_activation_function": "NONE"}),
    Case(((1, 7, 3, 5), (5,)), {"fused_activation_function": "RELU"}),
    Case(((1, 3, 1), (2, 1, 4)), {"fused_activation_function": "RELU6"}),
    Case(((1, 13), (1, 1)), {"fused_activation_function": "RELU_N1_TO_1"}),
    Case(((1, 2, 3, 8), (1, 1, 1, 8)), {"fused_activation_function": "NONE"}, constant=(1,)),
    Case(((3,), (1, 2, 1, 3)), {"fused_activation_function": "RELU"}),
    Case(((2, 1, 3, 1, 2), (1, 4, 1, 5, 1)), {"fused_activation_function": "NONE"}),
)
_TYPES = ("int8", "uint8", "int16")


def _op(name: str, function: Operator, plan: Callable[[Site, str], Plan], run: Callable[..., Any]) -> Op:
    more = {} if name == "MUL" else {"pot_scale_int16": False}
    cases = tuple(replace(c, options={**c.options, **more}) for c in _CASES)
    return Op(name, _real(function), Rule(data=(0, 1)), each(_TYPES, ("T", "T"), ("T",), plan, run), cases, host=True)


OPS = (
    _op("ADD", operator.add, _plan_sum(1), _run_sum(operator.add)),
    # XNNPACK negates the second multiplier, so its form adds in both.
    _op("SUB", operator.sub, _plan_sum(-1), _run_sum(operator.sub)),
    _op("MUL", operator.mul, _plan_product, _run_product),
)
