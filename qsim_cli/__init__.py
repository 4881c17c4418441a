"""The command `qsim`: the roof of the house, and the only importer of both `qsim` and `calibrate`."""

from __future__ import annotations

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code (see `qsim_cli.app`)."""
    from .app import run

    return run(arguments)
