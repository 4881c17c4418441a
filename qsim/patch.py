"""Patching: a model's numbers written into the bytes it was read from, everything else untouched.

What changed is found by comparing two trees of records, the file's and the rebuilt one: if they differ only in numbers of vectors that
may change and keep their length, those vectors are overwritten where they lie. A vector that anything else in the file refers to, in
whole or in part, is not touched: then only a rebuild is safe.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np

from . import flat
from .flat import Record
from .graph import Model
from .rebuild import rebuild
from .records import diff
from .schema import Field, schema

PATCHABLE = frozenset(
    [("QuantizationParameters", name) for name in ("scale", "zero_point", "min", "max")] + [("Buffer", "data"), ("Buffer", "outside")]
)


class _CannotPatch(Exception):
    """More changed than numbers of vectors."""


def patch(model: Model) -> bytes | None:
    """The file's bytes with changed numbers of existing vectors; None where that cannot hold the change, or nothing was read."""
    if model.source is None:
        return None
    old, new = model.source.root, rebuild(model)
    try:
        edits = list(_edits(old, new))
    except _CannotPatch:
        return None
    data = model.source.data
    if not edits:
        return data
    if not _alone(data, old, [(start, start + values.nbytes) for start, values in edits if values.nbytes], _address(data)):
        return None
    return _overwritten(data, edits, new)


def _overwritten(data: bytes, edits: list[tuple[int, np.ndarray]], new: Record) -> bytes | None:
    base, changed = _address(data), bytearray(data)
    for start, values in edits:
        changed[start - base : start - base + values.nbytes] = values.tobytes()
    result = bytes(changed)
    return None if diff(new, flat.read(result)) else result


def _address(data: bytes) -> int:
    return np.frombuffer(data, np.uint8).__array_interface__["data"][0]


def _edits(old: Record, new: Record) -> Iterator[tuple[int, np.ndarray]]:
    """(address of the old vector, its new values) for each vector that changed. *Raises*: _CannotPatch for any other difference."""
    fields = schema().tables[old.table].by_name
    for name in {**old, **new}:
        default = fields[name].default if name in fields else None
        a, b = old.get(name, default), new.get(name, default)
        if a is b:
            continue
        if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
            if a.dtype != b.dtype or a.shape != b.shape:
                raise _CannotPatch
            if a.tobytes() != b.tobytes():
                yield _edit(old.table, name, a, b)
        elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
            yield from _edits_of_list(a, b)
        elif isinstance(a, Record) and isinstance(b, Record) and a.table == b.table:
            yield from _edits(a, b)
        elif a != b:
            raise _CannotPatch


def _edits_of_list(a: list, b: list) -> Iterator[tuple[int, np.ndarray]]:
    for x, y in zip(a, b, strict=True):
        if isinstance(x, Record) and isinstance(y, Record):
            yield from _edits(x, y)
        elif x != y:
            raise _CannotPatch


def _edit(table: str, name: str, a: np.ndarray, b: np.ndarray) -> tuple[int, np.ndarray]:
    if (table, name) not in PATCHABLE:
        raise _CannotPatch
    return a.__array_interface__["data"][0], b


def _alone(data: bytes, root: Record, ranges: list[tuple[int, int]], base: int) -> bool:
    """Whether each byte range to change is part of exactly one piece of the file."""
    pieces = np.array(sorted(_pieces(data, root)), np.int64).reshape(-1, 2) + base
    wanted = sorted(ranges)
    disjoint = all(a[1] <= b[0] for a, b in zip(wanted, wanted[1:], strict=False))
    return disjoint and all(int(np.sum((pieces[:, 0] < end) & (pieces[:, 1] > start))) == 1 for start, end in wanted)


def _pieces(data: bytes, record: Record) -> Iterator[tuple[int, int]]:
    """(start, end) of every table, table of fields, string and vector of the file, once for each reference to it."""
    offsets = flat.slots(data, record.at)
    vtable = record.at - struct.unpack_from("<i", data, record.at)[0]
    yield vtable, vtable + 4 + 2 * len(offsets)
    yield record.at, record.at + struct.unpack_from("<H", data, vtable + 2)[0]
    if "outside" in record:
        start, size = (record[name] for name in flat.OUTSIDE[record.table])
        yield start, start + size
    for field, offset in zip(schema().tables[record.table].by_slot, offsets, strict=False):
        if offset and field is not None and field.kind != "scalar":
            place = record.at + offset
            yield from _pieces_of(data, field, place + struct.unpack_from("<I", data, place)[0], record.get(field.name))


def _pieces_of(data: bytes, field: Field, at: int, value: object) -> Iterator[tuple[int, int]]:
    if isinstance(value, Record):
        yield from _pieces(data, value)
        return
    if field.kind in ("table", "union"):
        return
    count = struct.unpack_from("<I", data, at)[0]
    yield at, at + 4 + count * (1 if field.kind == "string" else field.item_size)
    for item in value if isinstance(value, list) else ():
        if isinstance(item, Record):
            yield from _pieces(data, item)
