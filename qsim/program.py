"""One graph, assembled for a mode and a flavour: its steps in order, ready to run on JAX arrays, and their parameters."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from . import control
from .checks.indices import require_inside
from .checks.scales import require_affine
from .errors import QsimError, Unsupported
from .graph import Graph, Model, Node, QParams, Tensor
from .inference import host_values, real_options, sized, static_positions, stores_codes, takes_kernel
from .op import Op, Plan, Site, site
from .ops import REGISTRY
from .ops.bodies import BODIES, named
from .ops.unknown import why_missing
from .snap import dequantize, snap
from .state import OPS as STATE_OPS
from .state import handles, variables

jax.tree_util.register_dataclass(QParams, data_fields=["scale", "zero_point", "low", "high"], meta_fields=["axis"])

Params = dict[str, dict[Any, Any]]


@dataclass(frozen=True, eq=False)
class Step:
    """One op, ready to run: `call(leaves, *inputs)` on arrays; `host` are inputs known on the host, by position.

    static: what selects its code: two steps with equal ones can share a compile.
    control: for ops that run other graphs, in place of `call`.
    """

    node: Node
    call: Callable[..., Any]
    host: Mapping[int, Any]
    static: Any = None
    note: str = ""
    state: tuple[int, ...] = ()  # positions of variable tensors that it replaces
    inner: Mapping[str, int] = field(default_factory=dict)  # fake mode: values inside the op by name -> tensor with their parameters
    control: control.Control | None = None


class Program:
    """The steps of a graph, and where its variables lie. Holds no parameters; pure."""

    def __init__(self, graph: Graph, steps: Sequence[Step], mode: str):
        self.graph, self.steps, self.mode = graph, tuple(steps), mode
        self._handles, self._variables = handles(graph), variables(graph)

    @property
    def static(self) -> tuple:
        """What selects its code: equal for two programs of one graph that can share a compile."""
        return tuple((s.node.index, s.node.op, s.static) for s in self.steps)

    @property
    def reads(self) -> set[str]:
        """Names of the resource variables it reads, called graphs included."""
        own = {self._handles[s.node.inputs[0]] for s in self.steps if s.node.op == "READ_VARIABLE"}
        return own.union(*(p.reads for s in self.steps if s.control is not None for p in s.control.programs.values()))

    def run(
        self, params: Params, state: Mapping[str, Any], inputs: Sequence[Any]
    ) -> tuple[tuple[Any, ...], dict[int, Any], dict[str, Any]]:
        """(outputs, {tensor index: array} of all inputs and computed tensors, the next state)."""
        state, constants = dict(state), params["constants"]
        define = self._snapped(params) if self.mode == "fake" else lambda index, value: value
        env: dict[int, Any] = {t: define(t, x) for t, x in zip(self.graph.inputs, inputs, strict=True)}
        env |= {t: state[name] for t, name in self._variables.items()}
        for step in self.steps:
            node = step.node
            if node.op == "READ_VARIABLE":
                env[node.outputs[0]] = state[self._handles[node.inputs[0]]]
                continue
            if node.op == "ASSIGN_VARIABLE":
                state[self._handles[node.inputs[0]]] = _fetch(node.inputs[1], env, constants, define)
                continue
            ins = [_operand(step, p, t, env, constants, define) for p, t in enumerate(node.inputs)]
            if step.control is not None:
                outs, state = step.control.run(params["graphs"][node.index], state, ins)
            else:
                inner = {name: params["qparams"][t] for name, t in step.inner.items()}
                outs = step.call(inner or params.get("plans", {}).get(node.index, {}), *ins)
            outs = outs if isinstance(outs, tuple) else (outs,)
            for t, y in zip((*node.outputs, *(node.inputs[p] for p in step.state)), outs, strict=True):
                env[t] = define(t, y)
        state |= {name: env[t] for t, name in self._variables.items()}
        return tuple(_fetch(t, env, constants, define) for t in self.graph.outputs), env, state

    def _snapped(self, params: Params) -> Callable[[int, Any], Any]:
        qparams = params["qparams"]
        return lambda index, value: snap(value, qparams[index]) if index in qparams else value


def _operand(step: Step, position: int, t: int, env: Mapping[int, Any], constants: Mapping[int, Any], define: Callable) -> Any:
    if t < 0:
        return None
    if position in step.host:
        return step.host[position]
    return _fetch(t, env, constants, define)


def _fetch(t: int, env: Mapping[int, Any], constants: Mapping[int, Any], define: Callable) -> Any:
    return env[t] if t in env else define(t, constants[t])


# assembling -----------------------------------------------------------


def assemble(model: Model, graph: Graph, mode: str, flavour: str) -> tuple[Program, Params]:
    """A graph of the model as a program, and its parameters: {"constants", "plans" or "qparams", "graphs"}.

    *Raises*: Unsupported with every op that cannot run.
    """
    graph = resolved(model, graph)
    known = host_values(graph, flavour if mode == "integer" else "reference")
    steps: list[Step] = []
    params: Params = {"constants": {}, "plans" if mode == "integer" else "qparams": {}, "graphs": {}}
    faults: list[str] = []
    if mode == "integer" and any(t.is_simulated for t in graph.tensors):
        raise Unsupported("the model is simulated: no kernel computes with codes of so few bits", where=model.path, hint="Use fake mode")
    for node in graph.nodes:
        if node.outputs and all(t in known for t in node.outputs):
            continue
        where = site(graph, node, known)
        if node.op in STATE_OPS:
            steps += [Step(node, lambda *_: None, {})] if node.op in ("READ_VARIABLE", "ASSIGN_VARIABLE") else []
            if node.op == "ASSIGN_VARIABLE":
                _add_constants(params["constants"], steps[-1], Op(node.op, lambda *_: None), where, mode, False)
            continue
        op = REGISTRY.get(node.op)
        try:
            if node.op in control.OPS:
                step, params["graphs"][node.index] = _control_step(model, where, mode, flavour)
                op, plan = Op(node.op, lambda *_: None), None
            elif op is None:
                raise Unsupported(why_missing(node.op), where=where.where)
            else:
                require_inside(where)
                require_affine(where, op.blockwise)
                step, plan = _integer_step(op, where, flavour) if mode == "integer" else (_real_step(op, where, mode), None)
        except QsimError as fault:
            faults.append(str(fault))
            continue
        steps.append(step)
        if plan is not None:
            params["plans"][node.index] = dict(plan.leaves)
        _add_constants(params["constants"], step, op, where, mode, plan is not None)
    if faults:
        raise Unsupported(f"{len(faults)} op(s) cannot run in {mode} mode:\n  " + "\n  ".join(faults), where=model.path)
    for t in graph.outputs:
        if t in known or graph.tensors[t].is_constant:
            params["constants"][t] = stored_constant(graph.tensors[t], known.get(t, graph.tensors[t].data), mode)
    if mode == "fake":
        params["qparams"] = _fake_qparams(graph, params["constants"], steps)
    return Program(graph, steps, mode), params


def resolved(model: Model, graph: Graph) -> Graph:
    """The graph with what needs no data already done: open shapes (`sized`), results of DENSIFY as constants, bodies of reductions
    as options."""
    graph = sized(graph)
    values = {n.outputs[0]: graph.tensors[n.inputs[0]].data for n in graph.nodes if n.op == "DENSIFY"}
    values = {t: v for t, v in values.items() if v is not None}
    if not values and not any(n.op in BODIES for n in graph.nodes):
        return graph
    tensors = tuple(t.but(data=values[t.index]) if t.index in values else t for t in graph.tensors)
    kept = (n for n in graph.nodes if n.op != "DENSIFY" or n.outputs[0] not in values)
    return graph.but(tensors=tensors, nodes=tuple(named(model, n) if n.op in BODIES else n for n in kept))


def _control_step(model: Model, where: Site, mode: str, flavour: str) -> tuple[Step, dict[str, Params]]:
    programs, params = {}, {}
    for role, graph in control.graphs(model, where).items():
        try:
            programs[role], params[role] = assemble(model, graph, mode, flavour)
        except Unsupported as fault:
            raise Unsupported(f"its {role} graph: {fault.message}", where=where.where) from None
    found = control.Control(where, programs, control.passed(model, where))
    return Step(where.node, lambda *_: None, found.hidden, found.static, control=found), params


def _real_step(op: Op, where: Site, mode: str) -> Step:
    options = real_options(op, where)
    host = {p: where.values[p] for p in static_positions(op, where)}
    static, state = (op.real, options, _shapes(host)), op.rule.states(where.node)
    inner = op.fake(where) if mode == "fake" and op.fake is not None else None
    if inner is not None:
        return Step(where.node, lambda qs, *xs: inner.real(options, qs, *xs), host, static, state=state, inner=inner.tensors)
    return Step(where.node, lambda leaves, *xs: op.real(options, *xs), host, static, state=state)


def _integer_step(op: Op, where: Site, flavour: str) -> tuple[Step, Plan | None]:
    """A kernel, or the real function: see `takes_kernel`."""
    if not takes_kernel(op, where, flavour):
        return _real_step(op, where, "integer"), None
    if any(t is not None and t.raw is not None and "sparsity" in t.raw for t in where.inputs):
        raise Unsupported("sparse weights that no DENSIFY widens", where=where.where, hint="Float and fake mode work")
    kernel = op.kernel(where, flavour)
    plan = kernel.plan(where, flavour)
    options = where.options
    hidden = {p: None for p in (*static_positions(op, where), *op.rule.prepared) if p < len(where.inputs)}
    call = functools.partial(_run_kernel, kernel.run, options, plan.static)
    static = (kernel.run, options, plan.static, tuple(hidden))
    return Step(where.node, call, hidden, static, plan.note, op.rule.states(where.node)), plan  # type: ignore[arg-type]


def _run_kernel(run: Callable[..., Any], options: Any, static: Any, leaves: Any, *inputs: Any) -> Any:
    return run(options, static, leaves, *inputs)


def _shapes(host: Mapping[int, Any]) -> tuple:
    return tuple((p, np.asarray(v).tobytes()) for p, v in sorted(host.items()))


def _add_constants(constants: dict[int, Any], step: Step, op: Op, where: Site, mode: str, kernel: bool) -> None:
    for p, t in enumerate(where.inputs):
        if t is None or p in step.host or where.values[p] is None:
            continue
        if not (kernel and p in op.rule.prepared):
            constants[t.index] = stored_constant(t, where.values[p], mode)


def stored_constant(t: Tensor, value: Any, mode: str) -> np.ndarray:
    """A constant as the function carries it: real where it has parameters (not in integer mode), 64-bit integers in 32 bits."""
    value = np.asarray(value)
    if mode != "integer" and t.is_constant and t.blocks is not None:
        return t.blocks.dequantize(value)
    if mode != "integer" and t.is_constant and stores_codes(t):
        return dequantize(value, t.qparams)  # type: ignore[arg-type]
    if value.dtype in (np.int64, np.uint64):
        if value.size and (value.max() > 2**31 - 1 or value.min() < -(2**31)):
            raise Unsupported(f"constant {t.name!r} has values beyond 32 bits", found=int(np.abs(value).max()))
        return value.astype(np.int32)
    return value


def _fake_qparams(graph: Graph, constants: Mapping[int, Any], steps: Sequence[Step]) -> dict[int, QParams]:
    """Parameters of every tensor to snap: graph inputs, op outputs, values inside ops and the constants in use that have them."""
    defined = [*graph.inputs, *(t for s in steps for t in (*s.node.outputs, *s.inner.values())), *constants]
    return {t: _carried(q) for t in defined if (q := graph.tensors[t].qparams) is not None and stores_codes(graph.tensors[t])}


def _carried(q: QParams) -> QParams:
    """In 32 bits; of one scale the axis says nothing."""
    scale, zero = np.asarray(q.scale, np.float32), np.asarray(q.zero_point).astype(np.int32)
    low, high = (np.int32(np.clip(end, -(2**31), 2**31 - 1)) for end in (q.low, q.high))
    return QParams(scale, zero, low, high, q.axis if q.per_channel else 0)
