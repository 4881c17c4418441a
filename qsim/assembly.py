"""A layout and its parameters -> the quantized graph: tensors retyped in place, constants rewritten per role, conversions inserted.

A tensor keeps its index and name in the form in which it comes into being: codes of its op's scheme inside, the model's input and
output type at the border. Every other form is a new tensor behind a QUANTIZE or DEQUANTIZE, made once and shared by its readers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from . import lstm_quantizing
from .blockwise import renumbered
from .graph import Graph, Model, Node, Options, QParams, Tensor
from .layout import TARGETS, Layout, record
from .limits import OUTPUT
from .scheme import affine
from .solve import Solution, data_position, largest_input, owner
from .types import TYPES, code_range
from .weights import quantize_bias, quantize_constant, quantize_weights, weight_scales, weight_zero_point

Channels = Mapping[tuple[int, str], QParams | None]  # (tensor, type) -> parameters by channel
FLOAT = "float32"
SHAPE_READERS = ("SHAPE", "RANK")  # they take any type, so they read whatever form there is
NEED_BIAS = ("CONV_2D", "DEPTHWISE_CONV_2D")  # their integer kernels do not accept an absent bias


class Assembly:
    """Builds the new tensors and nodes of one graph. `forms`: (tensor, form) -> index; a form is "float32" or its type and QParams.

    io: types of the model's inputs and of its outputs. channels: parameters that a tensor has in place of its owner's; None: it is
    real.
    """

    def __init__(self, graph: Graph, plan: Layout, solution: Solution, io: tuple[str, str], channels: Channels | None = None):
        self.graph, self.plan, self.solution, self.io = graph, plan, solution, io
        self.channels: Channels = channels or {}
        self.tensors: list[Tensor] = list(graph.tensors)
        self.names = {t.name for t in graph.tensors}
        self.nodes: list[Node] = []
        self.forms: dict[tuple[int, Any], int] = {}
        self.native: dict[int, int] = {}  # tensor -> index of the form in which it comes into being
        self.became_constant: set[int] = set()
        self.float_uses = set(_float_uses(graph, plan))

    def build(self) -> Graph:
        """The quantized graph; tensors that nothing reads any more are still in it (see `compact`)."""
        for t in self.graph.inputs:
            self._border(t)
        for node in self.graph.nodes:
            self.nodes.append(self._quantized(node) if node.index in self.plan.quantized else self._plain(node))
        outputs = tuple(self._output(t) for t in self.graph.outputs)
        nodes = [n for n in self.nodes if not (n.outputs and set(n.outputs) <= self.became_constant)]
        return self.graph.but(tensors=tuple(self.tensors), nodes=_numbered(_alive(self.graph, nodes, outputs)), outputs=outputs)

    # forms of computed tensors

    def _border(self, t: int) -> None:
        """A model input that quantized ops read gets the wanted type, in place."""
        self.native[t] = t
        seen, kind = self.plan.grouped.get(t, ()), self.io[0]
        if not seen or kind == FLOAT:
            self.forms[t, FLOAT] = t
            return
        like = kind if kind in seen else seen[0]
        q = as_type(self._own(t, like), like, kind)
        self.tensors[t] = self.tensors[t].but(type=kind, qparams=q)
        self.forms[t, (kind, q)] = t

    def _own(self, t: int, kind: str) -> QParams:
        return self.solution.parameters[self.plan.owner_of(t, kind)]

    def stored(self, t: int, kind: str, q: QParams) -> int:
        """Index of tensor t as codes of a type with parameters q."""
        form = (kind, q)
        if (t, form) not in self.forms:
            source = self.native[t] if _converts(self.tensors[self.native[t]].type, kind) else self.real(t)
            self.forms[t, form] = self._convert("QUANTIZE", source, self._new(t, *form))
        return self.forms[t, form]

    def real(self, t: int) -> int:
        """Index of tensor t as float32."""
        if (t, FLOAT) not in self.forms:
            at = t if t in self.graph.outputs and self.io[1] == FLOAT and t not in self.graph.inputs else self._new(t, FLOAT, None)
            self.forms[t, FLOAT] = self._convert("DEQUANTIZE", self.native[t], at)
        return self.forms[t, FLOAT]

    def _new(self, t: int, kind: str, q: QParams | None) -> int:
        old = self.graph.tensors[t]
        kind, q = self._as_seen(t, kind, q)
        made = Tensor(len(self.tensors), new_name(self.names, old.name, kind), old.shape, kind, q, shape_signature=old.shape_signature)
        self.tensors.append(made)
        return made.index

    def _as_seen(self, t: int, kind: str, q: QParams | None) -> tuple[str, QParams | None]:
        """(type, parameters) of a form of tensor t."""
        q = self.channels.get((t, kind), q)
        return (FLOAT, None) if q is None else (kind, q)

    def _convert(self, op: str, source: int, target: int) -> int:
        from .ops import REGISTRY

        versions = REGISTRY[op].rule.versions
        version = max(versions.get(self.tensors[t].type, 1) for t in (source, target))
        self.nodes.append(Node(-1, op, (source,), (target,), Options(), version))
        return target

    # nodes

    def _plain(self, node: Node) -> Node:
        """A node that stays as it is reads floats where it read floats; what it computes is float."""
        inputs = tuple(self._plain_input(node, t) for t in node.inputs)
        for t in set(node.outputs) - set(self.plan.values):
            self.forms[t, FLOAT] = self.native[t] = t
        return node if inputs == node.inputs else node.but(inputs=inputs)

    def _plain_input(self, node: Node, t: int) -> int:
        if not self._has_codes(t):
            return t
        return self.native[t] if node.op in SHAPE_READERS else self.real(t)

    def _has_codes(self, t: int) -> bool:
        return t in self.plan.grouped or t in self.plan.fixed

    def _kind(self, node: Node) -> str:
        return self.plan.quantized[node.index].activation

    def _quantized(self, node: Node) -> Node:
        rule = record(node).rule
        inputs = list(node.inputs)
        for p in rule.data_inputs(node):
            inputs[p] = self._data(node, p)
        if rule.weights is not None:
            self._weights(node, inputs)
        if lstm_quantizing.parts(node):
            node = self._recurrent(node, inputs)
        outputs = tuple(self._result(t) for t in node.outputs)
        version = max(rule.versions.get(self._kind(node), node.version), node.version)
        by_powers = node.op in ("ADD", "SUB") and self._kind(node) == "int16"  # another kernel runs where all scales are powers of two
        options = node.options.but(pot_scale_int16=False) if by_powers else node.options
        return node.but(inputs=tuple(inputs), outputs=outputs, version=version, options=options)

    def _data(self, node: Node, position: int) -> int:
        t = node.inputs[position]
        q = self.solution.parameters[owner(self.plan, node, position)]
        if t not in self.plan.values:
            return self.stored(t, self._kind(node), q)
        return self.constant(t, quantize_constant(self.plan.values[t], q, self._kind(node)), self._kind(node), q)

    def _result(self, t: int) -> int:
        """Where a quantized node writes tensor t: in place, unless the model's output shows it in another type."""
        if self.graph.tensors[t].type != FLOAT:
            return t
        kind = self.plan.native[t]
        q = self._own(t, kind)
        at = self._new(t, kind, q) if t in self.graph.outputs and self.io[1] != kind else t
        shown, parameters = self._as_seen(t, kind, q)
        self.tensors[at] = self.tensors[at].but(type=shown, qparams=parameters)
        self.forms[t, (kind, q)] = self.native[t] = at
        return at

    def _output(self, t: int) -> int:
        if t in self.graph.inputs or not self._has_codes(t) or t not in self.graph.producer:
            return t
        wanted, kind = self.io[1], self.plan.native.get(t)
        if kind is None or kind == wanted:
            return t
        if wanted == FLOAT:
            return self.real(t)
        q = as_type(self._own(t, kind), kind, wanted)
        source = self.native[t] if _converts(kind, wanted) else self.real(t)
        self.tensors[t] = self.tensors[t].but(type=wanted, qparams=q)
        return self._convert("QUANTIZE", source, t)

    # constants

    def _weights(self, node: Node, inputs: list[int]) -> None:
        """Weights and bias of a sum of products, as codes; an absent bias becomes zeros where the kernels want one."""
        rule, found = record(node).rule, self.solution.surveys[node.index]
        axis, wp, bp = rule.weight_axis or 0, rule.weights or 0, rule.bias
        x, scheme = self.solution.parameters[owner(self.plan, node, data_position(node))], self.plan.quantized[node.index]
        scale, zero = np.float32(x.scale[0]), int(x.zero_point[0])
        scales = weight_scales(found, float(scale), largest_input(float(scale), zero, scheme.activation), scheme)
        w, w_zero = self.plan.values[node.inputs[wp]], weight_zero_point(found, scales, scheme)
        codes, q = quantize_weights(w, scales, axis, scheme.weight, scheme.rounding, w_zero)
        inputs[wp] = self.constant(node.inputs[wp], codes, scheme.weight, q)
        if bp is None:
            return
        if bp < len(inputs) and inputs[bp] >= 0:
            codes, q = quantize_bias(self.plan.values[node.inputs[bp]], scale, scales, scheme.bias)
            inputs[bp] = self.constant(node.inputs[bp], codes, scheme.bias, q)
        elif node.op in NEED_BIAS:
            codes, q = quantize_bias(np.zeros(len(found.bias)), scale, scales, scheme.bias)
            inputs[bp:] = [self._append(new_name(self.names, self.graph.tensors[node.outputs[0]].name, "bias"), codes, scheme.bias, q)]

    def _recurrent(self, node: Node, inputs: list[int]) -> Node:
        """Constants and states of an integer LSTM; the node with the tensors that hold the parameters of what is inside."""
        x, y = (self.solution.parameters[owner(self.plan, node, p)] for p in (0, OUTPUT))
        cell = self._own(lstm_quantizing.cell(node), "int16")
        found = lstm_quantizing.operands(node, self.plan.values, self.plan.quantized[node.index], x, y, cell)
        for p, (codes, kind, q) in found.constants.items():
            inputs[p] = self.constant(node.inputs[p], codes, kind, q)
        for p, (kind, state) in found.states.items():
            self.tensors[node.inputs[p]] = self.tensors[node.inputs[p]].but(type=kind, qparams=state)
        first, stem = len(self.tensors), self.graph.tensors[node.outputs[0]].name
        for kind, inner in found.intermediates:
            self.tensors.append(Tensor(len(self.tensors), new_name(self.names, stem, "intermediate"), (0,), kind, inner))
        return node.but(intermediates=tuple(range(first, len(self.tensors))))

    def constant(self, t: int, codes: np.ndarray, kind: str, q: QParams) -> int:
        """Index of constant t as codes: in place for its first role unless something still reads the float values, else a copy."""
        if (t, (kind, q)) in self.forms:
            return self.forms[t, (kind, q)]
        if t not in self.became_constant and t not in self.float_uses:
            at, self.tensors[t] = t, _constant(self.tensors[t], codes, kind, q)
            self.became_constant.add(t)
        else:
            at = self._append(new_name(self.names, self.graph.tensors[t].name, kind), codes, kind, q, self.graph.tensors[t])
        self.forms[t, (kind, q)] = at
        return at

    def _append(self, name: str, codes: np.ndarray, kind: str, q: QParams, like: Tensor | None = None) -> int:
        shape = codes.shape if like is None else like.shape
        self.tensors.append(_constant(Tensor(len(self.tensors), name, shape, kind), codes, kind, q))
        return len(self.tensors) - 1


def new_name(names: set[str], stem: str, suffix: str) -> str:
    """stem_suffix, with a number behind where that is taken; it is added to the names."""
    name = base = f"{stem}_{suffix}"
    count = 1
    while name in names:
        count += 1
        name = f"{base}_{count}"
    names.add(name)
    return name


def _constant(t: Tensor, codes: np.ndarray, kind: str, q: QParams) -> Tensor:
    codes = np.ascontiguousarray(codes).reshape(t.shape)
    codes.setflags(write=False)
    return t.but(type=kind, qparams=q, data=codes, buffer=0)


def as_type(q: QParams, old: str, new: str) -> QParams:
    """The same real values as codes of another type. Equal width: the zero point moves with the lowest code; else the same range."""
    (before, _), (low, high) = code_range(old), code_range(new)
    if TYPES[old].bits == TYPES[new].bits:
        return QParams(q.scale, np.asarray(q.zero_point, np.int64) - before + low, low, high, q.axis)
    least, most = (float(end[0]) for end in q.real_range())
    scale, zero = affine(least, most, new, symmetric=new == "int16")
    return QParams(np.asarray([scale]), np.asarray([zero], np.int64), low, high)


def _converts(old: str, new: str) -> bool:
    """Whether LiteRT's QUANTIZE goes from a type to another."""
    from .ops import REGISTRY

    return all(any(k.serves(((old,), (new,)), f) for k in REGISTRY["QUANTIZE"].kernels) for f in TARGETS)


def _float_uses(graph: Graph, plan: Layout) -> Iterator[int]:
    """Tensors known without data that something still needs as floats."""
    yield from (t for t in graph.outputs if t in plan.values)
    for node in graph.nodes:
        rule = record(node).rule if node.index in plan.quantized else None
        taken = () if rule is None else (*rule.data_inputs(node), rule.weights, rule.bias, *lstm_quantizing.parts(node))
        yield from (t for p, t in enumerate(node.inputs) if t in plan.values and p not in taken)
        if len(node.outputs) > 1:
            yield from (t for t in node.outputs if t in plan.values)


def _alive(before: Graph, nodes: Sequence[Node], outputs: Sequence[int]) -> list[Node]:
    """The nodes without those that only fed what is now a constant. Nodes that were idle before stay."""
    used, kept = set(outputs), []
    for node in reversed(nodes):
        was_used = any(t in before.consumers or t in before.outputs for t in node.outputs)
        if was_used and not used.intersection(node.outputs):
            continue
        used.update(node.inputs)
        kept.append(node)
    return kept[::-1]


def _numbered(nodes: Sequence[Node]) -> tuple[Node, ...]:
    return tuple(n.but(index=i) for i, n in enumerate(nodes))


def compact(graph: Graph, before: Graph) -> tuple[Graph, dict[int, int]]:
    """The graph without tensors that `before` used and nothing uses any more, renumbered; and old index -> new index."""
    lost = _referenced(before) - _referenced(graph)
    kept = [t for t in graph.tensors if t.index not in lost]
    new = {t.index: i for i, t in enumerate(kept)}
    tensors = tuple(t.but(index=i) for i, t in enumerate(kept))
    nodes = tuple(
        n.but(inputs=_moved(n.inputs, new), outputs=_moved(n.outputs, new), intermediates=_moved(n.intermediates, new)) for n in graph.nodes
    )
    made = graph.but(tensors=tensors, nodes=nodes, inputs=_moved(graph.inputs, new), outputs=_moved(graph.outputs, new))
    return renumbered(made, new), new


def moved_signature(signature: Mapping[str, Any], new: Mapping[int, int]) -> Mapping[str, Any]:
    """A signature with the new indexes of its tensors."""
    return {**signature, **{side: {name: new[t] for name, t in signature[side].items()} for side in ("inputs", "outputs")}}


def moved_signatures(model: Model, new: Mapping[int, int]) -> tuple[Mapping[str, Any], ...]:
    """The signatures of a model whose primary graph has new indexes."""
    return tuple(s if s.get("graph", 0) else moved_signature(s, new) for s in model.signatures)


def _referenced(graph: Graph) -> set[int]:
    found = {*graph.inputs, *graph.outputs}
    for n in graph.nodes:
        found.update(n.inputs, n.outputs, n.intermediates)
    return found - {-1}


def _moved(indexes: Sequence[int], new: Mapping[int, int]) -> tuple[int, ...]:
    return tuple(i if i < 0 else new[i] for i in indexes)
