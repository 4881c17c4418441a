"""The README tells the truth: its snippet runs, its table is the registry's, what it names exists."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import small
import support_table
import sweeping

import calibrate
import qsim
from calibrate.sweepfile import load_plan
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


def snippet(number: int = 0) -> str:
    return re.findall(r"```python\n(.*?)```", README, re.S)[number]


def test_the_snippet_is_short():
    assert len(snippet().splitlines()) <= 15


def test_the_snippet_runs_and_gives_what_litert_gives(tmp_path, monkeypatch, capsys, oracle):
    monkeypatch.chdir(tmp_path)
    qsim.save(small.float_net(), "net.tflite")
    x = (small.images(40) / 64 - 2).astype(np.float32)
    np.savez("samples.npz", x=x)
    names: dict = {}
    exec(compile(snippet(), "README.md", "exec"), names)
    assert "accumulator" in capsys.readouterr().out
    written = Path("net_int8.tflite").read_bytes()
    (expected,) = oracle.run(written, [x[:, None]], flavour="xnnpack").values()
    assert np.array_equal(names["y"], expected)


def test_the_sweeps_file_and_snippet_mean_something(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("s.toml").write_text(re.findall(r"```toml\n(# sweep.*?)```", README, re.S)[0])
    assert len(load_plan("s.toml").candidates) == 8
    sweeping.job_in(tmp_path)
    Path("data.npz").rename("labelled.npz")
    exec(compile(snippet(1), "README.md", "exec"), {"calibrate": calibrate})
    assert Path("results.sqlite").exists()
