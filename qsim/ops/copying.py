"""Kernels that apply an op's real function to codes: what all ops that only move elements share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..errors import Unsupported
from ..op import FLAVOURS, Kernel, Plan, Site
from .common import require_tied

WHOLE = ("float32", "int8", "uint8", "int16", "int32", "int64")  # types that most of LiteRT's copying kernels have


def host_value(site: Site, position: int) -> np.ndarray | None:
    """Value of a static input, None where it is absent. Raises: Unsupported naming the input that is not known on the host."""
    if position >= len(site.inputs) or site.inputs[position] is None:
        return None
    value = site.values[position]
    if value is None:
        name = site.inputs[position].name  # type: ignore[union-attr]
        raise Unsupported(f"the value of input {position} ({name!r}) is not known before the model runs", where=site.where)
    return np.asarray(value)


def frozen(value: Any) -> Any:
    """An array of whole numbers as nested tuples (hashable)."""
    if value is None:
        return None
    return tuple(map(frozen, value)) if np.ndim(value) else int(value)


def copies(
    real: Callable[..., Any],
    types: Sequence[str],
    inputs: Sequence[str],
    outputs: Sequence[str],
    *,
    static: tuple[int, ...] = (),
    tied: Sequence[int] = (),
    tied_in: Sequence[str] = FLAVOURS,
    flavours: Sequence[str] = FLAVOURS,
    check: Callable[[Site], None] | None = None,
    note: str = "raw copy",
) -> tuple[Kernel, ...]:
    """One row per type (`T` in the patterns): `real` on codes, scales never read.

    static: positions whose host values go into the plan's static part. tied: inputs that must share the output's parameters, in the
    flavours `tied_in` (LiteRT refuses others there). flavours: those that have the op. check: raises for values that LiteRT cannot
    take. note: for `explain`.
    """

    def plan(site: Site, flavour: str) -> Plan:
        if flavour in tied_in:
            for y in site.outputs:
                require_tied(replace(site, outputs=(y,)), [site.inputs[p] for p in tied])
        if check is not None:
            check(site)
        return Plan(tuple(frozen(host_value(site, p)) for p in static), note=note)

    def run(options: Any, known: tuple, leaves: Any, *inputs: Any) -> Any:
        """Codes moved as the reals would be."""
        host = {p: None if v is None else np.asarray(v) for p, v in zip(static, known, strict=True)}
        return real(options, *(host.get(p, x) for p, x in enumerate(inputs)))

    def named(patterns: Sequence[str], t: str) -> tuple[str, ...]:
        return tuple(p.replace("T", t) for p in patterns)

    return tuple(Kernel(named(inputs, t), named(outputs, t), tuple(flavours), plan, run) for t in types)
