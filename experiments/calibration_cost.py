"""Question: what does calibration cost beside a plain float pass, and what do a hundred strategies cost after it?

Answer: CPU time of the pass per image as a multiple of the plain float pass over the same images (both compiled before, alternating,
medians and minima), and the time for min/max, 59 percentiles and 40 norms for all tensors from the statistics. On resnet8 with one
thread on a busy two-core machine: the pass 1.6 to 1.8 times the plain one, the hundred strategies 0.12 s of CPU time.

    QSIM_MODELS=... python experiments/calibration_cost.py [--net mlperf_resnet8_f32 ...] [--samples 512] [--rounds 7]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from realdata import net

import qsim
from calibrate import observe
from calibrate.folding import compiled
from calibrate.ranging import several

STRATEGIES = (
    "minmax",
    *(f"percentile:{100 - 10.0**-e:.7f}" for e in np.linspace(-1, 5, 59)),
    *(f"mse:p={p:.3f}" for p in np.linspace(1, 5, 40)),
)


def timed(run: Callable[[], Any]) -> tuple[float, float]:
    """(CPU seconds of this process, wall seconds)."""
    cpu, wall = time.process_time(), time.perf_counter()
    run()
    return time.process_time() - cpu, time.perf_counter() - wall


def images(model: qsim.Model, count: int) -> np.ndarray:
    """Values 0..255 in the shape of the model's input: cost does not depend on what they show."""
    shape = model.graph.tensors[model.graph.inputs[0]].shape
    return np.random.default_rng(0).integers(0, 256, (count, *shape)).astype(np.float32)


def measure(name: str, samples: int, rounds: int) -> dict[str, float]:
    model = net(name)
    x = images(model, samples)
    run = model.function("float")
    run.batch(x), observe(model, x)  # compile
    stats = observe(model, x)
    several(model, stats, STRATEGIES)
    plain, passed, ranked = [], [], []
    for _ in range(rounds):
        plain.append(timed(lambda: run.batch(x))[0] / samples * 1e3)
        passed.append(timed(lambda: observe(model, x))[0] / samples * 1e3)
        ranked.append(timed(lambda: several(model, stats, STRATEGIES)))
    watches = compiled(model).watches
    return {
        "elements": sum(w.size for w in watches), "counted": sum(w.sampled for w in watches),
        "plain_ms": float(np.median(plain)), "pass_ms": float(np.median(passed)),
        "ratio": float(np.median(passed) / np.median(plain)), "ratio_of_minima": min(passed) / min(plain),
        "ranking_cpu_ms": 1e3 * float(np.median([r[0] for r in ranked])), "ranking_wall_ms": 1e3 * float(np.median([r[1] for r in ranked])),
    }  # fmt: skip


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--net", nargs="*", default=["mlperf_resnet8_f32"])
    p.add_argument("--samples", type=int, default=512)
    p.add_argument("--rounds", type=int, default=7)
    args = p.parse_args()
    for name in args.net:
        found = measure(name, args.samples, args.rounds)
        print(name, f"{len(STRATEGIES)} strategies", *(f"{k} {v:.4g}" for k, v in found.items()), sep="  ", flush=True)


if __name__ == "__main__":
    main()
