"""Question: what do a scale and zero point for each channel of the activations bring at few bits, in fake mode?

Answer, per task: top-1 accuracy on its test set of the float net, and of simulated schemes with one range a tensor (`sim:a4w4`) and one a
channel (`sim:a4cw4`), by strategy; all ranges come from the calibration set alone, the input's is its declared domain. The figures
are in results/channel_activations.json: with min/max ranges 12 points for resnet8 and 7 for vww96, next to nothing or a loss with mse.

    QSIM_MODELS=... python experiments/channel_activations.py [--task resnet8 vww96] [--bits 4] [--weights 4] [--strategy minmax mse]
        [--samples 5000] [--out FILE.json]
"""

from __future__ import annotations

import argparse
import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import sets
from realdata import net

import calibrate
import qsim
from calibrate.evaluation import right
from qsim.scheme import scheme_named


def top1(model: qsim.Model, mode: str, x: np.ndarray, y: np.ndarray) -> float:
    return float(right(model.function(mode).batch(x)[0].reshape(len(x), -1).astype(np.float64), y.reshape(-1)).mean())


def measured(name: str, bits: int, weights: int, strategy: str, samples: int) -> dict[str, Any]:
    """Accuracy with one range a tensor and with one a channel."""
    task = sets.TASKS[name]
    model, seen = net(task.net), sets.load(task.calibration)[0]
    x, y = (v[:samples] for v in sets.load(task.test) if v is not None)
    whole, apart = scheme_named(f"sim:a{bits}w{weights}"), scheme_named(f"sim:a{bits}cw{weights}")
    alike = calibrate.ranges(model, calibrate.observe(model, [seen]), strategy, whole, input_range=task.domain)
    by_channel = calibrate.channel_ranges(model, [seen], strategy, scheme=apart, input_range=task.domain)
    facts = {"task": name, "bits": bits, "weights": weights, "strategy": strategy, "samples": len(x)}
    return facts | {
        "float": top1(model, "float", x, y),
        "by tensor": top1(qsim.quantize(model, alike, whole), "fake", x, y),
        "by channel": top1(qsim.quantize(model, by_channel, apart), "fake", x, y),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", nargs="*", default=["resnet8", "vww96"])
    parser.add_argument("--bits", nargs="*", type=int, default=[4])
    parser.add_argument("--weights", nargs="*", type=int, default=[4])
    parser.add_argument("--strategy", nargs="*", default=["minmax", "mse"])
    parser.add_argument("--samples", type=int, default=5000)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    rows = []
    for choice in product(asked.task, asked.bits, asked.weights, asked.strategy):
        rows.append(measured(*choice, asked.samples))
        print(json.dumps(rows[-1]), flush=True)
        if asked.out:
            asked.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
