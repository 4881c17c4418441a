"""Bytes <-> plain records, over the facts of schema.json: `read` and `write`. No generated code.

A record is a dict {field name: value} that knows its table: absent fields are absent, enumerations are numbers, a union is its
member's record beside its tag (`builtin_options`, `builtin_options_type`), scalar vectors are read-only numpy views of the bytes.
Data outside the flatbuffer (`Buffer.offset/size`, `Operator.large_custom_options_offset/size`) shows up as the extra field
`outside`: a view of the bytes; writing a record that has it puts the bytes outside again.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import flatbuffers
import numpy as np

from .errors import Malformed
from .schema import SCALARS, Field, Table, schema

IDENTIFIER = b"TFL3"
OUTSIDE = {"Buffer": ("offset", "size"), "Operator": ("large_custom_options_offset", "large_custom_options_size")}
ALIGNMENT = 16  # of buffer data: what the schema asks for
_U16, _U32, _I32, _U64 = (struct.Struct("<" + letter) for letter in "HIiQ")


class Record(dict):
    """Fields by name. `table`: the schema's name of the table. `at`: its byte position in the file it was read from, or -1."""

    __slots__ = ("table", "at")

    def __init__(self, table: str, fields: Mapping[str, Any] | None = None, at: int = -1):
        super().__init__(fields or {})
        self.table, self.at = table, at

    def but(self, **changes: Any) -> Record:
        """A changed copy; a field set to None is removed."""
        merged = {**self, **changes}
        return Record(self.table, {k: v for k, v in merged.items() if v is not None}, self.at)

    def value(self, name: str) -> Any:
        """The field's value, or the schema's default."""
        return self[name] if name in self else schema().tables[self.table].by_name[name].default


def read(data: bytes, root: str = "Model") -> Record:
    """The records of a file that `verify` has accepted. *Raises*: Malformed where data outside the flatbuffer leaves the file."""
    return _read_table(data, schema().tables[root], _U32.unpack_from(data, 0)[0])


def slots(data: bytes, at: int) -> tuple[int, ...]:
    """Offsets, relative to `at`, of the fields of the table at `at`, by slot; 0 where absent."""
    vtable = at - _I32.unpack_from(data, at)[0]
    return struct.unpack_from(f"<{_U16.unpack_from(data, vtable)[0] // 2 - 2}H", data, vtable + 4)


def _read_table(data: bytes, table: Table, at: int) -> Record:
    record = Record(table.name, at=at)
    for field, offset in zip(table.by_slot, slots(data, at), strict=False):
        if offset and field is not None:
            record[field.name] = _read_field(data, field, at + offset, record)
    for key in [k for k, v in record.items() if v is None]:
        del record[key]
    if table.name in OUTSIDE:
        _read_outside(data, record)
    return record


def _read_field(data: bytes, field: Field, at: int, record: Record) -> Any:
    if field.kind == "scalar":
        return struct.unpack_from("<" + SCALARS[field.type][0], data, at)[0]
    at += _U32.unpack_from(data, at)[0]
    if field.kind == "string":
        return _read_string(data, at)
    if field.kind == "table":
        return _read_table(data, schema().tables[field.type], at)
    if field.kind == "union":
        member = schema().unions[field.type].get(record.get(field.name + "_type", 0))
        return _read_table(data, schema().tables[member], at) if member else None
    return _read_vector(data, field, at)


def _read_string(data: bytes, at: int) -> str:
    # Names in files are often, not always, UTF-8; surrogateescape brings back the same bytes.
    return data[at + 4 : at + 4 + _U32.unpack_from(data, at)[0]].decode("utf-8", "surrogateescape")


def _read_vector(data: bytes, field: Field, at: int) -> Any:
    count = _U32.unpack_from(data, at)[0]
    if field.kind == "scalars":
        return np.frombuffer(data, SCALARS[field.type][1], count, at + 4)
    places = (at + 4 + 4 * i for i in range(count))
    targets = [place + _U32.unpack_from(data, place)[0] for place in places]
    if field.kind == "strings":
        return [_read_string(data, t) for t in targets]
    table = schema().tables[field.type]
    return [_read_table(data, table, t) for t in targets]


def _read_outside(data: bytes, record: Record) -> None:
    start, size = (record.get(name, 0) for name in OUTSIDE[record.table])
    if start <= 1 or not size:  # 0 and 1 are placeholders
        return
    if start > len(data) or size > len(data) - start:
        raise Malformed(
            f"{record.table} refers to {size} bytes at {start}, outside the file", where=f"byte {record.at}", found=f"{len(data)} bytes"
        )
    record["outside"] = np.frombuffer(data, np.uint8, size, start)


def write(root: Mapping[str, Any], table: str = "Model") -> bytes:
    """The bytes of a tree of records. Buffer data is aligned to 16; data under `outside` follows the flatbuffer, aligned to 16.

    Fields equal to their default are left out, as every flatbuffers writer does. *Raises*: flatbuffers.builder.BuilderSizeError
    beyond 2^31 bytes inside the flatbuffer.
    """
    writer = _Writer(flatbuffers.Builder(_estimate(root) + 1024))
    writer.builder.Finish(writer.table(root, schema().tables[table]), IDENTIFIER)
    inside = bytes(writer.builder.Output())
    return _append(inside, writer.outside) if writer.outside else inside


def _estimate(value: Any) -> int:
    """Upper estimate of the bytes a value needs, so that the builder never has to grow."""
    if isinstance(value, Mapping):
        return 16 + sum(12 + _estimate(v) for k, v in value.items() if k != "outside")
    if isinstance(value, np.ndarray):
        return value.nbytes + 24
    if isinstance(value, (list, tuple)):
        return 8 + sum(4 + _estimate(v) for v in value)
    return 12 + 4 * len(value) if isinstance(value, str) else 8


class _Writer:
    """Children before parents, as flatbuffers are built. `outside`: (table's distance from the end, table name, bytes)."""

    def __init__(self, builder: flatbuffers.Builder):
        self.builder = builder
        self.outside: list[tuple[int, str, np.ndarray]] = []

    def table(self, record: Mapping[str, Any], table: Table) -> int:
        outside = record.get("outside")
        places = OUTSIDE.get(table.name, ())
        record = {k: v for k, v in record.items() if k not in places}
        if outside is not None:  # any values that are not defaults: they are filled in once the places are known
            record.update(dict.fromkeys(places, 2))
        references = {f.slot: self.child(record, f) for f in table.fields if f.kind != "scalar" and record.get(f.name) is not None}
        self.builder.StartObject(len(table.by_slot))
        for slot, reference in references.items():
            self.builder.PrependUOffsetTRelativeSlot(slot, reference, 0)
        # Larger scalars first, so that padding is only needed once.
        for field in sorted((f for f in table.fields if f.kind == "scalar" and f.name in record), key=lambda f: -f.size):
            _PREPEND[field.type](self.builder, field.slot, record[field.name], field.default)
        at = self.builder.EndObject()
        if outside is not None:
            self.outside.append((at, table.name, outside))
        return at

    def child(self, record: Mapping[str, Any], field: Field) -> int:
        value = record[field.name]
        if field.kind == "string":
            return self.builder.CreateString(value.encode("utf-8", "surrogateescape"))
        if field.kind == "table":
            return self.table(value, schema().tables[field.type])
        if field.kind == "union":
            return self.table(value, schema().tables[schema().unions[field.type][record[field.name + "_type"]]])
        if field.kind == "scalars":
            align = ALIGNMENT if field.name == "data" else field.item_size
            return self.scalars(np.ascontiguousarray(value, SCALARS[field.type][1]), align)
        if field.kind == "strings":
            return self.references([self.builder.CreateString(v.encode("utf-8", "surrogateescape")) for v in value])
        return self.references([self.table(v, schema().tables[field.type]) for v in value])

    def scalars(self, values: np.ndarray, align: int) -> int:
        self.builder.StartVector(values.itemsize, values.size, align)
        head = self.builder.head - values.nbytes
        self.builder.Bytes[head : head + values.nbytes] = values.tobytes()
        self.builder.head = head
        return self.builder.EndVector()

    def references(self, places: list[int]) -> int:
        self.builder.StartVector(4, len(places), 4)
        for place in reversed(places):
            self.builder.PrependUOffsetTRelative(place)
        return self.builder.EndVector()


_PREPEND = {name: getattr(flatbuffers.Builder, f"Prepend{name.capitalize()}Slot") for name in SCALARS}


def _append(inside: bytes, outside: list[tuple[int, str, np.ndarray]]) -> bytes:
    """The flatbuffer, then each block of outside bytes at a multiple of 16, with the records pointed at them."""
    end, head, tail = len(inside), bytearray(inside), []
    for distance, table, block in outside:
        pad = -end % ALIGNMENT
        at = len(inside) - distance
        for name, value in zip(OUTSIDE[table], (end + pad, block.size), strict=True):
            place = at + slots(inside, at)[schema().tables[table].by_name[name].slot]
            _U64.pack_into(head, place, value)
        tail += [bytes(pad), block.tobytes()]
        end += pad + block.size
    return b"".join([head, *tail])
