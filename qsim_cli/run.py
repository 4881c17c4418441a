"""`qsim run`: a model on the arrays of a file."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from . import options as o
from .models import load_model
from .screen import cells, emit, say, table, warn

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from qsim.graph import Graph

Tensors = Annotated[Literal["outputs", "all"], Parameter(help="all: model inputs and every op output of the primary graph.")]


def command(
    model: o.Model,
    data: o.Inputs,
    /,
    *,
    output: o.Output,
    mode: o.Mode = "integer",
    flavour: o.Flavour = "xnnpack",
    tensors: Tensors = "outputs",
    limit: o.Limit = None,
    shuffle: o.Shuffle = None,
    input_scale: o.InputScale = None,
    input_offset: o.InputOffset = None,
    device: o.Device = "auto",
    batch: o.Batch = None,
    force: o.Force = False,
    signature: o.Signature = None,
    json: o.Json = False,
) -> int:
    """Run a model on samples; writes an .npz with key t<index>, shape (N, *shape).

    Values are stored codes in integer mode; in the other modes tensors with quantization parameters are float32 reals.
    """
    from qsim.files import replace_file

    from .computing import choose_device, function_of, memory_told, results
    from .outputs import may_write
    from .samples import Pick, read
    from .values import Affine
    from .watch import Watch

    may_write(output, (model, data), force)
    loaded = load_model(model, signature)
    samples = read(data, loaded, mode, Affine(input_scale, input_offset), Pick(limit, shuffle))
    for note in samples.notes:
        say(f"note: {note}")
    choose_device(device)
    function = function_of(loaded, mode, flavour, batch, "all" if tensors == "all" else None)
    watch, parts = Watch(loaded, mode), []
    with memory_told(batch):
        for inputs, out, _ in results(function, samples, "running"):
            outputs, taps = (out, {}) if tensors == "outputs" else out
            watch.take(inputs, outputs)
            parts.append({**taps, **dict(zip(loaded.graph.outputs, outputs, strict=True))})
    arrays = _joined(parts)
    replace_file(output, _npz(arrays))
    told = watch.warnings()
    for line in told:
        warn(line)
    _report(loaded.graph, arrays, output, samples.notes, told, json)
    return 0


def _joined(parts: list[dict[int, Any]]) -> dict[int, Any]:
    import numpy as np

    return {t: np.concatenate([p[t] for p in parts]) for t in sorted(parts[0])}


def _npz(arrays: dict[int, np.ndarray]) -> bytes:
    import numpy as np

    buffer = io.BytesIO()
    np.savez(buffer, **{f"t{t}": x for t, x in arrays.items()})  # type: ignore[arg-type]
    return buffer.getvalue()


def _report(graph: Graph, arrays: dict[int, np.ndarray], output: Path, notes: Any, told: list[str], json: bool) -> None:
    rows = [
        {
            "key": f"t{t}", "name": graph.tensors[t].name, "shape": list(x.shape), "type": str(x.dtype),
            "min": _end(x, "min"), "max": _end(x, "max"),
        }
        for t, x in arrays.items()
    ]  # fmt: skip
    if json:
        emit({"output": str(output), "tensors": rows, "notes": list(notes), "warnings": told})
    else:
        table(f"{len(rows)} arrays in {output}", list(rows[0]), (cells(r) for r in rows), numeric=("min", "max"))


def _end(x: np.ndarray, which: str) -> Any:
    if not x.size or x.dtype.kind not in "biuf":
        return None
    value = getattr(x, which)().item()
    return value if value == value and abs(value) != float("inf") else str(value)
