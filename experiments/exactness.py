"""Question: does integer mode give LiteRT's integers on real nets, in every intermediate and output tensor?

Answer, per net and flavour: elements compared and elements that differ, once per op (each op fed LiteRT's own inputs) and once for the
whole graph (every tap), batched and jitted, plus single calls against the batch.

    QSIM_MODELS=... python experiments/exactness.py [--net NAME ...] [--flavour xnnpack reference] [--samples 200 50 50] [--onednn]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import realdata

from qsim.certificate import Judge, Tally
from qsim.litert import Oracle, cpu_class
from qsim.tune import tune_cpu


class Count(NamedTuple):
    """Elements compared and elements that differ; `first` names the first op in whose output any did."""

    elements: int
    differing: int
    first: str

    def __str__(self) -> str:
        return f"{self.differing} of {self.elements:,}" + (f" (first in {self.first})" if self.first else "")


def count(tallies: Iterable[Tally]) -> Count:
    found = list(tallies)
    first = next((f"op {t.op} {t.kind}" for t in found if t.differing), "")
    return Count(sum(t.elements for t in found), sum(t.differing for t in found), first)


def single_calls(judge: Judge, x: np.ndarray) -> Tally:
    """One invocation each, against the batch."""
    tally = Tally(0, "a single call", "outputs", "")
    batched = judge.function.batch(x)[0]
    for n, sample in enumerate(x):
        for mine, row in zip(judge.function(sample)[0], batched, strict=True):
            tally.add(mine, row[n])
    return tally


def exactness(name: str, flavour: str, oracle: Oracle, counts: tuple[int, int, int]) -> Mapping[str, Count]:
    """{"per op", "whole graph"}: counts over real, saturating and uniform inputs."""
    model = realdata.net(name)
    judge = Judge(model, flavour, oracle, realdata.path(name).read_bytes())
    singles = []
    for x in realdata.samples(name, model, counts).values():
        judge.judge(x)
        singles.append(single_calls(judge, x[:3]))
    per_op, whole = judge.tallies()
    return {"per op": count(per_op), "whole graph": count([*whole, *singles])}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", nargs="+", default=realdata.EXACT)
    parser.add_argument("--flavour", nargs="+", default=("xnnpack", "reference"))
    parser.add_argument("--samples", nargs=3, type=int, default=(200, 50, 50), metavar=("REAL", "SATURATING", "UNIFORM"))
    parser.add_argument("--onednn", action="store_true", help="the process tuned as in benchmark.py, oneDNN included")
    asked = parser.parse_args()
    if asked.onednn:
        tune_cpu(onednn=True)
    worst = 0
    with Oracle(timeout=600) as oracle:
        print(f"LiteRT {oracle.version()}, {cpu_class()}; real, saturating, uniform inputs: {tuple(asked.samples)}")
        print(f"{'net':30} {'flavour':10} {'per op, differing':34} {'whole graph, differing':34} seconds")
        for name in asked.net:
            for flavour in asked.flavour:
                start = time.perf_counter()
                found = exactness(name, flavour, oracle, tuple(asked.samples))
                worst = max(worst, *(c.differing for c in found.values()))
                print(
                    f"{name:30} {flavour:10} {found['per op']!s:34} {found['whole graph']!s:34} {time.perf_counter() - start:.1f}",
                    flush=True,
                )
    return 1 if worst else 0


if __name__ == "__main__":
    raise SystemExit(main())
