"""Question: how much do the results of one int8 file depend on which of LiteRT's kernels run it?

Answer, per net and pair of flavours (xnnpack: the default; builtin: without delegates; reference: the reference kernels), each in exact
integer mode on the same test samples: the share of output codes that differ, the mean of those differences and the largest, in steps of the
output; the share of samples with the same top class; and top-1 of both, paired (lost: only the second is right; won: only the first is).
The file is the net quantized with min/max ranges of its calibration set, with int8 inputs and outputs.

    QSIM_MODELS=... python experiments/flavour_disagreement.py [--net resnet8 vww96 mobilenet_v2] [--samples 200] [--out FILE.json]
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping
from typing import Any

import labs
import numpy as np
import sets
from realdata import net, stored

import calibrate
import qsim
from calibrate import evaluation
from qsim.op import FLAVOURS


def measured(name: str, samples: int) -> dict[str, Any]:
    model, (x, y) = net(sets.TASKS[name].net), labs.drawn(name, samples)
    assert y is not None
    stats = calibrate.observe(model, [sets.load(sets.TASKS[name].calibration)[0]], sequence=False)
    int8 = qsim.quantize(model, calibrate.ranges(model, stats, "minmax", input_range=sets.TASKS[name].domain), io="int8")
    codes = stored(x, int8.graph.tensors[int8.graph.inputs[0]])
    outputs = {f: int8.function("integer", f).batch(codes)[0].reshape(len(x), -1).astype(np.int64) for f in FLAVOURS}
    labels = y + (outputs["xnnpack"].shape[1] == labs.BACKGROUND)
    right = {f: evaluation.right(v, labels) for f, v in outputs.items()}
    pairs = {f"{a}, {b}": differing(outputs[a], outputs[b], right[a], right[b]) for a, b in itertools.combinations(FLAVOURS, 2)}
    return {"samples": len(x), "top1": {f: float(v.mean()) for f, v in right.items()}, "pairs": pairs}


def differing(a: np.ndarray, b: np.ndarray, right_a: np.ndarray, right_b: np.ndarray) -> dict[str, Any]:
    steps = np.abs(a - b)
    judged = evaluation.verdict(int((right_b & ~right_a).sum()), int((right_a & ~right_b).sum()), len(a))
    return {
        "differ": float((steps > 0).mean()), "samples_differ": float((steps > 0).any(1).mean()),
        "mean_steps": float(steps[steps > 0].mean()) if steps.any() else 0.0, "most_steps": int(steps.max()),
        "agreement": float((a.argmax(1) == b.argmax(1)).mean()), **judged,
    }  # fmt: skip


def print_row(name: str, row: Mapping[str, Any]) -> None:
    print(f"\n{name}, {row['samples']} samples: top-1 " + ", ".join(f"{f} {v:.4f}" for f, v in row["top1"].items()))
    print("                     outputs differ  samples  mean steps  most  same class  lost/won  drop in points")
    for pair, d in row["pairs"].items():
        low, high = d["interval"]
        counts = f"{d['lost']}/{d['won']}"
        figures = f"{d['differ']:14.2%} {d['samples_differ']:8.1%} {d['mean_steps']:11.2f} {d['most_steps']:5} {d['agreement']:11.1%}"
        print(f"{pair:20} {figures} {counts:>9}  {d['drop_points']:.2f} ({low:.2f} to {high:.2f})", flush=True)


def answer(rows: Mapping[str, Mapping[str, Any]]) -> str:
    worst = {name: [max(d[k] for d in row["pairs"].values()) for k in ("differ", "most_steps")] for name, row in rows.items()}
    told = [f"{name} up to {share:.1%} of the outputs differ, by up to {steps} steps" for name, (share, steps) in worst.items()]
    agreed = min(d["agreement"] for row in rows.values() for d in row["pairs"].values())
    moved = max(abs(d["drop_points"]) for row in rows.values() for d in row["pairs"].values())
    return f"{'; '.join(told)}; the top class agrees in at least {agreed:.1%}, top-1 moves by at most {moved:.2f} points"


def main() -> None:
    p = labs.options(__doc__, ("resnet8", "vww96", "mobilenet_v2"), 200, "flavour_disagreement.json")
    asked = p.parse_args()
    rows = {}
    for name in asked.net:
        rows[name] = labs.row(asked.out, name, {"asked": asked.samples}, functools.partial(measured, name, asked.samples))
        print_row(name, rows[name])
    print("\n" + answer(rows))


if __name__ == "__main__":
    main()
