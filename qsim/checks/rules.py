"""Rules that quantized kernels assume. Some files break them and run all the same; then the numbers are not what one would think."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..graph import Graph, Model, QParams, Tensor
from .faults import nodes_of, tensors_of

# op -> output parameters that the kernels have built in, by type
_UNIT = {"int8": (1 / 256, -128), "uint8": (1 / 256, 0), "int16": (1 / 32768, 0)}
_SIGNED = {"int8": (1 / 128, 0), "uint8": (1 / 128, 128), "int16": (1 / 32768, 0)}
FIXED = {
    "SOFTMAX": _UNIT,
    "LOGISTIC": _UNIT,
    "TANH": _SIGNED,
    "L2_NORMALIZATION": _SIGNED,
    "LOG_SOFTMAX": {"int8": (16 / 256, 127), "uint8": (16 / 256, 255)},
}
# ops that move codes without rescaling them: output and data inputs share one scale and zero point
_MOVES = (
    "AVERAGE_POOL_2D MAX_POOL_2D RESHAPE TRANSPOSE PAD MIRROR_PAD SQUEEZE EXPAND_DIMS STRIDED_SLICE SLICE GATHER GATHER_ND SPACE_TO_DEPTH "
    "DEPTH_TO_SPACE BATCH_TO_SPACE_ND SPACE_TO_BATCH_ND RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR TILE REVERSE_V2 BROADCAST_TO UNPACK "
    "REDUCE_MAX REDUCE_MIN SPLIT_V"
)
TIED = {**dict.fromkeys(_MOVES.split(), (0,)), "SPLIT": (1,), "PADV2": (0, 2), "SELECT_V2": (1, 2), "SELECT": (1, 2)}
TIED_ALL = frozenset(("CONCATENATION", "PACK", "MAXIMUM", "MINIMUM"))
# op -> dimension of the weights that counts output channels
CHANNEL_AXIS = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 0}
_WIDENED = {("SOFTMAX", "int16"): (1 / 65536, -32768)}  # of an 8-bit input
_CODES = ("int8", "uint8", "int16")


def _tensor(graph: Graph, indices: tuple[int, ...], position: int) -> Tensor | None:
    return graph.tensors[indices[position]] if position < len(indices) and indices[position] >= 0 else None


def _same(a: QParams, b: QParams) -> bool:
    return all(np.array_equal(np.ravel(x), np.ravel(y)) for x, y in ((a.scale, b.scale), (a.zero_point, b.zero_point)))


def fixed_outputs(model: Model) -> Iterator[str]:
    for _, graph, node, where in nodes_of(model):
        out = _tensor(graph, node.outputs, 0)
        x = _tensor(graph, node.inputs, 0)
        wanted = FIXED.get(node.op, {}).get(out.type) if out else None
        if out and x and x.type != out.type:
            wanted = _WIDENED.get((node.op, out.type), wanted)
        if out is None or out.qparams is None or wanted is None:
            continue
        scale, zero = float(np.ravel(out.qparams.scale)[0]), int(np.ravel(out.qparams.zero_point)[0])
        if abs(scale - wanted[0]) > 1e-3 * wanted[0] or zero != wanted[1]:
            yield f"{where}: output has scale {scale:.6g}, zero point {zero}; the kernels produce {wanted[0]:.6g}, {wanted[1]}"


def tied_parameters(model: Model) -> Iterator[str]:
    for _, graph, node, where in nodes_of(model):
        positions = range(len(node.inputs)) if node.op in TIED_ALL else TIED.get(node.op, ())
        for o in range(len(node.outputs)):
            out = _tensor(graph, node.outputs, o)
            for p in positions:
                x = _tensor(graph, node.inputs, p)
                if (
                    x
                    and out
                    and x.qparams
                    and out.qparams
                    and x.type == out.type
                    and x.type in _CODES
                    and not _same(x.qparams, out.qparams)
                ):
                    yield f"{where}: input {p} and output {o} have different quantization parameters, the codes are moved unchanged"


def int16_symmetric(model: Model) -> Iterator[str]:
    for t, where in tensors_of(model):
        if t.type == "int16" and t.qparams is not None and np.any(t.qparams.zero_point):
            yield f"{where}: int16 with a zero point other than 0"


def weights_symmetric(model: Model) -> Iterator[str]:
    for _, graph, node, where in nodes_of(model):
        weights = _tensor(graph, node.inputs, 1) if node.op in CHANNEL_AXIS else None
        if weights and weights.qparams and weights.type in ("int8", "int4", "int2") and np.any(weights.qparams.zero_point):
            yield f"{where}: {weights.type} weights with a zero point other than 0"


def channel_axis(model: Model) -> Iterator[str]:
    for _, graph, node, where in nodes_of(model):
        weights = _tensor(graph, node.inputs, 1) if node.op in CHANNEL_AXIS else None
        if weights and weights.qparams and weights.qparams.per_channel and weights.qparams.axis != CHANNEL_AXIS[node.op]:
            yield f"{where}: weights are quantized along dimension {weights.qparams.axis}, not {CHANNEL_AXIS[node.op]}"


def bias_scale(model: Model) -> Iterator[str]:
    """Scale of the bias = scale of the input * scale of the weights, zero point 0."""
    for _, graph, node, where in nodes_of(model):
        if node.op in CHANNEL_AXIS:
            x, w, b = (_tensor(graph, node.inputs, p) for p in range(3))
            if x and w and b and x.qparams and w.qparams and b.qparams and x.type in _CODES:
                yield from _bias_problem(where, x.qparams, w.qparams, b.qparams)


def _bias_problem(where: str, x: QParams, w: QParams, b: QParams) -> Iterator[str]:
    product = np.ravel(x.scale).astype(np.float64)[0] * np.ravel(w.scale).astype(np.float64)
    got = np.ravel(b.scale).astype(np.float64)
    if got.size not in (1, product.size):
        yield f"{where}: {got.size} bias scales for {product.size} weight scales"
    elif np.any(abs(got - product) > 1e-5 * product):
        worst = float(np.max(abs(got - product) / product))
        yield f"{where}: the bias scale is not input scale * weight scale (off by {worst:.3g} of it)"
    if np.any(b.zero_point):
        yield f"{where}: bias with a zero point other than 0"


def scales_normal(model: Model) -> Iterator[str]:
    smallest = np.finfo(np.float32).tiny
    for t, where in tensors_of(model):
        if t.qparams is not None and np.any(np.asarray(t.qparams.scale) < smallest):
            yield f"{where}: subnormal scale {np.min(t.qparams.scale)}, kernels may take it as 0"


RULES = (fixed_outputs, tied_parameters, int16_symmetric, weights_symmetric, channel_axis, bias_scale, scales_normal)
