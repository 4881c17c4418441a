"""What is read is written back: the same meaning after a rebuild, the same bytes after a patch, the same results in LiteRT."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from featureful import rich

from qsim import check, flat, reader, rebuild, records, verify, writer
from qsim.errors import Invalid, OracleFailed, Unsupported
from qsim.flat import Record
from qsim.graph import Graph, Model, Node, Options, QParams, Tensor
from qsim.schema import schema
from qsim.types import TYPES

FOLDER = Path(os.environ.get("QSIM_MODELS", "")) / "nets"
FILES = sorted(FOLDER.rglob("*.tflite")) if os.environ.get("QSIM_MODELS") else []
REJECTED = {"person_detect_tflm_rejected.tflite", "lite_fc_blockwise_int4.tflite"}
real_files = pytest.mark.parametrize("path", FILES or [None], ids=[p.stem for p in FILES] or ["none"])


@pytest.mark.models
@real_files
def test_real_files_survive(path, oracle):
    """Records, model and LiteRT's status and outputs are the same after a rebuild; a patch without changes gives the bytes."""
    data = path.read_bytes()
    root = flat.read(data)
    assert verify.verify(data) == ()
    if path.name in REJECTED:  # no model, but the records survive
        with pytest.raises(Invalid):
            reader.read(data)
        assert records.diff(root, flat.read(flat.write(root))) == []
        return
    model = reader.read(data)
    assert writer.to_bytes(model) == data
    again = writer.to_bytes(model, "rebuild")
    assert verify.verify(again) == () and records.diff(root, flat.read(again)) == []
    assert reader.read(again).notes == model.notes
    litert_agrees(oracle, model, data, again)


def litert_agrees(oracle, model: Model, before: bytes, after: bytes) -> None:
    for flavour in ("xnnpack", "reference"):
        assert oracle.loads(after, flavour) == oracle.loads(before, flavour)
    a, b = (outcome(oracle, model, data) for data in (before, after))
    assert type(a) is type(b)
    if isinstance(a, str):
        assert a == b
    else:
        assert a.keys() == b.keys() and all(same(a[t], b[t]) for t in a)


def outcome(oracle, model: Model, data: bytes):
    try:
        return oracle.run(data, [drawn(model.graph.tensors[i]) for i in model.graph.inputs])
    except OracleFailed as e:
        return re.sub(r"0x[0-9a-f]+", "", str(e))


def drawn(t: Tensor, samples: int = 2) -> np.ndarray:
    """Values for a model input. Plain integers may be indices: 0 and 1 only."""
    rng, kind = np.random.default_rng(t.index), TYPES[t.type]
    shape = (samples, *t.shape)
    if t.qparams is not None:
        return rng.integers(kind.low, kind.high, shape, np.dtype(kind.dtype), endpoint=True)
    if kind.dtype is None:
        return np.full(shape, b"a")
    return rng.integers(0, 2, shape).astype(kind.dtype) if kind.low is not None else rng.normal(size=shape).astype(kind.dtype)


def same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def with_tensors(model: Model, change) -> Model:
    """The model with `change(tensor)` in place of each tensor of the primary graph."""
    return model.but(graphs=(model.graph.but(tensors=tuple(change(t) for t in model.graph.tensors)), *model.graphs[1:]))


def scaled(t: Tensor) -> Tensor:
    return t if t.qparams is None else t.but(qparams=replace(t.qparams, scale=np.asarray(t.qparams.scale) * np.float32(1.5)))


def shifted(t: Tensor) -> Tensor:
    return t.but(data=t.data + np.array(1, t.data.dtype)) if t.data is not None and t.type in ("float32", "int8", "uint8") else t


@pytest.mark.models
@pytest.mark.parametrize("name", ["mlperf_resnet8_int8", "mobilenet_v1_025_224_uint8", "mnist_lstm_int8", "conv_resnet8_int16x8"])
def test_patch_changes_numbers_only(models_dir, name):
    """New scales and constants of the same size: patch and rebuild mean the same, and patch differs only where they lie."""
    model = reader.load(models_dir / "nets" / f"{name}.tflite")
    changed = with_tensors(model, lambda t: shifted(scaled(t)))
    patched, rebuilt = writer.to_bytes(changed, "patch"), writer.to_bytes(changed, "rebuild")
    assert records.diff(flat.read(patched), flat.read(rebuilt)) == []
    for t, wanted in zip(reader.read(patched).graph.tensors, changed.graph.tensors, strict=True):
        assert t.qparams == wanted.qparams and (wanted.data is None or same(t.data, wanted.data))
    whole = np.frombuffer(model.source.data, np.uint8)
    may_change = np.zeros(whole.size, bool)
    for t in model.graph.tensors:
        places = [reader.stored_bytes(model.source.root["buffers"][t.buffer])]
        places += [v for k, v in t.raw.get("quantization", {}).items() if k in ("scale", "zero_point", "min", "max")]
        for p in places:
            start = p.__array_interface__["data"][0] - whole.__array_interface__["data"][0]
            may_change[start : start + p.nbytes] = p.size > 0
    assert len(patched) == whole.size and not np.any((np.frombuffer(patched, np.uint8) != whole) & ~may_change)


def test_patch_refuses_more_than_numbers():
    model = reader.read(rich())
    changes = [
        model.but(description="other"),
        with_tensors(model, lambda t: t.but(name=t.name + "x")),
        with_tensors(model, lambda t: t.but(qparams=None) if t.index == 0 else t),
        with_tensors(model, lambda t: t.but(data=np.float32([1, 2, 3]), shape=(3,)) if t.index == 7 else t),
        model.but(graphs=(model.graph.but(outputs=(3,)), *model.graphs[1:])),
        model.but(signatures=()),
    ]
    for changed in changes:
        with pytest.raises(Unsupported, match="a patch cannot hold that"):
            writer.to_bytes(changed, "patch")
        assert writer.to_bytes(changed) == writer.to_bytes(changed, "rebuild") != model.source.data


def overlapping() -> bytes:
    """A file in which two tensors share one vector of scales."""
    data = bytearray(rich())
    root = flat.read(bytes(data))
    x, y = (root["subgraphs"][0]["tensors"][i]["quantization"] for i in (0, 3))
    slot = schema().tables["QuantizationParameters"].by_name["scale"].slot
    places = [q.at + flat.slots(bytes(data), q.at)[slot] for q in (x, y)]
    targets = [p + int.from_bytes(data[p : p + 4], "little") for p in places]
    data[places[0] : places[0] + 4] = (max(targets) - places[0]).to_bytes(4, "little")
    data[places[1] : places[1] + 4] = (max(targets) - places[1]).to_bytes(4, "little")
    return bytes(data)


def test_patch_leaves_shared_pieces_alone():
    model = reader.read(overlapping())
    one = with_tensors(model, lambda t: scaled(t) if t.index == 0 else t)
    with pytest.raises(Unsupported):
        writer.to_bytes(one, "patch")
    written = reader.read(writer.to_bytes(one)).graph
    assert written.tensors[0].qparams.scale[0] == 0.75 and written.tensors[3].qparams.scale[0] == 0.5


def test_min_and_max_follow_the_parameters():
    model = with_tensors(reader.read(rich()), scaled)
    for how in ("patch", "rebuild"):
        quantization = flat.read(writer.to_bytes(model, how))["subgraphs"][0]["tensors"][0]["quantization"]
        assert quantization["scale"].tolist() == [0.75]
        assert (quantization["min"].tolist(), quantization["max"].tolist()) == ([0.75 * (-128 - 3)], [0.75 * (127 - 3)])


def test_a_rebuild_keeps_everything_else():
    """After a change of one tensor, only that tensor and its buffer differ."""
    model = reader.read(rich())
    changed = with_tensors(model, lambda t: t.but(data=np.int8([[[[5, 6]]], [[[7, 8]]]])) if t.index == 1 else t)
    assert records.diff(model.source.root, flat.read(writer.to_bytes(changed, "rebuild"))) == ["buffers[1].data"]
    assert records.diff(model.source.root, flat.read(writer.to_bytes(changed, "patch"))) == ["buffers[1].data"]


def test_a_shared_constant_is_split_when_one_user_changes():
    root = flat.read(rich())
    root["subgraphs"][0]["tensors"][7]["buffer"] = 7
    root["subgraphs"][0]["tensors"][7]["shape"] = np.array([4], "<i4")
    model = reader.read(flat.write(root))
    changed = with_tensors(model, lambda t: t.but(data=t.data + 1) if t.index == 7 else t)
    with pytest.raises(Unsupported):
        writer.to_bytes(changed, "patch")
    written = reader.read(writer.to_bytes(changed))
    assert written.graph.tensors[7].data.tolist() == [1, 2, 3, 4] and written.graph.tensors[11].data.tolist() == [0, 1, 2, 3]
    both = with_tensors(model, lambda t: t.but(data=t.data + 1) if t.index in (7, 11) else t)
    written = reader.read(writer.to_bytes(both))
    assert written.graph.tensors[7].buffer == written.graph.tensors[11].buffer
    assert written.graph.tensors[11].data.tolist() == [1, 2, 3, 4]


def test_lost_constants_leave_no_bytes():
    root = flat.read(rich())
    root["buffers"].append(Record("Buffer", {"data": np.zeros(100_000, np.uint8)}))
    root["subgraphs"][0]["tensors"][7].update(buffer=9, shape=np.array([25_000], "<i4"))
    model = reader.read(flat.write(root))
    small = writer.to_bytes(with_tensors(model, lambda t: t.but(data=np.float32([1, 2]), shape=(2,)) if t.index == 7 else t))
    assert len(small) < 4000 and reader.read(small).graph.tensors[7].data.tolist() == [1, 2]


def test_op_codes_follow_the_ops():
    model = reader.read(rich())
    first = model.graph.nodes[0]
    newer = model.but(graphs=(model.graph.but(nodes=(first.but(version=5), *model.graph.nodes[1:])), *model.graphs[1:]))
    root = flat.read(writer.to_bytes(newer))
    assert [(reader.op_name(c), c.value("version")) for c in root["operator_codes"]] == [
        ("CUSTOM:mine", 1), ("STABLEHLO_COMPOSITE", 1), ("RELU", 1), ("CONV_2D", 5),
    ]  # fmt: skip
    assert [n.op for n in reader.read(writer.to_bytes(newer)).graph.nodes] == [n.op for n in model.graph.nodes]


def test_changed_options_and_ops_are_written():
    model = reader.read(rich())
    conv, custom, composite = model.graph.nodes
    nodes = (
        conv.but(options=conv.options.but(fused_activation_function="RELU6")),
        custom.but(options=Options(custom_options=b"abc")),
        composite,
    )
    written = reader.read(writer.to_bytes(model.but(graphs=(model.graph.but(nodes=nodes), *model.graphs[1:])))).graph.nodes
    assert written[0].options == nodes[0].options and written[1].options.custom_options == b"abc"
    assert written[0].raw["debug_metadata_index"] == 2  # what the model does not speak of stays
    assert "outside" not in written[1].raw


def handmade() -> Model:
    rng = np.random.default_rng(0)
    weights = rng.integers(-127, 127, (8, 3, 3, 3), np.int8)
    per_channel = QParams(rng.uniform(0.01, 0.02, 8).astype(np.float32), np.zeros(8, np.int64), -128, 127, 0)
    x = QParams(np.float32([0.5]), np.int64([3]), -128, 127)
    bias = replace(per_channel, scale=per_channel.scale * np.float32(0.5), low=-(2**31), high=2**31 - 1)
    tensors = (
        Tensor(0, "x", (1, 8, 8, 3), "int8", x, shape_signature=(-1, 8, 8, 3)),
        Tensor(1, "w", (8, 3, 3, 3), "int8", per_channel, weights),
        Tensor(2, "b", (8,), "int32", bias, rng.integers(-999, 999, 8, np.int32)),
        Tensor(3, "h", (1, 4, 4, 8), "int8", replace(x, scale=np.float32([2.0]))),
        Tensor(4, "shape", (2,), "int32", None, np.int32([1, 128])),
        Tensor(5, "y", (1, 128), "int8", replace(x, scale=np.float32([2.0]))),
    )
    nodes = (
        Node(0, "CONV_2D", (0, 1, 2), (3,), Options(padding="SAME", stride_w=2, stride_h=2, fused_activation_function="RELU"), 3),
        Node(1, "RESHAPE", (3, 4), (5,), Options(new_shape=(1, 128))),
    )
    signature = {"key": "serve", "graph": 0, "inputs": {"image": 0}, "outputs": {"codes": 5}}
    return Model((Graph(tensors, nodes, (0,), (5,), "main"),), (signature,), "made by hand")


def test_a_model_made_by_hand(oracle):
    model = handmade()
    assert check.check(model) == []
    data = writer.to_bytes(model)
    again = reader.read(data)
    assert again.description == "made by hand" and again.signatures == model.signatures and again.graph.name == "main"
    for t, o in zip(model.graph.tensors, again.graph.tensors, strict=True):
        assert (t.name, t.shape, t.type, t.qparams, t.shape_signature) == (o.name, o.shape, o.type, o.qparams, o.shape_signature)
        assert t.data is None or same(t.data, o.data)
    for n, o in zip(model.graph.nodes, again.graph.nodes, strict=True):
        assert (n.op, n.inputs, n.outputs, n.version) == (o.op, o.inputs, o.outputs, o.version) and n.options.items() <= o.options.items()
    assert oracle.loads(data, "xnnpack") is None and oracle.loads(data, "reference") is None
    assert writer.to_bytes(again) == data and records.diff(flat.read(data), flat.read(writer.to_bytes(again, "rebuild"))) == []


def test_writing_is_deterministic():
    assert writer.to_bytes(handmade()) == writer.to_bytes(handmade())


def test_large_models_move_their_buffers_outside(oracle, monkeypatch):
    """Beyond 2^31 bytes buffers lie behind the flatbuffer; forced here at a small size. LiteRT sees the same model."""
    model = handmade()
    inside = writer.to_bytes(model)
    monkeypatch.setattr(rebuild, "LARGEST_INSIDE", 100)
    monkeypatch.setattr(rebuild, "EXTERNAL_FROM", 64)
    outside = writer.to_bytes(model)
    buffers = flat.read(outside)["buffers"]
    assert ["outside" in b for b in buffers] == [False, True, False, False] and buffers[1]["offset"] % 16 == 0
    assert records.diff(flat.read(inside), flat.read(outside)) == []
    litert_agrees(oracle, model, inside, outside)
    monkeypatch.undo()
    again = reader.read(outside)
    changed = with_tensors(again, lambda t: t.but(data=-t.data) if t.index == 1 else t)
    for how in ("patch", "rebuild"):  # what lies outside stays outside
        written = writer.to_bytes(changed, how)
        assert "outside" in flat.read(written)["buffers"][1]
        assert same(reader.read(written).graph.tensors[1].data, -model.graph.tensors[1].data)
