"""`qsim merge`: the stores of several workers as one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from . import options as o
from .screen import emit, text

Folder = Annotated[Path, Parameter(help="The folder with the workers' .sqlite files.")]
Target = Annotated[Path, Parameter(name=["--output", "-o"], help="The store to write; one that exists is added to.")]


def command(folder: Folder, /, *, output: Target, json: o.Json = False) -> int:
    """Unite the stores that `qsim sweep --worker` wrote, by key: what several hold is kept once."""
    from calibrate.store import merge

    stores, rows = merge(folder, output)
    if json:
        emit({"output": str(output), "stores": stores, "results": rows})
    else:
        text(f"wrote {output}: {rows} results of {stores} stores")
    return 0
