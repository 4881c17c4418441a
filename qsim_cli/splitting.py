"""Ties between tensors that `qsim quantize` cuts or proposes to cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .screen import table, text

if TYPE_CHECKING:
    from calibrate.splitting import Split
    from qsim.graph import Model
    from qsim.recipe import Schemes

    from .choosing import Choice

PROPOSED = "proposed"  # the name that stands for every proposal


def proposals(model: Model, found: Choice | None, scheme: Schemes) -> tuple[Split, ...]:
    """The cuts that help by the statistics behind a choice of ranges; none where there are no statistics."""
    from calibrate import propose_splits

    return () if found is None else propose_splits(model, found.stats, found.taken, scheme, found.domain)


def accepted(model: Model, scheme: Schemes, names: Sequence[str], proposed: Sequence[Split]) -> tuple[tuple[int, int], ...]:
    """The ties to cut: those proposed, where `proposed` is among the names, and those of the tensors named. *Raises*: BadRecipe."""
    from calibrate.splitting import splits_named

    named = splits_named(model, scheme, [n for n in names if n != PROPOSED])
    return tuple(dict.fromkeys([(s.node, s.position) for s in proposed if PROPOSED in names] + list(named)))


def with_splits(model: Model, found: Choice, scheme: Schemes, cuts: Sequence[tuple[int, int]]) -> Choice:
    """The choice with the ranges that its strategy gives once these ties are cut."""
    import calibrate

    if not cuts:
        return found
    return replace(found, ranges=calibrate.ranges(model, found.stats, found.taken, scheme, found.domain, cuts, found.dead_range))


def rows(proposed: Sequence[Split], cuts: Sequence[tuple[int, int]]) -> list[dict[str, Any]]:
    """Plain rows, for JSON."""
    return [{**s._asdict(), "accepted": (s.node, s.position) in cuts} for s in proposed]


def show(rows: Sequence[Mapping[str, Any]]) -> None:
    """The proposals with both costs, and how to accept them."""
    if not rows:
        return
    cells = (
        (r["tensor"], r["op"], r["readers_of"], f"{r['shared_db']:.1f} dB", f"{r['split_db']:.1f} dB", "yes" if r["accepted"] else "no")
        for r in rows
    )
    columns = ("tensor", "tied by", "readers of", "shared", "with QUANTIZE", "split")
    table("tensors that pay for a shared scale: signal to noise of what ops read, expected", columns, cells)
    if not all(r["accepted"] for r in rows):
        text("--split proposed gives them scales of their own")
