"""Folding a float model before it is quantized: ops that another op can do in passing become part of it.

Each fold leaves the float function as it is, up to the rounding of float32; what it needs for that it checks on the graph, and where
one condition fails the graph stays and the row says which. `qsim.distance` measures two models against each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from .assembly import compact, moved_signatures
from .errors import BadRecipe
from .folds.ahead import normalize
from .folds.behind import batch_norm
from .folds.change import Attempt, Change, Refusal
from .folds.clamps import relu
from .folds.constants import constant_chains
from .folds.padding import pad
from .graph import Graph, Model, Node

ATTEMPTS: Mapping[str, Attempt] = {"pad": pad, "relu": relu, "batch_norm": batch_norm, "normalize": normalize}
ALL = ("constants", *ATTEMPTS)


@dataclass(frozen=True)
class Folded:
    """One fold, made (`done`) or not. fold: its name. ops: "op 3 MUL ('name')" as the model given had them, in their order.

    tensors: those between the ops, which are gone where it was done. reason: why the function stays the same, or why nothing was done.
    """

    fold: str
    done: bool
    ops: tuple[str, ...]
    tensors: tuple[str, ...]
    reason: str

    def __str__(self) -> str:
        return f"{self.fold}: {' + '.join(self.ops)}: {'' if self.done else 'left as it is: '}{self.reason}"


def fold(model: Model, what: Sequence[str] = ALL) -> tuple[Model, tuple[Folded, ...]]:
    """The model with ops of its primary graph folded into others, and a row for every fold that was made or looked possible.

    what: "constants" (what constants alone determine becomes a constant), "pad" (PAD with zeros into a convolution's SAME or VALID),
    "relu" (RELU, RELU6, RELU_N1_TO_1 into the op before), "batch_norm" (MUL, ADD, SUB, DIV by a constant a channel into the linear op
    before), "normalize" (the same into the linear op behind). Inputs, outputs and signatures keep their names; other graphs stay.

    *Domain*: float ops; quantized ones are left. The float function is the same up to float32 rounding wherever the intermediates
    that vanish stay far from the ends of float32. *Raises*: BadRecipe for an unknown name.
    """
    unknown = [name for name in what if name not in ALL]
    if unknown:
        raise BadRecipe("no fold of that name", found=", ".join(unknown), expected=", ".join(ALL))
    before = model.graph.but(outputs=_kept(model))
    work, rows = _Work(before, tuple(range(len(before.nodes)))), list[Folded]()
    if "constants" in what:
        work = work.all_of("constants", list(constant_chains(work.graph)), before, rows)
    work = _to_the_end(work, {name: ATTEMPTS[name] for name in ATTEMPTS if name in what}, before, rows)
    graph, moved = compact(work.graph, before)
    graph = graph.but(outputs=tuple(moved[t] for t in model.graph.outputs))
    return model.but(graphs=(graph, *model.graphs[1:]), signatures=moved_signatures(model, moved)), tuple(rows)


@dataclass(frozen=True, eq=False)
class _Work:
    """A graph in the making, and for each of its nodes the number that it had at first."""

    graph: Graph
    origin: tuple[int, ...]

    def apply(self, changes: Sequence[Change]) -> _Work:
        """With independent changes made. Tensors keep their numbers; nodes are numbered anew."""
        removed = frozenset[int]().union(*(c.removed for c in changes))
        changed = {i: n for c in changes for i, n in c.changed.items()}
        made = {i: t for c in changes for i, t in c.tensors.items()}
        kept = [(changed.get(n.index, n), o) for n, o in zip(self.graph.nodes, self.origin, strict=True) if n.index not in removed]
        count = max(len(self.graph.tensors), *(i + 1 for i in made)) if made else len(self.graph.tensors)
        tensors = tuple(made[i] if i in made else self.graph.tensors[i] for i in range(count))
        nodes = tuple(n.but(index=i) for i, (n, _) in enumerate(kept))
        return _Work(self.graph.but(tensors=tensors, nodes=nodes), tuple(o for _, o in kept))

    def row(self, name: str, found: Change | Refusal, before: Graph) -> Folded:
        ops = tuple(_place(before, before.nodes[self.origin[i]]) for i in found.nodes)
        done = isinstance(found, Change)
        tensors = found.gone if isinstance(found, Change) else found.tensors
        return Folded(name, done, ops, tuple(self.graph.key(t) for t in tensors), found.reason)

    def all_of(self, name: str, found: Sequence[Change | Refusal], before: Graph, rows: list[Folded]) -> _Work:
        rows += [self.row(name, f, before) for f in found]
        return self.apply([f for f in found if isinstance(f, Change)])


def _to_the_end(work: _Work, attempts: Mapping[str, Attempt], before: Graph, rows: list[Folded]) -> _Work:
    """One change after the other until none is left; then what was refused."""
    while True:
        left: list[Folded] = []
        for name, found in _found(work.graph, attempts):
            row = work.row(name, found, before)
            if isinstance(found, Change):
                work = work.apply([found])
                rows.append(row)
                break
            left.append(row)
        else:
            rows += left
            return work


def _found(graph: Graph, attempts: Mapping[str, Attempt]) -> Iterator[tuple[str, Change | Refusal]]:
    for node in graph.nodes:
        for name, attempt in attempts.items():
            found = attempt(graph, node)
            if found is not None:
                yield name, found


def _kept(model: Model) -> tuple[int, ...]:
    """The outputs of the primary graph, and what signatures show besides."""
    shown = (t for s in model.signatures if s.get("graph", 0) == 0 for t in (*s["inputs"].values(), *s["outputs"].values()))
    return tuple(dict.fromkeys((*model.graph.outputs, *(t for t in shown if t not in model.graph.inputs))))


def _place(graph: Graph, node: Node) -> str:
    return f"op {node.index} {node.op} ({graph.key(node.outputs[0])!r})" if node.outputs else f"op {node.index} {node.op}"
