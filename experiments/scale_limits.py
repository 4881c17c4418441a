"""Question: which scale ratios make LiteRT refuse a file, abort, or compute something else than the op means?

    python experiments/scale_limits.py [--only CONV_2D MUL]

One op at a time; a scale ratio in powers of two, -40 to 40; data at the ends of the codes. Each line is an op at types in one flavour,
as runs of exponents: "." at most 4 codes from the exact result (16 or 2,000 where tables of int16 are off anyway), "x" more, "R"
refused, "A" the process ended.
Answer: results/scale_limits.json. In short, beyond what `qsim.limits` says for int8:

* CONV_2D, FULLY_CONNECTED, TRANSPOSE_CONV: s_x s_w / s_y >= 2^8 is refused by the default resolver for uint8 too, and in
  FULLY_CONNECTED for 4-bit weights; not in DEPTHWISE_CONV_2D of uint8, CONV_2D and DEPTHWISE_CONV_2D with 4-bit weights, and int16.
* All: wrong where the rescaled accumulator reaches 2^31 steps. FULLY_CONNECTED with 4-bit weights: wrong under XNNPACK from a sum of 2^27.
* int16 with an int64 bias, but for FULLY_CONNECTED: wrong where a sum passes 2^48, and 0 where the ratio is below 2^-32.
* ADD of int16: max(s_a, s_b) / s_y >= 2^14 aborts; SUB: at 2^14 it aborts, beyond it is wrong (of 8 bits 2^19).
* MUL of int16: s_a s_b / s_y >= 1 is wrong; builtin kernel of 8 bits: from where the product passes 2^15 - |z_y| (0.499 for z = 255).
* HARD_SWISH: s_x / s_y >= 2^7 is refused. MAX_POOL_2D: other parameters than the input's are refused by the default resolver.
* QUANTIZE, RELU, MEAN, LEAKY_RELU, ABS: wrong from s_x / s_y = 2^23 for 8 bits (input range on one side of 0) and 2^16 for int16 (ABS
  2^15). QUANTIZE from int16 to uint8 and RELU_N1_TO_1 of int16 do not exist.
* LOGISTIC, TANH of int16: wrong from s_x = 16/3; SOFTMAX of int16: from beta s_x = 5.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from qsim.errors import OracleFailed  # noqa: E402
from qsim.graph import Graph, Model, Node, Options, QParams, Tensor  # noqa: E402
from qsim.litert import Oracle  # noqa: E402
from qsim.ops import REGISTRY  # noqa: E402
from qsim.types import code_range  # noqa: E402
from qsim.writer import to_bytes  # noqa: E402

RESULTS = HERE / "results" / "scale_limits.json"
FLAVOURS = ("xnnpack", "reference", "builtin")
EXPONENTS = range(-40, 41)
ZERO = {"int8": 0, "uint8": 128, "int16": 0}
SAMPLES, DEPTH, CHANNELS = 64, 8, 4
ROUGH = {("SOFTMAX", "int16"): 2000, ("LOGISTIC", "int16"): 16, ("TANH", "int16"): 16}  # codes that their tables are off anyway
NONE = {"fused_activation_function": "NONE"}
WINDOW = {"padding": "VALID", "stride_h": 1, "stride_w": 1, **NONE}
DILATED = {**WINDOW, "dilation_h_factor": 1, "dilation_w_factor": 1}
DENSE = {**NONE, "keep_num_dims": False, "weights_format": "DEFAULT", "asymmetric_quantize_inputs": False}


class Trial(NamedTuple):
    """A model of one op, data for it, and the exact result in steps of the output, before saturation."""

    model: Model
    inputs: tuple[np.ndarray, ...]
    exact: np.ndarray
    tolerance: int = 4


Make = Callable[[int], Trial]  # from the exponent of the ratio


# models of one op


def tensor(shape: tuple[int, ...], kind: str, scale: Any = None, zero: int = 0, data: Any = None, axis: int = 0) -> Tensor:
    q = None
    if scale is not None:
        scale = np.atleast_1d(np.asarray(scale, np.float32))
        q = QParams(scale, np.full(scale.size, zero, np.int64), *code_range(kind), axis)
    stored = None if data is None else np.ascontiguousarray(np.asarray(data, "int8" if kind == "int4" else kind)).reshape(shape)
    return Tensor(0, "", tuple(shape), kind, q, stored)


def one_op(op: str, inputs: Iterable[Tensor], output: Tensor, options: Any, kind: str) -> Model:
    tensors = tuple(t.but(index=i, name=f"t{i}") for i, t in enumerate((*inputs, output)))
    last, versions = len(tensors) - 1, REGISTRY[op].rule.versions
    node = Node(0, op, tuple(range(last)), (last,), Options(options), versions.get(kind, max(versions.values())))
    return Model((Graph(tensors, (node,), tuple(t.index for t in tensors[:-1] if t.data is None), (last,)),))


def codes(kind: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Random codes; the first sample lowest, the second highest."""
    low, high = code_range(kind)
    x = np.random.default_rng(seed).integers(low, high + 1, shape).astype(kind)
    x[0], x[1] = low, high
    return x


def product(op: str, kind: str, weight: str, bias: int = 0) -> Make:
    """A sum of 8 products into 4 channels; ratio s_x s_w / s_y."""

    def make(exponent: int) -> Trial:
        low, high = code_range(weight)
        zw, zx, step = (128 if weight == "uint8" else 0), ZERO[kind], 2.0**-7
        w = np.random.default_rng(1).integers(low + 1, high + 1, (CHANNELS, DEPTH))
        w[0], w[1] = high, low + 1
        x = codes(kind, (SAMPLES, DEPTH))
        total = (x.astype(np.int64) - zx) @ (w.T - zw) + bias
        scales = np.full(1 if weight == "uint8" else CHANNELS, step)
        b = tensor((CHANNELS,), "int64" if kind == "int16" else "int32", step * scales, 0, np.full(CHANNELS, bias))
        depthwise = op == "DEPTHWISE_CONV_2D"
        size = {"FULLY_CONNECTED": (1, DEPTH), "DEPTHWISE_CONV_2D": (1, 1, DEPTH, CHANNELS)}.get(op, (1, 1, 1, DEPTH))
        shape = {"FULLY_CONNECTED": (CHANNELS, DEPTH), "DEPTHWISE_CONV_2D": (1, 1, DEPTH, CHANNELS)}.get(op, (CHANNELS, 1, 1, DEPTH))
        parts = [tensor(size, kind, step, zx), tensor(shape, weight, scales, zw, w.T if depthwise else w, 3 if depthwise else 0), b]
        options: dict[str, Any] = {"FULLY_CONNECTED": DENSE, "TRANSPOSE_CONV": {**WINDOW, "quantized_bias_type": "FLOAT32"}}.get(
            op, DILATED
        )
        if depthwise:
            options, x = {**options, "depth_multiplier": 1}, np.repeat(x[..., None], CHANNELS, -1)
        if op == "TRANSPOSE_CONV":
            parts = [tensor((4,), "int32", data=(1, 1, 1, CHANNELS)), parts[1], parts[0], b]
        y = tensor((1, CHANNELS) if op == "FULLY_CONNECTED" else (1, 1, 1, CHANNELS), kind, step * step / 2.0**exponent, zx)
        return Trial(one_op(op, parts, y, options, kind), (x.reshape(SAMPLES, *size),), total * 2.0**exponent + zx)

    return make


def pair(op: str, kind: str, function: Callable, zero: int, scales: Callable[[float], tuple[float, float, float]]) -> Make:
    """An op of two operands; scales: ratio -> scales of both and of the output."""

    def make(exponent: int) -> Trial:
        low, high = code_range(kind)
        sa, sb, sy = scales(2.0**exponent)
        a, b = codes(kind, (SAMPLES, 8)), codes(kind, (SAMPLES, 8), 1)
        a[2], b[2] = low, high
        exact = function((a.astype(np.float64) - zero) * sa, (b.astype(np.float64) - zero) * sb) / sy + zero
        parts = [tensor((1, 8), kind, s, zero) for s in (sa, sb)]
        options = {"MUL": NONE, "SQUARED_DIFFERENCE": {}}.get(op, {**NONE, "pot_scale_int16": False})
        return Trial(one_op(op, parts, tensor((1, 8), kind, sy, zero), options, kind), (a[:, None], b[:, None]), exact)

    return make


def single(op: str, kind: str, function: Callable, x: Callable, y: Callable, to: str = "", end: int | None = None, **options: Any) -> Make:
    """An op of one operand; x, y: ratio -> scale. to: type of the output. end: zero point of the output."""

    def make(exponent: int) -> Trial:
        sx, sy, zx = x(2.0**exponent), y(2.0**exponent), ZERO[kind]
        zy, out = ZERO[to or kind] if end is None else end, to or kind
        a = codes(kind, (SAMPLES, 16))
        exact = function((a.astype(np.float64) - zx) * sx) / sy + zy
        made = one_op(op, [tensor((1, 16), kind, sx, zx)], tensor((1, 16), out, sy, zy), options, kind)
        return Trial(made, (a[:, None],), exact, ROUGH.get((op, kind), 4))

    return make


def window(op: str, kind: str) -> Make:
    def make(exponent: int) -> Trial:
        a, zero = codes(kind, (SAMPLES, 1, 4, 4, 2)), ZERO[kind]
        cells = a.astype(np.float64).reshape(SAMPLES, 2, 2, 2, 2, 2) - zero
        exact = (cells.mean((2, 4)) if op == "AVERAGE_POOL_2D" else cells.max((2, 4))) * 2.0**exponent + zero
        options = {**WINDOW, "stride_h": 2, "stride_w": 2, "filter_height": 2, "filter_width": 2}
        made = one_op(op, [tensor((1, 4, 4, 2), kind, 2.0**exponent, zero)], tensor((1, 2, 2, 2), kind, 1.0, zero), options, kind)
        return Trial(made, (a,), exact)

    return make


def mean(kind: str) -> Make:
    def make(exponent: int) -> Trial:
        a, zero = codes(kind, (SAMPLES, 1, 4, 4, 2)), ZERO[kind]
        exact = (a.astype(np.float64) - zero).mean((2, 3)) * 2.0**exponent + zero
        parts = [tensor((1, 4, 4, 2), kind, 2.0**exponent, zero), tensor((2,), "int32", data=(1, 2))]
        return Trial(one_op("MEAN", parts, tensor((1, 1, 1, 2), kind, 1.0, zero), {"keep_dims": True}, kind), (a,), exact)

    return make


def joined(kind: str) -> Make:
    def make(exponent: int) -> Trial:
        a, b, zero = codes(kind, (SAMPLES, 8)), codes(kind, (SAMPLES, 8), 1), ZERO[kind]
        exact = np.concatenate([(a.astype(np.float64) - zero) * 2.0**exponent + zero, b.astype(np.float64)], 1)
        parts = [tensor((1, 8), kind, s, zero) for s in (2.0**exponent, 1.0)]
        made = one_op("CONCATENATION", parts, tensor((1, 16), kind, 1.0, zero), {"axis": 1, **NONE}, kind)
        return Trial(made, (a[:, None], b[:, None]), exact)

    return make


# what is tried


def logistic(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(x, -700, 700)))


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def rows() -> Iterator[tuple[str, Make]]:
    """(what is tried, its trials)."""
    kinds = ("int8", "uint8", "int16")
    for op in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV"):
        for kind, weight in (("int8", "int8"), ("uint8", "uint8"), ("int16", "int8"), ("int8", "int4")):
            if (op, weight) != ("TRANSPOSE_CONV", "int4"):
                yield f"{op} {kind} x {weight}", product(op, kind, weight)
        yield from ((f"{op} int16 x int8, bias 2^{b}", product(op, "int16", "int8", 1 << b)) for b in (31, 40, 47, 49))
    yield from ((f"FULLY_CONNECTED int8 x int4, bias 2^{b}", product("FULLY_CONNECTED", "int8", "int4", 1 << b)) for b in (26, 27))
    for kind in kinds:
        for zero in dict.fromkeys((ZERO[kind], *(code_range(kind) if kind != "int16" else ()))):
            same = {"ADD": np.add, "SUB": np.subtract}
            yield from ((f"{op} {kind} zero {zero}, s_a = s_b", pair(op, kind, f, zero, lambda r: (r, r, 1.0))) for op, f in same.items())
            yield f"MUL {kind} zero {zero}", pair("MUL", kind, np.multiply, zero, lambda r: (1.0, r, 1.0))
        if kind == "int8":
            yield (
                "SQUARED_DIFFERENCE int8, s_a = s_b = 1",
                pair("SQUARED_DIFFERENCE", kind, lambda a, b: (a - b) ** 2, 0, lambda r: (1.0, 1.0, 1 / r)),
            )
        yield f"MEAN {kind}", mean(kind)
        yield f"CONCATENATION {kind}, one input", joined(kind)
        yield from ((f"{op} {kind}", window(op, kind)) for op in ("AVERAGE_POOL_2D", "MAX_POOL_2D"))
        yield from ((f"QUANTIZE {kind} to {to}", single("QUANTIZE", kind, lambda x: x, lambda r: r, lambda r: 1.0, to)) for to in kinds)
        for op, ends in (("RELU", (0, None)), ("RELU6", (0, 6)), ("RELU_N1_TO_1", (-1, 1))):
            yield f"{op} {kind}", single(op, kind, lambda x, e=ends: np.clip(x, *e), lambda r: r / 16, lambda r: 1 / 16)
        leaky = single("LEAKY_RELU", kind, lambda x: np.where(x > 0, x, x / 4), lambda r: r, lambda r: 1.0, alpha=0.25)
        yield f"LEAKY_RELU {kind}, alpha 1/4", leaky
        if kind != "int16":
            swish = single("HARD_SWISH", kind, lambda x: x * np.clip(x + 3, 0, 6) / 6, lambda r: 1 / 16, lambda r: 1 / 16 / r)
            yield f"HARD_SWISH {kind}, s_x = 1/16", swish
        low, unit = code_range(kind)[0], 1 / 32768 if kind == "int16" else 1 / 256
        start = 0 if kind == "int16" else low
        yield f"LOGISTIC {kind}, s_x", single("LOGISTIC", kind, logistic, lambda r: r, lambda r, u=unit: u, end=start)
        yield f"SOFTMAX {kind}, s_x", single("SOFTMAX", kind, softmax, lambda r: r, lambda r, u=unit: u, end=start, beta=1.0)
        half = unit if kind == "int16" else 2 * unit
        yield f"TANH {kind}, s_x", single("TANH", kind, np.tanh, lambda r: r, lambda r, u=half: u, end=ZERO[kind])


# running


def sign(oracle: Oracle, trial: Trial, flavour: str) -> str:
    try:
        y = next(iter(oracle.run(to_bytes(trial.model), trial.inputs, flavour).values()))
    except OracleFailed as e:
        return "A" if "abort" in e.message else "R"
    low, high = code_range(str(y.dtype))
    expected = np.clip(np.rint(trial.exact), low, high).reshape(SAMPLES, -1)
    return "." if np.abs(y.reshape(SAMPLES, -1) - expected).max() <= trial.tolerance else "x"


def runs(signs: str) -> str:
    """ "." and the like with the exponents they cover: ".[-40..7] R[8..40]"."""
    cuts = [0, *(i for i in range(1, len(signs)) if signs[i] != signs[i - 1]), len(signs)]
    return " ".join(f"{signs[a]}[{EXPONENTS[a]}..{EXPONENTS[b - 1]}]" for a, b in zip(cuts, cuts[1:], strict=False))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[], help="ops by name")
    only, found = parser.parse_args().only, {}
    with Oracle() as oracle:
        for label, make in rows():
            if only and label.split()[0] not in only:
                continue
            trials = [make(e) for e in EXPONENTS]
            found[label] = {f: runs("".join(sign(oracle, t, f) for t in trials)) for f in FLAVOURS}
            for flavour, text in found[label].items():
                print(f"{label:44}{flavour:10}{text}", flush=True)
    if not only:
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
