"""What a report shows of a sweep, as records: plain data in the store, checked when they come back. Losses are in `Found.unit`."""

from __future__ import annotations

from typing import Any

import msgspec

from qsim.errors import BadData

FORM = 1


class Tried(msgspec.Struct, frozen=True):
    """A candidate on the select split. behind: mean of (its loss - the winner's) on the samples both were scored on. draws: its mean loss
    with each choice of calibration samples. Every `*_error` is a standard error; None: not known."""

    candidate: str
    text: str
    activation: str
    rules: int
    weights: str
    correction: str
    per_channel: bool
    dead_range: bool
    samples: int
    select_samples: int
    select_loss: float | None
    select_error: float | None
    select_right: float | None
    select_right_error: float | None
    behind: float | None
    behind_error: float | None
    draws: list[float]
    test_loss: float | None
    test_error: float | None
    test_right: float | None
    winner: bool
    failed: str


class Finalist(msgspec.Struct, frozen=True):
    """A candidate on the test split. gain: mean of (the baseline's loss - its own). against_baseline: "better", "worse" (by more than two
    standard errors), "alike", or "itself". right: share of samples with the right label. The rest: `evaluation.verdict` against float."""

    candidate: str
    text: str
    loss: float
    error: float | None
    gain: float
    gain_error: float | None
    against_baseline: str
    right: float | None = None
    right_error: float | None = None
    lost: int | None = None
    won: int | None = None
    drop_points: float | None = None
    interval: list[float] | None = None
    not_inferior: bool | None = None


class Tensor(msgspec.Struct, frozen=True):
    """Tensors with one range (the first of them gives the name), with the winner. op: what computes it; "input" for the model's own.

    low, high: the chosen range; min, max: of the values seen. clipped: share of the values outside. sqnr_db: of rounding, clipping
    included; None without rounding error. counts: values in bins of equal width from min to max.
    """

    name: str
    tied: list[str]
    op: str
    strategy: str
    low: float
    high: float
    min: float | None
    max: float | None
    clipped: float
    sqnr_db: float | None
    counts: list[float]


class Layer(msgspec.Struct, frozen=True):
    """An op's output in the winner beside the float model's, all errors before it included. sqnr_db: None where both are equal."""

    op: str
    tensor: str
    sqnr_db: float | None


class Found(msgspec.Struct, frozen=True):
    """What was found for one scheme; see `sweeper.Outcome`. size: bytes, of what `sized` says."""

    scheme: str
    measure: str
    unit: str
    tried: list[Tried]
    tested: list[Finalist]
    baseline: Finalist
    float_right: float | None
    alike: int
    optimism: float
    notes: list[str]
    size: int
    sized: str
    tensors: list[Tensor]
    layers: list[Layer]


class Summary(msgspec.Struct, frozen=True):
    """A sweep of one model. samples: of each split."""

    form: int
    name: str
    model: str
    model_hash: str
    version: str
    ops: int
    float_size: int
    data: list[str]
    split: str
    samples: dict[str, int]
    schemes: list[Found]


def checked(data: Any, where: str = "") -> Summary:
    """A summary from plain data. *Raises*: BadData naming the place."""
    try:
        found = msgspec.convert(data, Summary)
    except msgspec.ValidationError as fault:
        raise BadData(
            f"not what a sweep keeps ({fault})", where=where, hint="Run the sweep again: results in the store are reused"
        ) from None
    if found.form != FORM:
        raise BadData("a summary of another form", where=where, found=found.form, expected=FORM, hint="Run the sweep again")
    return found
