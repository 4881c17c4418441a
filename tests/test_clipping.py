"""Strategies of other tools and papers: against those tools' own answers, brute force, and at every width."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as hs

from calibrate.analytic import Aciq, gauss_alpha, laplace_alpha
from calibrate.distribution import absolute, deviations, distribution, histogram, nonzero
from calibrate.entropy import OnnxEntropy, TensorRTEntropy, clipped_bins
from calibrate.statistics import sketch_array
from calibrate.strategies import TABLE, canonical, parse, solve
from qsim.errors import BadData, BadRecipe
from qsim.scheme import affine
from qsim.types import code_range

TYPES = ("uint8", *(f"int{bits}" for bits in range(2, 17)))


def samples(n: int = 4000) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    found = {
        "normal": rng.normal(size=n),
        "relu": np.maximum(rng.standard_t(3, size=n), 0),
        "skewed": np.where(rng.random(n) < 0.8, rng.laplace(size=n) * 3, -rng.random(n)),
        "integers": np.rint(rng.normal(size=n) * 40),
    }
    return {k: v.astype(np.float32) for k, v in found.items()}


def of(x: np.ndarray):
    return distribution([sketch_array(x.reshape(-1, min(1000, max(1, x.size // 40))))])


def names() -> list[str]:
    plain = [{"percentile": "percentile:99.9"}.get(n, n) for n in TABLE if n != "sqnr"]  # which is mse
    return [*plain, "percentile:0.1,99", "percentile:99,abs", "percentile:99,nonzero", "entropy_ort:bins=512", "aciq:gauss",
            "moving_average:batch=16", "minmax:symmetric", "percentile:99.9,narrow", "mse:p=3,symmetric"]  # fmt: skip


@pytest.mark.parametrize("name", names())
def test_every_strategy_gives_a_range_at_every_width(name):
    for x in (*samples().values(), -samples()["relu"], np.zeros(40, np.float32)):
        d = of(x)
        d = replace(d, sequence=np.tile([[x.min(), x.max()]], (40, 1)), importance=d.weight * np.abs(d.lower))
        for type_name in TYPES:
            low, high = parse(name, type_name)(d)
            assert np.isfinite((low, high)).all() and low <= 1e-30 and high >= 0
            assert max(-low, high) <= 4.2 * np.abs(x).max() + 0.01


# ---------------------------------------------------------------- entropy

# The loop of pytorch-quantization 2.1.3 (TensorRT), on np.histogram(|x|, 2048, (0, max |x|)) of `samples(n)`: clip at 8 bits, at 4.
TENSORRT = {
    (4000, "normal"): (3.45192813873291, 3.2517127990722656), (4000, "relu"): (8.020548820495605, 7.282846450805664),
    (4000, "skewed"): (21.155731201171875, 13.973230361938477), (4000, "integers"): (134.0625, 134.0625),
    (100000, "normal"): (4.234023094177246, 3.567923069000244), (100000, "relu"): (18.802812576293945, 9.436777114868164),
    (100000, "skewed"): (25.500104904174805, 15.157187461853027), (100000, "integers"): (153.03955078125, 132.01904296875),
}  # fmt: skip
# onnxruntime 1.32.0, HistogramCollector("entropy", False, bins, 128, ...), all of `samples()` in one batch.
ONNX = {
    ("normal", 128): (-3.6610817909240723, 3.193423271179199), ("normal", 2048): (-2.781564235687256, 2.785139560699463),
    ("relu", 128): (0.0, 32.14497756958008), ("relu", 512): (0.0, 8.161811828613281), ("relu", 2048): (0.0, 4.112297058105469),
    ("skewed", 512): (-24.313657760620117, 20.62038803100586), ("skewed", 2048): (-15.196036338806152, 15.219778060913086),
    ("integers", 512): (-156.0, 134.0), ("integers", 2048): (-137.56640625, 134.0),
}  # fmt: skip


@pytest.mark.parametrize("n, kind", TENSORRT)
def test_entropy_is_tensorrts(n, kind):
    """To the last bin where the sketch is exact; elsewhere its bins blur the histogram: the clip moves by up to 2 %."""
    d = of(samples(n)[kind])
    for bits, clip in zip((8, 4), TENSORRT[n, kind], strict=True):
        got = TensorRTEntropy(f"int{bits}")(d)
        assert got == pytest.approx((max(-clip, d.min), min(clip, d.max)), rel=1e-6 if d.exact else 0.02)


@pytest.mark.parametrize("kind, bins", ONNX)
def test_entropy_is_onnxruntimes(kind, bins):
    assert OnnxEntropy(bins=bins)(of(samples()[kind])) == pytest.approx(ONNX[kind, bins], rel=1e-6)


def divergence(counts: np.ndarray, levels: int, i: int) -> float:
    """By definition, one bin at a time."""
    p, q = counts[:i].astype(float).copy(), np.zeros(i)
    p[-1] += counts[i:].sum()
    group = [j * levels // i for j in range(i)]
    for k in range(levels):
        members = [j for j in range(i) if group[j] == k and counts[j] > 0]
        for j in members:
            q[j] = sum(counts[m] for m in members) / len(members)
    if not q.any() or (q[p > 0] == 0).any():
        return np.inf
    p, q = p / p.sum(), q / q.sum()
    return float(sum(a * np.log(a / b) for a, b in zip(p, q, strict=True) if a > 0))


@settings(deadline=None, max_examples=40)
@given(hs.lists(hs.integers(0, 4), min_size=9, max_size=40), hs.sampled_from([2, 4, 8]))
def test_the_bins_kept_have_the_smallest_divergence(numbers, levels):
    counts = np.array([1, *numbers, 1], float)
    wanted = [divergence(counts, levels, i) for i in range(8, len(counts) + 1)]
    assert wanted[clipped_bins(counts, levels, 8) - 8] == pytest.approx(min(wanted), abs=1e-9)


# ---------------------------------------------------------------- ACIQ


def test_alphas_are_the_papers():
    """Table of the authors' code: Laplace 2 to 8 bits, Gauss 2 to 8 bits."""
    laplace = [2.83068299, 3.89722946, 5.02864014, 6.20476633, 7.41312622, 8.64561995, 9.89675982]
    assert [laplace_alpha(b) for b in range(2, 9)] == pytest.approx(laplace, rel=1e-5)
    gauss = [1.71063519, 2.15159277, 2.55913646, 2.93620062, 3.28691474, 3.6151146, 3.92403714]
    assert [gauss_alpha(b) for b in range(2, 9)] == pytest.approx(gauss, rel=1e-5)


@pytest.mark.parametrize("bits", [3, 4, 6, 8])
def test_aciq_is_near_the_best_clip_of_what_it_assumes(bits):
    rng, kind = np.random.default_rng(0), f"int{bits}"
    for shape, x in (("laplace", rng.laplace(size=100_000)), ("gauss", rng.normal(size=100_000))):
        for values in (x, np.maximum(x, 0)):
            d = of(values.astype(np.float32))
            assert error(values, Aciq(shape, kind)(d), kind) <= 1.1 * error(values, parse("mse", kind)(d), kind)


def error(x: np.ndarray, ends: tuple[float, float], kind: str) -> float:
    (scale, zero), (low, high) = affine(*ends, kind), code_range(kind)
    return float(((np.clip(np.rint(x / float(scale)), low - zero, high - zero) * float(scale) - x) ** 2).sum())


# ---------------------------------------------------------------- percentiles


@pytest.mark.parametrize("kind", ["normal", "relu", "skewed", "integers"])
def test_percentile_variants_are_order_statistics(kind):
    x = np.sort(samples()[kind].astype(np.float64))
    d, n = of(x), len(x)
    low, high = parse("percentile:2,99.5")(d)
    assert (low, high) == (min(x[n * 2 // 100], 0), max(x[n - 1 - n * 5 // 1000], 0))
    m = np.sort(np.abs(x))[n - 1 - n // 100]
    assert parse("percentile:99,abs")(d) == (max(-m, x[0]), min(m, x[-1]))
    rest = x[x != 0]
    assert parse("percentile:10,90,nonzero")(d) == (min(rest[len(rest) // 10], 0), max(rest[len(rest) - 1 - len(rest) // 10], 0))


def test_a_samples_percentile_is_samsung_ones():
    """The values of its own unit test of record-minmax (RecordFunction.test.cpp), as maxima and, negated, as minima."""
    x = np.array([
        8.48424583, 89.39998456, 65.83323245, 87.85243858, 68.85414866, 98.40591775, 16.74266565, 25.09415131, 74.54084952, 29.70536481,
        49.26803928, 79.49602425, 53.69395631, 73.73140271, 99.81245733, 46.76997646, 78.37688474, 10.43076744, 30.39480496, 14.30875609,
        86.72073486, 17.97364969, 14.66724564, 0.47818459, 17.77138025, 85.68981239, 22.18322696, 78.81541331, 93.04085581, 40.2147895,
    ])  # fmt: skip
    d = replace(of(x.astype(np.float32)), sequence=np.stack([-x, x], axis=1))
    assert parse("sample_percentile")(d) == pytest.approx((-99.40456084968194, 99.40456084968194))
    assert parse("sample_percentile:0,3.14")(d) == pytest.approx((-99.81245733, 7.768503955476342))
    with pytest.raises(BadData, match="sequence=True"):
        parse("sample_percentile")(of(x))


def test_a_moving_average_of_batches_is_that_of_their_extremes():
    rows = np.random.default_rng(0).normal(size=(7, 2)).astype(np.float32)
    d = replace(of(samples()["normal"]), sequence=rows)
    merged = np.array([[r[:, 0].min(), r[:, 1].max()] for r in (rows[:3], rows[3:6], rows[6:])])
    assert parse("moving_average:0.9,batch=3")(d) == parse("moving_average:0.9")(replace(d, sequence=merged))


# ---------------------------------------------------------------- distributions


@pytest.mark.parametrize("n", [4000, 60_000])
def test_distributions_of_sizes_and_histograms_keep_every_element(n):
    for x in samples(n).values():
        d = of(x)
        size, top = absolute(replace(d, importance=2 * d.weight)), float(np.abs(x).max())
        assert (size.importance == 2 * size.weight).all()
        assert size.total == d.total == n and size.max == top and (np.diff(size.lower) > 0).all()
        assert nonzero(d).total == (x != 0).sum()
        assert deviations(d, 0.5) == pytest.approx((np.abs(x - 0.5).mean(), ((x - 0.5) ** 2).mean()), rel=2e-3)
        counts = histogram(d, np.linspace(-top, top, 301))
        true = np.histogram(x, 300, (-top, top))[0]
        assert counts.sum() == n and np.abs(np.cumsum(counts - true)).max() <= (0 if d.exact else 0.01 * n)


# ---------------------------------------------------------------- names


def test_symmetric_and_narrow_are_stored_so():
    d = of(samples()["skewed"])
    for type_name in TYPES:
        top = code_range(type_name)[1] - (128 if type_name == "uint8" else 0)
        scale, zero = affine(*parse("minmax:symmetric", type_name)(d), type_name, symmetric=type_name == "int16")
        assert zero == (128 if type_name == "uint8" else 0) and scale == pytest.approx(max(-d.min, d.max) / top, rel=2e-7)
        assert affine(*parse("percentile:99,symmetric", type_name)(d), type_name, symmetric=type_name == "int16")[1] == zero
    scale, zero = affine(*parse("minmax:narrow")(d))
    assert scale == pytest.approx((d.max - d.min) / 254) and zero == -127 + round(-d.min / scale)


@pytest.mark.parametrize(
    "text, same",
    [("mse:p=2", "mse"), ("sqnr", "mse"), ("mse:symmetric,p=2.40", "mse:p=2.4,symmetric"), ("minmax:headroom=1", "minmax"),
     ("percentile:099.90", "percentile:99.9"), ("percentile:kept=99.9", "percentile:99.9"), ("percentile:0,99.90", "percentile:0,99.9"),
     ("sample_percentile:1,99.5", "sample_percentile:1,99.5"), ("sample_percentile:1", "sample_percentile"),
     ("percentile:nonzero,99", "percentile:99,nonzero"), ("moving_average:0.95,batch=4", "moving_average:batch=4")],
)  # fmt: skip
def test_a_name_has_one_shortest_form_that_means_the_same(text, same):
    assert canonical(text) == same == canonical(same) and parse(text) == parse(same)


@pytest.mark.parametrize(
    "text",
    ["percentile:99,1", "percentile:1,2,3", "percentile:1,99,abs", "mse:p", "mse:symmetric=1", "entropy:bins=3", "percentile:x,99",
     "entropy:bins=500.5", "entropy_ort:bins=129", "aciq:laplace", "sample_percentile:-1,99", "moving_average:0.9,batch=0", "minmax:kept"],
)  # fmt: skip
def test_names_that_say_nothing_are_refused(text):
    with pytest.raises(BadRecipe):
        canonical(text)


def test_shared_work_gives_what_each_alone_gives():
    d = of(samples()["skewed"])
    ready = [parse(n) for n in ("entropy", "mse", "sqnr", "percentile:1,99", "aciq", "mse:p=3,narrow")]
    assert solve(d, ready) == [s(d) for s in ready] and parse("percentile:99").kept == Fraction(99)
