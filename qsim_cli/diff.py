"""`qsim diff`: what changed between two models."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from . import options as o
from .screen import emit, safe, table, text

Other = Annotated[Path, Parameter(help="The .tflite to compare it with.")]
COLUMNS = ("what", "where", "change")


def command(old: o.Model, new: Other, /, *, json: o.Json = False) -> int:
    """What changed from one model to another: ops, tensors, ranges, constants, signatures, metadata. Exit code 1 where anything did."""
    from qsim import load
    from qsim.difference import difference

    found = difference(load(old), load(new))
    if json:
        emit({"old": str(old), "new": str(new), "same": not found, "changes": [asdict(c) for c in found]})
    elif found:
        table(f"from {old} to {new}", COLUMNS, ((c.kind, c.where, c.words) for c in found))
        text(", ".join(f"{count} {kind}" for kind, count in Counter(c.kind for c in found).items()) + " changes")
    else:
        text(safe(f"no difference: {old} and {new} say the same"))
    return 1 if found else 0
