"""Recipes: which op gets which scheme, which tensor which range. Rules go from general to particular: the last that matches wins."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from . import foreign
from .errors import BadRange, BadRecipe
from .graph import Graph, Model, Node, QParams
from .patterns import require_quick
from .schema import schema
from .scheme import FLOAT32, Scheme, scheme_named
from .types import code_range

ANY = "*"
Limits = Callable[[Mapping[str, Any], Scheme], Set[str] | None]  # the ops that an entry is for, None: all
BORDER = ("INPUT", "OUTPUT")  # ops that a rule may name for the model's own inputs and outputs


@dataclass(frozen=True)
class Rule:
    """Ops of a kind (`op`: schema name, "*" for all) of which a name matches `regex` somewhere, or the op of an `index`: their scheme.

    The name of an op: the names of its outputs, joined by ";". applies_to: the only ops that it is for; others fall to the rule before.
    """

    scheme: Scheme
    regex: str = ".*"
    op: str = ANY
    index: int | None = None
    applies_to: Set[str] | None = None

    def matches(self, graph: Graph, node: Node) -> bool:
        return self.names(graph, node) and (self.applies_to is None or node.op in self.applies_to)

    def names(self, graph: Graph, node: Node) -> bool:
        """Whether it names the op, which may still not be one of those that it is for."""
        if self.index is not None and self.index != node.index:
            return False
        return self.op in (ANY, node.op) and re.search(self.regex, name_of(graph, node)) is not None


@dataclass(frozen=True)
class Given:
    """The range (low, high) of the tensors of a name, real units; or (scale, zero point), from which the range follows."""

    tensor: str
    range: tuple[float, float] | None = None
    scale: float = 0.0
    zero_point: int = 0


@dataclass(frozen=True)
class Recipe:
    """rules: the last that matches an op decides. tensors: ranges that go before calibrated ones. io: types of the model's inputs and
    outputs, None where the recipe does not say."""

    rules: tuple[Rule, ...]
    tensors: tuple[Given, ...] = ()
    io: tuple[str, str] | None = None
    name: str = "recipe"

    def schemes(self, model: Model) -> dict[int, Scheme]:
        """The scheme of each node of the primary graph. *Raises*: BadRecipe naming rules and tensors that match nothing."""
        graph = model.graph
        require_quick(tuple(r.regex for r in self.rules), tuple(name_of(graph, n) for n in graph.nodes))
        self._require_matches(graph)
        found = {n.index: [r.scheme for r in self.rules if r.matches(graph, n)] for n in graph.nodes}
        return {index: schemes[-1] if schemes else FLOAT32 for index, schemes in found.items()}

    def _require_matches(self, graph: Graph) -> None:
        idle = [r for r in self.rules if (r.index is not None or r.regex != ".*") and not any(r.names(graph, n) for n in graph.nodes)]
        if idle:
            where = f"rule for {idle[0].regex!r}" if idle[0].index is None else f"rule for op {idle[0].index}"
            raise BadRecipe(f"{len(idle)} rule(s) match no op", where=f"{self.name}: {where}", hint="The names of ops: `qsim inspect`")


Schemes = Scheme | Recipe | Mapping[int, Scheme]  # one for all nodes, or node index -> its own; nodes without one stay as they are


def schemes_of(model: Model, scheme: Schemes) -> Mapping[int, Scheme]:
    """The scheme of each node of the primary graph. *Raises*: BadRecipe."""
    if isinstance(scheme, Scheme):
        return {n.index: scheme for n in model.graph.nodes}
    return scheme.schemes(model) if isinstance(scheme, Recipe) else scheme


def border_of(scheme: Schemes, io: str | tuple[str, str] | None) -> tuple[str, str]:
    """Types of the model's inputs and of its outputs: as asked, where None as a recipe says, else float32."""
    if io is None:
        return (scheme.io if isinstance(scheme, Recipe) else None) or ("float32", "float32")
    return (io, io) if isinstance(io, str) else io


def name_of(graph: Graph, node: Node) -> str:
    """The names of a node's outputs, joined by ";"; of its inputs where it has none."""
    return ";".join(graph.tensors[t].name for t in node.outputs or node.inputs if t >= 0)


def load_recipe(path: str | Path) -> Recipe:
    """A recipe from JSON (a list of rules, as ai-edge-quantizer writes them, or an object) or TOML (the object's form).

    A list means what it means to ai-edge-quantizer 0.10: a rule for all ops is for those that the tool quantizes so, and others fall to
    the last earlier rule that is for them; without one they stay as they are. In an object the last rule that matches wins.
    The object: `io` (a type, or two), `rules` (tables with `regex`, `op`, `index`, `scheme`, a name or a table of `Scheme`'s axes),
    `tensors` (tables with `name` and `range`, or `scale` and `zero_point`), `ignore` (names that match stay as they are), `default`
    (the scheme of all ops, or another recipe file beside this one). *Raises*: BadRecipe naming file and entry.
    *Differs*: an op for which LiteRT has no kernel stays as it is, and the report says why, where ai-edge-quantizer writes the file.
    Its algorithms other than min/max, OCTAV and float casting are refused by name, and asymmetric weights without explicit DEQUANTIZE.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        found = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except (OSError, ValueError) as fault:
        raise BadRecipe("the recipe cannot be read", where=str(path), found=str(fault)) from None
    return parse_recipe(found, str(path))


def parse_recipe(found: Any, name: str = "recipe") -> Recipe:
    """A recipe from what JSON or TOML hold, see `load_recipe`. *Raises*: BadRecipe."""
    if isinstance(found, list):
        return _of_list(found, name, foreign.applies_to)
    _require_keys(found, ("io", "rules", "tensors", "ignore", "default"), name)
    before = _default(found["default"], name) if "default" in found else Recipe(())
    listed = _of_list(found.get("rules", []), name)
    ignored = tuple(Rule(FLOAT32, _regex(r, name)) for r in found.get("ignore", ()))
    tensors = tuple(_given(t, f"{name}: tensor {i + 1}") for i, t in enumerate(found.get("tensors", ())))
    io = _io(found["io"], name) if "io" in found else listed.io or before.io
    return Recipe((*before.rules, *listed.rules, *ignored), tensors, io, name)


def _default(value: Any, name: str) -> Recipe:
    if isinstance(value, str) and value.endswith((".json", ".toml")):
        return load_recipe(Path(name).parent / value)
    return Recipe((Rule(_scheme(value, f"{name}: default")),))


def _of_list(entries: Sequence[Any], name: str, limits: Limits = lambda entry, scheme: None) -> Recipe:
    """Rules in ai-edge-quantizer's order: those of one regex stand where its first one does, and one for all ops replaces them."""
    by_regex: dict[str, list[Rule]] = {}
    for i, entry in enumerate(entries):
        rule = _rule(entry, f"{name}: rule {i + 1}", limits)
        kept = [r for r in by_regex.get(rule.regex, ()) if rule.index is not None or rule.op not in (ANY, r.op) or r.index is not None]
        by_regex[rule.regex] = [*kept, rule]
    rules = [r for group in by_regex.values() for r in group]
    io = tuple(_border(rules, side) for side in BORDER)
    return Recipe(tuple(r for r in rules if r.op not in BORDER), (), io if None not in io else None, name)  # type: ignore[arg-type]


def _border(rules: Iterable[Rule], side: str) -> str | None:
    """The type that the rules of a list give the model's inputs or outputs: a rule for all ops counts; None without one, and where the
    type is a simulated one."""
    found = [r.scheme for r in rules if r.op in (ANY, side) and r.regex == ".*" and r.index is None]
    return found[-1].activation if found and not found[-1].is_simulated else None


def _rule(entry: Any, where: str, limits: Limits) -> Rule:
    keys = ("regex", "operation", "op", "index", "scheme", "algorithm_key", "op_config")
    _require_keys(entry, keys, where)
    op, regex = _op(str(entry.get("op", entry.get("operation", ANY))), where), _regex(entry.get("regex", ".*"), where)
    if "scheme" in entry:
        return Rule(_scheme(entry["scheme"], where), regex, op, entry.get("index"))
    scheme = _at(where, foreign.scheme_of, entry)
    return Rule(scheme, regex, op, entry.get("index"), limits(entry, scheme) if op == ANY else None)


def _op(name: str, where: str) -> str:
    """The schema's name of an op. *Raises*: BadRecipe with the nearest names."""
    name, known = foreign.OTHER_NAMES.get(name, name), {*schema().enums["BuiltinOperator"], *BORDER, ANY}
    if name not in known and not name.startswith("CUSTOM"):  # CUSTOM:name here, CUSTOM_OP in ai-edge-quantizer
        near = ", ".join(get_close_matches(name, sorted(known), n=3))
        raise BadRecipe("no such op", where=where, found=name, hint=f"Nearest: {near}" if near else "As `qsim inspect` names them")
    return name


def _scheme(value: Any, where: str) -> Scheme:
    """A scheme by name, or a table of its axes on top of a named `base` (int8)."""
    if not isinstance(value, Mapping):
        return _at(where, scheme_named, str(value))
    axes = {k: v for k, v in value.items() if k != "base"}
    base = _scheme(value.get("base", "int8"), where)
    try:
        return _at(where, replace, base, **{"name": "+".join([base.name, *axes]), **axes})
    except TypeError:
        raise BadRecipe("a scheme has no such axis", where=where, found=", ".join(axes)) from None


def _at(where: str, make: Callable[..., Scheme], *args: Any, **axes: Any) -> Scheme:
    """The scheme that a function makes; a refusal names the entry."""
    try:
        return make(*args, **axes)
    except BadRecipe as fault:
        fault.where = where
        raise


def _given(entry: Any, where: str) -> Given:
    _require_keys(entry, ("name", "range", "scale", "zero_point"), where)
    if ("range" in entry) == ("scale" in entry) or "name" not in entry:
        raise BadRecipe("give a name, and a range or a scale and zero point", where=where, found=", ".join(entry))
    if "scale" in entry:
        return Given(entry["name"], None, float(entry["scale"]), int(entry.get("zero_point", 0)))
    try:
        low, high = (float(v) for v in entry["range"])
    except (TypeError, ValueError):
        raise BadRecipe("a range is a pair (low, high)", where=where, found=entry["range"]) from None
    return Given(entry["name"], (low, high))


def _io(value: Any, where: str) -> tuple[str, str]:
    pair = (value, value) if isinstance(value, str) else tuple(value)
    if len(pair) != 2:
        raise BadRecipe("io is a type, or those of the inputs and of the outputs", where=where, found=value)
    return pair


def _regex(text: Any, where: str) -> str:
    try:
        re.compile(text)
    except (re.error, TypeError) as fault:
        raise BadRecipe("not a regular expression", where=where, found=f"{text!r} ({fault})") from None
    return text


def _require_keys(entry: Any, known: Sequence[str], where: str) -> None:
    if not isinstance(entry, Mapping):
        raise BadRecipe("a table is expected", where=where, found=type(entry).__name__)
    unknown = [k for k in entry if k not in known]
    if unknown:
        raise BadRecipe("unknown word", where=where, found=", ".join(map(str, unknown)), expected=", ".join(known))


def given_ranges(model: Model, tensors: Iterable[Given], types: Mapping[int, str]) -> Iterator[tuple[int, tuple[float, float] | QParams]]:
    """(tensor, range or parameters) of each given tensor; types: the element type that parameters are for. *Raises*: BadRange."""
    for given in tensors:
        t = model.graph.find(given.tensor)
        if given.range is not None:
            yield t, given.range
            continue
        low, high = code_range(types.get(t, "int8"))
        if not (0 < given.scale < float("inf") and low <= given.zero_point <= high):
            found = (given.scale, given.zero_point)
            raise BadRange("no such parameters", where=f"tensor {given.tensor!r}", found=found, expected=f"zero point in [{low}, {high}]")
        yield t, QParams(np.asarray([given.scale], np.float32), np.asarray([given.zero_point], np.int64), low, high)
