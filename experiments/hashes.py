"""Question: are the integers the same as ever, on this machine and this backend (CPU, GPU)?

Each net's outputs and intermediates on seeded inputs, per flavour, as one SHA-256; tests/integer_hashes.json holds the known ones, which
a CPU gave while every element equalled LiteRT's. The demo's int8 model lies in the repository, the six real nets under $QSIM_MODELS.

    python experiments/hashes.py            compare (without QSIM_MODELS: the demo's net alone)
    python experiments/hashes.py --write    after a wanted change: compute and store, with LiteRT agreeing on the same inputs
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from pathlib import Path

import numpy as np
import realdata

import qsim
from qsim.graph import Model
from qsim.litert import Oracle

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "tests" / "integer_hashes.json"
DEMO = ROOT / "experiments" / "demo" / "digits_int8.tflite"
NETS = ("demo", *realdata.EXACT)
FLAVOURS = ("xnnpack", "reference")
SAMPLES = 6  # of each kind


def path(name: str) -> Path:
    return DEMO if name == "demo" else realdata.path(name)


def inputs(model: Model) -> np.ndarray:
    """Codes that need no data set: the ends of the type, and uniform, seeded."""
    t = model.graph.tensors[model.graph.inputs[0]]
    return np.concatenate([realdata.saturating(t.shape, SAMPLES, t.type), realdata.uniform(t.shape, SAMPLES, t.type)])


def digest(arrays: dict[int, np.ndarray]) -> str:
    """SHA-256 over index, type, shape and bytes of each array, in the order of indexes."""
    found = hashlib.sha256()
    for index in sorted(arrays):
        a = np.ascontiguousarray(arrays[index])
        found.update(f"{index} {a.dtype.str} {a.shape} ".encode() + a.tobytes())
    return found.hexdigest()


def integers(model: Model, flavour: str) -> dict[int, np.ndarray]:
    """Every input and op output of the primary graph in integer mode."""
    return model.function("integer", flavour, taps="all").batch(inputs(model))[1]


def hashes(name: str) -> dict[str, str]:
    """{"inputs", "xnnpack", "reference"} of one net on this machine."""
    model = qsim.load(path(name))
    return {"inputs": digest({0: inputs(model)}), **{f: digest(integers(model, f)) for f in FLAVOURS}}


def agreed(name: str) -> dict[str, str]:
    """`hashes`, after LiteRT gave the same integers. Raises: SystemExit where it did not."""
    found, model = hashes(name), qsim.load(path(name))
    with Oracle() as oracle:
        for flavour in FLAVOURS:
            theirs = oracle.run(path(name).read_bytes(), [inputs(model)], flavour, "all")
            mine = integers(model, flavour)
            if digest({t: theirs[t] for t in mine}) != found[flavour]:
                raise SystemExit(f"{name}, {flavour}: not LiteRT's integers; nothing is written")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    if parser.parse_args().write:
        FILE.write_text(json.dumps({name: agreed(name) for name in NETS}, indent=1) + "\n")
        return 0
    known, different = json.loads(FILE.read_text()), 0
    for name in NETS if "QSIM_MODELS" in os.environ else NETS[:1]:
        wrong = [k for k, v in hashes(name).items() if known[name][k] != v]
        different += bool(wrong)
        print(f"{name:30} {'different: ' + ', '.join(wrong) if wrong else 'as known'}")
    return 1 if different else 0


if __name__ == "__main__":
    raise SystemExit(main())
