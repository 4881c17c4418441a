"""What `qsim quantize` does before it quantizes: folding, ranges the file or the recipe brings along, types of inputs and outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from qsim import recipe
from qsim.errors import BadRecipe
from qsim.graph import Model
from qsim.recipe import Schemes
from qsim.scheme import Scheme

if TYPE_CHECKING:
    from calibrate.splitting import Split

    from .choosing import Choice, Request

Pair = tuple[float, float]


class Ranged(NamedTuple):
    """Ranges to quantize with, the choice that they come from (None without data), ties proposed and taken to be cut, what to tell."""

    ranges: Mapping[str, Pair]
    found: Choice | None = None
    proposed: tuple[Split, ...] = ()
    cuts: tuple[tuple[int, int], ...] = ()
    told: tuple[str, ...] = ()


def with_ranges(
    model: Model,
    scheme: Schemes,
    asked: Request | None,
    path: Path | None,
    own: Mapping[str, Pair],
    default: Pair | None,
    split: Sequence[str],
) -> Ranged:
    """The ranges of a request to calibrate, or of a file, completed. *Raises*: BadRecipe where nothing gives any; as `settled`."""
    import calibrate

    from .choosing import choose_ranges
    from .splitting import accepted, proposals, with_splits

    if asked is None and path is None and default is None and not own:
        raise BadRecipe("give --data or --ranges", found="neither", hint="Or --default-range for every tensor")
    found = choose_ranges(model, asked) if asked else None
    proposed = proposals(model, found, scheme)
    cuts = accepted(model, scheme, split, proposed)
    found = None if found is None else with_splits(model, found, scheme, cuts)
    given = found.ranges if found else {} if path is None else calibrate.load_ranges(path, model)
    ranges, told = settled(model, given, own, scheme, default)
    return Ranged(ranges, found, proposed, cuts, tuple(told))


def prepared(path: Path, fold: str | None) -> tuple[Model, dict[str, Pair], list[str]]:
    """(the model without FAKE_QUANT ops and folded as asked, ranges that it brought along, what to tell)."""
    from qsim import load
    from qsim.folding import ALL
    from qsim.folding import fold as folded
    from qsim.given import without_fake_quant

    loaded = load(path)
    if any(t.qparams is not None and t.type != "float32" for t in loaded.graph.tensors):
        return loaded, {}, []
    taken = without_fake_quant(loaded)
    told = [f"{len(taken.ranges)} ranges are those that the file brings along"] if taken.ranges else []
    if fold is None:
        return taken.model, taken.ranges, told
    made, rows = folded(taken.model, ALL if fold == "all" else tuple(fold.split(",")))
    ranges = {k: v for k, v in taken.ranges.items() if k in {made.graph.key(t.index) for t in made.graph.tensors}}
    return made, ranges, [*told, *map(str, rows)]


def border_of(scheme: Schemes, io: str | None, inputs: str | None, outputs: str | None) -> tuple[str, str]:
    """Types of the model's inputs and outputs: as asked, by any of their names; else the recipe's; else float32."""
    from calibrate.legacy import element_type

    both = recipe.border_of(scheme, io)
    first, last = (element_type(t) for t in (inputs or both[0], outputs or both[1]))
    return first, last


def input_domain(declared: Pair | None, stats: Pair | None, border: tuple[str, str], scheme: Schemes) -> Pair | None:
    """The declared range of the input, or that of its (mean, std) as codes of its type. *Raises*: BadRecipe where both are given."""
    from calibrate.legacy import stats_range

    if declared is not None and stats is not None:
        raise BadRecipe("give --input-range or --input-stats", found="both")
    if stats is None:
        return declared
    inner = scheme.activation if isinstance(scheme, Scheme) else "int8"
    return stats_range(*stats, border[0] if border[0] != "float32" else inner)


def settled(
    model: Model, ranges: Mapping[str, Pair], own: Mapping[str, Pair], scheme: Schemes, default: Pair | None
) -> tuple[dict[str, Pair], list[str]]:
    """(ranges completed: those that the file brings along, then those of the recipe, go before calibrated ones; what to tell)."""
    from calibrate.lacking import require, with_default
    from qsim.quantizer import recipe_ranges

    found = {**ranges, **own, **recipe_ranges(model, scheme)}
    if default is None:
        require(model, found, scheme)
        return found, []
    completed, notes = with_default(model, found, default, scheme)
    return completed, list(notes)
