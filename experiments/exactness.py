"""Question: does integer mode give LiteRT's integers on real nets, in every intermediate and output tensor?

Answer, per net and flavour: elements compared and elements that differ, once per op (each op fed LiteRT's own inputs) and once for the
whole graph (every tap), batched and jitted, plus single calls against the batch.

    QSIM_MODELS=... python experiments/exactness.py [--net NAME ...] [--flavour xnnpack reference] [--samples 200 50 50] [--onednn]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import realdata

from qsim.graph import Model
from qsim.isolate import alone
from qsim.litert import Oracle, cpu_class
from qsim.tune import tune_cpu

CHUNK = 50  # samples whose intermediates are held at once


@dataclass
class Count:
    """Elements compared and elements that differ; `first` names the first tensor in which any did."""

    elements: int = 0
    differing: int = 0
    first: str = ""

    def add(self, mine: np.ndarray, theirs: np.ndarray, name: str) -> None:
        if (mine.shape, mine.dtype) != (theirs.shape, theirs.dtype):
            raise ValueError(f"{name}: {mine.shape} {mine.dtype} against LiteRT's {theirs.shape} {theirs.dtype}")
        wrong = int((mine != theirs).sum())
        self.elements, self.differing = self.elements + mine.size, self.differing + wrong
        if wrong and not self.first:
            self.first = name

    def __str__(self) -> str:
        return f"{self.differing} of {self.elements:,}" + (f" (first in {self.first})" if self.first else "")


class Judge:
    """A net in one flavour beside LiteRT: functions are compiled once and reused for every chunk of data."""

    def __init__(self, model: Model, flavour: str, oracle: Oracle, data: bytes):
        self.model, self.flavour, self.oracle, self.data = model, flavour, oracle, data
        self.whole = model.function("integer", flavour, taps="all")
        self.ops = {n.index: one.function("integer", flavour) for n in model.graph.nodes if (one := alone(model, n.index)) is not None}

    def judge(self, x: np.ndarray, per_op: Count, whole: Count) -> None:
        theirs = self.oracle.run(self.data, [x], self.flavour, "all", timeout=600)
        for index, fn in self.ops.items():
            got = fn.batch(*(theirs[t] for t in fn.graph.inputs))
            for t, mine in zip(fn.graph.outputs, got, strict=True):
                per_op.add(mine, theirs[t], self._name(index))
        outputs, taps = self.whole.batch(x)
        for t, mine in [*taps.items(), *zip(self.model.graph.outputs, outputs, strict=True)]:
            whole.add(mine, theirs[t], self._name(self.model.graph.producer.get(t, 0)))

    def single_calls(self, x: np.ndarray, whole: Count) -> None:
        """One invocation each, against the batch."""
        batched = self.whole.batch(x)[0]
        for n, sample in enumerate(x):
            for mine, row in zip(self.whole(sample)[0], batched, strict=True):
                whole.add(mine, row[n], "a single call")

    def _name(self, index: int) -> str:
        return f"op {index} {self.model.graph.nodes[index].op}"


def chunks(x: np.ndarray) -> Iterator[np.ndarray]:
    return (x[i : i + CHUNK] for i in range(0, len(x), CHUNK))


def exactness(name: str, flavour: str, oracle: Oracle, counts: tuple[int, int, int]) -> Mapping[str, Count]:
    """{"per op", "whole graph"}: counts over real, saturating and uniform inputs."""
    model = realdata.net(name)
    judge = Judge(model, flavour, oracle, realdata.path(name).read_bytes())
    per_op, whole = Count(), Count()
    for x in realdata.samples(name, model, counts).values():
        for part in chunks(x):
            judge.judge(part, per_op, whole)
        judge.single_calls(x[:3], whole)
    return {"per op": per_op, "whole graph": whole}


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
    with Oracle() as oracle:
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
