"""`correct`: biases corrected and weights rounded on data, where held-back samples say that it helps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from qsim.errors import BadRecipe
from qsim.function import Function
from qsim.graph import Model

from .choosing import FEWEST, MEASURES, Repeatable, Row, Table, held_back
from .correction import correct_bias, require_finite, some_samples, stored_pairs
from .evaluation import standard_error
from .trials import Bench
from .weightrounding import round_weights

Arrays = tuple[np.ndarray, ...]
HOW = ("no", "bias", "weights")


def correct(
    source: Model,
    made: Model,
    batches: Any,
    how: str = "auto",
    *,
    task: str | None = None,
    groups: Sequence[Any] | None = None,
    samples: int = 512,
    progress: Callable[[int], None] | None = None,
) -> tuple[Model, Table]:
    """A quantized model brought closer to the float model that it was quantized from, and how it was decided.

    how: "bias" (`correct_bias`), "weights" (`round_weights`, then `correct_bias`), "no", or "auto": the one of no, bias and weights with
    the smallest mean loss on held-back samples, the first of equals. (`choose` keeps to min/max within a standard error; a correction
    is likelier to help than not, and few samples seldom prove it.) The fifth of the samples that `choose` holds back (`groups` as there)
    judges, by `choose`'s loss for `task`, and the rest corrects (at most `samples` of them). Fewer than 32 samples, or a single group:
    "auto" is "no". *Raises*: as those; BadRecipe for another word.
    """
    if how not in (*HOW, "auto"):
        raise BadRecipe("unknown correction", found=how, expected=", ".join((*HOW, "auto")))
    if how == "no" or not list(stored_pairs(source, made)):
        return made, _settled("no", "corrections: no, as asked" if how == "no" else "corrections: no op has integer weights and data")
    if how != "auto":
        return corrected(source, made, [some_samples(source, batches, samples)], how, samples, progress), _settled(how)
    parts = _parts(source, batches, groups)
    if not len(parts.held[0]):
        return made, _settled("no", "corrections: too few samples to hold some back and compare")
    fit = tuple(x[:samples] for x in parts.rest)
    functions: list[Function] = []
    found = [corrected(source, made, [fit], name, samples, progress, functions) for name in HOW]
    bench = Bench(source, task)
    reference = bench.reference(parts.held)
    losses = np.stack([bench.losses(reference, bench.outputs(m, parts.held)) for m in found])
    chosen = int(np.argmin(losses.mean(axis=1)))
    return found[chosen], _table(bench.measure, losses, chosen, parts)


def corrected(
    source: Model,
    made: Model,
    batches: Any,
    how: str,
    samples: int,
    progress: Callable[[int], None] | None = None,
    functions: list[Function] | None = None,
) -> Model:
    """The model corrected in one way. how: one of `HOW`. functions: as in `correct_bias`."""
    if how == "weights":
        made = round_weights(source, made, batches, samples=samples, progress=progress)[0]
    return made if how == "no" else correct_bias(source, made, batches, samples=samples, progress=progress, functions=functions)[0]


class _Parts(NamedTuple):
    """Samples to correct on, held-back samples, and the groups of the latter."""

    rest: Arrays
    held: Arrays
    groups: np.ndarray | None


def _parts(model: Model, batches: Any, groups: Sequence[Any] | None) -> _Parts:
    source = Repeatable(model, batches)
    hashes = source.contents()
    ids = source.groups(groups, len(hashes))
    held = held_back(hashes, ids) if len(hashes) >= FEWEST else np.zeros(len(hashes), bool)
    arrays = tuple(np.concatenate(column) for column in zip(*(b.arrays for b in source.fed()), strict=True))
    require_finite(arrays)
    return _Parts(tuple(x[~held] for x in arrays), tuple(x[held] for x in arrays), None if ids is None else ids[held])


def _settled(how: str, words: str = "") -> Table:
    return Table("", (Row(how, float("nan"), 0.0, 0.0, True),), 0, 0, words or f"corrections: {how}, as asked")


def _table(measure: str, losses: np.ndarray, chosen: int, parts: _Parts) -> Table:
    difference = losses - losses[chosen]
    rows = [
        Row(name, float(row.mean()), float(d.mean()), standard_error(d, parts.groups), k == chosen)
        for k, (name, row, d) in enumerate(zip(HOW, losses, difference, strict=True))
    ]
    counts = len(parts.rest[0]), len(parts.held[0])
    words = f"corrections: {HOW[chosen]}, the best {MEASURES[measure]} on {counts[1]} held-back samples"
    return Table(measure, tuple(rows), *counts, words)
