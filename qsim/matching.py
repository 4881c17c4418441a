"""Which tensor and which op of one graph is which of another: by name where names are unique, then by what stands where."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher
from typing import NamedTuple

from .graph import Graph, Node, Tensor


class Match(NamedTuple):
    """old index -> new index, of tensors and of nodes; what is in neither stands alone."""

    tensors: dict[int, int]
    nodes: dict[int, int]


class _Pairs:
    """A one-to-one map in the making."""

    def __init__(self) -> None:
        self.new: dict[int, int] = {}
        self.old: dict[int, int] = {}

    def add(self, old: int, new: int) -> bool:
        """Pair the two if both are free."""
        if old in self.new or new in self.old:
            return False
        self.new[old], self.old[new] = new, old
        return True


def match(old: Graph, new: Graph) -> Match:
    """The tensors and nodes of two graphs that are the same thing.

    Tensors by names that are unique in both (constants, whose names converters make up anew, only where the shape agrees). Nodes of one
    kind that compute matched tensors; then, of the nodes left over, the longest common sequence of kinds. Tensors without a match at the
    same place of matched nodes, or of the graphs' inputs and outputs.
    """
    tensors, nodes = _Pairs(), _Pairs()
    names = _named(new)
    for name, t in _named(old).items():
        if name in names and _alike(old.tensors[t], new.tensors[names[name]]):
            tensors.add(t, names[name])
    _spread(old, new, tensors, nodes)
    for a, b in _sequence(_left(old, nodes.new), _left(new, nodes.old)):
        nodes.add(a.index, b.index)
    for before, after in ((old.inputs, new.inputs), (old.outputs, new.outputs)):
        if len(before) == len(after):
            _by_place(old, new, tensors, before, after)
    _spread(old, new, tensors, nodes)
    return Match(tensors.new, nodes.new)


def _named(graph: Graph) -> dict[str, int]:
    return {t.name: t.index for t in graph.tensors if t.name and graph.key(t.index) == t.name}


def _alike(a: Tensor, b: Tensor) -> bool:
    return not (a.is_constant or b.is_constant) or a.shape == b.shape


def _spread(old: Graph, new: Graph, tensors: _Pairs, nodes: _Pairs) -> None:
    """From tensors to the nodes that compute them, from nodes to the tensors at the same places, until nothing is added."""
    grown = True
    while grown:
        grown = any([_producer(old, new, tensors, nodes, n) for n in old.nodes])
        for a, b in nodes.new.items():
            one, other = old.nodes[a], new.nodes[b]
            grown |= _by_place(old, new, tensors, one.inputs, other.inputs)
            grown |= _by_place(old, new, tensors, one.outputs, other.outputs)


def _producer(old: Graph, new: Graph, tensors: _Pairs, nodes: _Pairs, node: Node) -> bool:
    for place, t in enumerate(node.outputs):
        at = new.producer.get(tensors.new.get(t, -1))
        if at is not None and new.nodes[at].op == node.op and new.nodes[at].outputs.index(tensors.new[t]) == place:
            return nodes.add(node.index, at)
    return False


def _by_place(old: Graph, new: Graph, tensors: _Pairs, before: Iterable[int], after: Iterable[int]) -> bool:
    pairs = [(a, b) for a, b in zip(before, after, strict=False) if a >= 0 and b >= 0]
    return any([tensors.add(a, b) for a, b in pairs if old.tensors[a].is_constant == new.tensors[b].is_constant])


def _left(graph: Graph, matched: dict[int, int]) -> list[Node]:
    return [n for n in graph.nodes if n.index not in matched]


def _sequence(old: list[Node], new: list[Node]) -> Iterable[tuple[Node, Node]]:
    """Pairs of one kind in the order of both lists."""
    blocks = SequenceMatcher(None, [n.op for n in old], [n.op for n in new], autojunk=False).get_matching_blocks()
    for start, other, size in blocks:
        yield from zip(old[start : start + size], new[other : other + size], strict=True)
