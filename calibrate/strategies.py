"""Strategies: pure functions from one tensor's distribution to a real range (low, high). A user's own needs no registration.

By name: "minmax"; "moving_average" or "moving_average:0.95"; "percentile:99.9"; "mse", "mse:p=2.4", "mse:symmetric", "mse:p=3,symmetric";
"fisher", "fisher:symmetric" (of statistics with gradients).
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from qsim.errors import BadData, BadRecipe

from .distribution import Distribution
from .fisher import Fisher
from .rounding import search

Strategy = Callable[[Distribution], tuple[float, float]]


@dataclass(frozen=True)
class MinMax:
    """(min, max) over all elements of all samples, times `headroom`: codes of 16 bits have room for values that were not seen.

    *Restates*: with headroom 1 the TFLite converter's only estimator; order-free, outliers count fully.
    """

    headroom: float = 1.0

    def __call__(self, d: Distribution) -> tuple[float, float]:
        return d.min * self.headroom, d.max * self.headroom


@dataclass(frozen=True)
class MovingAverage:
    """r = keep * r + (1 - keep) * (a sample's min or max), from the first sample's own, in float32, in the order seen.

    *Raises*: BadData where the statistics hold no sequence. *Restates*: ai-edge-quantizer's default (0.95, one call per sample).
    *Differs from* every other strategy: the result depends on the order of the samples, and late samples count most.
    """

    keep: float = 0.95

    def __call__(self, d: Distribution) -> tuple[float, float]:
        if d.sequence is None or not len(d.sequence):
            raise BadData("moving_average needs each sample's extremes in order", hint="Keep them: observe(..., sequence=True)")
        keep, add = np.float32(self.keep), np.float32(1.0 - self.keep)
        state = d.sequence[0].astype(np.float32)
        for row in d.sequence[1:].astype(np.float32):
            state = keep * state + add * row
        return float(state[0]), float(state[1])


@dataclass(frozen=True)
class Percentile:
    """The range that keeps `kept` percent of all elements, zeros included.

    With values on both sides of zero half of the rest is cut off at either end; with values on one side only 0 stays the other end
    and the whole rest is cut off at the far one. Elements are pooled over all samples, never averaged per sample. Which element that
    is and what is interpolated: `Distribution.cut`. Where nothing but 0 would be left, the range is min/max.
    *Domain*: 0 < kept <= 100 (100 is min/max).
    """

    kept: Fraction

    def __call__(self, d: Distribution) -> tuple[float, float]:
        rest = 1 - self.kept / 100
        if d.min >= 0.0:
            low, high = 0.0, d.cut(above=rest)[1]
        elif d.max <= 0.0:
            low, high = d.cut(below=rest)[0], 0.0
        else:
            low, high = d.cut(rest / 2, rest / 2)
        low, high = min(low, 0.0), max(high, 0.0)
        return (low, high) if high > low else (d.min, d.max)


@dataclass(frozen=True)
class Mse:
    """The range whose stored (scale, zero point) has the smallest sum of |x - real(code(x))|^p; see `rounding.search`."""

    p: float = 2.0
    symmetric: bool = False
    type_name: str = "int8"

    def __call__(self, d: Distribution) -> tuple[float, float]:
        return search(d, self.type_name, (self.p,), symmetric=self.symmetric)[0]


def solve(d: Distribution, strategies: Sequence[Strategy]) -> list[tuple[float, float]]:
    """Each strategy's range of one distribution; those that differ only in the power of the norm share their work."""
    found: dict[int, tuple[float, float]] = {}
    shared: dict[tuple[str, bool], list[int]] = {}
    for k, s in enumerate(strategies):
        if isinstance(s, Mse):
            shared.setdefault((s.type_name, s.symmetric), []).append(k)
        else:
            found[k] = s(d)
    for (type_name, symmetric), members in shared.items():
        powers = [strategies[k].p for k in members]  # type: ignore[attr-defined]
        found.update(zip(members, search(d, type_name, powers, symmetric=symmetric), strict=True))
    return [found[k] for k in range(len(strategies))]


def parse(strategy: str | Strategy, type_name: str = "int8") -> Strategy:
    """The strategy of a name for codes of a type; a function is returned as it is. Raises: BadRecipe."""
    if not isinstance(strategy, str):
        return strategy
    name, _, rest = strategy.strip().partition(":")
    makers = {"minmax": _minmax, "moving_average": _moving_average, "percentile": _percentile, "mse": _mse, "fisher": _fisher}
    if name not in makers:
        near = difflib.get_close_matches(name, makers, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else ""
        raise BadRecipe("unknown strategy", where=repr(strategy), expected=", ".join(makers), hint=hint)
    return makers[name](strategy, rest, type_name)


def candidates() -> tuple[str, ...]:
    """The names that `choose` compares, in the order in which it prefers them where they are equally good: from no clipping to much."""
    return (
        "minmax", "percentile:99.9999", "percentile:99.999", "mse:p=4", "percentile:99.99", "mse:p=3", "mse:p=2.4", "mse",
        "percentile:99.9",
    )  # fmt: skip


def _minmax(text: str, rest: str, type_name: str) -> Strategy:
    if rest and not rest.startswith("headroom="):
        raise BadRecipe("unknown option of minmax", where=repr(text), found=rest, expected="headroom=NUMBER")
    headroom = _number(text, rest.removeprefix("headroom="), "minmax:headroom=1.1") if rest else Fraction(1)
    if not 1 <= headroom <= 16:
        raise BadRecipe("the headroom must be in [1, 16]", where=repr(text), found=float(headroom))
    return MinMax(float(headroom))


def _moving_average(text: str, rest: str, type_name: str) -> Strategy:
    keep = _number(text, rest, "moving_average:0.95") if rest else Fraction("0.95")
    if not 0 <= keep < 1:
        raise BadRecipe("the part kept must be in [0, 1)", where=repr(text), found=rest)
    return MovingAverage(float(keep))


def _percentile(text: str, rest: str, type_name: str) -> Strategy:
    kept = _number(text, rest, "percentile:99.9")
    if not 0 < kept <= 100:
        raise BadRecipe("the percentage kept must be in (0, 100]", where=repr(text), found=rest)
    return Percentile(kept)


def _mse(text: str, rest: str, type_name: str) -> Strategy:
    symmetric, p = type_name == "int16", Fraction(2)
    for part in filter(None, rest.split(",")):
        if part == "symmetric":
            symmetric = True
        elif part.startswith("p="):
            p = _number(text, part[2:], "mse:p=2.4")
        else:
            raise BadRecipe("unknown option of mse", where=repr(text), found=part, expected="p=NUMBER, symmetric")
    if not 1 <= p <= 8:
        raise BadRecipe("p must be in [1, 8]", where=repr(text), found=float(p))
    return Mse(float(p), symmetric, type_name)


def _fisher(text: str, rest: str, type_name: str) -> Strategy:
    if rest not in ("", "symmetric"):
        raise BadRecipe("unknown option of fisher", where=repr(text), found=rest, expected="symmetric")
    return Fisher(rest == "symmetric" or type_name == "int16", type_name)


def _number(text: str, value: str, example: str) -> Fraction:
    """Decimal text as an exact fraction, so that 99.9 is not 99.9000000000000057."""
    try:
        if "/" in value:
            raise ValueError
        return Fraction(value)
    except ValueError:
        raise BadRecipe("a number is missing or cannot be read", where=repr(text), found=value, hint=f"Example: {example}") from None
