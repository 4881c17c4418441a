"""Strategies: pure functions from one tensor's distribution to a real range (low, high). A user's own needs no registration.

`TABLE` holds the names and their options: "percentile:99.9", "mse:p=2.4,symmetric", ... (`qsim strategies` prints it).
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from qsim.errors import BadData, BadRecipe
from qsim.types import code_range

from .analytic import Aciq
from .distribution import Distribution, absolute, nonzero
from .entropy import OnnxEntropy, TensorRTEntropy
from .fisher import Fisher
from .rounding import search, stored_range

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
    """r = keep * r + (1 - keep) * (min or max of `batch` samples), from the first ones' own, in float32, in the order seen.

    *Raises*: BadData where the statistics hold no sequence. *Restates*: ai-edge-quantizer's default (0.95, one call per sample); with
    batch, circle-quantizer's record-minmax of Samsung ONE, mode "moving_average".
    *Differs from* every other strategy: the result depends on the order of the samples, and late samples count most.
    """

    keep: float = 0.95
    batch: int = 1

    def __call__(self, d: Distribution) -> tuple[float, float]:
        rows = _sequence(d, "moving_average").astype(np.float32)
        parts = [rows[k : k + self.batch] for k in range(0, len(rows), self.batch)]
        ends = [np.array([p[:, 0].min(), p[:, 1].max()]) for p in parts]
        keep, add = np.float32(self.keep), np.float32(1.0 - self.keep)
        state = ends[0]
        for row in ends[1:]:
            state = keep * state + add * row
        return float(state[0]), float(state[1])


def _sequence(d: Distribution, name: str) -> np.ndarray:
    if d.sequence is None or not len(d.sequence):
        raise BadData(f"{name} needs each sample's extremes in order", hint="Keep them: observe(..., sequence=True)")
    return d.sequence


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
class AbsolutePercentile:
    """(-m, m), cut to (min, max), with m the size |x| below which `kept` percent of all elements lie, as `Distribution.cut` has it.

    *Restates*: the percentile of TensorRT's pytorch-quantization and of onnxruntime (symmetric), which take the edge of a linear bin.
    """

    kept: Fraction

    def __call__(self, d: Distribution) -> tuple[float, float]:
        m = absolute(d).cut(above=1 - self.kept / 100)[1] or max(-d.min, d.max)
        return max(-m, d.min), min(m, d.max)


@dataclass(frozen=True)
class Quantiles:
    """(the `low`-th percentile, the `high`-th) of all elements pooled, extended to hold 0; (0, 100) is min/max.

    *Domain*: 0 <= low < high <= 100. Where nothing but 0 would be left, the range is min/max.
    """

    low: Fraction
    high: Fraction

    def __call__(self, d: Distribution) -> tuple[float, float]:
        low, high = d.cut(self.low / 100, 1 - self.high / 100)
        low, high = min(low, 0.0), max(high, 0.0)
        return (low, high) if high > low else (d.min, d.max)


@dataclass(frozen=True)
class Nonzero:
    """Another strategy on the elements other than 0: a RELU's zeros take no part in a percentile."""

    inner: Strategy

    def __call__(self, d: Distribution) -> tuple[float, float]:
        return self.inner(nonzero(d))


@dataclass(frozen=True)
class SamplePercentile:
    """(the `low`-th percentile of the samples' minima, the `high`-th of their maxima), between two samples by linear interpolation.

    Every sample counts alike, however its values are spread: an outlier costs one sample. *Raises*: BadData where the statistics hold
    no sequence. *Restates*: record-minmax of Samsung ONE (circle-quantizer), mode "percentile", defaults 1 and 99.
    """

    low: Fraction = Fraction(1)
    high: Fraction = Fraction(99)

    def __call__(self, d: Distribution) -> tuple[float, float]:
        least, most = _sequence(d, "sample_percentile").astype(np.float64).T
        low, high = float(np.percentile(least, float(self.low))), float(np.percentile(most, float(self.high)))
        return min(low, 0.0), max(high, 0.0)


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


@dataclass(frozen=True)
class Placed:
    """Another strategy's range, widened to lie on the codes in a given way, each without the lowest code.

    symmetric: (-m, m) with m the larger end, zero point 0 (128 for uint8), scale m / qmax; values below -m still reach the lowest code.
    Else narrow: scale (high - low) / (qmax - qmin - 1).
    """

    inner: Strategy
    symmetric: bool
    type_name: str = "int8"

    def __call__(self, d: Distribution) -> tuple[float, float]:
        (low, high), (qmin, qmax) = self.inner(d), code_range(self.type_name)
        low, high = min(low, 0.0), max(high, 0.0)
        if not self.symmetric:
            return low - (high - low) / (qmax - qmin - 1), high
        zero = 0 if qmin < 0 else (qmax + 1) // 2
        return stored_range(max(-low, high) / (qmax - zero), zero, self.type_name)


def candidates() -> tuple[str, ...]:
    """The names that `choose` compares, in the order in which it prefers them where they are equally good: from no clipping to much."""
    return (
        "minmax", "percentile:99.9999", "percentile:99.999", "mse:p=4", "percentile:99.99", "mse:p=3", "mse:p=2.4", "mse",
        "percentile:99.9",
    )  # fmt: skip


# ---------------------------------------------------------------- names


Value = Fraction | bool | None
Maker = Callable[..., Strategy]  # (values by option name, type name) -> strategy; a ValueError says what is wrong with the values


class Row(NamedTuple):
    """What a name stands for. form: how it is written. values: options and their defaults (None: must be given or means absence); flags
    are False. bare: options that may be written as numbers alone, in this order."""

    make: Maker
    form: str
    words: str
    values: Mapping[str, Value] = {}
    bare: tuple[str, ...] = ()


def _minmax(v: Mapping[str, Any], type_name: str) -> Strategy:
    return MinMax(float(_within(v, "headroom", 1, 16)))


def _moving_average(v: Mapping[str, Any], type_name: str) -> Strategy:
    if v["keep"] == 1:
        raise ValueError("keep must be below 1")
    return MovingAverage(float(_within(v, "keep", 0, 1)), _whole(v, "batch", 1, 1 << 20))


def _percentile(v: Mapping[str, Any], type_name: str) -> Strategy:
    if v["kept"] is None:
        raise ValueError("the percentage kept is missing")
    if v["to"] is not None:
        if v["abs"] or not 0 <= v["kept"] < v["to"] <= 100:
            raise ValueError("two percentiles are LOW,HIGH with 0 <= LOW < HIGH <= 100, and not of |x|")
        inner: Strategy = Quantiles(v["kept"], v["to"])
    elif 0 < v["kept"] <= 100:
        inner = (AbsolutePercentile if v["abs"] else Percentile)(v["kept"])
    else:
        raise ValueError("the percentage kept must be in (0, 100]")
    return Nonzero(inner) if v["nonzero"] else inner


def _sample_percentile(v: Mapping[str, Any], type_name: str) -> Strategy:
    if not 0 <= v["low"] <= 100 or not 0 <= v["high"] <= 100:
        raise ValueError("percentiles must be in [0, 100]")
    return SamplePercentile(v["low"], v["high"])


def _mse(v: Mapping[str, Any], type_name: str) -> Strategy:
    return Mse(float(_within(v, "p", 1, 8)), v["symmetric"] or type_name == "int16", type_name)


def _sqnr(v: Mapping[str, Any], type_name: str) -> Strategy:
    return _mse({"p": Fraction(2), **v}, type_name)


def _fisher(v: Mapping[str, Any], type_name: str) -> Strategy:
    return Fisher(v["symmetric"] or type_name == "int16", type_name)


def _entropy(v: Mapping[str, Any], type_name: str) -> Strategy:
    return TensorRTEntropy(type_name, _whole(v, "bins", 256, 1 << 16))


def _entropy_ort(v: Mapping[str, Any], type_name: str) -> Strategy:
    bins = _whole(v, "bins", 2, 1 << 13)
    if bins % 2:
        raise ValueError("bins must be even")
    return OnnxEntropy(type_name, bins)


def _aciq(v: Mapping[str, Any], type_name: str) -> Strategy:
    return Aciq("gauss" if v["gauss"] else "laplace", type_name)


TABLE: dict[str, Row] = {
    "minmax": Row(_minmax, "minmax[:headroom=H]", "smallest and largest value, times H (1)", {"headroom": Fraction(1)}),
    "moving_average": Row(
        _moving_average, "moving_average[:KEEP,batch=N]", "moving average of the extremes of N samples (0.95, 1); depends on their order",
        {"keep": Fraction("0.95"), "batch": Fraction(1)}, ("keep",),
    ),
    "percentile": Row(
        _percentile, "percentile:KEPT or percentile:LOW,HIGH", "keeps KEPT percent of all elements, half of the rest cut at either end; "
        "or cuts at two percentiles; abs: of |x|; nonzero: without zeros",
        {"kept": None, "to": None, "abs": False, "nonzero": False}, ("kept", "to"),
    ),
    "sample_percentile": Row(
        _sample_percentile, "sample_percentile[:LOW,HIGH]", "percentiles (1, 99) of the samples' minima and maxima, as Samsung ONE",
        {"low": Fraction(1), "high": Fraction(99)}, ("low", "high"),
    ),
    "mse": Row(_mse, "mse[:p=P]", "smallest sum of |error|^P (2)", {"p": Fraction(2), "symmetric": False}),
    "sqnr": Row(_sqnr, "sqnr", "largest signal to noise: the signal is given, so it is mse", {"symmetric": False}),
    "fisher": Row(_fisher, "fisher", "smallest sum of squared gradient * error^2; needs gradients", {"symmetric": False}),
    "entropy": Row(_entropy, "entropy[:bins=N]", "smallest KL of the histogram of |x|, as TensorRT (2048)", {"bins": Fraction(2048)}),
    "entropy_ort": Row(
        _entropy_ort, "entropy_ort[:bins=N]", "as onnxruntime; with its own 128 bins it is minmax: ask for more", {"bins": Fraction(128)},
    ),
    "aciq": Row(_aciq, "aciq[:gauss]", "best clip of a Laplace (or Gauss) distribution of the same spread", {"gauss": False}),
}  # fmt: skip
EVERY = {"symmetric": False, "narrow": False}  # options of every name: zero point 0; the lowest code left out


def parse(strategy: str | Strategy, type_name: str = "int8") -> Strategy:
    """The strategy of a name (see `TABLE`) for codes of a type; a function is returned as it is. Raises: BadRecipe."""
    if not isinstance(strategy, str):
        return strategy
    name, values = read(strategy)
    row = TABLE[name]
    own = {k: values[k] for k in row.values}
    try:
        made = row.make(own, type_name)
    except ValueError as fault:
        raise BadRecipe(str(fault), where=repr(strategy), expected=row.form) from None
    if values["symmetric"]:
        return made if "symmetric" in own else Placed(made, True, type_name)
    return Placed(made, False, type_name) if values["narrow"] else made


def read(text: str) -> tuple[str, dict[str, Any]]:
    """(name, value of every option) of a written strategy. Raises: BadRecipe."""
    name, _, rest = text.strip().partition(":")
    if name not in TABLE:
        near = difflib.get_close_matches(name, TABLE, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else ""
        raise BadRecipe("unknown strategy", where=repr(text), expected=", ".join(TABLE), hint=hint)
    row = TABLE[name]
    values: dict[str, Any] = {**EVERY, **row.values}
    bare = iter(row.bare)
    for part in rest.split(",") if rest else ():
        key, given, value = part.partition("=")
        if values.get(key) is False and not given:
            values[key] = True
            continue
        key, value = (key, value) if given else (next(bare, ""), part)
        if key not in values or values[key] is False or values[key] is True:
            options = ", ".join(dict.fromkeys((*values,)))
            raise BadRecipe(f"unknown option of {name}", where=repr(text), found=part, expected=f"{row.form}; options: {options}")
        values[key] = _number(text, value, row.form)
    return name, values


def canonical(text: str) -> str:
    """The shortest way to write a named strategy, the same for all that mean the same: "mse:p=2", "sqnr" -> "mse". Raises: BadRecipe."""
    name, values = read(text)
    parse(text)
    if name == "sqnr":
        name = "mse"
    row = TABLE[name]
    default = {**EVERY, **row.values}
    bare = [k for k in row.bare if values[k] is not None]
    while bare and values[bare[-1]] == default[bare[-1]]:
        bare.pop()
    rest = [k for k in values if k not in row.bare and values[k] != default[k]]
    parts = [_text(values[k]) for k in bare] + [k if values[k] is True else f"{k}={_text(values[k])}" for k in sorted(rest)]
    return ":".join([name, ",".join(parts)]) if parts else name


def _text(number: Fraction) -> str:
    return f"{float(number):.15g}"


def _within(v: Mapping[str, Any], name: str, low: int, high: int) -> Fraction:
    if not low <= v[name] <= high:
        raise ValueError(f"{name} must be in [{low}, {high}]")
    return v[name]  # type: ignore[no-any-return]


def _whole(v: Mapping[str, Any], name: str, low: int, high: int) -> int:
    number = _within(v, name, low, high)
    if number.denominator != 1:
        raise ValueError(f"{name} must be a whole number")
    return int(number)


def _number(text: str, value: str, example: str) -> Fraction:
    """Decimal text as an exact fraction, so that 99.9 is not 99.9000000000000057."""
    try:
        if "/" in value:
            raise ValueError
        return Fraction(value)
    except ValueError:
        raise BadRecipe("a number is missing or cannot be read", where=repr(text), found=value, hint=f"Example: {example}") from None
