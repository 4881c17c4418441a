"""The work file of a conformance run survives a kill, and only results of the present sources count."""

from __future__ import annotations

import json

import progress
import pytest
import support_table
import test_conformance
from test_conformance import ROWS

COUNTS = {"draws": 4, "elements": 60, "differing": 0}


@pytest.fixture
def work(tmp_path):
    return progress.Work(tmp_path / "new" / "rows.jsonl")


def test_a_finished_row_is_done_for_as_many_draws(work):
    work.add(progress.record(ROWS[0], COUNTS))
    again = progress.Work(work.path)
    assert again.done(ROWS[0], 4) and not again.done(ROWS[0], 5) and not again.done(ROWS[1], 1)


def test_a_line_cut_short_is_left_out_and_the_next_one_is_whole(work):
    work.add(progress.record(ROWS[0], COUNTS))
    work.add(progress.record(ROWS[1], COUNTS))
    work.path.write_bytes(work.path.read_bytes()[:-20])
    again = progress.Work(work.path)
    assert list(again.rows) == [str(ROWS[0])]
    again.add(progress.record(ROWS[2], COUNTS))
    assert list(progress.Work(work.path).rows) == [str(ROWS[0]), str(ROWS[2])]


def test_a_difference_runs_again_unless_it_is_a_known_defect(work):
    wrong = {**COUNTS, "differing": 3}
    work.add(progress.record(ROWS[0], wrong))
    work.add(progress.record(ROWS[1], wrong, "LiteRT reads past the end"))
    assert not work.done(ROWS[0], 4) and work.done(ROWS[1], 4)
    summed = progress.results(work.rows.values(), {})
    assert summed["differing"] == 3 and len(summed["rows"]) == len({progress.types(r) + r.flavour for r in ROWS[:2]})
    work.add(progress.record(ROWS[0], COUNTS))
    assert work.done(ROWS[0], 4)


def test_results_of_other_sources_do_not_count(work):
    work.add({**progress.record(ROWS[0], COUNTS), "sources": "another"})
    assert work.of(ROWS[0]) is None and not work.done(ROWS[0], 1)


def test_a_fingerprint_covers_what_the_family_imports_and_no_other_family(monkeypatch):
    found: set[str] = set()
    progress._reach("qsim.ops.linear", found)
    assert {"qsim.ops.linear", "qsim.ops.sums", "qsim.ops.hybrid", "qsim.fixed", "qsim.dot", "qsim.graph"} <= found
    assert "qsim.ops.tables" not in found
    before = {f: progress.fingerprint.__wrapped__(f) for f in ("qsim.ops.linear", "qsim.ops.pooling")}
    path, other = progress._path, progress.ROOT / "tests" / "conftest.py"
    monkeypatch.setattr(progress, "_path", lambda module: other if module == "qsim.ops.hybrid" else path(module))
    after = {f: progress.fingerprint.__wrapped__(f) for f in before}
    assert before["qsim.ops.linear"] != after["qsim.ops.linear"] and before["qsim.ops.pooling"] == after["qsim.ops.pooling"]


def test_the_results_file_is_read_back_and_shown(tmp_path):
    summed = progress.results([progress.record(r, COUNTS, test_conformance.defect(r)) for r in ROWS], {"qsim.ops.sums": "0"})
    progress.write(summed, tmp_path / "found.json")
    assert progress.load(tmp_path / "found.json") == json.loads(json.dumps(summed))
    assert summed["draws"] == 4 * sum(not test_conformance.defect(r) for r in ROWS)
    assert "CONV_2D" in progress.shown(progress.table(summed))


def test_the_support_table_has_the_counts_marks_defects_and_shows_what_was_not_measured():
    def row(op, types, **more):
        return {"op": op, "types": types, "flavour": "reference", **COUNTS, **more}

    rows = [
        row("SUM", "int8, int32 -> int8", defect="LiteRT reads past the end"),
        row("FULLY_CONNECTED", "int8, int8, none -> int8"),
        row("FULLY_CONNECTED", "int8, int8, int32 -> int8", draws=9, differing=2),
    ]
    found = {"rows": rows, "runtime": "a runtime", "cpu": "a CPU", "draws": 13, "elements": 180, "differing": 2}
    lines = {line.split("`")[1]: line.split(" | ") for line in support_table.table(found).splitlines() if line.startswith("| `")}
    assert lines["SUM"][2].startswith("int8 -/†/-, uint8 -/-/-")
    assert lines["FULLY_CONNECTED"][2].startswith("int8 -/13 (2 differ)/-, uint8 -/-/-")
    assert "†: SUM: LiteRT reads past the end." in support_table.table(found)
    assert "/" not in support_table.table({"rows": []})
