"""What the generated tests draw for each op: scales, zero points, data, and options beyond those of its cases.

A style names what a draw is after: "random" (log-uniform scales, all codes), "ties" (power-of-two scales, so that results fall on
halves), "saturated" (results beyond both ends of the type), "edge" (scale ratios at the limits where a runtime changes its kernel).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from qsim.types import TYPES, code_range

STYLES = ("random", "ties", "saturated", "edge")
ALSO_QUANTIZED = {"QUANTIZE": ("int32",)}  # further types that carry real values in an op
QUANTIZED = ("int8", "uint8", "int16", "int4", "int2")
Rng = np.random.Generator
f32 = np.float32


@dataclass(frozen=True)
class Domain:
    """Scale ratios of an op without weights, as exponents of two: its whole sane span, and the limits worth probing.

    kind: how the inputs and the output are related: "ratio" s_x / s_y each, "product" s_a * s_b / s_y,
    "quotient" s_a / (s_b * s_y), "tied" all equal, "input" only the input's scale is free.
    `edges`: ratios just inside and just outside of which a kernel is chosen otherwise.
    """

    kind: str = "ratio"
    low: float = -4.0
    high: float = 4.0
    edges: tuple[float, ...] = ()


DOMAINS: Mapping[str, Domain] = {
    "ADD": Domain("ratio", -5, 2, (2.0**-10, 2.0**8)),
    "SUB": Domain("ratio", -5, 2, (2.0**-10, 2.0**8)),
    "MUL": Domain("product", -11, -1, (2.0**-16, 2.0**-1)),
    "QUANTIZE": Domain("ratio", -7, 6, (2.0**-8, 2.0**7)),
    "MEAN": Domain("ratio", -3, 3),
    "BATCH_MATMUL": Domain("product", -12, -3),
    "SUM": Domain("ratio", -6, 1),
    "RELU": Domain("ratio", -5, 3),
    "RELU6": Domain("ratio", -5, 3),
    "SOFTMAX": Domain("input", -11, 1),
    "LOGISTIC": Domain("input", -8, 0),
    "TANH": Domain("input", -8, 0),
    "RELU_N1_TO_1": Domain("ratio", -5, 3),
    "RELU_0_TO_1": Domain("ratio", -5, 3),
    "LEAKY_RELU": Domain("ratio", -5, 3, (2.0**-8, 2.0**-1, 2.0**6, 2.0**7)),
    "HARD_SWISH": Domain("ratio", -5, 4, (2.0**6,)),
    "SQUARED_DIFFERENCE": Domain("ratio", -5, 2),
    "DIV": Domain("quotient", -6, 2),
    "L2_NORMALIZATION": Domain("input", -8, 0),
    "SQRT": Domain("ratio", -4, 6),
    "RSQRT": Domain("ratio", -6, 6),
    **dict.fromkeys(("EQUAL", "NOT_EQUAL", "LESS", "LESS_EQUAL", "GREATER", "GREATER_EQUAL"), Domain("input", -12, -1)),
    "EXP": Domain("input", -8, -2),
    "LOG": Domain("ratio", -4, 4),
    "LOG_SOFTMAX": Domain("input", -11, 1),
    "REDUCE_PROD": Domain("input", -7, -3),
}

DOMAINS_16: Mapping[str, Domain] = {
    "MUL": Domain("product", -20, -12, (2.0**-16, 2.0**-1)),
    "LOGISTIC": Domain("input", -17, -8, (2.0**-12,)),
    "TANH": Domain("input", -17, -8, (2.0**-12, 2.0**-11)),
    "SOFTMAX": Domain("input", -16, -4),
    "BATCH_MATMUL": Domain("product", -22, -6),
    "EXP": Domain("input", -16, -9),
    "REDUCE_PROD": Domain("input", -15, -10),
}

DOMAINS_32: Mapping[str, Domain] = {"QUANTIZE": Domain("ratio", -33, -8)}

# Options that a case leaves free: other values of the same schema field.
ALTERNATIVES: Mapping[str, tuple] = {
    "padding": ("SAME", "VALID"),
    "stride_w": (1, 2, 3),
    "stride_h": (1, 2, 3),
    "dilation_w_factor": (1, 2, 3),
    "dilation_h_factor": (1, 2),
    "filter_width": (1, 2, 3),
    "filter_height": (1, 2, 3),
    "fused_activation_function": ("NONE", "RELU", "RELU6", "RELU_N1_TO_1", "TANH"),
    "keep_num_dims": (False, True),
    "asymmetric_quantize_inputs": (False, True),
    "keep_dims": (False, True),
    "beta": (1.0, 0.5, 2.0),
}
FIXED_OPTIONS: Mapping[str, tuple[str, ...]] = {
    "CONCATENATION": ("fused_activation_function",),  # the kernels take NONE only
    "L2_NORMALIZATION": ("fused_activation_function",),
    "FULLY_CONNECTED": ("keep_num_dims",),  # depends on the shapes of the case
    "TRANSPOSE_CONV": ("padding", "stride_h", "stride_w"),  # likewise
}


RESCALES = (("CONCATENATION", "uint8"),)  # kernels that take inputs of other scales, though the rule ties them for quantizing
CENTERED = ("EMBEDDING_LOOKUP",)  # zero points are 0
WEIGHTS: Mapping[str, int] = {"BATCH_MATMUL": 1}  # operands that are weights where they are constant, and must be for float data
INDEX_OUTPUTS: Mapping[str, tuple[int, ...]] = {"TOPK_V2": (1,)}  # outputs without parameters, whatever their type
RESULTS = {"RFFT2D": "complex64"}  # types of results of float data that are not float32
REAL_TOO = frozenset(
    "NEG POW FLOOR_DIV FLOOR_MOD REDUCE_PROD "
    "DIV SQRT RSQRT RFFT2D COMPLEX_ABS REAL IMAG SEGMENT_SUM UNSORTED_SEGMENT_SUM UNSORTED_SEGMENT_PROD "
    "UNSORTED_SEGMENT_MAX UNSORTED_SEGMENT_MIN BUCKETIZE ADD_N ATAN2 STABLEHLO_ADD STABLEHLO_MULTIPLY STABLEHLO_MAXIMUM STABLEHLO_MINIMUM "
    "STABLEHLO_PAD STABLEHLO_GATHER DILATE REDUCE_WINDOW CUSTOM:AudioSpectrogram CUSTOM:Mfcc".split()
)  # never quantized, but float models have them
STORED = frozenset(  # ops that compute with stored numbers, whatever they stand for
    "CAST MATRIX_DIAG NEG FLOOR_DIV FLOOR_MOD "
    "RIGHT_SHIFT BITWISE_XOR STABLEHLO_SHIFT_LEFT STABLEHLO_AND STABLEHLO_ADD STABLEHLO_MULTIPLY STABLEHLO_MAXIMUM "
    "STABLEHLO_MINIMUM REDUCE_WINDOW SPARSE_TO_DENSE DILATE STABLEHLO_PAD".split()
)
NO_REFERENCE = ("ELU", "CEIL", "ROUND", "SEGMENT_SUM")  # ops the reference resolver does not know
NONZERO = ("DIV", "FLOOR_DIV", "FLOOR_MOD")  # ops whose second operand is never 0
POSITIVE = ("LOG", "SQRT", "RSQRT", "POW", "CUSTOM:Mfcc")  # ops whose float data must be above 0
FREE_OUTPUT = ("TANH",)  # kernels that take any output scale, though the rule fixes it for quantizing
INDEXED: Mapping[str, int] = {"GATHER": 5, "ONE_HOT": 6, "EMBEDDING_LOOKUP": 6}  # whole numbers among the data are indices below this
FLAT_SUM = 512  # rows of SOFTMAX this long can make the reference kernel abort


FIXED_OUTPUT: Mapping[tuple, tuple[float, int]] = {  # (op, type in, type out) -> parameters, where the rule's are those of other pairs
    ("SOFTMAX", "int8", "int16"): (1 / 65536, -32768),
    ("SOFTMAX", "uint8", "int16"): (1 / 65536, -32768),
}


def carries_reals(op: str, kind: str) -> bool:
    """Whether a tensor of this type has a scale and zero point in the op."""
    return kind in QUANTIZED or kind in ALSO_QUANTIZED.get(op, ())


_MOVED = (
    "PAD TRANSPOSE CONCATENATION STRIDED_SLICE GATHER SLICE SPACE_TO_BATCH_ND BATCH_TO_SPACE_ND MIRROR_PAD PADV2 TILE FILL REVERSE_V2 "
    "GATHER_ND DYNAMIC_UPDATE_SLICE RESHAPE SQUEEZE EXPAND_DIMS SHAPE RANK "
)
_WHOLE = (
    "ADD SUB MUL FLOOR_MOD EQUAL NOT_EQUAL LESS LESS_EQUAL GREATER GREATER_EQUAL MAXIMUM MINIMUM NEG MEAN SUM REDUCE_MAX REDUCE_MIN "
    "REDUCE_PROD PACK SPLIT SPLIT_V SPACE_TO_DEPTH DEPTH_TO_SPACE BROADCAST_TO ZEROS_LIKE ONE_HOT MATRIX_DIAG MATRIX_SET_DIAG CUMSUM "
    "REVERSE_SEQUENCE SCATTER_ND SELECT SELECT_V2 TOPK_V2 "
)
NUMBERS: Mapping[
    str, tuple[str, ...]
] = {  # type without quantization -> ops that LiteRT runs on it in every flavour (float32: those that move or compare)
    kind: tuple(ops.split())
    for kind, ops in {
        "float32": "EQUAL NOT_EQUAL LESS LESS_EQUAL GREATER GREATER_EQUAL SPLIT FILL ZEROS_LIKE RANK MATRIX_DIAG SELECT SELECT_V2 "
        "SCATTER_ND SHAPE",
        "int32": _MOVED + _WHOLE + "SQUARED_DIFFERENCE DIV POW FLOOR_DIV ABS SIGN UNPACK BROADCAST_ARGS ARG_MAX ARG_MIN "
        "RESIZE_NEAREST_NEIGHBOR",
        "int64": _MOVED + _WHOLE,
        "uint32": "MUL TRANSPOSE CONCATENATION STRIDED_SLICE PACK SLICE SPACE_TO_BATCH_ND BATCH_TO_SPACE_ND MIRROR_PAD TILE FILL RANK "
        "MATRIX_DIAG MATRIX_SET_DIAG DYNAMIC_UPDATE_SLICE RESHAPE SQUEEZE EXPAND_DIMS SHAPE RESIZE_NEAREST_NEIGHBOR",
        "bool": _MOVED + "EQUAL NOT_EQUAL LOGICAL_AND LOGICAL_OR LOGICAL_NOT REDUCE_ANY REDUCE_ALL UNPACK BROADCAST_TO SELECT SELECT_V2 "
        "ARG_MAX ARG_MIN SCATTER_ND RESIZE_NEAREST_NEIGHBOR",
        "float16": _MOVED + "ADD MUL EQUAL NOT_EQUAL LESS LESS_EQUAL GREATER GREATER_EQUAL MAXIMUM MINIMUM SOFTMAX LOGISTIC TANH GELU NEG "
        "SIN COS FLOOR UNPACK RESIZE_NEAREST_NEIGHBOR",
    }.items()
}
HALF_IN_XNNPACK = (  # ops that run on float16 under XNNPACK alone
    "BATCH_MATMUL SUB SQUARED_DIFFERENCE DIV RELU RELU6 RELU_N1_TO_1 LEAKY_RELU PRELU ELU EXP LOG HARD_SWISH ABS SQRT RSQRT SQUARE CEIL "
    "ROUND AVERAGE_POOL_2D MEAN SUM REDUCE_MAX REDUCE_MIN SPLIT DEPTH_TO_SPACE"
).split()


def above_zero(op: str, x: np.ndarray) -> np.ndarray:
    """Float data moved into the op's domain."""
    return np.abs(x) + f32(0.01) if op in POSITIVE else x


def domain(op: str, flavour: str, depth: int, *, tied: bool, kind: str = "int8") -> Domain:
    """The op's domain; `depth` is the size of the first input's last axis, `kind` the type of its data."""
    if kind == "int16" and op in DOMAINS_16:
        return DOMAINS_16[op]
    if kind == "int32" and op in DOMAINS_32:
        return DOMAINS_32[op]
    if op == "SOFTMAX" and flavour == "reference" and depth >= FLAT_SUM:
        return Domain("input", -4, 1)
    return DOMAINS.get(op, Domain("tied") if tied else Domain())


def defined(op: str, flavour: str, type_name: str, x: np.ndarray, zero: int = 0) -> np.ndarray:
    """The data changed where LiteRT would have no result: indices out of range, rows of SOFTMAX.

    STABLEHLO_SHIFT_LEFT takes shifts of 0 and more. SQRT and RSQRT stop below the zero point, DIV where the divisor is at it.
    Reference SOFTMAX shifts by 32 and aborts where the exponentials of a row (the largest counts as 1) sum to 512 or more: rows
    that long keep one largest code, and all codes behind the first 500 are the lowest.
    """
    if op in INDEXED and type_name in ("int32", "int64"):
        return x % x.dtype.type(INDEXED[op])
    if op == "REDUCE_PROD" and type_name == "int64":
        return x % 4 - 1  # products within 32 bits
    if op == "POW" and type_name == "int32":
        return np.abs(x) % 40
    if op == "STABLEHLO_SHIFT_LEFT":
        return x & x.dtype.type(7)
    if op in ("SQRT", "RSQRT"):
        return np.maximum(x, x.dtype.type(zero))
    if op in NONZERO:
        zero = zero if op == "DIV" else 0  # the others divide the stored numbers
        return np.where(x == zero, x.dtype.type(zero - 1 if zero > 0 else zero + 1), x)
    if op != "SOFTMAX" or flavour != "reference" or x.shape[-1] < FLAT_SUM:
        return x
    low, high = code_range(type_name)
    x = x.copy()
    x[..., 0], x[..., 500:] = high, low
    return x


def other_options(op: str, options: Mapping, rng: Rng, types: tuple[str, ...] = ()) -> dict:
    """The same option fields with values drawn from ALTERNATIVES. TANH: not for float data by integer weights, nor for
    FULLY_CONNECTED (LiteRT refuses both)."""
    free = [k for k in options if k in ALTERNATIVES and k not in FIXED_OPTIONS.get(op, ())]
    drawn = {k: ALTERNATIVES[k][rng.integers(len(ALTERNATIVES[k]))] for k in free}
    without = "float32" in types and not {"int8", "int4", "int2"}.isdisjoint(types) or op == "FULLY_CONNECTED"
    if without and drawn.get("fused_activation_function") == "TANH":
        drawn["fused_activation_function"] = "RELU"
    return {**options, **drawn}


def zero_point(rng: Rng, type_name: str, wide: bool = False) -> int:
    """An end of the type, 0, or any code; 0 for types whose kernels demand it, but for int16 and int32 if `wide`."""
    if wide and type_name == "int32":
        return int(rng.choice([0, rng.integers(-1000, 1000)]))
    if type_name not in ("int8", "uint8") and not (wide and type_name in ("int16", "int4")):
        return 0
    low, high = code_range(type_name)
    return int(rng.choice([low, high, max(low, 0), rng.integers(low, high + 1), rng.integers(low, high + 1)]))


def scale(rng: Rng, style: str, low: float, high: float) -> np.float32:
    """2^e with e uniform in [low, high]; a whole e for ties."""
    e = rng.uniform(low, high)
    return f32(2.0 ** (round(e) if style == "ties" else e))


def base(rng: Rng, style: str) -> float:
    """For ties, a factor of the scales of data (their ratios stay powers of two) that puts an end of an activation, 6 or 1, on a half."""
    return float(rng.choice([1.0, 6.0, 1.0]) / rng.choice([1.0, rng.integers(0, 60) + 0.5])) if style == "ties" else 1.0


@dataclass(frozen=True)
class Parameters:
    """(scale, zero point) of each data input by position, and of each output."""

    inputs: Mapping[int, tuple[np.float32, int]]
    outputs: tuple[tuple[np.float32, int], ...]
    extra: Mapping[str, object] = field(default_factory=dict)


def parameters(op: str, domain: Domain, style: str, rng: Rng, inputs: Mapping[int, str], outputs: tuple[str, ...]) -> Parameters:
    """Scales and zero points of an op without weights. inputs: type by position of the quantized data inputs."""
    s_y = f32(float(scale(rng, style, -6, 0)) * base(rng, style))
    find = {"ratio": _ratios, "product": _products, "quotient": _quotients, "tied": lambda *_: [s_y] * len(inputs), "input": _ratios}[
        domain.kind
    ]
    scales = find(domain, style, rng, s_y if domain.kind != "input" else f32(1), len(inputs))
    wide = [t for t in {*inputs.values(), *outputs} if t == "int4" or (op == "QUANTIZE" and len({*inputs.values(), *outputs}) > 1)]
    centred = op in CENTERED or (op in WEIGHTS and inputs.get(0) != "int8")
    zeros = {p: 0 if centred else zero_point(rng, t, t in wide) for p, t in inputs.items()}
    if domain.kind == "tied":
        shared = next(iter(zeros.values()), 0)
        return Parameters({p: (s_y, shared) for p in inputs}, tuple((s_y, shared) for _ in outputs))
    return Parameters(
        {p: (s, zeros[p]) for p, s in zip(inputs, scales, strict=True)},
        tuple((s_y, zero_point(rng, t, t in wide)) for t in outputs),
    )


def _ratios(domain: Domain, style: str, rng: Rng, s_y: np.float32, count: int) -> list[np.float32]:
    others = "ties" if style == "edge" else style  # at a limit, kernels differ most where the other operand falls on halves
    ratios = [float(scale(rng, others, domain.low, domain.high)) for _ in range(count)]
    if style == "ties" and count > 1 and rng.integers(2):
        ratios = [ratios[0]] * count
    if style == "edge" and domain.edges and ratios:
        ratios[rng.integers(count)] = _near(rng, domain.edges)
    return [f32(r * float(s_y)) for r in ratios]


def _products(domain: Domain, style: str, rng: Rng, s_y: np.float32, count: int) -> list[np.float32]:
    product = _near(rng, domain.edges) if style == "edge" and domain.edges else float(scale(rng, style, domain.low, domain.high))
    first = float(scale(rng, style, -6, 0))
    return [f32(first), f32(product * float(s_y) / first)][:count]


def _quotients(domain: Domain, style: str, rng: Rng, s_y: np.float32, count: int) -> list[np.float32]:
    second = float(scale(rng, style, -6, 0))
    return [f32(float(scale(rng, style, domain.low, domain.high)) * second * float(s_y)), f32(second)]


def _near(rng: Rng, edges: tuple[float, ...]) -> float:
    """A limit itself, one float32 below, or a little to either side."""
    edge = f32(edges[rng.integers(len(edges))])
    return float([edge, np.nextafter(edge, f32(0)), np.nextafter(edge, f32(np.inf)), edge * f32(0.99), edge * f32(1.01)][rng.integers(5)])


@dataclass(frozen=True)
class Linear:
    """A drawn linear op: weights (codes), their scales, bias codes, and the scales of input and output."""

    weights: np.ndarray
    weight_scale: np.ndarray
    bias: np.ndarray | None
    x: tuple[np.float32, int]
    y: tuple[np.float32, int]


def weights_zero_point(rng: Rng, op: str, type_name: str, per_channel: bool) -> int:
    """uint8: the middle, near it, or any code; int8: not 0 only in FULLY_CONNECTED with one scale."""
    if type_name == "uint8":
        return int(rng.choice([128, rng.integers(100, 156), zero_point(rng, type_name)]))
    return int(rng.integers(-20, 20)) if op == "FULLY_CONNECTED" and type_name == "int8" and not per_channel and rng.random() < 0.3 else 0


def linear(
    style: str, rng: Rng, shape: tuple[int, ...], axis: int, types: tuple[str, str, str], *, bias: str, channels: int, w_zero: int = 0
) -> Linear:
    """Weights and scales of CONV_2D, DEPTHWISE_CONV_2D or FULLY_CONNECTED. types: of x, weights, y. channels: 1 = per tensor.

    uint8 weights are the int8 ones about their zero point w_zero. bias: its type, "" where absent.
    """
    weights = _weights(style, rng, shape, axis, "int8" if types[1] == "uint8" else types[1])
    if types[1] == "uint8":
        weights = np.clip(weights.astype(np.int32) + w_zero, 0, 255).astype(np.uint8)
    taps = weights.size // shape[axis]
    s_x = f32(float(scale(rng, style, -7, 0)) * base(rng, style))
    spread = 2.0 ** (rng.integers(-2, 3, channels) if style == "ties" else rng.uniform(-2, 2, channels))
    s_w = (float(scale(rng, style, -9, -3)) * spread).astype(f32)
    multiplier = _multiplier(style, rng, taps * {"int4": 4.6 / 73, "int2": 0.8 / 73, "int16": 256}.get(types[1], 1) ** 2)
    s_y = f32(2.0 ** round(np.log2(multiplier[0]))) if style == "ties" else f32(multiplier[0])
    s_y = f32(float(s_x) * float(s_w.max()) / float(s_y))
    y = s_y, zero_point(rng, types[2])
    per_step = float(s_y) / (float(s_x) * s_w.astype(np.float64))
    steps = _bias_steps(style, rng, multiplier[1], y[1], types[2], shape[axis])
    most = 2**45 if bias == "int64" else 2**30
    codes = np.clip(np.rint(steps * per_step), -most, most).astype(bias) if bias else None
    return Linear(weights, s_w, codes, (s_x, zero_point(rng, types[0])), y)


def _bias_steps(style: str, rng: Rng, spread: float, zero: int, type_name: str, count: int) -> np.ndarray:
    """Bias in output steps. "edge": halves inside the output's range, as near as the huge bias codes come to them: there the last bit
    of the multiplier decides (on data equal to the zero point the accumulator is the bias)."""
    if style != "edge":
        return rng.normal(0, spread, count)
    low, high = code_range(type_name)
    return rng.integers(low - zero, high - zero, count) + 0.5


def _weights(style: str, rng: Rng, shape: tuple[int, ...], axis: int, type_name: str) -> np.ndarray:
    low, high = code_range(type_name)
    span = min(2, high) if style == "ties" else high
    w = rng.integers(-span, span + 1, shape).astype(TYPES[type_name].dtype or "int8")
    if style == "saturated":
        w = np.where(rng.random(shape) < 0.8, np.where(rng.random(shape) < 0.5, w.dtype.type(low + 1), w.dtype.type(high)), w)
    if rng.random() < 0.2:  # a dead channel
        index = [slice(None)] * len(shape)
        index[axis] = rng.integers(shape[axis])  # type: ignore[call-overload]
        w[tuple(index)] = 0
    return w


def _multiplier(style: str, rng: Rng, taps: float) -> tuple[float, float]:
    """(largest s_x * s_w / s_y, spread of the bias in output steps)."""
    if style == "ties":
        return 2.0 ** -int(rng.integers(1, 6)), 3.0
    if style == "saturated":
        return 2.0 ** rng.uniform(-4, 7.9), 100.0
    if style == "edge":  # minute multipliers: the accumulator is nearly all bias
        return 2.0 ** rng.uniform(-21, -14), 60.0
    return 2.0 ** rng.uniform(1, 6.5) / (73.0 * 73.0 * taps**0.5), 20.0


def lowest(op: str, flavour: str, type_name: str, rng: Rng, w: np.ndarray) -> np.ndarray:
    """Weights for float data, in a quarter of the draws with the lowest code where LiteRT has a result for it."""
    bad = {"CONV_2D": type_name == "int8" and flavour != "xnnpack" and w.shape[0] % 4, "FULLY_CONNECTED": type_name == "int4"}
    if bad.get(op, False) or rng.random() >= 0.25:
        return w
    return np.where(rng.random(w.shape) < 0.2, w.dtype.type(code_range(type_name)[0]), w)


def codes(
    style: str, rng: Rng, type_name: str, zero: int, shape: tuple[int, ...], samples: int, *, narrow: bool, full: bool = False
) -> np.ndarray:
    """Stored codes (samples, *shape): both ends, their mixture, the zero point, and random codes (near the zero point if `narrow`).

    `full`: all codes of the type, also of types that mostly hold small numbers.
    """
    low, high = code_range(type_name) if full or type_name in QUANTIZED else (-1000, 1000)
    x = rng.integers(low, high + 1, (samples, *shape))
    if style == "ties" and narrow:
        return np.clip(zero + rng.integers(-3, 4, (samples, *shape)), low, high).astype(TYPES[type_name].dtype)
    if samples > 4:
        x[0], x[1], x[3] = low, high, zero
        x[2] = np.where(rng.random(shape) < 0.5, low, high)
        x[4] = np.clip(np.rint(rng.normal(zero, (high - low) / 20, shape)), low, high)
        if style == "ties":  # the same everywhere, and per channel: means and sums of such data fall on halves most often
            x[0], x[1] = rng.integers(low, high + 1), rng.integers(low, high + 1, shape[-1:])
    return x.astype(TYPES[type_name].dtype)


def rows(style: str, rng: Rng, shape: tuple[int, ...], samples: int) -> np.ndarray:
    """float32 data for kernels that quantize rows by their own range. "ties": ends at whole steps and the rest on halves or their
    float neighbours; "saturated": outliers; "edge": rows on one side of 0, and rows of zeros."""
    x = rng.normal(rng.choice([0, 0, 2, -3]), 1, (samples, *shape)) * 2 ** rng.uniform(-4, 4)
    if style == "saturated":
        x = np.where(rng.random(x.shape) < 0.1, x * 100, x)
    if style == "edge":
        x = np.abs(x) * rng.choice([-1, 1, 0], (*x.shape[:-1], 1))
    if style != "ties":
        return x.astype(f32)
    steps = (rng.integers(-254, 255, x.shape) / 2).astype(f32)
    steps = np.where(rng.random(x.shape) < 0.3, np.nextafter(steps, rng.choice(np.array([-200, 200, 0], f32), x.shape)), steps)
    least = np.nextafter(f32(0.5), f32(0))
    steps = np.where(rng.random(x.shape) < 0.1, rng.choice(np.array([-least, least]), x.shape), steps)
    ends = steps if shape[-1] > 1 else steps.reshape(samples, -1)
    ends[..., 0], ends[..., 1] = 127, rng.choice([-127, -128])
    steps += rng.integers(-127, 128) * rng.integers(2)  # a range that is not centred has a zero point other than 0
    return (steps * 2.0 ** rng.integers(-6, 2)).astype(f32)


def reals(style: str, rng: Rng, s: np.float32, zero: int, type_name: str, shape: tuple[int, ...], samples: int) -> np.ndarray:
    """float32 data for a quantizer of this (scale, zero point): halves of a step and their float neighbours, far outliers, random."""
    low, high = code_range(type_name)
    steps = rng.uniform(low - zero - 20, high - zero + 20, (samples, *shape))
    if style in ("ties", "edge"):
        steps = np.floor(steps) + 0.5
    x = (steps * float(s)).astype(f32)
    toward = rng.choice(np.array([-np.inf, np.inf, 0], f32), x.shape)
    x = np.where(rng.random(x.shape) < 0.4, np.nextafter(x, toward), x)
    return np.where(rng.random(x.shape) < 0.05, x * f32(1000), x) if style == "saturated" else x
