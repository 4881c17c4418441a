"""The README tells the truth: its snippet runs, its table is the registry's, what it names exists."""

from __future__ import annotations

import re
from pathlib import Path

import support_table

from qsim_cli import app

README = support_table.README.read_text(encoding="utf-8")
ROOT = Path(support_table.README).parent


def test_the_support_table_is_the_registrys():
    assert support_table.rewritten(README) == README, "run `make readme`"


def test_every_path_of_the_code_map_exists():
    rows = re.findall(r"^\| (`[^|]+`) \|", README.split("## Code map")[1], re.M)
    assert rows
    for row in rows:
        folder = ""
        for name in re.findall(r"`([^`]+)`", row):
            folder = folder if "/" not in name else name.rpartition("/")[0] + "/"
            assert (ROOT / (name if "/" in name else folder + name)).exists(), name


def test_every_verb_is_described():
    assert set(re.findall(r"^\| `qsim (\w+)", README, re.M)) == set(app.VERBS)
