"""`qsim calibrate`: ranges of a float model from data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from . import options as o
from .screen import emit, table, text

Ranges = Annotated[
    Path, Parameter(name=["--output", "-o"], help="File to write: .json, .csv, or .tflite (the model with min and max in it).")
]
Form = Annotated[
    Literal["qsim", "aeq", "csv", "tflite"] | None,
    Parameter(name=["--format", "--form"], help="Form of the file (default: by its name); aeq: ai-edge-quantizer's calibration result."),
]


def command(
    model: o.Model,
    /,
    *,
    data: o.Data,
    output: Ranges,
    strategy: o.Strategy = "auto",
    scheme: o.SchemeName = "int8",
    recipe: o.RecipeFile = None,
    input_range: o.InputRange = None,
    input_scale: o.InputScale = None,
    input_offset: o.InputOffset = None,
    groups: o.Groups = None,
    limit: o.Limit = None,
    shuffle: o.Shuffle = None,
    task: o.Task = None,
    dead_range: o.DeadRange = False,
    form: Form = None,
    device: o.Device = "auto",
    force: o.Force = False,
    json: o.Json = False,
) -> int:
    """Choose the ranges of a float model from representative data, and write them as a file (edit or reuse with `qsim quantize`)."""
    from qsim import load

    from .computing import choose_device
    from .outputs import may_write

    may_write(output, (model, data), force)
    loaded = load(model)
    choose_device(device)

    import calibrate

    from .choosing import Request, choose_ranges, scheme_of
    from .samples import Pick
    from .values import Affine

    affine, pick = Affine(input_scale, input_offset), Pick(limit, shuffle, groups)
    asked = Request(data, strategy, scheme_of(scheme, recipe), affine, input_range, task, pick, dead_range)
    found = choose_ranges(loaded, asked)
    calibrate.save_ranges(output, found.ranges, form=form, model=loaded, strategy=found.words, force=force)
    if json:
        emit({"output": str(output), **found.facts(), "ranges": {k: list(v) for k, v in found.ranges.items()}})
        return 0
    found.show()
    rows = ((k, f"{low:.6g}", f"{high:.6g}") for k, (low, high) in found.ranges.items())
    table(f"ranges by {found.words} from {found.samples} samples, real units", ("tensor", "low", "high"), rows, numeric=("low", "high"))
    text(f"wrote {output}")
    return 0
