"""Options of custom ops: a FlexBuffers map of numbers, read and written. Other values in the map are left out."""

from __future__ import annotations

import struct
from collections.abc import Mapping

from .errors import Invalid

_NULL, _INT, _UINT, _FLOAT, _MAP, _BOOL = 0, 1, 2, 3, 9, 26
_INDIRECT = {6: _INT, 7: _UINT, 8: _FLOAT}
_KINDS = {_INT: "bhiq", _UINT: "BHIQ", _FLOAT: "?efd", _BOOL: "BHIQ"}  # struct letters for 1, 2, 4, 8 bytes
Number = int | float | bool


def read_numbers(data: bytes) -> dict[str, Number]:
    """The numbers of a map by name. *Raises*: Invalid for bytes that are no map."""
    try:
        width, packed = data[-1], data[-2]
        start = len(data) - 2 - width
        if width not in (1, 2, 4, 8) or packed >> 2 != _MAP or start < 0:
            raise ValueError
        return _map(data, start - _unsigned(data, start, width), 1 << (packed & 3))
    except (IndexError, ValueError, struct.error, UnicodeDecodeError):
        raise Invalid("the custom options are no FlexBuffers map", found=data[:40]) from None


def _map(data: bytes, at: int, width: int) -> dict[str, Number]:
    size = _unsigned(data, at - width, width)
    keys, key_width = at - 3 * width, _unsigned(data, at - 2 * width, width)
    keys -= _unsigned(data, keys, width)
    if at + size * (width + 1) > len(data):
        raise ValueError
    found: dict[str, Number] = {}
    for n in range(size):
        name_at = keys + n * key_width
        name_at -= _unsigned(data, name_at, key_width)
        name = data[_inside(name_at) : data.index(b"\0", name_at)].decode()
        packed, place, own = data[at + size * width + n], at + n * width, width
        kind = packed >> 2
        if kind in _INDIRECT:
            place, own, kind = place - _unsigned(data, place, width), 1 << (packed & 3), _INDIRECT[kind]
        if kind in _KINDS:
            value = _one(data, place, own, kind)
            found[name] = bool(value) if kind == _BOOL else value
    return found


def _unsigned(data: bytes, at: int, width: int) -> int:
    return int(_one(data, at, width, _UINT))


def _one(data: bytes, at: int, width: int, kind: int) -> Number:
    return struct.unpack_from("<" + _KINDS[kind][(1, 2, 4, 8).index(width)], data, _inside(at))[0]


def _inside(at: int) -> int:
    if at < 0:
        raise ValueError
    return at


def write_numbers(values: Mapping[str, Number]) -> bytes:
    """A map of numbers, every value 4 bytes wide."""
    names, data, places = sorted(values), b"", []
    for name in names:
        places.append(len(data))
        data += name.encode() + b"\0"
    data += bytes(-len(data) % 4) + struct.pack("<I", len(names))
    keys = len(data)
    for n, place in enumerate(places):
        data += struct.pack("<I", keys + 4 * n - place)
    data += struct.pack("<III", len(data) - keys, 4, len(names))
    at, kinds = len(data), b""
    for name in names:
        value = values[name]
        kind = _BOOL if isinstance(value, bool) else _INT if isinstance(value, int) else _FLOAT
        data += struct.pack("<" + _KINDS[kind][2], value)
        kinds += bytes([kind << 2 | 2])
    data += kinds + bytes(-len(kinds) % 4)
    return data + struct.pack("<IBB", len(data) - at, _MAP << 2 | 2, 4)
