"""What changed between two models, tensor by tensor and op by op, in words and numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import zip_longest
from typing import Any

from . import flat
from .changes import Change, kind, of_tensor
from .flat import Record
from .graph import Graph, Model, Node, Options
from .matching import Match, match
from .options import read_options, write_options
from .reader import stored_bytes
from .rebuild import rebuild
from .records import diff

SHOWN = 4  # names, paths or channels listed before "and N more"


def difference(old: Model, new: Model) -> tuple[Change, ...]:
    """Every change from one model to another; empty only where the two files say the same.

    Tensors are matched by names where these are unique, then by their place in the graph; subgraphs by number. What no other change
    explains (the order of buffers, fields that only other tools read) is told as paths of records.
    """
    found = tuple(_changes(old, new))
    if found:
        return found
    paths = diff(*(flat.read(flat.write(rebuild(m))) for m in (old, new)))
    return (Change("record", "", f"fields of the file differ: {_some(paths)}", {"paths": paths}),) if paths else ()


def _changes(old: Model, new: Model) -> Iterator[Change]:
    if old.description != new.description:
        yield Change("model", "description", f"{old.description!r} -> {new.description!r}")
    if len(old.graphs) != len(new.graphs):
        yield Change("model", "subgraphs", f"{len(old.graphs)} -> {len(new.graphs)}")
    matches = [match(a, b) for a, b in zip(old.graphs, new.graphs, strict=False)]
    for number, (a, b, pairs) in enumerate(zip(old.graphs, new.graphs, matches, strict=False)):
        place = f"subgraph {number} " if max(len(old.graphs), len(new.graphs)) > 1 else ""
        for change in _of_graphs(a, b, pairs):
            yield Change(change.kind, place + change.where, change.words, change.facts)
    yield from _signatures(old, new, matches)
    yield from _metadata(old, new)


def _of_graphs(old: Graph, new: Graph, pairs: Match) -> Iterator[Change]:
    if old.name != new.name:
        yield Change("graph", "name", f"{old.name!r} -> {new.name!r}")
    for side in ("inputs", "outputs"):
        before, after = getattr(old, side), getattr(new, side)
        if [pairs.tensors.get(t) for t in before] != list(after):
            yield Change("graph", side, f"{_names(old, before)} -> {_names(new, after)}")
    yield from _ops(old, new, pairs)
    yield from _tensors(old, new, pairs)


def _ops(old: Graph, new: Graph, pairs: Match) -> Iterator[Change]:
    for node in old.nodes:
        if node.index not in pairs.nodes:
            yield Change("op", _op(old, node), f"removed; it read {_names(old, node.inputs)}", {"removed": node.op})
        else:
            words = "; ".join(_of_nodes(old, new, node, new.nodes[pairs.nodes[node.index]], pairs))
            if words:
                yield Change("op", _op(old, node), words)
    there = set(pairs.nodes.values())
    for node in new.nodes:
        if node.index not in there:
            yield Change("op", _op(new, node), f"added; it reads {_names(new, node.inputs)}", {"added": node.op})


def _of_nodes(old: Graph, new: Graph, a: Node, b: Node, pairs: Match) -> Iterator[str]:
    one, other = _options(a), _options(b)
    for name in sorted({*one, *other}):
        if one.get(name) != other.get(name):
            yield f"{name} {one.get(name)} -> {other.get(name)}"
    if a.version != b.version:
        yield f"version {a.version} -> {b.version}"
    for side in ("inputs", "outputs", "intermediates"):
        for place, (t, u) in enumerate(zip_longest(getattr(a, side), getattr(b, side), fillvalue=-1)):
            if (-1 if t < 0 else pairs.tensors.get(t)) != u:
                yield f"{side.removesuffix('s')} {place} {_names(old, (t,))} -> {_names(new, (u,))}"


def _options(node: Node) -> Options:
    """A node's options with the schema's defaults, which nodes made in memory may leave out."""
    return read_options(node.op, Record("Operator", write_options(node.op, node.options)))


def _op(graph: Graph, node: Node) -> str:
    return f"op {node.index} {node.op} ({_names(graph, node.outputs)})"


def _names(graph: Graph, tensors: tuple[int, ...]) -> str:
    return ", ".join("absent" if t < 0 else graph.key(t) for t in tensors) or "nothing"


def _tensors(old: Graph, new: Graph, pairs: Match) -> Iterator[Change]:
    for t in old.tensors:
        if t.index not in pairs.tensors:
            yield Change("tensor", old.key(t.index), f"removed ({kind(t)})", {"removed": t.type})
            continue
        yield from of_tensor(old.key(t.index), t, new.tensors[pairs.tensors[t.index]])
    there = set(pairs.tensors.values())
    for t in new.tensors:
        if t.index not in there:
            yield Change("tensor", new.key(t.index), f"added ({kind(t)})", {"added": t.type})


def _signatures(old: Model, new: Model, matches: list[Match]) -> Iterator[Change]:
    before, after = ({s["key"]: s for s in m.signatures} for m in (old, new))
    for key in {**before, **after}:
        if key not in after or key not in before:
            yield Change("signature", key, "removed" if key in before else "added")
        elif _seen(old, before[key], matches) != _seen(new, after[key], None):
            yield Change("signature", key, f"{_sides(old, before[key])} -> {_sides(new, after[key])}")


def _seen(model: Model, signature: Mapping[str, Any], matches: list[Match] | None) -> tuple:
    """A signature by the new model's tensors."""
    number = signature.get("graph", 0)
    pairs = None if matches is None else matches[number].tensors if number < len(matches) else {}
    sides = ({k: t if pairs is None else pairs.get(t) for k, t in signature[side].items()} for side in ("inputs", "outputs"))
    return number, *sides


def _sides(model: Model, signature: Mapping[str, Any]) -> str:
    graph = model.graphs[signature.get("graph", 0)]
    sides = (", ".join(f"{k}={graph.key(t)}" for k, t in signature[side].items()) for side in ("inputs", "outputs"))
    return "({}) to ({})".format(*sides)


def _metadata(old: Model, new: Model) -> Iterator[Change]:
    before, after = _entries(old), _entries(new)
    for name in {**before, **after}:
        if name not in after or name not in before:
            yield Change(
                "metadata", name, f"{'removed' if name in before else 'added'} ({len(before.get(name, after.get(name, b'')))} bytes)"
            )
        elif before[name] != after[name]:
            yield Change("metadata", name, f"{len(before[name])} bytes -> {len(after[name])} bytes, another content")


def _entries(model: Model) -> dict[str, bytes]:
    """Metadata by name."""
    root = model.source.root if model.source is not None else Record("Model")
    buffers = root.get("buffers", [])
    return {m.get("name", ""): stored_bytes(buffers[m.value("buffer")]).tobytes() for m in root.get("metadata", [])}


def _some(paths: list[str]) -> str:
    return ", ".join(paths[:SHOWN]) + (f" and {len(paths) - SHOWN} more" if len(paths) > SHOWN else "")
