"""Weight-only schemes: what is stored and how, what stays and why; and that LiteRT runs every file and gives qsim's numbers."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import recurrent
import small
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import DENSE, Net, random_net

import qsim
from qsim.certificate import certify
from qsim.check import check
from qsim.errors import QsimError, Unsupported
from qsim.function import build
from qsim.graph import Model, Tensor
from qsim.op import FLAVOURS
from qsim.reader import read
from qsim.scheme import BLOCKWISE4, DYNAMIC4, DYNAMIC8, FLOAT16, INT8, INT8W4, WEIGHTS4, WEIGHTS8, Scheme
from qsim.storage import Storage, block_scales, stored, why_not
from qsim.weightonly import store_weights, with_weights
from qsim.writer import to_bytes

ALL = (DYNAMIC8, DYNAMIC4, WEIGHTS8, WEIGHTS4, FLOAT16, BLOCKWISE4)
schemes = pytest.mark.parametrize("scheme", ALL, ids=lambda s: s.name)
RNG = np.random.default_rng(7)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def dense(outputs: int = 8, depth: int = 64, act: str = "NONE", **options: Any) -> tuple[Net, int]:
    """x (2, depth) -> FULLY_CONNECTED."""
    net = Net()
    x = net.input(2, depth)
    parts = [x, net.constant(normal(outputs, depth), name="w"), net.constant(normal(outputs, seed=1), name="b")]
    return net, net.op("FULLY_CONNECTED", parts, (2, outputs), fused_activation_function=act, **{**DENSE, **options})


def kept(model: Model, scheme: Scheme) -> dict[int, str]:
    rows = with_weights(model.graph, {n.index: scheme for n in model.graph.nodes})[2]
    return {i: row.reason for i, row in rows.items() if row.reason}


def named(model: Model, name: str) -> Tensor:
    return model.graph.tensors[model.graph.find(name)]


# how a constant is stored


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**31), st.sampled_from(["int8", "int4"]), st.sampled_from([None, 0, 1]), st.sampled_from(["nearest", "sum"]),
    st.sampled_from([1e-20, 1e-8, 1.0, 1e30]),
)  # fmt: skip
def test_codes_are_symmetric_narrow_and_within_a_step(seed, kind, axis, rounding, size):
    values = (np.random.default_rng(seed).normal(size=(5, 7)) * size).astype(np.float32)
    found, most = stored(values, Storage(kind, axis, rounding)), {"int8": 127, "int4": 7}[kind]
    assert np.abs(found.data).max() == most and not found.qparams.zero_point.any()
    assert found.qparams.scale.size == (1 if axis is None else values.shape[axis])
    scale = found.qparams.scale if axis is None else np.expand_dims(found.qparams.scale, 1 - axis)
    assert np.all(np.abs(found.data * scale.astype(np.float64) - values) <= scale * (0.5001 if rounding == "nearest" else 1.0001))


def test_dead_channels_and_zeros_get_a_normal_scale():
    values = np.zeros((3, 4), np.float32)
    values[1] = 1e-40
    for axis in (None, 0):
        found = stored(values, Storage("int8", axis))
        assert np.all(found.qparams.scale >= np.finfo(np.float32).tiny) and not found.data.any()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([1e-3, 1.0, 1e4]))
def test_scales_by_blocks_are_the_same_in_float16_and_bfloat16(seed, size):
    values = (np.random.default_rng(seed).normal(size=(3, 64)) * size).astype(np.float32)
    scale = block_scales(values, 32)
    peak = np.abs(values).reshape(3, 2, 32).max(-1)
    assert np.array_equal(scale.astype(np.float16).astype(np.float32), scale) and not (scale.view(np.uint32) & 0xFFFF).any()
    assert np.all(scale >= peak / 7) and np.all(scale <= np.maximum(peak / 7 * (1 + 2**-7), 2.0**-14))
    found = stored(values, Storage("int4", None, "sum", 32))
    assert np.abs(found.data).max() <= 7 and np.abs(found.blocks.dequantize(found.data) - values).max() <= scale.max()


@pytest.mark.parametrize(
    ("values", "how", "reason"),
    [
        ([1.0, np.nan], Storage("int8"), "NaN"),
        ([1.0, -np.inf], Storage("float16"), "infinite"),
        ([1.0, 65520.0], Storage("float16"), "beyond float16"),
        ([1e-6, -3e-5], Storage("float16"), "too small for float16"),
        (np.ones((2, 40)), Storage("int4", block=32), "no whole blocks"),
        (np.full((2, 32), 1e-5), Storage("int4", block=32), "float16 does not have"),
        (np.full((2, 32), 1e6), Storage("int4", block=32), "float16 does not have"),
    ],
)
def test_what_cannot_be_stored_says_why(values, how, reason):
    assert reason in why_not(np.asarray(values, np.float32), how)


def test_the_ends_of_float16_are_stored():
    values = np.array([65504.0, -65519.0, 0.0, 1.0], np.float32)
    assert why_not(values, Storage("float16")) is None and np.isfinite(stored(values, Storage("float16")).data).all()


# what is stored


@schemes
def test_kinds_names_and_versions(scheme):
    model = small.float_net(names={9: "table"})
    made = store_weights(model, scheme)
    w, nodes = named(made, "table"), made.graph.nodes
    assert w.type == scheme.weight and w.shape == (4, 32) and not check(made)
    assert (w.blocks is not None) == (scheme.block > 0)
    versions = {n.op: n.version for n in nodes}
    expected = {"dynamic8": (5, 12), "dynamic4": (7, 12), "blockwise4": (1, 13)}.get(scheme.name, (1, 1))
    assert (versions["CONV_2D"], versions["FULLY_CONNECTED"]) == expected
    behind = [n for n in nodes if n.op == "DEQUANTIZE"]
    assert len(behind) == {"dequantize": 6 if scheme == FLOAT16 else 3}.get(scheme.runtime, 0)
    assert {n.version for n in behind} <= {{"float16": 3, "int8": 5, "int4": 6}[scheme.weight]}
    assert named(made, "b3").type == ("float16" if scheme == FLOAT16 else "float32")
    assert [t.name for t in made.graph.tensors if t.name in ("image", "probabilities")] == ["image", "probabilities"]


def test_per_channel_and_the_two_roundings():
    model = small.float_net()
    found = {r: store_weights(model, replace(DYNAMIC8, rounding=r)) for r in ("sum", "nearest")}
    for made in found.values():
        assert named(made, "w1").qparams.scale.size == 8 and named(made, "w1").data.min() >= -127
    assert not np.array_equal(named(found["sum"], "w2").data, named(found["nearest"], "w2").data)
    one = store_weights(model, replace(DYNAMIC8, per_channel=False))
    assert named(one, "w1").qparams.scale.size == 1


def test_small_weights_stay():
    model = small.float_net()
    made = store_weights(model, replace(DYNAMIC8, smallest=128))
    assert [named(made, n).type for n in ("w1", "w2", "w3")] == ["float32", "int8", "int8"]
    assert "72 elements, fewer than 128" in kept(model, replace(DYNAMIC8, smallest=128))[0]


def test_nodes_may_have_schemes_of_their_own():
    graph = small.float_net().graph
    made, moved, rows = with_weights(graph, {0: DYNAMIC8, 1: FLOAT16, 3: BLOCKWISE4})
    assert [made.tensors[graph.nodes[i].inputs[1]].type for i in (0, 1, 3)] == ["int8", "float16", "int4"]
    assert not any(row.reason for row in rows.values())
    assert {i: made.nodes[at].op for i, at in moved.items()} == {n.index: n.op for n in graph.nodes}
    assert [n.op for n in made.nodes[:2]] == ["DEQUANTIZE"] * 2
    assert with_weights(graph, {})[1] == {n.index: n.index for n in graph.nodes}


def test_a_shared_constant_is_written_once_per_form():
    net = Net()
    a = net.conv(net.input(1, 4, 4, 4), normal(4, 1, 1, 4))
    w = net.nodes[0].inputs[1]
    b = net.op("CONV_2D", [a, w], (1, 4, 4, 4), **net.nodes[0].options)
    model = net.model(b, net.two("ADD", b, w))
    made, _, _ = with_weights(model.graph, {0: DYNAMIC8, 1: DYNAMIC8})
    first, second = (made.nodes[i].inputs[1] for i in (0, 1))
    assert first == second != w and made.tensors[first].type == "int8" and made.tensors[w].type == "float32"
    both, _, _ = with_weights(model.graph, {0: DYNAMIC8, 1: WEIGHTS8})
    assert both.nodes[0].op == "DEQUANTIZE" and both.nodes[0].inputs == (both.nodes[1].inputs[1],)


@pytest.mark.parametrize("scheme", (DYNAMIC8, DYNAMIC4, BLOCKWISE4, WEIGHTS4), ids=lambda s: s.name)
def test_float16_constants_of_the_source_are_taken_over(scheme, oracle):
    """The bias of an integer kernel becomes float32: XNNPACK refuses the file where a DEQUANTIZE computes it."""
    net, y = dense()
    half = store_weights(net.model(y), FLOAT16)
    made = store_weights(half, scheme)
    ops = [n.op for n in made.graph.nodes]
    assert ops.count("DEQUANTIZE") == (2 if scheme == WEIGHTS4 else 0)
    _, moved, _ = with_weights(half.graph, {2: scheme})
    assert moved[2] == ops.index("FULLY_CONNECTED") and 0 not in moved and (1 in moved) == (scheme == WEIGHTS4)
    assert [oracle.loads(to_bytes(made), f) for f in FLAVOURS] == [None] * 3
    assert "already" in kept(half, FLOAT16)[2]


@schemes
def test_graphs_that_share_a_constant_go_on_sharing_it(scheme):
    net, y = dense(64, 512)
    graph = net.model(y).graph
    sides = {"inputs": {"x": graph.inputs[0]}, "outputs": {"y": y}}
    both = read(to_bytes(Model((graph, graph), tuple({"key": f"k{i}", "graph": i, **sides} for i in (0, 1)))))
    made = store_weights(both, scheme)
    size = len(to_bytes(made))
    assert size < 64 * 512 * {"int8": 1, "int4": 0.5, "float16": 2}[scheme.weight] + 12_000
    again = read(to_bytes(made)).select("k1")
    assert named(again, "w").type == scheme.weight and (named(again, "w").blocks is not None) == (scheme.block > 0)


def test_blocks_leave_the_activation_to_an_op_of_its_own():
    net, y = dense(act="RELU6")
    made = store_weights(net.model(y), BLOCKWISE4)
    first, second = made.graph.nodes
    assert first.options.fused_activation_function == "NONE" and second.op == "RELU6" and second.outputs == made.graph.outputs
    assert "BUILTIN_REF" in made.report.notes[0]


def test_scales_by_blocks_survive_the_file():
    net, y = dense()
    made = store_weights(net.model(y), BLOCKWISE4)
    again = read(to_bytes(made))
    assert np.array_equal(named(again, "w").blocks.scale, named(made, "w").blocks.scale)
    assert np.array_equal(named(again, "w").data, named(made, "w").data) and not check(again)


# what stays, and why


def test_reasons():
    broken, y = dense()
    broken.tensors[1].data[0, 0] = np.nan
    net = Net()
    x, w = net.input(2, 8), net.input(4, 8)
    y2 = net.op("FULLY_CONNECTED", [x, w], (2, 4), fused_activation_function="NONE", **DENSE)
    computed = net.model(net.one("RELU", y2))
    tanh, y3 = dense(act="TANH")
    found = kept(computed, DYNAMIC8)
    assert "NaN" in kept(broken.model(y), DYNAMIC8)[0]
    assert found == {0: "its weights are computed, not constant", 1: "it has no weights"}
    assert "TANH" in kept(tanh.model(y3), DYNAMIC8)[0] and "TANH" in kept(tanh.model(y3), BLOCKWISE4)[0]
    assert kept(tanh.model(y3), WEIGHTS8) == {}
    deep = Net()
    x = deep.input(1, 4, 4, 4)
    out = deep.depthwise(x, normal(1, 3, 3, 4), np.zeros(4, np.float32))
    assert "int4" in kept(deep.model(out), replace(DYNAMIC4, widen=False))[0]


def test_a_float16_constant_that_does_not_fit_stays_alone():
    net, y = dense()
    net.tensors[2].data[0] = 1e6
    graph, _, rows = with_weights(net.model(y).graph, {0: FLOAT16})
    assert graph.tensors[1].type == "float16" and graph.tensors[2].type == "float32" and "'b'" in rows[0].reason


def test_what_no_op_can_do_is_refused_before_writing():
    net = Net()
    model = net.model(net.one("RELU", net.input(1, 4)))
    for scheme in ALL:
        with pytest.raises(Unsupported, match="op 0 RELU"):
            store_weights(model, scheme)
    with pytest.raises(Unsupported, match="not weight-only"):
        store_weights(small.float_net(), INT8)


@pytest.mark.parametrize("op", ["DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "BATCH_MATMUL", "LSTM", "GATHER"])
def test_where_no_kernel_takes_4_bits_weights_get_8(op):
    """As of `dynamic8`, which runs in every flavour; the report says so."""
    model = ONE_OP[op]()
    made, eight = store_weights(model, DYNAMIC4), store_weights(model, DYNAMIC8)
    assert to_bytes(made) == to_bytes(eight)
    (row,) = made.report.ops
    assert row.stored == "float32 x int8" and "int4" in row.reason and not made.report.kept_float
    with pytest.raises(Unsupported, match="int4"):
        store_weights(model, replace(DYNAMIC4, widen=False))


def test_integer_activations_widen_too_and_say_so():
    model = transposed()
    ranges = {model.graph.key(t): (-9.0, 9.0) for t in (*model.graph.inputs, *model.graph.outputs)}
    (row,) = qsim.quantize(model, ranges, INT8W4).report.ops
    assert (row.stored, row.reason) == ("int8", "no kernel takes int4 weights")
    (row,) = qsim.quantize(model, ranges, replace(INT8W4, widen=False)).report.ops
    assert row.stored == "as it was" and "no int8 kernel" in row.reason


# beside LiteRT


def table(op: str, kind: str = "int32") -> Model:
    """ids (5,) or (5, 1) -> rows of a table (6, 32)."""
    net = Net()
    shape = (5, 1) if op == "GATHER_ND" else (5,)
    ids = net.tensor(shape, "ids", kind)
    net.inputs.append(ids)
    rows = net.constant(normal(6, 32), name="table")
    if op == "EMBEDDING_LOOKUP":
        return net.model(net.op(op, [ids, rows], (5, 32)))
    return net.model(net.op(op, [rows, ids], (5, 32), **({"axis": 0, "batch_dims": 0} if op == "GATHER" else {})))


def matmul(adj_y: bool, leading: tuple[int, ...], of_weights: tuple[int, ...] | None = None) -> Model:
    net = Net()
    x = net.input(*leading, 3, 16)
    w = net.constant(normal(*(leading if of_weights is None else of_weights), *((10, 16) if adj_y else (16, 10))))
    return net.model(net.op("BATCH_MATMUL", [x, w], (*leading, 3, 10), adj_x=False, adj_y=adj_y, asymmetric_quantize_inputs=False))


def transposed() -> Model:
    net = Net()
    x = net.input(1, 4, 3, 5)
    parts = [net.constant([1, 8, 6, 7], "int32"), net.constant(normal(7, 3, 3, 5)), x]
    options = {"padding": "SAME", "stride_h": 2, "stride_w": 2, "fused_activation_function": "NONE"}
    return net.model(net.op("TRANSPOSE_CONV", parts, (1, 8, 6, 7), **options))


def depthwise() -> Model:
    net = Net()
    return net.model(net.depthwise(net.input(1, 5, 5, 6), normal(1, 3, 3, 6), normal(6), "RELU"))


def dense_model() -> Model:
    net, y = dense()
    return net.model(y)


ONE_OP = {
    "FULLY_CONNECTED": dense_model, "DEPTHWISE_CONV_2D": depthwise, "TRANSPOSE_CONV": transposed,
    "BATCH_MATMUL": partial(matmul, False, (1,)), "BATCH_MATMUL transposed": partial(matmul, True, (2,)),
    "BATCH_MATMUL of rows": partial(matmul, False, (2, 3), (2, 1)),
    **{op: partial(table, op) for op in ("GATHER", "GATHER_ND", "EMBEDDING_LOOKUP")},
    "UNIDIRECTIONAL_SEQUENCE_LSTM": lambda: recurrent.float_lstm(recurrent.Form(), 0)[0],
    "LSTM": lambda: recurrent.full_lstm(recurrent.Form(), 0)[0],
    "BIDIRECTIONAL_SEQUENCE_LSTM": lambda: recurrent.both_ways_lstm(recurrent.Form(), 0)[0],
    **{op: partial(lambda op: recurrent.rnn(op, recurrent.Form(), 0)[0], op)
       for op in ("RNN", "UNIDIRECTIONAL_SEQUENCE_RNN", "BIDIRECTIONAL_SEQUENCE_RNN")},
    "SVDF": lambda: recurrent.svdf(recurrent.FILTERS[0], 0, kind="float32")[0],
}  # fmt: skip


def drawn(model: Model, seed: int, count: int = 3) -> list[np.ndarray]:
    """Normal data, or indices below 6."""
    rng, tensors = np.random.default_rng(seed), (model.graph.tensors[i] for i in model.graph.inputs)
    return [
        (rng.normal(size=(count, *t.shape)) * 3).astype(np.float32) if t.type == "float32"
        else rng.integers(0, 6, (count, *t.shape)).astype(t.type) for t in tensors
    ]  # fmt: skip


@pytest.mark.exact
@pytest.mark.parametrize("op", ONE_OP)
def test_dynamic8_has_litert_s_bits(op, oracle):
    """Every op with a kernel of float data by int8 weights, and the tables that are moved as codes."""
    made = store_weights(ONE_OP[op](), DYNAMIC8)
    data, xs = to_bytes(made), drawn(made, len(op))
    assert not made.report.kept_float
    for flavour in FLAVOURS:
        theirs, mine = oracle.run(data, xs, flavour), build(made, "integer", flavour).batch(*xs)
        assert all(np.array_equal(theirs[t], y) for t, y in zip(made.graph.outputs, mine, strict=True)), flavour


@schemes
@pytest.mark.parametrize("op", ONE_OP)
def test_litert_runs_what_it_ran_before_and_stays_close(op, scheme, oracle):
    model = ONE_OP[op]()
    try:
        made = store_weights(model, scheme)
    except Unsupported as reason:
        assert scheme == BLOCKWISE4 and "kernel" in str(reason.found)
        return
    xs = drawn(model, len(op))
    for flavour in FLAVOURS if scheme != BLOCKWISE4 else ("xnnpack", "builtin"):
        before, after = oracle.run(to_bytes(model), xs, flavour), oracle.run(to_bytes(made), xs, flavour)
        for old, new in zip(model.graph.outputs, made.graph.outputs, strict=True):
            error = np.sqrt(np.mean((before[old] - after[new]) ** 2) / np.mean(before[old] ** 2))
            assert error < {"int8": 0.05, "int4": 0.4, "float16": 0.003}[scheme.weight], flavour


@pytest.mark.parametrize("of_weights", [(2, 2), ()])
def test_matrices_that_litert_mixes_up_stay(of_weights):
    model = matmul(False, (2, 2), of_weights)
    assert "mix up" in kept(model, DYNAMIC8)[0] and kept(model, WEIGHTS8) == {}


def test_a_sequence_that_litert_repeats_stays():
    model = recurrent.rnn("BIDIRECTIONAL_SEQUENCE_RNN", recurrent.Form(major=True), 0)[0]
    assert "as often as it has steps" in kept(model, DYNAMIC8)[0] and kept(model, WEIGHTS8) == {}


@pytest.mark.exact
@schemes
def test_a_net_is_exact(scheme):
    flavours = ("xnnpack", "builtin") if scheme == BLOCKWISE4 else FLAVOURS
    found = certify(store_weights(small.float_net(), scheme), samples=2, flavours=flavours)
    assert {f: (o.status, o.cause) for f, o in found.flavours.items()} == dict.fromkeys(flavours, ("exact", ""))


def runs(oracle, rng: np.random.Generator, scheme: Scheme) -> bool:
    """Whether a random net's weights could be stored so; LiteRT must then run the file wherever it runs the source."""
    model = random_net(rng)
    try:
        made = store_weights(model, scheme)
    except Unsupported:
        return False
    assert not check(made)
    xs = drawn(model, 1, 2)
    for flavour in FLAVOURS:
        try:
            oracle.run(to_bytes(model), xs, flavour)
        except QsimError:
            continue
        oracle.run(to_bytes(made), xs, flavour)
    return True


@schemes
def test_random_nets_run(scheme, oracle):
    assert sum(runs(oracle, np.random.default_rng((seed, 5)), scheme) for seed in range(12)) > 0


@pytest.mark.nightly
@schemes
def test_many_random_nets_run(scheme, oracle):
    assert sum(runs(oracle, np.random.default_rng((seed, 6)), scheme) for seed in range(400)) > 20


# real nets


@pytest.mark.models
def test_sizes_are_those_of_tf_s_converter(models_dir):
    """On the converter's own graph: within 2 %."""
    import scheme_table

    source = scheme_table.widened(qsim.load(models_dir / "nets" / "conv_resnet8_fp16.tflite"))
    for scheme, name in ((replace(DYNAMIC8, smallest=1024), "conv_resnet8_dr"), (FLOAT16, "conv_resnet8_fp16")):
        size = (models_dir / "nets" / f"{name}.tflite").stat().st_size
        assert abs(len(to_bytes(store_weights(source, scheme))) / size - 1) < 0.02


@pytest.mark.models
@schemes
def test_real_nets_load(scheme, models_dir, oracle):
    """Every float net of up to 1 MB: LiteRT loads the file wherever it loads the source."""
    import scheme_table

    for path, model in scheme_table.float_nets(models_dir):
        if path.stat().st_size > 1 << 20:
            continue
        try:
            made = store_weights(model, scheme)
        except Unsupported as reason:
            assert reason.found
            continue
        lost = [f for f in FLAVOURS if oracle.loads(path.read_bytes(), f) is None and oracle.loads(to_bytes(made), f)]
        assert not lost, path


@pytest.mark.models
@pytest.mark.nightly
@schemes
def test_real_nets_are_exact(scheme, models_dir):
    import scheme_table

    for path, model in scheme_table.float_nets(models_dir):
        row = scheme_table.tried(path, model, scheme, 1)
        statuses = {f: row[f]["status"] for f in FLAVOURS if f in row}
        assert not row.get("lost") and "differs" not in statuses.values(), (path, statuses)
