"""Figures with intervals: metrics against the long way, intervals that cover what they should, paired verdicts, whole models."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from small import float_net, images

import qsim
from calibrate import compare, comparing, evaluate, observe, ranges
from calibrate.comparing import estimates, resampled
from calibrate.evaluation import auc, softmax
from calibrate.metrics import Items, Metric, auc_of, named, usual
from qsim.errors import BadData, BadRecipe

MODEL = float_net()
X = (images(70) / 255).astype(np.float32)
LABELS = MODEL.function("float").batch(X)[0].reshape(70, 4).argmax(1)


def value(name, weights=None, **items):
    items = Items(**{k: np.asarray(v) for k, v in items.items()})
    metric, n = named(name), len(items.y)
    w = np.ones(n) if weights is None else weights
    return float(metric.value(metric.of(items), w[None])[0])


# ---------------------------------------------------------------- metrics

Y = np.array([[0.1, 0.9, 0.0], [0.8, 0.1, 0.1], [0.3, 0.7, 0.0], [0.5, 0.5, 0.0]])
R = np.array([[0.1, 0.9, 0.0], [0.2, 0.8, 0.0], [0.6, 0.4, 0.0], [0.5, 0.5, 0.0]])


@pytest.mark.parametrize(
    "name, items, expected",
    [
        ("top1", {"labels": [1, 0, 0, 1]}, 0.5),  # of equal outputs the first is larger
        ("top2", {"labels": [1, 2, 0, 1]}, 0.75),
        ("agreement", {"reference": R}, 0.5),
        ("equal_outputs", {"reference": R}, 0.5),
        ("mae", {"labels": Y + [[1, 2, 0]]}, 1.0),
        ("cosine", {"reference": 3 * Y}, 1.0),
        ("cosine", {"reference": np.array([[0, 0, 1.0], [0, 0, 0], [0.3, 0.7, 0], [1, -1, 0]])}, 0.25),
        ("sqnr", {"reference": 1.1 * Y}, 20 * np.log10(11)),
        ("sqnr", {"reference": Y}, np.inf),
        ("kl", {"reference": Y}, 0.0),
    ],
)
def test_metrics_are_what_they_say(name, items, expected):
    assert value(name, y=Y, **items) == pytest.approx(expected)


def test_kl_takes_probabilities_as_they_are_and_logits_through_a_softmax():
    logits = np.random.default_rng(0).normal(size=(5, 8)) * 2
    other = logits + np.random.default_rng(1).normal(size=(5, 8)) / 10
    expected = value("kl", y=softmax(logits), reference=softmax(other))
    assert expected > 0 and value("kl", y=logits, reference=other) == pytest.approx(expected)
    codes = np.clip(np.rint(softmax(logits) * 256), 0, 255) / 256 * 0.9  # many classes round to 0, and rows no longer sum to 1
    assert value("kl", y=codes, reference=softmax(other)) == pytest.approx(expected, rel=0.2)


def test_auc_is_the_share_of_ordered_pairs_under_any_weights():
    rng = np.random.default_rng(0)
    score, positive, weights = rng.integers(0, 6, 30).astype(float), np.arange(30) % 3 == 0, rng.integers(0, 4, 30).astype(float)
    pairs = itertools.product(np.flatnonzero(positive), np.flatnonzero(~positive))
    total = [(weights[a] * weights[b], (score[a] > score[b]) + 0.5 * (score[a] == score[b])) for a, b in pairs]
    assert value("auc", weights, y=score[:, None], labels=positive * 1) == pytest.approx(
        sum(w * v for w, v in total) / sum(w for w, _ in total)
    )
    assert value("auc", y=score[:, None], labels=positive * 1) == pytest.approx(auc(score, positive))
    assert value(auc_of(lambda i: -i.y[:, 0]), y=score[:, None], labels=positive * 1) == pytest.approx(1 - auc(score, positive))


def test_what_fits_the_data_is_taken():
    wide = np.full((3, 9), 1 / 9)
    classes, real = np.array([0, 1, 2]), np.array([0.5, 1.0, 2.0])
    assert usual(Items(wide, classes)) == ("top1", "top5")
    assert usual(Items(wide[:, :1], real)) == ("mae",)
    assert usual(Items(wide, None, wide)) == ("sqnr", "cosine", "equal_outputs", "agreement", "kl")
    assert "kl" not in usual(Items(wide - 1, None, wide - 1)) and "kl" in usual(Items(wide - 1, None, wide - 1), "classification")
    assert usual(Items(wide, real)) == ()


@pytest.mark.parametrize(
    "name, items, text",
    [
        ("top1", {}, "needs labels"),
        ("kl", {}, "needs reference"),
        ("top1", {"labels": np.array([0.5, 1, 2, 3])}, "one class number"),
        (auc_of(lambda items: items.y[:, 0]), {"labels": np.array([0, 1, 2, 1])}, "0 or 1"),
        ("auc", {"labels": np.array([0, 1, 1, 1])}, "one output, or two"),
        ("kl", {"reference": Y[:, :2]}, "different sizes"),
        (lambda items: np.ones(3), {}, "one number a sample"),
    ],
)
def test_metrics_that_do_not_fit_are_refused(name, items, text):
    with pytest.raises(BadData, match=text):
        value(name, y=Y, **items)


@pytest.mark.parametrize("names", [["top0"], ["accuracy"], ["kl", "kl"]])
def test_unknown_metrics_are_refused(names):
    with pytest.raises(BadRecipe):
        evaluate(MODEL, X, names, mode="float")


# ---------------------------------------------------------------- intervals


def estimate(metric, columns, groups=None, **how):
    return estimates([metric], {metric.name: columns}, groups, **how)[metric.name]


def paired(metric, ours, theirs):
    (found,) = comparing.paired([metric], {metric.name: ours}, {metric.name: theirs})
    return found


MEAN = Metric("mean", lambda items: items.y[:, 0])


def test_the_interval_is_that_of_resampled_means():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 1))
    found = estimate(MEAN, x, draws=4000)
    error = 1.96 * x.std() / np.sqrt(200)
    assert found.value == pytest.approx(x.mean())
    assert (found.value - found.low, found.high - found.value) == pytest.approx((error, error), rel=0.08)
    assert estimate(MEAN, x, draws=4000) == found != estimate(MEAN, x, draws=4000, seed=1)


def test_intervals_cover_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(0)
    cover = 0
    for k in range(200):
        found = estimate(MEAN, (rng.random((100, 1)) < 0.7).astype(float), draws=200, seed=k)
        cover += found.low <= 0.7 <= found.high
    assert 0.90 <= cover / 200 <= 0.99


def test_groups_are_the_units():
    x, groups = np.repeat(np.random.default_rng(0).normal(size=20), 50)[:, None], np.repeat(np.arange(20), 50)
    alone, together = estimate(MEAN, x), estimate(MEAN, x, groups)
    assert (together.high - together.low) / (alone.high - alone.low) == pytest.approx(np.sqrt(50), rel=0.15)
    for w in resampled(1000, groups, 10):
        assert (w.reshape(-1, 20, 50) == w.reshape(-1, 20, 50)[:, :, :1]).all() and (w.sum(1) == 1000).all()


def test_draws_do_not_depend_on_how_many_are_held_at_once(monkeypatch):
    whole = np.concatenate(list(resampled(50, draws=30)))
    monkeypatch.setattr("calibrate.comparing.ROOM", 200)
    assert np.array_equal(np.concatenate(list(resampled(50, draws=30))), whole)


def test_resamples_of_one_class_have_no_auc():
    columns = np.array([[0.1, 0], [0.9, 1], [0.4, 0]])
    found = estimate(named("auc"), columns)
    assert found.value == 1 and found.low == found.high == 1
    assert np.isnan(estimate(named("auc"), columns[:1]).low)


# ---------------------------------------------------------------- pairs


@pytest.mark.parametrize(
    "lost, won, verdict",
    [(100, 80, "not inferior"), (100, 50, "inferior"), (14, 0, "not inferior"), (50, 100, "better"), (0, 0, "not inferior")],
)
def test_the_paired_verdict_is_that_of_the_counts(lost, won, verdict):
    """As `evaluation.verdict`: two standard errors of the paired difference, or 0.3 points."""
    ours, theirs = np.ones((5000, 1)), np.ones((5000, 1))
    ours[:lost], theirs[lost : lost + won] = 0, 0
    found = paired(named("top1"), ours, theirs)
    assert (found.lost, found.won, found.verdict) == (lost, won, verdict)
    assert found.difference == pytest.approx((won - lost) / 5000)
    assert found.high - found.low == pytest.approx(2 * 1.96 * np.sqrt(lost + won) / 5000, rel=0.12)


def test_pairs_know_which_direction_is_better():
    small, large = np.full((50, 1), 1.0), np.full((50, 1), 2.0) + np.arange(50)[:, None] / 1000
    assert paired(named("mae"), small, large).verdict == "better" and paired(named("mae"), large, small).verdict == "inferior"
    assert paired(named("mae"), large, small).lost == 50


def test_auc_is_paired_over_the_same_resamples():
    rng = np.random.default_rng(0)
    positive = (np.arange(120) % 2).astype(float)
    score = positive + rng.normal(size=120)
    near = np.stack([score + rng.normal(size=120) / 20, positive], axis=1)
    found = paired(named("auc"), near, np.stack([score, positive], axis=1))
    alone = estimate(named("auc"), near)
    assert found.lost is None and found.not_inferior and found.high - found.low < (alone.high - alone.low) / 3
    assert paired(named("auc"), np.stack([rng.normal(size=120), positive], axis=1), near).verdict == "inferior"


# ---------------------------------------------------------------- models


def int8():
    return qsim.quantize(MODEL, ranges(MODEL, observe(MODEL, X), "minmax"), qsim.INT8)


def test_a_model_is_evaluated_in_one_pass_whatever_the_batches():
    made = int8()
    whole = evaluate(made, X, labels=LABELS, reference=MODEL)
    parts = evaluate(made, (x[None] for x in X), labels=LABELS, reference=MODEL.function("float"))
    assert whole.values == parts.values and whole.data == parts.data and whole.samples == 70
    y = made.function().batch(X)[0].reshape(70, 4)
    assert whole.values["top1"].value == (y.argmax(1) == LABELS).mean() == whole.values["agreement"].value
    assert set(whole.values) == {"top1", "sqnr", "cosine", "equal_outputs", "agreement", "kl"}
    assert whole.rows()[0]["metric"] == "top1" and whole.rows()[0]["low"] <= whole.rows()[0]["value"] <= whole.rows()[0]["high"]


def test_two_models_are_compared_on_the_same_samples():
    a, b = (evaluate(m, X, ["top1", "kl", lambda i: i.y[:, 0]], labels=LABELS, reference=MODEL) for m in (int8(), float_net(5)))
    found = {p.metric: p for p in compare(b, a)}
    assert found["kl"].verdict == found["top1"].verdict == "inferior" and found["top1"].lost > found["top1"].won
    assert found["kl"].difference == pytest.approx(b.values["kl"].value - a.values["kl"].value) and "<lambda>" in found
    with pytest.raises(BadData, match="other samples"):
        compare(a, evaluate(int8(), X[::-1], ["top1"], labels=LABELS[::-1]))


@pytest.mark.parametrize("count", [69, 71])
def test_labels_of_another_number_are_refused(count):
    with pytest.raises(BadData, match="labels"):
        evaluate(MODEL, X, labels=np.zeros(count, int), mode="float")


def test_nan_in_the_data_is_named():
    x = X.copy()
    x[13] = np.nan
    with pytest.raises(BadData, match="sample 13"):
        evaluate(MODEL, x, ["top1"], labels=LABELS, mode="float")
