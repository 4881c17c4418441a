"""Question: what are the facts of the .tflite schema (tables, slots, types, defaults, enumerations, unions)?

Command: python experiments/extract_schema.py qsim/schema.json     (needs ai-edge-litert)
Answer: the JSON file qsim/schema.json, one line a table.

The facts are observed, not parsed: every accessor and builder function of the installed package is called with a recording
object in place of the flatbuffer, which notes the slot, the type and the default that were asked for.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Iterator
from importlib.metadata import version
from types import ModuleType
from typing import Any

# Which enumeration an integer field holds is not visible in generated Python; by field name, or table.field where names clash.
ENUM_OF = {
    "Tensor.type": "TensorType",
    "VariantSubType.type": "TensorType",
    "CastOptions.in_data_type": "TensorType",
    "CastOptions.out_data_type": "TensorType",
    "ArgMaxOptions.output_type": "TensorType",
    "ArgMinOptions.output_type": "TensorType",
    "ShapeOptions.out_type": "TensorType",
    "UniqueOptions.idx_out_type": "TensorType",
    "quantized_bias_type": "TensorType",
    "key_dtype": "TensorType",
    "value_dtype": "TensorType",
    "padding": "Padding",
    "fused_activation_function": "ActivationFunctionType",
    "LSHProjectionOptions.type": "LSHProjectionType",
    "weights_format": "FullyConnectedOptionsWeightsFormat",
    "kernel_type": "LSTMKernelType",
    "combiner": "CombinerType",
    "mode": "MirrorPadMode",
    "reduce_function": "ReduceWindowFunction",
    "custom_options_format": "CustomOptionsFormat",
    "composite_attributes_format": "CustomOptionsFormat",
    "algorithm": "RngAlgorithm",
    "comparison_direction": "StablehloComparisonDirection",
    "compare_type": "StablehloComparisonType",
    "precision_config": "StablehloPrecisionConfig",
    "DimensionMetadata.format": "DimensionType",
    "builtin_code": "BuiltinOperator",
}
# Options tables whose name is not the op's own.
OPTIONS_OF = {
    "AVERAGE_POOL_2D": "Pool2DOptions",
    "MAX_POOL_2D": "Pool2DOptions",
    "L2_POOL_2D": "Pool2DOptions",
    "MEAN": "ReducerOptions",
    "SUM": "ReducerOptions",
    "REDUCE_PROD": "ReducerOptions",
    "REDUCE_MAX": "ReducerOptions",
    "REDUCE_MIN": "ReducerOptions",
    "REDUCE_ANY": "ReducerOptions",
    "REDUCE_ALL": "ReducerOptions",
    "L2_NORMALIZATION": "L2NormOptions",
    "UNIDIRECTIONAL_SEQUENCE_RNN": "SequenceRNNOptions",
    "MAXIMUM": "MaximumMinimumOptions",
    "MINIMUM": "MaximumMinimumOptions",
    "CONV_3D_TRANSPOSE": "Conv3DOptions",
    "RANDOM_UNIFORM": "RandomOptions",
    "RANDOM_STANDARD_NORMAL": "RandomOptions",
    "MULTINOMIAL": "RandomOptions",
}
# Fields that the schema has retired: generated code no longer shows them, files from older converters still hold them.
DEPRECATED = {
    "ResizeBilinearOptions": [[0, "deprecated_new_height", "int32", 0], [1, "deprecated_new_width", "int32", 0]],
    "SignatureDef": [[3, "deprecated_tag", "string", 0]],
}
NOT_FIELDS = re.compile(r"^(Init|GetRootAs.*|.+(AsNumpy|Length|IsNone|BufferHasIdentifier))$")


def snake(name: str) -> str:
    """CamelCase to the schema's own snake_case."""
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)
    name = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name).lower()
    return name.replace("builtin_options2", "builtin_options_2")


class ReadRecorder:
    """Stands where a generated accessor expects its flatbuffers Table, and notes what the accessor asks for."""

    Pos, Bytes = 0, b""

    def __init__(self) -> None:
        self.slot, self.scalar, self.kind, self.vector = -1, "", "", False

    def Offset(self, vtable_offset: int) -> int:
        self.slot = (vtable_offset - 4) // 2
        return 1

    def Vector(self, _: int) -> int:
        self.vector = True
        return 0

    def Get(self, flags: Any, _: int) -> int:
        self.kind, self.scalar = "scalar", flags.__name__.removesuffix("Flags").lower()
        return 0

    def String(self, _: int) -> bytes:
        self.kind = "string"
        return b""

    def Indirect(self, _: int) -> int:
        self.kind = "table"
        return 0

    def Union(self, *_: Any) -> None:
        self.kind = "union"


class WriteRecorder:
    """Stands where a generated Add function expects a Builder, and notes slot and default."""

    def __init__(self) -> None:
        self.slot, self.default = -1, 0

    def __getattr__(self, name: str) -> Any:
        def prepend(slot: int, _: Any, default: Any) -> None:
            self.slot, self.default = slot, default

        return prepend


def tables(module: ModuleType) -> dict[str, type]:
    return {n: c for n, c in vars(module).items() if inspect.isclass(c) and hasattr(c, "Init")}


def enums(module: ModuleType) -> dict[str, dict[str, int]]:
    found = {}
    for name, c in vars(module).items():
        values = {k: v for k, v in vars(c).items() if isinstance(v, int) and not k.startswith("_")} if inspect.isclass(c) else {}
        if values and not hasattr(c, "Init"):
            found[name] = values
    return found


def unions(module: ModuleType, numbers: dict[str, dict[str, int]]) -> dict[str, dict[int, str]]:
    """Union name -> tag -> member table, by asking each generated creator which class it makes."""
    from flatbuffers.table import Table

    found: dict[str, dict[int, str]] = {}
    for name, values in numbers.items():
        creator = getattr(module, name + "Creator", None)
        if creator is not None:
            made = {tag: creator(tag, Table(bytearray(64), 32)) for tag in values.values()}
            found[name] = {tag: type(m).__name__.removesuffix("T") for tag, m in made.items() if m is not None}
    return found


def fields(module: ModuleType, table: str, cls: type) -> Iterator[list[Any]]:
    defaults = {}
    for name, function in vars(module).items():
        if inspect.isfunction(function) and re.match(rf"^{table}Add[A-Z]", name):
            recorder = WriteRecorder()
            function(recorder, 0)
            defaults[recorder.slot] = recorder.default
    for name, accessor in vars(cls).items():
        if name.startswith("_") or NOT_FIELDS.match(name) or not inspect.isfunction(accessor):
            continue
        tab, record = ReadRecorder(), cls()
        record._tab = tab
        value = accessor(record, *([0] * (len(inspect.signature(accessor).parameters) - 1)))
        kind = {"scalar": tab.scalar, "table": type(value).__name__, "union": "union"}.get(tab.kind, tab.kind)
        field = snake(name)
        enum = ENUM_OF.get(f"{table}.{field}") or ENUM_OF.get(field)
        row = [tab.slot, field, f"[{kind}]" if tab.vector else kind, defaults.get(tab.slot, 0)]
        if isinstance(value, bool):
            row[2], row[3] = "bool", bool(row[3])
        yield row + ([enum] if enum and row[2] == tab.scalar else [])


def name_unions(rows: list[list[Any]], found: dict[str, dict[int, str]]) -> None:
    """A union field's type is called after the union: by field name, and by hand for the three that differ."""
    by_hand = {"details": "QuantizationDetails", "array_segments": "SparseIndexVector", "array_indices": "SparseIndexVector"}
    for row in rows:
        if row[2] == "union":
            row[2] = by_hand.get(row[1]) or "".join(p.capitalize() for p in row[1].split("_"))
            assert row[2] in found, row


def options(numbers: dict[str, dict[str, int]], found: dict[str, dict[int, str]]) -> dict[str, str]:
    members = {t.removesuffix("Options").lower(): t for u in ("BuiltinOptions", "BuiltinOptions2") for t in found[u].values()}
    ops = numbers["BuiltinOperator"]
    matched = {op: OPTIONS_OF.get(op) or members.get(op.replace("_", "").lower()) for op in ops}
    return {op: table for op, table in matched.items() if table}


def extract(module: ModuleType) -> dict[str, Any]:
    numbers = enums(module)
    found = unions(module, numbers)
    facts = {}
    for name, cls in sorted(tables(module).items()):
        rows = sorted([*fields(module, name, cls), *DEPRECATED.get(name, [])])
        name_unions(rows, found)
        facts[name] = rows
    return {
        "origin": f"introspected from ai-edge-litert {version('ai-edge-litert')}",
        "enums": {n: v for n, v in numbers.items() if n not in found},
        "unions": found,
        "options": options(numbers, found),
        "tables": facts,
    }


def render(facts: dict[str, Any]) -> str:
    """JSON with one line an entry of the second level, so that a change of the schema is a readable diff."""
    parts = []
    for key, value in facts.items():
        if isinstance(value, dict):
            lines = ",\n".join(f"    {json.dumps(k)}: {json.dumps(v, separators=(',', ':'))}" for k, v in value.items())
            parts.append(f"  {json.dumps(key)}: {{\n{lines}\n  }}")
        else:
            parts.append(f"  {json.dumps(key)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


if __name__ == "__main__":
    from ai_edge_litert import schema_py_generated

    with open(sys.argv[1], "w", encoding="utf-8") as out:
        out.write(render(extract(schema_py_generated)))
