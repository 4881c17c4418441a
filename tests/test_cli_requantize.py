"""`qsim requantize`: what it prints and writes, and when it writes nothing."""

from __future__ import annotations

import json

import numpy as np
import pytest
import small
from test_cli import result, run

import qsim
from calibrate import observe, ranges
from qsim.quantizer import quantize

AFFINE = ("--input-scale", "1/64", "--input-offset", "-2")


@pytest.fixture
def files(tmp_path, monkeypatch):
    """good.tflite, bad.tflite (ranges a quarter of what they should be), net.tflite (float), data.npz with labels."""
    monkeypatch.chdir(tmp_path)
    model, images = small.float_net(), small.images(80)
    x = (images / np.float32(64) - np.float32(2)).astype(np.float32)
    given = ranges(model, observe(model, x), "minmax", input_range=(-2, 255 / 64 - 2))
    qsim.save(model, "net.tflite")
    qsim.save(quantize(model, given, io="int8"), "good.tflite")
    qsim.save(quantize(model, {k: r if k == "image" else (r[0] / 4, r[1] / 4) for k, r in given.items()}, io="int8"), "bad.tflite")
    (y,) = model.function("float").batch(x)
    np.savez("data.npz", x=images, y=y.reshape(len(x), -1).argmax(1))
    return tmp_path


def test_a_better_file_is_written_and_everything_told(capsys, files):
    told = result(capsys, "requantize", "bad.tflite", "--data", "data.npz", "-o", "new.tflite", *AFFINE)
    assert told["better"] and told["written"] == "patch" and told["measure"] == "kl" and told["samples"] == 80
    assert {"tensor", "old", "new", "clipped", "clipped_before", "gain_db"} <= told["changes"]["ranges"][0].keys()
    old, new = told["candidates"][0], next(c for c in told["candidates"] if c["chosen"])
    assert new["kl"] < old["kl"] and new["metric"] > old["metric"]
    changed = [t for t in qsim.load("new.tflite").graph.tensors if t.qparams != qsim.load("bad.tflite").graph.tensors[t.index].qparams]
    assert {r["tensor"] for r in told["changes"]["ranges"]} == {"hidden", "deep, flat", "logits"}
    assert len(changed) == 4 + 2  # and the biases behind hidden and deep


def test_nothing_is_written_where_it_is_not_better(capsys, files):
    code, out, _ = run(capsys, "requantize", "good.tflite", "--data", "data.npz", "-o", "new.tflite", *AFFINE)
    assert code == 1 and "not better" in out and "nothing was written" in out and not (files / "new.tflite").exists()
    code, out, _ = run(capsys, "requantize", "bad.tflite", "--data", "data.npz", "--dry-run", "--only", "^deep$", *AFFINE)
    assert "nothing was written" in out and "deep, flat" in out and "hidden" not in out.split("compared")[0]
    assert sorted(p.name for p in files.glob("*.tflite")) == ["bad.tflite", "good.tflite", "net.tflite"]


def test_a_single_strategy_and_the_original(capsys, files):
    arguments = ("--data", "data.npz", "-o", "new.tflite", "--original", "net.tflite", "--strategy", "minmax", *AFFINE)
    told = result(capsys, "requantize", "bad.tflite", *arguments)
    assert [c["strategy"] for c in told["candidates"]] == ["as it is", "minmax", "minmax of the original"]


def test_the_float_model_of_a_file(capsys, files):
    assert result(capsys, "requantize", "good.tflite", "--to", "float32", "-o", "f.tflite")["written"] == "rebuild"
    made = qsim.load("f.tflite")
    assert not made.is_quantized and [n.op for n in made.graph.nodes] == [n.op for n in qsim.load("net.tflite").graph.nodes]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("-o", "n.tflite"), 2, "--data or --to"),
        (("--data", "data.npz"), 2, "--dry-run"),
        (("--data", "data.npz", "-o", "bad.tflite"), 6, "input of this command"),
        (("--data", "data.npz", "-o", "good.tflite"), 6, "exists already"),
        (("--data", "data.npz", "-o", "n.tflite", "--strategy", "best"), 2, "unknown strategy"),
        (("--data", "none.npz", "-o", "n.tflite"), 5, "no such file"),
        (("--data", "data.npz", "-o", "n.tflite", "--only", "("), 2, "regular expression"),
    ],
)
def test_refusals_name_the_way_out(capsys, files, arguments, code, words):
    got, _, err = run(capsys, "requantize", "bad.tflite", *arguments)
    assert (got, words in err) == (code, True), err
    assert not (files / "n.tflite").exists()


def test_a_float_source_is_refused(capsys, files):
    code, out, err = run(capsys, "requantize", "net.tflite", "--data", "data.npz", "-o", "n.tflite", *AFFINE, "--json")
    assert code == 4 and "no quantized activations" in err and json.loads(out)["exit_code"] == 4
