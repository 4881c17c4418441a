"""Which ops of a float model get quantized, and which of their tensors must share one (scale, zero point)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from . import lstm_quantizing
from .control import OPS as CONTROL_OPS
from .graph import Graph, Model, Node
from .op import Op, Rule
from .recipe import Schemes, schemes_of
from .scheme import INT8, Scheme
from .ties import Ties

Variable = tuple  # ("group", position), ("fixed", tensor) or ("constant", node, input position): what owns one (scale, zero point)
Use = tuple[int, str]  # (tensor, element type in which quantized ops see it)
Edge = tuple[int, int]  # (node, input position)
TARGETS = ("xnnpack", "reference")  # an op is quantized only where both have a kernel for the types it would get
LEFT = "its recipe leaves its activations float32"
CONSTANT = "its result does not depend on data"
NOT_REAL = "it carries no real values, or converts them"
UNUSED = "its integer kernel is not used: it stops or errs at some codes, or is not for quantized reals"
NO_WEIGHTS = "it has no weights"
NO_CONSTANTS = "it has no float32 constants to speak of"
HARMLESS = ("", LEFT, CONSTANT, NOT_REAL, NO_WEIGHTS, NO_CONSTANTS)  # reasons to stay float that cost nothing, or were asked for
AVERAGING = ("AVERAGE_POOL_2D", "RESIZE_BILINEAR")  # tied ops whose outputs need not span what they read: no cut in front of them
CLAMPS = ("NONE", "RELU", "RELU6", "RELU_N1_TO_1", "RELU_0_TO_1")


@dataclass(frozen=True, eq=False)
class Layout:
    """What `quantize` will do with each op and tensor of the primary graph; tensors by index.

    groups: computed tensors that must share one (scale, zero point): one estimation problem each, singletons included. types: the
    element type of each group. A tensor that ops of several activation types see is in a group of each.
    fixed: outputs whose parameters their op dictates, and what moves them on unchanged; in the type of their op they are in no group.
    kept_float: node index -> why it stays as it is. quantized: the other nodes, and the scheme of each. native: element type in which
    a quantized node gives a tensor.
    tied_constants: position in `groups` -> constants that share the group's parameters, so its range must hold their values.
    requantized: (node, input position) where a tensor of fixed parameters, or of another group, enters a group through a QUANTIZE.
    cuts: those of them where a tie was cut, and cutting it gave the tensor a group other than the op's.
    values: float32 tensors known without data: constants, and what the graph computes from constants alone.
    cells: cell state of a quantized LSTM (a group of its own, 16 bits, its scale a power of two) -> what |c| cannot leave.
    """

    groups: tuple[tuple[int, ...], ...]
    fixed: Mapping[int, tuple[float, int]]
    kept_float: Mapping[int, str]
    quantized: Mapping[int, Scheme] = field(default_factory=dict)
    types: tuple[str, ...] = ()
    native: Mapping[int, str] = field(default_factory=dict)
    tied_constants: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    requantized: frozenset[Edge] = frozenset()
    cuts: frozenset[Edge] = frozenset()
    values: Mapping[int, np.ndarray] = field(default_factory=dict)
    cells: Mapping[int, float] = field(default_factory=dict)

    @cached_property
    def group_of(self) -> dict[Use, int]:
        """(tensor index, element type) -> position in `groups`."""
        return {(t, kind): i for i, (group, kind) in enumerate(zip(self.groups, self.types, strict=True)) for t in group}

    @cached_property
    def grouped(self) -> dict[int, tuple[str, ...]]:
        """tensor index -> the types in which it is in a group."""
        found: dict[int, tuple[str, ...]] = {}
        for t, kind in self.group_of:
            found[t] = (*found.get(t, ()), kind)
        return found

    def owner_of(self, t: int, kind: str) -> Variable:
        """Who owns the parameters of a computed tensor where ops of an activation type see it."""
        group = self.group_of.get((t, kind))
        return ("fixed", t) if group is None else ("group", group)

    def is_cell(self, v: Variable) -> bool:
        """Whether an owner is the cell state of an LSTM."""
        return v[0] == "group" and self.groups[v[1]][0] in self.cells

    def kind(self, v: Variable) -> str:
        """The element type that an owner has parameters for."""
        if v[0] == "group":
            return self.types[v[1]]
        return self.native[v[1]] if v[0] == "fixed" else self.quantized[v[1]].activation


def layout(
    model: Model, scheme: Schemes = INT8, *, exclude: Mapping[int, str] | None = None, split: Iterable[Sequence[Any]] = ()
) -> Layout:
    """The layout of a model's primary graph under a scheme. exclude: node index -> reason, for nodes to keep as they are.

    Same-scale ties are the connected sets of the ops' rules. A dictated output (SOFTMAX 1/256) passes through ops that only move
    data; where it meets other tensors in a tie, it is requantized on that edge, since its own parameters would clip the others.
    split: (node, input position), more entries behind are not looked at: ties to cut. The tensor keeps parameters of its own, and a
    QUANTIZE takes it to those of the op. A pair that ties nothing (see `tied_edges`), or whose tensor stays tied to the op by another
    way, cuts nothing.
    """
    graph, values = model.graph, known_values(model.graph)
    schemes = {i: _runnable(graph, graph.nodes[i], s) for i, s in schemes_of(model, scheme).items()}
    kept = {n.index: why for n in graph.nodes if (why := (exclude or {}).get(n.index) or why_float(graph, n, values, schemes.get(n.index)))}
    kept.update(_lonely(graph, kept, values))
    nodes = [n for n in graph.nodes if n.index not in kept]
    quantized = {n.index: schemes[n.index] for n in nodes}
    native = {t: quantized[n.index].activation for n in nodes for t in _real_outputs(graph, n)}
    cells = {lstm_quantizing.cell(n): lstm_quantizing.cell_bound(n) for n in nodes if lstm_quantizing.parts(n)}
    plan = Layout((), _dictated(nodes, native), kept, quantized, native=native, values=values, cells=cells)
    return with_cuts(graph, plan, split)


def with_cuts(graph: Graph, plan: Layout, split: Iterable[Sequence[Any]]) -> Layout:
    """The layout with these ties cut and no others: its groups and what hangs on them anew, all else as it was decided."""
    nodes = [n for n in graph.nodes if n.index in plan.quantized]
    cuts = frozenset((int(e[0]), int(e[1])) for e in split) & frozenset(cuttable(nodes))
    groups, types = _groups(graph, nodes, plan, cuts)
    plan = replace(plan, groups=groups, types=types)
    apart = frozenset(e for e in cuts & frozenset(tied_edges(graph, plan)) if _is_apart(graph, plan, e))
    plan = replace(plan, cuts=apart, requantized=apart | _requantized(graph, nodes, plan))
    return replace(plan, tied_constants=_tied_constants(nodes, plan))


def tied_edges(graph: Graph, plan: Layout) -> list[Edge]:
    """Where a computed tensor, or a model input, enters an op that wants it in the parameters of its output: the ties that can be cut.

    Not those of ops that average: the range of their outputs would clip what they read.
    """
    edges = cuttable(graph.nodes[i] for i in sorted(plan.quantized))
    return [(i, p) for i, p in edges if (graph.nodes[i].inputs[p], plan.quantized[i].activation) in plan.group_of]


def cuttable(nodes: Iterable[Node]) -> Iterator[Edge]:
    """The inputs of nodes at which an op wants its output's parameters, and a QUANTIZE in front clips nothing that it needs."""
    from .ops import REGISTRY

    for n in nodes:
        if n.op in REGISTRY and tied(n) and n.op not in AVERAGING:
            yield from ((n.index, p) for p in record(n).rule.data_inputs(n))


def _is_apart(graph: Graph, plan: Layout, edge: Edge) -> bool:
    node, kind = graph.nodes[edge[0]], plan.quantized[edge[0]].activation
    return plan.owner_of(node.inputs[edge[1]], kind) != plan.owner_of(node.outputs[0], kind)


def _runnable(graph: Graph, node: Node, scheme: Scheme) -> Scheme:
    """The scheme, with 8-bit weights where LiteRT has no kernel for fewer bits, and the bias type that its kernel takes."""
    from .ops import REGISTRY

    op = REGISTRY.get(node.op)
    if op is None or scheme.activation == "float32" or scheme.is_simulated:
        return scheme
    weights = dict.fromkeys((scheme.weight, _plain_weight(scheme) if scheme.widen else scheme.weight))
    choices = [replace(scheme, weight=w, bias=b) for w in weights for b in (scheme.bias, "int32")]
    return next((s for s in choices if not _lacking(graph, node, op, s)), scheme)


def for_target(model: Model, schemes: Mapping[int, Scheme], target: str) -> tuple[dict[int, Scheme], dict[int, str]]:
    """(the schemes, with one weight scale where a target takes no more; node index -> why the target runs no such op at all)."""
    from .ops import REGISTRY
    from .targets import TARGETS as KNOWN
    from .targets import forbids

    if target in KNOWN and KNOWN[target].measured:  # the registry itself, which `layout` asks
        return dict(schemes), {}
    found, refused = dict(schemes), {}
    for i, scheme in schemes.items():
        node, op = model.graph.nodes[i], REGISTRY.get(model.graph.nodes[i].op)
        if op is None or scheme.weight == "float32" or (scheme.activation == "float32" and op.rule.weights is None):
            continue
        weighted = op.rule.weights is not None
        choices = [_runnable(model.graph, node, s) for s in (scheme, replace(scheme, per_channel=False))[: 1 + weighted]]
        facts = [(target_types(model.graph, node, op.rule, s), weighted and s.per_channel) for s in choices]
        version = max(op.rule.versions.get(scheme.activation, 1), node.version)
        reasons = [forbids(target, node.op, types, per_channel=many, version=version) for types, many in facts]
        if None in reasons:
            found[i] = choices[reasons.index(None)]
        else:
            refused[i] = str(reasons[0])
    return found, refused


def _plain_weight(scheme: Scheme) -> str:
    return "uint8" if scheme.activation == "uint8" else "int8"


def _lacking(graph: Graph, node: Node, op: Op, scheme: Scheme) -> list[str]:
    """The kernel flavours without a kernel for a node under a scheme, or with one that errs, as words behind "no int8 kernel in"."""
    types = target_types(graph, node, op.rule, scheme)
    defects = {f: next((k.defects.get(f, "") for k in op.kernels if k.serves(types, f)), None) for f in TARGETS}
    return [f + (f": {d}" if d else "") for f, d in defects.items() if d is None or d]


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


def why_float(graph: Graph, node: Node, values: Mapping[int, np.ndarray], scheme: Scheme | None) -> str | None:
    """Why a node stays as it is, in words, or None where it gets quantized."""
    from .ops import REGISTRY

    op = REGISTRY.get(node.op)
    if scheme is None or scheme.activation == "float32":
        return LEFT
    if node.outputs and all(t in values for t in node.outputs):
        return CONSTANT
    if node.op in CONTROL_OPS:
        return "it runs other graphs"
    if op is None:
        return f"{node.op} is not known"
    if op.rule.keep_float:
        return _why_kept(graph, node, op, scheme)
    own = lstm_quantizing.why_not(graph, node, values, scheme) if lstm_quantizing.parts(node) else _bad_activation(node)
    for why in (_not_real(graph, node, op.rule), _bad_constants(graph, node, op.rule, values), own):
        if why:
            return why
    lacking = [] if scheme.is_simulated else _lacking(graph, node, op, scheme)
    return f"no {scheme.activation} kernel in {' and '.join(lacking)}" if lacking else None


def _why_kept(graph: Graph, node: Node, op: Op, scheme: Scheme) -> str:
    """Of an op that is never quantized."""
    data = [graph.tensors[node.inputs[p]].type for p in op.rule.data_inputs(node)]
    if "float32" not in data or "float32" not in [graph.tensors[t].type for t in node.outputs]:
        return NOT_REAL
    return f"no {scheme.activation} kernel" if scheme.is_simulated or _lacking(graph, node, op, scheme) else UNUSED


def _not_real(graph: Graph, node: Node, rule: Rule) -> str | None:
    tensors = [graph.tensors[node.inputs[p]] for p in rule.data_inputs(node)] + [graph.tensors[t] for t in node.outputs[:1]]
    others = sorted({t.type for t in tensors if t.type != "float32"})
    if others:
        return f"it works on {', '.join(others)}"
    state = () if lstm_quantizing.parts(node) else (t for t in (*node.inputs, *node.outputs) if t >= 0)
    return "it keeps state" if any(graph.tensors[t].is_variable for t in state) else None


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
        own = {rule.weights: scheme.weight, rule.bias: scheme.bias}.get(p, graph.tensors[t].type)
        return lstm_quantizing.parts(node).get(p, own)

    outputs = (scheme.activation if graph.tensors[t].type == "float32" else graph.tensors[t].type for t in node.outputs)
    return tuple(stored(p, t) for p, t in enumerate(node.inputs)), tuple(outputs)


def _lonely(graph: Graph, kept: Mapping[int, str], values: Mapping[int, np.ndarray]) -> dict[int, str]:
    """Data movement with float ops on its borders and no quantized op that computes: quantizing it would only lose precision."""
    moving = [n for n in graph.nodes if n.index not in kept and tied(n)]
    ties = Ties()
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


def _dictated(nodes: Iterable[Node], native: Mapping[int, str]) -> dict[int, tuple[float, int]]:
    """Outputs with parameters that their op dictates, or that move such values on and nothing else."""
    fixed: dict[int, tuple[float, int]] = {}
    for n in nodes:
        rule, kind = record(n).rule, native.get(n.outputs[0], "")
        inputs = _read(n) if rule.tied else []
        moved = {fixed.get(t) if native.get(t) == kind else None for t in inputs}
        if kind in rule.fixed:
            fixed.update(dict.fromkeys(n.outputs, rule.fixed[kind]))
        elif len(moved) == 1 and None not in moved:
            fixed.update(dict.fromkeys(n.outputs, fixed[inputs[0]]))
    return fixed


def _groups(
    graph: Graph, nodes: Iterable[Node], plan: Layout, cuts: frozenset[Edge]
) -> tuple[tuple[tuple[int, ...], ...], tuple[str, ...]]:
    """Sets of tied tensors among the real ones that the nodes read and compute, and the type of each."""
    ties = Ties()
    for n in nodes:
        kind = plan.quantized[n.index].activation
        seen = [(p, n.inputs[p]) for p in record(n).rule.data_inputs(n)] + [(-1, t) for t in _real_outputs(graph, n)]
        inside = [(p, (t, kind)) for p, t in seen if t not in plan.values and not _is_dictated(plan, t, kind)]
        for _, use in inside:
            ties.add(use)
        if tied(n):
            ties.join([use for p, use in inside if (n.index, p) not in cuts])
        if lstm_quantizing.parts(n):
            ties.add((lstm_quantizing.cell(n), "int16"))
    found = ties.groups()
    return tuple(tuple(t for t, _ in group) for group in found), tuple(group[0][1] for group in found)


def _is_dictated(plan: Layout, t: int, kind: str) -> bool:
    return t in plan.fixed and plan.native[t] == kind


def _tied_constants(nodes: Iterable[Node], plan: Layout) -> dict[int, tuple[int, ...]]:
    found: dict[int, tuple[int, ...]] = {}
    for n in nodes:
        held = [t for t in _read(n) if t in plan.values]
        if tied(n) and held:
            g = plan.group_of[n.outputs[0], plan.quantized[n.index].activation]
            found[g] = tuple(dict.fromkeys((*found.get(g, ()), *held)))
    return found


def _requantized(graph: Graph, nodes: Iterable[Node], plan: Layout) -> frozenset[Edge]:
    """Inputs with dictated parameters, in the node's own type, of tied nodes whose outputs have other ones."""
    freed = [n for n in nodes if tied(n) and any(t not in plan.fixed for t in _real_outputs(graph, n))]
    own = {n.index: plan.quantized[n.index].activation for n in freed}
    return frozenset((n.index, p) for n in freed for p in record(n).rule.data_inputs(n) if _is_dictated(plan, n.inputs[p], own[n.index]))


def _read(node: Node) -> list[int]:
    return [node.inputs[p] for p in record(node).rule.data_inputs(node)]


def _real_outputs(graph: Graph, node: Node) -> list[int]:
    return [t for t in node.outputs if graph.tensors[t].type == "float32"]
