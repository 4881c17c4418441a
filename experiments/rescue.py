"""Question: does `requantize` make badly ranged files good, from the file and calibration data alone, and leave the others alone?

Answer, per file: what was decided, accuracy (or AUC) of the file and of what is kept on its test set, in exact integer mode, and how many
output elements differ from LiteRT's. Choices are made on calibration samples alone; a declined file keeps its figure. Then the float
mode of mobilenet_v1_025_224_uint8, whose 27 clamps are only in its ranges, beside its integer mode.

    QSIM_MODELS=... python experiments/rescue.py [--out FILE.json]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import sets
from ad01_auc import scores
from realdata import net

import qsim
from calibrate.evaluation import auc, right
from calibrate.requantizing import Verdict, improve
from qsim.litert import Oracle
from qsim.ops.convert import quantize_array
from qsim.writer import to_bytes

METERS = ("meter_digits_2000_int8", "meter_digits_1900_int8")
LEFT_ALONE = {"mlperf_resnet8_int8": "resnet8", "mlperf_vww96_int8": "vww96"}
COMPARED = 40  # samples run in LiteRT


def top1(model: qsim.Model, mode: str, x: np.ndarray, y: np.ndarray) -> float:
    return float(right(model.function(mode).batch(x)[0].reshape(len(x), -1).astype(np.float64), y.reshape(-1)).mean())


def differing(model: qsim.Model, x: np.ndarray) -> int:
    """Output elements that differ from those of LiteRT running the written file."""
    with Oracle() as oracle:
        ours = model.function("integer").batch(x)
        theirs = oracle.run(to_bytes(model), [_stored(x, model)])
    return sum(int((a != theirs[t]).sum()) for a, t in zip(ours, model.graph.outputs, strict=True))


def _stored(x: np.ndarray, model: qsim.Model) -> np.ndarray:
    t = model.graph.tensors[model.graph.inputs[0]]
    return x if t.qparams is None else quantize_array(x, t.qparams, t.type, "xnnpack")


def row(name: str, verdict: Verdict, **figures: Any) -> dict[str, Any]:
    return {"file": name, "decided": verdict.words, "limits": list(verdict.limits), **figures}


def classified(name: str, task: sets.Task) -> dict[str, Any]:
    """A file judged by its classes: requantized from itself and the task's calibration set."""
    model, (x, y) = net(name), sets.load(task.test)
    assert y is not None
    made, verdict = improve(model, [sets.load(task.calibration)[0]])
    before = top1(model, "integer", x, y)
    after = before if made is None else top1(made, "integer", x, y)
    differ = None if made is None else differing(made, x[:COMPARED])
    return row(name, verdict, samples=len(x), before=before, after=after, differ_from_litert=differ)


def anomalies(original: str | None) -> dict[str, Any]:
    """ad01's official int8 file, by itself or with the float net it came from."""
    name, task = "mlperf_ad01_int8", sets.TASKS["ad01"]
    seen, (x, broken) = sets.load(task.calibration)[0], sets.load(task.test)
    files, count, width = seen.shape
    model, source = net(name), None if original is None else net(original)
    made, verdict = improve(model, [seen.reshape(-1, width)], original=source, groups=np.repeat(np.arange(files), count).tolist())
    before = auc(scores(model, "integer", "xnnpack", x), broken)
    after = before if made is None else auc(scores(made, "integer", "xnnpack", x), broken)
    return row(name, verdict, original=original, auc_before=before, auc_after=after)


def clamps() -> dict[str, Any]:
    name, task = "mobilenet_v1_025_224_uint8", sets.TASKS["mobilenet_v1"]
    model, (x, y) = net(name), sets.load(task.test)
    assert y is not None
    found = sum(n.inferred_activation is not None for n in model.graph.nodes)
    return {"file": name, "inferred": found, "float": top1(model, "float", x, y + 1), "integer": top1(model, "integer", x, y + 1)}


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "rescue.json")
    args = p.parse_args()
    rows = []
    jobs = [lambda n=n: classified(n, sets.TASKS["meter_digits"]) for n in METERS]
    jobs += [lambda n=n, t=t: classified(n, sets.TASKS[t]) for n, t in LEFT_ALONE.items()]
    for job in [*jobs, lambda: anomalies(None), lambda: anomalies("mlperf_ad01_f32"), clamps]:
        rows.append(job())
        print("\n  ".join(f"{k}: {v}" for k, v in rows[-1].items()), flush=True)
    args.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
