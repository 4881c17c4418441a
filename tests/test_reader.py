"""The reader's model says what other readers of the same bytes say; what has no meaning is refused with its place."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from collections import Counter
from dataclasses import FrozenInstanceError
from pathlib import Path

import numpy as np
import pytest
from featureful import code, i32, operator, quantization, rich, tensor

from qsim import check, flat, reader, records, writer
from qsim.errors import BadModel, Invalid, Malformed, NewerSchema, QsimError, TooLarge, Unsupported
from qsim.flat import Record
from qsim.graph import Graph, Model, Node, Options, QParams, Tensor
from qsim.packing import pack, stored_size, unpack
from qsim.types import BY_CODE, TYPES

REJECTED = {"person_detect_tflm_rejected.tflite", "lite_fc_blockwise_int4.tflite"}


def nets(models_dir: Path) -> list[Path]:
    return sorted((models_dir / "nets").rglob("*.tflite"))


def test_features_are_read():
    model = reader.read(rich())
    g = model.graph
    assert [t.name for t in g.tensors[:4]] == ["x", "w", "b", "y"] and g.inputs == (0,) and g.outputs == (12,)
    assert g.tensors[0].qparams == QParams(np.float32([0.5]), np.int64([3]), -128, 127)
    assert g.tensors[1].qparams.per_channel and g.tensors[1].qparams.axis == 0
    assert g.tensors[1].data.tolist() == [[[[1, -2]]], [[[3, 4]]]] and g.tensors[2].data.tolist() == [7, -7]
    assert g.tensors[3].shape_signature == (-1, 4, 4, 2)
    assert g.tensors[4].type == "int4" and g.tensors[4].data.tolist() == [1, 2, -1]
    assert bytes(g.tensors[5].data).endswith(b"hi")
    assert g.tensors[6].data.tolist() == [[0, 1], [2, 0]] and g.tensors[9].is_variable
    assert g.tensors[11].data.tolist() == [0, 1, 2, 3]
    assert g.key(10) == "t10" and g.key(0) == "x"
    assert model.signatures == ({"key": "serve", "graph": 0, "inputs": {"inputs": 0}, "outputs": {"outputs": 12}},)
    assert model.graphs[1].nodes[0].op == "RELU" and model.graphs[1].name == "inner" and model.description == "rich"


def test_options_have_names_and_defaults():
    conv, custom, composite = reader.read(rich()).graph.nodes
    assert conv.options == {
        "padding": "VALID", "stride_w": 1, "stride_h": 1, "fused_activation_function": "NONE",
        "dilation_w_factor": 1, "dilation_h_factor": 1, "quantized_bias_type": "FLOAT32",
    }  # fmt: skip
    assert conv.version == 3
    assert custom.op == "CUSTOM:mine" and custom.options.custom_options == bytes(range(24)) and custom.intermediates == (-1, 9)
    assert composite.options.decomposition_subgraph_index == 1 and composite.options.composite_attributes == ()


def test_a_model_is_frozen():
    model = reader.read(rich())
    with pytest.raises(FrozenInstanceError):
        model.graph.tensors[0].name = "other"
    with pytest.raises(ValueError, match="read-only"):
        model.graph.tensors[1].data[0] = 0
    with pytest.raises(ValueError, match="read-only"):
        model.graph.tensors[4].data[0] = 0


def test_the_file_layer_needs_no_jax():
    text = "import sys, qsim.reader, qsim.writer, qsim.check; assert not {'jax', 'ai_edge_litert'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", text], check=True)


@pytest.mark.parametrize("name", [t.name for t in TYPES.values() if t.dtype and t.name not in ("float32",)])
@pytest.mark.parametrize("shape", [(), (0,), (1,), (3,), (2, 5), (4, 3)])
def test_constants_unpack_and_pack(name, shape):
    kind, rng = TYPES[name], np.random.default_rng(0)
    if kind.low is not None:
        values = rng.integers(kind.low, kind.high, shape, np.dtype(kind.dtype), endpoint=True)
    else:
        values = rng.integers(0, 2, shape).astype(kind.dtype)
    stored = pack(np.asarray(values), name)
    assert stored.dtype == np.uint8 and stored.size == stored_size(name, shape) == math.ceil(math.prod(shape) * kind.bits / 8)
    again = unpack(stored, name, shape)
    assert again.dtype == np.dtype(kind.dtype) and np.array_equal(again, values)


def test_sub_byte_constants_begin_in_the_low_bits():
    assert pack(np.int8([1, -2, 3]), "int4").tolist() == [0xE1, 0x03]
    assert pack(np.uint8([1, 14, 3]), "uint4").tolist() == [0xE1, 0x03]
    assert pack(np.int8([1, -2, 0, -1, 1]), "int2").tolist() == [0b11001001, 0b01]


def test_int4_order_is_litert_s(oracle):
    values = np.int8([-8, -1, 0, 1, 2, 7, 3])
    q = QParams(np.float32([0.5]), np.int64([0]), -8, 7)
    tensors = (
        Tensor(0, "c", (7,), "int4", q, values),
        Tensor(1, "y", (7,), "float32"),
        Tensor(2, "x", (7,), "float32"),
        Tensor(3, "z", (7,), "float32"),
    )
    nodes = (Node(0, "DEQUANTIZE", (0,), (1,), version=6), Node(1, "ADD", (1, 2), (3,)))
    data = writer.to_bytes(Model((Graph(tensors, nodes, (2,), (3,)),)))
    found = oracle.run(data, [np.zeros((1, 7), np.float32)])
    assert found[3][0].tolist() == (values * 0.5).tolist()


@pytest.mark.models
def test_models_agree_with_generated_code(models_dir):
    """Tensors, parameters, constants, ops of every real file, against the accessors that LiteRT's package generates."""
    generated = pytest.importorskip("ai_edge_litert.schema_py_generated", reason="LiteRT is not installed")
    for path in nets(models_dir):
        if path.name not in REJECTED:
            data = path.read_bytes()
            agree(reader.read(data, path.name), generated.ModelT.InitFromPackedBuf(data), path.name, data)


def agree(model, other, name: str, data: bytes) -> None:
    for graph, theirs in zip(model.graphs, other.subgraphs, strict=True):
        assert graph.inputs == tuple(theirs.inputs) and graph.outputs == tuple(theirs.outputs), name
        for t, o in zip(graph.tensors, theirs.tensors, strict=True):
            tensors_agree(t, o, other.buffers[o.buffer], data)
        for n, o in zip(graph.nodes, theirs.operators, strict=True):
            assert n.inputs == tuple(o.inputs) and n.outputs == tuple(o.outputs), name
            assert n.version == other.operatorCodes[o.opcodeIndex].version
            options_agree(n.options, o.builtinOptions if o.builtinOptions is not None else o.builtinOptions2)


def tensors_agree(t: Tensor, o, buffer, data: bytes) -> None:
    assert t.name == (o.name or b"").decode() and t.shape == tuple(() if o.shape is None else o.shape)
    assert t.type == BY_CODE[o.type].name and t.is_variable == o.isVariable
    scale = None if o.quantization is None else o.quantization.scale
    if t.qparams is not None:
        assert np.array_equal(t.qparams.scale, scale) and np.array_equal(t.qparams.zero_point, o.quantization.zeroPoint)
        assert t.qparams.axis == o.quantization.quantizedDimension
    else:
        assert scale is None or not len(scale) or t.type.startswith("float")
    stored = data[buffer.offset : buffer.offset + buffer.size] if buffer.offset > 1 else buffer.data
    if stored is not None and len(stored) and t.type != "int4":
        assert t.data.tobytes() == bytes(stored)


def options_agree(options: Options, theirs) -> None:
    found = {k.replace("_", "").lower(): v for k, v in options.items()}
    for key, value in vars(theirs).items() if theirs is not None and options else ():
        mine = found[key.lower()]
        if not isinstance(mine, str):
            assert mine == (tuple(value) if isinstance(value, np.ndarray) else () if value is None and mine == () else value), key


@pytest.mark.models
def test_notes_on_real_models(models_dir):
    """Good files get no warnings; the two rejected ones are refused with the tensor and the reason."""
    doubtful = set()
    for path in nets(models_dir):
        if path.name in REJECTED:
            continue
        model = reader.load(path)
        assert check.check(model) == [n for n in model.notes if "inferred" not in n]
        if check.check(model):
            doubtful.add(path.name)
    assert doubtful <= {"kws_scrambled_svdf_int8.tflite"}  # its SOFTMAX is int16 with a zero point
    with pytest.raises(Invalid, match=r"tensor 33 .*Conv2d_0/Conv2D_bias.* dimension it does not have; found 3"):
        reader.load(models_dir / "nets" / "person_detect_tflm_rejected.tflite")
    with pytest.raises(Invalid, match=r"op 0 ADD .*reads tensor 2 .*before it is computed"):
        reader.load(models_dir / "nets" / "lite_fc_blockwise_int4.tflite")


@pytest.mark.models
def test_inferred_activations_of_mobilenet(models_dir):
    nodes = reader.load(models_dir / "nets" / "mobilenet_v1_025_224_uint8.tflite").graph.nodes
    inferred = [n for n in nodes if n.inferred_activation]
    assert Counter((n.op, n.inferred_activation) for n in inferred) == {("CONV_2D", "RELU6"): 14, ("DEPTHWISE_CONV_2D", "RELU6"): 13}
    assert all(n.options.fused_activation_function == "NONE" and n.real_options.fused_activation_function == "RELU6" for n in inferred)


def activated(scale: float, zero: int, type_name: str = "int8", option: str = "NONE") -> str | None:
    low, high = TYPES[type_name].low, TYPES[type_name].high
    q = QParams(np.float32([scale]), np.int64([zero]), low, high)
    tensors = (Tensor(0, "x", (4,), type_name, q), Tensor(1, "y", (4,), type_name, q))
    nodes = (Node(0, "ADD", (0, 0), (1,), Options(fused_activation_function=option)),)
    return reader.read(writer.to_bytes(Model((Graph(tensors, nodes, (0,), (1,)),)))).graph.nodes[0].inferred_activation


def test_inferred_activation_rule():
    assert activated(6 / 255, -128) == "RELU6"
    assert activated(6 / 254.1, -128) == activated(6 / 255.9, -128) == "RELU6"
    assert activated(6 / 253.9, -128) == activated(6 / 256.1, -128) == "RELU"
    assert activated(6 / 255, 0, "uint8") == "RELU6" and activated(1.0, 0, "uint8") == "RELU"
    assert activated(6 / 255, -127) is None and activated(1.0, 0) is None and activated(1.0, 0, "int16") is None
    assert activated(6 / 255, -128, option="RELU") is None


def main(root: Record) -> Record:
    return root["subgraphs"][0]


def t(index: int, **fields: object):
    return lambda root: main(root)["tensors"][index].update(fields)


def op(index: int, **fields: object):
    return lambda root: main(root)["operators"][index].update(fields)


def conv(**fields: object):
    return lambda root: main(root)["operators"][0]["builtin_options"].update(fields)


def q(scale, zero, axis=0, index=1):
    return t(index, quantization=quantization(scale, zero, axis))


NAN, INF = math.nan, math.inf
BAD = [
    ("version", lambda r: r.update(version=4), Malformed, "version.*found 4; expected 3"),
    ("no subgraphs", lambda r: r.update(subgraphs=[]), Invalid, "no subgraphs"),
    ("op code", op(0, opcode_index=9), Invalid, "op 0.*operator code.*9"),
    ("input index", op(0, inputs=i32(0, 99, 2)), Invalid, "op 0 CONV_2D.*input names tensor 99"),
    ("negative input", op(0, inputs=i32(0, -2, 2)), Invalid, "op 0 CONV_2D.*input names tensor -2"),
    ("absent input", op(0, inputs=i32(0, -1, 2)), Invalid, "op 0 CONV_2D.*needs 2"),
    ("no inputs", op(0, inputs=i32()), Invalid, "op 0 CONV_2D.*needs 2"),
    ("absent output", op(0, outputs=i32(-1)), Invalid, "op 0 CONV_2D.*output names tensor -1"),
    ("graph input", lambda r: main(r).update(inputs=i32(50)), Invalid, "graph input names tensor 50"),
    ("graph output", lambda r: main(r).update(outputs=i32(-1)), Invalid, "graph output names tensor -1"),
    ("output never computed", lambda r: main(r).update(outputs=i32(3, 10, 12, 8, 13)), Invalid, "graph output names tensor 13"),
    ("buffer", t(1, buffer=4_000_000), Invalid, r"tensor 1 \('w'\).*buffer.*4000000"),
    ("element type", t(1, type=77), NewerSchema, r"tensor 1 \('w'\).*element type.*77"),
    ("order", lambda r: main(r)["operators"].reverse(), Invalid, "op 0 STABLEHLO_COMPOSITE.*before it is computed"),
    ("cycle", op(0, inputs=i32(3, 1, 2)), Invalid, "op 0 CONV_2D.*reads tensor 3.*before it is computed"),
    ("twice", op(1, outputs=i32(3)), Invalid, "op 1 CUSTOM:mine.*already written by op 0"),
    ("writes constant", op(1, outputs=i32(1)), Invalid, r"op 1 .*writes tensor 1 \('w'\), which is a constant"),
    ("writes input", op(1, outputs=i32(0)), Invalid, "which is a graph input"),
    ("writes variable", op(1, outputs=i32(9)), Invalid, "which is a variable"),
    ("variable constant", t(1, is_variable=True), Invalid, r"tensor 1 \('w'\): a variable that is also a constant"),
    ("recursion", lambda r: main(r)["operators"][2]["builtin_options_2"].pop("decomposition_subgraph_index"), Invalid, "calls itself"),
    (
        "called subgraph",
        lambda r: main(r)["operators"][2]["builtin_options_2"].update(decomposition_subgraph_index=5),
        Invalid,
        "op 2 STABLEHLO_COMPOSITE.*calls subgraph 5, the model has 2",
    ),
    ("negative dimension", t(3, shape=i32(1, -5)), Invalid, r"tensor 3 \('y'\).*negative dimension"),
    ("huge", t(3, shape=i32(65536, 65536, 65536, 65536)), Invalid, r"tensor 3 \('y'\).*larger than any memory"),
    ("rank", t(3, shape=i32(*[1] * 9)), TooLarge, r"tensor 3 \('y'\).*too many dimensions; found 9"),
    ("short constant", t(1, shape=i32(2, 1, 1, 3)), Invalid, r"tensor 1 \('w'\).*wrong size; found 4 bytes; expected 6"),
    ("short int4", t(4, shape=i32(5)), Invalid, r"tensor 4 \('four'\).*wrong size; found 2 bytes; expected 3"),
    ("external file", t(1, external_buffer=1), Unsupported, r"tensor 1 \('w'\).*another file"),
    ("stride", conv(stride_w=0), Invalid, "op 0 CONV_2D.*stride_w is 0"),
    ("groups", t(0, shape=i32(1, 4, 4, 3)), Invalid, "op 0 CONV_2D.*does not divide"),
    ("dilation", conv(dilation_h_factor=-1), Invalid, "op 0 CONV_2D.*dilation_h_factor is -1"),
    ("enumeration", conv(padding=9), Invalid, "op 0 CONV_2D.*padding.*9"),
    ("scale 0", q([0.25, 0], [0, 0]), Invalid, r"tensor 1 \('w'\): scale 0.0"),
    ("scale NaN", q([NAN, 1], [0, 0]), Invalid, "scale nan"),
    ("scale inf", q([INF, 1], [0, 0]), Invalid, "scale inf"),
    ("scale negative", q([1, -1], [0, 0]), Invalid, "scale -1.0"),
    ("zero point", q([1, 1], [0, 200]), Invalid, r"tensor 1 \('w'\): a zero point .*200.* outside int8"),
    ("zero point 2^40", q([1, 1], [0, 1 << 40]), Invalid, "outside int8"),
    ("scales and zeros", q([1, 1], [0]), Invalid, r"number of scales and zero points; found \(2, 1\)"),
    ("scale count", q([1, 1, 1], [0, 0, 0]), Invalid, "wrong number of scales; found 3; expected 1 or 2"),
    ("axis", q([1, 1], [0, 0], 4), Invalid, "dimension it does not have; found 4"),
    ("axis negative", q([1, 1], [0, 0], -1), Invalid, "dimension it does not have; found -1"),
    ("bias axis", q([1, 1], [0, 0], 3, index=2), Invalid, r"tensor 2 \('b'\).*dimension it does not have; found 3"),
    ("signature graph", lambda r: r["signature_defs"][0].update(subgraph_index=7), Invalid, "signature 'serve'.*7"),
    ("signature tensor", lambda r: r["signature_defs"][0]["inputs"][0].update(tensor_index=70), Invalid, "signature 'serve'.*70"),
]


@pytest.mark.parametrize("edit, error, words", [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_what_has_no_meaning_is_refused(edit, error, words, tmp_path):
    root = flat.read(rich())
    edit(root)
    path = tmp_path / "bad.tflite"
    path.write_bytes(flat.write(root))
    with pytest.raises(error, match=words) as caught:
        reader.load(path)
    assert str(path) in str(caught.value) and isinstance(caught.value, QsimError)


@pytest.mark.parametrize("where", [(1 << 40, 16), (8, 1 << 62), ((1 << 64) - 8, 16)])
def test_outside_data_must_lie_in_the_file(where):
    data = bytearray(rich())
    root = flat.read(bytes(data))
    at = root["buffers"][7].at
    offset, size = (at + s for s in flat.slots(bytes(data), at)[1:3])
    data[offset : offset + 8], data[size : size + 8] = (v.to_bytes(8, "little") for v in where)
    with pytest.raises(Malformed, match="Buffer refers to .* outside the file"):
        reader.read(bytes(data))


def single(table_code: Record, options: tuple[str, dict] | None, x: Record, y: Record, *constants: Record) -> bytes:
    used = operator(0, tuple(i for i in range(2 + len(constants)) if i != 1), (1,), *(options or ()))
    graph = Record("SubGraph", {"tensors": [x, y, *constants], "inputs": i32(0), "outputs": i32(1), "operators": [used]})
    buffers = [Record("Buffer"), Record("Buffer", {"data": np.ones(4, np.uint8)})]
    return flat.write(Record("Model", {"version": 3, "operator_codes": [table_code], "subgraphs": [graph], "buffers": buffers}))


def eight(name: str, scale: float, zero: int, type_code: int = 9, shape: tuple[int, ...] = (1, 4)) -> Record:
    return tensor(name, shape, type_code, quantization=quantization([scale], [zero]))


def weights(scale: float, zero: int) -> Record:
    return tensor("w", (2, 2), 9, 1, quantization=quantization([scale], [zero]))


SOFTMAX, RESHAPE = code("SOFTMAX"), code("RESHAPE")
DOUBTFUL = [
    (single(SOFTMAX, None, eight("x", 1, 0), eight("y", 1 / 128, -128)), "op 0 SOFTMAX.*0.0078125, zero point -128; the kernels produce"),
    (single(RESHAPE, None, eight("x", 1, 0), eight("y", 2, 0)), "op 0 RESHAPE.*different quantization parameters"),
    (single(RESHAPE, None, eight("x", 1, 3, 7), eight("y", 1, 3, 7)), "tensor 0.*int16 with a zero point"),
    (single(RESHAPE, None, eight("x", 1e-42, 3), eight("y", 1e-42, 3)), "tensor 0.*subnormal scale"),
    (
        single(code("FULLY_CONNECTED"), None, eight("x", 1, 0, 9, (1, 2)), eight("y", 1, 0, 9, (1, 2)), weights(1, 5)),
        "op 0 FULLY_CONNECTED.*int8 weights with a zero point",
    ),
    (
        single(
            code("FULLY_CONNECTED"), None, eight("x", 0.5, 0, 9, (1, 2)), eight("y", 1, 0, 9, (1, 2)), weights(0.5, 0),
            tensor("b", (1,), 2, 1, quantization=quantization([0.5], [0])),
        ),
        "op 0 FULLY_CONNECTED.*bias scale is not input scale",
    ),
]  # fmt: skip


@pytest.mark.parametrize("data, words", DOUBTFUL)
def test_what_is_doubtful_is_noted_and_not_written_anew(data, words, tmp_path):
    model = reader.read(data)
    assert any(re.search(words, n) for n in model.notes), model.notes
    with pytest.raises(Invalid, match=words):
        check.require(model)
    assert writer.save(model, tmp_path / "same.tflite") == "patch"  # the file had it already
    with pytest.raises(Invalid, match=words):
        writer.save(model.but(notes=()), tmp_path / "new.tflite")
    assert not (tmp_path / "new.tflite").exists()


def test_longer_constants_are_noted():
    root = flat.read(rich())
    root["buffers"][1]["data"] = np.arange(9, dtype=np.uint8)
    model = reader.read(flat.write(root))
    assert model.graph.tensors[1].data.reshape(-1).tolist() == [0, 1, 2, 3]
    assert any("tensor 1 ('w'): the stored constant is longer" in n for n in model.notes)
    assert records.diff(root, flat.read(writer.to_bytes(model, "rebuild"))) == []


def test_buffer_0_means_no_constant():
    root = flat.read(rich())
    root["buffers"][0]["data"] = np.arange(64, dtype=np.uint8)
    model = reader.read(flat.write(root))
    assert model.graph.tensors[12].data is None
    assert records.diff(root, flat.read(writer.to_bytes(model, "rebuild"))) == []


def test_handmade_faults_are_found():
    x, y = Tensor(0, "x", (2,), "float32"), Tensor(1, "y", (2,), "float32")
    relu = Node(0, "RELU", (0,), (1,))
    good = Model((Graph((x, y), (relu,), (0,), (1,)),))
    assert check.check(good) == []
    bad = {
        "index": Graph((x, y.but(index=3)), (relu,), (0,), (1,)),
        "constant is float64": Graph((x.but(data=np.zeros(2)), y), (relu,), (), (1,)),
        "unknown element type": Graph((x.but(type="int5"), y), (relu,), (0,), (1,)),
        "does not fit int4": Graph((x.but(type="int4", data=np.int8([9, 0])), y), (relu,), (), (1,)),
        "negative dimension": Graph((x, y.but(shape=(-1,))), (relu,), (0,), (1,)),
    }
    for words, graph in bad.items():
        assert any(words in p for p in check.check(Model((graph,)))), words
        with pytest.raises(BadModel, match=words):
            writer.to_bytes(Model((graph,)))


def test_what_was_left_out_or_misnamed_by_hand():
    """A CONV_2D made without strides would be written with stride 0."""
    tensors = (Tensor(0, "x", (1, 4, 4, 1), "float32"), Tensor(1, "w", (1, 1, 1, 1), "float32", data=np.ones((1, 1, 1, 1), np.float32)))
    graph = Graph((*tensors, Tensor(2, "y", (1, 4, 4, 1), "float32")), (Node(0, "CONV_2D", (0, 1), (2,), Options(stride_w=1)),), (0,), (2,))
    with pytest.raises(Invalid, match="op 0 CONV_2D.*stride_h is 0"):
        writer.to_bytes(Model((graph,)))
    signature = {"key": "serve", "graph": 0, "inputs": {"x": 0}, "outputs": {"y": 3}}
    with pytest.raises(Invalid, match="signature 'serve': 'y' names tensor 3, the graph has 3"):
        writer.to_bytes(Model((graph.but(nodes=(graph.nodes[0].but(options=Options(stride_w=1, stride_h=1)),)),), (signature,)))


def test_options_that_do_not_exist_are_refused():
    x, y = Tensor(0, "x", (2,), "float32"), Tensor(1, "y", (2,), "float32")
    for options, words in ((Options(alpha=1.0, beta=2.0), "op 0 LEAKY_RELU.*no option beta"), (Options(alpha="big"), "alpha.*'big'")):
        with pytest.raises(Invalid, match=words):
            writer.to_bytes(Model((Graph((x, y), (Node(0, "LEAKY_RELU", (0,), (1,), options),), (0,), (1,)),)))
