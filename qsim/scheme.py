"""A quantization scheme is one record of axes; the named schemes are values of it. And: range -> affine parameters."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from .errors import BadRange, BadRecipe
from .types import code_range
from .weightclip import require_rule


@dataclass(frozen=True)
class Scheme:
    """What becomes of an op's activations, weights and bias.

    activation: element type of data inputs and outputs; "float32" leaves them real, and no ranges are needed. weight: element type of
    the weights ("float32" leaves them). bias: element type of the bias.
    runtime: where activations stay real, how quantized weights are used: "hybrid" (the kernel quantizes its data as they come) or
    "dequantize" (an explicit DEQUANTIZE gives real weights back). No meaning with integer activations.
    per_channel: one scale per output channel for the weights of CONV_2D, DEPTHWISE_CONV_2D and FULLY_CONNECTED, symmetric and narrow
    (-127..127 for int8). block: columns of FULLY_CONNECTED weights that share a scale; 0: none. smallest: weights of fewer elements
    stay as they are.
    rounding of the weights: "nearest", or "sum", which also keeps each channel's sum (see `weights.quantize_weights`).
    symmetric: whether integer weights have zero point 0. False: each channel's own range on all codes (see `weights.quantize_spans`),
    for integer weights behind an explicit DEQUANTIZE only: LiteRT's kernels of integer weights do not read the zero points.
    *Raises*: BadRecipe for other schemes with it.
    widen: whether ops without a kernel for 4-bit weights get 8-bit ones (int8w4, dynamic4): a quarter of float's size where 4 bits would
    have been an eighth, and still a kernel of integers. False: such ops stay float.
    clip: how far the codes of symmetric weights reach, "max", "mse", "octav" or "percentile:99.9" (see `weightclip.clips`); what lies
    beyond gets the last code. *Raises*: BadRecipe with other weights, or for another rule.
    per_channel_activations: whether each channel (last axis) of an activation may have a scale and zero point of its own, where its range
    is given by channel. Simulated schemes only: no kernel sums channels of different scales. *Raises*: BadRecipe for others with it.
    """

    name: str
    activation: str = "int8"
    weight: str = "int8"
    bias: str = "int32"
    per_channel: bool = True
    rounding: str = "sum"
    runtime: str = "hybrid"
    block: int = 0
    smallest: int = 0
    symmetric: bool = True
    widen: bool = True
    per_channel_activations: bool = False
    clip: str = "max"

    def __post_init__(self) -> None:
        behind = self.activation == "float32" and self.runtime == "dequantize" and self.weight.startswith("int") and not self.block
        if not (self.symmetric or behind):
            raise BadRecipe(
                "asymmetric weights need an explicit DEQUANTIZE", found=f"scheme {self.name!r}",
                hint="Take weights8 or weights4: kernels of integer weights do not read their zero points",
            )  # fmt: skip
        require_rule(self.clip)
        if self.clip != "max" and (not self.weight.startswith("int") or not self.symmetric or self.block):
            raise BadRecipe("rules for ranges of weights are for symmetric integer weights", found=f"scheme {self.name!r}", expected="max")
        if self.per_channel_activations and not self.is_simulated:
            raise BadRecipe(
                "only simulated schemes have activations by channel", found=f"scheme {self.name!r}", expected="a name that begins with sim:"
            )

    @property
    def is_simulated(self) -> bool:
        """Whether no runtime has it: fake mode runs it, integer mode and `save` refuse."""
        return self.name.startswith("sim:")


INT8 = Scheme("int8")
UINT8 = Scheme("uint8", "uint8", "uint8", per_channel=False)
INT16X8 = Scheme("int16x8", "int16", "int8", "int64")
INT8W4 = Scheme("int8w4", "int8", "int4")
DYNAMIC8 = Scheme("dynamic8", "float32", "int8", "float32")
DYNAMIC4 = Scheme("dynamic4", "float32", "int4", "float32")
WEIGHTS8 = Scheme("weights8", "float32", "int8", "float32", runtime="dequantize")
WEIGHTS4 = Scheme("weights4", "float32", "int4", "float32", runtime="dequantize")
BLOCKWISE4 = Scheme("blockwise4", "float32", "int4", "float32", block=32)
FLOAT16 = Scheme("float16", "float32", "float16", "float16", runtime="dequantize")
FLOAT32 = Scheme("float32", "float32", "float32", "float32")  # as it is: for the ops that a recipe leaves alone
SCHEMES = {
    s.name: s for s in (INT8, UINT8, INT16X8, INT8W4, DYNAMIC8, DYNAMIC4, WEIGHTS8, WEIGHTS4, BLOCKWISE4, FLOAT16, FLOAT32)
}  # fmt: skip


def scheme_named(name: str) -> Scheme:
    """A scheme of SCHEMES, or a simulated one: "sim:aBwB", B bits of 2 to 16 for activations, 2 to 8 for weights; "sim:aBcwB" with ranges
    by channel for the activations. *Raises*: BadRecipe."""
    name = name.lower()
    if name in SCHEMES:
        return SCHEMES[name]
    found = re.fullmatch(r"sim:a(\d+)(c?)w(\d+)", name)
    if found is None:
        raise BadRecipe("no such scheme", found=name, expected=", ".join(SCHEMES) + ", or simulated: sim:a4w4 and the like")
    a, w = int(found[1]), int(found[3])
    if not (2 <= a <= 16 and 2 <= w <= 8):
        raise BadRecipe("bits out of range", found=name, expected="activations of 2 to 16 bits, weights of 2 to 8")
    return Scheme(name, f"int{a}", f"int{w}", "int64" if a > 8 else "int32", per_channel_activations=bool(found[2]))


# The narrowest range a tensor may get: a scale of 2^-23 for 8 bits, 2^-28 for 16 (a fused bound of 6 must stay below 2^31 steps).
# Softmax inputs need more than 2^-26 to run in the reference kernels, and a bias scale (a product of two scales) must stay a normal
# float32.
SMALLEST_SCALE = 2.0**-23


def smallest_scale(type_name: str) -> float:
    """The floor of a scale of activations, real units per step."""
    return SMALLEST_SCALE / 32 if type_name == "int16" else SMALLEST_SCALE


def affine(low: float, high: float, type_name: str = "int8", *, symmetric: bool = False) -> tuple[np.float32, int]:
    """(scale, zero point) of a real range: the range is first extended to hold 0, so that 0.0 is always a code.

    Formula: scale = f32((f32(high) - f32(low)) / (qmax - qmin)); zero_point = clip(round(qmin - low / scale), qmin, qmax), halves away
    from zero. uint8: all in float64, from the end that loses less, and only the scale is then rounded to float32.
    Symmetric: scale = f32(max(|low|, |high|) / qmax), zero_point 0. A scale below `smallest_scale` (also a zero-width range) is raised.

    *Domain*: finite, low <= high. *Raises*: BadRange otherwise. *Restates*: the TFLite converter, its calibrated int8 and its uint8 of
    default ranges and input statistics. *Differs from*: ai-edge-quantizer, which computes in float32 and rounds halves to even.
    """
    low, high = float(low), float(high)
    if not (np.isfinite(low) and np.isfinite(high)):
        raise BadRange("a range must be finite", found=(low, high))
    if low > high:
        raise BadRange("the low end of a range is above its high end", found=(low, high))
    qmin, qmax = code_range(type_name)
    low, high = min(low, 0.0), max(high, 0.0)
    least = smallest_scale(type_name)
    if symmetric:
        return np.float32(max(max(-low, high) / qmax, least)), 0
    scale, zero = (_legacy if type_name == "uint8" else _calibrated)(low, high, qmin, qmax, least)
    return scale, int(np.clip(np.copysign(np.floor(abs(zero) + 0.5), zero), qmin, qmax))


def _calibrated(low: float, high: float, qmin: int, qmax: int, least: float) -> tuple[np.float32, float]:
    """Scale, and zero point before it is rounded."""
    scale = np.float32(max(float(np.float32(high) - np.float32(low)) / (qmax - qmin), least))
    return scale, qmin - low / float(scale)


def _legacy(low: float, high: float, qmin: int, qmax: int, least: float) -> tuple[np.float32, float]:
    """The same in float64, from the end of the range whose terms are smaller: (-100, 100) gives 127.5."""
    scale = max((high - low) / (qmax - qmin), least)
    by_low, by_high = qmin - low / scale, qmax - high / scale
    return np.float32(scale), by_low if abs(qmin) + abs(low / scale) < abs(qmax) + abs(high / scale) else by_high
