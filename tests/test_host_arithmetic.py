"""Shape arithmetic: ops whose inputs are all known before any data, against LiteRT; and indices that point outside."""

from __future__ import annotations

import numpy as np
import pytest

from qsim.errors import BadData, Invalid, OracleFailed, QsimError
from qsim.function import build
from qsim.graph import Graph, Model, Node, Options, QParams, Tensor
from qsim.ops import REGISTRY
from qsim.reader import read
from qsim.writer import to_bytes

i32, i64, f32 = np.int32, np.int64, np.float32
CASES = [
    ("RANGE", {}, [i32(2), i32(11), i32(3)]),
    ("RANGE", {}, [i32(5), i32(-4), i32(-2)]),
    ("RANGE", {}, [i64(0), i64(7), i64(1)]),
    ("RANGE", {}, [f32(0.1), f32(1.3), f32(0.1)]),
    ("RANGE", {}, [f32(3), f32(-2), f32(-0.7)]),
    ("BROADCAST_ARGS", {}, [np.array([2, 1, 3], i32), np.array([4, 1], i32)]),
    ("FILL", {}, [np.array([2, 3], i32), i32(7)]),
    ("RANK", {}, [np.zeros((2, 3, 4), f32)]),
    ("SPLIT", {"num_splits": 2}, [i32(0), np.arange(4, dtype=i32)]),
    ("SPLIT_V", {"num_splits": 2}, [np.arange(5, dtype=i32), np.array([2, -1], i32), i32(0)]),
    ("UNPACK", {"num": 3, "axis": 0}, [np.array([4, 5, 6], i32)]),
    ("SLICE", {}, [np.arange(6, dtype=i64), np.array([2], i32), np.array([-1], i32)]),
    ("CUMSUM", {"exclusive": True, "reverse": True}, [np.array([3, 1, 4, 1], i32), i32(0)]),
    ("SELECT_V2", {}, [np.array([True, False]), np.array([1, 2], i32), i32(9)]),
    ("REVERSE_V2", {}, [np.arange(5, dtype=i32), np.array([0], i32)]),
    ("TILE", {}, [np.array([[1, 2]], i32), np.array([2, 2], i32)]),
    ("ARG_MAX", {"output_type": "INT32"}, [np.array([1, 7, 7, 2], i32), i32(0)]),
    ("ONE_HOT", {"axis": -1}, [np.array([0, 2, 5], i32), i32(4), i32(3), i32(1)]),
]


def made(name: str, options: dict, values: list) -> Model:
    """A model of one op on constants."""
    arrays = [np.asarray(v) for v in values]
    found = REGISTRY[name].real(Options(options), *arrays)
    outs = [np.asarray(y) for y in (found if isinstance(found, tuple) else (found,))]
    tensors = [Tensor(i, f"x{i}", a.shape, str(a.dtype), None, a) for i, a in enumerate(arrays)]
    count = len(tensors)
    tensors += [Tensor(count + i, f"y{i}", y.shape, str(y.dtype)) for i, y in enumerate(outs)]
    outputs = tuple(range(count, len(tensors)))
    version = 1 if name in ("ONE_HOT", "RANGE", "RANK", "BROADCAST_ARGS", "CUMSUM") else REGISTRY[name].rule.versions.get("int8", 1)
    return Model((Graph(tuple(tensors), (Node(0, name, tuple(range(count)), outputs, Options(options), version),), (), outputs),))


@pytest.mark.parametrize("flavour", ["xnnpack", "reference", "builtin"])
@pytest.mark.parametrize("name, options, values", [pytest.param(*c, id=f"{c[0]}-{i}") for i, c in enumerate(CASES)])
def test_what_is_known_on_the_host_equals_litert(name, options, values, flavour, oracle):
    model = made(name, options, values)
    theirs = oracle.run(to_bytes(model), [], flavour)
    for t, mine in zip(model.graph.outputs, build(model, "integer", flavour)(), strict=True):
        assert mine.dtype == theirs[t].dtype and mine.shape == theirs[t].shape[1:] and mine.tobytes() == theirs[t].tobytes()


def gather(index: list[int], op: str = "GATHER", quantized: bool = True, computed: bool = False) -> Model:
    """GATHER of (4, 3) rows at constant indices, or at indices a TILE computes from constants."""
    q = QParams(np.array([0.5], f32), np.array([3]), -128, 127) if quantized else None
    kind, at = ("int8" if quantized else "float32"), np.array(index, i32)
    tensors = [
        Tensor(0, "x", (4, 3), kind, q),
        Tensor(1, "at", at.shape, "int32", None, at),
        Tensor(2, "y", (at.shape[0], 3), kind, q),
    ]
    nodes = [Node(0, op, (0, 1), (2,), Options({"axis": 0, "batch_dims": 0}))]
    if computed:
        tensors += [Tensor(3, "once", (1,), "int32", None, i32([1])), Tensor(4, "tiled", at.shape, "int32")]
        nodes = [Node(0, "TILE", (1, 3), (4,)), nodes[0].but(index=1, inputs=(0, 4))]
    return Model((Graph(tuple(tensors), tuple(nodes), (0,), (2,)),))


@pytest.mark.parametrize("index", [[0, 4], [-1, 2]])
def test_an_index_outside_is_an_error_with_its_place(index, oracle):
    for quantized in (True, False):
        model = gather(index, quantized=quantized)
        with pytest.raises(Invalid, match=r"GATHER.*outside axis 0 of size 4"):
            to_bytes(model)
        with pytest.raises(QsimError, match=r"op 1 GATHER.*outside axis 0 of size 4"):
            build(gather(index, quantized=quantized, computed=True))
    with pytest.raises(OracleFailed):
        oracle.run(to_bytes(gather(index, computed=True)), [np.zeros((1, 4, 3), np.int8)])
    with pytest.raises(BadData, match="outside axis 0"):
        REGISTRY["GATHER"].real(Options(axis=0), np.arange(4), np.array(index))
    assert read(to_bytes(gather([0, 3])))


BAD_PARTS = [
    ("SPLIT", {"num_splits": 2}, [i32(0), np.arange(5, dtype=i32)], [(2,), (2,)]),
    ("SPLIT_V", {"num_splits": 2}, [np.arange(5, dtype=i32), np.array([2, 2], i32), i32(0)], [(2,), (2,)]),
    ("SPLIT_V", {"num_splits": 2}, [np.arange(5, dtype=i32), np.array([7, -1], i32), i32(0)], [(7,), (0,)]),
    ("SLICE", {}, [np.arange(6, dtype=i32), np.array([2], i32), np.array([5], i32)], [(4,)]),
    ("SLICE", {}, [np.arange(6, dtype=i32), np.array([-2], i32), np.array([1], i32)], [(1,)]),
]


@pytest.mark.parametrize("name, options, values, shapes", [pytest.param(*c, id=f"{c[0]}-{i}") for i, c in enumerate(BAD_PARTS)])
def test_parts_that_do_not_fit_are_refused(name, options, values, shapes, oracle):
    arrays = [np.asarray(v) for v in values]
    tensors = [Tensor(i, f"x{i}", a.shape, str(a.dtype), None, a) for i, a in enumerate(arrays)]
    tensors += [Tensor(len(arrays) + i, f"y{i}", shape, "int32") for i, shape in enumerate(shapes)]
    outputs = tuple(range(len(arrays), len(tensors)))
    model = Model((Graph(tuple(tensors), (Node(0, name, tuple(range(len(arrays))), outputs, Options(options), 2),), (), outputs),))
    with pytest.raises(OracleFailed):
        oracle.run(to_bytes(model), [])
    with pytest.raises(Invalid, match=name):
        build(model)
