"""Which ops of a float model get quantized, and which of their tensors must share one (scale, zero point)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from .control import OPS as CONTROL_OPS
from .graph import Graph, Model, Node
from .op import Op, Rule
from .scheme import INT8, Scheme

TARGETS = ("xnnpack", "reference")  # an op is quantized only where both have a kernel for the types it would get
CLAMPS = ("NONE", "RELU", "RELU6", "RELU_N1_TO_1", "RELU_0_TO_1")


@dataclass(frozen=True, eq=False)
class Layout:
    """What `quantize` will do with each op and tensor of the primary graph; tensors by index.

    groups: computed tensors that must share one (scale, zero point): one estimation problem each, singletons included.
    fixed: outputs whose parameters their op dictates, and what moves them on unchanged; they are in no group.
    kept_float: node index -> why it stays as it is. quantized: the other nodes.
    tied_constants: position in `groups` -> constants that share the group's parameters, so its range must hold their values.
    requantized: (node, input position) where a tensor of fixed parameters enters a group through a QUANTIZE.
    values: float32 tensors known without data: constants, and what the graph computes from constants alone.
    """

    groups: tuple[tuple[int, ...], ...]
    fixed: Mapping[int, tuple[float, int]]
    kept_float: Mapping[int, str]
    quantized: frozenset[int] = frozenset()
    tied_constants: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    requantized: frozenset[tuple[int, int]] = frozenset()
    values: Mapping[int, np.ndarray] = field(default_factory=dict)

    @cached_property
    def group_of(self) -> dict[int, int]:
        """tensor index -> position in `groups`."""
        return {t: i for i, group in enumerate(self.groups) for t in group}


def layout(model: Model, scheme: Scheme = INT8, *, exclude: Mapping[int, str] | None = None) -> Layout:
    """The layout of a model's primary graph under a scheme. exclude: node index -> reason, for nodes to keep as they are.

    Same-scale ties are the connected sets of the ops' rules. A dictated output (SOFTMAX 1/256) passes through ops that only move
    data; where it meets other tensors in a tie, it is requantized on that edge, since its own parameters would clip the others.
    """
    graph, values = model.graph, known_values(model.graph)
    kept = {n.index: why for n in graph.nodes if (why := (exclude or {}).get(n.index) or why_float(graph, n, values, scheme))}
    kept.update(_lonely(graph, kept, values))
    nodes = [n for n in graph.nodes if n.index not in kept]
    fixed = _dictated(graph, nodes, values, scheme)
    groups = _groups(graph, nodes, set(fixed) | set(values))
    quantized = frozenset(n.index for n in nodes)
    return Layout(groups, fixed, kept, quantized, _tied_constants(nodes, groups, values), _requantized(graph, nodes, fixed), values)


def record(node: Node) -> Op:
    """The op record of a node that is known to have one."""
    from .ops import REGISTRY

    return REGISTRY[node.op]


def tied(node: Node) -> bool:
    return record(node).rule.tied


def known_values(graph: Graph) -> dict[int, np.ndarray]:
    """float32 tensors whose values need no data: constants, widened float16 constants, and what the graph computes from constants."""
    from .inference import host_values

    known = {t.index: t.data for t in graph.tensors if t.type == "float32" and t.data is not None}
    for node in graph.nodes:
        half = graph.tensors[node.inputs[0]] if node.op == "DEQUANTIZE" else None
        if half is not None and half.type == "float16" and half.data is not None:
            known[node.outputs[0]] = half.data.astype(np.float32)
    computed = host_values(graph)
    return known | {t: np.asarray(v) for t, v in computed.items() if graph.tensors[t].type == "float32"}


# ---------------------------------------------------------------- which ops


def why_float(graph: Graph, node: Node, values: Mapping[int, np.ndarray], scheme: Scheme) -> str | None:
    """Why a node stays as it is, in words, or None where it gets quantized."""
    from .ops import REGISTRY

    op = REGISTRY.get(node.op)
    if node.outputs and all(t in values for t in node.outputs):
        return "its result does not depend on data"
    if node.op in CONTROL_OPS:
        return "it runs other graphs"
    if op is None:
        return f"{node.op} is not known"
    if op.rule.keep_float:
        return "it carries no real values, or converts them"
    for why in (_not_real(graph, node, op.rule), _bad_constants(graph, node, op.rule, values), _bad_activation(node)):
        if why:
            return why
    types = target_types(graph, node, op.rule, scheme)
    lacking = [f for f in TARGETS if not any(k.serves(types, f) for k in op.kernels)]
    return f"no {scheme.activation} kernel in {' and '.join(lacking)}" if lacking else None


def _not_real(graph: Graph, node: Node, rule: Rule) -> str | None:
    tensors = [graph.tensors[node.inputs[p]] for p in rule.data_inputs(node)] + [graph.tensors[t] for t in node.outputs[:1]]
    others = sorted({t.type for t in tensors if t.type != "float32"})
    if others:
        return f"it works on {', '.join(others)}"
    return "it keeps state" if any(graph.tensors[t].is_variable for t in (*node.inputs, *node.outputs) if t >= 0) else None


def _bad_constants(graph: Graph, node: Node, rule: Rule, values: Mapping[int, np.ndarray]) -> str | None:
    for name, p in (("weights", rule.weights), ("bias", rule.bias)):
        if p is not None and p < len(node.inputs) and node.inputs[p] >= 0 and node.inputs[p] not in values:
            return f"its {name} are computed, not constant"
    inputs = [t for t in node.inputs if t >= 0]
    if inputs and all(t in values or graph.tensors[t].is_constant for t in inputs):
        return "all its inputs are constants"
    if any(t in values and not np.isfinite(values[t]).all() for t in inputs):
        return "a constant of it is NaN or infinite"
    return None


def _bad_activation(node: Node) -> str | None:
    name = node.options.get("fused_activation_function", "NONE")
    if name not in CLAMPS or (node.op == "CONCATENATION" and name != "NONE"):
        return f"fused activation {name} has no integer kernel"
    return None


def target_types(graph: Graph, node: Node, rule: Rule, scheme: Scheme) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Element types of a node's inputs ("" where absent) and outputs once it is quantized under a scheme."""
    data = rule.data_inputs(node)

    def stored(p: int, t: int) -> str:
        if t < 0:
            return ""
        if p in data:
            return scheme.activation
        return {rule.weights: scheme.weight, rule.bias: scheme.bias}.get(p, graph.tensors[t].type)

    outputs = (scheme.activation if graph.tensors[t].type == "float32" else graph.tensors[t].type for t in node.outputs)
    return tuple(stored(p, t) for p, t in enumerate(node.inputs)), tuple(outputs)


def _lonely(graph: Graph, kept: Mapping[int, str], values: Mapping[int, np.ndarray]) -> dict[int, str]:
    """Data movement with float ops on its borders and no quantized op that computes: quantizing it would only lose precision."""
    moving = [n for n in graph.nodes if n.index not in kept and tied(n)]
    ties = _Ties()
    for n in moving:
        held = [t for t in (*n.outputs, *_read(n)) if t not in values]
        for t in held:
            ties.add(t)
        ties.join(held)
    lonely = {}
    for group in ties.groups():
        here = {n.index for n in moving if n.outputs[0] in group}
        border = {n for t in group for n in _neighbours(graph, t)} - here
        if border and all(n in kept for n in border):
            lonely.update(dict.fromkeys(here, "it moves data between float ops"))
    return lonely


def _neighbours(graph: Graph, tensor: int) -> Iterator[int]:
    """Nodes that compute a tensor or read its values (not only its shape)."""
    from .ops import REGISTRY

    if tensor in graph.producer:
        yield graph.producer[tensor]
    for index, position in graph.consumers.get(tensor, ()):
        op = REGISTRY.get(graph.nodes[index].op)
        if op is None or position in op.rule.data_inputs(graph.nodes[index]):
            yield index


# ---------------------------------------------------------------- which tensors together


def _dictated(graph: Graph, nodes: Iterable[Node], values: Mapping[int, np.ndarray], scheme: Scheme) -> dict[int, tuple[float, int]]:
    """Outputs with parameters that their op dictates, or that move such values on and nothing else."""
    fixed: dict[int, tuple[float, int]] = {}
    for n in nodes:
        rule = record(n).rule
        if scheme.activation in rule.fixed:
            fixed.update(dict.fromkeys(n.outputs, rule.fixed[scheme.activation]))
        elif rule.tied:
            inputs = _read(n)
            found = {fixed.get(t) for t in inputs}
            if len(found) == 1 and None not in found:
                fixed.update(dict.fromkeys(n.outputs, fixed[inputs[0]]))
    return fixed


def _groups(graph: Graph, nodes: Iterable[Node], settled: set[int]) -> tuple[tuple[int, ...], ...]:
    """Sets of tied tensors among the real ones that the nodes read and compute. settled: tensors that belong to no group."""
    ties = _Ties()
    for n in nodes:
        inside = [t for t in (*_read(n), *_real_outputs(graph, n)) if t not in settled]
        for t in inside:
            ties.add(t)
        if tied(n):
            ties.join(inside)
    return ties.groups()


def _tied_constants(nodes: Iterable[Node], groups: Iterable[tuple[int, ...]], values: Mapping[int, Any]) -> dict[int, tuple[int, ...]]:
    group_of = {t: i for i, group in enumerate(groups) for t in group}
    found: dict[int, tuple[int, ...]] = {}
    for n in nodes:
        held = [t for t in _read(n) if t in values]
        if tied(n) and held:
            g = group_of[n.outputs[0]]
            found[g] = tuple(dict.fromkeys((*found.get(g, ()), *held)))
    return found


def _requantized(graph: Graph, nodes: Iterable[Node], fixed: Mapping[int, Any]) -> frozenset[tuple[int, int]]:
    """Inputs with dictated parameters of tied nodes whose outputs have other ones."""
    freed = [n for n in nodes if tied(n) and any(t not in fixed for t in _real_outputs(graph, n))]
    return frozenset((n.index, p) for n in freed for p in record(n).rule.data_inputs(n) if n.inputs[p] in fixed)


def _read(node: Node) -> list[int]:
    return [node.inputs[p] for p in record(node).rule.data_inputs(node)]


def _real_outputs(graph: Graph, node: Node) -> list[int]:
    return [t for t in node.outputs if graph.tensors[t].type == "float32"]


class _Ties:
    """Union-find over tensor indexes; groups come out in the order in which their first member was added."""

    def __init__(self) -> None:
        self.parent: dict[int, int] = {}

    def add(self, t: int) -> None:
        self.parent.setdefault(t, t)

    def root(self, t: int) -> int:
        while self.parent[t] != t:
            self.parent[t] = t = self.parent[self.parent[t]]
        return t

    def join(self, tensors: Iterable[int]) -> None:
        roots = [self.root(t) for t in tensors]
        for r in roots[1:]:
            self.parent[self.root(r)] = self.root(roots[0])

    def groups(self) -> tuple[tuple[int, ...], ...]:
        found: dict[int, list[int]] = {}
        for t in self.parent:
            found.setdefault(self.root(t), []).append(t)
        return tuple(tuple(g) for g in found.values())
