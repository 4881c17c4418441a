"""The key of a strategy is the same where its ranges are, and another where its source or values are."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path

import pytest

from calibrate.strategies import Mse, Percentile
from calibrate.strategykey import strategy_key
from qsim.errors import BadRecipe


def half(d):
    return d.min / 2, d.max / 2


def scaled(factor, d):
    return d.min * factor, d.max * factor


def divided(d, by=2, *, also=(1, "x")):
    return d.min / by, d.max / by


@dataclass(frozen=True)
class Scaled:
    factor: float
    inner: object = half

    def __call__(self, d):
        return tuple(v * self.factor for v in self.inner(d))


SOURCE = hashlib.sha256(Path(__file__).read_text().encode()).hexdigest()


def test_names_are_shortened():
    assert strategy_key("mse:p=2") == strategy_key("sqnr") == "mse" != strategy_key("mse:p=2,narrow")


def test_functions_carry_the_hash_of_their_source():
    name = f"{__name__}:half@{SOURCE}"
    assert strategy_key(half) == name
    assert strategy_key(partial(scaled, 0.5)) == f"{__name__}:scaled@{SOURCE}(0.5)" != strategy_key(partial(scaled, 0.25))
    assert strategy_key(divided) == f"{__name__}:divided@{SOURCE}(2, (1, 'x'))"
    assert strategy_key(Scaled(0.5)) == f"{__name__}:Scaled@{SOURCE}(factor=0.5, inner={name})"
    assert strategy_key(Percentile(Fraction("99.9"))) == "calibrate.strategies:Percentile(kept=Fraction(999, 10))"
    assert strategy_key(Mse(3.0)) != strategy_key(Mse(2.0))


def test_a_changed_helper_changes_the_key(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    keys = []
    for number, factor in enumerate((2, 3)):
        (tmp_path / f"own{number}.py").write_text(f"F = {factor}\n\ndef own(d):\n    return d.min / F, d.max / F\n")
        module = __import__(f"own{number}")
        keys.append(strategy_key(module.own).partition("@")[2])
        del sys.modules[module.__name__]
    assert len(keys[0]) == 64 and keys[0] != keys[1]


def test_state_that_no_source_shows_is_refused():
    factor = 0.5
    namespace: dict = {"__name__": "nowhere"}
    exec("def own(d):\n    return d.min, d.max", namespace)

    class Plain:
        def __call__(self, d):
            return d.min, d.max

    for own in (lambda d: (d.min * factor, d.max), namespace["own"], Plain(), max, partial(scaled, [1])):
        with pytest.raises(BadRecipe):
            strategy_key(own)
