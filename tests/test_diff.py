"""Differences between models: every change is told, nothing else is, and the same file says the same."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import small
from nets import random_net

import qsim
from qsim.difference import Change, difference
from qsim.flat import Record
from qsim.graph import Model, Node, Options, QParams
from qsim.matching import match
from qsim.minmax import with_min_max
from qsim.reader import read
from qsim.writer import to_bytes
from qsim_cli import main

FLOAT = read(to_bytes(small.float_net()))
RANGES = {"image": (-2.0, 2.0), "hidden": (0.0, 3.0), "deep": (-3.0, 3.0), "logits": (-5.0, 5.0)}
INT8 = read(to_bytes(qsim.quantize(small.float_net(), RANGES, io="int8")))


def changed(model: Model, **tensors: dict) -> Model:
    """The model with fields of tensors changed, by tensor name."""
    graph = model.graph
    made = tuple(t.but(**tensors.get(t.name, {})) for t in graph.tensors)
    return model.but(graphs=(graph.but(tensors=made), *model.graphs[1:]))


def with_nodes(model: Model, *nodes: Node) -> Model:
    return model.but(graphs=(model.graph.but(nodes=tuple(n.but(index=i) for i, n in enumerate(nodes))),))


def rows(old: Model, new: Model) -> list[tuple[str, str, str]]:
    return [(c.kind, c.where, c.words) for c in difference(old, new)]


def tensor(model: Model, name: str):
    return model.graph.tensors[model.graph.find(name)]


@pytest.mark.parametrize("model", [FLOAT, INT8, small.float_net()])
def test_a_model_says_the_same_as_itself(model):
    assert difference(model, model) == ()
    assert difference(model, read(to_bytes(model, "rebuild"))) == ()


def test_a_changed_range_is_told_as_old_and_new():
    q = tensor(INT8, "hidden").qparams
    wider = QParams(q.scale * np.float32(2), q.zero_point, q.low, q.high)
    (found,) = difference(INT8, changed(INT8, hidden={"qparams": wider}))
    assert (found.kind, found.where) == ("tensor", "hidden")
    assert found.words == ("range 0 .. 3 (scale 0.0117647061, zero point -128) -> range 0 .. 6 (scale 0.0235294122, zero point -128)")
    assert found.facts["old_range"] == pytest.approx([0, 3]) and found.facts["new_range"] == pytest.approx([0, 6])


def test_changed_scales_of_channels_are_counted():
    q = tensor(INT8, "w1").qparams
    scale = q.scale.copy()
    scale[2:5] *= np.float32(2)
    ((kind, where, words),) = rows(INT8, changed(INT8, w1={"qparams": QParams(scale, q.zero_point, q.low, q.high, q.axis)}))
    assert (kind, where, words) == ("tensor", "w1", "scales of 3 of 8 channels times 2 .. 2")


def test_changed_codes_are_counted_in_steps():
    codes = tensor(INT8, "w2").data.copy()
    codes.flat[[0, 7, 9]] = -(codes.flat[[0, 7, 9]] // 2) - 3
    by = np.abs(codes.astype(int) - tensor(INT8, "w2").data).max()
    (found,) = difference(INT8, changed(INT8, w2={"data": codes}))
    assert (found.kind, found.where, found.words) == ("constant", "w2", f"3 of 576 codes changed, by at most {by} steps")
    assert found.facts == {"changed": 3, "of": 576, "largest": by, "unit": "steps"}


def test_changed_reals_are_told_and_nan_equals_itself():
    bias = np.float32([np.nan, -0.0, *tensor(FLOAT, "b1").data[2:]])
    model, moved = (changed(FLOAT, b1={"data": b}) for b in (bias, bias + np.float32([0, 0, 0.5, 0, 0, 0, 0, 0])))
    assert difference(model, model) == ()
    found = rows(model, moved)
    assert found == [("constant", "b1", "2 of 8 values changed, by at most nan real units")]  # -0.0 + 0 is 0.0
    plain = tensor(FLOAT, "b1").data
    found = rows(FLOAT, changed(FLOAT, b1={"data": plain + np.float32([0, 0, 0.5, 0, 0, 0, 0, 0])}))
    assert found == [("constant", "b1", "1 of 8 values changed, by at most 0.5 real units")]


def test_ops_are_told_with_options_versions_and_wiring():
    nodes = list(FLOAT.graph.nodes)
    nodes[0] = nodes[0].but(options=nodes[0].options.but(padding="VALID"), version=2)
    nodes[1] = nodes[1].but(inputs=(3, 4, 2))
    assert rows(FLOAT, with_nodes(FLOAT, *nodes)) == [
        ("op", "op 0 CONV_2D (hidden)", "padding SAME -> VALID; version 1 -> 2"),
        ("op", "op 1 CONV_2D (deep)", "input 2 b2 -> b1"),
    ]


def test_an_op_more_or_less_is_told():
    nodes = list(FLOAT.graph.nodes)
    graph = FLOAT.graph
    relu = Node(0, "RELU", (11,), (13,), Options())
    longer = FLOAT.but(graphs=(graph.but(tensors=(*graph.tensors, graph.tensors[11].but(index=13, name="bent", raw=None))),))
    longer = with_nodes(longer, *nodes[:4], relu, nodes[4].but(inputs=(13,)))
    assert rows(FLOAT, longer) == [
        ("op", "op 4 SOFTMAX (probabilities)", "input 0 logits -> bent"),
        ("op", "op 4 RELU (bent)", "added; it reads logits"),
        ("tensor", "bent", "added (float32 1x4)"),
    ]
    assert ("op", "op 4 RELU (bent)", "removed; it read logits") in rows(longer, FLOAT)


def test_tensors_are_told_with_type_shape_and_name():
    new = changed(FLOAT, hidden={"name": "hid", "shape_signature": (-1, 4, 4, 8)}, deep={"is_variable": True})
    assert rows(FLOAT, new) == [
        ("tensor", "hidden", "renamed hidden -> hid; open shape None -> (-1, 4, 4, 8)"),
        ("tensor", "deep", "variable False -> True"),
    ]


def test_without_names_place_decides():
    graph = INT8.graph
    bare = INT8.but(graphs=(graph.but(tensors=tuple(t.but(name="") for t in graph.tensors)),))
    assert match(graph, bare.graph) == ({t.index: t.index for t in graph.tensors}, {n.index: n.index for n in graph.nodes})
    found = difference(INT8, bare)
    assert len(found) == len(graph.tensors) and {c.words for c in found} == {f"renamed {t.name} -> " for t in graph.tensors}


def test_tensors_in_another_order_are_the_same_tensors():
    graph = small.float_net().graph
    order = [*range(1, len(graph.tensors)), 0]
    at = {t: i for i, t in enumerate(order)}
    move = lambda ts: tuple(at[t] for t in ts)  # noqa: E731
    turned = graph.but(
        tensors=tuple(graph.tensors[t].but(index=i) for i, t in enumerate(order)),
        nodes=tuple(n.but(inputs=move(n.inputs), outputs=move(n.outputs)) for n in graph.nodes),
        inputs=move(graph.inputs),
        outputs=move(graph.outputs),
    )
    ((kind, _, words),) = rows(small.float_net(), small.float_net().but(graphs=(turned,)))
    assert kind == "record" and words.startswith("fields of the file differ: subgraphs[0]")


def test_a_float_model_and_its_quantized_one():
    found = difference(FLOAT, read(to_bytes(qsim.quantize(FLOAT, RANGES))))
    assert not any("removed" in c.words for c in found)
    assert [c.facts["added"] for c in found if c.kind == "op" and "added" in c.facts] == ["QUANTIZE", "DEQUANTIZE"]
    hidden = next(c for c in found if c.where == "hidden")
    assert hidden.words.startswith("type float32 -> int8; not quantized -> range 0 .. 3")
    moved = {c.where: c.facts["largest"] for c in found if c.kind == "constant"}
    assert set(moved) == {"w1", "b1", "w2", "b2", "w3", "b3"}
    assert all(0 < v <= 1 for v in moved.values())


def test_the_rest_of_the_file():
    entry = lambda b: FLOAT.source.root.but(  # noqa: E731
        metadata=[Record("Metadata", {"name": "note", "buffer": len(FLOAT.source.root["buffers"])})],
        buffers=[*FLOAT.source.root["buffers"], Record("Buffer", {"data": np.frombuffer(b, np.uint8)})],
    )
    from qsim import flat

    one, two = (read(flat.write(entry(b))) for b in (b"old", b"newer"))
    assert rows(FLOAT, one) == [("metadata", "note", "added (3 bytes)")]
    assert rows(one, two) == [("metadata", "note", "3 bytes -> 5 bytes, another content")]
    assert rows(one, FLOAT) == [("metadata", "note", "removed (3 bytes)")]
    assert rows(FLOAT, FLOAT.but(description="mine")) == [("model", "description", "'made by the tests' -> 'mine'")]
    signed = FLOAT.but(signatures=({"key": "serve", "graph": 0, "inputs": {"x": 0}, "outputs": {"y": 12}},))
    other = FLOAT.but(signatures=({"key": "serve", "graph": 0, "inputs": {"image": 0}, "outputs": {"y": 12}},))
    assert rows(FLOAT, signed) == [("signature", "serve", "added")]
    assert rows(signed, other) == [("signature", "serve", "(x=image) to (y=probabilities) -> (image=image) to (y=probabilities)")]
    ends = FLOAT.but(graphs=(FLOAT.graph.but(outputs=(11, 12)),))
    assert rows(FLOAT, ends) == [("graph", "outputs", "probabilities -> logits, probabilities")]
    assert rows(FLOAT, FLOAT.but(graphs=FLOAT.graphs * 2))[0] == ("model", "subgraphs", "1 -> 2")


def test_other_graphs_are_compared_by_number():
    two = FLOAT.but(graphs=FLOAT.graphs * 2)
    second = changed(FLOAT, hidden={"name": "hid"}).graph
    assert rows(two, two.but(graphs=(FLOAT.graph, second))) == [("tensor", "subgraph 1 hidden", "renamed hidden -> hid")]
    signed = two.but(signatures=({"key": "a", "graph": 0, "inputs": {}, "outputs": {"y": 12}},))
    other = two.but(signatures=({"key": "a", "graph": 1, "inputs": {}, "outputs": {"y": 12}},))
    assert [kind for kind, _, _ in rows(signed, other)] == ["signature"]


@pytest.mark.parametrize("seed", range(8))
def test_matches_are_one_to_one_and_find_a_net_in_itself(seed):
    one, two = (random_net(np.random.default_rng(s), 8).graph for s in (seed, seed + 50))
    bare = one.but(tensors=tuple(t.but(name="") for t in one.tensors))
    assert match(one, bare).nodes == {n.index: n.index for n in one.nodes}
    for pairs in match(one, two):
        assert len(set(pairs.values())) == len(pairs)
    assert all(one.nodes[a].op == two.nodes[b].op for a, b in match(one, two).nodes.items())


def test_ranges_inside_a_float_file_are_told():
    assert rows(FLOAT, with_min_max(FLOAT, {"hidden": (0.0, 3.0)})) == [("tensor", "hidden", "min/max in the file none -> (0.0, 3.0)")]


@pytest.mark.parametrize("seed", range(12))
def test_random_nets_differ_just_where_their_bytes_do(seed):
    one, two = (read(to_bytes(random_net(np.random.default_rng(s), 5))) for s in (seed, seed + 100))
    assert difference(one, read(to_bytes(one, "rebuild"))) == ()
    assert difference(one, two) and difference(two, one)
    assert all(isinstance(c, Change) and c.words for c in difference(one, two))


def test_it_needs_neither_jax_nor_litert(tmp_path):
    qsim.save(FLOAT, tmp_path / "a.tflite")
    qsim.save(INT8, tmp_path / "b.tflite")
    without = "import sys; sys.modules['jax'] = sys.modules['ai_edge_litert'] = None"
    program = f"{without}; from qsim_cli import main; sys.exit(main(['diff', 'a.tflite', 'b.tflite']))"
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, env={"PYTHONPATH": str(root)})
    assert done.returncode == 1, done.stderr
    assert "type float32 -> int8" in done.stdout and not done.stderr


def test_the_command_tells_by_its_exit_code(tmp_path, capsys):
    a, b = tmp_path / "a.tflite", tmp_path / "b.tflite"
    qsim.save(FLOAT, a)
    qsim.save(changed(FLOAT, hidden={"name": "[red]\x1bhid"}), b)
    assert main(["diff", str(a), str(a)]) == 0
    assert "no difference" in capsys.readouterr().out
    assert main(["diff", str(a), str(b)]) == 1
    shown = capsys.readouterr().out
    assert "renamed hidden" in shown and "[red]" in shown and "\x1b" not in shown and "1 tensor" in shown
    assert main(["diff", str(a), str(b), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["same"] is False and told["changes"][0]["facts"]["new_name"] == "[red]\x1bhid"
    assert main(["diff", str(a), str(a), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["changes"] == []
    assert main(["diff", str(a), str(tmp_path / "none.tflite")]) == 3


@pytest.mark.models
@pytest.mark.parametrize(
    ("old", "new", "ops", "removed"),
    [
        ("meter_digits_f32", "meter_digits_2000_int8", {"QUANTIZE", "DEQUANTIZE"}, 0),
        ("meter_digits_1900_int8", "meter_digits_2000_int8", set(), 0),
        ("mlperf_resnet8_f32", "mlperf_resnet8_int8", set(), 0),
        ("mlperf_ad01_int8", "mlperf_ad01_int8_floatio", {"QUANTIZE", "DEQUANTIZE"}, 0),
    ],
)
def test_real_files(old, new, ops, removed, models_dir):
    one, two = (qsim.load(models_dir / "nets" / f"{name}.tflite") for name in (old, new))
    found = difference(one, two)
    assert {c.facts["added"] for c in found if c.kind == "op" and "added" in c.facts} == ops
    assert sum("removed" in c.facts for c in found if c.kind == "op") == removed
    assert difference(two, two) == ()
