"""Which tensors of a quantized graph may get other parameters, which must share them, and why the others keep theirs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from .control import OPS as CONTROL_OPS
from .errors import BadRecipe, Unsupported
from .graph import Graph, Node, Tensor
from .op import Op

ACTIVATIONS = ("int8", "uint8", "int16")
NARROW = ("int8", "uint8")
CONVERSIONS = ("QUANTIZE", "DEQUANTIZE")
SHAPE_READERS = ("SHAPE", "RANK")


@dataclass(frozen=True, eq=False)
class Relayout:
    """The computed tensors with codes of a graph, by index.

    groups: tensors that cover one real range and may change together, singletons included. kept: tensor -> why it keeps what it has.
    tied_constants: position in `groups` -> (node, input position) of constants that share the group's parameters.
    """

    groups: tuple[tuple[int, ...], ...]
    kept: Mapping[int, str]
    tied_constants: Mapping[int, tuple[tuple[int, int], ...]] = field(default_factory=dict)

    @cached_property
    def group_of(self) -> dict[int, int]:
        """tensor index -> position in `groups`."""
        return {t: i for i, group in enumerate(self.groups) for t in group}


def relayout(graph: Graph, *, only: str | None = None, keep: str | None = None, keep_ends: bool = False) -> Relayout:
    """What `requantize` may change. only, keep: regular expressions searched in tensor keys: change these alone, leave those alone.

    keep_ends: integer inputs and outputs of the model stay as they are. Tensors are bound where an op moves codes unchanged
    (`Rule.tied`), and where a QUANTIZE only changes their type. *Raises*: BadRecipe for a faulty expression; Unsupported where the
    graph has no activations with codes.
    """
    if not any(map(is_activation, graph.tensors)):
        raise Unsupported("the model has no quantized activations", hint="`qsim quantize` makes one of a float model")
    matches = [_pattern(p) for p in (only, keep)]
    why = dict(_reasons(graph, keep_ends))
    hard = _joined(graph, why, _moves(graph))
    kept = _spread(hard, why)
    soft = ((a, b) for a, b in _recoded(graph) if a not in kept and b not in kept)
    groups = _joined(graph, kept, [*_moves(graph), *soft])
    asked = {t: reason for group in groups for t in group if (reason := _unasked(graph, group, *matches))}
    kept.update(asked)
    free = tuple(g for g in groups if g[0] not in kept)
    return Relayout(free, kept, _tied_constants(graph, free))


def is_activation(t: Tensor) -> bool:
    """A computed tensor of codes with one scale."""
    return t.data is None and t.qparams is not None and t.type != "float32"


def record(node: Node) -> Op | None:
    from .ops import REGISTRY

    return REGISTRY.get(node.op)


# ---------------------------------------------------------------- which may change


def _reasons(graph: Graph, keep_ends: bool) -> Iterator[tuple[int, str]]:
    """(tensor, why it keeps its parameters); the last reason of a tensor counts."""
    for t in graph.tensors:
        if is_activation(t) and (t.type not in ACTIVATIONS or t.is_variable or t.qparams.per_channel):  # type: ignore[union-attr]
            yield t.index, "it is a variable" if t.is_variable else f"{t.type} codes of this kind are not rewritten"
    for node in graph.nodes:
        read = [t for t in node.inputs if t >= 0 and is_activation(graph.tensors[t])]
        made = [t for t in node.outputs if is_activation(graph.tensors[t])]
        yield from ((t, why) for t, why in _bound(graph, node, read, made))
    if keep_ends:
        yield from ((t, "model input or output") for t in (*graph.inputs, *graph.outputs) if is_activation(graph.tensors[t]))


def _bound(graph: Graph, node: Node, read: list[int], made: list[int]) -> Iterator[tuple[int, str]]:
    op = record(node)
    why = _why_bound(graph, node, op, (*read, *made))
    if why:
        yield from ((t, why) for t in (*read, *made))
        return
    assert op is not None
    if node.op not in SHAPE_READERS:
        others = set(range(len(node.inputs))) - set(op.rule.data_inputs(node))
        yield from ((node.inputs[p], f"{node.op} reads it as weights") for p in others if node.inputs[p] in read)
    if op.rule.fixed:
        yield from ((t, f"{node.op} dictates its parameters") for t in made)


def _why_bound(graph: Graph, node: Node, op: Op | None, tensors: Iterable[int]) -> str:
    """Why no operand of a node may change; empty where they may."""
    types = {graph.tensors[t].type for t in tensors}
    if op is None or node.op in CONTROL_OPS:
        return f"no rule says what {node.op} does with it" if op is None else f"{node.op} runs other graphs"
    if op.rule.states(node):
        return f"{node.op} keeps state of these parameters"
    if op.rule.keep_float and node.op not in (*CONVERSIONS, *SHAPE_READERS):
        return f"{node.op} works on the codes themselves, or errs at some parameters"
    if "int16" in types and node.options.get("pot_scale_int16"):
        return f"{node.op} needs scales that are powers of two"
    if "int16" in types and types & set(NARROW) and node.op != "QUANTIZE" and not op.rule.fixed:
        return f"{node.op} widens 8 bits to 16"
    return ""


def _pattern(text: str | None) -> re.Pattern[str] | None:
    try:
        return None if text is None else re.compile(text)
    except re.error as fault:
        raise BadRecipe(f"not a regular expression: {fault}", found=text) from None


def _unasked(graph: Graph, group: tuple[int, ...], only: re.Pattern[str] | None, keep: re.Pattern[str] | None) -> str:
    keys = [graph.key(t) for t in group]
    if keep is not None and any(map(keep.search, keys)):
        return "asked to stay"
    return "" if only is None or any(map(only.search, keys)) else "not among those asked for"


# ---------------------------------------------------------------- which go together


def _moves(graph: Graph) -> list[tuple[int, int]]:
    """(output, input) of every op that moves codes unchanged, where the file has the same parameters on both sides."""
    found = []
    for node in graph.nodes:
        op = record(node)
        if op is None or not op.rule.tied:
            continue
        inputs = (node.inputs[p] for p in op.rule.data_inputs(node))
        sides = [t for t in (*node.outputs, *inputs) if is_activation(graph.tensors[t])]
        found += [(sides[0], t) for t in sides[1:] if graph.tensors[t].qparams == graph.tensors[sides[0]].qparams]
    return found


def _recoded(graph: Graph) -> Iterator[tuple[int, int]]:
    """(input, output) of every QUANTIZE between types of equal width that keeps the real range."""
    for node in graph.nodes:
        a, b = (graph.tensors[t] for t in (node.inputs[0], node.outputs[0])) if node.op == "QUANTIZE" else (None, None)
        if a is None or b is None or not (is_activation(a) and a.type in NARROW and b.type in NARROW):
            continue
        if a.qparams is not None and b.qparams is not None and a.qparams.real_range() == b.qparams.real_range():
            yield a.index, b.index


def _joined(graph: Graph, kept: Mapping[int, str], pairs: Iterable[tuple[int, int]]) -> list[tuple[int, ...]]:
    """Connected sets of the activations, in the order of their first tensor's index."""
    parent = {t.index: t.index for t in graph.tensors if is_activation(t)}

    def root(t: int) -> int:
        while parent[t] != t:
            t = parent[t]
        return t

    for a, b in pairs:
        low, high = sorted((root(a), root(b)))
        parent[high] = low
    found: dict[int, list[int]] = {}
    for t in parent:
        found.setdefault(root(t), []).append(t)
    return [tuple(g) for g in found.values()]


def _spread(groups: Iterable[tuple[int, ...]], why: Mapping[int, str]) -> dict[int, str]:
    """A kept tensor keeps those that share its parameters."""
    kept = {}
    for group in groups:
        reason = next((why[t] for t in group if t in why), "")
        kept.update(dict.fromkeys(group, reason) if reason else {})
    return kept


def _tied_constants(graph: Graph, groups: Iterable[tuple[int, ...]]) -> dict[int, tuple[tuple[int, int], ...]]:
    group_of = {t: i for i, group in enumerate(groups) for t in group}
    found: dict[int, tuple[tuple[int, int], ...]] = {}
    for node in graph.nodes:
        op = record(node)
        if op is None or not op.rule.tied or not node.outputs or node.outputs[0] not in group_of:
            continue
        g, q = group_of[node.outputs[0]], graph.tensors[node.outputs[0]].qparams
        held = [(node.index, p) for p in op.rule.data_inputs(node) if graph.tensors[node.inputs[p]].data is not None]
        same = tuple(h for h in held if graph.tensors[node.inputs[h[1]]].qparams == q)
        found[g] = (*found.get(g, ()), *same)
    return {g: uses for g, uses in found.items() if uses}
