"""Rows as files: CSV with the standard library, Parquet with polars. A row is a mapping of plain values; all have the same names."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from qsim.errors import Unsupported

Rows = Sequence[Mapping[str, Any]]


def csv_bytes(rows: Rows) -> bytes:
    """With a line of names; None is an empty cell."""
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue().encode()


def parquet_bytes(rows: Rows) -> bytes:
    """*Raises*: Unsupported naming the command that installs what is missing."""
    try:
        import polars
    except ImportError:
        raise Unsupported("Parquet needs polars, which is not installed", hint="pip install 'qsim-tflite[report]'") from None
    buffer = io.BytesIO()
    polars.DataFrame(list(rows), infer_schema_length=None).write_parquet(buffer)
    return buffer.getvalue()
