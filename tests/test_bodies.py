"""STABLEHLO_REDUCE_WINDOW and STABLEHLO_SCATTER, whose functions are subgraphs, against LiteRT."""

from __future__ import annotations

import numpy as np
import pytest

from qsim.errors import Unsupported
from qsim.function import build
from qsim.graph import Graph, Model, Node, Options, QParams, Tensor
from qsim.reader import read
from qsim.types import code_range
from qsim.writer import to_bytes

FLAVOURS = ("xnnpack", "reference", "builtin")
KINDS = ("float32", "int8", "uint8", "int16", "int32")


def body(op: str, kind: str) -> Graph:
    """A subgraph of one op on two scalars; of none for "UPDATE"."""
    tensors = tuple(Tensor(n, f"b{n}", (), kind) for n in range(3))
    options = Options(fused_activation_function="NONE") if op in ("ADD", "MUL") else Options()
    return Graph(tensors, () if op == "UPDATE" else (Node(0, op, (0, 1), (2,), options),), (0, 1), (1 if op == "UPDATE" else 2,))


def model(op: str, inside: str, options: dict, inputs: list, shape: tuple, kind: str) -> Model:
    """One op whose function is `inside`; arrays among the inputs are constants, shapes are live data of the kind."""
    q = None if kind in ("float32", "int32") else QParams(np.array([0.5], np.float32), np.array([0]), *code_range(kind))
    tensors = [
        Tensor(n, f"x{n}", x.shape, str(x.dtype), None, x) if isinstance(x, np.ndarray) else Tensor(n, f"x{n}", x, kind, q)
        for n, x in enumerate(inputs)
    ]
    live = tuple(t.index for t in tensors if t.data is None)
    tensors.append(Tensor(len(inputs), "y", shape, kind, q))
    main = Graph(tuple(tensors), (Node(0, op, tuple(range(len(inputs))), (len(inputs),), Options(options)),), live, (len(inputs),))
    return Model((main, body(inside, kind)))


def compared(oracle, made: Model, kind: str, record_property) -> None:
    data, elements = to_bytes(made), 0
    again = read(data)
    for draw in range(6):
        rng = np.random.default_rng(draw)
        low, high = (-4, 5) if kind == "float32" else (-100, 101) if kind == "int32" else (code_range(kind)[0], code_range(kind)[1] + 1)
        xs = [rng.integers(low, high, (6, *made.graph.tensors[t].shape)).astype(kind) for t in made.graph.inputs]
        flavour = FLAVOURS[draw % 3]
        theirs = oracle.run(data, xs, flavour)[made.graph.outputs[0]]
        mine = build(again, "integer", flavour).batch(*xs)[0]
        assert (mine.shape, mine.dtype) == (theirs.shape, theirs.dtype)
        assert mine.tobytes() == theirs.tobytes() or (kind == "float32" and np.array_equal(mine, theirs))
        elements += mine.size
    record_property("draws", 6)
    record_property("elements", elements)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("inside", ["STABLEHLO_ADD", "STABLEHLO_MULTIPLY", "MAXIMUM", "STABLEHLO_MINIMUM", "ADD", "MUL"])
def test_windows_equal_litert(inside, kind, oracle, record_property):
    cases = (
        ((5, 6), (2, 3), (1, 2), (1, 1), (1, 1), (0, 0, 0, 0), (4, 2)),
        ((4, 5), (2, 2), (1, 1), (2, 1), (1, 2), (1, 0, -1, 2), (7, 4)),
    )
    shape, window, strides, base, gaps, padding, out = cases[len(inside) % 2]
    options = {
        "window_dimensions": window, "window_strides": strides, "base_dilations": base, "window_dilations": gaps, "padding": padding,
        "body_subgraph_index": 1,
    }  # fmt: skip
    compared(oracle, model("STABLEHLO_REDUCE_WINDOW", inside, options, [shape, ()], out, kind), kind, record_property)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("inside", ["UPDATE", "STABLEHLO_ADD", "STABLEHLO_MULTIPLY", "STABLEHLO_MAXIMUM", "STABLEHLO_MINIMUM"])
def test_scatters_equal_litert(inside, kind, oracle, record_property):
    rows = np.array([[1], [4], [1], [9]], np.int32), (4, 3), (1,), (0,), (0,), 1
    points = np.array([[0, 2, -1], [3, 1, 0]], np.int64), (3,), (), (0, 1), (0, 1), 0
    boxes = np.array([[3, 1], [0, 0], [4, 2]], np.int32), (3, 2, 2), (1, 2), (), (1, 0), 1
    index, updates, windows, inserted, targets, axis = (rows, points, boxes)[(len(inside) + len(kind)) % 3]
    options = {
        "indices_are_sorted": False, "update_window_dims": windows, "inserted_window_dims": inserted,
        "scatter_dims_to_operand_dims": targets,
        "index_vector_dim": axis, "unique_indices": False, "update_computation_subgraph_index": 1,
    }  # fmt: skip
    shape = (5, 3) if index is rows[0] else (4, 4)
    compared(oracle, model("STABLEHLO_SCATTER", inside, options, [shape, index, updates], shape, kind), kind, record_property)


def test_other_bodies_are_refused():
    made = model(
        "STABLEHLO_SCATTER", "SUB", {"update_computation_subgraph_index": 1}, [(3,), np.zeros((1, 1), np.int32), (1,)], (3,), "float32"
    )
    with pytest.raises(Unsupported, match="a body that LiteRT does not take; found SUB"):
        build(made)
