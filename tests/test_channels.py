"""Activations by channel in simulated schemes: each channel on a grid of its own, in fake mode and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest
import small
from nets import Net

import calibrate
import qsim
from qsim.scheme import affine, scheme_named

SCHEME = scheme_named("sim:a4cw4")


def images(count: int = 32) -> np.ndarray:
    return small.images(count).astype(np.float32) / 255


def on_its_grid(values: np.ndarray, q) -> bool:
    """Whether each channel holds whole steps of its scale, no more of them than it has codes."""
    steps = values.astype(np.float64) / q.scale.astype(np.float64) + q.zero_point
    codes = np.rint(steps)
    return bool(np.abs(steps - codes).max() < 1e-3 and codes.min() >= q.low and codes.max() <= q.high)


@pytest.mark.parametrize("name", ["sim:a4cw4", "sim:a8cw8", "sim:a16cw8"])
def test_each_channel_has_its_grid_in_fake_mode_and_nowhere_else(name, tmp_path):
    model, scheme, x = small.float_net(), scheme_named(name), images()
    ranges = calibrate.channel_ranges(model, [x], scheme=scheme, input_range=(0.0, 1.0))
    made = qsim.quantize(model, ranges, scheme)
    _, taps = made.function("fake", taps="all").batch(x)
    hidden, deep = (made.graph.tensors[made.graph.find(n)] for n in ("hidden", "deep"))
    for t in (hidden, deep):
        assert t.qparams.scale.shape == (8,) and len(set(t.qparams.scale.tolist())) == 8
        assert name == "sim:a16cw8" or on_its_grid(taps[t.index], t.qparams)
    lowest = 0 if name == "sim:a16cw8" else hidden.qparams.low  # after a RELU; 16 bits are symmetric
    assert np.all(hidden.qparams.zero_point == lowest)
    for refused in (lambda: qsim.save(made, tmp_path / "m.tflite"), lambda: made.function("integer")):
        with pytest.raises(qsim.Unsupported, match="simulated"):
            refused()
    assert not list(tmp_path.iterdir())


def test_ends_are_those_of_the_data():
    model, x = small.float_net(), images()
    _, taps = model.function("float", taps="all").batch(x)
    found = calibrate.channel_ranges(model, [x[:20], x[20:]], scheme=SCHEME)
    logits = taps[model.graph.find("logits")]
    assert found["logits"] == (logits.min(), logits.max())  # SOFTMAX compares them
    for name in ("hidden", "deep"):
        values = taps[model.graph.find(name)].reshape(-1, len(found[name][0]))
        assert np.array_equal(found[name][0], values.min(0)) and np.array_equal(found[name][1], values.max(0))
    assert "flat" not in found  # a RESHAPE moves it
    cut = calibrate.channel_ranges(model, [x], "mse", scheme=SCHEME)["deep"]
    assert np.all(cut[0] >= found["deep"][0] - 0.5) and not np.array_equal(cut[1], found["deep"][1])


def test_the_grid_is_that_of_affine_by_channel():
    model = small.float_net()
    low, high = np.linspace(-1, -8, 8), np.linspace(0.5, 9, 8)
    ranges = {"image": (0, 1), "hidden": (0, 5), "deep": (low, high), "logits": (low[:4], 3.0), "probabilities": (0, 1)}
    made = qsim.quantize(model, ranges, SCHEME)
    q = made.graph.tensors[made.graph.find("deep")].qparams
    assert q.axis == 3 and (q.low, q.high) == (-8, 7)
    assert list(zip(q.scale, q.zero_point, strict=True)) == [affine(a, b, "int4") for a, b in zip(low, high, strict=True)]
    assert made.graph.tensors[made.graph.find("hidden")].qparams.scale.shape == (1,)
    assert made.graph.tensors[made.graph.find("logits")].qparams.scale.shape == (4,)


def test_what_is_only_moved_keeps_its_grids_and_averages_are_snapped_to_them():
    net = Net()
    x = net.input(1, 4, 4, 3)
    y = net.op("TRANSPOSE", [net.two("ADD", x, x), net.constant([0, 3, 1, 2], "int32")], (1, 3, 4, 4))
    z = net.pool("AVERAGE_POOL_2D", net.two("ADD", x, x))
    model = net.model(y, z)
    a, b = (model.graph.nodes[i].outputs[0] for i in (0, 2))
    ends = (np.array([-1.0, -2, -4]), np.array([1.0, 8, 2]))
    made = qsim.quantize(model, {"in0": ends, a: ends, b: ends}, SCHEME)
    data = np.random.default_rng(0).normal(size=(5, 4, 4, 3)).astype(np.float32)
    (moved, pooled), taps = made.function("fake", taps="all").batch(data)
    grid = made.graph.tensors[made.graph.find(model.graph.key(a))].qparams
    assert np.array_equal(moved[:, 0].transpose(0, 2, 3, 1), taps[made.graph.find(model.graph.key(a))][:, 0])
    assert on_its_grid(pooled[:, 0], grid) and grid.scale.shape == (3,)


def test_channels_of_different_sizes_lose_less():
    """4 bits: channels a thousand times smaller than the largest survive."""
    net = Net()
    x = net.input(1, 4, 4, 4)
    w = np.eye(4, dtype=np.float32).reshape(4, 1, 1, 4) * np.array([1, 0.1, 0.01, 0.001], np.float32).reshape(4, 1, 1, 1)
    y = net.conv(x, w)
    model = net.model(net.one("ABS", y))
    data = np.random.default_rng(0).normal(size=(64, 4, 4, 4)).astype(np.float32)
    real = model.function("float", taps="all").batch(data)[1][y]

    def noise(ranges, name: str) -> np.ndarray:
        made = qsim.quantize(model, ranges, scheme_named(name))
        error = made.function("fake", taps="all").batch(data)[1][made.graph.find(model.graph.key(y))] - real
        return np.sqrt((error**2).mean((0, 1, 2, 3)) / (real**2).mean((0, 1, 2, 3)))

    apart = noise(calibrate.channel_ranges(model, [data], scheme=SCHEME), "sim:a4cw8")
    alike = noise(calibrate.ranges(model, calibrate.observe(model, [data]), scheme=scheme_named("sim:a4w8")), "sim:a4w8")
    assert apart.max() < 0.3 and alike[3] > 0.9


def test_what_is_refused(tmp_path):
    model, x = small.float_net(), images()
    ranges = calibrate.channel_ranges(model, [x], scheme=SCHEME)
    with pytest.raises(qsim.BadRange, match="hidden.*by channel"):
        calibrate.save_ranges(tmp_path / "r.json", {"hidden": ranges["hidden"]})
    with pytest.raises(qsim.BadRange, match="simulated schemes"):
        qsim.quantize(model, ranges, scheme_named("sim:a4w4"))
    for wrong, reason in (
        ((np.zeros(3), np.ones(3)), "as many as channels"),
        ((np.zeros(8), np.full(8, np.nan)), "finite"),
        ((np.ones(8), np.zeros(8)), "channel 0"),
    ):
        with pytest.raises(qsim.BadRange, match=reason):
            qsim.quantize(model, {**ranges, "deep": wrong}, SCHEME)
    with pytest.raises(qsim.BadRecipe, match="simulated"):
        qsim.Scheme("mine", per_channel_activations=True)


def test_without_ranges_by_channel_a_tensor_has_one_and_a_note_says_so():
    model, x = small.float_net(), images()
    pairs = calibrate.ranges(model, calibrate.observe(model, [x]), scheme=SCHEME)
    made, plain = (qsim.quantize(model, pairs, scheme_named(name)) for name in ("sim:a4cw4", "sim:a4w4"))
    assert [t.qparams for t in made.graph.tensors] == [t.qparams for t in plain.graph.tensors]
    assert any("one range for all channels" in note and "hidden" in note for note in made.report.notes)
    assert not any("channels" in note for note in plain.report.notes)
