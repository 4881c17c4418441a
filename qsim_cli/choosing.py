"""From data to ranges, as `calibrate` and `quantize` share it: reading, the one pass, the strategy or the choice, what to tell."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

import calibrate
from calibrate.choosing import Table, choose_with_statistics
from calibrate.statistics import Statistics
from calibrate.strategies import TABLE, parse
from qsim.errors import BadRecipe, Unsupported
from qsim.graph import Model
from qsim.layout import layout
from qsim.recipe import Recipe, Schemes, load_recipe
from qsim.scheme import INT8, Scheme, scheme_named

from .samples import ALL, Pick, Samples, declared_domain, read
from .screen import cells, progress, say, table
from .values import Affine

BATCH = 256  # samples read at once
NAMES = ("auto", *TABLE)


@dataclass(frozen=True, eq=False)
class Request:
    """What the user asked for: the options that `qsim calibrate` and `qsim quantize --data` share."""

    data: Path
    strategy: str = "auto"
    scheme: Schemes = INT8
    affine: Affine = field(default_factory=Affine)
    input_range: tuple[float, float] | None = None
    task: str | None = None
    pick: Pick = ALL
    dead_range: bool = False


@dataclass(frozen=True, eq=False)
class Choice:
    """ranges: {tensor key: (low, high)}. words: the strategy. rows: the strategies that `auto` compared. notes: what was assumed.
    taken: the strategy itself; stats: what it saw; domain: the declared range of the input; dead_range: whether it saw that."""

    ranges: Mapping[str, tuple[float, float]]
    words: str
    samples: int
    rows: list[dict[str, Any]]
    notes: tuple[str, ...]
    taken: Any
    stats: Statistics
    domain: Any
    dead_range: bool = False

    def show(self) -> None:
        """Print how it was decided: the compared strategies, the chosen one marked."""
        if self.rows:
            shown = [{**r, "chosen": "*" if r.get("chosen") else ""} for r in self.rows]
            table("strategies compared", list(shown[0]), (cells(r) for r in shown))

    def facts(self) -> dict[str, Any]:
        return {"strategy": self.words, "samples": self.samples, "candidates": self.rows, "assumed": list(self.notes)}


class Batches:
    """Samples as batches that can be gone through again."""

    def __init__(self, samples: Samples):
        self.samples = samples

    def __iter__(self) -> Iterator[tuple[np.ndarray, ...]]:
        return self.samples.batches(BATCH)


def scheme_of(
    name: str,
    recipe: Path | None = None,
    *,
    per_tensor: bool = False,
    asymmetric: bool = False,
    smallest: int | None = None,
    weights: str = "max",
) -> Schemes:
    """The scheme of a name with options, or a recipe. *Raises*: BadRecipe."""
    options = {"--per-tensor": per_tensor, "--asymmetric": asymmetric, "--smallest": smallest is not None, "--weights": weights != "max"}
    if recipe is not None:
        if any(options.values()):
            raise BadRecipe(
                f"{', '.join(k for k, v in options.items() if v)} goes with --scheme",
                where=str(recipe),
                hint="Write the axes into the recipe",
            )
        return load_recipe(recipe)
    found = scheme_named(name)
    found = replace(found, per_channel=found.per_channel and not per_tensor, symmetric=not asymmetric, clip=weights)
    return found if smallest is None else replace(found, smallest=smallest)


def require_kernels(scheme: Schemes) -> None:
    """*Raises*: Unsupported for a scheme that no file can hold, before any work."""
    schemes = [scheme] if isinstance(scheme, Scheme) else [r.scheme for r in scheme.rules] if isinstance(scheme, Recipe) else []
    name = next((s.name for s in schemes if s.is_simulated), None)
    if name is not None:
        raise Unsupported(f"scheme {name!r} is simulated: no file can hold it", hint="qsim.quantize in Python, and fake mode")


def needs_ranges(model: Model, scheme: Schemes) -> bool:
    """Whether a scheme quantizes any activation of a model."""
    return model.is_quantized or bool(layout(model, scheme).groups)


def strategy_of(text: str) -> Any:
    """A strategy's name, or for `module:function` that function (typed by the user, so its module may be imported)."""
    module, _, name = text.partition(":")
    if module in NAMES or not name.isidentifier():
        if text != "auto":
            parse(text)
        return text
    return imported(text, ", ".join(NAMES) + " or module:function")


def imported(text: str, expected: str = "module:function") -> Any:
    """What `module:name` names, typed by the user (so its module may be imported). *Raises*: BadRecipe."""
    module, _, name = text.partition(":")
    sys.path.insert(0, os.getcwd())
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as fault:
        raise BadRecipe(f"nothing is named {text!r}: {fault}", expected=expected) from fault
    finally:
        sys.path.pop(0)


def choose_ranges(model: Model, asked: Request) -> Choice:
    """Ranges of a float model by the asked strategy. *Raises*: as `calibrate.observe`, `calibrate.ranges` and `calibrate.choose`."""
    scheme = asked.scheme
    strategy = strategy_of(asked.strategy)
    if model.is_quantized:
        raise Unsupported("the model is quantized already; calibrating needs a float source", where=model.path)
    samples = read(asked.data, model, "float", asked.affine, asked.pick)
    domain, why = _domain(samples, asked)
    for note in (*samples.notes, why):
        say(f"note: {note}")
    if asked.strategy == "auto":
        return _auto(model, samples, asked, scheme, domain, why)
    with progress("observing", len(samples)) as step:
        draws = int(asked.strategy.partition(":")[0] == "fisher")
        stats = calibrate.observe(model, Batches(samples), progress=steps(step), gradients=draws, task=asked.task if draws else None)
    ranges = calibrate.ranges(model, stats, strategy, scheme=scheme, input_range=domain, dead_range=asked.dead_range)
    return _chosen(ranges, asked.strategy, samples, [], (why,), (strategy, stats, domain, asked.dead_range))


def corrected(model: Model, made: Model, asked: Request, how: str) -> tuple[Model, Table]:
    """(the quantized model, corrected as asked, and how it was decided)."""
    samples = read(asked.data, model, "float", asked.affine, asked.pick)
    with progress("correcting", None) as step:
        return calibrate.correct(model, made, Batches(samples), how, task=asked.task, groups=samples.groups, progress=step)


def _auto(model: Model, samples: Samples, asked: Request, scheme: Schemes, domain: Any, why: str) -> Choice:
    with progress("comparing strategies", None) as step:
        ranges, compared, stats = choose_with_statistics(
            model, Batches(samples), scheme, task=asked.task, groups=samples.groups, input_range=domain, progress=steps(step),
            dead_range=asked.dead_range,
        )  # fmt: skip
    words, seen = f"auto, {compared.chosen}", (compared.chosen, stats, domain, asked.dead_range)
    return _chosen(ranges, words, samples, compared.rows(), (why, compared.words, *compared.notes), seen)


def _chosen(
    ranges: Any, words: str, samples: Samples, rows: list[dict[str, Any]], notes: tuple[str, ...], seen: tuple[Any, Statistics, Any, bool]
) -> Choice:
    """The choice, with what the calibration itself noted told as well."""
    for note in (*notes[1:], *ranges.notes):
        say(f"note: {note}")
    return Choice(ranges, words, len(samples), rows, (*samples.notes, *notes, *ranges.notes), *seen)


def steps(step: Any) -> Any:
    """`progress` of `observe` tells the count so far; a bar wants the increase."""
    seen = 0

    def told(done: int) -> None:
        nonlocal seen
        step(done - seen)
        seen = done

    return told


def _domain(samples: Samples, asked: Request) -> tuple[tuple[float, float] | None, str]:
    """(range of the model's input, how it came about)."""
    if asked.input_range is not None:
        return asked.input_range, f"input range {asked.input_range[0]:g} .. {asked.input_range[1]:g}, as declared"
    declared = declared_domain(samples, asked.affine)
    if declared is None:
        return None, "the input's range is what the data show; --input-range declares it"
    return declared, f"input range {declared[0]:g} .. {declared[1]:g}: all that {samples.stored[0]} data can hold"
