"""Tables of numbers as samples: .csv with or without a heading, one row a sample, read in parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from qsim.errors import BadData

from .arrayfiles import Stored
from .feeding import LABELS, Port

PART = 1024  # rows read at once


class _Table(NamedTuple):
    """Where the rows of a table begin, in bytes, and what its columns are."""

    path: Path
    separator: str
    names: list[str]  # empty without a heading
    starts: np.ndarray
    width: int
    heading: int  # lines before the first row

    def rows(self, start: int, stop: int) -> list[list[str]]:
        """The fields of some rows. *Raises*: BadData for a row of another width, or text that is not UTF-8."""
        found = []
        with open(self.path, "rb") as f:
            for k in range(start, min(stop, len(self.starts))):
                f.seek(int(self.starts[k]))
                fields = _text(f.readline(), self.path).split(self.separator)
                if len(fields) != self.width:
                    raise BadData("rows of different lengths", where=f"{self.path}, row {k}", found=len(fields), expected=self.width)
                found.append([v.strip().strip('"') for v in fields])
        return found


def table_file(path: Path, wanted: tuple[Port, ...], groups: str | None = None, label: str | None = None) -> Stored:
    """The rows of a .csv (or .tsv): numbers between commas, semicolons or tabs, the first row a heading where it holds anything else.

    One model input: all columns but the label's and the groups' are its values in row-major order. label: the heading of the label column
    (default: a column named y, label or labels); groups: that of a column of group ids. *Raises*: BadData naming row and column.
    """
    if len(wanted) != 1:
        raise BadData("a table needs a model with one input", where=str(path), found=len(wanted), hint="Give an .npz with an array each")
    found, port = _scanned(path), wanted[0]
    named = label or next((n for n in found.names if n.lower() in LABELS), None)
    apart = [_column(found, n) for n in (named, groups) if n is not None]
    used = [k for k in range(found.width) if k not in apart]
    size = int(np.prod(port.shape))
    if len(used) != size:
        hint = "Name the label column 'y', or give its name" if len(used) == size + 1 else ""
        raise BadData("columns do not fill the input", where=f"{path}, {port.where}", found=len(used), expected=size, hint=hint)
    kind = np.int64 if port.dtype.kind in "iub" else np.float64

    def part(start: int, stop: int) -> tuple[np.ndarray, ...]:
        rows = found.rows(start, stop)
        return (_numbers(found, rows, used, start, kind).reshape(len(rows), *port.shape),)

    labels = None if named is None else _classes(_whole(found, named, lambda rows, c, k: _numbers(found, rows, [c], k, np.float64)[:, 0]))
    ids = None if groups is None else _whole(found, groups, lambda rows, c, k: np.array([r[c] for r in rows]))
    return Stored(len(found.starts), part, labels, ids)


def _whole(table: _Table, name: str, values: Callable[[list[list[str]], int, int], np.ndarray]) -> np.ndarray:
    """A column of every row, read in parts."""
    c = _column(table, name)
    return np.concatenate([values(table.rows(k, k + PART), c, k) for k in range(0, len(table.starts), PART)])


def _scanned(path: Path) -> _Table:
    starts, first, at = [], None, 0
    try:
        with open(path, "rb") as f:
            for line in f:
                if line.strip():
                    first = line if first is None else first
                    starts.append(at)
                at += len(line)
    except OSError as fault:
        raise BadData(f"cannot be read ({fault.strerror})", where=str(path)) from fault
    if first is None:
        raise BadData("no rows", where=str(path))
    text = _text(first, path)
    separator = max(",;\t", key=text.count)
    fields = [v.strip().strip('"') for v in text.split(separator)]
    headed = not all(map(_is_number, fields))
    if headed and len(starts) == 1:
        raise BadData("a heading and no rows", where=str(path))
    return _Table(path, separator, fields if headed else [], np.array(starts[headed:], np.int64), len(fields), int(headed))


def _text(line: bytes, path: Path) -> str:
    try:
        return line.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError as fault:
        raise BadData(f"not a table ({fault})", where=str(path)) from fault


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def _column(table: _Table, name: str) -> int:
    if name not in table.names:
        raise BadData(f"no column {name!r}", where=str(table.path), found=", ".join(table.names) or "no heading")
    return table.names.index(name)


def _numbers(table: _Table, rows: Sequence[Sequence[str]], columns: Sequence[int], first: int, kind: type) -> np.ndarray:
    """(rows, columns) numbers. *Raises*: BadData naming the first field that is none."""
    try:
        return np.array([[r[c] for c in columns] for r in rows], object).astype(kind).reshape(len(rows), len(columns))
    except (ValueError, OverflowError):
        k, c = next((k, c) for k, r in enumerate(rows) for c in columns if not _fits(r[c], kind))
        where = f"{table.path}, row {first + k}, column {table.names[c] if table.names else c}"
        raise BadData("not a number" if kind is np.float64 else "not an integer", where=where, found=repr(rows[k][c])) from None


def _fits(field: str, kind: type) -> bool:
    try:
        np.array([field], object).astype(kind)
    except (ValueError, OverflowError):
        return False
    return True


def _classes(labels: np.ndarray) -> np.ndarray:
    """Integers where all are."""
    whole = np.isfinite(labels).all() and (labels == np.rint(labels)).all()
    return labels.astype(np.int64) if whole else labels
