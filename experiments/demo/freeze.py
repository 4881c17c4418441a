"""Makes the demo's int8 model, kept in the repository so that tests on any device have one (experiments/hashes.py holds its integers).

    python -m experiments.demo.freeze

Quantizes the float file (strategy STRATEGY, int8 input and output) into digits_int8.tflite.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

import qsim

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


def main() -> None:
    model = qsim.load(HERE / "digits_f32.tflite")
    path = HERE / "digits_int8.tflite"
    int8 = candidates(model, digits.load()["calibrate"].x, {STRATEGY: STRATEGY}, io="int8")[STRATEGY]
    qsim.save(int8.but(description=f"qsim demo: digits, int8, {STRATEGY}"), path, force=True)
    print(f"{path}: {path.stat().st_size} bytes; now run experiments/hashes.py --write")


if __name__ == "__main__":
    main()
