"""Question: what does calibration cost beside a plain float pass and beside ai-edge-quantizer's, and what do a hundred strategies after it?

    QSIM_MODELS=... python experiments/calibration_cost.py [--net mlperf_resnet8_f32 ...] [--samples 512] [--rounds 7]
        [--tools /path/to/python] [--memory 50000] [--out FILE]

CPU time an image, compiled before, alternating, medians: the plain float pass; the pass with whole pixels sampled, with every element
counted, with squared gradients of one draw; `--tools`, a Python with ai-edge-quantizer: its `calibrate` (the difference of two runs of
different length, so that its start does not count). Then min/max, 59 percentiles and 40 norms of all tensors from the statistics.
`--memory`: resident memory while so many samples of a small net pass by, its slope past the first tenth.
Answer: results/calibration_cost.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
NETS = ["mlperf_resnet8_f32", "twin_mobilenet_v2_100_224_f32"]
SMALL_NET = "mlperf_ad01_f32"


# In the other environment: no qsim here.


def elsewhere(folder: Path) -> None:
    """CPU milliseconds a sample of ai-edge-quantizer's calibrate, printed."""
    from ai_edge_quantizer import quantizer, recipe

    x = np.load(folder / "x0.npy")

    def timed_run(count: int) -> float:
        tool = quantizer.Quantizer(str(folder / "net.tflite"))
        tool.load_quantization_recipe(recipe.static_wi8_ai8())
        start = time.process_time()
        tool.calibrate({"serving_default": [{"x0": sample} for sample in x[:count]]})
        return time.process_time() - start

    few, timed_runs = max(len(x) // 4, 1), []
    for _ in range(3):
        timed_runs.append((timed_run(len(x)) - timed_run(few)) / (len(x) - few) * 1e3)
    print(f"RESULT {float(np.median(timed_runs))}")


# In ours.


def strategies() -> tuple[str, ...]:
    percentiles = (f"percentile:{100 - 10.0**-e:.7f}" for e in np.linspace(-1, 5, 59))
    return ("minmax", *percentiles, *(f"mse:p={p:.3f}" for p in np.linspace(1, 5, 40)))


def timed(run: Callable[[], Any]) -> float:
    """CPU seconds of this process."""
    start = time.process_time()
    run()
    return time.process_time() - start


def images(model: Any, count: int) -> np.ndarray:
    """Values 0..255 in the shape of the model's input: cost does not depend on what they show."""
    shape = model.graph.tensors[model.graph.inputs[0]].shape
    return np.random.default_rng(0).integers(0, 256, (count, *shape)).astype(np.float32)


def theirs(tools: str, model: Any, x: np.ndarray) -> float:
    from beside_aeq import prepare

    with tempfile.TemporaryDirectory() as place:
        prepare(Path(place), "net", model, [x[:1]])
        np.save(Path(place) / "x0.npy", x)
        done = subprocess.run([tools, __file__, "--elsewhere", place], check=True, capture_output=True, text=True)
    return float(done.stdout.split("RESULT")[1])


def measure(name: str, samples: int, rounds: int, tools: str | None) -> dict[str, Any]:
    from realdata import net

    from calibrate import observe
    from calibrate.folding import compiled
    from calibrate.ranging import several

    model = net(name)
    x = images(model, samples)
    stats, run = observe(model, x[:8]), model.function("float")
    runs = {
        "plain": lambda: run.batch(x), "pass": lambda: observe(model, x), "exact": lambda: observe(model, x, exact=True),
        "gradients": lambda: observe(model, x, gradients=1),
    }  # fmt: skip
    for call in runs.values():
        call()  # compile
    several(model, stats, strategies())
    found: dict[str, list[float]] = {kind: [] for kind in runs}
    for _ in range(rounds):
        for kind, call in runs.items():
            found[kind].append(timed(call) / samples * 1e3)
    row: dict[str, Any] = {f"{kind}_ms": float(np.median(v)) for kind, v in found.items()}
    row |= {"ranking_cpu_ms": 1e3 * float(np.median([timed(lambda: several(model, stats, strategies())) for _ in range(3)]))}
    row |= {"pass_to_plain": row["pass_ms"] / row["plain_ms"], "gradients_to_pass": row["gradients_ms"] / row["pass_ms"]}
    watches = compiled(model).watches
    row |= {"net": name, "samples": samples, "elements": sum(w.size for w in watches), "counted": sum(w.sampled for w in watches)}
    if tools:
        row["aeq_ms"] = theirs(tools, model, x[: max(8, min(64, samples))])
        row |= {"aeq_to_pass": row["aeq_ms"] / row["pass_ms"], "aeq_to_exact": row["aeq_ms"] / row["exact_ms"]}
    return row


def memory(count: int, part: int = 500) -> dict[str, Any]:
    """Slope of resident memory in MB per 1,000 samples, of the pass with gradients."""
    from realdata import net

    from calibrate import observe

    model, sizes = net(SMALL_NET), []
    x = images(model, part)

    def batches() -> Iterator[np.ndarray]:
        for k in range(0, count, part):
            yield x + np.float32(k / part)
            resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            sizes.append((k + part, resident / 1e6))

    observe(model, batches(), gradients=1)
    late = np.array([s for s in sizes if s[0] > count / 10])
    slope = float(np.polyfit(late[:, 0] / 1000, late[:, 1], 1)[0])
    return {"net": SMALL_NET, "samples": count, "mb_per_1000_samples": slope, "first_mb": late[0, 1], "last_mb": late[-1, 1]}


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--net", nargs="*", default=NETS)
    p.add_argument("--samples", type=int, default=512, help="of nets with inputs up to 64 KB; an eighth of it of larger ones")
    p.add_argument("--rounds", type=int, default=7)
    p.add_argument("--tools", help="Python with ai-edge-quantizer")
    p.add_argument("--memory", type=int, default=0)
    p.add_argument("--out", type=Path, default=HERE / "results" / "calibration_cost.json")
    p.add_argument("--elsewhere", type=Path, help=argparse.SUPPRESS)
    asked = p.parse_args()
    if asked.elsewhere:
        return elsewhere(asked.elsewhere)
    sys.path.insert(0, str(HERE.parent))
    rows = []
    for name in asked.net:
        rows.append(measure(name, asked.samples if "224" not in name else asked.samples // 8, asked.rounds, asked.tools))
        print("  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in rows[-1].items()), flush=True)
        asked.out.write_text(json.dumps(rows, indent=1) + "\n")
    if asked.memory:
        rows.append(memory(asked.memory))
        print(rows[-1], flush=True)
        asked.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
