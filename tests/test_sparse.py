"""Sparse constants: decoded as LiteRT's DENSIFY does, kept as they are stored by the writer, refused where they are not sound."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from qsim import flat, records
from qsim.errors import BadModel, Invalid, TooLarge, Unsupported
from qsim.flat import Record
from qsim.function import build
from qsim.graph import Graph, Model, Node, Options, QParams, Tensor
from qsim.quantizer import quantize
from qsim.reader import read
from qsim.rebuild import rebuild
from qsim.sparse import densify
from qsim.types import TYPES, code_range
from qsim.writer import to_bytes

VECTORS = {"Int32Vector": ("<i4", 1), "Uint16Vector": ("<u2", 2), "Uint8Vector": ("u1", 3)}


@dataclass(frozen=True)
class Form:
    """How a constant is stored: `levels` is a letter a level, d dense or s sparse."""

    order: tuple[int, ...]
    levels: str
    block_map: tuple[int, ...] = ()
    blocks: tuple[int, ...] = ()
    vector: str = field(default="Int32Vector")


FORMS_2D = (
    Form((0, 1), "ds"),
    Form((1, 0), "ds"),
    Form((0, 1), "ss"),
    Form((1, 0), "sd"),
    Form((0, 1), "dd"),
    Form((0, 1, 2, 3), "dsdd", (0, 1), (2, 3)),
    Form((0, 1, 3, 2), "dsdd", (0, 1), (2, 3), "Uint16Vector"),
    Form((1, 0, 2, 3), "ssdd", (0, 1), (2, 3), "Uint8Vector"),
    Form((0, 1, 2), "dsd", (1,), (3,), "Uint8Vector"),
    Form((0, 1, 2), "sdd", (0,), (4,)),
)


def encode(x: np.ndarray, form: Form) -> tuple[np.ndarray, Record]:
    """(stored values, the SparsityParameters record) of a dense array."""
    size = [form.blocks[form.block_map.index(d)] if d in form.block_map else 1 for d in range(x.ndim)]
    split = x.reshape([n for d in range(x.ndim) for n in (x.shape[d] // size[d], size[d])])
    y = split.transpose([*range(0, 2 * x.ndim, 2), *(2 * d + 1 for d in range(x.ndim))])
    y = y.reshape(*y.shape[: x.ndim], *form.blocks).transpose(form.order)
    paths, levels = [()], []
    for level, kind in enumerate(form.levels):
        if kind == "d":
            levels.append(Record("DimensionMetadata", {"format": 0, "dense_size": y.shape[level]}))
            paths = [(*p, i) for p in paths for i in range(y.shape[level])]
            continue
        inner = [[i for i in range(y.shape[level]) if np.any(y[(*p, i)])] for p in paths]
        segments = np.cumsum([0, *map(len, inner)])
        paths = [(*p, i) for p, found in zip(paths, inner, strict=True) for i in found]
        dtype, tag = VECTORS[form.vector]
        sides = {"array_segments": segments, "array_indices": [i for found in inner for i in found]}
        fields = {name: Record(form.vector, {"values": np.array(v, dtype)}) for name, v in sides.items()}
        levels.append(Record("DimensionMetadata", {"format": 1, **fields, **{f"{name}_type": tag for name in sides}}))
    record = {"traversal_order": np.array(form.order, "<i4"), "dim_metadata": levels}
    if form.block_map:
        record["block_map"] = np.array(form.block_map, "<i4")
    return np.array([y[p] for p in paths], x.dtype), Record("SparsityParameters", record)


def holes(rng: np.random.Generator, shape: tuple[int, ...], kind: str) -> np.ndarray:
    """Mostly zeros."""
    return ((rng.random(shape) < 0.3) * rng.integers(-90, 91, shape)).astype(TYPES[kind].dtype)


def stored_sparse(model: Model, tensor: int, form: Form) -> bytes:
    """The file of a model with one constant stored sparse."""
    values, sparsity = encode(model.graph.tensors[tensor].data, form)
    root = rebuild(model)
    record = root["subgraphs"][0]["tensors"][tensor]
    record["sparsity"] = sparsity
    root["buffers"][record.value("buffer")]["data"] = values.view(np.uint8)
    return flat.write(root)


def dense(kind: str, x: np.ndarray) -> Model:
    """y = DENSIFY(constant)."""
    tensors = (Tensor(0, "w", x.shape, kind, None, x), Tensor(1, "y", x.shape, kind))
    return Model((Graph(tensors, (Node(0, "DENSIFY", (0,), (1,)),), (), (1,)),))


@pytest.mark.parametrize("kind", ["float32", "float16", "int8"])
@pytest.mark.parametrize("form", FORMS_2D, ids=str)
def test_densify_equals_litert(form, kind, oracle):
    rng = np.random.default_rng([FORMS_2D.index(form), len(kind)])
    for _ in range(4):
        x = holes(rng, (4, 6), kind)
        data = stored_sparse(dense(kind, x), 0, form)
        model = read(data)
        assert np.array_equal(model.graph.tensors[0].data, x)
        for flavour in ("reference", "builtin"):  # XNNPACK refuses graphs without an input
            theirs = oracle.run(data, [], flavour)[1][0]
            mine = build(model, "integer", flavour)()[0]
            assert mine.dtype == theirs.dtype and mine.tobytes() == theirs.tobytes()


FORMS_4D = (
    Form((0, 1, 2, 3, 4), "ddddd", (3,), (2,)),
    Form((0, 1, 2, 3), "ddds"),
    Form((0, 1, 2, 3, 4), "sddsd", (0,), (4,)),
    Form((3, 1, 2, 0), "dsss"),
)


@pytest.mark.parametrize("form", FORMS_4D, ids=str)
def test_filters_in_four_dimensions(form, oracle):
    x = holes(np.random.default_rng(1), (8, 1, 1, 6), "float32")
    data = stored_sparse(dense("float32", x), 0, form)
    assert np.array_equal(read(data).graph.tensors[0].data, x)
    assert np.array_equal(oracle.run(data, [], "reference")[1][0], x)


def affine(scale: float, zero: int, kind: str = "int8") -> QParams:
    return QParams(np.array([scale], np.float32), np.array([zero]), *code_range(kind))


def convolved(kind: str, rng: np.random.Generator) -> Model:
    """CONV_2D of weights that pass through DENSIFY; float16 ones also through DEQUANTIZE."""
    w, real, more = holes(rng, (8, 1, 1, 6), kind), "int8" if kind == "int8" else "float32", "int32" if kind == "int8" else "float32"
    q = affine if kind == "int8" else lambda *_: None
    tensors = (
        Tensor(0, "x", (1, 3, 3, 6), real, q(0.5, 3)),
        Tensor(1, "w", w.shape, kind, q(0.01, 0), w),
        Tensor(2, "dense", w.shape, kind, q(0.01, 0)),
        Tensor(3, "wide", w.shape, real),
        Tensor(4, "y", (1, 3, 3, 8), real, q(0.25, -5)),
        Tensor(5, "b", (8,), more, q(0.005, 0, more), np.arange(8, dtype=more)),
    )
    nodes = [Node(0, "DENSIFY", (1,), (2,))]
    if kind == "float16":
        nodes.append(Node(1, "DEQUANTIZE", (2,), (3,), version=3))
    options = Options(padding="SAME", stride_w=1, stride_h=1, fused_activation_function="NONE")
    nodes.append(Node(len(nodes), "CONV_2D", (0, 3 if kind == "float16" else 2, 5), (4,), options, 3 if kind == "int8" else 1))
    return Model((Graph(tensors, tuple(nodes), (0,), (4,)),))


@pytest.mark.parametrize("flavour", ["xnnpack", "reference", "builtin"])
@pytest.mark.parametrize("kind", ["float32", "float16", "int8"])
def test_a_convolution_by_sparse_weights_equals_litert(kind, flavour, oracle):
    rng = np.random.default_rng(len(kind))
    data = stored_sparse(convolved(kind, rng), 1, Form((0, 1, 2, 3), "ddds"))
    x = rng.integers(-128, 128, (5, 1, 3, 3, 6)).astype("int8" if kind == "int8" else "float32")
    theirs = oracle.run(data, [x], flavour)[4]
    mine = build(read(data), "integer", flavour).batch(x)[0]
    assert np.array_equal(mine, theirs) if kind == "int8" else np.allclose(mine, theirs, rtol=1e-5, atol=1e-3)
    if kind == "int8":
        real = build(read(data), "float").batch((x.astype(np.float32) - 3) * 0.5)[0]
        assert np.abs(real - np.clip(theirs.astype(np.float32) + 5, -123, 132) * 0.25)[(theirs > -128) & (theirs < 127)].max() <= 0.126


@pytest.mark.parametrize("kind", ["float32", "float16"])
def test_sparse_float_weights_can_be_quantized(kind, oracle):
    rng = np.random.default_rng(7)
    model = read(stored_sparse(convolved(kind, rng), 1, Form((0, 1, 2, 3), "ddds")))
    made = quantize(model, {"x": (-8.0, 8.0), "y": (-3000.0, 3000.0)}, io="int8")
    assert [n.op for n in made.graph.nodes] == ["CONV_2D"]
    x = rng.integers(-128, 128, (5, 1, 3, 3, 6)).astype(np.int8)
    theirs = oracle.run(to_bytes(made), [x])[made.graph.outputs[0]]
    assert np.array_equal(build(read(to_bytes(made))).batch(x)[0], theirs)


def test_integer_kernels_do_not_take_sparse_weights_as_they_are():
    """LiteRT's XNNPACK reads the stored values as if they were dense."""
    w = holes(np.random.default_rng(5), (8, 32), "int8")
    tensors = (
        Tensor(0, "x", (1, 32), "int8", affine(0.5, 3)),
        Tensor(1, "w", w.shape, "int8", affine(0.01, 0), w),
        Tensor(2, "y", (1, 8), "int8", affine(0.25, -5)),
    )
    node = Node(0, "FULLY_CONNECTED", (0, 1, -1), (2,), Options(fused_activation_function="NONE"), 4)
    model = read(stored_sparse(Model((Graph(tensors, (node,), (0,), (2,)),)), 1, FORMS_2D[0]))
    with pytest.raises(Unsupported, match="no DENSIFY widens"):
        build(model, "integer")
    assert build(model, "float").batch(np.ones((1, 1, 32), np.float32))[0].shape == (1, 1, 8)


# files ---------------------------------------------------------------


def test_a_sparse_constant_is_written_as_it_is_stored():
    x = holes(np.random.default_rng(3), (4, 6), "float32")
    data = stored_sparse(dense("float32", x), 0, FORMS_2D[5])
    model = read(data)
    assert to_bytes(model) is model.source.data
    assert not records.diff(model.source.root, flat.read(to_bytes(model, "rebuild")))


def test_a_new_value_of_a_sparse_constant_is_a_dense_one():
    x = holes(np.random.default_rng(3), (4, 6), "float32")
    model = read(stored_sparse(dense("float32", x), 0, FORMS_2D[5]))
    graph = model.graph
    changed = model.but(graphs=(graph.but(tensors=(graph.tensors[0].but(data=x + 1), *graph.tensors[1:])),))
    again = read(to_bytes(changed))
    assert np.array_equal(again.graph.tensors[0].data, x + 1) and "sparsity" not in again.graph.tensors[0].raw


@pytest.mark.parametrize(
    "field, value",
    [
        ("segments", [1, 1, 2, 3, 4]), ("segments", [0, 2, 1, 3, 4]), ("segments", [0, 1, 2, 3]), ("segments", [0, 1, 2, 3, 9]),
        ("indices", [0, 1, 2, 6]), ("indices", [0, 1, 2, -1]), ("order", [0, 0]), ("order", [0, 2]), ("order", [0]), ("size", 3),
    ],
)  # fmt: skip
def test_unsound_sparsity_is_refused(field, value):
    x = np.zeros((4, 6), np.float32)
    x[[0, 1, 2, 3], [0, 1, 2, 5]] = 1
    values, record = encode(x, FORMS_2D[0])
    assert np.array_equal(densify(record, values.view(np.uint8), "float32", x.shape), x)
    sparse = record["dim_metadata"][1]
    if field == "order":
        record["traversal_order"] = np.array(value, "<i4")
    elif field == "size":
        record["dim_metadata"][0]["dense_size"] = value
    else:
        sparse[f"array_{field}"]["values"] = np.array(value, "<i4")
    with pytest.raises(Invalid, match="sparse constant"):
        densify(record, values.view(np.uint8), "float32", x.shape)


def test_few_bytes_cannot_ask_for_much_memory():
    values, record = encode(np.eye(2, dtype=np.float32), FORMS_2D[0])
    with pytest.raises(Invalid, match="too few values"):
        densify(record, values.view(np.uint8)[:7], "float32", (2, 2))
    with pytest.raises(TooLarge):
        densify(record, values.view(np.uint8), "float32", (1 << 16, 1 << 16))
    order = Record("SparsityParameters", {"traversal_order": np.arange(2, dtype="<i4"), "dim_metadata": []})
    with pytest.raises(BadModel):
        densify(order, values.view(np.uint8), "float32", (2, 2))
