"""An op's options between records and `Options`: schema names, defaults filled in, enumerations as names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .errors import Invalid
from .flat import Record
from .graph import Options
from .schema import Field, Table, schema

CUSTOM = "CUSTOM:"  # op names of custom ops: "CUSTOM:<custom code>"
UNIONS = {"BuiltinOptions": "builtin_options", "BuiltinOptions2": "builtin_options_2"}


def options_table(op: str) -> Table | None:
    """The options table of an op by its schema name; None for ops without options and custom ops."""
    name = schema().options.get(op)
    return schema().tables[name] if name else None


def read_options(op: str, operator: Record) -> Options:
    """Options of an op from its operator record. As in LiteRT, a table that is not this op's counts as absent.

    *Raises*: Invalid for an enumeration value that the schema does not know.
    """
    if op.startswith(CUSTOM):
        stored = operator.get("outside", operator.get("custom_options"))
        return Options(custom_options=b"" if stored is None else stored.tobytes())
    table = options_table(op)
    if table is None:
        return Options()
    union = schema().union_of[table.name][0]
    record = operator.get(UNIONS[union])
    if record is None or record.table != table.name:
        record = Record(table.name)
    return Options({f.name: _to_python(f, record.get(f.name, f.default)) for f in table.fields if not f.deprecated})


def _to_python(field: Field, value: Any) -> Any:
    if field.enum:
        names = schema().enum_names[field.enum]
        if value not in names:
            raise Invalid(f"option {field.name} has the unknown value {value}", expected=", ".join(names.values()))
        return names[value]
    if field.kind == "string":
        return value or ""
    if field.kind == "scalars":
        return () if value is None else tuple(value.tolist())
    return value


def write_options(op: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of the operator record that hold these options. Missing ones get the schema's defaults.

    *Raises*: Invalid for an option the op does not have, or a value that does not fit.
    """
    if op.startswith(CUSTOM):
        stored = bytes(options.get("custom_options", b""))
        return {"custom_options": np.frombuffer(stored, np.uint8)} if stored else {}
    table = options_table(op)
    known = {f.name: f for f in table.fields if not f.deprecated} if table else {}
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise Invalid(f"{op} has no option {', '.join(unknown)}", expected=", ".join(known) or "no options")
    if table is None:
        return {}
    union, tag = schema().union_of[table.name]
    fields = {name: _to_record(op, known[name], value) for name, value in options.items()}
    record = Record(table.name, {k: v for k, v in fields.items() if v is not None})
    return {UNIONS[union]: record, UNIONS[union] + "_type": tag}


def _to_record(op: str, field: Field, value: Any) -> Any:
    if field.enum:
        values = schema().enums[field.enum]
        if value not in values:
            raise Invalid(f"option {field.name} of {op} cannot be {value!r}", expected=", ".join(values))
        return values[value]
    if field.kind == "scalars":
        return np.asarray(value) if len(value) else None
    if field.kind == "string":
        return value or None
    try:
        return field.number(value)
    except ValueError as e:
        raise Invalid(f"option {field.name} of {op}: {e}") from e
