"""`qsim requantize`: a better file from one that is quantized already, or the float model that it stands for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from . import options as o
from .screen import cells, emit, progress, say, table, text

if TYPE_CHECKING:
    from calibrate.requantizing import Asked, Verdict
    from qsim.graph import Model

    from .samples import Samples
    from .values import Affine

Target = Annotated[Path | None, Parameter(name=["--output", "-o"], help="The .tflite to write; not needed with --dry-run.")]
OptionalData = Annotated[Path | None, Parameter(help="Representative data: .npz, .npy, or a folder of images; labels (y) are used.")]
Only = Annotated[str | None, Parameter(help="Change only tensors whose name matches this regular expression.")]
Keep = Annotated[str | None, Parameter(help="Leave tensors whose name matches this regular expression.")]
KeepIo = Annotated[bool, Parameter(name="--keep-io", negative="", help="Leave the parameters of integer inputs and outputs.")]
Original = Annotated[Path | None, Parameter(help="The float .tflite it came from: observed in its place, and quantized anew.")]
DryRun = Annotated[bool, Parameter(name="--dry-run", negative="", help="Decide and tell, write nothing.")]
To = Annotated[
    Literal["float32", "int8", "uint8", "int16x8"] | None,
    Parameter(help="float32: the float model that the file stands for; else the same ranges in another type. Needs no data."),
]
OneScale = Annotated[bool, Parameter(name="--per-tensor", negative="", help="With --to: one weight scale a tensor.")]
Border = Annotated[str, Parameter(help="With --to: type of the model's inputs and outputs, float32, int8, uint8 or int16, by any name.")]
LabelOffset = Annotated[int, Parameter(help="Added to every label; 1 for nets whose class 0 is 'background'.")]


def command(
    model: o.Model,
    /,
    *,
    data: OptionalData = None,
    output: Target = None,
    only: Only = None,
    keep: Keep = None,
    keep_io: KeepIo = False,
    original: Original = None,
    to: To = None,
    per_tensor: OneScale = False,
    io: Border = "float32",
    dry_run: DryRun = False,
    strategy: o.Strategy = "auto",
    input_range: o.InputRange = None,
    input_scale: o.InputScale = None,
    input_offset: o.InputOffset = None,
    label_offset: LabelOffset = 0,
    groups: o.Groups = None,
    limit: o.Limit = None,
    shuffle: o.Shuffle = None,
    task: o.Task = None,
    device: o.Device = "auto",
    force: o.Force = False,
    json: o.Json = False,
) -> int:
    """New ranges for a quantized file from data. Nothing is written, and the exit code is 1, where they are not better."""
    from qsim import load
    from qsim.errors import BadRecipe

    from .outputs import may_write

    if (data is None) == (to is None):
        raise BadRecipe("give --data or --to", found="both" if data else "neither")
    if output is None and not dry_run:
        raise BadRecipe("give -o, or --dry-run to write nothing")
    if output is not None:
        may_write(output, [p for p in (model, data, original) if p is not None], force)
    loaded = load(model)
    if data is None:
        return _converted(loaded, str(to), per_tensor, io, None if dry_run else output, force, json)

    from calibrate.requantizing import Asked

    from .choosing import strategy_of
    from .computing import choose_device
    from .samples import Pick, read
    from .values import Affine

    choose_device(device)
    affine = Affine(input_scale, input_offset)
    samples = read(data, loaded, "float", affine, Pick(limit, shuffle, groups))
    for note in samples.notes:
        say(f"note: {note}")
    domain = input_range or _domain(loaded, samples, affine)
    asked = Asked(only, keep, keep_io, () if strategy == "auto" else (strategy_of(strategy),), task, domain)
    made, verdict = _improved(loaded, samples, asked, None if original is None else load(original), label_offset)
    how = _write(made, output, dry_run, force)
    _report(verdict, output, how, json)
    return 0 if verdict.better else 1


def _converted(loaded: Model, to: str, per_tensor: bool, io: str, output: Path | None, force: bool, json: bool) -> int:
    """The float model, or one of another type with the same ranges, written."""
    from calibrate.legacy import element_type
    from qsim.dequantizer import converted, dequantize

    from .choosing import scheme_of

    border, scheme = element_type(io), scheme_of(to, per_tensor=per_tensor)
    made = dequantize(loaded) if to == "float32" else converted(loaded, scheme, io=border)
    how = _write(made, output, output is None, force)
    if json:
        emit({"output": None if output is None else str(output), "written": how})
    elif output is not None:
        text(f"wrote {output}: {output.stat().st_size:,} bytes, {to}")
    return 0


def _domain(model: Model, samples: Samples, affine: Affine) -> Any:
    """The real domain that integer data declare; None where they are codes of the file's own input."""
    from qsim.types import TYPES

    from .samples import declared_domain

    t = model.graph.tensors[model.graph.inputs[0]]
    codes = not affine.given and t.qparams is not None and samples.stored[0] == TYPES[t.type].dtype
    return None if codes else declared_domain(samples, affine)


def _improved(model: Model, samples: Samples, asked: Asked, original: Model | None, label_offset: int) -> tuple[Model | None, Verdict]:
    from calibrate.requantizing import improve

    from .choosing import Batches, steps

    labels = samples.labels
    if labels is not None and labels.dtype.kind in "iu":
        labels = labels.astype("int64") + label_offset
    with progress("observing", len(samples)) as step:
        return improve(model, Batches(samples), original=original, labels=labels, groups=samples.groups, asked=asked, progress=steps(step))


def _write(made: Model | None, output: Path | None, dry_run: bool, force: bool) -> str:
    from qsim import save

    return "" if made is None or output is None or dry_run else save(made, output, force=force)


def _report(verdict: Verdict, output: Path | None, how: str, json: bool) -> None:
    """Old and new ranges, the compared strategies, what holds the file back, and what was written."""
    from dataclasses import asdict

    written = str(output) if how else None
    if json:
        changes = {} if verdict.changes is None else asdict(verdict.changes)
        return emit(
            {
                "better": verdict.better, "words": verdict.words, "limits": list(verdict.limits), "measure": verdict.measure,
                "samples": verdict.samples, "candidates": verdict.rows(), "changes": changes, "notes": list(verdict.notes),
                "output": written, "written": how,
            }
        )  # fmt: skip
    if verdict.changes is not None:
        _show_changes(verdict.changes)
    if verdict.trials:
        rows = [{**r, "chosen": "*" if r["chosen"] else ""} for r in verdict.rows()]
        table("compared", list(rows[0]), (cells(r) for r in rows))
    for note in verdict.notes:
        say(f"note: {note}")
    for line in (verdict.words, *verdict.limits):
        text(line)
    text(f"wrote {output} ({how})" if how else "nothing was written")


def _show_changes(changes: Any) -> None:
    def share(value: float | None) -> str:
        return "" if value is None else f"{value:.2%}"

    rows = (
        (
            r.tensor, r.type, f"{r.old[0]:.5g} .. {r.old[1]:.5g}", f"{r.new[0]:.5g} .. {r.new[1]:.5g}", share(r.clipped_before),
            share(r.clipped), "" if r.gain_db is None else f"{r.gain_db:.1f}",
        )
        for r in changes.ranges
    )  # fmt: skip
    table("ranges", ("tensor", "type", "old range", "new range", "clipped, old", "clipped, new", "gain, dB"), rows)
    for r in changes.repairs:
        say(f"note: {r.tensor}: scale widened from {r.before:.6g} to {r.after:.6g}, {r.asked_by}: {r.reason}")
    for note in changes.notes:
        say(f"note: {note}")
