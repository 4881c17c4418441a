"""Question: what does a scheme cost in accuracy, in exact integer mode, against the float net on the same samples?

Answer, per task and scheme: accuracy of both, paired counts (lost: only the float net is right; won: only the quantized net is),
agreement of the top class, KL divergence, SQNR. Ranges and bias corrections come from the calibration set alone. A net passes where
lost - won <= 2 sqrt(lost + won), or where it drops by at most 0.3 points.

    QSIM_MODELS=... python experiments/accuracy.py [--task resnet8 ...] [--scheme int8 int8w4 ...] [--strategy minmax auto ...]
        [--correct bias|weights|auto] [--flavour xnnpack] [--out FILE.json]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import sets
from realdata import net

import calibrate
import qsim
from calibrate import evaluation
from qsim.scheme import SCHEMES

CLASSIFICATION = ("resnet8", "vww96", "mobilenet_v1", "mobilenet_v2", "meter_digits", "kws")


def ranges_of(
    model: qsim.Model,
    x: np.ndarray,
    strategy: str,
    domain: tuple[float, float] | None,
    groups: Sequence[int] | None = None,
    scheme: qsim.Scheme = qsim.INT8,
) -> Mapping[str, Any]:
    """Ranges of every tensor that needs one, from calibration samples alone; "auto" chooses among candidates on a fifth of them.

    groups: group id per sample, where samples belong together.
    """
    if scheme.activation == "float32":
        return {}
    if strategy == "auto":
        return calibrate.choose(model, [x], scheme, groups=groups, input_range=domain)[0]
    return calibrate.ranges(model, calibrate.observe(model, [x]), strategy, scheme=scheme, input_range=domain)


def judge(real: np.ndarray, stored: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    """Figures of quantized outputs against float outputs, both (N, classes) real; the pass is `evaluation.verdict`."""
    a, b = evaluation.right(real, y), evaluation.right(stored, y)
    judged = evaluation.verdict(int((a & ~b).sum()), int((b & ~a).sum()), len(y))
    return {
        "samples": len(y), "float": float(a.mean()), "quantized": float(b.mean()), "lost": judged["lost"], "won": judged["won"],
        "passes": judged["not_inferior"], "agreement": float((real.argmax(1) == stored.argmax(1)).mean()),
        "kl": evaluation.divergence(real, stored), "sqnr_db": evaluation.sqnr(real, stored),
    }  # fmt: skip


def measure(name: str, scheme: qsim.Scheme, strategy: str, flavour: str, correct: str) -> dict[str, Any]:
    """One row: a task, quantized by one scheme and strategy, on its whole test set."""
    task = sets.TASKS[name]
    model = net(task.net)
    x, y = sets.load(task.test)
    seen = sets.load(task.calibration)[0]
    made = qsim.quantize(model, ranges_of(model, seen, strategy, task.domain, scheme=scheme), scheme)
    made, how = calibrate.correct(model, made, [seen], correct)
    facts = {"task": name, "scheme": scheme.name, "strategy": strategy, "correct": how.chosen, "flavour": flavour}
    real = model.function("float").batch(x)[0].reshape(len(x), -1)
    stored = made.function("integer", flavour).batch(x)[0].reshape(len(x), -1)
    assert y is not None
    shift = 1 if real.shape[1] == 1001 else 0  # these nets count a background class before the others
    return {**facts, **judge(real, stored, y.reshape(-1) + shift)}


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--task", nargs="*", default=["resnet8", "vww96", "mobilenet_v1"], choices=CLASSIFICATION)
    p.add_argument("--scheme", nargs="*", default=["int8"], choices=sorted(SCHEMES))
    p.add_argument(
        "--correct", default="no", choices=("no", "bias", "auto"), help="correct biases: always, or where it helps held-back data"
    )
    p.add_argument("--strategy", nargs="*", default=["auto"])
    p.add_argument("--flavour", default="xnnpack")
    p.add_argument("--out", type=Path)
    args = p.parse_args()
    rows = []
    for name, scheme, strategy in product(args.task, args.scheme, args.strategy):
        rows.append(measure(name, SCHEMES[scheme], strategy, args.flavour, args.correct))
        print("  ".join(f"{k} {v:.4f}" if isinstance(v, float) else f"{k} {v}" for k, v in rows[-1].items()), flush=True)
    if args.out:
        args.out.write_text(json.dumps(rows, indent=1, default=bool) + "\n")


if __name__ == "__main__":
    main()
