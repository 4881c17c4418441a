"""Structural verifier: after `verify(data)` every record of the file can be read without leaving the bytes.

One iterative walk over the tables that schema.json describes. It bounds its own work: a small file may be a shared graph that
unfolds to billions of records (each valid), so the records and payload bytes *as unfolded* are counted against the file's size.
It proves that reading is safe, not that the model means anything; `reader` and `check` do that.
"""

from __future__ import annotations

import struct
from typing import NoReturn

from .errors import Malformed, TooLarge
from .schema import Field, Table, schema

_U16, _U32, _I32, _U64 = (struct.Struct("<" + letter) for letter in "HIiQ")


def verify(data: bytes, root: str = "Model") -> tuple[str, ...]:
    """Names of what the file holds and this schema does not know: "Tensor slot 11", "Operator.builtin_options tag 140".

    *Raises*: Malformed naming the field that is damaged; TooLarge for a file whose records unfold far beyond its size.
    """
    if len(data) < 8:
        raise Malformed("too short to be a model", found=f"{len(data)} bytes", expected="at least 8")
    walk = _Walk(data)
    walk.push(root, walk.follow(0, "the root"))
    while walk.stack:
        walk.table(*walk.stack.pop())
    return tuple(sorted(walk.unknown))


class _Walk:
    """State of one walk. `stack`: (table, position) still to look at; every position on it lies inside the data."""

    def __init__(self, data: bytes):
        self.data, self.size = data, len(data)
        # A file that shares nothing needs 4 bytes for a table and 4 for the reference to it; twice that is allowed.
        self.tables_left = self.size // 4 + 8
        self.bytes_left = 4 * self.size + 64
        self.stack: list[tuple[Table, int]] = []
        self.unknown: set[str] = set()

    def push(self, table: str, at: int) -> None:
        self.stack.append((schema().tables[table], at))

    def fail(self, what: str, at: int, why: str) -> NoReturn:
        raise Malformed(f"{what} {why}", where=f"byte {at}", hint="The file is damaged or cut short")

    def follow(self, at: int, what: str) -> int:
        """Where the reference at `at` leads: always forward, 4-aligned, with room for 4 bytes."""
        if at + 4 > self.size:
            self.fail(what, at, "leaves the file")
        target = at + _U32.unpack_from(self.data, at)[0]
        if target == at or target % 4 or target + 4 > self.size:
            self.fail(what, at, "refers outside the file" if target + 4 > self.size else "is a reference to nowhere")
        return target

    def table(self, table: Table, at: int) -> None:
        self.tables_left -= 1
        vtable = at - _I32.unpack_from(self.data, at)[0]
        if vtable < 0 or vtable % 2 or vtable + 4 > self.size:
            self.fail(table.name, at, "has its table of fields outside the file")
        vsize, size = struct.unpack_from("<HH", self.data, vtable)
        if vsize < 4 or vsize % 2 or vtable + vsize > self.size or size < 4 or at + size > self.size:
            self.fail(table.name, at, "is larger than the file")
        offsets = struct.unpack_from(f"<{vsize // 2 - 2}H", self.data, vtable + 4)
        for slot, offset in enumerate(offsets):
            if offset:
                field = table.by_slot[slot] if slot < len(table.by_slot) else None
                if field is None:
                    self.unknown.add(f"{table.name} slot {slot}")
                else:
                    self.field(table, field, at, offset, size, offsets)

    def field(self, table: Table, field: Field, at: int, offset: int, size: int, offsets: tuple[int, ...]) -> None:
        what, place = f"{table.name}.{field.name}", at + offset
        if offset < 4 or offset + field.size > size or place % field.size:
            self.fail(what, place, "lies outside its record or is not aligned")
        if field.kind == "scalar":
            return
        target = self.follow(place, what)
        if field.kind == "string":
            self.string(what, target)
        elif field.kind == "table":
            self.more([target], field.type, what)
        elif field.kind == "union":
            self.union(field, at, target, offsets, what)
        else:
            self.vector(field, target, what)

    def string(self, what: str, at: int) -> None:
        end = self.payload(what, at, 1) + at + 4
        if end >= self.size or self.data[end]:
            self.fail(what, at, "does not end in a zero byte")

    def payload(self, what: str, at: int, item: int) -> int:
        """Number of elements of the vector at `at`; it fits in the file, is aligned, and is within the budget."""
        count = _U32.unpack_from(self.data, at)[0]
        if at + 4 + count * item > self.size:
            self.fail(what, at, f"has {count} elements, more than the file holds")
        if item == 8 and (at + 4) % 8 and count:
            self.fail(what, at, "is not aligned")
        self.bytes_left -= count * item
        if self.bytes_left < 0:
            self.too_large(what)
        return count

    def too_large(self, what: str) -> NoReturn:
        raise TooLarge("the records refer to each other so often that they unfold far beyond the size of the file", where=what)

    def vector(self, field: Field, at: int, what: str) -> None:
        count = self.payload(what, at, field.item_size)
        if field.kind == "scalars" or not count:
            return
        if field.kind == "tables" and len(self.stack) + count > self.tables_left:
            self.too_large(what)
        targets = [self.follow(at + 4 + 4 * i, f"{what}[{i}]") for i in range(count)]
        if field.kind == "strings":
            for target in targets:
                self.string(what, target)
        else:
            self.more(targets, field.type, what)

    def more(self, targets: list[int], table: str, what: str) -> None:
        if len(self.stack) + len(targets) > self.tables_left:
            self.too_large(what)
        found = schema().tables[table]
        self.stack.extend((found, target) for target in targets)

    def union(self, field: Field, at: int, target: int, offsets: tuple[int, ...], what: str) -> None:
        # A union is two fields: the tag in the slot before, the reference in its own.
        offset = offsets[field.slot - 1]
        tag = self.data[at + offset] if offset else 0
        member = schema().unions[field.type].get(tag)
        if member is not None:
            self.more([target], member, what)
        elif tag:
            self.unknown.add(f"{what} tag {tag}")
