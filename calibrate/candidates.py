"""What a sweep tries. A candidate is plain data with one canonical text; a grid of axes is a list of candidates."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from importlib import import_module
from typing import Any

from qsim.errors import BadRecipe
from qsim.graph import Graph
from qsim.scheme import Scheme, scheme_named
from qsim.weightclip import require_rule

from .correcting import HOW
from .strategies import TABLE, Strategy, canonical

CLASSES = ("input", "output", "inner")  # of tensors: the model's inputs, its outputs, all others
BASELINE = "minmax"


@dataclass(frozen=True)
class Candidate:
    """One way to quantize a model.

    scheme: its name. activation: the strategy of activations' ranges, a name of `strategies.TABLE` or module:function. rules: (selector,
    strategy): the last that matches a tensor goes before `activation`; a selector is "op:NAME" (what computes the tensor),
    "class:input|output|inner", "name:REGEX" or "tensor:KEY". weights: how far the codes of weights reach (`Scheme.clip`).
    correction: as `correct` takes it, but "auto". per_channel: of weights. dead_range: as in `ranges`. samples: how many of the calibration
    samples (0: all); draw: which ones (each number another choice).
    """

    scheme: str = "int8"
    activation: str = BASELINE
    rules: tuple[tuple[str, str], ...] = ()
    weights: str = "max"
    correction: str = "no"
    per_channel: bool = True
    dead_range: bool = False
    samples: int = 0
    draw: int = 0

    def __str__(self) -> str:
        """The scheme, the strategy, and what is not as usual."""
        mixed = f" with {len(self.rules)} rule{'s'[: len(self.rules) - 1]}" if self.rules else ""
        usual = {"weights": "max", "correction": "no", "per_channel": True, "dead_range": False, "samples": 0, "draw": 0}
        rest = [f"{k}={getattr(self, k)}" for k, v in usual.items() if getattr(self, k) != v]
        return " ".join([self.scheme, self.activation + mixed, *rest])

    @property
    def text(self) -> str:
        """The canonical text: equal for candidates that mean the same."""
        return json.dumps(asdict(normal(self)), sort_keys=True)

    @property
    def parsed(self) -> Scheme:
        """*Raises*: BadRecipe."""
        found = scheme_named(self.scheme)
        return replace(found, per_channel=found.per_channel and self.per_channel, clip=self.weights)


def of_text(text: str) -> Candidate:
    """The candidate of a canonical text."""
    found = json.loads(text)
    return Candidate(**{**found, "rules": tuple(tuple(r) for r in found["rules"])})


def normal(c: Candidate) -> Candidate:
    """The same candidate in its one form: axes without meaning at their usual values. *Raises*: BadRecipe."""
    scheme = scheme_named(c.scheme)
    rules = tuple((selector, written(s)) for selector, s in c.rules)
    return replace(
        c, scheme=scheme.name, activation=written(c.activation), rules=rules, per_channel=scheme.per_channel and c.per_channel,
        draw=c.draw if c.samples else 0,
    )  # fmt: skip


def written(strategy: str) -> str:
    """A strategy as a sweep keeps it: a name in its shortest form, module:function as it is. *Raises*: BadRecipe."""
    return strategy.strip() if is_own(strategy) else canonical(strategy)


def is_own(strategy: str) -> bool:
    """Whether it is module:function and no name of the table."""
    module, _, name = strategy.strip().partition(":")
    return module not in TABLE and name.isidentifier()


def resolved(strategy: str) -> str | Strategy:
    """What `ranges` takes: a name, or for module:function that function, imported. *Raises*: BadRecipe."""
    if not is_own(strategy):
        return strategy
    module, _, name = strategy.strip().partition(":")
    try:
        return getattr(import_module(module), name)  # type: ignore[no-any-return]
    except (ImportError, AttributeError) as fault:
        raise BadRecipe(f"nothing is named {strategy!r} ({fault})", expected="a strategy's name, or module:function") from fault


def grid(axes: Mapping[str, Sequence[Any]]) -> list[Candidate]:
    """Every combination of the values of axes (the fields of `Candidate`), once each, in the order of the axes.

    *Raises*: BadRecipe for an axis that is not known or empty, and for values that mean nothing.
    """
    names = [f.name for f in fields(Candidate) if f.name != "draw"]
    for name, values in axes.items():
        if name not in names:
            raise BadRecipe("unknown axis", found=name, expected=", ".join(names))
        if not values:
            raise BadRecipe("an axis without values", where=f"axis {name!r}", hint="Leave it out, or give one value")
    found = (Candidate(**dict(zip(axes, values, strict=True))) for values in itertools.product(*axes.values()))
    return list(dict.fromkeys(normal(checked(c)) for c in found))


def checked(c: Candidate) -> Candidate:
    """*Raises*: BadRecipe naming the axis."""
    if c.correction not in HOW:
        raise BadRecipe("unknown correction", where="axis 'correction'", found=c.correction, expected=", ".join(HOW))
    if c.correction != "no" and c.parsed.is_simulated:
        raise BadRecipe("corrections are for schemes with integer kernels", where=f"scheme {c.scheme!r}", found=c.correction, expected="no")
    if c.samples < 0 or c.draw < 0:
        raise BadRecipe("counts start at 0", where="axes 'samples' and 'draw'", found=(c.samples, c.draw))
    for selector, _ in c.rules:
        selected(selector)
    require_rule(c.weights)
    return c


def selected(selector: str) -> tuple[str, str]:
    """(kind, value) of a selector. *Raises*: BadRecipe."""
    kind, _, value = selector.partition(":")
    good = {"op": bool(value), "class": value in CLASSES, "name": bool(value), "tensor": bool(value)}
    if not good.get(kind):
        raise BadRecipe("not a selector", found=selector, expected=f"op:NAME, class:{'|'.join(CLASSES)}, name:REGEX or tensor:KEY")
    if kind == "name":
        try:
            re.compile(value)
        except re.error as fault:
            raise BadRecipe(f"not a regular expression ({fault})", found=selector) from None
    return kind, value


def strategies_of(candidates: Iterable[Candidate]) -> list[str]:
    """All strategies that candidates name, in order of appearance."""
    return list(dict.fromkeys(s for c in candidates for s in (c.activation, *(s for _, s in c.rules))))


def strategy_for(c: Candidate, graph: Graph, group: Sequence[int]) -> str:
    """The strategy of tensors that share a range: the last rule that matches one of them, else the candidate's."""
    found = c.activation
    for selector, strategy in c.rules:
        if any(matches(graph, t, selector) for t in group):
            found = strategy
    return found


def matches(graph: Graph, t: int, selector: str) -> bool:
    """Whether a selector means a tensor (by index)."""
    kind, value = selected(selector)
    if kind == "op":
        return t in graph.producer and graph.nodes[graph.producer[t]].op == value
    if kind == "class":
        return value == ("input" if t in graph.inputs else "output" if t in graph.outputs else "inner")
    key = graph.key(t)
    return key == value if kind == "tensor" else re.search(value, key) is not None
