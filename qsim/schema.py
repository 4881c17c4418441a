"""The facts of the .tflite schema as records: tables, fields, enumerations, unions. The facts themselves are in schema.json.

Knows nothing of bytes; `verify` and `flat` walk files by these records.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files
from typing import Any

SCALARS = {  # schema type -> (struct letter, numpy type, bytes)
    "bool": ("?", "?", 1),
    "int8": ("b", "<i1", 1),
    "uint8": ("B", "<u1", 1),
    "int16": ("h", "<i2", 2),
    "uint16": ("H", "<u2", 2),
    "int32": ("i", "<i4", 4),
    "uint32": ("I", "<u4", 4),
    "int64": ("q", "<i8", 8),
    "uint64": ("Q", "<u8", 8),
    "float32": ("f", "<f4", 4),
}


@dataclass(frozen=True)
class Field:
    """One field of a table. `kind`: scalar, string, table, union, scalars, strings, tables (the last three are vectors).

    `type`: the scalar type, table or union that `kind` speaks of. `size`: bytes inside the table (4 for references).
    `enum`: the enumeration that an integer holds. `deprecated`: retired by the schema, kept when a file has it.
    """

    slot: int
    name: str
    kind: str
    type: str
    default: Any
    enum: str | None = None

    @property
    def deprecated(self) -> bool:
        return self.name.startswith("deprecated_") and self.name != "deprecated_builtin_code"

    @cached_property
    def size(self) -> int:
        return SCALARS[self.type][2] if self.kind == "scalar" else 4

    def number(self, value: Any) -> Any:
        """A Python number as this scalar field holds it. *Raises*: ValueError where it does not fit."""
        if self.type == "bool":
            return bool(value)
        try:
            return struct.unpack("<" + SCALARS[self.type][0], struct.pack("<" + SCALARS[self.type][0], value))[0]
        except (struct.error, TypeError, OverflowError) as e:
            raise ValueError(f"{value!r} is no {self.type}") from e

    @cached_property
    def item_size(self) -> int:
        """Bytes of one element of a vector."""
        return SCALARS[self.type][2] if self.kind == "scalars" else 4


@dataclass(frozen=True)
class Table:
    name: str
    fields: tuple[Field, ...]

    @cached_property
    def by_name(self) -> dict[str, Field]:
        return {f.name: f for f in self.fields}

    @cached_property
    def by_slot(self) -> tuple[Field | None, ...]:
        slots: list[Field | None] = [None] * (1 + max((f.slot for f in self.fields), default=-1))
        for f in self.fields:
            slots[f.slot] = f
        return tuple(slots)


@dataclass(frozen=True)
class Schema:
    """tables by name; enums: name -> {value name: number}; unions: name -> {tag: table}; options: op name -> options table."""

    origin: str
    tables: dict[str, Table]
    enums: dict[str, dict[str, int]]
    unions: dict[str, dict[int, str]]
    options: dict[str, str]

    @cached_property
    def enum_names(self) -> dict[str, dict[int, str]]:
        return {name: {number: text for text, number in values.items()} for name, values in self.enums.items()}

    @cached_property
    def union_of(self) -> dict[str, tuple[str, int]]:
        """Table name -> (union, tag) it is a member of."""
        return {table: (union, tag) for union, members in self.unions.items() for tag, table in members.items()}


def _field(row: list[Any], facts: dict[str, Any]) -> Field:
    slot, name, text, default, *enum = row
    inner = text.strip("[]")
    kind = "union" if inner in facts["unions"] else "table" if inner in facts["tables"] else "string" if inner == "string" else "scalar"
    if text.startswith("["):
        kind += "s"
    if inner == "float32":
        default = float(default)
    return Field(slot, name, kind, inner, default if kind == "scalar" else None, enum[0] if enum else None)


@cache
def schema() -> Schema:
    """The schema of schema.json, read once."""
    facts = json.loads((files(__package__) / "schema.json").read_text(encoding="utf-8"))
    tables = {name: Table(name, tuple(_field(row, facts) for row in rows)) for name, rows in facts["tables"].items()}
    unions = {name: {int(tag): table for tag, table in members.items()} for name, members in facts["unions"].items()}
    return Schema(facts["origin"], tables, facts["enums"], unions, facts["options"])
