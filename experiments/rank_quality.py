"""Question: do proxies from one pass foretell the KL of a quantized net, and does the short list hold the best candidates?

Answer: per net and bits (weights and activations alike), the Spearman correlation of each proxy with the KL on the test samples over
random allocations (each tensor a strategy of its own, drawn at random), and the best KL of the short list of 8 that a sweep makes, as a
multiple of the best of all those allocations, on the same samples (the select split: the list is made without it).

    QSIM_MODELS=... python experiments/rank_quality.py [--net resnet8 kws vww96 mobilenet_v1] [--bits 8 6 4] [--random 300] [--samples 128]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import labs
import numpy as np

from calibrate.candidates import Candidate, normal
from calibrate.ranking import table, totals
from calibrate.scoring import Lab
from calibrate.strategies import candidates
from calibrate.sweeper import Search, shortlist

RESULTS = Path(__file__).parent / "results" / "rank_quality.json"
SEED = 7
COMPARED = 50  # allocations whose KL on the test samples is compared with their proxies
STRATEGIES = (*candidates(), "percentile:99", "aciq", "fisher")


def allocations(lab: Lab, scheme: str, count: int) -> list[Candidate]:
    """Each tensor a strategy drawn at random."""
    rng, graph = np.random.default_rng(SEED), lab.model.graph
    groups = [p.group for p in lab.problems(Candidate(scheme))[0] if p.values is not None]
    draws = rng.choice(STRATEGIES, (count, len(groups)))
    return [
        normal(Candidate(scheme, rules=tuple((f"tensor:{graph.key(g[0])}", str(s)) for g, s in zip(groups, row, strict=True))))
        for row in draws
    ]


def measured(lab: Lab, found: list[Candidate], split: str) -> np.ndarray:
    """(candidates,) mean loss."""
    return np.array([labs.losses(lab, c, split).mean() for c in found])


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    ranks = [np.searchsorted(np.sort(v), v) + np.searchsorted(np.sort(v), v, side="right") for v in (a, b)]  # ties alike
    return float(np.corrcoef(*ranks)[0, 1])


def compared(lab: Lab, bits: int, count: int) -> dict:
    scheme = f"sim:a{bits}w{bits}"
    found = allocations(lab, scheme, count)
    sums = totals(lab, found, STRATEGIES, table(lab, Candidate(scheme), STRATEGIES))
    test = measured(lab, found[:COMPARED], "test")
    brute = measured(lab, found, "select")
    plain = [normal(Candidate(scheme, activation=s)) for s in STRATEGIES]
    short = shortlist(lab, plain, Search())[0]
    listed = measured(lab, short, "select")
    return {
        "spearman": {name: spearman(values[:COMPARED], test) for name, values in sums.items()},
        "select_and_test": spearman(brute[:COMPARED], test),
        "brute_best": float(brute.min()), "brute_median": float(np.median(brute)), "list_best": float(listed.min()),
        "list": {str(c): float(v) for c, v in zip(short, listed, strict=True)},
        "ratio": float(listed.min() / brute.min()), "measure": lab.measure,
    }  # fmt: skip


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--net", nargs="+", default=["resnet8", "kws", "vww96", "mobilenet_v1"])
    p.add_argument("--bits", nargs="+", type=int, default=[8, 6, 4])
    p.add_argument("--random", type=int, default=300)
    p.add_argument("--samples", type=int, default=128)
    p.add_argument("--out", type=Path, default=RESULTS)
    args = p.parse_args()
    rows = json.loads(args.out.read_text()) if args.out.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        for name in args.net:
            found = labs.lab(name, args.samples, Path(folder), gradients=4)
            for bits in args.bits:
                row = rows[f"{name} {bits}"] = compared(found, bits, args.random)
                told = {k: round(v, 3) for k, v in row["spearman"].items()}
                print(
                    f"{name} {bits} bits: Spearman {told} (select {row['select_and_test']:.3f}); best of the list / of brute force: ",
                    end="",
                )
                print(f"{row['list_best']:.4g} / {row['brute_best']:.4g} = {row['ratio']:.3f}", flush=True)
                args.out.write_text(json.dumps(rows, indent=1) + "\n")
    good = sum(r["ratio"] <= 1.05 for r in rows.values())
    print(f"the list is within 5 % of brute force in {good} of {len(rows)}")


if __name__ == "__main__":
    main()
