"""Schemes that change only how weights are stored: activations stay float32, and no ranges are needed."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import numpy as np

from .assembly import compact, moved_signature, new_name
from .blockwise import attached
from .errors import Unsupported
from .graph import Graph, Model, Node, Options, Tensor
from .layout import known_values
from .report import AS_IT_WAS, OpRow, Report, some
from .scheme import Scheme
from .storage import Storage, Stored, stored
from .weightchoice import Choice, Store, Values, choose

FLOAT = "float32"
NO_BLOCKS = "LiteRT's reference kernels (BUILTIN_REF) do not read scales by blocks: what they compute of this file is wrong"
PER_CHANNEL = 5  # version of a DEQUANTIZE that reads a scale per channel


def with_weights(graph: Graph, schemes: Mapping[int, Scheme]) -> tuple[Graph, Mapping[int, int], Mapping[int, OpRow]]:
    """The graph in which the weights of the nodes in `schemes` (node index -> weight-only Scheme) are stored as their scheme asks; old
    node index -> new node index; node index -> the report's row, with the reason where its weights (or some constants) stay as they
    are, or have more bits than asked.

    int8, int4: per output channel where the kernel takes that, max |w| / qmax for a step, codes from -qmax; with zero points where the
    scheme is not symmetric. float16: every float32 constant of more than one number. Tensors keep their indexes: a constant that nothing
    needs as float32 any more is stored anew in place, other forms are new tensors behind the old ones, made once each. What nothing reads
    any more stays, without a node (see `assembly.compact`). A node that only made a constant real for others is gone, and has no new
    index; new nodes (a DEQUANTIZE, an activation) are those that are no old one's.

    *Domain*: nodes on float32 data; others are among those that stay. *Differs*: TF's converter leaves weights of fewer than 1,024
    elements (`Scheme.smallest`), and writes integer weights wherever its flags say so; here LiteRT's kernels decide, in every flavour.
    """
    made, moved, found = _rewritten(graph, schemes)
    return made, moved, {i: _row(graph, graph.nodes[i], found[i]) for i in schemes}


def _rewritten(graph: Graph, schemes: Mapping[int, Scheme]) -> tuple[Graph, dict[int, int], dict[int, Choice | str]]:
    values = known_values(graph)

    @functools.cache
    def store(t: int, how: Storage) -> Stored:
        return stored(values[t], how)

    found = {i: choose(graph, graph.nodes[i], scheme, values, store) for i, scheme in sorted(schemes.items())}
    choices = {i: c for i, c in found.items() if isinstance(c, Choice)}
    return *_Rewrite(graph, choices, values, store).build(), found


def is_weight_only(scheme: Scheme) -> bool:
    """Whether activations stay real and weights do not."""
    return scheme.activation == FLOAT and scheme.weight != FLOAT


def store_weights(model: Model, scheme: Scheme) -> Model:
    """The model with the weights of every op stored under one weight-only scheme; `.report` lists what stayed, of the primary graph.

    All graphs are treated alike: they may share constants, which would else be in the file in both forms.
    *Raises*: Unsupported for a scheme of integer activations, and where no op of the primary graph can store its weights so.
    """
    if not is_weight_only(scheme):
        raise Unsupported(f"scheme {scheme.name!r} is not weight-only", hint="It needs ranges: `qsim.quantize`")
    made = [_rewritten(g, {n.index: scheme for n in g.nodes}) for g in model.graphs]
    rows = tuple(_row(model.graph, n, made[0][2][n.index]) for n in model.graph.nodes)
    if all(row.stored == AS_IT_WAS for row in rows):
        reasons = some([f"op {row.index} {row.op}: {row.reason}" for row in rows])
        raise Unsupported(f"no op can store its weights as {scheme.name} asks", where=model.path, found=reasons)
    graphs, moved = zip(*(compact(found[0], g) for found, g in zip(made, model.graphs, strict=True)), strict=True)
    signatures = tuple(moved_signature(s, moved[s.get("graph", 0)]) for s in model.signatures)
    notes = (NO_BLOCKS,) if any(t.blocks is not None for g in graphs for t in g.tensors) else ()
    return model.but(graphs=graphs, signatures=signatures, report=Report(scheme.name, FLOAT, rows, (), notes=notes))


def _row(graph: Graph, node: Node, found: Choice | str) -> OpRow:
    output = graph.key(node.outputs[0]) if node.outputs else ""
    if isinstance(found, Choice):
        kinds = dict.fromkeys(how.kind for how in found.stored.values() if how.kind != FLOAT)
        return OpRow(node.index, node.op, output, f"{FLOAT} x {' and '.join(kinds)}", found.refused)
    return OpRow(node.index, node.op, output, AS_IT_WAS, found)


class _Rewrite:
    """Builds the new tensors and nodes. `forms`: (tensor, storage) -> index of that constant as stored, (tensor, storage, "real") -> index
    of its reals behind a DEQUANTIZE."""

    def __init__(self, graph: Graph, choices: Mapping[int, Choice], values: Values, store: Store):
        self.graph, self.choices, self.values, self.store = graph, choices, values, store
        self.tensors: list[Tensor] = list(graph.tensors)
        self.names = {t.name for t in graph.tensors}
        self.front: list[Node] = []  # what makes constants real
        self.body: list[Node] = []
        self.forms: dict[tuple, int] = {}
        self.in_place: set[int] = set()
        self.float_uses = set(graph.outputs) | {
            t for n in graph.nodes for p, t in enumerate(n.inputs) if n.index not in choices or p not in choices[n.index].stored
        }

    def build(self) -> tuple[Graph, dict[int, int]]:
        for node in self.graph.nodes:
            choice = self.choices.get(node.index)
            self.body.extend([node] if choice is None else self._changed(choice))
        nodes = self._alive([*self.front, *self.body])
        moved = {n.index: i for i, n in enumerate(nodes) if n.index >= 0}
        graph = self.graph.but(tensors=tuple(self.tensors), nodes=tuple(n.but(index=i) for i, n in enumerate(nodes)))
        return graph, moved

    def _changed(self, choice: Choice) -> list[Node]:
        node, inputs = choice.node, list(choice.node.inputs)
        for p, how in choice.stored.items():
            inputs[p] = (self._real if choice.behind else self._constant)(node.inputs[p], how)
        node = node.but(inputs=tuple(inputs))
        if not choice.then:
            return [node]
        (out,) = node.outputs
        first = self.tensors[inputs[min(choice.stored)]]
        codes = {"type": first.type, "qparams": first.qparams} if choice.then == "DEQUANTIZE" else {"type": FLOAT}
        between = self._append(self.graph.tensors[out], first.type if choice.then == "DEQUANTIZE" else "sum", **codes)
        return [node.but(outputs=(between,)), self._node(choice.then, between, out)]

    def _real(self, t: int, how: Storage) -> int:
        """Index of constant t behind a DEQUANTIZE of its stored form."""
        if (t, how, "real") not in self.forms:
            source = self._constant(t, how)
            self.forms[t, how, "real"] = self._append(self.graph.tensors[t], FLOAT, type=FLOAT)
            self.front.append(self._node("DEQUANTIZE", source, self.forms[t, how, "real"]))
        return self.forms[t, how, "real"]

    def _constant(self, t: int, how: Storage) -> int:
        """Index of constant t as stored: in place for its first form unless something still reads the floats, else a new tensor."""
        if (t, how) not in self.forms:
            fields = self.store(t, how)._asdict()
            if t in self.float_uses or t in self.in_place:
                at = self._append(self.graph.tensors[t], how.kind, **fields)
            else:
                at, self.tensors[t] = t, self.tensors[t].but(buffer=0, **fields)
                self.in_place.add(t)
            self.forms[t, how] = at
            if how.block:
                self._with_scales(at)
        return self.forms[t, how]

    def _with_scales(self, at: int) -> None:
        """The tensor's scales by blocks as a tensor of their own, to which it refers."""
        scale = self.tensors[at].blocks.scale.astype(np.float16)  # type: ignore[union-attr]
        scales = Tensor(len(self.tensors), new_name(self.names, self.tensors[at].name, "scales"), scale.shape, "float16", data=scale)
        self.tensors.append(scales)
        self.tensors[at] = attached(self.tensors[at], scales.index)

    def _append(self, like: Tensor, suffix: str, **fields) -> int:
        made = Tensor(
            len(self.tensors), new_name(self.names, like.name, suffix), like.shape, shape_signature=like.shape_signature, **fields
        )
        self.tensors.append(made)
        return made.index

    def _node(self, op: str, source: int, target: int) -> Node:
        from .ops import REGISTRY

        versions, x = REGISTRY[op].rule.versions, self.tensors[source]
        version = versions[x.type]
        if x.qparams is not None and x.qparams.per_channel:
            version = max(version, PER_CHANNEL)
        return Node(-1, op, (source,), (target,), Options(), version)

    def _alive(self, nodes: list[Node]) -> list[Node]:
        """The nodes without those whose result became a constant, and without those that only fed what is a constant now."""
        used, kept = set(self.graph.outputs), []
        for node in reversed(nodes):
            gone = node.outputs and set(node.outputs) <= self.in_place
            idle = node.outputs and all(t in self.values and t in self.graph.consumers and t not in used for t in node.outputs)
            if not (gone or idle):
                used.update(node.inputs)
                kept.append(node)
        return kept[::-1]
