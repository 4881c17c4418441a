"""Question: do all machines compute the same integers? The demo's int8 model and the hashes of everything it computes, kept for tests.

    python -m experiments.demo.freeze

Quantizes the float file (strategy STRATEGY, int8 input and output) into digits_int8.tflite and writes hashes.json: per flavour the
sha256 of every tensor (stored codes) on `inputs()`, which come from raw PCG64 words, a stream that numpy promises to keep.
Answer: the files; made on an x86-64 CPU, compared by tests/test_demo.py on whatever device JAX uses.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

import qsim
from qsim.graph import Model

from . import digits
from .candidates import candidates

HERE = Path(__file__).resolve().parent
STRATEGY, SEED, SAMPLES = "minmax", 7, 48
FLAVOURS = "xnnpack", "reference"


def inputs() -> np.ndarray:
    """int8 (48, 1, 28, 28, 1): a third uniform, a third of the two extremes, a third dark with one pixel in eight uniform."""
    words = np.random.PCG64(SEED).random_raw(SAMPLES * 28 * 28 // 4)
    halves = words.astype("<u8").view("<u2").reshape(SAMPLES, 28 * 28)
    uniform, choice = (halves & 255).astype(np.uint8).view(np.int8), halves >> 8
    third = SAMPLES // 3
    x = uniform.copy()
    x[third : 2 * third] = np.where(choice[third : 2 * third] & 1, 127, -128)
    x[2 * third :] = np.where(choice[2 * third :] % 8 == 0, uniform[2 * third :], -128)
    return x.reshape(SAMPLES, 1, 28, 28, 1)


def hashes(model: Model, flavour: str) -> dict[str, str]:
    """tensor key -> sha256 of its stored codes for all samples, in the order of the graph."""
    _, found = model.function("integer", flavour, taps="all").batch(inputs())
    return {model.graph.key(t): hashlib.sha256(np.ascontiguousarray(y).tobytes()).hexdigest() for t, y in found.items()}


def main() -> None:
    model = qsim.load(HERE / "digits_f32.tflite")
    path = HERE / "digits_int8.tflite"
    int8 = candidates(model, digits.load()["calibrate"].x, {STRATEGY: STRATEGY}, io="int8")[STRATEGY]
    qsim.save(int8.but(description=f"qsim demo: digits, int8, {STRATEGY}"), path, force=True)
    stored = qsim.load(path)
    found = {"samples": SAMPLES, "seed": SEED, "flavours": {f: hashes(stored, f) for f in FLAVOURS}}
    (HERE / "hashes.json").write_text(json.dumps(found, indent=1) + "\n")
    print(f"{path}: {path.stat().st_size} bytes; hashes.json beside it")


if __name__ == "__main__":
    main()
