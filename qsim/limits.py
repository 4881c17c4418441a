"""The scale limits of LiteRT's kernels as data for the quantizer: which scale must be how large at least.

Measured on ai-edge-litert 2.3.0, x86-64, one op at a time with scales in powers of two and data at the ends of the range:

* CONV_2D, DEPTHWISE_CONV_2D, FULLY_CONNECTED, TRANSPOSE_CONV: s_x s_w / s_y >= 2^8 and the default interpreter fails to initialise.
  No lower limit for 8 bits (2^-160 runs everywhere); with 16 bits, 64-bit accumulators give 0 below 2^-32. A bias scale below 2^-126
  sends the op to the builtin kernel. A wrong bias scale is not noticed.
* ADD, SUB: s_y = max(s_a, s_b) / 2^19 aborts the process in every resolver; s_in / s_y outside [2^-10, 2^8) sends the op from XNNPACK
  to the builtin kernel, whose 16-bit sums wrap where 255 (s_a + s_b) / s_y reaches 2^16.
* SQUARED_DIFFERENCE: (2 max(s_a, s_b))^2 / s_y >= 2^14 aborts the process in every resolver.
* MUL: s_a s_b / s_y outside [2^-16, 2^8) goes to the builtin kernel, which gives wrong results where the product passes 2^15 - |z_y|
  (uint8 from 0.499 on); 16 bits: from 1 on.
* SOFTMAX, LOG_SOFTMAX: beta s_x <= 2^-26 aborts the reference kernel.
* QUANTIZE from int8 to int8: s_x / s_y outside [2^-8, 2^7] goes to the builtin kernel; from 2^31 on results differ.
* MEAN, QUANTIZE, RELU and its kin, LEAKY_RELU: wrong from s_x / s_y = 2^23 on, 2^16 with 16 bits; ABS of 16 bits from 2^15 on.
* HARD_SWISH: s_x / s_y >= 2^7 is refused.
* LOGISTIC, TANH of 16 bits: wrong from s_x = 16 / 3 on; SOFTMAX of 16 bits where beta s_x > 5. Of 8 bits no limit found, nor for pools.
  Activation bounds that fall together (RELU with zero point 127) run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from .graph import Options

OUTPUT = -1


class Need(NamedTuple):
    """Operand (input position, or OUTPUT) whose scale must be at least `scale`, and why.

    must: without it the file fails or wraps; otherwise only another kernel runs.
    """

    operand: int
    scale: float
    reason: str
    must: bool = True


class Operands(NamedTuple):
    """Scales of one op: `scale` by operand; for sums of products also the largest weight scale and the largest |accumulator|, real.

    constants: positions of constant operands, which are widened first. type: of the output. data: position of what weights multiply.
    """

    scale: Mapping[int, float]
    options: Options
    weight_scale: float = 0.0
    worst: float = 0.0
    constants: frozenset[int] = frozenset()
    type: str = "int8"
    data: int = 0


def needs(op: str, s: Operands) -> list[Need]:
    """The needs that the scales of an op do not meet."""
    return [n for n in _LIMITS[op](s) if s.scale[n.operand] < n.scale] if op in _LIMITS else []


def _products(s: Operands) -> Iterator[Need]:
    # Just under 256, since runtimes form the multiplier in float32.
    yield Need(OUTPUT, s.scale[s.data] * s.weight_scale / 255.99, "input scale x weight scale / output scale must stay below 2^8")
    yield Need(OUTPUT, s.worst / 2.0**30, "the rescaled accumulator must stay within 2^30 steps of the output")


def _sums(s: Operands) -> Iterator[Need]:
    a, b, y = s.scale[0], s.scale[1], s.scale[OUTPUT]
    yield Need(OUTPUT, (a + b) / 2.0**7, "the sum must stay within 2^15 steps of the output")
    for p in (0, 1):
        yield Need(p, y / 2.0**10, "input scale / output scale must be at least 2^-10 for XNNPACK", must=False)


def _squared_difference(s: Operands) -> Iterator[Need]:
    twice = 2 * max(s.scale[0], s.scale[1])
    yield Need(OUTPUT, twice * twice / 2.0**13.99, "(2 x the larger input scale)^2 / output scale must stay below 2^14, or LiteRT aborts")


def _multiplication(s: Operands) -> Iterator[Need]:
    a, b, y = s.scale[0], s.scale[1], s.scale[OUTPUT]
    yield Need(
        OUTPUT, a * b / 0.45, "the product of the input scales / output scale must stay below 0.45 for the builtin kernel", must=False
    )
    p = next((q for q in (0, 1) if q in s.constants), 0 if a <= b else 1)
    other = s.scale[1 - p]
    least = y / (other * 2.0**16) * (1 + 2.0**-20)  # runtimes form the ratio in float32
    yield Need(p, least, "the product of the input scales / output scale must be at least 2^-16 for XNNPACK", must=False)


def _requantization(s: Operands) -> Iterator[Need]:
    yield Need(OUTPUT, s.scale[0] / 2.0**7, "input scale / output scale must be at most 2^7 for XNNPACK", must=False)
    yield Need(0, s.scale[OUTPUT] / 2.0**8, "input scale / output scale must be at least 2^-8 for XNNPACK", must=False)


def _softmax(s: Operands) -> Iterator[Need]:
    beta = float(s.options.get("beta", 1.0))
    if s.type == "int16" and beta * s.scale[0] > 5:
        yield _hopeless("softmax of 16 bits needs beta x input scale of at most 5")
    if beta > 0:
        yield Need(0, 2.0**-25.9 / beta, "softmax needs beta x input scale above 2^-26")


def _one_to_one(s: Operands) -> Iterator[Need]:
    most = 15 if s.type == "int16" else 16
    yield Need(OUTPUT, s.scale[0] / 2.0**most, f"input scale / output scale must be at most 2^{most}, or the accumulator wraps")


def _hard_swish(s: Operands) -> Iterator[Need]:
    yield Need(OUTPUT, s.scale[0] / 2.0**6.99, "input scale / output scale must stay below 2^7")


def _curve(s: Operands) -> Iterator[Need]:
    if s.type == "int16" and s.scale[0] >= 5.3:
        yield _hopeless("curves of 16 bits need an input scale below 16 / 3")


def _hopeless(reason: str) -> Need:
    """No widening meets it: the op stays float."""
    return Need(OUTPUT, float("inf"), reason)


_LIMITS: Mapping[str, Callable[[Operands], Iterator[Need]]] = {
    "CONV_2D": _products,
    "DEPTHWISE_CONV_2D": _products,
    "FULLY_CONNECTED": _products,
    "ADD": _sums,
    "SUB": _sums,
    "SQUARED_DIFFERENCE": _squared_difference,
    "MUL": _multiplication,
    "QUANTIZE": _requantization,
    "SOFTMAX": _softmax,
    "LOG_SOFTMAX": _softmax,
    "TRANSPOSE_CONV": _products,
    "HARD_SWISH": _hard_swish,
    "LOGISTIC": _curve,
    "TANH": _curve,
    **dict.fromkeys(("MEAN", "LEAKY_RELU", "ABS"), _one_to_one),
    "RELU": _one_to_one,
    "RELU6": _one_to_one,
    "RELU_N1_TO_1": _one_to_one,
    "RELU_0_TO_1": _one_to_one,
}
