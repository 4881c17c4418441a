"""Ops that run other graphs (IF, WHILE, composites) beside LiteRT, and the choice of a graph by its signature."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qsim
from qsim.errors import BadRange, Unsupported
from qsim.function import build
from qsim.graph import Graph, Model, Node, Options, QParams, Tensor
from qsim.isolate import alone
from qsim.op import FLAVOURS
from qsim.reader import read
from qsim.writer import to_bytes

pytestmark = pytest.mark.exact

RNG = np.random.default_rng(7)
X = RNG.integers(-128, 128, (12, 1, 5)).astype(np.int8)
ADD = Options(fused_activation_function="NONE", pot_scale_int16=False)


def q(scale: float, zero: int) -> QParams:
    return QParams(np.float32([scale]), np.int64([zero]), -128, 127)


def t(index, name, kind="int8", params=None, shape=(1, 5), data=None) -> Tensor:
    return Tensor(index, name, shape, kind, qparams=params, data=data)


def codes(index, name, scale=0.05, zero=3, data=None) -> Tensor:
    return t(index, name, params=q(scale, zero), data=data)


def binary(op: str, options=ADD) -> Graph:
    """int8 op of two operands: x and one that the caller hands over."""
    tensors = codes(0, "x"), codes(1, "w"), codes(2, "y", 0.07, -4)
    return Graph(tensors, (Node(0, op, (0, 1), (2,), options),), (0, 1), (2,), name=op)


def branching(constant: bool) -> Model:
    """y = x + w if the condition holds, else x * w; w a constant of the caller, or an input."""
    w = codes(2, "w", data=X[3] if constant else None)
    tensors = t(0, "condition", "bool", shape=()), codes(1, "x"), w, codes(3, "y", 0.07, -4)
    node = Node(0, "IF", (0, 1, 2), (3,), Options(then_subgraph_index=1, else_subgraph_index=2))
    main = Graph(tensors, (node,), (0, 1) if constant else (0, 1, 2), (3,), name="main")
    return read(to_bytes(Model((main, binary("ADD"), binary("MUL", Options(fused_activation_function="NONE"))))))


def looping(grows: bool = False) -> Model:
    """while i < n: i, x = i + 1, x + w; n and w are handed on unchanged, w is a constant."""
    count = lambda i, name, data=None: t(i, name, "int32", shape=(), data=data)  # noqa: E731
    own = count(0, "i"), codes(1, "x"), codes(2, "w"), count(3, "n")
    start = count(0, "i", np.int32(0)), codes(1, "x"), codes(2, "w", data=X[3] // 2), count(3, "n")
    after = count(4, "last"), codes(5, "y"), codes(6, "w'"), count(7, "n'")
    loop = Node(0, "WHILE", (0, 1, 2, 3), (4, 5, 6, 7), Options(cond_subgraph_index=1, body_subgraph_index=2))
    main = Graph((*start, *after), (loop,), (1, 3), (5, 4), name="main")
    less = Graph((*own, t(4, "go", "bool", shape=())), (Node(0, "LESS", (0, 3), (4,), Options()),), (0, 1, 2, 3), (4,), name="condition")
    one, nxt, y = count(4, "one", np.int32(1)), count(5, "i + 1"), codes(6, "x + w")
    nodes = [Node(0, "ADD", (0, 4), (5,), ADD), Node(1, "ADD", (1, 2), (6,), ADD)]
    if grows:
        y = y.but(shape=(1, 10))
        nodes[1] = Node(1, "CONCATENATION", (1, 2), (6,), Options(axis=1, fused_activation_function="NONE"))
    body = Graph((*own, one, nxt, y), tuple(nodes), (0, 1, 2, 3), (5, 6, 2, 3), name="body")
    return read(to_bytes(Model((main, less, body))))


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("constant", [True, False])
def test_a_branch_runs_the_graph_that_litert_runs(oracle, flavour, constant):
    model = branching(constant)
    condition = RNG.integers(0, 2, 12).astype(bool)
    inputs = [condition, X] if constant else [condition, X, X[::-1].copy()]
    (y,) = build(model, "integer", flavour).batch(*inputs)
    assert condition.any() and not condition.all()
    assert np.array_equal(y, oracle.run(to_bytes(model), inputs, flavour)[3])


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_a_loop_ends_where_litert_ends(oracle, flavour):
    model, n = looping(), np.arange(12, dtype=np.int32)
    y, last = build(model, "integer", flavour).batch(X, n)
    theirs = oracle.run(to_bytes(model), [X, n], flavour)
    assert np.array_equal(y, theirs[5]) and np.array_equal(last, theirs[4]) and np.array_equal(last, n)


def test_float_and_fake_modes_run_the_same_graphs():
    x = ((X.astype(np.float32) - 3) * np.float32(0.05)).astype(np.float32)
    for model, inputs in ((looping(), (x, np.full(12, 3, np.int32))), (branching(True), (np.arange(12) % 2 == 0, x))):
        codes_in = [X if a is x else a for a in inputs]
        out = model.graph.tensors[model.graph.outputs[0]].qparams
        integers = build(model, "integer").batch(*codes_in)[0]
        reals = (integers.astype(np.float64) - out.zero_point[0]) * np.float64(out.scale[0])
        assert np.abs(build(model, "fake").batch(*inputs)[0] - reals).max() <= 1.01 * out.scale[0]
        assert build(model, "float").batch(*inputs)[0].dtype == np.float32


def test_gradients_pass_through_branches():
    fn = build(branching(True), "fake")
    grad = jax.grad(lambda x: jnp.sum(fn.apply(fn.params, np.bool_(True), x)[0]))(np.full((1, 5), 0.1, np.float32))
    assert np.array_equal(grad, np.ones((1, 5)))


def test_a_loop_whose_tensors_grow_is_refused_by_name():
    fn = build(looping(grows=True), "integer")
    with pytest.raises(Unsupported, match=r"op 0 WHILE .*shape or type changes"):
        fn.batch(X, np.ones(12, np.int32))


def test_what_a_called_graph_lacks_is_told_with_the_caller():
    model = branching(True)
    bad = model.graphs[1].but(nodes=(model.graphs[1].nodes[0].but(op="CUSTOM:mystery", options=Options()),))
    with pytest.raises(Unsupported, match=r"op 0 IF .*its then graph(.|\n)*mystery is not known"):
        build(model.but(graphs=(model.graph, bad, model.graphs[2])), "integer")


def test_an_op_alone_keeps_the_graphs_it_runs(oracle):
    model = branching(False)
    one = alone(model, 0)
    inputs = [np.ones(12, bool), X, X]
    assert np.array_equal(one.function("integer").batch(*inputs)[0], model.function("integer").batch(*inputs)[0])


def test_explain_names_the_graphs_that_run():
    assert "then 1, else 2" in qsim.explain(branching(True)).plans[0].rule


def two_signatures() -> Model:
    graphs = binary("ADD"), binary("MUL", Options(fused_activation_function="NONE"))
    names = {"inputs": {"x": 0, "w": 1}, "outputs": {"y": 2}}
    return read(to_bytes(Model(graphs, signatures=({"key": "add", "graph": 0, **names}, {"key": "multiply", "graph": 1, **names}))))


def test_a_signature_chooses_the_graph(oracle):
    model = two_signatures()
    inputs = [X, X[::-1].copy()]
    for key, number, op in (("add", 0, "ADD"), ("multiply", 1, "MUL")):
        chosen = model.select(key)
        assert chosen.graph.nodes[0].op == op and chosen.signatures[number]["graph"] == 0
        again = read(to_bytes(chosen))
        assert [s["graph"] for s in again.signatures] == [s["graph"] for s in chosen.signatures]
        assert np.array_equal(chosen.function("integer").batch(*inputs)[0], oracle.run(to_bytes(chosen), inputs)[2])
        assert model.select(number).graph.nodes[0].op == op
    with pytest.raises(BadRange, match="'divide'.*add.*multiply"):
        model.select("divide")


def test_calls_follow_a_graph_that_moves():
    chosen = branching(True).select(2)
    (node,) = chosen.graphs[2].nodes
    assert (node.op, node.options.then_subgraph_index, node.options.else_subgraph_index) == ("IF", 1, 0)
    assert chosen.select(2).graph.nodes[0].options.else_subgraph_index == 2
