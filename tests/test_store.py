"""The store: rows whole or not at all, each once, from several processes; and what is refused."""

from __future__ import annotations

import multiprocessing
import sqlite3
from dataclasses import replace

import numpy as np
import pytest

from calibrate.store import Row, Store, merge
from qsim.errors import BadData, WriteFailed

ROW = Row("k1", "m", "{}", "d", "v", "select[0:2]", facts={"loss": 0.5}, arrays={"loss": np.array([0.25, 0.75])})


def same(a: Row, b: Row) -> bool:
    plain = all(
        getattr(a, c) == getattr(b, c) for c in ("key", "model", "candidate", "data", "version", "unit", "status", "reason", "facts")
    )
    return plain and {k: v.tobytes() for k, v in a.arrays.items()} == {k: v.tobytes() for k, v in b.arrays.items()}


def test_a_row_comes_back_as_it_was(tmp_path):
    with Store(tmp_path / "s.sqlite") as store:
        store.put(ROW)
    with Store(tmp_path / "s.sqlite") as store:
        assert same(store.get("k1"), ROW) and len(store) == 1 and store.get("k2") is None


def test_a_done_row_stays_and_a_failed_one_gives_way():
    store = Store(None)
    store.put(replace(ROW, status="failed", reason="lost", arrays={}))
    store.put(ROW)
    store.put(replace(ROW, status="failed", reason="again", arrays={}))
    assert same(store.get("k1"), ROW)


def test_merging_is_a_union_by_key(tmp_path):
    for n in range(3):
        with Store(tmp_path / f"worker-{n}.sqlite") as store:
            store.put_all(replace(ROW, key=f"k{i}") for i in range(n, n + 3))
    with Store(tmp_path / "worker-3.sqlite") as store:
        store.put(replace(ROW, key="k4", status="failed", reason="lost", arrays={}))
    for _ in range(2):
        assert merge(tmp_path, tmp_path / "all.sqlite") == (4, 5)
    with Store(tmp_path / "all.sqlite") as store:
        assert [r.key for r in store.rows()] == ["k0", "k1", "k2", "k3", "k4"] and all(r.status == "done" for r in store.rows())


def test_a_folder_without_stores_is_refused(tmp_path):
    with pytest.raises(BadData, match="no stores to merge"):
        merge(tmp_path, tmp_path / "all.sqlite")
    assert not (tmp_path / "all.sqlite").exists()


def test_what_is_no_store_is_refused_and_left_alone(tmp_path):
    text, other, newer = tmp_path / "text.sqlite", tmp_path / "other.sqlite", tmp_path / "newer.sqlite"
    text.write_bytes(b"no database at all, but longer than a header" * 20)
    with sqlite3.connect(other) as c:
        c.execute("CREATE TABLE books (title TEXT)")
    with sqlite3.connect(newer) as c:
        c.execute("PRAGMA user_version = 99")
    for path, words in ((text, "not a store"), (other, "another kind"), (newer, "version 99")):
        before = path.read_bytes()
        with pytest.raises(BadData, match=words):
            Store(path)
        assert path.read_bytes() == before


def test_a_damaged_page_is_told(tmp_path):
    path = tmp_path / "s.sqlite"
    with Store(path) as store:
        store.put_all(replace(ROW, key=f"k{i}", arrays={"loss": np.zeros(500)}) for i in range(50))
    data = bytearray(path.read_bytes())
    data[4096 * 3 : 4096 * 20] = b"\xff" * (4096 * 17)
    path.write_bytes(data)
    with pytest.raises(BadData, match="damaged"), Store(path) as store:
        list(store.rows())


def test_a_folder_or_an_absent_one_is_refused(tmp_path):
    with pytest.raises(WriteFailed, match="a store is a file"):
        Store(tmp_path)
    for place in (tmp_path / "nowhere" / "s.sqlite", "/proc/s.sqlite"):
        with pytest.raises(WriteFailed, match="cannot be opened"):
            Store(place)


def test_a_full_disk_is_told_and_keeps_what_was_there(tmp_path):
    with Store(tmp_path / "s.sqlite") as store:
        store.put(ROW)
        pages = store._open.execute("PRAGMA page_count").fetchone()[0]
        store._open.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(WriteFailed, match="full"):
            store.put_all(replace(ROW, key=f"k{i}", arrays={"loss": np.zeros(4096)}) for i in range(10))
        assert [r.key for r in store.rows()] == ["k1"]


def _filled(path: str, first: int) -> None:
    with Store(path) as store:
        for i in range(first, first + 60):
            store.put(replace(ROW, key=f"k{i}"))


def test_two_processes_write_one_store(tmp_path):
    path, context = str(tmp_path / "s.sqlite"), multiprocessing.get_context("spawn")
    writers = [context.Process(target=_filled, args=(path, first)) for first in (0, 30)]
    for w in writers:
        w.start()
    for w in writers:
        w.join()
    with Store(path) as store:
        assert [w.exitcode for w in writers] == [0, 0] and len(store) == 90
