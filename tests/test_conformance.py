"""Every integer kernel against LiteRT, on generated single-op models: equal in every element, no tolerance."""

from __future__ import annotations

import generate
import numpy as np
import progress
import pytest
from sharing import Shared, structure

from qsim.litert import cpu_class
from qsim.op import Measured
from qsim.ops import REGISTRY
from qsim.reader import read
from qsim.writer import to_bytes

ROWS = sorted(generate.rows(REGISTRY), key=structure)  # the flavours of one structure together


def defect(row: generate.Row) -> str:
    """Why LiteRT itself is wrong or undefined there: such a row must differ."""
    return row.kernel.defects.get(row.flavour, "")


def _marked(row: generate.Row):
    reason = defect(row)
    return pytest.param(row, id=str(row), marks=[pytest.mark.xfail(strict=True, reason=reason)] if reason else [])


SHARED = Shared()


def pytest_generate_tests(metafunc):
    if "row" not in metafunc.fixturenames:
        return
    config = metafunc.config
    chosen = ROWS if config.getoption("--rows") == "all" else generate.some(ROWS)
    recorder, draws = config.pluginmanager.get_plugin("progress"), config.getoption("--draws")
    if recorder is not None:
        chosen = [r for r in chosen if not recorder.work.done(r, r.draws(draws))]
    metafunc.parametrize("row", [_marked(r) for r in chosen])


def test_integer_kernel_equals_litert(row, request, oracle, record_property):
    elsewhere = row.kernel.measured.why_not(oracle.version(), cpu_class())
    if elsewhere:
        pytest.skip(elsewhere)
    counts, first = dict.fromkeys(progress.COUNTS, 0), None
    for draw in range(row.draws(request.config.getoption("--draws"))):
        trial = generate.trial(row, draw)
        data = to_bytes(trial.model)
        wanted = oracle.run(data, trial.inputs, row.flavour)
        got = SHARED(row, read(data), trial.inputs)
        for index, mine in zip(trial.model.graph.outputs, got, strict=True):
            differing, what = compare(mine, wanted[index], trial)
            first = first or what
            counts["elements"] += mine.size
            counts["differing"] += differing
        counts["draws"] += 1
    for name in ("draws", "elements"):
        record_property(name, counts[name])
    record_property("finished", progress.record(row, counts, defect(row)))
    assert not counts["differing"], first


def test_exactness_is_claimed_only_where_it_was_measured():
    here = Measured(("2.3.0",), ("x86-64 AVX512",))
    assert not here.why_not("2.3.0", "x86-64 AVX512")
    assert "this is 2.4.0" in here.why_not("2.4.0", "x86-64 AVX512") and "this is arm64" in here.why_not("2.3.0", "arm64")


def compare(mine: np.ndarray, theirs: np.ndarray, trial: generate.Trial) -> tuple[int, str]:
    """How many elements differ (in shape or type: all; floats are compared as bits), and a text that shows the draw."""
    if (mine.shape, mine.dtype) != (theirs.shape, theirs.dtype):
        return max(mine.size, 1), f"{trial}: {mine.shape} {mine.dtype}, LiteRT {theirs.shape} {theirs.dtype}"
    bits = f"u{mine.dtype.itemsize}"
    wrong = np.argwhere(mine.view(bits) != theirs.view(bits)) if mine.dtype != bool else np.argwhere(mine != theirs)
    if not len(wrong):
        return 0, ""
    first = [(tuple(int(i) for i in w), mine[tuple(w)].item(), theirs[tuple(w)].item()) for w in wrong[:5]]
    text = f"{trial}: {len(wrong)} of {mine.size} differ (index, ours, LiteRT's): {first}\n{generate.describe(trial)}"
    return len(wrong), text


def test_a_default_run_reaches_every_kernel_with_3000_draws(request):
    some = generate.some(ROWS)
    assert {(r.op.name, r.types) for r in some} == {(r.op.name, r.types) for r in ROWS}
    assert sum(r.draws(request.config.getoption("--draws")) for r in some) >= 3000
