"""Question: what does one weight scale for each output channel bring, against one for the whole tensor, under int8?

Answer, per net: figures of both in exact integer mode (flavour xnnpack) on the same test samples, with 95 % bootstrap intervals, and their
paired difference. Classifiers: top-1, KL and SQNR to the float net. ad01 (`--samples` counts files): the AUC of the mean squared
reconstruction error of a file's windows, files being the units, and the SQNR. Both have the same ranges, made from the calibration set.

    QSIM_MODELS=... python experiments/granularity.py [--net ad01 resnet8 vww96 mobilenet_v1] [--strategy minmax] [--samples 1000]
        [--out FILE.json]
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import labs
import numpy as np
import sets
from realdata import net

import calibrate
import qsim
from calibrate.comparing import Estimate, Paired, estimates, paired
from calibrate.evaluating import evaluate
from calibrate.metrics import Items, Metric, named

GRAINS = {"channel": qsim.INT8, "tensor": qsim.Scheme("int8-per-tensor", per_channel=False)}
NETS = ("ad01", "resnet8", "vww96", "mobilenet_v1")
FIRST = {"ad01": "auc"}  # the figure that the answer tells; of others top1


def made(name: str, strategy: str) -> dict[str, qsim.Model]:
    """The net quantized with either grain, on the same ranges."""
    model, seen = net(sets.TASKS[name].net), sets.load(sets.TASKS[name].calibration)[0]
    if name == "ad01":
        seen = seen.reshape(-1, seen.shape[-1])
    stats = calibrate.observe(model, [seen], sequence=False)
    ranges = calibrate.ranges(model, stats, strategy, input_range=sets.TASKS[name].domain)
    return {grain: qsim.quantize(model, ranges, scheme) for grain, scheme in GRAINS.items()}


def classified(name: str, strategy: str, samples: int) -> dict[str, Any]:
    model, (x, y) = net(sets.TASKS[name].net), labs.drawn(name, samples)
    assert y is not None
    classes = model.graph.tensors[model.graph.outputs[0]].shape[-1]
    run = {"data": [x], "metrics": ("top1", "kl", "sqnr"), "labels": y + (classes == labs.BACKGROUND), "reference": model}
    both = {grain: evaluate(int8, **run) for grain, int8 in made(name, strategy).items()}
    plain = evaluate(model, [x], ("top1",), labels=run["labels"], mode="float")
    found = calibrate.compare(both["channel"], both["tensor"])
    return {"samples": len(x), "float": told(plain.values), **{g: told(e.values) for g, e in both.items()}, "paired": paired_told(found)}


def detected(strategy: str, samples: int) -> dict[str, Any]:
    """ad01: the AUC over files, and the SQNR over windows, files being the units."""
    model, (x, broken) = net(sets.TASKS["ad01"].net), labs.drawn("ad01", samples)
    assert broken is not None
    files, count, width = x.shape
    flat, ids = x.reshape(-1, width), np.repeat(np.arange(files), count)
    real = model.function("float").batch(flat)[0].reshape(len(flat), -1)
    auc, sqnr = named("auc"), named("sqnr")
    found, plain = {}, columns_of(auc, error_of(x, real), broken)
    for grain, int8 in made("ad01", strategy).items():
        y = int8.function("integer").batch(flat)[0].reshape(len(flat), -1)
        found[grain] = columns_of(auc, error_of(x, y), broken), {"sqnr": sqnr.of(Items(y.astype(np.float64), reference=real))}
    row: dict[str, Any] = {"samples": files, "float": told(estimates([auc], plain))}
    for grain, (a, s) in found.items():
        row[grain] = told({**estimates([auc], a), **estimates([sqnr], s, ids)})
    (a1, s1), (a2, s2) = found["channel"], found["tensor"]
    return {**row, "paired": paired_told((*paired([auc], a1, a2), *paired([sqnr], s1, s2, ids)))}


def error_of(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(files,) the mean squared error over a file's windows."""
    return ((y.astype(np.float64).reshape(x.shape) - x) ** 2).mean((1, 2))


def columns_of(metric: Metric, score: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    return {metric.name: metric.of(Items(score[:, None], labels))}


def told(values: Mapping[str, Estimate]) -> dict[str, Any]:
    return {name: list(e) for name, e in values.items()}


def paired_told(found: tuple[Paired, ...]) -> dict[str, Any]:
    """{metric: channel - tensor}."""
    return {p.metric: {"difference": [p.difference, p.low, p.high], "lost": p.lost, "won": p.won, "verdict": p.verdict} for p in found}


def print_row(name: str, row: Mapping[str, Any]) -> None:
    print(f"\n{name}, {row['samples']} samples")
    for which in ("float", *GRAINS):
        print(f"{which:10}" + "".join(f"  {m} {v:.4f} ({low:.4f} to {high:.4f})" for m, (v, low, high) in row[which].items()))
    for m, p in row["paired"].items():
        v, low, high = p["difference"]
        counts = "" if p["lost"] is None else f", lost {p['lost']}, won {p['won']}"
        print(f"channel - tensor, {m}: {v:.4f} ({low:.4f} to {high:.4f}){counts}: channel is {p['verdict']}", flush=True)


def answer(name: str, row: Mapping[str, Any]) -> str:
    m = FIRST.get(name, "top1")
    value, low, high = row["paired"][m]["difference"]
    figures = " / ".join(f"{row[which][m][0]:.3f}" for which in ("float", "channel", "tensor"))
    sqnr = row["paired"]["sqnr"]["difference"][0]
    return f"{name} {m} {figures}, channel - tensor {value:+.3f} ({low:+.3f} to {high:+.3f}), SQNR {sqnr:+.1f} dB"


def main() -> None:
    p = labs.options(__doc__, NETS, 1000, "granularity.json", sets.TASKS)
    p.add_argument("--strategy", default="minmax")
    asked = p.parse_args()
    found = []
    for name in asked.net:
        rest = (asked.strategy, asked.samples)
        make = functools.partial(detected, *rest) if name == "ad01" else functools.partial(classified, name, *rest)
        row = labs.row(asked.out, f"{name} {asked.strategy}", {"asked": asked.samples}, make)
        print_row(name, row)
        found.append(answer(name, row))
    print("\nfloat / per channel / per tensor: " + "; ".join(found))


if __name__ == "__main__":
    main()
