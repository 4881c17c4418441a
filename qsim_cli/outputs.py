"""Whether an output may be written, asked before any compute."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from qsim.errors import WriteFailed


def may_write(output: Path, sources: Iterable[Path], force: bool) -> None:
    """*Raises*: WriteFailed if `output` exists (without `force`), is one of the command's inputs, or cannot be written."""
    from qsim.writer import may_write as allowed

    for source in sources:
        if os.path.exists(output) and os.path.exists(source) and os.path.samefile(output, source):
            raise WriteFailed("is an input of this command", where=str(output), hint="Write elsewhere")
    allowed(output, "", force=force)
