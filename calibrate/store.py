"""Where a sweep keeps what it has computed: one SQLite file, one row per unit of work, found again by its key; and what each finished
sweep found, as plain data for reports.

A unit's key holds all that its result depends on (model, candidate, data, versions), so rows are never mixed: what changed gets new keys.
"""

from __future__ import annotations

import io
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qsim.errors import BadData, WriteFailed

SCHEMA = 1
DAMAGED = "Move it away; what it held is computed again"
BUSY_SECONDS = 60.0  # how long a writer waits for another
TABLE = """CREATE TABLE IF NOT EXISTS results (
  key TEXT PRIMARY KEY, model TEXT NOT NULL, candidate TEXT NOT NULL, data TEXT NOT NULL, version TEXT NOT NULL,
  unit TEXT NOT NULL, status TEXT NOT NULL, reason TEXT NOT NULL, facts TEXT NOT NULL, arrays BLOB NOT NULL) WITHOUT ROWID"""
SWEEPS = "CREATE TABLE IF NOT EXISTS sweeps (key TEXT PRIMARY KEY, name TEXT NOT NULL, data TEXT NOT NULL) WITHOUT ROWID"
COLUMNS = ("key", "model", "candidate", "data", "version", "unit", "status", "reason", "facts", "arrays")


@dataclass(frozen=True, eq=False)
class Row:
    """The result of a unit of work.

    key: SHA-256 of the five that follow: the model's hash, the candidate's canonical text, the fingerprint of all data that take part,
    versions of code and numerics, and which part of the work it is. status: "done" or "failed", with the reason. facts: plain
    numbers and words. arrays: per-sample results by name.
    """

    key: str
    model: str
    candidate: str
    data: str
    version: str
    unit: str
    status: str = "done"
    reason: str = ""
    facts: Mapping[str, Any] | None = None
    arrays: Mapping[str, np.ndarray] | None = None


class Store:
    """A file of results (or memory, for path None). Several processes of one machine may share it; over a network file system each
    process has its own, and `merge` unites them."""

    def __init__(self, path: str | os.PathLike[str] | None):
        self.path = None if path is None else Path(path)
        self._open = _opened(self.path)

    def __len__(self) -> int:
        return sum(1 for _ in self._read("SELECT key FROM results"))

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._open.close()

    def get(self, key: str) -> Row | None:
        """The row of a key, or None."""
        return next(map(_row, self._read(f"SELECT {', '.join(COLUMNS)} FROM results WHERE key = ?", key)), None)

    def rows(self) -> Iterator[Row]:
        """All rows in the order of their keys."""
        return map(_row, self._read(f"SELECT {', '.join(COLUMNS)} FROM results ORDER BY key"))

    def _read(self, query: str, *values: Any) -> Iterator[tuple[Any, ...]]:
        try:
            yield from self._open.execute(query, values)
        except sqlite3.OperationalError as fault:
            raise WriteFailed(f"the store cannot be read ({fault})", where=str(self.path), hint="Run the same command again") from fault
        except sqlite3.DatabaseError as fault:
            raise BadData(f"the store is damaged ({fault})", where=str(self.path), hint=DAMAGED) from fault

    def put(self, row: Row) -> None:
        """Keep a row: whole, or not at all. A done row stays; a failed one gives way. *Raises*: WriteFailed."""
        self.put_all([row])

    def put_all(self, rows: Iterable[Row]) -> None:
        with _written(self.path), self._open:
            self._open.executemany(
                f"INSERT INTO results ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))}) ON CONFLICT(key) DO UPDATE SET "
                + ", ".join(f"{c} = excluded.{c}" for c in ("status", "reason", "facts", "arrays"))
                + " WHERE results.status != 'done'",
                map(_stored, rows),
            )

    def keep_summary(self, key: str, data: Mapping[str, Any]) -> None:
        """Keep what a sweep found (`summary.summary`) under its key (`summary.key_of`); a later run's takes the place of an earlier one's.

        *Raises*: WriteFailed.
        """
        self.keep_all([(key, str(data["name"]), json.dumps(data, sort_keys=True, allow_nan=False))])

    def keep_all(self, kept: Iterable[tuple[str, str, str]]) -> None:
        with _written(self.path), self._open:
            self._open.executemany("INSERT OR REPLACE INTO sweeps (key, name, data) VALUES (?, ?, ?)", kept)

    def has_summary(self, key: str) -> bool:
        return any(True for _ in self._read("SELECT key FROM sweeps WHERE key = ?", key))

    def kept(self) -> Iterator[tuple[str, str, str]]:
        """(key, name, JSON) of all finished sweeps, by name."""
        return self._read("SELECT key, name, data FROM sweeps ORDER BY name, key")  # type: ignore[return-value]

    def summaries(self) -> list[dict[str, Any]]:
        """What all finished sweeps found, by name. *Raises*: BadData."""
        try:
            return [json.loads(text) for _, _, text in self.kept()]
        except ValueError as fault:
            raise BadData(f"the store is damaged ({fault})", where=str(self.path), hint=DAMAGED) from fault


def merge(folder: str | os.PathLike[str], target: str | os.PathLike[str]) -> tuple[int, int]:
    """Unite the stores (*.sqlite) of a folder in one, by key. Gives (stores read, rows of the target).

    *Raises*: BadData for a folder without stores or with a damaged one; WriteFailed.
    """
    target = Path(target)
    found = [p for p in sorted(Path(folder).glob("*.sqlite")) if not (target.exists() and p.samefile(target))]
    if not found:
        raise BadData("no stores to merge", where=str(folder), expected="*.sqlite files, as `qsim sweep --worker` writes them")
    with Store(target) as into:
        for path in found:
            with Store(path) as part:
                into.put_all(part.rows())
                into.keep_all(part.kept())
        return len(found), len(into)


def _opened(path: Path | None) -> sqlite3.Connection:
    """*Raises*: BadData for what is no store or of a newer form, WriteFailed where the file cannot be made."""
    if path is not None and path.is_dir():
        raise WriteFailed("a store is a file", where=str(path), hint=f"Say {path / 'sweep.sqlite'}")
    try:
        found = sqlite3.connect(":memory:" if path is None else path, timeout=BUSY_SECONDS)
        _require_store(found, str(path))
        _journal(found)
        with found:
            found.execute(TABLE)
            found.execute(SWEEPS)
            found.execute(f"PRAGMA user_version = {SCHEMA}")
        return found
    except sqlite3.OperationalError as fault:
        raise WriteFailed(f"the store cannot be opened or written ({fault})", where=str(path)) from fault
    except sqlite3.DatabaseError as fault:
        raise BadData(f"not a store, or damaged ({fault})", where=str(path), hint=DAMAGED) from fault


def _journal(connection: sqlite3.Connection) -> None:
    """A write-ahead log; where the file system has no shared memory for it, SQLite's rollback journal."""
    try:
        connection.execute("PRAGMA journal_mode = WAL")
    except sqlite3.OperationalError:
        connection.execute("PRAGMA journal_mode = DELETE")
    connection.execute("PRAGMA synchronous = NORMAL")


def _require_store(connection: sqlite3.Connection, where: str) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    if version not in (0, SCHEMA) or (version == 0 and set(tables) - {"results", "sweeps"}):
        raise BadData("a database of another kind or version", where=where, found=f"version {version}", expected=f"version {SCHEMA}")


@contextmanager
def _written(path: Path | None) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as fault:
        hint = "What is in it stays; free some space or rights and run the same command again"
        raise WriteFailed(f"the store cannot be written ({fault})", where=str(path), hint=hint) from fault
    except sqlite3.DatabaseError as fault:
        raise BadData(f"the store is damaged ({fault})", where=str(path), hint=DAMAGED) from fault


def _stored(row: Row) -> tuple[Any, ...]:
    plain = [getattr(row, c) for c in COLUMNS[:-2]]
    return *plain, json.dumps(row.facts or {}, sort_keys=True), _packed(row.arrays or {})


def _row(found: tuple[Any, ...]) -> Row:
    return Row(*found[:8], facts=json.loads(found[8]), arrays=_unpacked(found[9]))  # type: ignore[misc]


def _packed(arrays: Mapping[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def _unpacked(data: bytes) -> dict[str, np.ndarray]:
    with np.load(io.BytesIO(data), allow_pickle=False) as z:
        return {k: z[k] for k in z.files}
