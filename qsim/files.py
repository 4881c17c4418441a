"""Writing files whole or not at all: a temporary file beside the target, flushed to disk, then renamed over it."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from .errors import WriteFailed


def can_write_beside(target: Path) -> None:
    """Tries it: a nameless file in the target's directory. *Raises*: WriteFailed."""
    try:
        tempfile.TemporaryFile(dir=target.parent).close()
    except OSError as e:
        raise WriteFailed(f"the directory cannot be written: {e.strerror or e}", where=str(target)) from e


def replace_file(target: Path, data: bytes) -> None:
    """Puts `data` at `target`. Whatever fails, the old file is intact and nothing is left beside it. *Raises*: WriteFailed."""
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{target.name[:100]}.", suffix=".tmp", dir=target.parent)
    except OSError as e:
        raise WriteFailed(f"cannot be written: {e.strerror or e}", where=str(target)) from e
    try:
        _fill(handle, data, target)
        os.replace(temporary, target)
    except BaseException as e:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if isinstance(e, OSError):
            raise WriteFailed(f"cannot be written: {e.strerror or e}", where=str(target), hint="The old file is untouched") from e
        raise
    _sync_directory(target.parent)


def _fill(handle: int, data: bytes, target: Path) -> None:
    with open(handle, "wb") as file:  # closes the handle also where it cannot be opened as a file
        file.write(data)
        file.flush()
        # mkstemp makes files private; a model gets the mode of the file it replaces, else the usual one.
        os.fchmod(file.fileno(), target.stat().st_mode & 0o777 if target.exists() else 0o666 & ~_umask())
        os.fsync(file.fileno())


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _sync_directory(directory: Path) -> None:
    """Makes the rename itself durable, where the system can; the file is complete either way."""
    with contextlib.suppress(OSError):
        handle = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
