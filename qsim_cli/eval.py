"""`qsim eval`: figures of a model on labelled data with their intervals, comparison with another model, speed and memory."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from . import options as o
from .models import load_model
from .screen import emit, say, table, text, warn

if TYPE_CHECKING:
    import numpy as np

    from calibrate.evaluating import Evaluation
    from calibrate.metrics import Items
    from qsim.graph import Model

    from .computing import Cost
    from .samples import Pick
    from .values import Affine

Against = Annotated[
    Path | None,
    Parameter(help="Another model (say, the float one): agreement, KL, SQNR; with labels lost, won and whether this one is worse."),
]
LabelOffset = Annotated[int, Parameter(help="Added to every label; 1 for nets whose class 0 is 'background'.")]
Labelled = Annotated[Path, Parameter(help="An .npz with x and y, a .csv, or a folder of images with labels.csv; labels may be missing.")]
Metrics = Annotated[
    list[str] | None,
    Parameter(
        name="--metric",
        negative="",
        help="top1, top5, topK, auc, mae, agreement, kl, sqnr, cosine, or your module:function; repeat it. Default: what fits the data.",
    ),
]


def command(
    model: o.Model,
    data: Labelled,
    /,
    *,
    mode: o.Mode = "integer",
    flavour: o.Flavour = "xnnpack",
    against: Against = None,
    metric: Metrics = None,
    task: o.Task = None,
    label_offset: LabelOffset = 0,
    groups: o.Groups = None,
    limit: o.Limit = None,
    shuffle: o.Shuffle = None,
    input_scale: o.InputScale = None,
    input_offset: o.InputOffset = None,
    device: o.Device = "auto",
    batch: o.Batch = None,
    signature: o.Signature = None,
    json: o.Json = False,
) -> int:
    """Figures of a model on labelled data with 95 % intervals, and of another one on the same; images/s, compile seconds, memory beside."""
    from .choosing import imported
    from .computing import choose_device
    from .samples import Pick
    from .values import Affine

    loaded, other = load_model(model, signature), None if against is None else load_model(against, signature)
    asked = None if metric is None else [imported(m) if ":" in m else m for m in metric]
    affine, kind = Affine(input_scale, input_offset), choose_device(device)
    run = _Run(mode, flavour, batch, affine, data, Pick(limit, shuffle, groups), label_offset, asked, task)
    before = None if other is None else run(other, compared=True)
    done = run(loaded, before)
    for line in done.told:
        warn(line)
    found = {"samples": done.figures.samples, **_facts(done, before), **done.cost.row(), "device": kind, "mode": mode, "flavour": flavour}
    if json:
        emit({"model": str(model), "data": str(data), "against": str(against) if against else None, **found, "warnings": done.told})
    else:
        _show(f"{model} on {data}", found)
    return 0


@dataclass(frozen=True, eq=False)
class _Done:
    """What a model gave: figures, cost, warnings, and its first output, with which another model's is compared."""

    figures: Evaluation
    cost: Cost
    told: list[str]
    y: np.ndarray


@dataclass(frozen=True, eq=False)
class _Run:
    """One way of running, for the model and the one it is compared with."""

    mode: str
    flavour: str
    batch: int | None
    affine: Affine
    data: Path
    pick: Pick
    offset: int
    metrics: list[Any] | None
    task: str | None

    def __call__(self, model: Model, other: _Done | None = None, compared: bool = False) -> _Done:
        import numpy as np

        from calibrate.evaluating import Gathered
        from calibrate.splits import group_ids

        from .computing import function_of, memory_told, timed
        from .samples import read
        from .watch import Watch

        samples = read(self.data, model, self.mode, self.affine, self.pick)
        for note in samples.notes:
            say(f"note: {note}")
        function, watch = function_of(model, self.mode, self.flavour, self.batch), Watch(model, self.mode)
        gathered, labels, parts = Gathered(self._asked(compared), self.task), self._labels(samples.labels), []

        def take(inputs: tuple, outputs: Any, first: int) -> None:
            watch.take(inputs, outputs)
            items = _items(model, inputs, outputs, first, labels, other)
            if first == 0:
                _check(labels, len(samples), items.y.shape[1])
            gathered.add(items)
            parts.append(items.y)

        with memory_told(self.batch):
            cost = timed(function, samples, f"evaluating {Path(model.path).name}", take)
        return _Done(gathered.evaluation("", group_ids(samples.groups, len(samples))), cost, watch.warnings(), np.concatenate(parts))

    def _asked(self, compared: bool) -> Any:
        """The asked metrics; for the model that is compared with, those that need no other one."""
        from calibrate.metrics import named

        if self.metrics is None:
            return None
        return [m for m in map(named, self.metrics) if not (compared and m.needs == "reference")]

    def _labels(self, labels: Any) -> Any:
        return labels if labels is None or labels.dtype.kind not in "iu" else labels + self.offset


def _items(model: Model, inputs: tuple, outputs: Any, first: int, labels: Any, other: _Done | None) -> Items:
    from calibrate.evaluation import reals
    from calibrate.metrics import Items
    from qsim.errors import BadData

    tensors = [model.graph.tensors[t] for t in model.graph.outputs]
    y = tuple(reals(x, t.qparams) for x, t in zip(outputs, tensors, strict=True))
    rows = slice(first, first + len(y[0]))
    reference = None if other is None else other.y[rows]
    if reference is not None and reference.shape != y[0].shape:
        raise BadData("the two models' outputs have different sizes", found=y[0].shape, expected=reference.shape)
    return Items(y[0], None if labels is None else labels[rows], reference, inputs, y)


def _check(labels: np.ndarray | None, count: int, classes: int) -> None:
    from qsim.errors import BadData

    if labels is None:
        return say("note: no labels (y): accuracy is not reported")
    if labels.ndim != 1:
        raise BadData("labels are one number a sample", found=labels.shape, expected=(count,))
    if labels.dtype.kind in "iu" and classes > 1 and (labels.min() < 0 or labels.max() >= classes):
        raise BadData(
            "labels outside the model's classes", found=f"{labels.min()}..{labels.max()}", expected=f"0..{classes - 1}",
            hint="--label-offset shifts them",
        )  # fmt: skip
    if labels.dtype.kind not in "iu" and classes != 1:
        say("note: y is not integer classes: accuracy is not reported")


def _facts(done: _Done, before: _Done | None) -> dict[str, Any]:
    """Figures by name, their intervals, and the paired comparison with the other model."""
    from calibrate.evaluating import compare

    values = {KEYS.get(name, name): e for name, e in done.figures.values.items()}
    found: dict[str, Any] = {name: e.value for name, e in values.items()}
    found["intervals"] = {name: [e.low, e.high] for name, e in values.items()}
    pairs = () if before is None else compare(done.figures, before.figures)
    counted = next((p for p in pairs if p.metric == "top1"), None)
    return found | ({} if counted is None else {"lost": counted.lost, "won": counted.won}) | {"paired": [asdict(p) for p in pairs]}


KEYS = {"mae": "mean_absolute_error", "kl": "kl_nats", "sqnr": "sqnr_db"}
WORDS = {
    "samples": "samples",
    "top1": "top-1 accuracy",
    "top5": "top-5 accuracy",
    "mean_absolute_error": "mean absolute error",
    "auc": "AUC",
    "agreement": "agreement of the largest output",
    "kl_nats": "KL from the other model, nats",
    "sqnr_db": "SQNR against the other model, dB",
    "cosine": "cosine with the other model",
    "equal_outputs": "samples with equal outputs",
    "lost": "right in the other model, wrong here",
    "won": "wrong in the other model, right here",
    "compile_seconds": "compilation, s",
    "samples_per_second": "images/s",
    "peak_memory_bytes": "peak memory, MiB",
    "peak_device_memory_bytes": "peak device memory, MiB",
}


def _show(title: str, found: dict[str, Any]) -> None:
    intervals, pairs = found.pop("intervals"), found.pop("paired")
    ends = {k: " .. ".join(_shown(k, v) for v in pair) for k, pair in intervals.items()}
    table(
        title, ("figure", "value", "95 % interval"), ((WORDS.get(k, k), _shown(k, v), ends.get(k, "")) for k, v in found.items()),
        numeric=("value", "95 % interval"),
    )  # fmt: skip
    for p in pairs:
        key = KEYS.get(p["metric"], p["metric"])
        text(f"{WORDS.get(key, key)}: {p['difference']:+.4g} ({p['low']:+.4g} .. {p['high']:+.4g}) against the other model: {p['verdict']}")


def _shown(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if name.endswith("_bytes"):
        return f"{value / 2**20:.0f}"
    if isinstance(value, float):
        if name == "sqnr_db" and value == float("inf"):
            return "equal"
        return f"{value:.4f}" if name in ("top1", "top5", "agreement") else f"{value:.4g}"
    return str(value)
