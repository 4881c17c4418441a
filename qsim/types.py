"""Element types of the file format as one table.

`Tensor.type` is the lower-case name. `dtype` is the numpy type in which a constant of that type is held in memory (sub-byte
integers are unpacked to int8/uint8); `low`, `high` are the ends of the integer code range in steps.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ElementType:
    name: str
    code: int  # number in the schema's TensorType
    bits: int  # stored bits of one element; 0 where elements have no fixed size
    dtype: str | None  # numpy name of the in-memory form
    low: int | None = None
    high: int | None = None


def _int(name: str, code: int, bits: int, dtype: str, signed: bool = True) -> ElementType:
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    return ElementType(name, code, bits, dtype, low, high)


TYPES: dict[str, ElementType] = {
    t.name: t
    for t in (
        ElementType("float32", 0, 32, "float32"),
        ElementType("float16", 1, 16, "float16"),
        _int("int32", 2, 32, "int32"),
        _int("uint8", 3, 8, "uint8", signed=False),
        _int("int64", 4, 64, "int64"),
        ElementType("string", 5, 0, None),
        ElementType("bool", 6, 8, "bool"),
        _int("int16", 7, 16, "int16"),
        ElementType("complex64", 8, 64, "complex64"),
        _int("int8", 9, 8, "int8"),
        ElementType("float64", 10, 64, "float64"),
        ElementType("complex128", 11, 128, "complex128"),
        _int("uint64", 12, 64, "uint64", signed=False),
        ElementType("resource", 13, 0, None),
        ElementType("variant", 14, 0, None),
        _int("uint32", 15, 32, "uint32", signed=False),
        _int("uint16", 16, 16, "uint16", signed=False),
        _int("int4", 17, 4, "int8"),
        ElementType("bfloat16", 18, 16, None),
        _int("int2", 19, 2, "int8"),
        _int("uint4", 20, 4, "uint8", signed=False),
        ElementType("float8_e4m3fn", 21, 8, None),
        ElementType("float8_e5m2", 22, 8, None),
    )
}
BY_CODE: dict[int, ElementType] = {t.code: t for t in TYPES.values()}
CODES = tuple(t.name for t in TYPES.values() if t.low is not None and t.bits <= 16)  # what stands for reals, given parameters


def code_range(type_name: str) -> tuple[int, int]:
    """(low, high) in steps of an integer type, or of signed codes of 2 to 16 bits that only simulations have ("int3", "int6").

    *Raises*: ValueError for a type without integer codes.
    """
    t = TYPES.get(type_name)
    if t is None and simulated(type_name):
        t = _int(type_name, -1, int(type_name[3:]), "int16")
    if t is None or t.low is None or t.high is None:
        raise ValueError(f"{type_name} has no integer codes")
    return t.low, t.high


def simulated(type_name: str) -> bool:
    """Whether a name stands for codes that no file holds: int3, int5 to int7, int9 to int15."""
    return type_name not in TYPES and type_name[:3] == "int" and type_name[3:].isdigit() and 2 <= int(type_name[3:]) <= 16


def holder(type_name: str) -> str:
    """The type whose elements hold such codes in memory: itself, or of simulated codes int8 or int16."""
    if not simulated(type_name):
        return type_name
    return "int8" if int(type_name[3:]) <= 8 else "int16"
