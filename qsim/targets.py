"""Which ops, element types, weight scales and op versions a target runs: one table a target, a line for each group of ops.

litert is what the registry of ops says, measured. The others are read from their documentation and source, and not measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from .errors import BadRecipe
from .op import matches
from .types import CODES

FLAVOURS = ("xnnpack", "reference")  # of litert: an op must run in both
Types = tuple[tuple[str, ...], tuple[str, ...]]


class Row(NamedTuple):
    """What ops may be. inputs, outputs: type patterns as kernels have them (see `op.Kernel`), separated by spaces.

    ops: names, or "*" for every op that has no row of its own in the table. per_channel: whether weights may have a scale a channel.
    version: the highest op version; 0: any.
    """

    ops: str
    inputs: str
    outputs: str
    per_channel: bool = True
    version: int = 0


@dataclass(frozen=True)
class Target:
    """where: what computes, in messages. rows: what that is able to. source: where the rows are from.

    beside, beside_rows: a CPU that takes the ops which an accelerator does not; empty where there is none. measured: whether the
    rows were found by running; otherwise they are documented, not measured.
    """

    name: str
    where: str
    source: str
    rows: tuple[Row, ...] = ()
    beside: str = ""
    beside_rows: tuple[Row, ...] = ()
    measured: bool = False

    @property
    def status(self) -> str:
        return "measured" if self.measured else "documented, not measured"


def _each(kinds: str, ops: str, inputs: str, outputs: str, per_channel: bool = True, version: int = 0) -> tuple[Row, ...]:
    """One row a type: T stands for it."""
    return tuple(Row(ops, inputs.replace("T", k), outputs.replace("T", k), per_channel, version) for k in kinds.split())


TFLM = (
    Row("CONV_2D DEPTHWISE_CONV_2D", "float32 float32 float32?", "float32"),
    Row("CONV_2D DEPTHWISE_CONV_2D", "int8 int8|int4 int32?", "int8"),
    Row("CONV_2D", "int16 int8 int32|int64?", "int16"),
    Row("DEPTHWISE_CONV_2D", "int16 int8 int64?", "int16"),
    Row("FULLY_CONNECTED", "float32 float32 float32?", "float32"),
    Row("FULLY_CONNECTED", "int8 int8 int32?", "int8"),
    Row("FULLY_CONNECTED", "int8 int4 int32?", "int8", per_channel=False),
    Row("FULLY_CONNECTED", "int16 int8 int32|int64?", "int16"),
    Row("TRANSPOSE_CONV", "int32 float32 float32 float32?", "float32"),
    Row("TRANSPOSE_CONV", "int32 int8 int8 int32?", "int8"),
    Row("TRANSPOSE_CONV", "int32 int8 int16 int16|int64?", "int16"),
    Row("SVDF", "float32 float32 float32 float32? float32", "float32"),
    Row("SVDF", "int8 int8 int8|int16 int32? int8|int16", "int8"),
    *_each("float32 int8 int16", "UNIDIRECTIONAL_SEQUENCE_LSTM", "T any?*", "T"),
    *_each("float32 int8 int16", "BATCH_MATMUL", "T T", "T"),
    *_each("float32 int8 int16 int32", "ADD SUB MUL SQUARED_DIFFERENCE", "T T", "T"),
    *_each("float32 int8", "DIV", "T T", "T"),
    *_each("float32 int8 int16 int32 int64", "MAXIMUM MINIMUM", "T T", "T"),
    *_each("float32 int8", "ADD_N", "T*", "T"),
    *_each("float32 int8 int16 int32 int64 bool", "CONCATENATION", "T*", "T"),
    *_each("float32 int8 int16", "AVERAGE_POOL_2D MAX_POOL_2D RELU RELU6 LEAKY_RELU LOGISTIC TANH ABS", "T", "T"),
    *_each("float32 int8", "HARD_SWISH ELU RSQRT L2_NORMALIZATION LOG_SOFTMAX SPACE_TO_DEPTH DEPTH_TO_SPACE", "T", "T"),
    Row("EXP SIN COS LOG SQRT SQUARE NEG FLOOR CEIL ROUND L2_POOL_2D", "float32", "float32"),
    Row("FLOOR_DIV FLOOR_MOD", "float32 float32", "float32"),
    *_each("float32 int8 int16", "PRELU", "T T", "T"),
    *_each("float32 int8 int16", "SOFTMAX", "T", "T"),
    Row("SOFTMAX", "int8", "int16"),
    *_each("float32 int8 int16", "MEAN SUM TRANSPOSE RESIZE_NEAREST_NEIGHBOR", "T int32", "T"),
    *_each("float32 int8", "REDUCE_MAX REDUCE_MIN RESIZE_BILINEAR CUMSUM", "T int32", "T"),
    *_each("float32 int8 int16 int32", "PAD PADV2 EXPAND_DIMS STRIDED_SLICE SLICE", "T any?*", "T"),
    *_each("float32 int8", "MIRROR_PAD GATHER GATHER_ND SPACE_TO_BATCH_ND BATCH_TO_SPACE_ND", "T any?*", "T"),
    *_each("float32 int8 int16 int32", "SPLIT", "int32 T", "T*"),
    *_each("float32 int8 int16 int32", "SPLIT_V", "T int32|int64 int32", "T*"),
    *_each("float32 int8 int16 int32", "UNPACK", "T", "T*"),
    *_each("float32 int8 int16 int32 int64", "PACK", "T*", "T"),
    *_each("float32 int8 int16", "SELECT_V2", "bool T T", "T"),
    Row("ARG_MAX ARG_MIN", "float32|int8 int32", "int32"),
    Row("QUANTIZE", "float32", "int8|int16"),
    Row("QUANTIZE", "int8", "int8|uint8|int16|int32"),
    Row("QUANTIZE", "uint8", "int8"),
    Row("QUANTIZE", "int16", "int8|int16|int32"),
    Row("QUANTIZE", "int32", "int8|int16"),
    Row("DEQUANTIZE", "int8|uint8|int16", "float32"),
    Row("EMBEDDING_LOOKUP", "int32 float32|int8", "float32|int8"),
    *_each("float32 int8 int32 int64 bool", "EQUAL NOT_EQUAL GREATER GREATER_EQUAL LESS LESS_EQUAL", "T T", "bool"),
    Row("LOGICAL_AND LOGICAL_OR LOGICAL_NOT REDUCE_ALL", "bool any?*", "bool"),
    Row("RESHAPE SQUEEZE SHAPE CAST FILL ZEROS_LIKE REVERSE_V2 BROADCAST_TO BROADCAST_ARGS DYNAMIC_UPDATE_SLICE", "any?*", "any*"),
    Row("IF WHILE CALL_ONCE VAR_HANDLE READ_VARIABLE ASSIGN_VARIABLE", "any?*", "any*"),
)

NPU = "int8 uint8 int16"
ETHOS_U = (
    *_each(NPU, "CONV_2D DEPTHWISE_CONV_2D", "T int8|uint8 int32|int64?", "T"),
    *_each(NPU, "TRANSPOSE_CONV", "int32 int8|uint8 T int32|int64?", "T"),
    *_each(NPU, "FULLY_CONNECTED", "T int8|uint8 int32|int64?", "T", per_channel=False),
    *_each(f"{NPU} int32", "ADD SUB MUL", "T T", "T"),
    Row("ADD SUB MUL", "uint8 uint8", "int32"),
    *_each(NPU, "MAXIMUM MINIMUM SQUARED_DIFFERENCE PRELU", "T T", "T"),
    *_each(NPU, "ABS LEAKY_RELU RELU RELU6 RELU_N1_TO_1 LOGISTIC TANH SOFTMAX AVERAGE_POOL_2D MAX_POOL_2D", "T", "T"),
    *_each(NPU, "MEAN PAD TRANSPOSE EXPAND_DIMS SLICE STRIDED_SLICE RESHAPE SQUEEZE", "T any?*", "T"),
    *_each(NPU, "RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR", "T int32", "T"),
    *_each("int8 uint8", "HARD_SWISH", "T", "T"),
    *_each("int8 int16", "EXP", "T", "T"),
    *_each("int8 int16", "UNIDIRECTIONAL_SEQUENCE_LSTM", "T any?*", "T"),
    Row("RSQRT", "int8", "int8"),
    Row("ARG_MAX", "int8|uint8 int32", "int32|int64"),
    *_each(NPU, "CONCATENATION PACK", "T*", "T"),
    *_each(NPU, "SPLIT", "int32 T", "T*"),
    *_each(NPU, "SPLIT_V", "T int32 int32", "T*"),
    *_each(NPU, "UNPACK", "T", "T*"),
    Row("QUANTIZE", "int8|uint8|int16", "int8|uint8|int16"),
    Row("SHAPE", "any", "int32"),
)

TPU = "int8 uint8"
EDGETPU = (
    *_each(TPU, "CONV_2D", "T T int32?", "T", version=5),
    *_each(TPU, "DEPTHWISE_CONV_2D", "T T int32?", "T"),
    *_each(TPU, "TRANSPOSE_CONV", "int32 T T int32?", "T"),
    *_each(TPU, "FULLY_CONNECTED", "T T int32?", "T", per_channel=False),
    *_each(TPU, "ADD SUB MUL MAXIMUM MINIMUM SQUARED_DIFFERENCE PRELU", "T T", "T"),
    *_each(TPU, "RELU RELU6 RELU_N1_TO_1 LOGISTIC TANH RSQRT SOFTMAX L2_NORMALIZATION", "T", "T"),
    *_each(TPU, "AVERAGE_POOL_2D MAX_POOL_2D SPACE_TO_DEPTH", "T", "T"),
    *_each(TPU, "MEAN SUM REDUCE_MAX REDUCE_MIN PAD TRANSPOSE EXPAND_DIMS SLICE STRIDED_SLICE RESHAPE SQUEEZE", "T any?*", "T"),
    *_each(TPU, "RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR", "T int32", "T", version=2),
    *_each(TPU, "UNIDIRECTIONAL_SEQUENCE_LSTM", "T any?*", "T"),
    *_each(TPU, "CONCATENATION PACK", "T*", "T"),
    *_each(TPU, "SPLIT", "int32 T", "T*"),
    Row("QUANTIZE", "int8|uint8", "int8|uint8"),
)
OLD = "float32|float16|int8|uint8|int16|int32|int64|bool|string|resource"  # TFLite of 2021, which the compiler and its runtime contain
EDGETPU_CPU = (
    Row("CONV_2D", f"{OLD} {OLD} {OLD}?", OLD, version=5),
    Row("FULLY_CONNECTED", f"{OLD} {OLD} {OLD}?", OLD, per_channel=False),
    Row("*", f"{OLD}?*", f"{OLD}*"),
)

_TFLM_SOURCE = "type checks of the kernels and the resolver's list of ops in the tflite-micro repository, August 2026"
_VELA_SOURCE = "the list of supported ops that Vela 3.10.0 writes of itself; the ops it leaves to the CPU as for tflm"
_CORAL_SOURCE = (
    "Coral's table of supported operations (8-bit tensors only); reports to the edgetpu repository: compiler 16.0 does not know CONV_2D "
    "version 6 (631), nor map RESIZE version 3 (396, 420); a scale a channel of FULLY_CONNECTED came to TFLite after that compiler"
)
TARGETS: Mapping[str, Target] = {
    t.name: t
    for t in (
        Target("litert", "LiteRT", "the kernels of the registry, in the default and the reference resolver", measured=True),
        Target("tflm", "TFLite Micro", _TFLM_SOURCE, TFLM),
        Target("ethos-u", "the Ethos-U NPU", _VELA_SOURCE, ETHOS_U, "TFLite Micro", TFLM),
        Target("edgetpu", "the Edge TPU", _CORAL_SOURCE, EDGETPU, "the runtime of the Edge TPU", EDGETPU_CPU),
    )
}


def forbids(target: str, op: str, types: Types, *, per_channel: bool = False, version: int = 1) -> str | None:
    """Why an op cannot run on a target at all, in words; None where it can.

    types: element types of the inputs ("" where absent) and the outputs. per_channel: whether its weights have a scale a channel.
    version: the op version that the file would name. *Raises*: BadRecipe for an unknown target.
    """
    t = _known(target)
    if t.measured:
        return _registry(t, op, types)
    reason = _why(t.where, t.rows, op, types, per_channel, version)
    return reason and (_why(t.beside, t.beside_rows, op, types, per_channel, version) if t.beside else reason)


def leaves(target: str, op: str, types: Types, *, per_channel: bool = False, version: int = 1) -> str | None:
    """Why a target's accelerator leaves an op to the CPU beside it, in words; None where it takes it, or nothing there runs it.

    Arguments as for `forbids`. What depends on shapes and options is not in the tables. *Raises*: BadRecipe for an unknown target.
    """
    t = _known(target)
    if not t.beside or forbids(target, op, types, per_channel=per_channel, version=version):
        return None
    return _why(t.where, t.rows, op, types, per_channel, version)


def _known(target: str) -> Target:
    if target not in TARGETS:
        raise BadRecipe("no target of that name", found=target, expected=", ".join(TARGETS))
    return TARGETS[target]


def _why(where: str, rows: tuple[Row, ...], op: str, types: Types, per_channel: bool, version: int) -> str | None:
    own = [r for r in rows if op in r.ops.split()] or [r for r in rows if r.ops == "*"]
    if not own:
        return f"{where} has no {op}"
    fit = [r for r in own if matches(tuple(r.inputs.split()), types[0]) and matches(tuple(r.outputs.split()), types[1])]
    if not fit:
        return f"{where} has no {op} of {_shown(types)}"
    fit = [r for r in fit if r.per_channel or not per_channel]
    if not fit:
        return f"{op} of {where} takes one scale for its weights, not one a channel"
    highest = 0 if any(not r.version for r in fit) else max(r.version for r in fit)
    return f"{where} knows {op} up to version {highest}, this is {version}" if 0 < highest < version else None


def _registry(t: Target, op: str, types: Types) -> str | None:
    from .ops import REGISTRY

    if op not in REGISTRY:
        return f"{t.where} has no known {op}"
    if not any(kind in CODES for kind in (*types[0], *types[1])):
        return None
    lacking = [f for f in FLAVOURS if not any(k.serves(types, f) for k in REGISTRY[op].kernels)]
    return f"{t.where} has no {op} of {_shown(types)} in {' and '.join(lacking)}" if lacking else None


def _shown(types: Types) -> str:
    return " -> ".join(", ".join(kind or "none" for kind in side) for side in types)
