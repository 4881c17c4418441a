"""Question: how many calibration samples are enough?

Answer, per net, scheme and strategy: the mean KL to the float net on the same test samples, in nats (exact integer mode; fake mode for
simulated schemes), with ranges from 4, 8, 16, ... and from all calibration samples; each number over several choices of samples (draws; a
smaller choice is part of the larger one of its draw), as the mean over draws with two of its standard errors, the smallest and the largest.
Enough: from there on the mean KL is at most 1.05 times that with all samples (the draws' errors are often wider).
Destroyed: with all samples the KL is not below that of the mean float output, and sizes mean nothing.
A second run with the same settings goes on where the first stopped.

    QSIM_MODELS=... python experiments/calibration_size.py [--net resnet8 kws] [--scheme int8 sim:a6w8] [--sizes 4 8 16 32 64] [--draws 5]
        [--samples 128] [--out FILE.json]
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import labs
import numpy as np

from calibrate.candidates import Candidate
from calibrate.scoring import Lab

STRATEGIES = ("minmax", "mse", "percentile:99.99")
MARGIN = 1.05


def measured(lab: Lab, scheme: str, sizes: Sequence[int], draws: int) -> dict[str, Any]:
    """{strategy: {size: figures}}, the last size being all samples."""
    found: dict[str, Any] = {s: {} for s in STRATEGIES}
    for size in (*sizes, 0):
        for s in STRATEGIES:
            wanted = [Candidate(scheme, s, samples=size, draw=k) for k in range(draws if size else 1)]
            found[s][str(size or len(lab.hashes["calibrate"]))] = figures([float(labs.losses(lab, c).mean()) for c in wanted])
    return {"strategies": found, "measure": lab.measure, "constant": float(labs.constants(lab.reference("test")[0]).mean())}


def figures(means: Sequence[float]) -> dict[str, Any]:
    """error: None for a single choice of samples."""
    return {
        "kl": float(np.mean(means)), "error": labs.mean_error(np.array(means))[1] if len(means) > 1 else None, "low": min(means),
        "high": max(means), "draws": list(means),
    }  # fmt: skip


def enough(by_size: Mapping[str, Mapping[str, Any]]) -> int:
    """The smallest number of samples from which on the mean KL stays within MARGIN of that with all."""
    sizes = sorted(map(int, by_size))
    least = sizes[-1]
    for size in reversed(sizes):
        if by_size[str(size)]["kl"] > MARGIN * by_size[str(sizes[-1])]["kl"]:
            break
        least = size
    return least


def answer(strategy: str, by_size: Mapping[str, Mapping[str, Any]], constant: float) -> str:
    sizes = sorted(map(int, by_size))
    if by_size[str(sizes[-1])]["kl"] >= constant:
        return f"{strategy} destroyed"
    ratio = by_size[str(sizes[0])]["kl"] / by_size[str(sizes[-1])]["kl"]
    return f"{strategy} {enough(by_size)} ({ratio:.2f} with {sizes[0]})"


def print_row(key: str, row: Mapping[str, Any]) -> None:
    for s, by_size in row["strategies"].items():
        print(f"\n{key} {s}, {row['measure']}: enough {enough(by_size)}")
        for size, f in by_size.items():
            error = "" if f["error"] is None else f" +- {f['error']:.5f}   {f['low']:.5f} to {f['high']:.5f}"
            print(f"{size:>6} {f['kl']:.5f}{error}", flush=True)


def main() -> None:
    p = labs.options(__doc__, ("resnet8", "kws"), 128, "calibration_size.json")
    p.add_argument("--scheme", nargs="+", default=["int8", "sim:a6w8"])
    p.add_argument("--sizes", nargs="+", type=int, default=[4, 8, 16, 32, 64])
    p.add_argument("--draws", type=int, default=5)
    asked = p.parse_args()
    settings, told = {"samples": asked.samples, "sizes": asked.sizes, "draws": asked.draws}, []
    with tempfile.TemporaryDirectory() as folder:
        for name in asked.net:
            lab = functools.cache(functools.partial(labs.lab, name, asked.samples, Path(folder)))
            for scheme in asked.scheme:
                make = functools.partial(lambda lab, *rest: measured(lab(), *rest), lab, scheme, asked.sizes, asked.draws)
                row = labs.row(asked.out, f"{name} {scheme}", settings, make)
                print_row(f"{name} {scheme}", row)
                told.append(
                    f"{name} {scheme} " + ", ".join(answer(s, by_size, row["constant"]) for s, by_size in row["strategies"].items())
                )
    print("\nenough samples (KL with the fewest, as a multiple of that with all): " + "; ".join(told))


if __name__ == "__main__":
    main()
