"""`qsim quantize`: a float model to one of any scheme."""

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
RangesIn = Annotated[
    Path | None, Parameter(help="Ranges of `qsim calibrate` (.json, .csv, .tflite) or ai-edge-quantizer's calibration result.")
]
Strict = Annotated[bool, Parameter(negative="", help="Refuse where an op on real values would stay float, in place of a note.")]
Runs = Annotated[
    str,
    Parameter(name="--target", help="What the file is for: litert, tflm, ethos-u or edgetpu (all but litert documented, not measured)."),
]
OneScale = Annotated[bool, Parameter(name="--per-tensor", negative="", help="One weight scale a tensor, not one an output channel.")]
Asymmetric = Annotated[bool, Parameter(name="--asymmetric", negative="", help="weights8, weights4: weights with zero points.")]
Smallest = Annotated[
    int | None, Parameter(name="--smallest", help="Weights of fewer elements stay float in weight-only schemes (TF: 1024).")
]
Folds = Annotated[
    str | None, Parameter(name="--fold", help="Fold before quantizing: all, or some of constants,pad,relu,batch_norm,normalize.")
]
Border = Annotated[
    str | None, Parameter(help="Type of the model's inputs and outputs: float32 (default), int8, uint8 or int16, by any name.")
]
Correct = Annotated[
    Literal["no", "bias", "weights", "auto"],
    Parameter(
        help="bias: what quantization adds to the mean of a channel goes into its bias; weights: and weights are rounded for the data; "
        "auto: what held-back data speak for. Needs --data."
    ),
]
Split = Annotated[
    tuple[str, ...],
    Parameter(
        name="--split",
        consume_multiple=True,
        negative="",
        help="Tensors with a scale of their own where an op (CONCATENATION, PAD, ...) ties it to others; proposed: where it helps.",
    ),
]
WeightRule = Annotated[
    str,
    Parameter(name="--weights", help="How far the codes of weights reach: max, mse, octav, percentile:99.9; what lies beyond is clipped."),
]
Side = Annotated[str | None, Parameter(help="As --io, for this side alone.")]


def command(
    model: o.Model,
    /,
    *,
    output: Target,
    data: OptionalData = None,
    ranges: RangesIn = None,
    scheme: o.SchemeName = "int8",
    recipe: o.RecipeFile = None,
    strategy: o.Strategy = "auto",
    io: Border = None,
    input_type: Side = None,
    output_type: Side = None,
    target: Runs = "litert",
    strict: Strict = False,
    per_tensor: OneScale = False,
    asymmetric: Asymmetric = False,
    smallest: Smallest = None,
    weights: WeightRule = "max",
    fold: Folds = None,
    input_range: o.InputRange = None,
    input_stats: o.InputStats = None,
    default_range: o.DefaultRange = None,
    correct: Correct = "no",
    split: Split = (),
    input_scale: o.InputScale = None,
    input_offset: o.InputOffset = None,
    groups: o.Groups = None,
    limit: o.Limit = None,
    shuffle: o.Shuffle = None,
    task: o.Task = None,
    dead_range: o.DeadRange = False,
    device: o.Device = "auto",
    force: o.Force = False,
    json: o.Json = False,
) -> int:
    """Turn a float model into one of a scheme or recipe that LiteRT runs: from data (calibrating first), or from ranges chosen before.

    Weight-only schemes (dynamic8, dynamic4, weights8, weights4, blockwise4, float16) need neither.
    """
    from qsim import quantize, save
    from qsim.errors import BadRecipe

    from .outputs import may_write

    _refuse(data, ranges, split, correct)
    may_write(output, [p for p in (model, data, ranges, recipe) if p is not None], force)

    from .choosing import Request, corrected, needs_ranges, require_kernels, scheme_of
    from .computing import choose_device
    from .preparing import Ranged, border_of, input_domain, prepared, with_ranges
    from .samples import Pick
    from .splitting import rows
    from .values import Affine

    choose_device(device)
    wanted = scheme_of(scheme, recipe, per_tensor=per_tensor, asymmetric=asymmetric, smallest=smallest, weights=weights)
    require_kernels(wanted)
    border = border_of(wanted, io, input_type, output_type)
    loaded, own, told_first = prepared(model, fold)
    asked = None
    if needs_ranges(loaded, wanted):
        domain = input_domain(input_range, input_stats, border, wanted)
        affine, pick = Affine(input_scale, input_offset), Pick(limit, shuffle, groups)
        asked = None if data is None else Request(data, strategy, wanted, affine, domain, task, pick, dead_range)
        using = with_ranges(loaded, wanted, asked, ranges, own, default_range, split)
    elif correct != "no" or split:
        raise BadRecipe("activations stay float32: nothing to correct or to split", found="--correct" if correct != "no" else "--split")
    else:
        using = Ranged({}, told=("no ranges are needed: activations stay float32",) if data or ranges else ())
    for note in (*told_first, *using.told):
        say(f"note: {note}")
    made = quantize(loaded, using.ranges, wanted, io=border, target=target, strict=strict, split=using.cuts)
    how = None
    if correct != "no" and asked is not None:
        made, how = corrected(loaded, made, asked, correct)
        say(f"note: {how}")
    save(made, output, force=force)
    told = _tried(made, asked)
    for line in told:
        warn(line)
    more = {"splits": rows(using.proposed, using.cuts), "corrections": how.rows() if how else []}
    _report(made, output, using.found, told, more, json)
    return 0


def _refuse(data: Path | None, ranges: Path | None, split: tuple[str, ...], correct: str) -> None:
    """*Raises*: BadRecipe for options that do not go together."""
    from qsim.errors import BadRecipe

    if data is not None and ranges is not None:
        raise BadRecipe("give --data or --ranges", found="both")
    if "proposed" in split and data is None:
        raise BadRecipe("--split proposed needs the statistics of --data", found="no --data", hint="Name the tensors")
    if correct != "no" and data is None:
        raise BadRecipe("--correct measures on --data", found="no --data")


def _tried(made: Model, asked: Request | None) -> list[str]:
    """Run the new model on some of the data, exactly, and tell what looks wrong."""
    if asked is None:
        return []
    from .computing import TRIED, function_of
    from .samples import read
    from .values import Affine
    from .watch import Watch

    affine = Affine(asked.affine.scale or 1.0, asked.affine.offset or 0.0)  # given: the data are reals, whatever the new input stores
    samples = read(asked.data, made, "integer", affine, asked.pick)
    watch, inputs = Watch(made, "integer"), samples.part(0, min(TRIED, len(samples)))
    watch.take(inputs, function_of(made, "integer", "xnnpack", None).batch(*inputs))
    return watch.warnings()


def _report(made: Model, output: Path, found: Choice | None, told: list[str], more: dict[str, list[dict[str, Any]]], json: bool) -> None:
    """What was done: the compared strategies, proposed splits, changed ranges, guarded channels, and the ops that stay float (tensors:
    `qsim inspect`)."""
    from dataclasses import asdict

    from qsim.layout import HARMLESS
    from qsim.report import AS_IT_WAS

    from .splitting import show

    report = made.report
    size, choice = output.stat().st_size, {} if found is None else found.facts()
    sections = {title: [asdict(row) for row in rows] for title, rows in report.sections().items()}
    if json:
        facts = {"output": str(output), "bytes": size, "scheme": report.scheme, "io": report.io}
        return emit({**facts, **choice, **more, **sections, "notes": list(report.notes), "warnings": told})
    if found:
        found.show()
    show(more["splits"])
    for title, rows in sections.items():
        if rows and title not in ("ops", "tensors"):
            table(title, list(rows[0]), (cells(row) for row in rows))
    for row in (r for r in report.ops if r.reason not in HARMLESS):
        became = f"is {row.stored}" if row.stored != AS_IT_WAS else "stays as it was"
        say(f"note: op {row.index} {row.op} ({row.output}) {became}: {row.reason}")
    for note in report.notes:
        say(f"note: {note}")
    done = f"{len(report.ops) - len(report.kept_float)} of {len(report.ops)} ops quantized"
    text(f"wrote {output}: {size:,} bytes, {done} ({report.scheme}, {report.io} in and out)")
