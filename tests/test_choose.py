"""The choice between strategies: a fair split, the stated rule, and min/max where there is nothing to choose by."""

from __future__ import annotations

import numpy as np
import pytest
from small import float_net, images

import qsim
from calibrate import choose, observe, ranges
from calibrate.choosing import decide, held_back, loss_of
from calibrate.data import as_data
from calibrate.statistics import sample_hash
from calibrate.strategies import candidates
from qsim.errors import BadData, BadRecipe

MODEL = float_net()
X = images(100)


def hashes(x):
    return [sample_hash([s]) for s in x]


# ---------------------------------------------------------------- the split


def test_a_fifth_with_the_smallest_hashes_is_held_back():
    h = hashes(X)
    held = held_back(h)
    assert held.sum() == 20 and max(h[k] for k in np.flatnonzero(held)) < min(h[k] for k in np.flatnonzero(~held))


def test_the_split_follows_the_samples_not_their_order():
    order = np.random.default_rng(0).permutation(100)
    assert np.array_equal(held_back(hashes(X[order])), held_back(hashes(X))[order])


def test_equal_samples_are_never_on_both_sides():
    h = hashes(X[np.arange(100) % 10])
    held = held_back(h)
    assert held.any() and not {h[k] for k in np.flatnonzero(held)} & {h[k] for k in np.flatnonzero(~held)}


@pytest.mark.parametrize("size", [1, 4, 7, 30])
def test_groups_stay_whole(size):
    groups = np.arange(100) // size
    held = held_back(hashes(X), groups)
    assert not set(groups[held]) & set(groups[~held]) and 0 < held.sum() <= max(20, size)


def test_one_group_cannot_be_split():
    assert not held_back(hashes(X), np.zeros(100, int)).any()


# ---------------------------------------------------------------- the rule


def test_a_candidate_must_beat_min_max_by_more_than_the_standard_error():
    rng = np.random.default_rng(0)
    base = rng.random(50) + 1
    clear, unclear = base - 0.5 + 0.1 * rng.random(50), base - 0.05 + rng.normal(0, 1, 50)
    unclear += (base - 0.05).mean() - unclear.mean()
    assert decide(np.stack([base, clear])) == 1
    assert decide(np.stack([base, unclear])) == 0
    assert decide(np.stack([base, base, base])) == 0
    assert decide(np.stack([base, clear + 1e-9, clear])) == 2  # surely better, however little
    assert decide(np.stack([base, clear + rng.normal(0, 1e-3, 50), clear - 1e-6])) == 1  # as good, and clips less


def test_groups_are_the_units_of_the_error():
    groups = np.repeat(np.arange(5), 10)
    by_group = np.array([-3.0, 1.0, 1.0, 1.0, -1.5])[groups]  # ten equal samples are one observation
    losses = np.stack([np.ones(50), 1 + by_group])
    assert decide(losses) == 1 and decide(losses, groups) == 0


# ---------------------------------------------------------------- a whole model


def test_choosing_gives_the_compared_ranges_and_a_table():
    found, table = choose(MODEL, X)
    kept = X[~held_back(hashes(X.astype(np.float32)))]  # the samples are hashed as the model takes them
    assert found == ranges(MODEL, observe(MODEL, kept), table.chosen) and found.strategy == table.chosen
    assert [r.strategy for r in table.candidates] == list(candidates()) and table.measure == "kl"
    assert (table.calibrated, table.held_back) == (80, 20) and sum(r["chosen"] for r in table.rows()) == 1
    assert table.chosen in table.words and table.chosen in str(table)
    qsim.quantize(MODEL, found)


def test_the_choice_does_not_depend_on_order_or_batches():
    first, table = choose(MODEL, X)
    order = np.random.default_rng(1).permutation(100)
    for batches in ([X[order[:37]], X[order[37:]]], iter([X[:50], X[50:]]), (x[None] for x in X)):
        again, other = choose(MODEL, batches)
        assert again == first and [r.loss for r in other.candidates] == pytest.approx([r.loss for r in table.candidates], rel=1e-12)


def test_candidates_share_one_compile(monkeypatch):
    from qsim.function import Function

    built = []
    monkeypatch.setattr(Function, "__init__", _counted(Function.__init__, built))
    choose(MODEL, X)
    assert built.count("integer") == 1


def _counted(init, built):
    def wrapped(self, model, mode, flavour, taps=None):
        built.append(mode)
        init(self, model, mode, flavour, taps)

    return wrapped


@pytest.mark.parametrize("count, groups", [(31, None), (60, np.zeros(60))])
def test_without_enough_to_hold_back_it_is_min_max_and_says_so(count, groups):
    found, table = choose(MODEL, X[:count], groups=groups)
    assert found == ranges(MODEL, observe(MODEL, X[:count]), "minmax")
    assert table.chosen == "minmax" and table.held_back == 0 and "too few" in table.words and f"{count} samples" in table.words


def test_data_with_groups_keep_them_together():
    data = as_data(MODEL, X[:60], groups=np.repeat(["a", "b", "c"], 20))
    again, table = choose(MODEL, X[:60], groups=np.arange(60) // 20)
    assert choose(MODEL, data)[0] == again and table.held_back == 20


def test_the_measure_follows_output_and_task():
    g = MODEL.graph
    logits = g.but(outputs=(11,))
    assert loss_of(g, None)[0] == "kl" and loss_of(logits, None)[0] == "sqnr"
    assert loss_of(logits, "classification")[0] == "kl" and loss_of(g, "regression")[0] == "sqnr"
    a = np.random.default_rng(0).normal(size=(5, 1, 4))
    kl, noise = loss_of(logits, "classification")[1], loss_of(logits, None)[1]
    assert kl([a], [a + 3]) == pytest.approx(np.zeros(5), abs=1e-12)  # a softmax does not see a shift
    assert noise([a], [a * 1.1]).mean() == pytest.approx(0.01)
    with pytest.raises(BadRecipe):
        choose(MODEL, X, task="ranking")


def test_bad_groups_and_changing_data_are_refused():
    with pytest.raises(BadData, match="one id per sample"):
        choose(MODEL, X, groups=[1, 2, 3])

    class Shrinking:
        left = 2

        def __iter__(self):
            self.left -= 1
            return iter([X if self.left else X[:90]])

    with pytest.raises(BadData, match="another number of samples"):
        choose(MODEL, Shrinking())


@pytest.mark.models
def test_ad01_keeps_its_range(models_dir):
    """Clipping costs this net four points of AUC; the samples held back must show it."""
    from sets import TASKS, load

    x, _ = load(TASKS["ad01"].calibration)
    groups = np.repeat(np.arange(len(x)), x.shape[1])
    _, table = choose(qsim.load(models_dir / "nets" / "mlperf_ad01_f32.tflite"), x.reshape(-1, 640), groups=groups)
    assert table.measure == "sqnr" and table.chosen != "percentile:99.9"
    score = {r["strategy"]: r["sqnr_db"] for r in table.rows()}
    assert score["percentile:99.9"] < score["minmax"] - 2
