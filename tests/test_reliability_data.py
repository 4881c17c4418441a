"""Bad ranges, data, recipes and command lines: what is refused, in which words, and that nothing is left behind.

Beside what the tests of each module hold already. Ranges: test_quantizer, test_rangefile, test_strategies. Data: test_data, test_sources,
test_splits. Recipes: test_recipe. The command line: test_cli.
"""

from __future__ import annotations

import json
import os
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from nets import Net
from small import float_net, images

import qsim
from calibrate import observe, open_data, ranges
from calibrate.data import as_data
from calibrate.feeding import feed
from qsim.errors import BadData, BadRange, BadRecipe
from qsim.patterns import require_quick
from qsim.recipe import Recipe, Rule
from qsim.writer import to_bytes
from qsim_cli import main

MODEL = float_net()
X = (images(20) / 64 - 2).astype(np.float32)
RANGES = dict(ranges(MODEL, observe(MODEL, X), "minmax"))


# ---------------------------------------------------------------- ranges


@pytest.mark.parametrize("pair", [(0, 0), (3, 3), (-2, -2), (0, 1e-40), (-1e-45, 0), (1e-38, 2e-38), (2, 5), (-5, -2)])
def test_narrow_and_one_sided_ranges_give_files_that_litert_loads(oracle, pair):
    made = qsim.quantize(MODEL, {**RANGES, "hidden": pair, "logits": pair})
    told = [*(r.tensor for r in made.report.repairs), *made.report.notes]
    assert any("hidden" in t for t in told)
    for flavour in ("xnnpack", "reference", "builtin"):
        assert oracle.loads(to_bytes(made), flavour) is None


@pytest.mark.parametrize("pair", [(-1e38, 1e38), (0, 3e38), (0, 1e39)])
def test_ranges_without_a_scale_are_refused(pair):
    with pytest.raises(BadRange, match="range of 'hidden': too wide for float32 scales.*below 2\\^60"):
        qsim.quantize(MODEL, {**RANGES, "hidden": pair})


# ---------------------------------------------------------------- data


@pytest.mark.parametrize(
    "x, hint",
    [
        (X.transpose(0, 3, 1, 2), r"expected \(N, 8, 8, 1\).*x.transpose\(0, 2, 3, 1\)"),
        (X[0], r"batch dimension is missing: x\[None\]"),
        (X[..., 0], r"x\[..., None\]"),
        (np.repeat(X, 3, axis=3), r"found \(20, 8, 8, 3\); expected \(N, 8, 8, 1\)"),
        (X.reshape(20, 64), r"found \(20, 64\)"),
        (X.astype(np.complex64), "not numbers; found complex64; expected float32"),
    ],
)
def test_a_wrong_shape_is_told_with_the_way_out(x, hint):
    with pytest.raises(BadData, match=f"input 'image': .*{hint}"):
        list(feed(MODEL, [x]))


def test_a_generator_that_ends_early_gives_what_it_gave(tmp_path, monkeypatch, capsys):
    assert observe(MODEL, (x[None] for x in X[:7])).samples == 7
    monkeypatch.chdir(tmp_path)
    qsim.save(MODEL, "net.tflite")
    np.savez("d.npz", x=X)
    assert main(["eval", "net.tflite", "d.npz", "--limit", "1000"]) == 0
    assert "d.npz has 20 samples, fewer than --limit 1000" in capsys.readouterr().err


def test_nan_is_named_with_sample_and_file_or_counted(tmp_path):
    x = X.copy()
    x[3, 2], x[17, 2] = np.nan, np.inf
    np.savez(tmp_path / "d.npz", x=x)
    with pytest.raises(BadData, match="d.npz, sample 3, input 'image': NaN"):
        observe(MODEL, open_data(tmp_path / "d.npz", MODEL))
    found = observe(MODEL, open_data(tmp_path / "d.npz", MODEL), nonfinite="skip")
    assert (found.samples, found.skipped) == (18, 2)
    with pytest.raises(BadData, match="no samples left.*20 left out"):
        observe(MODEL, np.full_like(X, np.nan), nonfinite="skip")


def png(width, height):
    """The head of an image of that size; a decoder that believes it would allocate it."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [9_000, 32_000])
def test_an_image_of_a_thousand_million_pixels_is_refused_by_its_head(tmp_path, side):
    pytest.importorskip("PIL.Image", reason="pillow is not installed")
    (tmp_path / "bomb.png").write_bytes(png(side, side))
    with pytest.raises(BadData, match="bomb.png"):
        list(feed(MODEL, open_data(tmp_path, MODEL)))


class Once:
    """An iterable that gives its samples only to the first who asks."""

    def __init__(self, batches):
        self.batches = iter(batches)

    def __iter__(self):
        return self.batches


def test_data_that_end_after_one_pass_are_never_an_empty_second_one():
    once = Once([X])
    assert observe(MODEL, once).samples == 20
    for again in (observe, as_data):
        with pytest.raises(BadData, match="make a new one"):
            again(MODEL, once)


# ---------------------------------------------------------------- recipes


def named(name):
    net = Net()
    x = net.input(1, 4)
    y = net.op("LOGISTIC", [x], (1, 4))
    net.tensors[y] = net.tensors[y].but(name=name)
    return net.model(y)


def test_an_endless_regular_expression_is_stopped(monkeypatch):
    monkeypatch.setattr("qsim.patterns.SECONDS", 0.5)
    start = time.monotonic()
    with pytest.raises(BadRecipe, match=r"rule for '\(a\+\)\+\$': the regular expression takes more than 0.5 s"):
        Recipe((Rule(qsim.INT8, regex="^x*"), Rule(qsim.INT8, regex="(a+)+$"))).schemes(named("a" * 60 + "b"))
    assert time.monotonic() - start < 5
    with pytest.raises(BadRecipe, match="too long; found 1001"):
        require_quick(("a" * 1001,), ("a",))


def test_ordinary_expressions_need_no_trial(monkeypatch):
    monkeypatch.setattr("qsim.patterns.subprocess", None)
    require_quick(("conv", "^head/", ".*"), ("conv_1",))


# ---------------------------------------------------------------- the command line


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    qsim.save(MODEL, "net.tflite")
    np.savez("d.npz", x=X)
    return tmp_path


LONG = "o" * 5000


@pytest.mark.parametrize(
    "arguments, code, words",
    [
        (["quantise", "net.tflite"], 2, 'Did you mean "quantize"'),
        (["quantize", "net.tflite", "--dta", "d.npz", "-o", "q.tflite"], 2, "Did you mean --data"),
        (["quantize", "net.tflite", "--data", "d.npz", "--ranges", "r.json", "-o", "q.tflite"], 2, "both"),
        (["quantize", "net.tflite", "--data", "d.npz", "-o", "net.tflite", "--force"], 6, "is an input"),
        (["quantize", "net.tflite", "--ranges", "r.json", "-o", "q.tflite"], 5, "no tensor 'hiden'. Nearest: hidden"),
        (["eval", "net.tflite", "d.npz", "--signature", "nope"], 5, "no signature or graph 'nope'"),
        (["eval", "net.tflite", LONG + ".npz"], 5, "error: ooo"),
        (["eval", LONG + ".tflite", "d.npz"], 3, "error: ooo"),
        (["run", "net.tflite", "d.npz", "-o", LONG + ".npz"], 6, "error: ooo"),
        (["run", "net.tflite", "d.npz", "-o", "o" * 300 + ".npz"], 6, "File name too long"),
        (["eval", "net.tflite", "o" * 300 + ".npz"], 5, "File name too long"),
        (["eval", "net.tflite", "a\0b.npz"], 5, "null"),
        (["run", "net.tflite", "d.npz", "-o", "a\0b.npz"], 6, "null"),
    ],
)
def test_what_cannot_be_done_is_told_and_nothing_is_touched(here, capsys, monkeypatch, arguments, code, words):
    Path("r.json").write_text(json.dumps({"qsim_ranges": 1, "ranges": {"hiden": [0, 1]}}))
    monkeypatch.setattr("qsim_cli.computing.function_of", lambda *a: pytest.fail("computed"))
    before = {p.name: p.read_bytes() for p in here.iterdir()}
    assert main(arguments) == code
    told = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert words in told and "Traceback" not in told
    assert {p.name: p.read_bytes() for p in here.iterdir()} == before


@pytest.mark.skipif(os.name == "nt", reason="names are Unicode there")
@pytest.mark.parametrize("name", [b"with spaces ", b"not\xff\xfeutf8", "größe/重み".replace("/", "_").encode()])
def test_any_file_name_works(here, capsys, name):
    model, data, out = (os.fsdecode(name + end) for end in (b".tflite", b".npz", b"_out.npz"))
    os.rename("net.tflite", model)
    os.rename("d.npz", data)
    assert main(["run", model, data, "-o", out, "--mode", "float", "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["output"] == out and Path(out).exists()
