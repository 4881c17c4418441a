"""Words of older converters: input statistics, default ranges, names of types, and the list of tensors that lack a range."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import pytest
import small
from cyclopts import App, CycloptsError

import calibrate
import qsim
from calibrate.lacking import lacking, require, with_default
from calibrate.legacy import element_type, parameters_stats, stats_parameters, stats_range
from qsim.errors import BadRange, BadRecipe
from qsim.scheme import UINT8
from qsim_cli import options

MODEL = small.float_net()
X = (small.images(24) / 64 - 2).astype(np.float32)
KEYS = [MODEL.graph.key(t) for group in qsim.quantizer.layout(MODEL).groups for t in group]


# input statistics


@pytest.mark.parametrize(
    ("stats", "kind", "ends", "parameters"),
    [
        ((0, 255), "uint8", (0, 1), (0.003921568859368563, 0)),
        ((127.5, 127.5), "uint8", (-1, 1), (0.007843137718737125, 128)),
        ((128, 128), "uint8", (-1, 127 / 128), (0.0078125, 128)),
        ((-128, 255), "int8", (0, 1), (0.003921568859368563, -128)),
        ((0, 1), "int8", (-128, 127), (1.0, 0)),
    ],
)
def test_input_statistics_are_a_range_of_all_codes(stats, kind, ends, parameters):
    assert stats_range(*stats, kind) == ends
    scale, zero = stats_parameters(*stats, kind)
    assert (float(scale), zero) == parameters


@pytest.mark.parametrize("kind", ["uint8", "int8"])
def test_a_code_is_the_real_that_the_statistics_say(kind):
    rng = np.random.default_rng(2)
    low, high = qsim.types.code_range(kind)
    codes = np.arange(low, high + 1)
    for mean, std in zip(rng.integers(low, high + 1, 50), 2.0 ** rng.uniform(-10, 10, 50), strict=True):
        scale, zero = stats_parameters(mean, std, kind)
        assert zero == mean
        np.testing.assert_allclose(float(scale) * (codes - zero), (codes - mean) / std, rtol=1e-6)
        back = parameters_stats(float(scale), zero)
        assert back[0] == mean and back[1] == pytest.approx(std, rel=1e-6)


@pytest.mark.parametrize("stats", [(0, 0), (0, -1), (float("nan"), 1), (0, float("inf"))])
def test_statistics_that_are_none_are_refused(stats):
    with pytest.raises(BadRange, match="positive std"):
        stats_range(*stats)


def test_a_mean_outside_the_codes_is_refused_as_parameters():
    assert stats_range(-10, 100) == (0.1, 2.65)  # a range it is
    with pytest.raises(BadRange, match="without a code"):
        stats_parameters(-10, 100)
    with pytest.raises(BadRange, match="positive"):
        parameters_stats(0.0, 3)


def test_the_input_of_a_quantized_model_gets_the_statistics_parameters():
    ranges = {**dict.fromkeys(KEYS, (-4.0, 4.0)), "image": stats_range(-128, 64, "int8")}
    q = qsim.quantize(MODEL, ranges, io="int8").graph.tensors[0].qparams
    assert (q.scale.tolist(), q.zero_point.tolist()) == ([1 / 64], [-128])


def test_the_whole_of_an_old_command_line():
    """inference_type QUANTIZED_UINT8, quantized_input_stats (127.5, 127.5), default_ranges_stats (-100, 100), and nothing else."""
    ranges, _ = with_default(MODEL, {"image": stats_range(127.5, 127.5)}, (-100, 100), UINT8)
    made = qsim.quantize(MODEL, ranges, UINT8, io=element_type("QUANTIZED_UINT8")).graph
    found = {t.name: (float(t.qparams.scale[0]), int(t.qparams.zero_point[0])) for t in made.tensors if t.qparams and t.data is None}
    assert found["image"] == (0.007843137718737125, 128)
    assert found["deep"] == found["logits"] == (0.7843137383460999, 128)
    assert found["hidden"] == (float(np.float32(100 / 255)), 0)  # cut to what its RELU lets through


# names of types


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("int8", "int8"), ("tf.uint8", "uint8"), ("INT8", "int8"), ("QUANTIZED_UINT8", "uint8"), (np.int8, "int8"),
        (np.dtype("int16"), "int16"), ("np.int8", "int8"), ("tf.lite.constants.QUANTIZED_UINT8", "uint8"), ("FLOAT", "float32"),
        ("tf.float16", "float16"), ("tf.quint8", "uint8"), (np.float32, "float32"), ("QUANTIZED_INT16", "int16"), ("<tf>.INT64", "int64"),
    ],
)  # fmt: skip
def test_names_of_types(name, ours):
    assert element_type(name) == ours


@pytest.mark.parametrize("name", ["", "int", "int7", "QUANTIZED_", None, 3, object()])
def test_what_is_no_type_is_refused(name):
    with pytest.raises(BadRecipe, match="not the name of a type"):
        element_type(name)


# tensors without a range


def test_every_lacking_tensor_is_listed_with_its_calibrated_range():
    stats = calibrate.observe(MODEL, X)
    known = calibrate.ranges(MODEL, stats, "minmax")
    found = lacking(MODEL, {"image": (-2.0, 2.0)}, stats=stats)
    assert [m.tensor for m in found] == ["hidden", "deep", "logits"]
    assert all(m.proposed == known[m.tensor] for m in found)
    assert [m.proposed for m in lacking(MODEL, {"image": (-2.0, 2.0)})] == [None] * 3
    assert lacking(MODEL, known) == ()


def test_the_list_is_what_quantize_misses():
    partial = {"image": (-2.0, 2.0), "deep": (-1.0, 1.0)}
    with pytest.raises(BadRange) as fault:
        qsim.quantize(MODEL, partial)
    assert all(m.tensor in str(fault.value) for m in lacking(MODEL, partial))
    assert {m.tensor for m in lacking(MODEL, {})} >= {"image", "hidden"}


def test_one_message_names_them_all_with_proposals():
    stats = calibrate.observe(MODEL, X)
    with pytest.raises(BadRange, match="3 tensors lack min/max data") as fault:
        require(MODEL, {"image": (-2.0, 2.0)}, stats=stats)
    low, high = calibrate.ranges(MODEL, stats, "minmax")["hidden"]
    assert f"hidden: [{low:.6g}, {high:.6g}]" in str(fault.value)
    require(MODEL, calibrate.ranges(MODEL, stats, "minmax"))


def test_the_default_range_fills_what_is_missing_and_nothing_else():
    completed, (told,) = with_default(MODEL, {"image": (-2.0, 2.0)}, (-100, 100))
    assert completed == {"image": (-2.0, 2.0), "hidden": (-100, 100), "deep": (-100, 100), "logits": (-100, 100)}
    assert "3 tensors use the default range [-100, 100]: hidden, deep, logits" == told
    assert with_default(MODEL, completed, (-1, 1)) == (completed, ())
    assert qsim.quantize(MODEL, completed).report.kept_float == ()


def test_a_default_range_that_clips_is_told():
    stats = calibrate.observe(MODEL, X)
    known = calibrate.ranges(MODEL, stats, "minmax")
    _, told = with_default(MODEL, {"image": (-2.0, 2.0)}, (-1e-3, 1e-3), stats=stats)
    assert [t.split()[4] for t in told[2:]] == ["hidden:", "deep:", "logits:"]
    needed = [known[k] for k in ("hidden", "deep", "logits")]
    assert told[1].endswith(f"[{min(n[0] for n in needed):.6g}, {max(n[1] for n in needed):.6g}]")


@pytest.mark.parametrize("default", [(1, 1), (2, 1), (0, float("inf"))])
def test_a_default_that_is_no_range_is_refused(default):
    with pytest.raises(BadRange, match="default range"):
        with_default(MODEL, {}, default)


# options


def parsed(kind: object, *tokens: str) -> object:
    def command(*, value=None):
        return value

    command.__annotations__["value"] = kind
    app = App(result_action="return_value")
    app.default(command)
    return app(tokens, exit_on_error=False, print_error=False)


def test_options_take_the_words():
    named = Annotated[options.TypeName, options.Parameter(name="--io")]
    assert parsed(options.InputStats, "--input-stats", "127.5,127.5") == (127.5, 127.5)
    assert parsed(options.InputStats, "--input-stats=-128,1/2") == (-128.0, 0.5)
    assert parsed(options.DefaultRange, "--default-range=-100,100") == (-100.0, 100.0)
    assert parsed(named, "--io", "tf.uint8") == "uint8"
    for kind, words in ((options.InputStats, "--input-stats=1,0"), (options.DefaultRange, "--default-range=1"), (named, "--io=int7")):
        with pytest.raises(CycloptsError):
            parsed(kind, words)
