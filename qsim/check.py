"""What makes a model legal: named predicates, each a generator of problems in words.

FAULTS are what no runtime gives a meaning: load and write refuse them. RULES are what quantized kernels assume and files sometimes
break: a note on load, refused by `save` where the model did not already have it. `check` lists both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from .checks import faults, indices, rules
from .checks.faults import place, shown, tensor_place
from .errors import Invalid
from .graph import Model

Predicate = Callable[[Model], Iterator[str]]
MEANING = (*faults.MEANING, indices.indices_inside)


def check(model: Model) -> list[str]:
    """Everything that is wrong or doubtful, in words, each with its place. Empty for a legal model."""
    return _all(faults.STRUCTURE, model) or _all((*MEANING, *rules.RULES), model)


def require(model: Model) -> None:
    """*Raises*: Invalid with everything `check` finds."""
    _raise(check(model))


def reject(model: Model) -> None:
    """*Raises*: Invalid with the faults alone: what no runtime could give a meaning."""
    _raise(_all(faults.STRUCTURE, model) or _all(MEANING, model))


def warnings(model: Model) -> list[str]:
    """The broken rules of a model without faults."""
    return _all(rules.RULES, model)


def _all(predicates: tuple[Predicate, ...], model: Model) -> list[str]:
    return [problem for predicate in predicates for problem in predicate(model)]


def _raise(problems: list[str]) -> None:
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise Invalid("; ".join(problems[:3]) + more)


__all__ = ["check", "place", "reject", "require", "shown", "tensor_place", "warnings"]
