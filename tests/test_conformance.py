"""Every integer kernel against LiteRT, on generated single-op models: equal in every element, no tolerance."""

from __future__ import annotations

import generate
import numpy as np
import pytest

from qsim.errors import Unsupported
from qsim.ops import REGISTRY
from qsim.reader import read
from qsim.writer import to_bytes

# Where LiteRT itself is wrong or undefined: (op, flavour, types of inputs) -> reason. Each must fail, or leave the table.
DEFECTS: dict[tuple, str] = {
    ("SUM", "reference", (t, "int32")): f"the reference SUM reads {t} and writes its result as uint8" for t in ("int8", "int16")
}

ROWS = list(generate.rows(REGISTRY))


def _marked(row: generate.Row):
    reason = DEFECTS.get((row.op.name, row.flavour, row.types[0]))
    return pytest.param(row, id=str(row), marks=[pytest.mark.xfail(strict=True, reason=reason)] if reason else [])


class Shared:
    """One compiled function for many models of the same structure; another where a model's static plan differs."""

    def __init__(self, flavour: str):
        self.flavour, self.functions = flavour, []

    def __call__(self, model, inputs):
        for fn in self.functions:
            try:
                found = fn.run_samples(fn.lower(model), *inputs)
                return tuple(_stored(y, model.graph.tensors[t].type) for y, t in zip(found, fn.graph.outputs, strict=True))
            except Unsupported:
                continue
        self.functions.append(model.function("integer", self.flavour))
        return self.functions[-1].batch(*inputs)


def _stored(y: np.ndarray, kind: str) -> np.ndarray:
    return y.astype(kind) if kind == "int64" else y  # carried in 32 bits inside


def pytest_generate_tests(metafunc):
    if "row" in metafunc.fixturenames:
        chosen = ROWS if metafunc.config.getoption("--rows") == "all" else generate.some(ROWS)
        metafunc.parametrize("row", [_marked(r) for r in chosen])


def test_integer_kernel_equals_litert(row, request, oracle, record_property):
    run, elements, draws = Shared(row.flavour), 0, row.draws(request.config.getoption("--draws"))
    for draw in range(draws):
        trial = generate.trial(row, draw)
        data = to_bytes(trial.model)
        wanted = oracle.run(data, trial.inputs, row.flavour)
        got = run(read(data), trial.inputs)
        for index, mine in zip(trial.model.graph.outputs, got, strict=True):
            same(np.asarray(mine), wanted[index], trial)
            elements += mine.size
    record_property("draws", draws)
    record_property("elements", elements)


def same(mine: np.ndarray, theirs: np.ndarray, trial: generate.Trial) -> None:
    """Shapes, types and every bit equal (floats compared as bits); else a failure that shows the draw."""
    assert (mine.shape, mine.dtype) == (theirs.shape, theirs.dtype), (
        f"{trial}: {mine.shape} {mine.dtype}, LiteRT {theirs.shape} {theirs.dtype}"
    )
    bits = f"u{mine.dtype.itemsize}"
    wrong = np.argwhere(mine.view(bits) != theirs.view(bits)) if mine.dtype != bool else np.argwhere(mine != theirs)
    if len(wrong):
        first = [(tuple(int(i) for i in w), mine[tuple(w)].item(), theirs[tuple(w)].item()) for w in wrong[:5]]
        raise AssertionError(f"{trial}: {len(wrong)} of {mine.size} differ (index, ours, LiteRT's): {first}\n{generate.describe(trial)}")


def test_a_default_run_reaches_every_kernel_with_3000_draws(request):
    some = generate.some(ROWS)
    assert {(r.op.name, r.types) for r in some} == {(r.op.name, r.types) for r in ROWS}
    assert sum(r.draws(request.config.getoption("--draws")) for r in some) >= 3000
