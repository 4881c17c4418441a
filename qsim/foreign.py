"""Entries of ai-edge-quantizer's recipe files: the scheme that one asks for, and the ops to which that tool applies it (0.10.0)."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import replace
from typing import Any

from .errors import BadRecipe
from .scheme import DYNAMIC4, DYNAMIC8, FLOAT16, FLOAT32, INT8, INT8W4, INT16X8, WEIGHTS4, WEIGHTS8, Scheme

OTHER_NAMES = {"CONV_2D_TRANSPOSE": "TRANSPOSE_CONV"}  # ai-edge-quantizer's name -> the schema's
_SCHEMES = {  # (bits of activations, of weights, kind, explicit DEQUANTIZE)
    (8, 8, "INT", False): INT8,
    (8, 4, "INT", False): INT8W4,
    (16, 8, "INT", False): INT16X8,
    (32, 8, "INT", False): DYNAMIC8,
    (32, 4, "INT", False): DYNAMIC4,
    (32, 8, "INT", True): WEIGHTS8,
    (32, 4, "INT", True): WEIGHTS4,
}
_CLIPS = {"min_max_uniform_quantize": "max", "OCTAV": "octav"}  # algorithm -> the rule of `weightclip.clips`
_CONVOLUTIONS = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV"})
_PRODUCTS = _CONVOLUTIONS | {"FULLY_CONNECTED", "BATCH_MATMUL"}
_WEIGHTLESS = frozenset(
    "ADD AVERAGE_POOL_2D BROADCAST_TO CONCATENATION DIV DYNAMIC_UPDATE_SLICE EQUAL GATHER GATHER_ND GELU LOGISTIC MAXIMUM MAX_POOL_2D MEAN"
    " MIRROR_PAD MUL NOT_EQUAL PACK PAD PADV2 REDUCE_MIN RELU RESHAPE RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR RSQRT SELECT SELECT_V2 SLICE"
    " SOFTMAX SPLIT SQRT STABLEHLO_COMPOSITE STRIDED_SLICE SUB SUM TANH TRANSPOSE UNPACK".split()
)
_OPS: Mapping[str, Set[str]] = {  # scheme -> the ops that the tool quantizes so
    "int8": _PRODUCTS | _WEIGHTLESS | {"HARD_SWISH", "SPACE_TO_DEPTH", "SQUARED_DIFFERENCE"},
    "int8w4": {"CONV_2D", "FULLY_CONNECTED"} | _WEIGHTLESS | {"HARD_SWISH", "SPACE_TO_DEPTH", "SQUARED_DIFFERENCE"},
    "int16x8": _PRODUCTS | _WEIGHTLESS,
    "dynamic8": _PRODUCTS | {"EMBEDDING_LOOKUP"},
    "dynamic4": frozenset({"CONV_2D", "FULLY_CONNECTED", "EMBEDDING_LOOKUP"}),
    "weights8": _PRODUCTS | {"EMBEDDING_LOOKUP"},
    "weights4": frozenset({"CONV_2D", "FULLY_CONNECTED", "EMBEDDING_LOOKUP", "BATCH_MATMUL"}),
    "float16": _CONVOLUTIONS | {"FULLY_CONNECTED", "EMBEDDING_LOOKUP"},
}
_BY_BLOCKS = frozenset({"FULLY_CONNECTED", "EMBEDDING_LOOKUP"})


def applies_to(entry: Mapping[str, Any], scheme: Scheme) -> Set[str] | None:
    """The ops to which the tool applies an entry for all ops; others fall to an earlier entry. None: all, or the entry names its op."""
    checked = not (entry.get("op_config") or {}).get("skip_checks", False)
    if entry.get("operation", "*") != "*" or scheme == FLOAT32 or not checked:
        return None
    return _BY_BLOCKS if scheme.block else _OPS[scheme.name]


def scheme_of(entry: Mapping[str, Any]) -> Scheme:
    """The scheme that an entry asks for. Its weights are rounded to nearest. *Raises*: BadRecipe naming an algorithm or bits that
    are not there."""
    key, config = entry.get("algorithm_key", "min_max_uniform_quantize"), entry.get("op_config") or {}
    if key == "no_quantize":
        return FLOAT32
    weight, data = config.get("weight_tensor_config") or {}, config.get("activation_tensor_config")
    explicit, smallest = bool(config.get("explicit_dequantize")), config.get("min_weight_elements", 0)
    bits = data["num_bits"] if data else 32, weight.get("num_bits", 32), weight.get("dtype", "INT"), explicit
    if key == "float_casting" and bits[1:3] == (16, "FLOAT"):
        return replace(FLOAT16, smallest=smallest)
    if key not in _CLIPS or bits not in _SCHEMES:
        raise BadRecipe(f"algorithm {key!r} with these bits is not there", found=_words(bits), expected="min/max, OCTAV or no_quantize")
    granularity = str(weight.get("granularity", "TENSORWISE"))
    block = int(granularity.rsplit("_", 1)[1]) if granularity.startswith("BLOCKWISE_") else int(weight.get("block_size", 0))
    axes = {"smallest": smallest, "block": block, "per_channel": granularity != "TENSORWISE", "symmetric": weight.get("symmetric", True)}
    return replace(_SCHEMES[bits], rounding="nearest", clip=_CLIPS[key], **axes)


def _words(bits: tuple[Any, ...]) -> str:
    return f"{bits[0]}-bit activations, {bits[1]}-bit {bits[2]} weights" + (", explicit DEQUANTIZE" if bits[3] else "")
