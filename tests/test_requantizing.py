"""Better ranges for a quantized file: decided on samples that they were not made from, and refused where they are not better."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import small

import qsim
from calibrate import ranges
from calibrate.distribution import Distribution
from calibrate.observer import observe
from calibrate.recalibrating import channel_ratios, clipped, problems_of
from calibrate.requantizing import Asked, improve, parts
from calibrate.trials import Bench, scores
from qsim import reader
from qsim.errors import BadData, BadRecipe, Unsupported
from qsim.graph import Model
from qsim.quantizer import quantize
from qsim.relayout import relayout
from qsim.writer import to_bytes

FLOAT = small.float_net()
X = (small.images(120) / np.float32(64) - np.float32(2)).astype(np.float32)
FED = [X[:, None]]  # as the file's shape has it
GOOD = ranges(FLOAT, observe(FLOAT, X), "minmax", input_range=(-2, 2))


def stored(given, io: str = "int8", **scheme) -> Model:
    return reader.read(to_bytes(quantize(FLOAT, given, replace(qsim.INT8, **scheme), io=io)))


BAD = stored({k: (lo / 4, hi / 4) if k != "image" else (lo, hi) for k, (lo, hi) in GOOD.items()})


def labels() -> np.ndarray:
    return FLOAT.function("float").batch(X)[0].reshape(len(X), -1).argmax(1)


def test_a_badly_ranged_file_is_rescued_from_itself():
    made, verdict = improve(BAD, X)
    assert verdict.better and made is not None and verdict.measure == "kl" and verdict.samples == 120
    reference, bench = FLOAT.function("float").batch(X), Bench(FLOAT, None)
    old, new, best = (bench.losses(reference, bench.outputs(m, FED)).mean() for m in (BAD, made, stored(GOOD)))
    assert new < old / 10 and new < 2 * best
    assert {r.tensor for r in made.report.ranges} == {r.tensor for r in verdict.changes.ranges}
    assert all(r.clipped <= r.clipped_before and r.gain_db > 3 for r in made.report.ranges)
    assert [r["chosen"] for r in verdict.rows()].count(True) == 1 and not verdict.rows()[0]["chosen"]


def test_labels_decide_where_they_are_given():
    made, verdict = improve(BAD, X, labels=labels())
    assert made is not None and "the metric from" in verdict.words
    assert verdict.trials[verdict.chosen].metric > verdict.trials[0].metric
    wrong = (np.argmax(BAD.function("integer").batch(X)[0].reshape(len(X), -1), 1)).astype(np.int64)
    made, verdict = improve(BAD, X, labels=wrong)  # the file as it is gets all of these right
    assert made is None and "the metric falls" in verdict.words


def test_a_good_file_is_left_alone_and_the_reason_is_told():
    made, verdict = improve(stored(GOOD), X)
    assert made is None and not verdict.better and verdict.rows()[0]["chosen"]
    assert any(line.startswith("ranges cannot gain more than") for line in verdict.limits)
    _, verdict = improve(stored(GOOD, per_channel=False), X)
    ratio = max(channel_ratios(stored(GOOD, per_channel=False).graph).values())
    assert any(f"weights are per tensor in 3 ops, with a channel ratio up to {ratio:.3g}" in line for line in verdict.limits)


def test_the_original_is_quantized_anew_where_it_is_given():
    model = stored({k: GOOD[k] for k in GOOD}, per_channel=False)
    made, verdict = improve(model, X, original=FLOAT)
    names = [t.strategy for t in verdict.trials]
    assert "minmax of the original" in names and "minmax" in names
    if made is not None and "of the original" in verdict.words:
        assert any(t.qparams is not None and t.qparams.per_channel for t in made.graph.tensors)
    made, verdict = improve(BAD, X, original=FLOAT, asked=Asked(only="deep"))
    assert made is not None and not any("of the original" in t.strategy for t in verdict.trials)
    assert [r.tensor for r in verdict.changes.ranges] == ["deep, flat"]


def test_an_original_of_another_shape_is_refused():
    other = FLOAT.but(graphs=(FLOAT.graph.but(outputs=(6,)),))
    with pytest.raises(Unsupported, match="other outputs"):
        improve(BAD, X, original=other, asked=Asked(only="deep"))


@pytest.mark.parametrize("count, groups, why", [(31, None, "fewer than 32"), (60, np.zeros(60), "all in one group")])
def test_too_few_samples_change_nothing(count, groups, why):
    made, verdict = improve(BAD, X[:count], groups=groups)
    assert made is None and why in verdict.words and not verdict.rows()


def test_wrong_requests_are_refused():
    with pytest.raises(BadRecipe):
        improve(BAD, X, asked=Asked(task="ranking"))
    with pytest.raises(BadData, match="one a sample"):
        improve(BAD, X, labels=np.zeros(3, np.int64))
    made, verdict = improve(BAD, X, asked=Asked(keep="."))
    assert made is None and verdict.words == "no tensor may change" and "6 tensors keep their parameters: asked to stay" in verdict.limits


def test_parts_are_even_keep_units_whole_and_do_not_depend_on_order():
    rng = np.random.default_rng(0)
    hashes = [int(h) for h in rng.integers(0, 2**60, 100)]
    found = parts(hashes)
    assert np.bincount(found).tolist() == [20] * 5
    order = rng.permutation(100)
    assert np.array_equal(parts([hashes[k] for k in order]), found[order])
    groups = np.repeat(np.arange(10), 10)
    assert all(len(set(parts(hashes, groups)[groups == g])) == 1 for g in range(10))
    assert not parts(hashes, np.zeros(100, int)).any()


def test_no_part_is_judged_by_ranges_made_from_it(monkeypatch):
    """The samples that a candidate of a part was made from, and those it is run on, are disjoint, and together all."""
    from calibrate import requantizing

    seen: list[set[bytes]] = []
    made_from, ran_on = [], []
    original = requantizing._Data.observed

    def observed(self, model, number):
        seen.append({row.tobytes() for b in self.fed(number) for row in b.arrays[0]})
        return original(self, model, number)

    def add(self, arrays, models, recovered):
        ran_on.append({row.tobytes() for row in arrays[0]})
        made_from.append(set().union(*(s for k, s in enumerate(seen) if k != len(ran_on) - 1)))
        return real_add(self, arrays, models, recovered)

    real_add = requantizing._Compared.add
    monkeypatch.setattr(requantizing._Data, "observed", observed)
    monkeypatch.setattr(requantizing._Compared, "add", add)
    improve(BAD, X, asked=Asked(strategies=("minmax",)))
    everything = {row.tobytes() for row in FED[0]}
    assert len(ran_on) == 5
    assert all(not (a & b) and (a | b) == everything for a, b in zip(made_from, ran_on, strict=True))


def test_inputs_cover_their_domain_and_not_what_was_seen_of_it():
    model, stats = stored(GOOD), observe(stored(GOOD), X / 2)
    plan = relayout(model.graph)
    assert not [p.known for p in problems_of(model, plan, stats)[0] if p.known]  # the file's own range stays
    assert not [p.known for p in problems_of(model, plan, stats, (-2.0, 2.0))[0] if p.known]
    found, notes = problems_of(model, plan, observe(model, X * 2))
    assert [p.known[1] for p in found if p.known][0] == pytest.approx(float(X.max() * 2)) and "leave the file's range" in notes[0]
    assert [p.known for p in problems_of(model, plan, stats, (-5, 5))[0] if p.known] == [(-5, 5)]


def test_the_clipped_share_counts_what_lies_outside():
    d = Distribution(np.array([-2.0, 0.0, 1.0]), np.array([-2.0, 1.0, 3.0]), np.array([1.0, 5.0, 4.0]), -2.0, 3.0, False, 1)
    assert (
        clipped(d, (-2, 3)) == 0
        and clipped(d, (-1.9, 3), 0.2) == 0
        and clipped(d, (0, 2)) == pytest.approx((1 + 2) / 10)
        and clipped(d, (0, 0.5)) == pytest.approx(0.75)
    )


def test_scores_of_classes_and_of_reals():
    y = np.array([[0.1, 0.9], [0.8, 0.2]])
    assert scores(y, np.array([1, 1])).tolist() == [1, 0]
    assert scores(y[:, :1], np.array([0.0, 1.0])).tolist() == pytest.approx([-0.1, -0.2])
    assert scores(y, np.array([0.5, 0.5])) is None


def test_rounding_of_the_weights_moves_the_outputs_as_much_as_rounding_does():
    """The estimated distance between a file's function and the float one is of the true distance's size."""
    model = stored(GOOD, rounding="nearest")
    bench = Bench(model, "regression")
    reference = bench.reference(FED)
    estimated = bench.losses(reference, bench.rounded(FED)).mean()
    true = bench.losses(FLOAT.function("float").batch(X), reference).mean()
    assert 0.2 < estimated / true < 5


@pytest.mark.models
@pytest.mark.parametrize("name", ["meter_digits_2000_int8", "meter_digits_1900_int8"])
def test_the_meter_files_read_all_digits_again(name, models_dir, oracle):
    import sets

    (x, y), (seen, _) = sets.load("meter_digits_test700"), sets.load("meter_digits_calib100")
    made, verdict = improve(qsim.load(models_dir / "nets" / f"{name}.tflite"), [seen])
    assert made is not None, verdict.words
    found = made.function("integer").batch(x)[0]
    assert (found.reshape(len(x), -1).argmax(1) == y).mean() >= 0.986
    assert np.array_equal(found[:40], oracle.run(to_bytes(made, "patch"), [x[:40]])[made.graph.outputs[0]])


@pytest.mark.models
def test_ad01_is_declined_for_its_weights(models_dir):
    import sets

    x, _ = sets.load("ad01_calib40")
    made, verdict = improve(
        qsim.load(models_dir / "nets" / "mlperf_ad01_int8.tflite"), [x.reshape(-1, 640)], groups=np.repeat(np.arange(len(x)), x.shape[1])
    )
    assert made is None and verdict.limits[0].startswith("ranges cannot gain more than 0.3")
    assert "per tensor in 10 ops, with a channel ratio up to 42" in verdict.limits[1] and "give --original" in verdict.limits[1]


@pytest.mark.models
def test_the_float_mode_of_mobilenet_has_its_clamps(models_dir):
    """Without the 27 inferred RELU6 the recovered function would be another one; the uint8 file gets 0.517 of these."""
    import sets

    x, y = sets.load("imagenet_sample_test400_224")
    model = qsim.load(models_dir / "nets" / "mobilenet_v1_025_224_uint8.tflite")
    found = model.function("float").batch(x)[0].reshape(len(x), -1)
    assert abs((found.argmax(1) == y + 1).mean() - 0.517) <= 0.01
