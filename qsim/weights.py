"""Weights and biases as integers: symmetric, per output channel, with a guard that keeps every accumulator inside 32 bits."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .graph import QParams
from .scheme import Scheme
from .types import TYPES, code_range, holder
from .weightclip import clips

# A bias code stays within 2^30, and bias plus the largest possible sum of products within 98 % of 2^31 (the rest is for the rounding
# of the weights): no kernel can wrap, and the float32 of XNNPACK's rescaling still tells the codes of the output apart. XNNPACK sums 16
# times 4-bit weights. A 64-bit accumulator is rescaled as 48 bits, and gives 0 where a step of it is below 2^-32 of the output's: a bias
# must not have codes beyond 2^31 there either.
BIAS_LIMIT = 2.0**30
ACCUMULATOR_LIMIT = 0.98 * 2.0**31
LESS_ROOM = {("int32", "int4"): 1 / 16, ("int64", "int8"): 2.0, ("int64", "int4"): 2.0}  # by (bias, weights); else 1
# A bias scale of at least 2^-100 is a normal float32 with room; XNNPACK hands an op with a subnormal one to the builtin kernel.
SMALLEST_PRODUCT = 2.0**-100
NARROWEST = np.float32(1e-9)  # span of weights that have zero points, real units
DEAD = 1e-6  # a channel is dead when all its weights lie below this part of the layer's largest


class Survey(NamedTuple):
    """What the scales of a layer depend on, per output channel (C,), real units, float64.

    peak: largest |w|. total: sum of |w|. bias: |b| (zeros where absent). low, high: smallest and largest w, and 0. clip: largest |w| that
    the codes reach, the tensor's own for all channels where they share a scale.
    """

    peak: np.ndarray
    total: np.ndarray
    bias: np.ndarray
    low: np.ndarray
    high: np.ndarray
    clip: np.ndarray


def survey(
    weights: np.ndarray, bias: np.ndarray | None, axis: int, rule: str = "max", type_name: str = "int8", per_channel: bool = True
) -> Survey:
    """Per-channel facts of the weights, along every other axis than `axis`, and |bias|. rule: of the clip, see `weightclip.clips`."""
    flat = np.moveaxis(np.asarray(weights, np.float64), axis, 0).reshape(weights.shape[axis], -1)
    b = np.zeros(len(flat)) if bias is None else np.abs(np.asarray(bias, np.float64)).reshape(-1)
    size = np.abs(flat)
    peak = size.max(1, initial=0.0)
    clip = peak if rule == "max" else clips(flat if per_channel else flat.reshape(1, -1), rule, type_name)
    return Survey(peak, size.sum(1), b, flat.min(1, initial=0.0), flat.max(1, initial=0.0), np.broadcast_to(clip, peak.shape))


def plain_scales(found: Survey, type_name: str, per_channel: bool) -> np.ndarray:
    """clip / qmax, per channel or the largest for all, before any guard; uint8: (high - low) / 254 of all. (C,) float64."""
    if type_name == "uint8":
        return np.full_like(found.peak, (found.high.max(initial=0.0) - found.low.min(initial=0.0)) / 254)
    clip = found.clip if per_channel else np.full_like(found.clip, found.clip.max(initial=0.0))
    return clip / code_range(type_name)[1]


def least_scales(found: Survey, input_scale: float, reach: float, scheme: Scheme) -> np.ndarray:
    """The smallest weight scales at which bias and accumulator fit their limits: (C,) float64.

    s_w >= |b| / (s_x 2^30), s_w >= (|b| + reach * total) / (s_x 0.98 2^31), s_x s_w >= 2^-100; the powers of two are those of an int32
    accumulator, see LESS_ROOM for others. reach: the largest |x| that a code of the input stands for, real. Dead channels with a bias
    need this on the first day: their plain scale is almost 0.
    """
    worst = found.bias + reach * found.total
    floor = max(SMALLEST_PRODUCT / input_scale, SMALLEST_PRODUCT)
    unit = input_scale * LESS_ROOM.get((scheme.bias, scheme.weight), 1.0)
    return np.maximum(np.maximum(found.bias / (unit * BIAS_LIMIT), worst / (unit * ACCUMULATOR_LIMIT)), floor)


def weight_scales(found: Survey, input_scale: float, reach: float, scheme: Scheme) -> np.ndarray:
    """Scales to store, float32: (C,) per channel, (1,) per tensor; the plain ones, raised where the guard asks for it."""
    plain = plain_scales(found, scheme.weight, scheme.per_channel).astype(np.float32)
    scales = np.maximum(plain, round_up(least_scales(found, input_scale, reach, scheme)))
    return scales if scheme.per_channel else scales.max(keepdims=True)


def weight_zero_point(found: Survey, scales: np.ndarray, scheme: Scheme) -> int:
    """0; of uint8 weights the code of 0 where the lowest weight has code 1: clip(round(1 - low / s), 1, 255)."""
    if scheme.weight != "uint8":
        return 0
    return int(np.clip(np.rint(1 - found.low.min(initial=0.0) / float(scales.max())), 1, 255))


def quantize_weights(
    weights: np.ndarray, scales: np.ndarray, axis: int, type_name: str = "int8", rounding: str = "sum", zero: int = 0
) -> tuple[np.ndarray, QParams]:
    """clip(round(w / s_w) + z, low + 1, high) and its parameters; the lowest code is never used (kernels differ on it).

    rounding: "nearest" (half to even), or "sum": nearest, then per output channel the fewest and cheapest codes go to their other
    neighbour, so that the codes' sum is the sum of w / s_w within a half. An error in the sum of a channel's weights multiplies the
    mean of its inputs, which after a RELU is the largest part of them. *Restates*: SQuant (Guo et al. 2022), its channel step.
    """
    low, high = code_range(type_name)
    ends = low + 1 - zero, high - zero
    rows = np.moveaxis(np.asarray(weights, np.float64), axis, 0)
    exact = rows.reshape(len(rows), -1) / scales.astype(np.float64).reshape(-1, 1)
    codes = np.clip(np.rint(exact), *ends)
    if rounding == "sum":
        codes = _sum_kept(exact, codes, ends)
    codes = np.moveaxis((codes + zero).reshape(rows.shape), 0, axis).astype(TYPES[holder(type_name)].dtype)
    return codes, QParams(scales, np.full(len(scales), zero, np.int64), low, high, axis if len(scales) > 1 else 0)


def quantize_spans(weights: np.ndarray, axis: int | None, type_name: str = "int8", rounding: str = "nearest") -> tuple[np.ndarray, QParams]:
    """clip(round(w / s + z), low, high) and its parameters, of each channel (None: of all) its own range, extended to hold 0.

    s = max(max w - min w, 1e-9) / (high - low), z = round(low - min w / s); float32, halves to even. rounding: see `quantize_weights`.
    *Domain*: finite, and max w - min w is a float32. *Restates*: min/max weights of ai-edge-quantizer 0.10, its "symmetric": false.
    """
    low, high = code_range(type_name)
    rows = np.moveaxis(np.asarray(weights, np.float32), axis or 0, 0)
    flat = rows.reshape(1 if axis is None else len(rows), -1)
    least, most = flat.min(1, initial=0.0, keepdims=True), flat.max(1, initial=0.0, keepdims=True)
    scales = np.maximum(most - least, NARROWEST) / np.float32(high - low)
    zeros = np.rint(np.float32(low) - least / scales)
    codes = np.clip(np.rint(flat / scales + zeros), low, high)
    if rounding == "sum":
        exact = flat.astype(np.float64) / scales.astype(np.float64)
        codes = _sum_kept(exact, codes - zeros, (low - zeros, high - zeros)) + zeros
    codes = np.moveaxis(codes.reshape(rows.shape), 0, axis or 0).astype(TYPES[holder(type_name)].dtype)
    return codes, QParams(scales.reshape(-1), zeros.reshape(-1).astype(np.int64), low, high, axis if axis and len(scales) > 1 else 0)


def _sum_kept(exact: np.ndarray, codes: np.ndarray, ends: tuple[Any, Any]) -> np.ndarray:
    """codes (C, K) with each row's sum within a half of exact's: the |t| codes with the largest error of t's sign move by one."""
    error = codes - exact
    surplus = np.rint(error.sum(1, keepdims=True))
    sign = np.sign(surplus)
    moved = codes - sign
    cost = np.where((moved >= ends[0]) & (moved <= ends[1]), -error * sign, np.inf)
    rank = np.argsort(np.argsort(cost, 1, kind="stable"), 1, kind="stable")
    moves = (rank < np.abs(surplus)) & (cost < 0)
    return codes - sign * moves


def quantize_bias(bias: np.ndarray, input_scale: np.float32, scales: np.ndarray, type_name: str = "int32") -> tuple[np.ndarray, QParams]:
    """round_half_even(b / s_b) with s_b = f32(s_x * s_w), the float32 product that runtimes compute; zero point 0."""
    product = (np.float32(input_scale) * scales).astype(np.float32)
    low, high = code_range(type_name)
    codes = np.clip(np.rint(np.asarray(bias, np.float64) / product.astype(np.float64)), low, high)
    return codes.astype(np.dtype(type_name)), QParams(product, np.zeros(len(product), np.int64), low, high, 0)


def quantize_constant(values: np.ndarray, q: QParams, type_name: str = "int8") -> np.ndarray:
    """clip(round_half_even(v / s) + z) for a constant that an op reads as data."""
    scale, zero = float(np.asarray(q.scale).reshape(-1)[0]), int(np.asarray(q.zero_point).reshape(-1)[0])
    return np.clip(np.rint(np.asarray(values, np.float64) / scale) + zero, q.low, q.high).astype(TYPES[holder(type_name)].dtype)


def round_up(scales: np.ndarray) -> np.ndarray:
    """The smallest float32 that is not below each float64."""
    with np.errstate(over="ignore"):  # infinity is the caller's to refuse
        rounded = np.asarray(scales, np.float64).astype(np.float32)
    return np.where(rounded < scales, np.nextafter(rounded, np.float32(np.inf)), rounded).astype(np.float32)
