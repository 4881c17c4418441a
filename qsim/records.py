"""Comparing and printing records: `diff` (which paths differ in meaning) and `dump` (JSON)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from .flat import OUTSIDE, Record
from .schema import schema


def diff(a: Record, b: Record) -> list[str]:
    """Paths at which two trees of records differ in meaning: "subgraphs[0].tensors[3].quantization.scale".

    Not a difference: a scalar left out and the same scalar at its default; where data lies (inside the flatbuffer or outside it);
    a buffer without data and a buffer with zero bytes.
    """
    return list(_records("", a, b))


def _records(path: str, a: Record, b: Record) -> Iterator[str]:
    if a.table != b.table:
        yield path
        return
    table = schema().tables[a.table]
    skipped = OUTSIDE.get(a.table, ())
    for field in table.fields:
        if field.name in skipped:
            continue
        where = f"{path}.{field.name}" if path else field.name
        if a.table == "Buffer":
            yield from _values(where, _data(a), _data(b))
        else:
            yield from _values(where, a.get(field.name, field.default), b.get(field.name, field.default))
    if a.table == "Operator":
        yield from _values(f"{path}.large_custom_options", a.get("outside"), b.get("outside"))


def _data(buffer: Record) -> np.ndarray:
    found = buffer.get("outside", buffer.get("data"))
    return np.zeros(0, np.uint8) if found is None else found


def _values(path: str, a: Any, b: Any) -> Iterator[str]:
    if isinstance(a, Record) and isinstance(b, Record):
        yield from _records(path, a, b)
    elif isinstance(a, list) and isinstance(b, list):
        if len(a) != len(b):
            yield path
        for i, (x, y) in enumerate(zip(a, b, strict=False)):
            yield from _values(f"{path}[{i}]", x, y)
    elif isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        # Bytes, not values: NaNs are equal to themselves, and -0.0 is not 0.0.
        if a.shape != b.shape or a.tobytes() != b.tobytes():
            yield path
    elif type(a) is not type(b) or (a != b and a == a):
        yield path


def dump(value: Any, *, longest: int = 64) -> Any:
    """A record as JSON-able values. Enumerations as names; vectors longer than `longest` as their length and SHA-256."""
    if isinstance(value, Record):
        fields = schema().tables[value.table].by_name
        return {k: _named(fields[k].enum, v) if k in fields and fields[k].enum else dump(v, longest=longest) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        if value.size > longest:
            return {"elements": value.size, "type": str(value.dtype), "sha256": hashlib.sha256(value.tobytes()).hexdigest()}
        return value.tolist()
    if isinstance(value, Mapping):
        return {k: dump(v, longest=longest) for k, v in value.items()}
    return [dump(v, longest=longest) for v in value] if isinstance(value, list) else value


def _named(enum: str | None, number: int) -> str | int:
    return schema().enum_names[enum or ""].get(number, number)
