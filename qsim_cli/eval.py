"""`qsim eval`: accuracy on labelled data, agreement with another model, speed and memory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from . import options as o
from .models import load_model
from .screen import emit, say, table, warn

if TYPE_CHECKING:
    import numpy as np

    from qsim.graph import Model

    from .values import Affine

Against = Annotated[Path | None, Parameter(help="Another model (say, the float one): agreement, KL, SQNR; lost and won with labels.")]
LabelOffset = Annotated[int, Parameter(help="Added to every label; 1 for nets whose class 0 is 'background'.")]
Labelled = Annotated[Path, Parameter(help="An .npz with x and y (or a folder of images with labels.csv); y may be missing.")]


def command(
    model: o.Model,
    data: Labelled,
    /,
    *,
    mode: o.Mode = "integer",
    flavour: o.Flavour = "xnnpack",
    against: Against = None,
    task: o.Task = None,
    label_offset: LabelOffset = 0,
    input_scale: o.InputScale = None,
    input_offset: o.InputOffset = None,
    device: o.Device = "auto",
    batch: o.Batch = None,
    signature: o.Signature = None,
    json: o.Json = False,
) -> int:
    """Accuracy of a model on labelled data, and agreement with another model; images/s, compile seconds and peak memory beside."""
    from calibrate.evaluation import accuracy, comparison

    from .computing import choose_device
    from .values import Affine

    loaded, other = load_model(model, signature), None if against is None else load_model(against, signature)
    affine, kind = Affine(input_scale, input_offset), choose_device(device)
    run = _Run(mode, flavour, batch, affine, data)
    y, labels, cost, told = run(loaded)
    for line in told:
        warn(line)
    labels = None if labels is None else labels + label_offset if labels.dtype.kind in "iu" else labels
    _check(labels, y)
    found: dict[str, Any] = {"samples": len(y), **(accuracy(y, labels) if labels is not None else {})}
    if other is not None:
        reference, _, _, _ = run(other)
        found |= _compared(y, reference, labels, task, comparison)
    found |= {**cost.row(), "device": kind, "mode": mode, "flavour": flavour}
    if json:
        emit({"model": str(model), "data": str(data), "against": str(against) if against else None, **found, "warnings": told})
    else:
        table(f"{model} on {data}", ("figure", "value"), ((WORDS.get(k, k), _shown(k, v)) for k, v in found.items()), numeric=("value",))
    return 0


class _Run:
    """One way of running, for the model and the one it is compared with."""

    def __init__(self, mode: str, flavour: str, batch: int | None, affine: Affine, data: Path):
        self.mode, self.flavour, self.batch, self.affine, self.data = mode, flavour, batch, affine, data

    def __call__(self, model: Model) -> tuple[np.ndarray, np.ndarray | None, Any, list[str]]:
        """(first output as reals (N, C), labels, cost, warnings)."""
        import numpy as np

        from calibrate.evaluation import reals

        from .computing import function_of, memory_told, timed
        from .samples import read
        from .watch import Watch

        samples = read(self.data, model, self.mode, self.affine)
        for note in samples.notes:
            say(f"note: {note}")
        function, watch = function_of(model, self.mode, self.flavour, self.batch), Watch(model, self.mode)
        qparams, parts = model.graph.tensors[model.graph.outputs[0]].qparams, []

        def take(inputs: tuple, outputs: Any, first: int) -> None:
            watch.take(inputs, outputs)
            parts.append(reals(outputs[0], qparams))

        with memory_told(self.batch):
            cost = timed(function, samples, f"evaluating {Path(model.path).name}", take)
        return np.concatenate(parts), samples.labels, cost, watch.warnings()


def _compared(y: Any, reference: Any, labels: Any, task: str | None, comparison: Any) -> dict[str, Any]:
    from qsim.errors import BadData

    if y.shape != reference.shape:
        raise BadData("the two models' outputs have different sizes", found=y.shape, expected=reference.shape)
    return comparison(y, reference, labels, task == "classification")


def _check(labels: np.ndarray | None, y: np.ndarray) -> None:
    from qsim.errors import BadData

    if labels is None:
        return say("note: no labels (y): accuracy is not reported")
    if labels.ndim != 1:
        raise BadData("labels are one number a sample", found=labels.shape, expected=(len(y),))
    if labels.dtype.kind in "iu" and y.shape[1] > 1 and (labels.min() < 0 or labels.max() >= y.shape[1]):
        raise BadData(
            "labels outside the model's classes", found=f"{labels.min()}..{labels.max()}", expected=f"0..{y.shape[1] - 1}",
            hint="--label-offset shifts them",
        )  # fmt: skip
    if labels.dtype.kind not in "iu" and y.shape[1] != 1:
        say("note: y is not integer classes: accuracy is not reported")


WORDS = {
    "samples": "samples",
    "top1": "top-1 accuracy",
    "top5": "top-5 accuracy",
    "mean_absolute_error": "mean absolute error",
    "agreement": "agreement of the largest output",
    "kl_nats": "KL from the other model, nats",
    "sqnr_db": "SQNR against the other model, dB",
    "equal_outputs": "samples with equal outputs",
    "lost": "right in the other model, wrong here",
    "won": "wrong in the other model, right here",
    "compile_seconds": "compilation, s",
    "samples_per_second": "images/s",
    "peak_memory_bytes": "peak memory, MiB",
    "peak_device_memory_bytes": "peak device memory, MiB",
}


def _shown(name: str, value: Any) -> str:
    if value is None:
        return "equal" if name == "sqnr_db" else "-"
    if name.endswith("_bytes"):
        return f"{value / 2**20:.0f}"
    if isinstance(value, float):
        return f"{value:.4f}" if name in ("top1", "top5", "agreement") else f"{value:.4g}"
    return str(value)
