"""Ops that run other graphs of the model: IF, WHILE and composites by their decomposition.

Each called graph is assembled as a program of its own, for the shapes and the constants it is called with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from .errors import Unsupported
from .graph import Graph, Model
from .op import Site

if TYPE_CHECKING:
    from .program import Params, Program

OPS: Mapping[str, Mapping[str, str]] = {  # op -> {role of a graph: the option with its index}
    "IF": {"then": "then_subgraph_index", "else": "else_subgraph_index"},
    "WHILE": {"condition": "cond_subgraph_index", "body": "body_subgraph_index"},
    "STABLEHLO_WHILE": {"condition": "cond_subgraph_index", "body": "body_subgraph_index"},
    "STABLEHLO_COMPOSITE": {"decomposition": "decomposition_subgraph_index"},
}
LOOPS = ("WHILE", "STABLEHLO_WHILE")


def graphs(model: Model, where: Site) -> dict[str, Graph]:
    """role -> the graph the op calls, its inputs as they are called: with the caller's shapes, and constants where `passed` says so.

    *Raises*: Unsupported where a graph takes or gives another number of tensors, or other types, than the op does.
    """
    found = {role: model.graphs[where.options[option]] for role, option in OPS[where.node.op].items()}
    return {role: _called(graph, where, role, passed(model, where)) for role, graph in found.items()}


def passed(model: Model, where: Site) -> tuple[int, ...]:
    """Operands (counted from the first that the graphs see) that become constants of the called graphs: those known on the host, in
    loops only where the body hands them on unchanged."""
    known = [p for p, v in enumerate(where.values[_skipped(where) :]) if v is not None]
    if where.node.op in LOOPS:
        body = model.graphs[where.options[OPS["WHILE"]["body"]]]
        known = [p for p in known if p < len(body.outputs) and body.outputs[p] == body.inputs[p]]
    return tuple(known)


def _skipped(where: Site) -> int:
    """Operands in front of those that the graphs see: the condition of IF."""
    return 1 if where.node.op == "IF" else 0


def _called(graph: Graph, where: Site, role: str, constant: tuple[int, ...]) -> Graph:
    skip, results = _skipped(where), 1 if role == "condition" else len(where.outputs)
    operands, values = where.inputs[skip:], where.values[skip:]
    if (len(graph.inputs), len(graph.outputs)) != (len(operands), results):
        raise Unsupported(
            f"its {role} graph has {len(graph.inputs)} inputs and {len(graph.outputs)} outputs",
            where=where.where, expected=f"{len(operands)} and {results}",
        )  # fmt: skip
    tensors = list(graph.tensors)
    if any(t.is_variable for t in tensors):
        raise Unsupported(f"its {role} graph keeps a variable tensor", where=where.where)
    for p, (t, operand) in enumerate(zip(graph.inputs, operands, strict=True)):
        if operand is None or operand.type != tensors[t].type:
            found = "nothing" if operand is None else operand.type
            raise Unsupported(f"its {role} graph takes {tensors[t].type} as input {p}", where=where.where, found=found)
        data = np.asarray(values[p]) if p in constant else None
        tensors[t] = tensors[t].but(shape=operand.shape, data=data)
    return graph.but(tensors=tuple(tensors), inputs=tuple(t for p, t in enumerate(graph.inputs) if p not in constant))


class Control:
    """One such op, ready to run."""

    def __init__(self, where: Site, programs: Mapping[str, Program], constant: tuple[int, ...]):
        self.where, self.op, self.programs = where.where, where.node.op, programs
        self.skipped = _skipped(where)
        self.live = tuple(p for p in range(len(where.inputs) - self.skipped) if p not in constant)
        self.hidden = {p + self.skipped: None for p in constant}

    @property
    def static(self) -> tuple:
        return tuple((role, p.static) for role, p in self.programs.items()), self.live

    def run(self, params: Mapping[str, Params], state: dict[str, Any], inputs: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """(outputs, the next state). Pure. *Raises*: Unsupported where branches or a loop's body change the shape of a tensor."""
        operands = [inputs[p + self.skipped] for p in self.live]
        if self.op == "IF":
            return self._branch(params, state, inputs[0], operands)
        if self.op in LOOPS:
            return self._loop(params, state, operands)
        return self._call("decomposition", params, state, operands)

    def _call(self, role: str, params: Mapping[str, Params], state: Any, operands: Sequence[Any]) -> Any:
        outputs, _, state = self.programs[role].run(params[role], state, operands)
        return tuple(map(jnp.asarray, outputs)), state

    def _branch(self, params: Any, state: Any, condition: Any, operands: Sequence[Any]) -> Any:
        def role(name: str) -> Any:
            return lambda held, xs: self._call(name, params, held, xs)

        shapes = [jax.eval_shape(role(name), state, operands) for name in ("then", "else")]
        self._same(shapes[0], shapes[1], "the branches give")
        return jax.lax.cond(jnp.reshape(condition, ()), role("then"), role("else"), state, operands)

    def _loop(self, params: Any, state: Any, operands: Sequence[Any]) -> Any:
        def goes_on(carried: Any) -> Any:
            return jnp.reshape(self._call("condition", params, carried[1], carried[0])[0][0], ())

        def body(carried: Any) -> Any:
            outputs, held = self._call("body", params, carried[1], carried[0])
            return tuple(outputs[p] for p in self.live), held

        start = tuple(map(jnp.asarray, operands)), jax.tree.map(jnp.asarray, state)
        self._same(jax.eval_shape(body, start), jax.eval_shape(lambda s: s, start), "the loop's body gives")
        carried, state = jax.lax.while_loop(goes_on, body, start)
        moved = dict(zip(self.live, carried, strict=True))
        kept = self.programs["body"].graph.outputs
        return tuple(moved[p] if p in moved else params["body"]["constants"][t] for p, t in enumerate(kept)), state

    def _same(self, one: Any, other: Any, what: str) -> None:
        shapes = [[(x.shape, x.dtype) for x in jax.tree.leaves(side)] for side in (one, other)]
        if shapes[0] != shapes[1]:
            a, b = next((a, b) for a, b in zip(*shapes, strict=True) if a != b)
            raise Unsupported(f"{what} tensors whose shape or type changes", where=self.where, found=a, expected=b)
