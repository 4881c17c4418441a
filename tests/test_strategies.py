"""Strategies against brute force on the raw values, and ranges of a whole model."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as hs
from small import float_net, images

from calibrate import observe, ranges
from calibrate.distribution import distribution
from calibrate.ranging import estimation_problems, several
from calibrate.rounding import losses, mesh, search
from calibrate.statistics import sketch_array
from calibrate.strategies import Mse, Percentile, candidates, parse, solve
from qsim.errors import BadData, BadRange, BadRecipe
from qsim.quantizer import layout
from qsim.scheme import INT8, affine
from qsim.types import code_range

MODEL = float_net()
X = images(60)


def values(kind: str, seed: int = 0, n: int = 40_000) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return {
        "normal": lambda: rng.normal(size=n), "relu": lambda: np.maximum(rng.standard_t(3, size=n), 0),
        "heavy": lambda: rng.standard_t(2, size=n) + 0.5, "below": lambda: -np.exp(rng.normal(size=n)),
        "bytes": lambda: rng.integers(0, 256, n), "skewed": lambda: np.where(rng.random(n) < 0.8, rng.laplace(size=n) * 3, -rng.random(n)),
        "sparse": lambda: np.where(rng.random(n) < 0.95, 0, rng.normal(size=n)), "few": lambda: rng.normal(size=2000),
    }[kind]().astype(np.float32).reshape(-1, 100 if kind == "few" else 400)  # fmt: skip


KINDS = ("normal", "relu", "heavy", "below", "bytes", "skewed", "sparse", "few")


def of(x: np.ndarray):
    return distribution([sketch_array(x)])


# ---------------------------------------------------------------- percentiles


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("kept", ["100", "99.999", "99.99", "99.9", "99", "90", "50"])
def test_percentiles_are_the_elements_they_are_said_to_be(kind, kept):
    x = np.sort(values(kind).ravel().astype(np.float64))
    low, high = Percentile(Fraction(kept))(of(values(kind)))
    rest, n = 1 - Fraction(kept) / 100, len(x)
    sides = (0, rest) if x[0] >= 0 else (rest, 0) if x[-1] <= 0 else (rest / 2, rest / 2)
    want = x[int(sides[0] * n)] if sides[0] else min(x[0], 0), x[n - 1 - int(sides[1] * n)] if sides[1] else max(x[-1], 0)
    if want[0] == want[1] == 0:
        want = x[0], x[-1]
    tolerance = 0 if kind in ("bytes", "few") or kept == "100" else 2.0**-7
    for got, expected in zip((low, high), want, strict=True):
        assert abs(got - expected) <= tolerance * abs(expected)


def test_the_kept_part_is_decimal_not_binary():
    x = np.arange(1, 1001, dtype=np.float32).reshape(10, 100)
    assert parse("percentile:99.9")(of(x)) == (0.0, 999.0)
    assert parse("percentile:99.7")(of(x)) == (0.0, 997.0)  # 1 - 0.997 is above 0.003 in binary


def test_a_range_of_nothing_but_zeros_is_not_made():
    x = np.zeros((100, 100), np.float32)
    x[3, 4] = 7.0
    assert parse("percentile:99")(of(x)) == (0.0, 7.0)
    assert parse("percentile:99")(of(-x)) == (-7.0, 0.0)


@settings(deadline=None, max_examples=60)
@given(hs.lists(hs.integers(-300, 300), min_size=1, max_size=60), hs.integers(0, 99))
def test_cuts_on_tables_are_order_statistics(numbers, percent):
    x = np.array([numbers], np.float32)
    d, ordered, part = of(x), np.sort(x.ravel()), Fraction(percent, 100)
    k = int(part * len(numbers))
    assert d.cut(part, part) == (ordered[k], ordered[len(numbers) - 1 - k])


# ---------------------------------------------------------------- mse


def error(x: np.ndarray, pair: tuple, p: float, type_name: str) -> float:
    """By definition, on raw values."""
    (scale, zero), (low, high), x = pair, code_range(type_name), x.ravel().astype(np.float64)
    real = (np.clip(np.rint(x / float(scale)), low - zero, high - zero)) * float(scale)
    return float((np.abs(x - real) ** p).sum())


@pytest.mark.parametrize("type_name", ["int8", "int4"])
@pytest.mark.parametrize("p, tolerance", [(1.0, 0.01), (2.0, 0.015), (2.4, 0.02), (4.0, 0.06)])
@pytest.mark.parametrize("kind", KINDS)
def test_losses_are_the_error_on_raw_values(kind, p, tolerance, type_name):
    """Up to where within a bin the few elements of a tail lie, which weighs more the higher the power."""
    x = values(kind)
    pairs = [affine(x.min() * a, x.max() * b, type_name) for a, b in ((1, 1), (0.7, 0.7), (0.5, 0.9), (0.3, 0.2))]
    got = losses(mesh(of(x)), pairs, type_name, [p])[0]
    for value, pair in zip(got, pairs, strict=True):
        assert value == pytest.approx(error(x, pair, p, type_name), rel=tolerance, abs=1e-9 * x.size)


@pytest.mark.parametrize("kind", ["normal", "skewed", "below"])
def test_losses_of_steps_much_smaller_than_bins(kind):
    x = values(kind)
    pair = affine(x.min(), x.max(), "int16", symmetric=True)
    assert losses(mesh(of(x)), [pair], "int16", [2.0])[0, 0] == pytest.approx(error(x, pair, 2, "int16"), rel=0.01)


def brute_force(x: np.ndarray, type_name: str) -> float:
    """The smallest squared error over a dense set of stored (scale, zero point) pairs."""
    qmin, qmax = code_range(type_name)
    start = affine(x.min(), x.max(), type_name)
    pairs = {start}
    for g in np.geomspace(1, 0.1, 24):
        s = np.float32(start[0] * g)
        ends = np.clip(np.rint([qmin - x.min() / s, qmax - x.max() / s]), qmin, qmax)
        pairs |= {(s, int(z)) for z in np.rint(np.linspace(ends.min(), ends.max(), 5))}
    best = min(pairs, key=lambda p: error(x, p, 2, type_name))
    around = {
        (np.float32(best[0] * g), int(np.clip(best[1] + m, qmin, qmax)))
        for g in np.linspace(0.92, 1.08, 9)
        for m in (-4, -2, -1, 0, 1, 2, 4)
    }
    return min(error(x, p, 2, type_name) for p in {best, *around})


@pytest.mark.parametrize("type_name", ["int8", "int4"])
@pytest.mark.parametrize("kind", KINDS)
def test_mse_is_close_to_the_best_pair_there_is(kind, type_name):
    x = values(kind, n=12_000)
    pair = affine(*Mse(type_name=type_name)(of(x)), type_name)
    assert error(x, pair, 2, type_name) <= 1.01 * brute_force(x, type_name)


@pytest.mark.parametrize("kind", KINDS)
def test_the_range_found_is_stored_as_the_pair_that_was_scored(kind):
    d = of(values(kind))
    for (low, high), p in zip(search(d, "int8", [1.5, 2.0, 3.0]), [1.5, 2.0, 3.0], strict=True):
        assert low <= 0 <= high
        pair, minmax = affine(low, high), affine(d.min, d.max)
        assert affine(*search(d, "int8", [p])[0]) == pair  # shared or alone
        found = losses(mesh(d), [pair, minmax], "int8", [p])[0]
        assert found[0] <= found[1]


def test_bytes_are_stored_without_error():
    x = values("bytes")
    assert affine(*Mse()(of(x))) == (np.float32(1.0), -128)


def test_symmetric_means_a_zero_point_of_zero():
    x = values("skewed")
    assert affine(*parse("mse:symmetric")(of(x)))[1] == 0
    sixteen = parse("mse", "int16")
    scale, zero = affine(*sixteen(of(x)), "int16", symmetric=True)
    assert zero == 0 and 0.5 * np.abs(x).max() / 32767 < scale <= 1.01 * np.abs(x).max() / 32767


def test_many_strategies_at_once_are_each_alone():
    d = of(values("heavy"))
    names = ["mse:p=3", "minmax", "percentile:99.9", "mse", "mse:symmetric"]
    ready = [parse(n) for n in names]
    assert solve(d, ready) == [s(d) for s in ready]


# ---------------------------------------------------------------- moving average


def test_moving_average_is_the_recurrence_in_the_order_seen():
    stats = observe(MODEL, X)
    low, high = stats.sequence[3][0]
    for a, b in stats.sequence[3][1:]:
        low = np.float32(0.95) * low + np.float32(1 - 0.95) * a
        high = np.float32(0.95) * high + np.float32(1 - 0.95) * b
    assert ranges(MODEL, stats, "moving_average")["hidden"] == (low, high)
    assert ranges(MODEL, observe(MODEL, X[::-1]), "moving_average")["hidden"] != (low, high)
    with pytest.raises(BadData, match="sequence=True"):
        ranges(MODEL, observe(MODEL, X, sequence=False), "moving_average")


# ---------------------------------------------------------------- names


@pytest.mark.parametrize("name", [*candidates(), "moving_average:0.9", "mse:p=2.4,symmetric"])
def test_names_are_understood(name):
    low, high = parse(name)(distribution([sketch_array(values("normal"))], [np.tile([[-1.0, 2.0]], (5, 1))]))
    assert low < 0 < high


@pytest.mark.parametrize(
    "name", ["", "mim", "minmax:1", "percentile", "percentile:101", "percentile:0", "percentile:x", "percentile:1/2", "mse:q=2", "mse:p=0",
             "mse:p=",
             "moving_average:1", "percentile:nan", "mse:p=inf"],
)  # fmt: skip
def test_names_that_say_nothing_are_refused(name):
    with pytest.raises(BadRecipe):
        parse(name)


def test_a_near_miss_is_named():
    with pytest.raises(BadRecipe, match="percentile"):
        parse("percentil:99")


# ---------------------------------------------------------------- a whole model


def test_every_group_gets_one_range():
    found = ranges(MODEL, observe(MODEL, X), "mse", INT8)
    assert set(found) == {MODEL.graph.key(t) for g in layout(MODEL).groups for t in g}
    assert found["deep"] == found["flat"] and "probabilities" not in found
    assert found["image"] == (0.0, 255.0) and "full range of uint8" in found.notes[0] and found.strategy == "mse"


def test_the_input_has_its_declared_range():
    real, stats = X.astype(np.float32), observe(MODEL, X.astype(np.float32))
    seen = ranges(MODEL, stats, "percentile:90")
    assert seen["image"] == (real.min(), real.max()) and "as seen" in seen.notes[0]
    assert ranges(MODEL, stats, "mse", input_range=(-1, 300))["image"] == (-1.0, 300.0)
    assert ranges(MODEL, observe(MODEL, X), "mse", input_range={"image": (0, 300)})["image"] == (0.0, 300.0)
    leaving = ranges(MODEL, stats, "mse", input_range=(0, 10))
    assert "leave the declared range" in leaving.notes[0]


def test_a_plain_function_is_a_strategy():
    found = ranges(MODEL, observe(MODEL, X), lambda d: (d.min / 2, d.max / 2))
    full = ranges(MODEL, observe(MODEL, X), "minmax")
    assert found["hidden"] == (full["hidden"][0] / 2, full["hidden"][1] / 2)


@pytest.mark.parametrize("answer", [(0.0, np.nan), (-np.inf, 0.0), (1.0, 0.0), 3.0, (1.0,), None])
def test_a_strategy_that_returns_no_range_is_named(answer):
    def own(d):
        return answer

    with pytest.raises(BadRange, match="hidden.*own"):
        ranges(MODEL, observe(MODEL, X), own)


def test_tensors_that_were_not_observed_are_all_named():
    with pytest.raises(BadRange, match="deep, flat, logits"):
        ranges(MODEL, observe(MODEL, X, taps=["image", "hidden"]))


def test_statistics_of_another_model_are_refused():
    with pytest.raises(BadData, match="another model"):
        ranges(float_net(seed=3), observe(MODEL, X))


def test_a_group_is_one_problem():
    a, b = values("normal").reshape(100, 400), values("relu").reshape(100, 400)
    pooled, both = distribution([sketch_array(a), sketch_array(b)]), np.concatenate([a, b], axis=1)
    for name in ("minmax", "percentile:99.9", "mse"):
        assert parse(name)(pooled) == parse(name)(distribution([sketch_array(both)]))


def test_sampled_pixels_stand_for_the_whole_tensor():
    big = np.random.default_rng(0).normal(size=(4, 80, 10)).astype(np.float32)
    sampled = sketch_array(big, np.arange(0, 80, 4))
    d = distribution([sampled, sketch_array(np.full((4, 800), 5.0, np.float32))])
    assert d.total == 2 * big.size and d.weight[d.lower > 4.9].sum() == pytest.approx(big.size)


def test_values_that_no_range_is_made_of_are_noted_or_refused():
    x = values("normal").copy()
    x[0, :3] = np.nan, np.inf, -np.finfo(np.float32).max
    s = sketch_array(x)
    assert distribution([s]).total == x.size - 3 and np.abs(parse("minmax")(distribution([s]))).max() < 10
    assert sketch_array(np.full((2, 3), np.nan)).empty


def test_problems_are_shared_by_several_strategies():
    stats = observe(MODEL, X)
    problems, _ = estimation_problems(MODEL, stats)
    assert [p.group for p in problems] == list(layout(MODEL).groups)
    names = ["minmax", "mse:p=3", "percentile:99.9"]
    assert several(MODEL, stats, names) == [ranges(MODEL, stats, n) for n in names]


def test_mass_at_the_end_of_a_fused_activation_is_seen():
    x = np.clip(np.random.default_rng(3).normal(size=(100, 400)) * 4, 0, 6).astype(np.float32)
    low, high = Mse()(of(x))
    raw = x.ravel().astype(np.float64)

    def loss(scale: float) -> float:
        return float(((raw - scale * np.clip(np.rint(raw / scale), 0, 255)) ** 2).sum())

    best = min(loss(6 / 255 * f) for f in np.linspace(0.9, 1.1, 401))
    assert low == 0 and loss(affine(low, high, "int8")[0]) <= 1.03 * best
