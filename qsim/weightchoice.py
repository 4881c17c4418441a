"""Which constants of an op are stored how under a weight-only scheme, or why they stay as they are: the kernels of the registry decide."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from .control import OPS as CONTROL_OPS
from .errors import QsimError
from .graph import Graph, Node
from .layout import NO_CONSTANTS, NO_WEIGHTS, record
from .op import FLAVOURS, Op, Site, site
from .scheme import Scheme
from .storage import Storage, Stored, why_not

Values = Mapping[int, np.ndarray]  # of float32 tensors that need no data
Store = Callable[[int, Storage], Stored]
BLOCK_FLAVOURS = ("xnnpack", "builtin")  # LiteRT's reference kernel does not read scales by blocks
APART = ("RELU", "RELU6", "RELU_N1_TO_1")  # activations that are ops of their own as well


class Choice(NamedTuple):
    """What becomes of a node.

    node: with the options and version that go with its new weights. stored: input position -> how that constant is stored. behind:
    whether a DEQUANTIZE gives the node its reals back. then: the op that makes the node's result from what the node gives now: a
    DEQUANTIZE of codes, or an activation that the node's kernel leaves out. refused: why other constants of it stay as they are, or its
    weights have more bits than asked.
    """

    node: Node
    stored: Mapping[int, Storage]
    behind: bool = False
    then: str = ""
    refused: str = ""


def choose(graph: Graph, node: Node, scheme: Scheme, values: Values, store: Store) -> Choice | str:
    """The choice for a node, or why its weights stay as they are, in words. store: a constant's (tensor, storage) -> as stored."""
    from .ops import REGISTRY

    if node.op in CONTROL_OPS or node.op not in REGISTRY:
        return "it runs other graphs" if node.op in CONTROL_OPS else f"{node.op} is not known"
    if node.outputs and not _depends_on_data(graph, node, values):
        return "its result does not depend on data"
    if scheme.weight == "float16":
        return _halves(graph, node, scheme, values)
    if scheme.block:
        return _by_blocks(graph, node, scheme, values, store)
    return (_dequantized if scheme.runtime == "dequantize" else _hybrid)(graph, node, scheme, values, store)


def _depends_on_data(graph: Graph, node: Node, values: Values) -> bool:
    known = all(t in values or graph.tensors[t].is_constant for t in node.inputs if t >= 0)
    return not (known or all(t in values for t in node.outputs))


# ---------------------------------------------------------------- float16


def _halves(graph: Graph, node: Node, scheme: Scheme, values: Values) -> Choice | str:
    """Every float32 constant of the op, as TF's converter does it, but single numbers, which would only grow."""
    how, least = Storage("float16"), max(scheme.smallest, 2)
    found = [p for p in _constants(node, values) if values[node.inputs[p]].size >= least and not _from_half(graph, node.inputs[p])]
    reasons = {p: why_not(values[node.inputs[p]], how) for p in found}
    refused = "; ".join(f"{graph.key(node.inputs[p])!r}: {why}" for p, why in reasons.items() if why)
    kept = {p: how for p in found if not reasons[p]}
    if kept:
        return Choice(node, kept, behind=True, refused=refused)
    halves = any(_from_half(graph, t) for t in node.inputs if t in values)
    return refused or ("its constants are float16 already" if halves else NO_CONSTANTS)


def _constants(node: Node, values: Values) -> list[int]:
    """Positions of the float32 inputs whose values are known, without those that the op needs on the host."""
    return [p for p, t in enumerate(node.inputs) if t in values and p not in record(node).rule.static]


def _from_half(graph: Graph, t: int) -> bool:
    source = graph.nodes[graph.producer[t]] if t in graph.producer else None
    return source is not None and source.op == "DEQUANTIZE" and graph.tensors[source.inputs[0]].type == "float16"


# ---------------------------------------------------------------- integers that a DEQUANTIZE makes real again


def _dequantized(graph: Graph, node: Node, scheme: Scheme, values: Values, store: Store) -> Choice | str:
    positions = [p for p in _weights(node, "int8") if p in _constants(node, values)]
    if not positions:
        return _no_weights(node, values)
    if node.op.startswith("CUSTOM:"):
        return "LiteRT wants the weights of this op constant"
    kept = {p: _storage(node, p, scheme, values, scheme.per_channel) for p in positions}
    return _why_not(node, kept, scheme, values) or Choice(node, kept, behind=True)


def _weights(node: Node, kind: str) -> tuple[int, ...]:
    """Positions of the weights: of the op's rule, of the table that it takes rows from, or what a kernel takes as `kind` by float data."""
    op = record(node)
    if op.rule.weights is not None:
        return (op.rule.weights,)
    if _is_table(op, node):
        return op.rule.data_inputs(node)
    rows = [k.inputs for k in op.kernels if k.outputs[:1] == ("float32",) and 1 < len(node.inputs) <= len(k.inputs)]
    return tuple(sorted({p for row in rows for p, _ in enumerate(node.inputs) if kind in row[p].rstrip("?").split("|")}))


def _is_table(op: Op, node: Node) -> bool:
    """Whether the op moves elements of one input, as GATHER does."""
    return op.rule.tied and len(op.rule.data_inputs(node)) == len(node.outputs) == 1


def _no_weights(node: Node, values: Values, kind: str = "int8") -> str:
    wanted = [node.inputs[p] for p in _weights(node, "int8") if p < len(node.inputs) and node.inputs[p] >= 0]
    if not wanted or _is_table(record(node), node):
        return NO_WEIGHTS
    constant = all(t in values for t in wanted)
    return f"no kernel takes float32 data by {kind} weights" if constant else "its weights are computed, not constant"


def _storage(node: Node, p: int, scheme: Scheme, values: Values, per_channel: bool) -> Storage:
    op, shape = record(node), values[node.inputs[p]].shape
    table = node.op == "EMBEDDING_LOOKUP" or _is_table(op, node)
    axis = _channel_axis(op, node, len(shape)) if per_channel else None
    return Storage(scheme.weight, axis, "nearest" if table else scheme.rounding, symmetric=scheme.symmetric, clip=scheme.clip)


def _channel_axis(op: Op, node: Node, rank: int) -> int | None:
    """Axis of the weights that counts what the op computes; None where it has none."""
    if op.rule.weights is not None:
        return op.rule.weight_axis
    if node.op == "BATCH_MATMUL":
        return rank - 2 if node.options.get("adj_y", False) else rank - 1
    return None if _is_table(op, node) or rank < 2 else 0


def _why_not(node: Node, kept: Mapping[int, Storage], scheme: Scheme, values: Values) -> str | None:
    """Why weights stay for what they are: too few, or numbers that cannot be stored so."""
    most = max(values[node.inputs[p]].size for p in kept)
    if most < scheme.smallest:
        return f"its weights have {most} elements, fewer than {scheme.smallest}"
    found = [why for p, how in kept.items() if (why := why_not(values[node.inputs[p]], how))]
    return f"its weights: {found[0]}" if found else None


# ---------------------------------------------------------------- kernels of float data by integer weights


def _hybrid(graph: Graph, node: Node, scheme: Scheme, values: Values, store: Store) -> Choice | str:
    """With 8-bit weights where no kernel takes fewer bits, if the scheme lets them widen."""
    found = _hybrid_of(graph, node, scheme, values, store)
    if isinstance(found, Choice) or scheme.weight == "int8" or not scheme.widen:
        return found
    wider = _hybrid_of(graph, node, replace(scheme, weight="int8"), values, store)
    return wider._replace(refused=found) if isinstance(wider, Choice) else found


def _hybrid_of(graph: Graph, node: Node, scheme: Scheme, values: Values, store: Store) -> Choice | str:
    """Per channel where every flavour's kernel takes that, else one scale for all."""
    if _is_table(record(node), node):
        return _moved(graph, node, scheme, values, store)
    reasons = []
    for per_channel in (True, False) if scheme.per_channel else (False,):
        found = _hybrid_with(graph, node, scheme, values, store, per_channel)
        if isinstance(found, Choice):
            return found
        reasons.append(found)
    return reasons[0]


def _hybrid_with(graph: Graph, node: Node, scheme: Scheme, values: Values, store: Store, per_channel: bool) -> Choice | str:
    constants = _constants(node, values)
    positions = [p for p in _weights(node, scheme.weight) if p in constants]
    if not positions:
        return _no_weights(node, values, scheme.weight)
    kept = {p: _storage(node, p, scheme, values, per_channel) for p in positions}
    found = Choice(_asymmetric(_stamped(node, scheme.weight)), kept | _widened(graph, node, kept, values))
    why = _why_not(node, kept, scheme, values) or _defect(graph, node, values)
    return why or _no_kernel(graph, found, values, store, FLAVOURS) or found


def _moved(graph: Graph, node: Node, scheme: Scheme, values: Values, store: Store) -> Choice | str:
    """Codes of a constant table are moved as they are, and what was taken of them is made real."""
    positions = [p for p in _weights(node, scheme.weight) if node.inputs[p] in values]
    if not positions:
        return NO_WEIGHTS
    kept = {p: _storage(node, p, scheme, values, False) for p in positions}
    version = max(record(node).rule.versions.get(scheme.weight, node.version), node.version)
    found = Choice(node.but(version=version), kept, then="DEQUANTIZE")
    return _why_not(node, kept, scheme, values) or _no_kernel(graph, found, values, store, FLAVOURS) or found


def _widened(graph: Graph, node: Node, kept: Mapping[int, Storage], values: Values) -> dict[int, Storage]:
    """Other constants that a DEQUANTIZE makes real become float32: XNNPACK refuses a file where the bias of such a kernel is computed."""
    return {p: Storage("float32") for p in _constants(node, values) if p not in kept and graph.tensors[node.inputs[p]].data is None}


def _stamped(node: Node, kind: str) -> Node:
    versions = record(node).rule.versions
    wanted = versions.get(f"float32 x {kind}", versions.get("float32 x int8", node.version))
    return node.but(version=max(wanted, node.version))


def _asymmetric(node: Node) -> Node:
    """Rows of data quantized with a zero point, where the op leaves that open: after a RELU it doubles their steps."""
    wanted = "asymmetric_quantize_inputs"
    return node.but(options=node.options.but(**{wanted: True})) if wanted in node.options else node


def _defect(graph: Graph, node: Node, values: Values) -> str | None:
    """Where LiteRT's kernel of float data by int8 weights computes something else than the float kernel."""
    steps = graph.tensors[node.inputs[0]].shape[:1]
    if node.op == "BIDIRECTIONAL_SEQUENCE_RNN" and node.options.get("time_major", False) and steps != (1,):
        return "LiteRT's kernel runs over the sequence as often as it has steps"
    return _mixed(graph, node, values) if node.op == "BATCH_MATMUL" else None


def _mixed(graph: Graph, node: Node, values: Values) -> str | None:
    """Where there are several leading axes, BATCH_MATMUL of LiteRT reads the scales and sums of other matrices. It takes the last of
    them for rows where the weights have 1 there."""
    x, w = graph.tensors[node.inputs[0]].shape[:-2], values[node.inputs[1]].shape[:-2]
    if x and w and w[-1] == 1 and not node.options.get("adj_x", False):
        x, w = x[:-1], w[:-1]
    mixed = sum(n > 1 for n in np.broadcast_shapes(x, w)) > 1
    return "LiteRT's kernels mix up the matrices of several leading axes" if mixed else None


def _no_kernel(graph: Graph, found: Choice, values: Values, store: Store, flavours: Sequence[str]) -> str | None:
    """Why a flavour's kernel does not run the node with its new weights, in words, or None where all do."""
    where, op = _new_site(graph, found, values, store), record(found.node)
    for flavour in flavours:
        if not any(k.serves(where.types, flavour) for k in op.kernels):
            return f"no kernel of {flavour} takes {found.stored[min(found.stored)].kind} weights"
        try:
            op.kernel(where, flavour).plan(where, flavour)
        except QsimError as e:
            return f"{flavour}: {e.message}" + (f", found {e.found}" if e.found is not None else "") + (f" ({e.hint})" if e.hint else "")
    return None


def _new_site(graph: Graph, found: Choice, values: Values, store: Store) -> Site:
    old = site(graph, found.node, values)
    fields = {p: store(found.node.inputs[p], how)._asdict() for p, how in found.stored.items()}
    inputs = tuple(t.but(**fields[p]) if t is not None and p in fields else t for p, t in enumerate(old.inputs))
    known = tuple(fields[p]["data"] if p in fields else v for p, v in enumerate(old.values))
    outputs = old.outputs
    if found.then == "DEQUANTIZE":
        codes = fields[min(fields)]
        outputs = tuple(t.but(type=codes["type"], qparams=codes["qparams"]) for t in outputs)
    return replace(old, inputs=inputs, values=known, outputs=outputs)


# ---------------------------------------------------------------- scales by blocks


def _by_blocks(graph: Graph, node: Node, scheme: Scheme, values: Values, store: Store) -> Choice | str:
    """4-bit weights with scales by blocks of columns. A fused activation becomes an op of its own: builtin leaves it out."""
    op, p = record(node), record(node).rule.weights
    if not op.blockwise or p is None:
        constant = any(node.inputs[w] in values for w in _weights(node, "int8") if w < len(node.inputs))
        return "no kernel takes weights with scales by blocks" if constant else NO_WEIGHTS
    if node.inputs[p] not in values:
        return "its weights are computed, not constant"
    kept = {p: Storage(scheme.weight, None, scheme.rounding, scheme.block)}
    act = node.options.get("fused_activation_function", "NONE")
    if act not in ("NONE", *APART):
        return f"no kernel with the activation {act}"
    bare = _stamped(node, f"{scheme.weight} by blocks").but(options=node.options.but(fused_activation_function="NONE"))
    found = Choice(bare, kept | _widened(graph, node, kept, values), then="" if act == "NONE" else act)
    return _why_not(node, kept, scheme, values) or _no_kernel(graph, found, values, store, BLOCK_FLAVOURS) or found
