"""DENSIFY: sparse constants made dense."""

from __future__ import annotations

from typing import Any

from ..graph import Options
from ..op import Op, Rule
from .copying import copies


def _densify(options: Options, x: Any) -> Any:
    """The dense form of a sparse constant, which the reader has made already. *Restates*: DENSIFY of LiteRT."""
    return x


OPS = (
    Op(
        "DENSIFY",
        _densify,
        Rule(tied=True, keep_float=True, versions={"float32": 1, "int8": 1}),
        copies(_densify, ("int8",), ("T",), ("T",)),
        host=True,
    ),
)
