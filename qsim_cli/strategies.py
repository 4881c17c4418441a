"""`qsim strategies`: the names that --strategy takes."""

from __future__ import annotations

from . import options as o
from .screen import emit, table, text


def command(*, json: o.Json = False) -> int:
    """The names that `--strategy` takes, with their options. Your own: `module:function`, a function of a `Distribution`."""
    from calibrate.strategies import EVERY, TABLE

    names = {"auto": ("auto", "compares several on held-back data"), **{name: (row.form, row.words) for name, row in TABLE.items()}}
    if json:
        emit({name: {"form": form, "help": words} for name, (form, words) in names.items()})
        return 0
    table("", ("--strategy", "what it does"), names.values())
    text(f"Each but auto also takes {', '.join(EVERY)} (zero point 0; lowest code left out): percentile:99.99,symmetric")
    return 0
