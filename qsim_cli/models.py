"""The model that a verb works on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qsim.graph import Model


def load_model(path: Path, signature: str | None = None) -> Model:
    """The model in a file; with a signature, its graph as the primary one. *Raises*: BadModel; BadRange for an unknown signature."""
    from qsim import load

    model = load(path)
    return model if signature is None else model.select(signature)
