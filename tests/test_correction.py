"""Bias correction and rounding for the data: the formula, what it leaves alone, and that it brings the means of a 4-bit net back."""

from __future__ import annotations

import numpy as np
import pytest
import small
from nets import Net

import calibrate
import qsim
from qsim.scheme import DYNAMIC8, INT8, INT8W4, INT16X8, UINT8

X = small.images(96).astype(np.float32) / 255


def quantized(model, scheme, x=X):
    return qsim.quantize(model, calibrate.ranges(model, calibrate.observe(model, [x]), scheme=scheme, input_range=(0.0, 1.0)), scheme)


def test_a_bias_takes_up_the_error_of_the_means():
    """One dense layer: b' = b + (W - W_q) mean(x) + W_q (mean(x) - mean(x_q)), to half a step of the bias."""
    rng = np.random.default_rng(0)
    net = Net()
    w, b = rng.normal(size=(5, 8)).astype(np.float32), rng.normal(size=5).astype(np.float32)
    model = net.model(net.dense(net.input(1, 8), w, b, "RELU"))
    x = rng.uniform(0, 1, (40, 1, 8)).astype(np.float32)
    made = quantized(model, INT8W4, x)
    fixed, (row,) = calibrate.correct_bias(model, made, [x])
    dense = next(n for n in made.graph.nodes if n.op == "FULLY_CONNECTED")
    before, after = (m.graph.tensors[dense.inputs[2]] for m in (made, fixed))
    w_q, x_q = made.graph.tensors[dense.inputs[1]], made.graph.tensors[dense.inputs[0]].qparams
    codes = np.clip(np.rint(x / x_q.scale[0]) + x_q.zero_point[0], -128, 127)
    real_x = ((codes - x_q.zero_point[0]) * np.float64(x_q.scale[0])).mean(0)[0]
    wanted = b + w.astype(np.float64) @ x.mean(0)[0] - (w_q.data * w_q.qparams.scale.astype(np.float64)[:, None]) @ real_x
    assert np.abs(after.data - wanted / after.qparams.scale).max() < 0.51
    assert after.qparams == before.qparams and row.mean == np.abs(after.data - before.data).mean() > 0
    others = [t.index for t in made.graph.tensors if t.index != before.index]
    assert all(made.graph.tensors[i] is fixed.graph.tensors[i] for i in others)


def test_it_brings_a_4_bit_net_closer():
    model = small.float_net()
    real = model.function("float").batch(X)[0]
    made = quantized(model, INT8W4)
    fixed, rows = calibrate.correct_bias(model, made, [X])
    distance = [np.abs(m.function("integer").batch(X)[0].mean(0) - real.mean(0)).mean() for m in (made, fixed)]
    assert distance[1] < distance[0] / 2 and len(rows) == sum(
        n.op in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED") for n in model.graph.nodes
    )


def test_float_ops_have_no_integer_bias_to_correct():
    model = small.float_net()
    made, rows = calibrate.correct_bias(model, qsim.quantize(model, {}, DYNAMIC8), [X])
    assert rows == () and all(t.type != "int32" or t.qparams is None for t in made.graph.tensors)


def test_an_op_without_a_bias_keeps_none():
    rng, net = np.random.default_rng(0), Net()
    x = net.dense(net.input(1, 8), rng.normal(size=(8, 8)).astype(np.float32))
    model = net.model(net.dense(x, rng.normal(size=(4, 8)).astype(np.float32), np.ones(4, np.float32)))
    data = rng.uniform(0, 1, (40, 1, 8)).astype(np.float32)
    made = quantized(model, INT8W4, data)
    fixed, rows = calibrate.correct_bias(model, made, [data])
    assert len(rows) == 1 and len(fixed.graph.tensors) == len(made.graph.tensors)
    assert len(calibrate.round_weights(model, made, [data])[1]) == 2


def test_another_source_is_refused():
    model = small.float_net()
    with pytest.raises(qsim.Unsupported, match="not quantized from this source"):
        calibrate.correct_bias(model, model, [X])
    with pytest.raises(qsim.BadData, match="NaN"):
        calibrate.correct_bias(model, quantized(model, INT8), [np.full_like(X, np.nan)])


def test_held_back_samples_decide_what_to_correct():
    model = small.float_net()
    coarse = quantized(model, INT8W4)
    fixed, table = calibrate.correct(model, coarse, [X])
    rows = {r.strategy: r for r in table.candidates}
    assert table.chosen in ("bias", "weights") and rows[table.chosen].loss < rows["no"].loss and fixed is not coarse
    few, table = calibrate.correct(model, coarse, [X[:20]])
    assert few is coarse and table.chosen == "no" and "too few samples" in table.words
    with pytest.raises(qsim.BadRecipe, match="unknown correction"):
        calibrate.correct(model, coarse, [X], "all")


def test_nothing_changes_where_correcting_does_not_help():
    """Weights and inputs on the grid are stored exactly: there is nothing to correct."""
    net = Net()
    w, x = np.eye(8, dtype=np.float32) * 127, np.random.default_rng(0).integers(0, 256, (64, 1, 8)).astype(np.float32)
    model = net.model(net.dense(net.input(1, 8), w, np.zeros(8, np.float32), "NONE"))
    ends = {model.graph.key(model.graph.inputs[0]): (0.0, 255.0), model.graph.key(model.graph.outputs[0]): (0.0, 255.0 * 127)}
    made = qsim.quantize(model, ends, INT8)
    same, table = calibrate.correct(model, made, [x])
    assert same is made and table.chosen == "no" and {r.difference for r in table.candidates} == {0}


@pytest.mark.parametrize("scheme", (INT8W4, INT8, UINT8), ids=lambda s: s.name)
def test_rounding_for_the_data_lowers_the_noise_of_every_op(scheme):
    model = small.float_net()
    made = quantized(model, scheme)
    new, rows = calibrate.round_weights(model, made, [X])
    assert rows and all(r.after <= r.before for r in rows) and sum(r.after for r in rows) < sum(r.before for r in rows)
    assert all(a.qparams == b.qparams for a, b in zip(made.graph.tensors, new.graph.tensors, strict=True))
    changed = [t for t, u in zip(made.graph.tensors, new.graph.tensors, strict=True) if t is not u]
    for t in changed:
        assert new.graph.tensors[t.index].data.min() > t.qparams.low and new.graph.tensors[t.index].data.max() <= t.qparams.high


def test_the_noise_is_what_the_op_shows():
    """One dense layer: mean over channels of var((W_q - W) x) equals the noise told, and no choice of codes nearby beats GPTQ's by much."""
    rng = np.random.default_rng(1)
    w = rng.normal(size=(4, 6)).astype(np.float32)
    x = (rng.normal(size=(64, 2)) @ rng.normal(size=(2, 6)) + 0.1 * rng.normal(size=(64, 6))).astype(np.float32)[:, None]
    net = Net()
    model = net.model(net.dense(net.input(1, 6), w, np.zeros(4, np.float32), "NONE"))
    made = quantized(model, INT8W4, x)
    new, (row,) = calibrate.round_weights(model, made, [x])
    dense = next(n for n in new.graph.nodes if n.op == "FULLY_CONNECTED")
    for m, told in ((made, row.before), (new, row.after)):
        t = m.graph.tensors[dense.inputs[1]]
        noise = (x[:, 0].astype(np.float64) @ (t.data * t.qparams.scale.astype(np.float64)[:, None] - w).T).var(0).mean()
        assert np.isclose(noise, told, rtol=1e-4)
    assert row.after < row.before / 2


def test_a_small_variance_beside_a_large_mean_and_equal_samples_are_rounded_for():
    rng, net = np.random.default_rng(2), Net()
    w = rng.normal(size=(4, 128)).astype(np.float32)
    model = net.model(net.dense(net.input(1, 128), w, np.zeros(4, np.float32)))
    spread = (1000 + 1e-3 * rng.random((48, 1, 128))).astype(np.float32)
    for x in (spread, np.repeat(spread[:1], 48, 0), spread[:1]):
        made = quantized_at(model, x)
        new, (row,) = calibrate.round_weights(model, made, [x])
        assert row.after <= row.before


def quantized_at(model, x):
    return qsim.quantize(model, calibrate.ranges(model, calibrate.observe(model, [x])), INT8W4)


def test_a_bias_that_16_bits_allow_stays():
    """A row of zeros with a bias of 1: its code is 2^31, twice what other types may have."""
    net = Net()
    w, b = np.eye(8, dtype=np.float32), np.ones(8, np.float32)
    w[0] = 0
    model = net.model(net.dense(net.input(1, 8), w, b))
    x = np.random.default_rng(0).uniform(0, 1, (40, 1, 8)).astype(np.float32)
    made = quantized(model, INT16X8, x)
    fixed, _ = calibrate.correct_bias(model, made, [x])
    before, after = (m.function("integer").batch(x)[0].reshape(40, 8)[:, 0] for m in (made, fixed))
    assert np.allclose(before, 1, atol=1e-3) and np.allclose(after, 1, atol=1e-3)


def test_a_bias_that_two_ops_read_stays():
    net, rng = Net(), np.random.default_rng(0)
    w, b = net.constant(rng.normal(size=(8, 8)).astype(np.float32)), net.constant(np.ones(8, np.float32))
    x = net.input(1, 8)
    options = {
        "fused_activation_function": "NONE",
        "keep_num_dims": False,
        "weights_format": "DEFAULT",
        "asymmetric_quantize_inputs": False,
    }
    first = net.op("FULLY_CONNECTED", [x, w, b], (1, 8), **options)
    model = net.model(first, net.op("FULLY_CONNECTED", [x, w, b], (1, 8), **options))
    data = rng.uniform(0, 1, (40, 1, 8)).astype(np.float32)
    made = quantized(model, INT8W4, data)
    shared = len({n.inputs[2] for n in made.graph.nodes if n.op == "FULLY_CONNECTED"}) == 1
    assert len(calibrate.correct_bias(model, made, [data])[1]) == (0 if shared else 2)


def test_bad_data_and_nothing_to_correct_are_told():
    model = small.float_net()
    made = quantized(model, INT8W4)
    same, table = calibrate.correct(model, qsim.quantize(model, {}, DYNAMIC8), [X], "weights")
    assert table.chosen == "no" and "no op has integer weights" in str(table) and same.report.scheme == "dynamic8"
    holes = X.copy()
    holes[-1] = np.nan
    for how in ("auto", "bias", "weights"):
        with pytest.raises(qsim.BadData, match="NaN"):
            calibrate.correct(model, made, [holes], how)
    with pytest.raises(qsim.BadData, match="at least one sample"):
        calibrate.correct_bias(model, made, [X], samples=0)
    once, _ = calibrate.correct(model, made, (b for b in [X]), "weights")
    assert once is not made
