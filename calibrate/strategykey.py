"""What identifies a strategy in a store: text that is the same exactly where the ranges are."""

from __future__ import annotations

import hashlib
import inspect
import sys
from dataclasses import fields, is_dataclass
from fractions import Fraction
from functools import partial
from typing import Any

from qsim.errors import BadRecipe

from .strategies import Strategy, canonical

PLAIN = (str, int, float, bool, Fraction, type(None))
OURS = __name__.partition(".")[0]


def strategy_key(strategy: str | Strategy) -> str:
    """Canonical text of a strategy, of a name or of a function.

    A name in its shortest form: "mse:p=2" and "sqnr" are "mse". A function: module:qualname@ and the SHA-256 of its module's source, as
    what it calls there counts too; where a module has none (an interactive session) that of the function's own. A frozen dataclass with
    `__call__`, a `functools.partial`, a function with defaults: the same of the class or function, and the values; what `calibrate` itself
    defines has no hash. What a function imports from elsewhere is not in the key.

    *Raises*: BadRecipe where source cannot be had, or values are kept where they cannot be read: in a closure, or in another object.
    """
    if isinstance(strategy, str):
        return canonical(strategy)
    if isinstance(strategy, partial):
        keywords = [f"{k}={_value(v, strategy)}" for k, v in sorted(strategy.keywords.items())]
        return f"{strategy_key(strategy.func)}({', '.join([*(_value(v, strategy) for v in strategy.args), *keywords])})"
    if is_dataclass(strategy) and not isinstance(strategy, type):
        values = ", ".join(f"{f.name}={_value(getattr(strategy, f.name), strategy)}" for f in fields(strategy))
        return f"{_named(type(strategy))}({values})"
    if not inspect.isfunction(strategy):
        raise BadRecipe(
            "an object's state is not in its source", found=repr(strategy), hint="Take a function, a frozen dataclass or functools.partial"
        )
    if strategy.__closure__:
        raise BadRecipe(
            "what a closure holds is not in a function's source", found=strategy.__qualname__,
            hint="functools.partial, or a frozen dataclass with __call__, shows its values",
        )  # fmt: skip
    defaults = (*(strategy.__defaults__ or ()), *(strategy.__kwdefaults__ or {}).values())
    return _named(strategy) + (_value(defaults, strategy) if defaults else "")


def _value(value: Any, of: Any) -> str:
    """Text of a value that text can stand for; a strategy inside another by its own key."""
    if isinstance(value, PLAIN):
        return repr(value)
    if isinstance(value, tuple):
        return f"({', '.join(_value(v, of) for v in value)})"
    if callable(value):
        return strategy_key(value)
    raise BadRecipe("a strategy's values are numbers, text, tuples of them, or strategies", where=repr(of), found=type(value).__name__)


def _named(what: Any) -> str:
    name = f"{what.__module__}:{what.__qualname__}"
    return name if what.__module__.partition(".")[0] == OURS else f"{name}@{hashlib.sha256(_source(what).encode()).hexdigest()}"


def _source(what: Any) -> str:
    """*Raises*: BadRecipe."""
    for part in (sys.modules.get(what.__module__), what):
        try:
            return inspect.getsource(part)  # type: ignore[arg-type]
        except (OSError, TypeError):
            continue
    raise BadRecipe("its source cannot be had, so nothing tells its versions apart", found=what.__qualname__, hint="Put it into a file")
