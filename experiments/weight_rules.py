"""Question: does clipping weights (MSE, OCTAV, percentile) serve a net better than scales that reach the largest weight?

    QSIM_MODELS=... python experiments/weight_rules.py [--net resnet8 ...] [--samples 500]

Answer: not at 8 bits. At 4 bits a little (ad01 22.3 -> 23.8 dB by MSE, resnet8 0.42 -> 0.39 nats by OCTAV, kws even), at 3 bits much where
the net survives (resnet8 2.2 -> 0.8 nats, kws 0.55 -> 0.29), though not on ad01 (19.3 -> 18.7 dB); with weights rounded so that their sum
stays. How they are rounded matters more than where they are clipped. `results/weight_rules.json`: output KL (nats; ad01: SQNR in dB)
against the float net and top-1 on test samples; ranges of activations are min/max of the calibration set; int8 and int8w4 in exact integer
mode, 3 bits of weights in fake mode; "nearest" and "sum" are the roundings of the weights (`Scheme.rounding`).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import sets
from realdata import net

import calibrate
import qsim
from calibrate import evaluation
from qsim.scheme import scheme_named

RULES = ("max", "mse", "octav", "percentile:99")
SCHEMES = ("int8", "int8w4", "sim:a8w3")
RESULTS = Path(__file__).parent / "results" / "weight_rules.json"


def rows(name: str, samples: int) -> Iterator[dict[str, Any]]:
    task = sets.TASKS[name]
    model, (seen, _), (x, labels) = net(task.net), sets.load(task.calibration), sets.load(task.test)
    if name == "ad01":
        seen, x, labels = seen.reshape(-1, seen.shape[-1])[::20], x.reshape(-1, x.shape[-1])[::17], None
    kept = np.linspace(0, len(x) - 1, min(samples, len(x))).astype(int)
    x, labels = x[kept], None if labels is None else labels[kept]
    stats, reference = calibrate.observe(model, seen[:500], sequence=False), model.function("float").batch(x)[0].reshape(len(x), -1)
    for scheme in map(scheme_named, SCHEMES):
        ranges, run = calibrate.ranges(model, stats, "minmax", scheme, task.domain), None
        for rounding in ("nearest", "sum"):
            for rule in RULES:
                made = qsim.quantize(model, ranges, replace(scheme, clip=rule, rounding=rounding))
                run = run or made.function("fake" if scheme.is_simulated else "integer")
                y = run.run_samples(run.lower(made), x[:, None])[0].reshape(len(x), -1)  # one compile: only numbers differ
                told = {"net": name, "scheme": scheme.name, "rounding": rounding, "rule": rule}
                if labels is None:
                    yield {**told, "sqnr_db": evaluation.sqnr(reference, y)}
                else:
                    yield {**told, "kl": evaluation.divergence(reference, y), "top1": float(evaluation.right(y, labels).mean())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", nargs="+", choices=sets.TASKS, default=["resnet8", "kws", "ad01"])
    parser.add_argument("--samples", type=int, default=500)
    asked = parser.parse_args()
    found = []
    for name in asked.net:
        for row in rows(name, asked.samples):
            found.append(row)
            print("  ".join(f"{k} {v:.5g}" if isinstance(v, float) else f"{v}" for k, v in row.items()), flush=True)
            RESULTS.write_text(json.dumps({"samples": asked.samples, "rows": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
