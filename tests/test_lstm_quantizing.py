"""Float LSTMs made integer ones: LiteRT equals them in every element and flavour, also with the state carried on; what stays float."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import recurrent

import calibrate
import qsim
from qsim.check import check
from qsim.dequantizer import converted, own_ranges
from qsim.graph import Model, QParams
from qsim.layout import layout
from qsim.lstm_quantizing import cell_scale
from qsim.op import FLAVOURS
from qsim.quantizer import quantize
from qsim.writer import to_bytes

SIMPLE = recurrent.Form(n=1, time=5, k=6, cells=7, outputs=7)
FORMS = (
    SIMPLE,
    recurrent.Form(n=2, time=3, k=5, cells=6, outputs=4, projection="bias", norm=True, cifg=True, major=True),
    recurrent.Form(n=2, time=3, k=5, cells=6, outputs=6, peephole=True, clip=True),
)


def drawn(form: recurrent.Form, make: Any = recurrent.float_lstm, **options: Any) -> tuple[Model, np.ndarray]:
    """A float LSTM with tanh and without a clipped projection, unless asked for; and data for it."""
    model, (x,), _ = make(form, 0)
    (node,) = model.graph.nodes
    plain = {"fused_activation_function": "TANH", "proj_clip": 0.0} | options
    return model.but(graphs=(model.graph.but(nodes=(node.but(options=node.options.but(**plain)),)),)), x


def keys(model: Model) -> list[str]:
    return [model.graph.key(t) for group in layout(model).groups for t in group]


def stored(made: Model, name: str) -> QParams:
    q = made.graph.tensors[made.graph.find(name)].qparams
    assert q is not None
    return q


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_it_equals_litert_and_is_close_to_float(form, oracle):
    _compare(oracle, *drawn(form))


def test_an_lstm_of_one_step_equals_litert(oracle):
    _compare(oracle, *drawn(replace(SIMPLE, n=3), recurrent.full_lstm))


def test_a_basic_lstm_stays_float():
    model = recurrent.basic_lstm(SIMPLE, 0)[0]
    assert layout(model).kept_float == {0: "it keeps state"} == layout(model, qsim.UINT8).kept_float


def _compare(oracle, model, x):
    made = quantize(model, calibrate.ranges(model, calibrate.observe(model, [x])), io="int8")
    assert not made.report.kept_float and not check(made)
    fn = made.function("integer", "reference")
    codes = fn._admit(x, made.graph.tensors[made.graph.inputs[0]], batch=True)
    real, got = model.function("float").batch(x)[0], fn.batch(codes)[0]
    q = stored(made, "t" + str(made.graph.outputs[0]))
    assert 10 * np.log10((real**2).mean() / ((q.scale * (got - q.zero_point) - real) ** 2).mean()) > 30
    in_a_row = fn.sequence(codes)[0]
    assert not np.array_equal(in_a_row, got)
    for flavour in FLAVOURS:
        assert np.array_equal(got, oracle.run(to_bytes(made), [codes], flavour)[made.graph.outputs[0]])
        assert np.array_equal(in_a_row, oracle.run(to_bytes(made), [codes], flavour, sequence=True)[made.graph.outputs[0]])


def test_random_ranges_equal_litert_or_stay_float(oracle):
    model, x = drawn(SIMPLE)
    fn, kept = None, 0
    for draw in range(24):
        rng = np.random.default_rng(draw)
        made = quantize(model, {k: sorted(rng.normal(size=2) * 10.0 ** rng.integers(-8, 9)) for k in keys(model)}, io="int8")
        kept += len(made.report.kept_float)
        if made.report.kept_float:
            assert "2^30 steps" in made.report.kept_float[0].reason
            continue
        fn = fn or made.function("integer", "reference")
        codes = rng.integers(-128, 128, x.shape).astype(np.int8)
        mine = np.asarray(fn.run_samples(fn.lower(made), codes)[0])
        for flavour in ("xnnpack", "reference"):
            assert np.array_equal(mine, oracle.run(to_bytes(made), [codes], flavour)[made.graph.outputs[0]])
    assert 0 < kept < 24


def test_the_cell_has_a_power_of_two_from_the_range_of_every_step():
    model, x = drawn(SIMPLE)
    state = model.graph.key(model.graph.nodes[0].inputs[19])
    (t,) = model.graph.inputs
    one = model.graph.but(tensors=tuple(v.but(shape=(1, 1, v.shape[2])) if len(v.shape) == 3 else v for v in model.graph.tensors))
    fn, seen = model.but(graphs=(one,)).function("float"), []
    for sample in x:
        now = fn.init()
        for step in range(SIMPLE.time):
            now = fn.step(fn.params, now, sample[:, step : step + 1])[1]
            seen.append(np.asarray(now[state]))
    stats = calibrate.observe(model, [x])
    low, high = calibrate.ranges(model, stats)[state]
    assert stats.find(model.graph.find(state)).elements == np.size(seen)
    np.testing.assert_allclose((low, high), (np.min(seen), np.max(seen)), rtol=1e-6)
    made = quantize(model, calibrate.ranges(model, stats))
    assert stored(made, state).scale == np.float32(cell_scale(low, high)) == 2.0 ** (np.ceil(np.log2(max(-low, high))) - 15)


@pytest.mark.parametrize(
    ("ends", "power"), [((-8.0, 7.9), -12), ((-8.1, 1.0), -11), ((0.0, 0.01), -15), ((0.0, 0.0), -15), ((-1e6, 3.0), -9)]
)
def test_scales_of_cells(ends, power):
    assert cell_scale(*ends) == 2.0**power


def test_a_cell_without_a_range_gets_all_that_it_can_hold():
    for clip, power in ((10.0, -11), (0.0, -9), (100.0, -9)):
        model, _ = drawn(SIMPLE, cell_clip=clip)
        state = model.graph.key(model.graph.nodes[0].inputs[19])
        made = quantize(model, {k: (-1.0, 1.0) for k in keys(model) if k != state})
        assert stored(made, state).scale == 2.0**power and any("cell state" in note for note in made.report.notes)


def test_one_step_an_invocation_shows_no_range_of_its_cell():
    model, x = drawn(replace(SIMPLE, time=1))
    found = calibrate.ranges(model, calibrate.observe(model, [x]))
    assert set(keys(model)) - set(found) == {model.graph.key(model.graph.nodes[0].inputs[19])}
    assert any("was not observed" in note for note in found.notes)
    assert not quantize(model, found).report.kept_float


@pytest.mark.parametrize(
    ("form", "options", "words"),
    [
        (SIMPLE, {"fused_activation_function": "RELU"}, "RELU has no integer kernel"),
        (SIMPLE, {"diagonal_recurrent_tensors": True}, "diagonal"),
        (replace(SIMPLE, outputs=4, projection="plain"), {"proj_clip": 0.5}, "clips the codes"),
        (replace(SIMPLE, outputs=4, projection="plain", peephole=True), {}, "misreads peepholes"),
    ],
    ids=str,
)
def test_what_the_kernel_does_not_compute_stays_float(form, options, words):
    model, _ = drawn(form, **options)
    assert words in layout(model).kept_float[0] and not layout(model).groups


def test_other_schemes_leave_it_float():
    model, _ = drawn(SIMPLE)
    for scheme in (qsim.UINT8, qsim.INT16X8, qsim.Scheme("sim:a4w4", "int4", "int4")):
        assert 0 in layout(model, scheme).kept_float
    assert 0 in layout(model, qsim.INT8W4).quantized


TF = replace(qsim.INT8, per_channel=False, rounding="nearest")  # as the TF converter of these files rounds weights


def _require_same(mine: Model, theirs: Model) -> None:
    """Every operand, and every output over invocations in a row."""
    for node, other in zip(mine.graph.nodes, theirs.graph.nodes, strict=True):
        for t, o in zip(node.inputs + node.outputs, other.inputs + other.outputs, strict=True):
            a, b = (g.tensors[i] if i >= 0 else None for g, i in ((mine.graph, t), (theirs.graph, o)))
            assert a is b is None or (a.type == b.type and a.qparams == b.qparams and np.array_equal(a.data, b.data)), (node.op, a.name)
    (t,) = theirs.graph.inputs
    x = np.random.default_rng(0).integers(-128, 128, (20, *theirs.graph.tensors[t].shape)).astype(np.int8)
    assert np.array_equal(mine.function().sequence(x)[0], theirs.function().sequence(x)[0])


@pytest.mark.models
def test_the_file_of_the_tf_converter_comes_out_of_its_float_original(models_dir):
    original, theirs = (qsim.load(models_dir / "nets" / f"mnist_lstm_{kind}.tflite") for kind in ("f32", "int8"))
    own = own_ranges(theirs)
    ranges = {k: own[k] for k in keys(original) if k in own} | {"model/sequential/lstm/zeros1": own["tfl.pseudo_qconst1"]}
    _require_same(quantize(original, ranges, TF, io="int8"), theirs)


@pytest.mark.models
def test_a_streaming_file_comes_out_of_its_own_reals(models_dir):
    theirs = qsim.load(models_dir / "nets" / "dtln_noise_suppression_int8.tflite")
    _require_same(converted(theirs, TF, io="int8"), theirs)
