"""What several experiments share: samples of the real nets, labs that score candidates on them, and rows that a second run finds again."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import sets

from calibrate.candidates import Candidate, normal
from calibrate.evaluation import divergences, standard_error
from calibrate.scoring import VERSION, Job, Lab, Unit, lab_of

RESULTS = Path(__file__).parent / "results"
SEED = 7
CLASSIFIERS = tuple(name for name in sets.TASKS if name != "ad01")
BACKGROUND = 1001  # classes of nets that count a background class before the labels'


def drawn(name: str, count: int) -> tuple[np.ndarray, np.ndarray | None]:
    """(x, labels) of up to `count` samples of a task's test set, in an order that mixes the classes."""
    x, y = sets.load(sets.TASKS[name].test)
    rows = np.random.default_rng(SEED).permutation(len(x))[:count]
    return x[rows], None if y is None else y[rows].astype(np.int64).reshape(-1)


def lab(name: str, samples: int, folder: Path, gradients: int = 0) -> Lab:
    """The calibration set to calibrate on; two disjoint parts of the test set, of up to `samples` each, to select by and to test with."""
    task = sets.TASKS[name]
    x = drawn(name, 2 * samples)[0]
    paths = []
    for part, values in (("calibrate", sets.load(task.calibration)[0]), ("select", x[: len(x) // 2]), ("test", x[len(x) // 2 :])):
        paths.append(folder / f"{name}-{part}.npz")
        np.savez(paths[-1], x=values)
    net = sets.root() / "nets" / f"{task.net}.tflite"
    return lab_of(Job(str(net), tuple(map(str, paths)), input_range=task.domain, gradients=gradients))


def losses(found: Lab, c: Candidate, split: str = "test") -> np.ndarray:
    """(samples,) a candidate's loss on each sample of a split."""
    return found.score(Unit(normal(c).text, split, 0, len(found.hashes[split])))["loss"]


def constants(reference: np.ndarray) -> np.ndarray:
    """(samples,) the KL of an output that does not depend on the input: the mean of the float net's."""
    return divergences(reference, np.broadcast_to(reference.mean(axis=0), reference.shape))


def mean_error(values: np.ndarray) -> tuple[float, float]:
    """The mean, and two of its standard errors."""
    return float(np.mean(values)), 2 * standard_error(values)


def row(out: Path, key: str, settings: Mapping[str, Any], make: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    """The row of a key as an earlier run with the same settings and numerics left it in a JSON file; else made, and kept there."""
    told = {**settings, "version": VERSION}
    if (found := kept(out).get(key)) and found["settings"] == told:
        return found
    made = json.loads(json.dumps({"settings": told, **make()}))
    half = out.with_name(out.name + ".half")
    half.write_text(json.dumps({**kept(out), key: made}, indent=1) + "\n")
    os.replace(half, out)
    return made


def kept(out: Path) -> dict[str, Any]:
    return json.loads(out.read_text()) if out.exists() else {}


def options(words: str, nets: Sequence[str], samples: int, out: str, choices: Iterable[str] = CLASSIFIERS) -> argparse.ArgumentParser:
    """A parser with --net, --samples and --out."""
    p = argparse.ArgumentParser(description=words, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--net", nargs="+", default=list(nets), choices=list(choices))
    p.add_argument("--samples", type=int, default=samples)
    p.add_argument("--out", type=Path, default=RESULTS / out)
    return p
