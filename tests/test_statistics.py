"""The sketch and the pass: exact where it says exact, the same in any order, cut or batch size, and back from its file."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as hs
from small import float_net, images

import calibrate
from calibrate import folding, observe
from calibrate import statistics as st
from calibrate.feeding import Scaling
from qsim.errors import BadData, BadRange, WriteFailed
from qsim.function import Function
from qsim.scheme import scheme_named

MODEL = float_net()
X = images(100)
SPECIAL = np.array(
    [0.0, -0.0, 1e-45, -1e-45, 1.0, -1.0, np.nan, np.inf, -np.inf, np.finfo(np.float32).max, -np.finfo(np.float32).max], np.float32
)


@pytest.fixture(scope="module")
def whole():
    return observe(MODEL, X)


def draw(kind: str, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    x = {
        "normal": lambda: rng.normal(size=shape), "relu": lambda: np.maximum(rng.standard_t(2, size=shape), 0),
        "bytes": lambda: rng.integers(0, 256, shape), "wide": lambda: rng.normal(size=shape) * 10.0 ** rng.integers(-38, 38, shape),
        "special": lambda: rng.choice(SPECIAL, shape),
    }[kind]()  # fmt: skip
    with np.errstate(over="ignore"):
        return x.astype(np.float32)


KINDS = ("normal", "relu", "bytes", "wide", "special")


# ---------------------------------------------------------------- one sketch


def test_keys_order_as_floats_do():
    x = np.concatenate([draw(k, np.random.default_rng(0), (500,)) for k in KINDS])
    assert np.array_equal(st.float_of(st.key_of(x)), x, equal_nan=True)
    x = np.unique(x[np.isfinite(x)])
    assert (np.diff(st.key_of(x).astype(np.int64)) > 0).all()


def test_bins_hold_their_values_and_are_narrow():
    x = np.concatenate([draw(k, np.random.default_rng(1), (2000,)) for k in ("normal", "wide", "bytes")])
    x = x[np.isfinite(x) & (np.abs(x) < 3e38)]
    lower, upper = st.bin_edges((st.key_of(x) >> st.SHIFT) + st.ZERO)
    assert ((lower <= x) & (x <= upper)).all()
    normal = np.abs(x) > 1.2e-38
    assert ((upper - lower)[normal] <= np.abs(x[normal].astype(np.float64)) * 2.0**-7).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_sketch_counts_exactly(kind):
    x = draw(kind, np.random.default_rng(2), (50, 300))
    s = st.sketch_array(x)
    good = x[np.abs(x) < 3.38e38]
    assert (s.min, s.max) == (good.min(), good.max())
    assert s.counts.sum() == s.elements == x.size and s.bad == x.size - good.size
    assert s.zeros == (np.abs(x) < 2.0**-133).sum()
    assert (s.nan, s.inf, s.huge) == (np.isnan(x).sum(), np.isinf(x).sum(), (np.isfinite(x) & (np.abs(x) > 3.38e38)).sum())
    assert s.fractional == bool((good != np.floor(good)).any())


def test_bytes_are_a_table_of_exact_values():
    x = draw("bytes", np.random.default_rng(3), (50, 300))
    values, counts = st.sketch_array(x).table
    wanted = np.unique(x, return_counts=True)
    assert np.array_equal(values, wanted[0]) and np.array_equal(counts, wanted[1])
    assert st.sketch_array(x + np.float32(0.5)).table is None
    assert st.sketch_array(x * np.float32(2)).table is None  # integers above 256 share bins


def test_small_tensors_are_kept_raw_up_to_the_stated_count():
    x = draw("normal", np.random.default_rng(4), (st.RAW_LIMIT // 8 + 1, 8))
    assert np.array_equal(st.sketch_array(x[:-1]).raw, np.sort(x[:-1].ravel()))
    assert st.sketch_array(x).raw is None
    assert st.sketch_array(np.zeros((1, st.RAW_SIZE + 1))).raw is None
    parts = [st.sketch_array(x[a:b]) for a, b in ((0, 400), (400, 1000), (1000, len(x)))]
    assert st.merge_sketches(parts[0], st.merge_sketches(parts[1], parts[2])) == st.sketch_array(x)


@settings(deadline=None, max_examples=50)
@given(hs.integers(0, 2**32), hs.sampled_from(KINDS), hs.integers(1, 400), hs.lists(hs.integers(0, 40), min_size=2, max_size=2))
def test_merging_is_exact_associative_and_commutative(seed, kind, size, cuts):
    rng = np.random.default_rng(seed)
    x = draw(kind, rng, (41, size))
    a, b = sorted(cuts)
    parts = [p for p in (x[:a], x[a:b], x[b:]) if len(p)]
    sketches = [st.sketch_array(p) for p in parts]
    whole = st.sketch_array(x[rng.permutation(41)])
    for order in (sketches, sketches[::-1]):
        left = order[0]
        for s in order[1:]:
            left = st.merge_sketches(left, s)
        assert left == whole
    if len(sketches) == 3:
        assert st.merge_sketches(sketches[0], st.merge_sketches(sketches[1], sketches[2])) == whole


def test_different_tensors_do_not_merge():
    with pytest.raises(BadData):
        st.merge_sketches(st.sketch_array(np.zeros((2, 3))), st.sketch_array(np.zeros((2, 4))))


# ---------------------------------------------------------------- the pass


def test_the_pass_counts_what_the_float_function_gives(whole):
    run = Function(MODEL, "float", "xnnpack", taps="all")
    _, taps = run.batch(X.astype(np.float32))
    assert set(whole.tensors) == {0, 3, 6, 11, 12} and whole.copies == {8: 6}
    for t, sketch in whole.tensors.items():
        assert sketch == st.sketch_array(taps[t]), MODEL.graph.key(t)
        flat = taps[t].reshape(len(X), -1)
        assert np.array_equal(whole.sequence[t], np.stack([flat.min(1), flat.max(1)], 1))
    assert np.array_equal(taps[8].ravel(), taps[6].ravel())


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 33, 64, 100, 128])
def test_order_and_batch_size_do_not_matter(whole, size):
    order = np.random.default_rng(size).permutation(len(X))
    found = observe(MODEL, (X[order[i : i + size]] for i in range(0, len(X), size)))
    assert found == whole and not np.array_equal(found.sequence[3], whole.sequence[3])


@pytest.mark.parametrize("cuts", [[50], [1], [99], [10, 20, 90], list(range(1, 8))])
def test_shards_merge_to_the_whole(whole, cuts):
    shards = [observe(MODEL, part) for part in np.split(X, cuts)]
    shards = [shards[k] for k in np.random.default_rng(0).permutation(len(shards))]
    assert shards[0].merge(*shards[1:]) == whole


def test_large_tensors_are_sampled_by_whole_pixels():
    shape = (1, 40, 40, 24)
    positions = folding.sampled_positions(shape)
    assert len(positions) == -(-folding.MOST_SAMPLED // 24) and (np.diff(positions) > 0).all() and positions[-1] < 1600
    assert np.array_equal(positions, folding.sampled_positions(shape))
    assert folding.sampled_positions((1, 32, 32, 16)) is None  # 16,384 elements: every one counts
    x = np.broadcast_to(np.arange(24, dtype=np.float32), (3, *shape[1:])).copy()
    x[1, 7, 7, 5] = 1e9
    sketch = st.sketch_array(x, positions)
    watch = folding.Watch(0, 40 * 40 * 24, 24, positions)
    histogram = np.asarray(folding.count(jnp.zeros(st.BINS, jnp.int32), folding.bins_of(jnp.asarray(x), watch)))
    occupied = np.flatnonzero(histogram)
    assert np.array_equal(occupied, sketch.bins) and np.array_equal(histogram[occupied], sketch.counts)
    assert sketch.max == 1e9  # extremes see every element
    assert set(histogram[(st.key_of(np.arange(24)) >> st.SHIFT) + st.ZERO]) <= {3 * len(positions), 3 * len(positions) - 1}


@pytest.mark.parametrize("seed", range(20))
def test_every_channel_has_its_share_of_the_sampled_elements(seed):
    rng = np.random.default_rng(seed)
    shape = (1, *(int(n) for n in rng.integers(20, 120, 2)), int(rng.integers(1, 400)))
    positions, channels = folding.sampled_positions(shape), shape[-1]
    assert (positions is None) == (np.prod(shape) <= folding.MOST_SAMPLED or -(-folding.MOST_SAMPLED // channels) >= shape[1] * shape[2])
    x = np.broadcast_to(np.arange(channels, dtype=np.float32), shape)
    part = np.asarray(folding.sampled(jnp.asarray(x), folding.Watch(0, x.size, channels, positions)))
    assert set(np.unique(part, return_counts=True)[1]) == {part.size // channels} and len(np.unique(part)) == channels


@pytest.mark.parametrize("kind", KINDS)
def test_the_device_side_meets_the_definition(kind):
    x = draw(kind, np.random.default_rng(5), (16, 77))
    x[np.abs(x) < 1.2e-38] = 0  # a CPU may flush subnormals in arithmetic
    s, watch = st.sketch_array(x[:11]), folding.Watch(0, 77, 1, None)
    valid = jnp.arange(16) < 11
    masked = folding.count(jnp.zeros(st.BINS, jnp.int32), folding.bins_of(jnp.asarray(x), watch, valid))
    plain = folding.count(jnp.zeros(st.BINS, jnp.int32), folding.bins_of(jnp.asarray(x[:11]), watch))
    rows = np.asarray(folding.ends(jnp.asarray(x)))[:11]
    assert np.array_equal(np.asarray(folding.kinds(jnp.asarray(x)))[:11].sum(axis=0), (s.nan, s.inf))
    for h in (np.asarray(masked), np.asarray(plain)):
        assert np.array_equal(np.flatnonzero(h), s.bins) and np.array_equal(h[s.bins], s.counts)
    assert (rows[:, 0].min(), rows[:, 1].max(), rows[:, 2].sum(), rows[:, 3].max()) == (s.low, s.high, s.bad, s.fractional)


def test_counts_move_to_64_bits_before_they_overflow(whole, monkeypatch):
    run = folding.compiled(MODEL)
    monkeypatch.setattr(run, "most", run.block + 1)  # as if a second block could fill a bin
    times = 2 * run.block // len(X) + 1
    assert observe(MODEL, [X] * times) == whole.merge(*[whole] * (times - 1))


def test_whole_batches_as_on_an_accelerator_count_the_same(whole, monkeypatch):
    run = folding.Pass(MODEL, folding.EVERYTHING)
    monkeypatch.setattr(run, "on_cpu", False)
    monkeypatch.setattr("calibrate.observer.compiled", lambda model, wanted: run)
    assert observe(MODEL, X) == whole


def test_taps_and_progress():
    told = []
    found = observe(MODEL, [X, X], taps=["hidden", "t8"], progress=told.append, sequence=False)
    assert set(found.tensors) == {3, 6} and found.copies == {8: 6} and found.sequence is None
    assert told[-1] == 200 and told == sorted(told)


def test_bad_samples_are_refused_or_counted(whole):
    x = np.concatenate([X[:60], np.zeros((2, 8, 8, 1)), X[60:]]).astype(np.float32)
    x[60, 0], x[61, 3] = np.nan, np.inf
    with pytest.raises(BadData, match="sample 60, input 'image'"):
        observe(MODEL, [x[:50], x[50:]])
    found = observe(MODEL, [x[:50], x[50:]], nonfinite="skip")
    assert found.skipped == 2 and found.samples == 100 and found.tensors == whole.tensors and found.data == whole.data
    with pytest.raises(BadData, match="no samples left"):
        observe(MODEL, x[60:62], nonfinite="skip")
    for nothing in ([], iter(())):
        with pytest.raises(BadData, match="no samples"):
            observe(MODEL, nothing)


def test_domains_come_from_the_data_type(whole):
    assert (whole.domains[0].low, whole.domains[0].high) == (0, 255)
    assert observe(MODEL, X.astype(np.float32)).domains == {}
    assert observe(MODEL, [X, X.astype(np.float32)]).domains == {}

    class Scaled(list):
        scaling = Scaling(1 / 255, -0.5)

    found = observe(MODEL, Scaled([X]))
    assert (found.domains[0].low, found.domains[0].high) == (-0.5, 0.5) and found.tensors[0].max <= 0.5


def test_every_element_counts_where_asked(monkeypatch):
    monkeypatch.setattr(folding, "MOST_SAMPLED", 64)
    part, exact = (folding._watches(MODEL, None, exact)[0] for exact in (False, True))
    assert any(w.positions is not None for w in part) and all(w.positions is None for w in exact)


# ---------------------------------------------------------------- before the activation, by channel


@pytest.fixture(scope="module")
def more():
    return observe(MODEL, X, before=["hidden"], channels=["hidden", "logits"])


def test_values_before_the_activation(whole, more):
    bare = MODEL.graph.nodes[0]
    bare = bare.but(options=bare.options.but(fused_activation_function="NONE"))
    model = MODEL.but(graphs=(MODEL.graph.but(nodes=(bare, *MODEL.graph.nodes[1:])),))
    assert more.before == {3: observe(model, X, taps=["hidden"]).tensors[3]}
    assert more.before[3].min < 0 == more.tensors[3].min and more.before[3].max == more.tensors[3].max
    assert more.tensors == whole.tensors and more.model == whole.model
    for key in ("deep", "image"):
        with pytest.raises(BadRange, match=f"nothing before it.*{key}|{key}.*nothing before it"):
            observe(MODEL, X, before=[key])


def test_channels_are_sketches_of_their_own(whole, more):
    _, taps = MODEL.function("float", taps="all").batch(X.astype(np.float32))
    assert set(more.channels) == {3, 11} and len(more.channels[3]) == 8
    for t, row in more.channels.items():
        assert row == tuple(st.sketch_array(np.moveaxis(taps[t], -1, 0)[c].reshape(len(X), -1)) for c in range(len(row)))
        assert sum(s.counts.sum() for s in row) == more.tensors[t].counts.sum()
    scheme = scheme_named("sim:a4cw4")
    keys = calibrate.channel_ranges(MODEL, X, scheme=scheme)
    full = observe(MODEL, X, taps=["hidden"], channels=list(keys))
    for strategy in ("minmax", "mse"):
        same = zip(*(calibrate.channel_ranges(MODEL, d, strategy, scheme=scheme).values() for d in (X, full)), strict=True)
        assert all(np.array_equal(a, b) for a, b in same)
    with pytest.raises(BadRange, match="by channel"):
        calibrate.channel_ranges(MODEL, more, scheme=scheme)


def test_what_was_saved_and_the_rest_of_the_data_are_the_whole(more, tmp_path):
    how = {"before": ["hidden"], "channels": ["hidden", "logits"]}
    observe(MODEL, X[:37], **how).save(tmp_path / "a.npz")
    assert calibrate.load_statistics(tmp_path / "a.npz").merge(observe(MODEL, X[37:], **how)) == more
    with pytest.raises(BadData, match="different sets"):
        more.merge(observe(MODEL, X, before=["hidden"]))


# ---------------------------------------------------------------- the file


def test_statistics_come_back_from_their_file(whole, tmp_path):
    whole.save(tmp_path / "a.npz")
    found = calibrate.load_statistics(tmp_path / "a.npz")
    assert found == whole and all(np.array_equal(found.sequence[t], whole.sequence[t]) for t in whole.sequence)
    assert found.merge(found).samples == 200
    found.save(tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with pytest.raises(WriteFailed):
        whole.save(tmp_path / "a.npz")
    whole.save(tmp_path / "a.npz", force=True)


def test_other_files_are_refused(whole, tmp_path):
    np.savez(tmp_path / "a.npz", x=X)
    (tmp_path / "b.npz").write_bytes(b"no")
    whole.save(tmp_path / "c.npz")
    (tmp_path / "d.npz").write_bytes((tmp_path / "c.npz").read_bytes()[:-100])
    for name in ("a.npz", "b.npz", "d.npz", "absent.npz"):
        with pytest.raises(BadData, match=name):
            calibrate.load_statistics(tmp_path / name)
    with pytest.raises(BadData, match="too much"):
        calibrate.load_statistics(tmp_path / "c.npz", limit=100)


def test_statistics_of_other_models_do_not_merge(whole):
    with pytest.raises(BadData, match="different models"):
        whole.merge(observe(float_net(seed=5), X[:4]))
    with pytest.raises(BadData, match="sets of tensors"):
        whole.merge(observe(MODEL, X[:4], taps=["hidden"]))


def test_the_fingerprint_is_of_the_samples_not_their_order(whole):
    assert observe(MODEL, X[::-1]).data == whole.data
    assert observe(MODEL, X[:-1]).data != whole.data
    assert observe(MODEL, [X[:1], X[:1]]).data != observe(MODEL, X[:1]).data
