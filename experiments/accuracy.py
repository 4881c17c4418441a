"""Question: what does int8 cost in accuracy, in exact integer mode, against the float net on the same samples?

Answer, per task: accuracy of both, paired counts (lost: only the float net is right; won: only the int8 net is), agreement of the top
class, KL divergence, SQNR. Ranges come from the calibration set alone. An int8 net passes where lost - won <= 2 sqrt(lost + won), or
where it drops by at most 0.3 points.

    QSIM_MODELS=... python experiments/accuracy.py [--task resnet8 ...] [--strategy minmax auto ...] [--flavour xnnpack] [--out FILE.json]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import sets
from realdata import net

import calibrate
import qsim
from calibrate import evaluation

CLASSIFICATION = ("resnet8", "vww96", "mobilenet_v1", "mobilenet_v2", "meter_digits", "kws")


def ranges_of(
    model: qsim.Model, x: np.ndarray, strategy: str, domain: tuple[float, float] | None, groups: Sequence[int] | None = None
) -> Mapping[str, Any]:
    """Ranges of every tensor that needs one, from calibration samples alone; "auto" chooses among candidates on a fifth of them.

    groups: group id per sample, where samples belong together.
    """
    if strategy == "auto":
        return calibrate.choose(model, [x], qsim.INT8, groups=groups, input_range=domain)[0]
    return calibrate.ranges(model, calibrate.observe(model, [x]), strategy, scheme=qsim.INT8, input_range=domain)


def judge(real: np.ndarray, stored: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    """Figures of int8 outputs against float outputs, both (N, classes) real; the pass is `evaluation.verdict`."""
    a, b = evaluation.right(real, y), evaluation.right(stored, y)
    judged = evaluation.verdict(int((a & ~b).sum()), int((b & ~a).sum()), len(y))
    return {
        "samples": len(y), "float": float(a.mean()), "int8": float(b.mean()), "lost": judged["lost"], "won": judged["won"],
        "passes": judged["not_inferior"], "agreement": float((real.argmax(1) == stored.argmax(1)).mean()),
        "kl": evaluation.divergence(real, stored), "sqnr_db": evaluation.sqnr(real, stored),
    }  # fmt: skip


def measure(name: str, strategy: str, flavour: str) -> dict[str, Any]:
    """One row: a task, quantized by one strategy, on its whole test set."""
    task = sets.TASKS[name]
    model = net(task.net)
    x, y = sets.load(task.test)
    ranges = ranges_of(model, sets.load(task.calibration)[0], strategy, task.domain)
    int8 = qsim.quantize(model, ranges, qsim.INT8)
    real = model.function("float").batch(x)[0].reshape(len(x), -1)
    stored = int8.function("integer", flavour).batch(x)[0].reshape(len(x), -1)
    assert y is not None
    shift = 1 if real.shape[1] == 1001 else 0  # these nets count a background class before the others
    return {"task": name, "strategy": strategy, "flavour": flavour, **judge(real, stored, y.reshape(-1) + shift)}


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--task", nargs="*", default=["resnet8", "vww96", "mobilenet_v1"], choices=CLASSIFICATION)
    p.add_argument("--strategy", nargs="*", default=["auto"])
    p.add_argument("--flavour", default="xnnpack")
    p.add_argument("--out", type=Path)
    args = p.parse_args()
    rows = []
    for name in args.task:
        for strategy in args.strategy:
            rows.append(measure(name, strategy, args.flavour))
            print("  ".join(f"{k} {v:.4f}" if isinstance(v, float) else f"{k} {v}" for k, v in rows[-1].items()), flush=True)
    if args.out:
        args.out.write_text(json.dumps(rows, indent=1, default=bool) + "\n")


if __name__ == "__main__":
    main()
