"""Range files: what is written comes back, in either form; what is wrong is named."""

from __future__ import annotations

import json

import numpy as np
import pytest
import small

import qsim
from calibrate.rangefile import load_ranges, save_ranges
from qsim.errors import BadRange, WriteFailed
from qsim.graph import Graph, Model, Node, Tensor

MODEL = Model((
    Graph(
        (Tensor(0, "x", (1, 4), "float32"), Tensor(1, "y", (1, 2, 2), "float32"), Tensor(2, "y", (4,), "float32")),
        (Node(0, "RESHAPE", (0,), (1,)), Node(1, "RESHAPE", (1,), (2,))),
        (0,),
        (2,),
    ),
))  # fmt: skip
RANGES = {"x": (-0.1, 1 / 3), "t1": (0.0, 6.0), "t2": (-1e-30, 1e30)}


@pytest.mark.parametrize(("form", "name"), [("qsim", "r.json"), ("aeq", "r.json"), (None, "r.json"), ("csv", "r.CSV"), (None, "r.csv")])
def test_ranges_come_back_exactly(tmp_path, form, name):
    save_ranges(tmp_path / name, RANGES, form=form, model=MODEL, strategy="mse")
    assert load_ranges(tmp_path / name, MODEL) == RANGES
    assert load_ranges(tmp_path / name) == RANGES


def test_the_model_itself_carries_ranges(tmp_path):
    path, ranges = tmp_path / "r.tflite", {"x": (0.0, 255.0), "t1": (-0.5, 6.0)}
    save_ranges(path, ranges, model=MODEL)
    assert load_ranges(path, MODEL) == load_ranges(path) == ranges
    assert [n.op for n in qsim.load(path).graph.nodes] == ["RESHAPE", "RESHAPE"]


@pytest.mark.parametrize("form", ["aeq", "tflite"])
def test_forms_that_need_the_model_say_so(tmp_path, form):
    with pytest.raises(BadRange, match=f"{form} needs the model"):
        save_ranges(tmp_path / "r", RANGES, form=form)
    assert not list(tmp_path.iterdir())


def test_csv_holds_any_name(tmp_path):
    ranges = {'a,"b"\nc': (0.1, 0.2), " d ": (-1e-30, 1e30), "": (0.0, 0.0), "\udcff": (1.0, 2.0)}
    save_ranges(tmp_path / "r.csv", ranges)
    assert load_ranges(tmp_path / "r.csv") == ranges


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "first line names the columns"),
        ("x,0,1\n", "first line names the columns"),
        ("tensor,low,high\nx,0\n", "row 2.*each tensor once"),
        ("tensor,low,high\nx,0,1\nx,0,1\n", "row 3.*each tensor once"),
        ("tensor,low,high\nx,0,one\n", "row 2.*not a number; found one"),
        ("tensor,low,high\nx,nan,1\n", "tensor 'x'.*finite"),
        ("tensor,low,high\nx,2,1\n", "above its high end"),
        ("tensor,low,high\nxx,0,1\n", "Nearest: x"),
    ],
)
def test_a_bad_table_is_named_with_its_row(tmp_path, text, words):
    (tmp_path / "bad.csv").write_text(text)
    with pytest.raises(BadRange, match=words) as fault:
        load_ranges(tmp_path / "bad.csv", MODEL)
    assert "bad.csv" in str(fault.value)


def test_a_model_without_ranges_is_named(tmp_path):
    qsim.save(small.float_net(), tmp_path / "none.tflite")
    (tmp_path / "bad.tflite").write_text("no")
    for name, words in (("none", "has min and max"), ("bad", "no ranges can be read"), ("missing", "No such file")):
        with pytest.raises(BadRange, match=words):
            load_ranges(tmp_path / f"{name}.tflite")


def test_the_other_tool_gets_the_outputs_whose_range_is_dictated(tmp_path):
    model = small.float_net()
    save_ranges(tmp_path / "r.json", {"image": (-1.0, 1.0), "logits": (-3.0, 3.0)}, form="aeq", model=model)
    assert load_ranges(tmp_path / "r.json", model) == {"image": (-1.0, 1.0), "logits": (-3.0, 3.0), "probabilities": (0.0, 255 / 256)}


def test_the_other_tool_takes_our_shape(tmp_path):
    save_ranges(tmp_path / "r.json", RANGES, form="aeq", model=MODEL)
    entry = json.loads((tmp_path / "r.json").read_text())["t1"]
    assert np.shape(entry["min"]) == np.shape(entry["max"]) == (1, 1, 1)


def test_nothing_is_written_over_a_file(tmp_path):
    path = tmp_path / "r.json"
    path.write_text("mine")
    with pytest.raises(WriteFailed):
        save_ranges(path, RANGES)
    assert path.read_text() == "mine"
    save_ranges(path, RANGES, force=True)
    assert load_ranges(path) == RANGES


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no ranges can be read"),
        ("[1, 2]", "JSON object"),
        ('{"qsim_ranges": 1, "ranges": {"x": [0]}}', "length 2"),
        ('{"qsim_ranges": 1, "ranges": {"x": [0, 1]}, "rangs": {}}', "rangs"),
        ('{"x": [0, 1]}', "ai-edge-quantizer"),
        ('{"x": {"min": [[0, 0]], "max": [[1, 1]]}}', "per channel"),
        ('{"x": {"min": [["a"]], "max": [[1]]}}', "not a number"),
        ('{"x": {"min": NaN, "max": 1}}', "finite"),
        ('{"qsim_ranges": 1, "ranges": {"x": [2, 1]}}', "above its high end"),
        ('{"qsim_ranges": 1, "ranges": {"xx": [0, 1]}}', "Nearest: x"),
    ],
)
def test_a_bad_file_is_named_with_its_entry(tmp_path, text, words):
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(BadRange, match=words) as fault:
        load_ranges(path, MODEL)
    assert str(path) in str(fault.value)


def test_nan_and_inverted_ranges_are_not_written(tmp_path):
    for pair in ((float("nan"), 1.0), (2.0, 1.0), (0.0, float("inf"))):
        with pytest.raises(BadRange, match="tensor 'x'"):
            save_ranges(tmp_path / "r.json", {"x": pair})
    assert not list(tmp_path.iterdir())
