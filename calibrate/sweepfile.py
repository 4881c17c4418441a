"""A sweep written down: TOML to jobs, candidates and the search."""

from __future__ import annotations

import itertools
import tomllib
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from qsim.errors import BadRecipe
from qsim.scheme import scheme_named

from .candidates import Candidate, grid, is_own, strategies_of
from .choosing import TASKS
from .ranking import PROXIES
from .scoring import Job
from .splits import SHARES
from .strategies import candidates as usual
from .sweeper import OBJECTIVES, Search

EXAMPLE = """model = "net.tflite"          # or a list of them
data = "images.npz"           # one set, which is split; or [calibrate, select, test]

[grid]                        # every combination of these is a candidate
scheme = ["int8"]
activation = ["minmax", "mse", "percentile:99.99"]
"""


class Split(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How one data set becomes three; see `three_way`."""

    parts: tuple[float, float, float] = SHARES
    groups: str | None = None
    blocks: int = 0
    seed: int = 0


class Grid(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Axes of `Candidate`. bits: also simulated schemes with so many bits for activations and weights (weights: at most 8)."""

    scheme: tuple[str, ...] | None = None
    bits: tuple[int, ...] = ()
    activation: tuple[str, ...] | None = None
    weights: tuple[str, ...] = ("max",)
    correction: tuple[str, ...] = ("no",)
    per_channel: tuple[bool, ...] = (True,)
    dead_range: tuple[bool, ...] = (False,)
    samples: tuple[int, ...] = (0,)


class Axis(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Strategies for some tensors alone; see the selectors of `Candidate`."""

    select: str
    activation: tuple[str, ...]


class File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a sweep's file may hold."""

    model: str | list[str]
    data: str | tuple[str, str, str]
    scale: float = 1.0
    offset: float = 0.0
    input_range: tuple[float, float] | None = None
    task: str | None = None
    label_offset: int = 0
    gradients: int = 1
    split: Split = Split()
    grid: Grid = Grid()
    rule: tuple[Axis, ...] = ()
    search: dict[str, Any] = {}


class Plan(NamedTuple):
    """jobs: one for each model."""

    jobs: list[Job]
    candidates: list[Candidate]
    search: Search


def load_plan(path: str | Path, *, kept: str = "", plugins: bool = False) -> Plan:
    """The sweep of a TOML file; paths in it start from its folder.

    kept: folder where statistics are kept. plugins: whether strategies may be module:function, which runs that module. *Raises*:
    BadRecipe naming file and entry.
    """
    path = Path(path)
    try:
        found = msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), File)
    except (OSError, ValueError, msgspec.ValidationError) as fault:
        hint = "" if path.exists() else f"A first one:\n{EXAMPLE}"
        raise BadRecipe(f"not a sweep's file ({fault})", where=str(path), hint=hint) from fault
    try:
        candidates = _candidates(found)
        own = [s for s in strategies_of(candidates) if is_own(s)]
        if own and not plugins:
            raise BadRecipe("a file may not name code to run", found=", ".join(own), hint="--allow-plugins allows it")
        return Plan(_jobs(found, path.parent, kept), candidates, _search(found.search))
    except BadRecipe as fault:
        fault.where = f"{path}: {fault.where}" if fault.where else str(path)
        raise


def _jobs(found: File, folder: Path, kept: str) -> list[Job]:
    _require_sense(found)
    data = (found.data,) if isinstance(found.data, str) else found.data
    models = [found.model] if isinstance(found.model, str) else found.model
    split = {f: getattr(found.split, f) for f in Split.__struct_fields__}
    common = {f: getattr(found, f) for f in ("scale", "offset", "input_range", "task", "label_offset", "gradients")}
    paths = tuple(str((folder / d).resolve()) for d in data)
    return [Job(str((folder / m).resolve()), paths, kept=kept, **common, **split) for m in models]


def _require_sense(found: File) -> None:
    """*Raises*: BadRecipe."""
    low, high = found.input_range or (0.0, 1.0)
    faults = {
        "model": not found.model, "scale": found.scale == 0, "gradients": found.gradients < 0, "input_range": not low < high,
        "task": found.task not in (None, *TASKS), "[split] blocks": found.split.blocks < 0,
        "[split] groups": bool(found.split.groups and found.split.blocks),
    }  # fmt: skip
    for name, fault in faults.items():
        if fault:
            value = getattr(found.split if "[" in name else found, name.rpartition(" ")[2])
            raise BadRecipe("not a value of it" if "groups" not in name else "give groups or blocks", where=name, found=value)


def _candidates(found: File) -> list[Candidate]:
    simulated = [f"sim:a{b}w{min(b, 8)}" for b in found.grid.bits]
    named = found.grid.scheme if found.grid.scheme is not None else () if simulated else ("int8",)
    schemes = [*named, *simulated]
    if not schemes:
        raise BadRecipe("an axis without values", where="axis 'scheme'", hint="Leave it out, or give one value")
    rules = list(itertools.product(*([(axis.select, s) for s in axis.activation] for axis in found.rule)))
    axes = {f: getattr(found.grid, f) for f in ("weights", "correction", "per_channel", "dead_range", "samples")}
    activation = usual() if found.grid.activation is None else found.grid.activation
    made = [grid({"scheme": [s], "activation": activation, "rules": rules, **_legal(axes, s)}) for s in schemes]
    return list(dict.fromkeys(c for part in made for c in part))


def _legal(axes: dict[str, list[Any]], scheme: str) -> dict[str, list[Any]]:
    """Corrections are for schemes with integer kernels."""
    return {**axes, "correction": ["no"]} if scheme_named(scheme).is_simulated else axes


def _search(found: dict[str, Any]) -> Search:
    kinds = {f.name: type(f.default) for f in fields(Search)}
    for name, value in found.items():
        if name not in kinds:
            raise BadRecipe("unknown entry", where="[search]", found=name, expected=", ".join(kinds))
        if type(value) is not kinds[name] or (isinstance(value, int) and value < (name != "descent")):
            raise BadRecipe("not a value of it", where=f"[search] {name}", found=value, expected=kinds[name].__name__)
    made = replace(Search(), **found)
    for name, known in (("proxy", ("", *PROXIES)), ("objective", OBJECTIVES)):
        if getattr(made, name) not in known:
            raise BadRecipe("not a value of it", where=f"[search] {name}", found=getattr(made, name), expected=", ".join(known[-3:]))
    return made
