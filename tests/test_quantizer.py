"""The quantizer: what it groups, what it writes, what it repairs and refuses; and that LiteRT accepts and equals all of it."""

from __future__ import annotations

import numpy as np
import pytest
import small
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import Net, random_net, random_range

import qsim
from qsim import limits, weights
from qsim.check import check
from qsim.graph import Graph, Model, Node, Options, QParams, Tensor
from qsim.layout import layout
from qsim.op import FLAVOURS
from qsim.quantizer import quantize
from qsim.writer import to_bytes

ONES = np.ones((4, 1, 1, 4), np.float32)
ZEROS = np.zeros(4, np.float32)


def wanted(model: Model, low: float = -1.0, high: float = 1.0) -> dict[str, tuple[float, float]]:
    """The same range for every tensor that needs one."""
    return {model.graph.key(t): (low, high) for group in layout(model).groups for t in group}


def named(model: Model, name: str) -> Tensor:
    return model.graph.tensors[model.graph.find(name)]


def stored(model: Model, rng: np.random.Generator, count: int = 3) -> list[np.ndarray]:
    """Random inputs in the types that the model's inputs have."""
    found = []
    for t in (model.graph.tensors[i] for i in model.graph.inputs):
        shape = (count, *t.shape)
        if t.type == "float32":
            found.append((rng.normal(size=shape) * 10.0 ** rng.integers(-2, 3)).astype(np.float32))
        else:
            found.append(rng.integers(np.iinfo(t.type).min, np.iinfo(t.type).max + 1, shape).astype(t.type))
    return found


# what goes together


def test_ties_join_what_moves_data_and_nothing_else():
    net = Net()
    x = net.input(1, 4, 4, 4)
    y = net.conv(x, ONES, ZEROS)
    pooled = net.pool("MAX_POOL_2D", y)
    flat = net.reshape(pooled, 1, 16)
    out = net.dense(flat, np.ones((3, 16), np.float32))
    assert layout(net.model(out)).groups == ((x,), (y, pooled, flat), (out,))


def test_a_dictated_output_passes_through_data_movement():
    net = Net()
    x = net.input(1, 4, 4, 4)
    soft = net.one("SOFTMAX", x, beta=1.0)
    moved = net.reshape(soft, 1, 64)
    found = layout(net.model(moved))
    assert found.groups == ((x,),)
    assert found.fixed == {soft: (1 / 256, -128), moved: (1 / 256, -128)}


def concatenated() -> tuple[Model, int, int, int]:
    net = Net()
    x = net.input(1, 4, 4, 4)
    soft, y = net.one("LOGISTIC", x), net.conv(x, ONES, ZEROS)
    return net.model(net.concat([soft, y])), x, soft, y


def test_a_dictated_output_in_a_tie_is_requantized_on_that_edge():
    model, x, soft, y = concatenated()
    found = layout(model)
    out = model.graph.outputs[0]
    assert found.groups == ((x,), (y, out)) and set(found.fixed) == {soft} and found.requantized == {(2, 0)}
    made = quantize(model, wanted(model, -3, 5), io="int8").graph
    assert [n.op for n in made.nodes] == ["LOGISTIC", "CONV_2D", "QUANTIZE", "CONCATENATION"]
    joined = made.nodes[3]
    assert {made.tensors[t].qparams for t in (*joined.inputs, *joined.outputs)} == {made.tensors[joined.outputs[0]].qparams}


def test_a_constant_in_a_tie_widens_the_group():
    net = Net()
    x = net.input(1, 4, 4, 4)
    y = net.conv(x, ONES, ZEROS)
    out = net.concat([y, net.constant(np.full((1, 4, 4, 1), -9.0))])
    model = net.model(out)
    found = layout(model)
    assert list(found.tied_constants.values()) == [(model.graph.nodes[1].inputs[1],)]
    q = named(quantize(model, wanted(model)), "x5_int8").qparams
    assert q.real_range()[0][0] == pytest.approx(-9, rel=0.02)


def test_reasons_of_ops_that_stay():
    net = Net()
    x = net.input(1, 4, 4, 4)
    y = net.one("SIN", x)
    z = net.reshape(y, 1, 64)
    w = net.op("FULLY_CONNECTED", [z, net.reshape(x, 1, 64), -1], (1, 1), fused_activation_function="NONE", keep_num_dims=False)
    v = net.two("ADD", x, net.constant([np.inf]))
    c = net.constant([1, 2, 3, 4], "int32")
    i = net.op("ADD", [c, net.op("SHAPE", [x], (4,), kind="int32", out_type="INT32")], (4,), kind="int32", fused_activation_function="NONE")
    found = layout(net.model(w, v, i)).kept_float
    assert {n: found[n] for n in (1, 3)} == {1: "it moves data between float ops", 3: "its weights are computed, not constant"}
    assert found[4] == "a constant of it is NaN or infinite"
    assert found[6] == "it works on int32"
    assert "known" in found[0] or "kernel" in found[0]


def test_an_op_stays_where_a_kernel_of_litert_errs():
    net = Net()
    total = net.op("SUM", [net.input(1, 4, 4, 4), net.constant([1, 2], "int32")], (1, 4), keep_dims=False)
    model = net.model(net.one("TANH", total))
    assert "writes its result as uint8" in layout(model).kept_float[0]
    assert 0 in layout(model, qsim.UINT8).quantized


def test_a_float_island_has_conversions_around_it_and_shares_them():
    net = Net()
    x = net.input(1, 4, 4, 4)
    y = net.conv(x, ONES, ZEROS)
    a, b = net.one("SIN", y), net.one("SIN", y)
    out = net.two("ADD", a, b)
    model = net.model(out)
    made = quantize(model, wanted(model), io="int8").graph
    assert [n.op for n in made.nodes] == ["CONV_2D", "DEQUANTIZE", "SIN", "SIN", "QUANTIZE", "QUANTIZE", "ADD"]
    assert made.nodes[2].inputs == made.nodes[3].inputs == made.nodes[1].outputs


def test_shape_reads_the_codes_themselves():
    net = Net()
    x = net.input(1, 4, 4, 4)
    y = net.conv(x, ONES, ZEROS)
    s = net.op("SHAPE", [y], (4,), kind="int32", out_type="INT32")
    model = net.model(y, s)
    made = quantize(model, wanted(model), io="int8").graph
    assert [n.op for n in made.nodes] == ["CONV_2D", "SHAPE"] and made.nodes[1].inputs == made.nodes[0].outputs


# weights and biases


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 60), st.sampled_from([0, 1]))
def test_rounded_weights_keep_each_channels_sum(seed, channels, depth, axis):
    w = np.random.default_rng(seed).normal(size=(channels, depth)).astype(np.float32)
    w = w if axis == 0 else np.ascontiguousarray(w.T)
    scales = weights.weight_scales(weights.survey(w, None, axis), 0.1, 1.0, qsim.INT8)
    codes, q = weights.quantize_weights(w, scales, axis)
    exact = np.moveaxis(w, axis, 0) / scales.astype(np.float64)[:, None]
    rows = np.moveaxis(codes, axis, 0)
    assert codes.min() >= -127 and q.per_channel == (channels > 1)
    assert (np.abs(rows - exact) < 1).all()
    assert (np.abs(rows.sum(1, dtype=np.int64) - exact.sum(1)) <= 0.5 + 1e-6).all()


def test_nearest_rounding_is_half_to_even():
    scale = np.array([1.0], np.float32)
    codes, _ = weights.quantize_weights(np.array([[0.5, 1.5, -0.5, -2.5, 127, 1.4]]), scale, 0, rounding="nearest")
    assert codes.tolist() == [[0, 2, 0, -2, 127, 1]]


def test_dead_channels_with_a_bias_are_guarded_and_listed():
    net = Net()
    x = net.input(1, 4, 4, 4)
    w = np.random.default_rng(0).normal(size=(4, 1, 1, 4)).astype(np.float32)
    w[1] *= 1e-30
    w[2] = 0
    bias = np.array([0.5, -3.0, 7.0, 0.0], np.float32)
    model = net.model(net.conv(x, w, bias))
    made = quantize(model, wanted(model), io="int8")
    node = made.graph.nodes[0]
    codes, stored_weights = (made.graph.tensors[t] for t in (node.inputs[2], node.inputs[1]))
    assert np.abs(codes.data.astype(np.int64)).max() <= 2**30
    step = codes.qparams.scale.astype(np.float64)
    assert (np.abs(codes.data * step - bias) <= step / 2).all()
    np.testing.assert_array_equal(codes.qparams.scale, named(made, "in0").qparams.scale * stored_weights.qparams.scale)
    (guard,) = made.report.guards
    assert (guard.channels, guard.dead, guard.raised) == (4, 2, 2) and guard.steps == np.inf


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(-20, 10), st.floats(-9, 9))
def test_no_accumulator_can_leave_32_bits(seed, input_exponent, bias_exponent):
    rng = np.random.default_rng(seed)
    w = rng.normal(size=(3, 50)) * 10.0 ** rng.integers(-20, 3, (3, 1))
    bias = rng.normal(size=3) * 10.0**bias_exponent
    scale = np.float32(2.0**input_exponent)
    found = weights.survey(w, bias, 0)
    scales = weights.weight_scales(found, float(scale), 255 * float(scale), qsim.INT8)
    codes, _ = weights.quantize_weights(w, scales, 0)
    b, q = weights.quantize_bias(bias, scale, scales)
    worst = np.abs(codes.astype(np.int64)).sum(1) * 255 + np.abs(b.astype(np.int64))
    assert worst.max() < 2**31 and np.isfinite(q.scale).all() and (q.scale >= 2.0**-101).all()


def test_weights_with_one_scale_per_tensor():
    model = small.float_net()
    made = quantize(model, wanted(model), qsim.Scheme("one", per_channel=False))
    assert all(t.qparams.scale.size == 1 for t in made.graph.tensors if t.qparams is not None)


def test_an_absent_convolution_bias_becomes_zeros():
    net = Net()
    model = net.model(net.conv(net.input(1, 4, 4, 4), ONES))
    made = quantize(model, wanted(model), io="int8")
    bias = made.graph.tensors[made.graph.nodes[0].inputs[2]]
    assert bias.type == "int32" and not bias.data.any() and bias.shape == (4,)


def test_a_constant_in_two_roles_is_written_twice_and_kept_for_float_readers():
    net = Net()
    x = net.input(1, 4)
    w = net.constant(np.random.default_rng(0).normal(size=(4, 4)))
    y = net.op("FULLY_CONNECTED", [x, w, -1], (1, 4), fused_activation_function="NONE", keep_num_dims=False)
    a = net.two("ADD", y, w)
    e = net.one("SIN", w)
    model = net.model(net.two("MUL", a, net.two("MUL", net.one("SIN", y), e)))
    made = quantize(model, wanted(model), io="int8").graph
    roles = {n.op: made.tensors[n.inputs[1]] for n in made.nodes if n.op in ("FULLY_CONNECTED", "ADD")}
    assert roles["FULLY_CONNECTED"].qparams.scale.size == 4 and roles["ADD"].qparams.scale.size == 1
    assert made.tensors[made.find(f"c{w}")].type == "float32"


def test_float16_weights_are_read_through_their_dequantize():
    net = Net()
    x = net.input(1, 4, 4, 4)
    half = net.constant(ONES, "float16")
    w = net.op("DEQUANTIZE", [half], ONES.shape)
    more = {"padding": "SAME", "stride_h": 1, "stride_w": 1, "dilation_h_factor": 1, "dilation_w_factor": 1}
    y = net.op("CONV_2D", [x, w, net.constant(ZEROS)], (1, 4, 4, 4), fused_activation_function="NONE", **more)
    model = net.model(y)
    made = quantize(model, wanted(model), io="int8").graph
    assert [n.op for n in made.nodes] == ["CONV_2D"] and len(made.tensors) == 4
    assert made.tensors[made.nodes[0].inputs[1]].data.max() == 127


# ranges


def test_every_missing_range_is_named():
    model = small.float_net()
    with pytest.raises(qsim.BadRange, match="no range for 2 of 5 tensors: hidden, logits"):
        quantize(model, {"image": (0, 1), "deep": (0, 1)})


def test_every_faulty_range_is_named():
    model = small.float_net()
    bad = {"imgae": (0, 1), "image": (1, 0), "deep": (0, np.nan), "flat": (0, np.inf), "logits": (1, 2, 3), "hidden": (0, 1e30)}
    with pytest.raises(qsim.BadRange) as caught:
        quantize(model, bad)
    text = str(caught.value)
    assert "6 range(s)" in text and "Nearest: image" in text and "above the high end" in text and text.count("finite") == 2
    assert "pair (low, high)" in text and "too wide" in text


def test_a_moved_tensor_needs_no_range_of_its_own():
    model = small.float_net()
    full, short = wanted(model), {k: v for k, v in wanted(model).items() if k != "flat"}
    assert quantize(model, full).report.tensors == quantize(model, short).report.tensors


def test_zero_width_is_widened_and_listed():
    model = small.float_net()
    made = quantize(model, wanted(model) | {"image": (0.0, 0.0)})
    assert float(named(made, "image_int8").qparams.scale[0]) == 2.0**-23
    assert [(r.tensor, r.before) for r in made.report.repairs if not r.asked_by] == [("image", 0.0)]


def test_ranges_hold_zero_and_fit_the_activation():
    model = small.float_net()
    made = quantize(model, wanted(model) | {"image": (2.0, 5.1), "hidden": (-4.0, 2.55)})
    image, hidden = named(made, "image_int8").qparams, named(made, "hidden").qparams
    assert (float(image.scale[0]), int(image.zero_point[0])) == (pytest.approx(0.02), -128)
    assert (float(hidden.scale[0]), int(hidden.zero_point[0])) == (pytest.approx(0.01), -128)
    assert any("extended to hold 0: image" in n for n in made.report.notes)
    assert any("cut to the activation's range: hidden" in n for n in made.report.notes)


# model input and output


@pytest.mark.parametrize("io", ["float32", "int8", "uint8"])
def test_border_types_names_and_signatures(io, oracle):
    net = Net()
    x = net.input(1, 4, 4, 4)
    y = net.conv(x, ONES, ZEROS)
    model = net.model(net.one("LOGISTIC", y), y)
    made = quantize(model, wanted(model), io=io)
    g, (signature,) = made.graph, made.signatures
    assert [g.tensors[t].type for t in (*g.inputs, *g.outputs)] == [io] * 3
    assert [g.tensors[t].name for t in (*g.inputs, *g.outputs)] == [model.graph.tensors[t].name for t in (x, *model.graph.outputs)]
    assert (signature["inputs"], signature["outputs"]) == ({"in0": g.inputs[0]}, {"out0": g.outputs[0], "out1": g.outputs[1]})
    assert check(made) == []
    if io == "uint8":
        a, b = (g.tensors[t].qparams for t in (g.inputs[0], g.nodes[0].outputs[0]))
        assert a.scale == b.scale and a.zero_point - 128 == b.zero_point
    assert all(oracle.loads(to_bytes(made), f) is None for f in FLAVOURS)


def test_a_border_that_only_float_ops_touch_stays_float_and_is_noted():
    net = Net()
    x = net.input(1, 4, 4, 4)
    model = net.model(net.one("SIN", net.conv(net.one("SIN", x), ONES, ZEROS)))
    made = quantize(model, wanted(model), io="int8")
    assert [made.graph.tensors[t].type for t in (*made.graph.inputs, *made.graph.outputs)] == ["float32"] * 2
    assert sum("stays float32" in n for n in made.report.notes) == 2


def test_only_the_primary_graph_is_touched():
    model = small.float_net()
    made = quantize(model.but(graphs=(model.graph, model.graph)), wanted(model))
    assert made.graphs[1] is model.graph and any("primary graph" in n for n in made.report.notes)


# refusals


def test_a_quantized_source_is_refused():
    model = small.float_net()
    with pytest.raises(qsim.Unsupported, match="quantized already"):
        quantize(quantize(model, wanted(model)), wanted(model))


def test_unknown_io_and_schemes_are_refused():
    model = small.float_net()
    with pytest.raises(qsim.BadRecipe, match="float32, int8, uint8, int16"):
        quantize(model, wanted(model), io="int32")
    with pytest.raises(qsim.Unsupported, match="cannot be written"):
        quantize(model, wanted(model), qsim.Scheme("a4", activation="int4"))


# limits


def two_inputs(op: str) -> tuple[Model, int, int, int]:
    net = Net()
    a, b = net.input(1, 8), net.input(1, 8)
    out = net.two(op, a, b)
    return net.model(out), a, b, out


@pytest.mark.parametrize(
    ("op", "ranges", "widened"),
    [
        ("ADD", ((-1, 1), (-1, 1), (-1e-4, 1e-4)), 2),
        ("SUB", ((-1e-4, 1e-4), (-1, 1), (-1, 1)), 0),
        ("MUL", ((-1e3, 1e3), (-1e3, 1e3), (-1, 1)), 2),
        ("MUL", ((-1e-4, 1e-4), (-1e-3, 1e-3), (-1, 1)), 0),
    ],
)
def test_ratios_beyond_a_limit_are_repaired_by_widening_one_tensor(op, ranges, widened):
    model, *tensors = two_inputs(op)
    made = quantize(model, {model.graph.key(t): r for t, r in zip(tensors, ranges, strict=True)}, io="int8")
    assert {r.tensor for r in made.report.repairs} == {model.graph.key(tensors[widened])}
    assert all(r.after > r.before and r.asked_by == f"op 0 {op}" for r in made.report.repairs)
    scales = {p: float(made.graph.tensors[t].qparams.scale[0]) for p, t in zip((0, 1, limits.OUTPUT), tensors, strict=True)}
    assert limits.needs(op, limits.Operands(scales, Options(beta=1.0))) == []


def test_a_large_weight_multiplier_widens_the_output(oracle):
    net = Net()
    model = net.model(net.conv(net.input(1, 4, 4, 4), ONES * 1000, ZEROS))
    ranges = {"in0": (-100, 100), "x3": (-1, 1)}
    made = quantize(model, ranges, io="int8")
    assert [r.tensor for r in made.report.repairs] == ["x3"]
    assert oracle.loads(to_bytes(made), "xnnpack") is None


def test_what_no_widening_makes_legal_stays_float():
    net = Net()
    x = net.input(1, 4, 4, 4)
    model = net.model(net.concat([net.conv(x, ONES * 1e6, ZEROS), x]))
    made = quantize(model, wanted(model))
    assert "no legal scales" in made.report.ops[0].reason
    assert made.report.ops[1].reason == "it moves data between float ops"


def stored_op(op: str, scales: tuple[float, ...], **options) -> bytes:
    """A file of one int8 op: inputs of the first scales, an output of the last."""
    shape = (1, 4)
    tensors = tuple(
        Tensor(i, f"t{i}", shape, "int8", QParams(np.float32([s]), np.int64([-128 if op == "SOFTMAX" and i else 0]), -128, 127))
        for i, s in enumerate(scales)
    )
    last = len(scales) - 1
    node = Node(0, op, tuple(range(last)), (last,), Options(options), 2)
    return to_bytes(Model((Graph(tensors, (node,), tuple(range(last)), (last,)),)))


@pytest.mark.parametrize(
    ("flavour", "inside", "outside"),
    [
        ("reference", ("SOFTMAX", (2.0**-25.9, 1 / 256)), ("SOFTMAX", (2.0**-26, 1 / 256))),
        ("xnnpack", ("ADD", (1.0, 1.0, 2.0**-7)), ("ADD", (1.0, 1.0, 2.0**-19))),
        ("reference", ("SUB", (1.0, 1.0, 2.0**-7)), ("SUB", (1.0, 1.0, 2.0**-19))),
    ],
)
def test_the_limits_are_those_of_litert(oracle, flavour, inside, outside):
    options = {"SOFTMAX": {"beta": 1.0}}
    data = [np.zeros((1, 1, 4), np.int8)] * (len(inside[1]) - 1)
    assert oracle.run(stored_op(*inside, **options.get(inside[0], {})), data, flavour)
    with pytest.raises(qsim.OracleFailed):
        oracle.run(stored_op(*outside, **options.get(outside[0], {})), data, flavour)


# whole nets against LiteRT


def random_case(seed: int, float_ops: bool = True) -> tuple[Model, Model, np.random.Generator]:
    rng = np.random.default_rng(seed)
    model = random_net(rng, int(rng.integers(2, 12)), float_ops)
    ranges = {model.graph.key(t): random_range(rng) for group in layout(model).groups for t in group}
    return model, quantize(model, ranges, io=str(rng.choice(["float32", "int8", "uint8"]))), rng


def test_random_nets_with_careless_ranges_load_and_run_everywhere(oracle, request, record_property):
    """Every resolver that loads the source loads and runs the result; degenerate weights and ranges included."""
    draws = 10 * request.config.getoption("--draws")
    for seed in range(draws):
        model, made, rng = random_case(seed)
        source, data, inputs = to_bytes(model), to_bytes(made), stored(made, rng)
        assert check(made) == [], seed
        for flavour in FLAVOURS:
            if oracle.loads(source, flavour) is None:
                assert oracle.run(data, inputs, flavour), (seed, flavour)
    record_property("draws", draws)


def test_random_nets_need_nothing_more():
    """After the repairs no op's scales break a limit, but for those that the report notes."""
    for seed in range(100):
        _, made, _ = random_case(seed)
        noted = " ".join(made.report.notes)
        for node in made.graph.nodes:
            operands = {p: made.graph.tensors[t] for p, t in enumerate(node.inputs) if node.op in ("ADD", "SUB", "MUL", "SOFTMAX")}
            if all(t.qparams is not None for t in operands.values()) and operands:
                scales = {p: float(t.qparams.scale[0]) for p, t in operands.items()}
                scales[limits.OUTPUT] = float(made.graph.tensors[node.outputs[0]].qparams.scale[0])
                left = limits.needs(node.op, limits.Operands(scales, node.options))
                assert all(n.reason in noted for n in left), (seed, node.index, left)


@pytest.mark.parametrize("seed", range(6))
def test_random_nets_equal_litert(seed, oracle):
    _, made, rng = random_case(1000 + seed, float_ops=False)
    data, inputs = to_bytes(made), stored(made, rng)
    for flavour in ("xnnpack", "reference"):
        theirs = oracle.run(data, inputs, flavour)
        for t, mine in zip(made.graph.outputs, made.function("integer", flavour).batch(*inputs), strict=True):
            np.testing.assert_array_equal(mine, theirs[t])


def test_int8_is_close_to_float_where_the_ranges_fit():
    model, x = small.float_net(), small.images(64).astype(np.float32) / 255
    fn = model.function("float", taps="all")
    real, taps = fn.batch(x)
    ranges = {model.graph.key(t): (taps[t].min(), taps[t].max()) for group in layout(model).groups for t in group}
    got = quantize(model, ranges).function("integer").batch(x)[0]
    assert 10 * np.log10((real[0] ** 2).mean() / ((got - real[0]) ** 2).mean()) > 30


FLOAT_NETS = (
    "aeq_conv_fc_mnist_f32", "blazeface_front_f32", "blazeface_mlkit_f32", "conv_resnet8_fp16", "conv_vit_mnist_f32", "deeplabv3_257_f32",
    "dtln_1_f32", "hand_landmark_lite_fp16", "meter_digits_f32", "meter_needle_class100_f32", "mlperf_ad01_f32", "mlperf_resnet8_f32",
    "mlperf_vww96_f32", "mnist_lstm_f32", "mobilenet_v1_025_224_f32", "movie_review_text_f32", "selfie_segmentation_fp16",
    "transformer_ff_f32", "transformer_kv_cache_f32", "twin_mlperf_kws_f32", "twin_mobilenet_v2_100_224_f32",
)  # fmt: skip


@pytest.mark.models
@pytest.mark.parametrize("name", FLOAT_NETS)
def test_real_nets_load_wherever_their_source_does(name, models_dir, oracle):
    path = models_dir / "nets" / f"{name}.tflite"
    model = qsim.load(path)
    rng = np.random.default_rng(0)
    for io in ("float32", "int8", "uint8"):
        made = quantize(model, {k: random_range(rng) for k in wanted(model)}, io=io)
        data = to_bytes(made)
        assert check(made) == [] and qsim.load(data).is_quantized
        refused = {f: oracle.loads(data, f) for f in FLAVOURS if oracle.loads(path.read_bytes(), f) is None}
        assert not any(refused.values()), (io, refused)


@pytest.mark.models
@pytest.mark.parametrize("name", ["mlperf_resnet8_f32", "mlperf_ad01_f32", "conv_resnet8_fp16", "movie_review_text_f32"])
def test_real_nets_equal_litert(name, models_dir, oracle):
    model = qsim.load(models_dir / "nets" / f"{name}.tflite")
    rng = np.random.default_rng(0)
    t = model.graph.tensors[model.graph.inputs[0]]
    x = (rng.uniform(0, 1, (3, *t.shape)) if t.type == "float32" else rng.integers(0, 100, (3, *t.shape))).astype(t.type)
    taps = model.function("float", taps="all").batch(x)[1]
    made = quantize(model, {model.graph.key(i): (taps[i].min(), taps[i].max()) for group in layout(model).groups for i in group})
    data = to_bytes(made)
    for flavour in ("xnnpack", "reference"):
        mine, theirs = made.function("integer", flavour).batch(x), oracle.run(data, [x], flavour)
        for i, y in zip(made.graph.outputs, mine, strict=True):
            np.testing.assert_array_equal(y, theirs[i])
