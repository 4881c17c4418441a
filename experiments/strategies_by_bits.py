"""Question: which strategy for the ranges of activations is best at 8, 6 and 4 bits, and by how much is min/max behind?

Answer, per net and bits (activations and weights alike, fake mode): each strategy's mean KL to the float net on the same test samples, in
nats, and by how much it is smaller than that of min/max and larger than that of the best strategy, paired, all with two standard errors. A
strategy is alike the best where it is behind by at most two standard errors of the paired difference. Constant: the KL of the mean float
output; a net whose best strategy does not beat it by two standard errors is destroyed, and is not counted. All ranges come from the
calibration set; the moving average sees it in one order. A second run with the same settings goes on where the first stopped.

    QSIM_MODELS=... python experiments/strategies_by_bits.py [--net resnet8 kws vww96 mobilenet_v1] [--bits 8 6 4] [--weights BITS]
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
from calibrate.strategies import candidates
from qsim.errors import QsimError

NETS = ("resnet8", "kws", "vww96", "mobilenet_v1")
STRATEGIES = (
    *candidates(), "percentile:99", "percentile:99.9,abs", "percentile:99.9,nonzero", "percentile:0.1,99.9", "sample_percentile",
    "moving_average", "mse:symmetric", "entropy", "entropy_ort:bins=2048", "aciq", "aciq:gauss", "fisher",
)  # fmt: skip


def measured(lab: Lab, scheme: str) -> dict[str, Any]:
    """{strategy: figures, or why it failed}, best first."""
    found: dict[str, np.ndarray] = {}
    failed: dict[str, str] = {}
    for strategy in STRATEGIES:
        try:
            found[strategy] = labs.losses(lab, Candidate(scheme, strategy))
        except QsimError as fault:
            failed[strategy] = str(fault)
    order = sorted(found, key=lambda s: found[s].mean())
    best, constant = found[order[0]], labs.constants(lab.reference("test")[0])
    gain = labs.mean_error(constant - best)
    return {
        "strategies": {s: figures(found[s], found["minmax"], best) for s in order}, "failed": failed, "measure": lab.measure,
        "constant": float(constant.mean()), "destroyed": gain[0] <= gain[1],
    }  # fmt: skip


def figures(losses: np.ndarray, minmax: np.ndarray, best: np.ndarray) -> dict[str, Any]:
    behind = labs.mean_error(losses - best)
    return {"kl": labs.mean_error(losses), "gain": labs.mean_error(minmax - losses), "behind": behind, "alike": behind[0] <= behind[1]}


def print_row(key: str, row: Mapping[str, Any]) -> None:
    destroyed = " (destroyed)" if row["destroyed"] else ""
    print(f"\n{key}: KL, gain on min/max, behind the best; constant {row['constant']:.5f}{destroyed}")
    for s, f in row["strategies"].items():
        pairs = "   ".join(f"{f[name][0]:9.5f} +- {f[name][1]:7.5f}" for name in ("kl", "gain", "behind"))
        print(f"{s:24} {pairs}{'   alike' if f['alike'] else ''}", flush=True)
    for s, why in row["failed"].items():
        print(f"{s:24} {why}")


def answer(bits: int, rows: Sequence[Mapping[str, Any]]) -> str:
    """Which strategies are alike the best on the most nets, and on how many min/max is."""
    rows = [r for r in rows if not r["destroyed"]]
    if not rows:
        return f"{bits} bits: every net is destroyed"
    counts = {s: sum(r["strategies"].get(s, {}).get("alike", False) for r in rows) for s in STRATEGIES}
    most = max(counts.values())
    good, others = ([s for s in STRATEGIES if (counts[s] == most) == so] for so in (True, False))
    named = "all but " + ", ".join(others) if 0 < len(others) < len(good) else ", ".join(good)
    ratio = np.median([r["strategies"]["minmax"]["kl"][0] / next(iter(r["strategies"].values()))["kl"][0] for r in rows])
    return f"{bits} bits: {named} on {most} of {len(rows)} nets, minmax on {counts['minmax']} (KL {ratio:.2f} times the best's, median)"


def main() -> None:
    p = labs.options(__doc__, NETS, 128, "strategies_by_bits.json")
    p.add_argument("--bits", nargs="+", type=int, default=[8, 6, 4])
    p.add_argument("--weights", type=int, help="bits of weights; default: as many as activations have")
    asked = p.parse_args()
    settings, rows = {"samples": asked.samples, "tried": list(STRATEGIES)}, {}
    with tempfile.TemporaryDirectory() as folder:
        for name in asked.net:
            lab = functools.cache(functools.partial(labs.lab, name, asked.samples, Path(folder), gradients=1))
            for bits in asked.bits:
                scheme = f"sim:a{bits}w{asked.weights or bits}"
                row = labs.row(asked.out, f"{name} {scheme}", settings, lambda lab=lab, scheme=scheme: measured(lab(), scheme))
                rows[name, bits] = row
                print_row(f"{name} {scheme}, {row['measure']}", row)
    told = [answer(bits, [rows[name, bits] for name in asked.net]) for bits in asked.bits]
    print("\nwithin two standard errors of the best: " + "; ".join(told))


if __name__ == "__main__":
    main()
