"""Recipes: which op gets which scheme, which tensor which range. Rules go from general to particular: the last that matches wins."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from .errors import BadRange, BadRecipe
from .graph import Graph, Model, Node, QParams
from .scheme import DYNAMIC4, DYNAMIC8, FLOAT16, FLOAT32, INT8, INT8W4, INT16X8, WEIGHTS4, WEIGHTS8, Scheme, scheme_named
from .types import code_range

ANY = "*"
OTHER_NAMES = {"CONV_2D_TRANSPOSE": "TRANSPOSE_CONV"}  # ai-edge-quantizer's name -> the schema's
BORDER = ("INPUT", "OUTPUT")  # ops that a rule may name for the model's own inputs and outputs


@dataclass(frozen=True)
class Rule:
    """Ops of a kind (`op`: schema name, "*" for all) of which a name matches `regex` somewhere, or the op of an `index`: their scheme.

    The name of an op: the names of its outputs, joined by ";".
    """

    scheme: Scheme
    regex: str = ".*"
    op: str = ANY
    index: int | None = None

    def matches(self, graph: Graph, node: Node) -> bool:
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
    notes: tuple[str, ...] = field(default=())

    def schemes(self, model: Model) -> dict[int, Scheme]:
        """The scheme of each node of the primary graph. *Raises*: BadRecipe naming rules and tensors that match nothing."""
        graph = model.graph
        self._require_matches(graph)
        found = {n.index: [r.scheme for r in self.rules if r.matches(graph, n)] for n in graph.nodes}
        return {index: schemes[-1] if schemes else FLOAT32 for index, schemes in found.items()}

    def _require_matches(self, graph: Graph) -> None:
        idle = [r for r in self.rules if (r.index is not None or r.regex != ".*") and not any(r.matches(graph, n) for n in graph.nodes)]
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

    The object: `io` (a type, or two), `rules` (tables with `regex`, `op`, `index`, `scheme`, a name or a table of `Scheme`'s axes),
    `tensors` (tables with `name` and `range`, or `scale` and `zero_point`), `ignore` (names that match stay as they are), `default`
    (the scheme of all ops, or another recipe file beside this one). *Raises*: BadRecipe naming file and entry.
    *Differs*: ai-edge-quantizer falls back to an earlier rule where it has no way to quantize an op as the last one says; here such an
    op stays as it is, and the report says why. Its algorithms other than min/max and float casting are refused by name.
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
        return _of_list(found, name)
    _require_keys(found, ("io", "rules", "tensors", "ignore", "default"), name)
    before = _default(found["default"], name) if "default" in found else Recipe(())
    listed = _of_list(found.get("rules", []), name)
    ignored = tuple(Rule(FLOAT32, _regex(r, name)) for r in found.get("ignore", ()))
    tensors = tuple(_given(t, f"{name}: tensor {i + 1}") for i, t in enumerate(found.get("tensors", ())))
    io = _io(found["io"], name) if "io" in found else listed.io or before.io
    return Recipe((*before.rules, *listed.rules, *ignored), tensors, io, name, (*before.notes, *listed.notes))


def _default(value: Any, name: str) -> Recipe:
    if isinstance(value, str) and value.endswith((".json", ".toml")):
        return load_recipe(Path(name).parent / value)
    return Recipe((Rule(_scheme(value, f"{name}: default")),))


def _of_list(entries: Sequence[Any], name: str) -> Recipe:
    """Rules in ai-edge-quantizer's order: those of one regex stand where its first one does, and one for all ops replaces them."""
    by_regex: dict[str, list[tuple[Rule, int]]] = {}
    notes: list[str] = []
    for i, entry in enumerate(entries):
        rule = _rule(entry, f"{name}: rule {i + 1}", notes)
        kept = [
            (r, k) for r, k in by_regex.get(rule.regex, ()) if rule.index is not None or rule.op not in (ANY, r.op) or r.index is not None
        ]
        by_regex[rule.regex] = [*kept, (rule, i)]
    rules = [r for group in by_regex.values() for r, _ in group]
    io = tuple(_border(rules, side) for side in BORDER)
    return Recipe(tuple(r for r in rules if r.op not in BORDER), (), io if None not in io else None, name, tuple(notes))  # type: ignore[arg-type]


def _border(rules: Iterable[Rule], side: str) -> str | None:
    """The type that the rules of a list give the model's inputs or outputs: a rule for all ops counts; None without one, and where the
    type is a simulated one."""
    found = [r.scheme for r in rules if r.op in (ANY, side) and r.regex == ".*" and r.index is None]
    return found[-1].activation if found and not found[-1].is_simulated else None


def _rule(entry: Any, where: str, notes: list[str]) -> Rule:
    keys = ("regex", "operation", "op", "index", "scheme", "algorithm_key", "op_config")
    _require_keys(entry, keys, where)
    op = str(entry.get("op", entry.get("operation", ANY)))
    op, regex = OTHER_NAMES.get(op, op), _regex(entry.get("regex", ".*"), where)
    scheme = _scheme(entry["scheme"], where) if "scheme" in entry else _foreign(entry, where, notes)
    return Rule(scheme, regex, op, entry.get("index"))


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


def _foreign(entry: Mapping[str, Any], where: str, notes: list[str]) -> Scheme:
    """The scheme that an entry of ai-edge-quantizer's asks for. Its min/max weights are rounded to nearest."""
    key, config = entry.get("algorithm_key", "min_max_uniform_quantize"), entry.get("op_config") or {}
    if key == "no_quantize":
        return FLOAT32
    weight, data = config.get("weight_tensor_config") or {}, config.get("activation_tensor_config")
    bits = (
        data["num_bits"] if data else 32,
        weight.get("num_bits", 32),
        weight.get("dtype", "INT"),
        bool(config.get("explicit_dequantize")),
    )
    if key == "float_casting" and bits[1:3] == (16, "FLOAT"):
        return replace(FLOAT16, smallest=config.get("min_weight_elements", 0))
    if key != "min_max_uniform_quantize" or bits not in _FOREIGN:
        raise BadRecipe(
            f"algorithm {key!r} with these bits is not there", where=where, found=_words(bits), expected="min/max or no_quantize"
        )
    granularity = str(weight.get("granularity", "TENSORWISE"))
    block = int(granularity.rsplit("_", 1)[1]) if granularity.startswith("BLOCKWISE_") else int(weight.get("block_size", 0))
    axes = {"smallest": config.get("min_weight_elements", 0), "block": block, "per_channel": granularity != "TENSORWISE"}
    return _at(where, replace, _FOREIGN[bits], rounding="nearest", symmetric=bool(weight.get("symmetric", True)), **axes)


_FOREIGN = {  # (bits of activations, of weights, kind, explicit DEQUANTIZE)
    (8, 8, "INT", False): INT8,
    (8, 4, "INT", False): INT8W4,
    (16, 8, "INT", False): INT16X8,
    (32, 8, "INT", False): DYNAMIC8,
    (32, 4, "INT", False): DYNAMIC4,
    (32, 8, "INT", True): WEIGHTS8,
    (32, 4, "INT", True): WEIGHTS4,
}


def _words(bits: tuple[Any, ...]) -> str:
    return f"{bits[0]}-bit activations, {bits[1]}-bit {bits[2]} weights" + (", explicit DEQUANTIZE" if bits[3] else "")


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
