"""Question: how much worse than the best range on the raw values is the MSE range that the sketch gives, and do quantiles keep their bound?

    QSIM_MODELS=... python experiments/mse_regret.py [--task resnet8 ...] [--samples 200] [--out FILE]

For every observed tensor but the model's inputs (their range is their domain, never an estimate): scales 2.5 % apart by every third zero
point, around the best four of them scales 0.15 % apart by all zero points, around the best of those ever finer ones; each one's squared
error summed over the raw values themselves (sorted, with running sums: code of its own, nothing of calibrate). Regret: how much more of
it the stored (scale, zero point) of strategy `mse` has, as a part of the best; where the best is below 1e-4 step^2 an element, in step^2
an element. From sketches of sampled pixels and of every element (`exact`). Quantiles of 0.01 to 99.99 % of the exact sketch against the
raw values: within 2^-7 of them.
Answer: results/mse_regret.json; the last line is the median and the worst over all tensors. Found: the median keeps 0.5 %; far above 3 %
are outputs of few values, and outputs of RELU6 with much of their mass at 6 itself, which the mesh of the search spread over an interval.
"""

from __future__ import annotations

import argparse
import json
from fractions import Fraction
from math import floor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import sets
from realdata import net

from calibrate import observe
from calibrate.distribution import distribution
from calibrate.strategies import Mse
from qsim.graph import Model
from qsim.scheme import affine

LOW, HIGH = -128, 127
SMALL = 1e-4  # step^2 an element
QUANTILES = [Fraction(k, 10_000) for k in (1, 10, 100, 1000, 2500, 5000, 7500, 9000, 9900, 9990, 9999)]
COUNTS = {"ad01": 200, "resnet8": 150, "vww96": 20, "mobilenet_v2": 4}


class Raw(NamedTuple):
    """Values in ascending order, and the sums of x and x^2 before each."""

    x: np.ndarray
    first: np.ndarray
    second: np.ndarray


def raw(values: np.ndarray) -> Raw:
    x = np.sort(values.reshape(-1).astype(np.float64))
    return Raw(x, *(np.concatenate([[0.0], np.cumsum(v)]) for v in (x, x * x)))


def errors(r: Raw, scales: np.ndarray, zeros: np.ndarray) -> np.ndarray:
    """(K,) mean of (x - real(code(x)))^2 over the values for each (scale, zero point)."""
    codes = np.arange(LOW, HIGH + 1)
    found = np.empty(len(scales))
    for at in range(0, len(scales), 512):
        s, z = scales[at : at + 512, None], zeros[at : at + 512, None]
        inner = np.searchsorted(r.x, s * (codes[:-1] - z + 0.5))  # which side a tie goes to changes no error
        ends = np.concatenate([np.zeros_like(inner[:, :1]), inner, np.full_like(inner[:, :1], len(r.x))], axis=1)
        n, sx, sxx = (np.diff(v[ends] if v is not None else ends, axis=1) for v in (None, r.first, r.second))
        real = s * (codes - z)
        found[at : at + 512] = (sxx - 2 * real * sx + real * real * n).sum(axis=1)
    return found / len(r.x)


def best(r: Raw) -> tuple[float, float, float]:
    """(error, scale, zero point) of the best of all scales and zero points."""
    low, high = min(r.x[0], 0.0), max(r.x[-1], 0.0)
    widest = max((high - low) / (HIGH - LOW), 1e-30)
    zeros = np.arange(LOW, HIGH + 1, 3) if low < 0 < high else np.array([LOW, LOW + 1] if low == 0 else [HIGH - 1, HIGH])
    pairs = _grid(widest * 0.975 ** np.arange(-8, 140), zeros)
    for spread, kept in ((0.03, 4), (0.0015, 1)):
        found = errors(r, pairs[:, 0], pairs[:, 1])
        starts = pairs[np.argsort(found)[:kept]]
        around = [_grid(s * np.linspace(1 - spread, 1 + spread, 41), np.clip(z + np.arange(-4, 5), LOW, HIGH)) for s, z in starts]
        pairs = np.concatenate([starts, *around])
    found = errors(r, pairs[:, 0], pairs[:, 1])
    return float(found.min()), *pairs[np.argmin(found)].tolist()


def _grid(scales: np.ndarray, zeros: np.ndarray) -> np.ndarray:
    return np.stack(np.meshgrid(scales, np.unique(zeros), indexing="ij"), -1).reshape(-1, 2)


def regret(r: Raw, pair: Any, lowest: tuple[float, float, float]) -> tuple[float, bool]:
    """(how much worse, whether as a part of the best rather than in step^2)."""
    more = max(errors(r, np.array([pair[0]], float), np.array([pair[1]], float))[0] - lowest[0], 0.0)
    relative = lowest[0] > SMALL * lowest[1] ** 2
    return more / (lowest[0] if relative else lowest[1] ** 2), relative


def violations(r: Raw, sketch: Any) -> int:
    """Quantiles of the exact sketch that are further from the raw values' own than the stated 2^-7 of the value."""
    d, n, wrong = distribution([sketch]), len(r.x), 0
    for q in QUANTILES:
        low, high = d.cut(q, q)
        for got, want in ((low, r.x[floor(q * n)]), (high, r.x[n - 1 - floor(q * n)])):
            wrong += abs(got - want) > 2.0**-7 * abs(want) * (1 + 1e-3)  # the raw values are those of another compiled function
    return int(wrong)


def measure(name: str, model: Model, x: np.ndarray) -> list[dict[str, Any]]:
    exact, sampled = observe(model, x, exact=True), observe(model, x)
    rows, wanted = [], tuple(t for t in sampled.tensors if t not in model.graph.inputs)
    _, taps = model.function("float", taps=wanted).batch(x)
    for t in wanted:
        r, s = raw(np.asarray(taps[t])), sampled.tensors[t]
        if s.empty or r.x[0] == r.x[-1]:
            continue
        lowest = best(r)
        pairs = {kind: affine(*Mse()(distribution([stats.tensors[t]])), "int8") for kind, stats in (("sampled", sampled), ("exact", exact))}
        found = {kind: regret(r, pair, lowest) for kind, pair in pairs.items()}
        rows.append({
            "net": name, "tensor": model.graph.key(t), "elements": s.size, "counted": s.sampled, "samples": len(x),
            "best_step2": lowest[0] / lowest[1] ** 2, "relative": found["exact"][1], "violations": violations(r, exact.tensors[t]),
            **{kind: v[0] for kind, v in found.items()},
        })  # fmt: skip
        print(name, model.graph.key(t)[-40:], *(f"{k} {v:.3g}" for k, v in rows[-1].items() if isinstance(v, float)), flush=True)
    return rows


def told(rows: list[dict[str, Any]]) -> str:
    lines = []
    for kind in ("sampled", "exact"):
        parts, steps = ([r[kind] for r in rows if r["relative"] is relative] for relative in (True, False))
        lines.append(f"{kind}: median {100 * np.median(parts):.3f} %, worst {100 * max(parts):.3f} % of {len(parts)} tensors"
                     f"; the other {len(steps)}: worst {max(steps, default=0.0):.2e} step^2")  # fmt: skip
    return "\n".join([*lines, f"quantiles beyond their bound: {sum(r['violations'] for r in rows)} of {22 * len(rows)}"])


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--task", nargs="*", choices=list(sets.TASKS), default=list(COUNTS))
    p.add_argument("--samples", type=int, help="of each net (default: some millions of values a tensor)")
    p.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "mse_regret.json")
    asked = p.parse_args()
    rows = []
    for name in asked.task:
        model = net(sets.TASKS[name].net)
        x = sets.load(sets.TASKS[name].calibration)[0]
        x = x.reshape(-1, *model.graph.tensors[model.graph.inputs[0]].shape)
        count = asked.samples or COUNTS.get(name, 50)
        rows += measure(name, model, x[np.linspace(0, len(x) - 1, min(count, len(x))).astype(int)])
        asked.out.write_text(json.dumps(rows, indent=1) + "\n")
    print(told(rows))


if __name__ == "__main__":
    main()
