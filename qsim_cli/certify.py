"""`qsim certify`: integer mode beside the installed LiteRT, tensor by tensor."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from . import options as o
from .models import load_model
from .screen import emit, progress, say, table, text

SHOWN = 4  # lines of a cause

Which = Annotated[
    tuple[Literal["xnnpack", "reference", "builtin"], ...],
    Parameter(name="--flavour", negative=(), help="Kernels to compare with; may be given more than once (default: all three)."),
]
Given = Annotated[Path | None, Parameter(name="--data", help="An .npz or .npy of samples, or a folder of images; default: generated ones.")]
Written = Annotated[Path | None, Parameter(name=["--output", "-o"], help="Certificate to write, as JSON.")]
Count = Annotated[int | None, Parameter(help="Generated samples of each style (default 16), or how many of --data to use (default: all).")]


def command(
    model: o.Model,
    /,
    *,
    data: Given = None,
    flavour: Which = ("xnnpack", "reference", "builtin"),
    samples: Count = None,
    seed: Annotated[int, Parameter(help="Seed of the generated samples.")] = 0,
    output: Written = None,
    input_scale: o.InputScale = None,
    input_offset: o.InputOffset = None,
    force: o.Force = False,
    signature: o.Signature = None,
    json: o.Json = False,
) -> int:
    """Run a model in the installed LiteRT and in integer mode, and compare every tensor: per op on LiteRT's own inputs, and whole graph.

    Exit code 0: no element differs; 1: some do; 4: an op has no kernel here; 7: LiteRT refused the file, aborted or hung.
    """
    import json as encoder

    from qsim.certificate import certify, exit_code
    from qsim.errors import BadRecipe
    from qsim.files import replace_file

    from .outputs import may_write

    if samples is not None and samples < 1:
        raise BadRecipe("--samples must be at least 1", found=samples)
    if output is not None:
        may_write(output, (model, *([data] if data else [])), force)
    loaded = load_model(model, signature)
    inputs = _read(data, loaded, samples, input_scale, input_offset) if data else None
    with progress("comparing", None) as step:
        found = certify(loaded, inputs, flavours=flavour, samples=samples or 16, seed=seed, step=lambda _: step())
    document = found.document()
    if output is not None:
        replace_file(output, encoder.dumps(document, indent=1).encode() + b"\n")
    if json:
        emit(document)
    else:
        _show(str(model), found)
    if output is not None and not json:
        say(f"certificate in {output}")
    return exit_code(found)


def _show(name: str, found: Any) -> None:
    """A line per flavour; below, each cause once (its first lines: the certificate has all) and the first element that differs."""
    from qsim.certificate import rows

    lines = list(rows(found))
    cells = ([f"{v:,}" if isinstance(v, int) else v for v in line.values()] for line in lines)
    table(f"{name} beside LiteRT {found.litert} on {found.cpu}", list(lines[0]), cells, numeric=list(lines[0])[2:])
    for flavour, outcome in found.flavours.items():
        if outcome.cause:
            reasons = outcome.cause.split("\n")
            text(f"{flavour}: " + "\n".join(reasons[:SHOWN]) + (f"\n  ... and {len(reasons) - SHOWN} more" if len(reasons) > SHOWN else ""))
        first = next((t for t in (*outcome.per_op, *outcome.whole) if t.first), None)
        if first is not None:
            at = first.first
            text(
                f"  first in {first.tensor!r} of op {first.op} {first.kind}: index {at['index']}, here {at['qsim']}, LiteRT {at['litert']}"
            )


def _read(path: Path, model: object, count: int | None, scale: float | None, offset: float | None) -> tuple:
    from .samples import read
    from .values import Affine

    found = read(path, model, "integer", Affine(scale, offset))  # type: ignore[arg-type]
    for note in found.notes:
        say(f"note: {note}")
    return found.part(0, min(len(found), count or len(found)))
