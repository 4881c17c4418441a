"""Ops whose results have no fixed shape or are random: evaluated where they are constant, else a clear refusal. BITCAST."""

from __future__ import annotations

import numpy as np
import pytest

from qsim.certificate import certify
from qsim.errors import Unsupported
from qsim.function import build
from qsim.graph import Graph, Model, Node, Options, Tensor
from qsim.reader import read
from qsim.writer import to_bytes


def one(op: str, x: np.ndarray, outputs: list, options: dict | None = None, constant: bool = True) -> Model:
    """A model of one op of one input; constants are followed by an op on live data, which XNNPACK asks for."""
    tensors = [Tensor(0, "x", x.shape, str(x.dtype), None, x if constant else None)]
    tensors += [Tensor(1 + n, f"y{n}", shape, kind) for n, (kind, shape) in enumerate(outputs)]
    made = tuple(range(1, len(tensors)))
    node = Node(0, op, (0,), made, Options(options or {}))
    return Model((Graph(tuple(tensors), (node,), () if constant else (0,), made),))


@pytest.mark.parametrize("kind", ["bool", "float32", "int32", "int64", "int8", "uint8"])
def test_where_of_a_constant(kind, oracle):
    x = np.array([[[1, 0, 3], [0, 0, 1]], [[0, 0, 0], [0, 2, 0]]]).astype(kind)
    model = one("WHERE", x, [("int64", (4, 3))])
    theirs = oracle.run(to_bytes(model), [], "reference")[1][0]
    mine = build(read(to_bytes(model)))()[0]
    assert mine.dtype == theirs.dtype and np.array_equal(mine, theirs)


@pytest.mark.parametrize("kind", ["float32", "int32", "int64", "int8"])
@pytest.mark.parametrize("index", ["int32", "int64"])
def test_unique_of_a_constant(kind, index, oracle):
    x = np.array([3, 1, 3, 2, 1, 7, 3]).astype(kind)
    model = one("UNIQUE", x, [(kind, (4,)), (index, (7,))], {"idx_out_type": index.upper()})
    theirs = oracle.run(to_bytes(model), [], "reference")
    for n, mine in enumerate(build(read(to_bytes(model)))()):
        assert mine.dtype == theirs[n + 1].dtype and np.array_equal(mine, theirs[n + 1][0])


@pytest.mark.parametrize("op, outputs", [("WHERE", [("int64", (2, 1))]), ("UNIQUE", [("float32", (2,)), ("int32", (3,))])])
def test_of_live_data_they_are_refused(op, outputs):
    with pytest.raises(Unsupported, match="depends on data, but it fixes a shape"):
        build(one(op, np.ones(3, np.float32), outputs, constant=False))


@pytest.mark.parametrize(
    "op, words", [("RANDOM_UNIFORM", "random"), ("MULTINOMIAL", "random"), ("HASHTABLE_FIND", "hash"), ("STABLEHLO_CASE", "subgraph")]
)
def test_what_is_missing_is_explained(op, words):
    with pytest.raises(Unsupported, match=f"{op} is not known: .*{words}"):
        build(one(op, np.ones(3, np.float32), [("float32", (3,))], constant=False))


@pytest.mark.parametrize("flavour", ["xnnpack", "reference", "builtin"])
@pytest.mark.parametrize(
    "source, target, shape",
    [
        ("int32", "float32", (2, 4)), ("float32", "int32", (2, 4)), ("int32", "int16", (2, 4, 2)), ("float32", "uint8", (2, 4, 4)),
        ("int16", "int32", (2,)), ("uint8", "int16", (2, 2)), ("int8", "uint8", (2, 4)),
    ],
)  # fmt: skip
def test_bitcast_equals_litert(source, target, shape, flavour, oracle):
    size = (
        (2, 4)
        if source.endswith("32") or np.dtype(source).itemsize == np.dtype(target).itemsize
        else (2, 2, 2)
        if source == "uint8"
        else (2, 2)
    )
    rng = np.random.default_rng(len(source))
    count = int(np.prod(size)) * np.dtype(source).itemsize
    x = rng.integers(0, 127, (3, count)).astype(np.uint8).view(source).reshape(3, *size)
    model = one("BITCAST", x[0], [(target, shape)], constant=False)
    theirs = oracle.run(to_bytes(model), [x], flavour)[1]
    mine = build(read(to_bytes(model)), "integer", flavour).batch(x)[0]
    assert mine.dtype == theirs.dtype and mine.tobytes() == theirs.tobytes()


def test_open_shapes_follow_from_the_input(oracle):
    """A converter's guess of an open size is not LiteRT's: SHAPE -> STRIDED_SLICE -> PACK -> RESHAPE of a (1, 6) into rows of two."""
    tensors = (
        Tensor(0, "x", (1, 6), "float32"), Tensor(1, "shape", (2,), "int32"),
        Tensor(2, "one", (1,), "int32", None, np.array([1], np.int32)),
        Tensor(3, "two", (1,), "int32", None, np.array([2], np.int32)), Tensor(4, "size", (), "int32"),
        Tensor(5, "half", (), "int32", None, np.array(2, np.int32)), Tensor(6, "count", (), "int32"), Tensor(7, "wanted", (2,), "int32"),
        Tensor(8, "rows", (1, 1), "float32", shape_signature=(-1, -1)), Tensor(9, "y", (1, 1), "float32", shape_signature=(-1, -1)),
    )  # fmt: skip
    masks = dict.fromkeys(("begin_mask", "end_mask", "ellipsis_mask", "new_axis_mask"), 0) | {"shrink_axis_mask": 1}
    nodes = (
        Node(0, "SHAPE", (0,), (1,), Options({"out_type": "INT32"})),
        Node(1, "STRIDED_SLICE", (1, 2, 3, 2), (4,), Options(masks)),
        Node(2, "FLOOR_DIV", (4, 5), (6,)),
        Node(3, "PACK", (6, 5), (7,), Options({"values_count": 2, "axis": 0})),
        Node(4, "RESHAPE", (0, 7), (8,)),
        Node(5, "ABS", (8,), (9,)),
    )
    model = Model((Graph(tensors, nodes, (0,), (9,)),))
    x = np.array([[[-1, 2, -3, 4, 5, -6]]], np.float32)
    theirs = oracle.run(to_bytes(model), [x], "reference")[9]
    for mode in ("float", "fake", "integer"):
        mine = build(read(to_bytes(model)), mode).batch(x)[0]
        assert mine.shape == theirs.shape == (1, 3, 2) and np.array_equal(mine, theirs)
    assert certify(model, flavours=("reference",), samples=2).exact
