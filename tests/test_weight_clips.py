"""Rules for how far weights' codes reach: against ai-edge-quantizer, brute force, and LiteRT on files made with them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from small import float_net, images

import calibrate
import qsim
from qsim.errors import BadRecipe
from qsim.scheme import BLOCKWISE4, FLOAT16, INT8, INT8W4, UINT8, WEIGHTS4, Scheme, scheme_named
from qsim.types import code_range
from qsim.weightclip import clips, require_rule
from qsim.writer import to_bytes
from qsim_cli.app import run

RULES = ("mse", "octav", "percentile:95")
KINDS = tuple(f"int{bits}" for bits in range(2, 9))


def rows(seed: int = 3, n: int = 400) -> np.ndarray:
    rng = np.random.default_rng(seed)
    parts = rng.normal(size=n), rng.laplace(size=n) * 0.05, rng.standard_t(3, size=n) * 0.3, rng.uniform(-1, 1, n)
    return np.stack(parts).astype(np.float32)


# ai-edge-quantizer 0.10.0, octav._guess_clipping_with_octav(rows(), bits, axis, 10, 3.0): per row, for all
OCTAV = {
    2: ([1.8165762424468994, 0.1428525745868683, 1.2918866872787476, 0.842418909072876], 1.3812566995620728),
    4: ([2.684826374053955, 0.25560081005096436, 2.4888782501220703, 0.9517896771430969], 2.3854820728302),
    8: ([3.3162693977355957, 0.31546348333358765, 3.1775591373443604, 0.9976266026496887], 3.296191692352295),
}


@pytest.mark.parametrize("bits", OCTAV)
def test_octav_is_ai_edge_quantizers(bits):
    per_channel, whole = OCTAV[bits]
    assert clips(rows(), "octav", f"int{bits}") == pytest.approx(per_channel, rel=1e-5)
    assert clips(rows().reshape(1, -1), "octav", f"int{bits}") == pytest.approx([whole], rel=1e-5)


def squares(w: np.ndarray, clip: float, kind: str) -> float:
    """By definition."""
    qmax = code_range(kind)[1]
    s = float(np.float32(clip / qmax))
    w = w.astype(np.float64)
    return float(((np.clip(np.rint(w / s), -qmax, qmax) * s - w) ** 2).sum())


@pytest.mark.parametrize("kind", KINDS)
def test_mse_is_near_the_best_clip_there_is_and_never_worse_than_the_largest(kind):
    for w, near in ((rows(), 1.01), (rows(4, 27), 1.1)):  # with few weights the error jumps from clip to clip
        for row, clip in zip(w, clips(w, "mse", kind), strict=True):
            top = float(np.abs(row).max())
            best = min(squares(row, top * f, kind) for f in np.linspace(0.1, 1, 1500))
            assert squares(row, clip, kind) <= min(near * best, (1 + 1e-6) * squares(row, top, kind))


def test_percentiles_are_order_statistics():
    w = np.sort(np.abs(rows()).astype(np.float64), axis=1)
    assert (clips(rows(), "percentile:99.5", "int8") == w[:, 400 - 1 - 2]).all()
    assert (clips(rows(), "percentile:100", "int8") == w[:, -1]).all()


@pytest.mark.parametrize("rule", ("max", *RULES))
def test_clips_follow_the_scale_of_weights_and_stay_within_them(rule):
    w = np.concatenate([rows(), np.zeros((1, 400), np.float32), 1e-30 * rows()[:1]])
    w[3, :390] = 0.0
    for kind in KINDS:
        found = clips(w, rule, kind)
        assert (found <= np.abs(w).max(axis=1)).all() and (found > 0)[[0, 1, 2, 3, 5]].all() and found[4] == 0
        assert clips(4 * w, rule, kind) == pytest.approx(4 * found)
    assert clips(np.zeros((3, 0)), rule, "int8").tolist() == [0, 0, 0]


FILES = {
    **{rule: (INT8, rule, ("xnnpack",)) for rule in RULES},
    "reference": (INT8, "mse", ("reference",)),
    "per tensor": (replace(INT8, per_channel=False), "octav", ("xnnpack",)),
    "int8w4": (INT8W4, "mse", ("xnnpack",)),
    "weights4": (WEIGHTS4, "octav", ("xnnpack",)),
}


@pytest.mark.parametrize("name", FILES)
def test_files_with_clipped_weights_are_what_litert_runs(name, oracle):
    base, rule, flavours = FILES[name]
    model, x = float_net(), images(32)
    ranges = calibrate.ranges(model, calibrate.observe(model, x), "minmax", base)
    scheme = replace(base, clip=rule)
    made, plain = qsim.quantize(model, ranges, scheme), qsim.quantize(model, ranges, base)
    scales = [
        [float(t.qparams.scale.sum()) for t in m.graph.tensors if t.is_constant and t.name[:1] == "w" and t.qparams] for m in (made, plain)
    ]
    assert len(scales[0]) == 3 and all(a <= b for a, b in zip(*scales, strict=True)) and scales[0] != scales[1]
    data = to_bytes(made)
    inputs = [x.astype(np.float32)]
    for flavour in flavours:
        mine, theirs = made.function("integer", flavour).batch(*inputs), oracle.run(data, inputs, flavour)[made.graph.outputs[0]]
        assert np.array_equal(mine[0], theirs) if base.activation == "int8" else np.allclose(mine[0], theirs, atol=1e-5)


def test_simulated_widths_gain_from_clipping():
    model, x = float_net(), images(16)
    stats, real = calibrate.observe(model, x), x[:8].astype(np.float32)
    wanted = model.function("float").batch(real)[0]
    noise = {}
    for rule in ("max", "mse"):
        scheme = replace(scheme_named("sim:a8w3"), clip=rule, rounding="nearest")
        made = qsim.quantize(model, calibrate.ranges(model, stats, "minmax", scheme), scheme)
        noise[rule] = float(np.square(made.function("fake").batch(real)[0] - wanted).sum())
    assert noise["mse"] < noise["max"]


def test_rules_that_say_nothing_are_refused():
    for rule in ("", "min", "percentile", "percentile:0", "percentile:101", "percentile:1/2", "mse:3"):
        with pytest.raises(BadRecipe, match="no such rule"):
            require_rule(rule)
    for scheme in (UINT8, FLOAT16, BLOCKWISE4, replace(WEIGHTS4, symmetric=False)):
        with pytest.raises(BadRecipe, match="symmetric integer"):
            replace(scheme, clip="octav")
    with pytest.raises(BadRecipe):
        Scheme("own", clip="median")


def test_the_command_line_takes_a_rule(tmp_path, capsys):
    qsim.save(float_net(), tmp_path / "net.tflite")
    np.savez(tmp_path / "data.npz", x=images(16))
    command = [
        "quantize",
        str(tmp_path / "net.tflite"),
        "--data",
        str(tmp_path / "data.npz"),
        "--strategy",
        "minmax",
        "--scheme",
        "int8w4",
        "--weights",
    ]
    assert run([*command, "octav", "-o", str(tmp_path / "octav.tflite")]) == 0
    scales = qsim.load(tmp_path / "octav.tflite").graph.tensors[1].qparams.scale
    largest = np.abs(float_net().graph.tensors[1].data).reshape(8, -1).max(axis=1) / 7
    assert (scales <= 1.0001 * largest).all() and (scales < 0.99 * largest).any()
    assert run([*command, "median", "-o", str(tmp_path / "none.tflite")]) == 2
    assert "octav" in capsys.readouterr().err
