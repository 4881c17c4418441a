"""Regular expressions of strangers: some take longer than anyone lives on a short name, and Python cannot stop one that runs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from functools import lru_cache

from .errors import BadRecipe

LONGEST = 1000  # characters of an expression
SECONDS = 5.0
_TRY = """
import json, re, sys
patterns, names = json.load(sys.stdin)
for k, p in enumerate(patterns):
    print(k, flush=True)
    for n in names:
        re.search(p, n)
"""


@lru_cache(maxsize=16)
def require_quick(patterns: Sequence[str], names: Sequence[str]) -> None:
    """*Raises*: BadRecipe naming the first expression that is longer than 1000 characters, or takes more than 5 seconds on the names.

    Expressions with a repeat are tried in a process of their own, which can be killed.
    """
    for p in patterns:
        if len(p) > LONGEST:
            where = f"rule for {p[:40]!r}..."
            raise BadRecipe("the regular expression is too long", where=where, found=len(p), expected=f"at most {LONGEST}")
    repeats = [p for p in patterns if re.search(r"[*+{]", p) and p != ".*"]
    if not repeats:
        return
    command, given = [sys.executable, "-I", "-S", "-c", _TRY], json.dumps([repeats, list(names)])
    try:
        subprocess.run(command, input=given, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired as fault:
        reached = (fault.stdout or b"0").split()[-1:]
        slow = repeats[int(reached[0]) if reached else 0]
        hint = "A repeat within a repeat, as in (a+)+, does that"
        raise BadRecipe(f"the regular expression takes more than {SECONDS:g} s", where=f"rule for {slow!r}", hint=hint) from None
