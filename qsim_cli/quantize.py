"""`qsim quantize`: a float model to an int8 one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from . import options as o
from .screen import cells, emit, say, table, text, warn

if TYPE_CHECKING:
    from qsim.graph import Model

    from .choosing import Choice, Request

Target = Annotated[Path, Parameter(name=["--output", "-o"], help="The .tflite to write.")]
OptionalData = Annotated[Path | None, Parameter(help="Representative data: .npz, .npy, or a folder of images. Or give --ranges.")]
RangesIn = Annotated[Path | None, Parameter(help="RANGES.json of `qsim calibrate` (or ai-edge-quantizer's calibration result).")]
Ends = Annotated[Literal["float32", "int8", "uint8"], Parameter(help="Type of the model's inputs and outputs.")]


def command(
    model: o.Model,
    /,
    *,
    output: Target,
    data: OptionalData = None,
    ranges: RangesIn = None,
    scheme: o.SchemeName = "int8",
    strategy: o.Strategy = "auto",
    io: Ends = "float32",
    input_range: o.InputRange = None,
    input_scale: o.InputScale = None,
    input_offset: o.InputOffset = None,
    groups: o.Groups = None,
    task: o.Task = None,
    device: o.Device = "auto",
    force: o.Force = False,
    json: o.Json = False,
) -> int:
    """Turn a float model into an int8 one that LiteRT runs: from data (calibrating first), or from ranges chosen before."""
    from qsim import load, quantize, save
    from qsim.errors import BadRecipe

    from .outputs import may_write

    if (data is None) == (ranges is None):
        raise BadRecipe("give --data or --ranges", found="both" if data else "neither")
    may_write(output, [p for p in (model, data, ranges) if p is not None], force)
    loaded = load(model)

    from .choosing import Request, choose_ranges, scheme_of
    from .computing import choose_device
    from .values import Affine

    choose_device(device)
    asked = None if data is None else Request(data, strategy, scheme, Affine(input_scale, input_offset), input_range, task, groups)
    found = choose_ranges(loaded, asked) if asked else None
    made = quantize(loaded, found.ranges if found else _read(ranges, loaded), scheme_of(scheme), io=io)
    save(made, output, force=force)
    told = _tried(made, asked)
    for line in told:
        warn(line)
    _report(made, output, found, told, json)
    return 0


def _read(path: Any, model: Model) -> Any:
    import calibrate

    return calibrate.load_ranges(path, model)


def _tried(made: Model, asked: Request | None) -> list[str]:
    """Run the new model on some of the data, exactly, and tell what looks wrong."""
    if asked is None:
        return []
    from .computing import TRIED, function_of
    from .samples import read
    from .values import Affine
    from .watch import Watch

    affine = Affine(asked.affine.scale or 1.0, asked.affine.offset or 0.0)  # given: the data are reals, whatever the new input stores
    samples = read(asked.data, made, "integer", affine)
    watch, inputs = Watch(made, "integer"), samples.part(0, min(TRIED, len(samples)))
    watch.take(inputs, function_of(made, "integer", "xnnpack", None).batch(*inputs))
    return watch.warnings()


def _report(made: Model, output: Path, found: Choice | None, told: list[str], json: bool) -> None:
    """What was done: the compared strategies, changed ranges, guarded channels, and the ops that stay float (tensors: `qsim inspect`)."""
    from dataclasses import asdict

    report = made.report
    size, choice = output.stat().st_size, {} if found is None else found.facts()
    sections = {title: [asdict(row) for row in rows] for title, rows in report.sections().items()}
    if json:
        facts = {"output": str(output), "bytes": size, "scheme": report.scheme, "io": report.io}
        return emit({**facts, **choice, **sections, "notes": list(report.notes), "warnings": told})
    if found:
        found.show()
    for title, rows in sections.items():
        if rows and title not in ("ops", "tensors"):
            table(title, list(rows[0]), (cells(row) for row in rows))
    for row in report.kept_float:
        say(f"note: op {row.index} {row.op} ({row.output}) stays as it was: {row.reason}")
    for note in report.notes:
        say(f"note: {note}")
    done = f"{len(report.ops) - len(report.kept_float)} of {len(report.ops)} ops quantized"
    text(f"wrote {output}: {size:,} bytes, {done} ({report.scheme}, {report.io} in and out)")
