"""The gradient-weighted sketch: against gradients taken one label at a time, the same in any order, cut or batch size; and `fisher`."""

from __future__ import annotations

import itertools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from nets import DILATION, Net

import calibrate
from calibrate import folding, gradients, observe
from calibrate import statistics as st
from calibrate.archive import pack
from calibrate.distribution import distribution
from calibrate.rounding import losses, mesh
from calibrate.strategies import parse
from qsim.errors import BadData, BadRecipe, Unsupported
from qsim.graph import Model
from qsim.scheme import affine
from qsim.types import code_range

CLASSES = 3


def weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {"conv": (6, 3, 3, 2), "bias": (6,), "depth": (1, 3, 3, 6), "shift": (6,), "dense": (CLASSES, 24)}
    return {k: (rng.normal(size=s) / np.sqrt(max(np.prod(s[1:]) / 2, 2))).astype(np.float32) for k, s in shapes.items()}


W = weights()


def net(soft: bool = True) -> Model:
    """(1, 4, 4, 2) -> CONV_2D, stride 2, RELU -> DEPTHWISE_CONV_2D, RELU6 -> RESHAPE -> FULLY_CONNECTED [-> SOFTMAX]."""
    n = Net()
    window = {"padding": "SAME", "stride_h": 2, "stride_w": 2, **DILATION, "fused_activation_function": "RELU"}
    x = n.op("CONV_2D", [n.input(1, 4, 4, 2), n.constant(W["conv"]), n.constant(W["bias"])], (1, 2, 2, 6), **window)
    y = n.dense(n.reshape(n.depthwise(x, W["depth"], W["shift"], "RELU6"), 1, 24), W["dense"])
    return n.model(n.one("SOFTMAX", y, beta=1.0) if soft else y)


MODEL = net()
X = np.random.default_rng(1).normal(size=(90, 1, 4, 4, 2)).astype(np.float32)
IMAGE, HIDDEN, DEEP, LOGITS = (MODEL.graph.inputs[0], *(MODEL.graph.nodes[k].outputs[0] for k in (0, 1, 3)))


@pytest.fixture(scope="module")
def whole():
    return observe(MODEL, X, gradients=1)


def real(x, shifts):
    """The net written anew, a shift added to each of its tensors; {tensor: values} and the logits."""
    how = {"dimension_numbers": ("NHWC", "HWIO", "NHWC"), "precision": lax.Precision.HIGHEST}
    image = x + shifts[IMAGE]
    z = lax.conv_general_dilated(image, W["conv"].transpose(1, 2, 3, 0), (2, 2), ((0, 1), (0, 1)), **how) + W["bias"].reshape(1, 1, 1, 6)
    hidden = jax.nn.relu(z) + shifts[HIDDEN]
    z = lax.conv_general_dilated(hidden, W["depth"].transpose(1, 2, 0, 3), (1, 1), "SAME", feature_group_count=6, **how)
    deep = jnp.clip(z + W["shift"].reshape(1, 1, 1, 6), 0, 6) + shifts[DEEP]
    logits = deep.reshape(1, 24) @ W["dense"].T + shifts[LOGITS]
    return {IMAGE: image, HIDDEN: hidden, DEEP: deep, LOGITS: logits}, logits


NOTHING = {t: np.zeros(MODEL.graph.tensors[t].shape, np.float32) for t in (IMAGE, HIDDEN, DEEP, LOGITS)}


@jax.jit
def truth(x):
    """({tensor: values}, {tensor: (CLASSES, ...) gradients of each class's log-probability}, {tensor: ... of each logit})."""
    values, _ = real(x, NOTHING)
    return values, *(jax.jacrev(lambda s, f=f: f(real(x, s)[1][0]))(NOTHING) for f in (jax.nn.log_softmax, lambda y: y))


def by_bin(values: np.ndarray, squares: np.ndarray, bins: np.ndarray) -> np.ndarray:
    """The sum of squares of each occupied bin."""
    where = np.searchsorted(bins, (st.key_of(values) >> st.SHIFT) + st.ZERO).reshape(-1)
    return np.bincount(where, weights=np.asarray(squares, np.float64).reshape(-1), minlength=len(bins))


def agree(sketch: st.Sketch, wanted: np.ndarray, part: float = 1e-3) -> bool:
    """Within the stated half unit an element, and float32's own error."""
    return bool((np.abs(sketch.importance - wanted) <= sketch.counts / 2 * sketch.unit + part * wanted + 1e-6 * wanted.max()).all())


@pytest.mark.parametrize("number", range(4))
def test_weights_are_squared_gradients_of_one_label_drawn(number):
    found = observe(MODEL, X[number : number + 1], gradients=1).tensors
    values, slopes, _ = truth(X[number])
    for t, s in found.items():
        if t in values:
            assert np.allclose(s.raw, np.sort(np.ravel(values[t])), atol=1e-5)
    sums = [{t: by_bin_near(found[t], values[t], np.square(slopes[t][label])) for t in values} for label in range(CLASSES)]
    assert any(all(agree(found[t], sums[label][t]) for t in values) for label in range(CLASSES))
    assert all(found[t].overflow == 0 and found[t].counts.sum() < found[t].weights.sum() for t in values)


def by_bin_near(sketch: st.Sketch, values: np.ndarray, squares: np.ndarray) -> np.ndarray:
    """`by_bin` with the sketch's own raw values, which may differ from ours in their last bits: elements are matched by their order."""
    order = np.argsort(np.ravel(values), kind="stable")
    return by_bin(sketch.raw, np.ravel(squares)[order], sketch.bins)


def test_labels_are_drawn_as_often_as_they_are_likely():
    values, slopes, _ = truth(X[0])
    p = np.asarray(jax.nn.softmax(values[LOGITS][0]))
    wanted = [by_bin_near(observe(MODEL, X[:1]).tensors[LOGITS], values[LOGITS], np.square(slopes[LOGITS][k])) for k in range(CLASSES)]
    times = np.zeros(CLASSES)
    for seed in range(50):
        s = observe(MODEL, X[:1], gradients=1, seed=seed, sequence=False).tensors[LOGITS]
        times[[agree(s, w) for w in wanted].index(True)] += 1
    assert np.all(np.abs(times / 50 - p) <= 4 * np.sqrt(p * (1 - p) / 50))


def test_outputs_without_a_softmax_get_random_signs_or_count_as_classes():
    model = net(soft=False)
    values, _, plain = truth(X[0])
    found = observe(model, X[:1], gradients=1).tensors[HIDDEN]
    signs = itertools.product((-1, 1), repeat=CLASSES)
    assert any(agree(found, by_bin_near(found, values[HIDDEN], np.square(np.tensordot(s, plain[HIDDEN], 1)))) for s in signs)
    told = [gradients.readings(m.graph, task) for m in (model, MODEL) for task in (None, "classification", "regression")]
    assert told == [("reals",), ("logits",), ("reals",), ("probabilities",), ("probabilities",), ("reals",)]


def test_several_draws_are_the_mean_over_draws(whole):
    one = [observe(MODEL, X[:1], gradients=1, seed=seed).tensors[HIDDEN] for seed in range(12)]
    many = observe(MODEL, X[:1], gradients=2).tensors[HIDDEN]
    pairs = itertools.combinations_with_replacement(one, 2)
    close = 1 + 2 * one[0].unit / many.unit  # rounded to other units, twice
    assert any(np.all(np.abs((a.importance + b.importance) / 2 - many.importance) <= close * many.unit * many.counts) for a, b in pairs)
    with pytest.raises(BadData, match="unit"):
        whole.merge(observe(MODEL, X[:1], gradients=2))
    with pytest.raises(BadData, match="unit"):
        whole.merge(observe(MODEL, X[:1]))


def drawn_cases(rng: np.random.Generator):
    """(batches, how many shards) of the 90 samples: any order, batches of 1 to 128, 1 to 8 shards."""
    order, size = rng.permutation(len(X)), int(rng.integers(1, 129))
    for shard in np.array_split(order, int(rng.integers(1, 9))):
        yield [X[shard[k : k + size]] for k in range(0, len(shard), size)]


def same_bytes(whole: st.Statistics, seed: int) -> None:
    parts = [observe(MODEL, batches, gradients=1, sequence=False) for batches in drawn_cases(np.random.default_rng(seed))]
    merged = parts[0].merge(*parts[1:])
    assert pack(merged) == pack(replace(whole, sequence=None))
    for strategy in ("minmax", "mse", "percentile:99.9", "fisher"):
        assert calibrate.ranges(MODEL, merged, strategy) == calibrate.ranges(MODEL, whole, strategy)


@pytest.mark.parametrize("seed", range(6))
def test_order_batch_size_and_shards_give_the_same_bytes(whole, seed):
    same_bytes(whole, seed)


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(6, 50))
def test_order_batch_size_and_shards_give_the_same_bytes_50_times(whole, seed):
    same_bytes(whole, seed)


def test_counts_do_not_depend_on_gradients_and_files_hold_them(whole, tmp_path):
    plain = observe(MODEL, X)
    for t, s in whole.tensors.items():
        assert replace(s, weights=None, unit=0.0, overflow=0) == plain.tensors[t]
    whole.save(tmp_path / "s.npz")
    assert calibrate.load_statistics(tmp_path / "s.npz") == whole != plain


def test_whole_batches_as_on_an_accelerator_weigh_the_same(whole, monkeypatch):
    run = folding.Pass(MODEL, folding.Wanted(gradients=1))
    monkeypatch.setattr(run, "on_cpu", False)
    monkeypatch.setattr("calibrate.observer.compiled", lambda model, wanted: run)
    assert observe(MODEL, X, gradients=1) == whole


def test_sums_over_bins_are_the_fisher_weighted_error():
    """Of any (low, high), bits: within what the error can vary over each interval, plus half a unit an element."""
    s = replace(observe(MODEL, X[:30], gradients=1).tensors[HIDDEN], raw=None)
    d = distribution([s])
    exact = [(np.asarray(v), np.square(g)) for v, g in (of_sample(x) for x in X[:30])]
    x, g2 = (np.concatenate([np.ravel(part[k]) for part in exact]).astype(np.float64) for k in (0, 1))
    for low, high, kind in ((0.0, d.max, "int8"), (0.0, d.max / 2, "int8"), (0.0, d.max / 2, "int4"), (-0.3, 0.7 * d.max, "int4")):
        pair = affine(low, high, kind)
        m = mesh(replace(d, weight=d.importance))
        truth, bound = g2 @ error(x, *pair, kind) ** 2, 0.0
        for a, b, w in zip(m.at[:-1], m.at[1:], m.weight, strict=True):
            e = error(np.linspace(a, b, 65), *pair, kind) ** 2
            bound += w * (e.max() - e.min())
        rounding = s.elements / 2 * s.unit * float(np.max(error(x, *pair, kind) ** 2))
        assert abs(losses(m, [pair], kind, [2.0])[0, 0] - truth) <= bound + rounding + 1e-3 * truth


def of_sample(x: np.ndarray):
    """Values and gradients of the hidden tensor for the label that the pass draws, recognized by its sums."""
    found = observe(MODEL, x[None], gradients=1, sequence=False).tensors[HIDDEN]
    values, slopes, _ = truth(x)
    label = next(k for k in range(CLASSES) if agree(found, by_bin_near(found, values[HIDDEN], np.square(slopes[HIDDEN][k]))))
    return values[HIDDEN], slopes[HIDDEN][label]


def error(x: np.ndarray, scale: float, zero: int, kind: str) -> np.ndarray:
    low, high = code_range(kind)
    return x - scale * (np.clip(np.rint(x / scale) + zero, low, high) - zero)


def test_fisher_finds_the_best_of_many_ranges(whole):
    for t in (HIDDEN, DEEP, LOGITS):
        d = distribution([whole.tensors[t]])
        m = mesh(replace(d, weight=d.importance))
        best = losses(m, [affine(*parse("fisher", "int4")(d), "int4")], "int4", [2.0])[0, 0]
        ends = [(a * d.min, b * d.max) for a in np.linspace(0, 1, 31) for b in np.linspace(0.05, 1, 40)]
        tried = losses(m, [affine(low, high, "int4") for low, high in ends if low < high], "int4", [2.0])[0]
        assert best <= tried.min() * 1.02


def test_gradients_that_do_not_fit_are_cut_off_and_counted():
    g = jnp.asarray([[0.0, 1.0, 1.4, 2.0**11, np.inf, np.nan]], jnp.float32)
    whole, cut = gradients.units_of(g, jnp.float32(1), 2.0**20)
    with jax.enable_x64(True):
        assert np.asarray(whole).tolist() == [0, 1, 2, 2**20, 2**20, 0]
    assert int(cut) == 3
    full = st.LARGEST - 1
    s = replace(st.sketch_array(np.ones((1, 4))), weights=np.array([full]), unit=1.0)
    assert st.merge_sketches(s, s).weights.tolist() == [st.LARGEST]  # sums stop there; they do not wrap


def test_the_two_halves_are_the_sum():
    numbers = np.array([0, 1, 2**32 - 1, 2**32, 2**62 + 12345], np.int64)
    halves = np.stack([numbers >> 32, numbers & (2**32 - 1)]).astype(np.uint32)
    assert np.array_equal(gradients.whole_numbers(gradients.split(gradients.joined(jnp.asarray(halves)))), numbers)


def test_fisher_says_what_it_lacks(whole):
    with pytest.raises(BadData, match=r"observe\(..., gradients=1\)"):
        calibrate.ranges(MODEL, observe(MODEL, X), "fisher")
    with pytest.raises(BadRecipe, match="fisher"):
        parse("fisher:p=3")
    d = replace(distribution([whole.tensors[HIDDEN]]), importance=np.zeros(len(distribution([whole.tensors[HIDDEN]]).weight)))
    assert parse("fisher")(d) == (d.min, d.max)
    with pytest.raises(BadRecipe, match="task"):
        observe(MODEL, X, gradients=1, task="guessing")
    n = Net()
    labels = n.op("ARG_MAX", [n.input(1, 5), n.constant([1], "int32")], (1,), kind="int32", output_type="int32")
    with pytest.raises(Unsupported, match="no output holds reals"):
        observe(n.model(labels), np.zeros((3, 1, 5), np.float32), gradients=1)


def test_draws_do_not_depend_on_where_a_sample_stands():
    assert np.array_equal(gradients.words([5, 7], 2, 0)[1], gradients.words([7], 2, 0)[0])
    found = np.asarray(jax.vmap(lambda word: gradients._noise(word, 4))(np.arange(5000, dtype=np.uint32)))
    assert 0 <= found.min() and found.max() < 1 and abs(found.mean() - 0.5) < 0.01 and abs(np.var(found) - 1 / 12) < 0.005
