"""The schema facts, the records, the verifier: equal to other people's tables, nothing lost, nothing newer goes unseen."""

from __future__ import annotations

import json
import re
import struct
import time
from dataclasses import replace
from pathlib import Path

import extract_schema
import numpy as np
import pytest
from featureful import code, operator, rich

from qsim import flat, reader, records, verify, writer
from qsim.errors import Malformed, NewerSchema, TooLarge
from qsim.flat import Record
from qsim.schema import Field, Table, schema
from qsim.types import BY_CODE

FACTS = json.loads((Path(flat.__file__).parent / "schema.json").read_text())


def test_schema_equals_litert():
    generated = pytest.importorskip("ai_edge_litert.schema_py_generated", reason="LiteRT is not installed")
    found = json.loads(extract_schema.render(extract_schema.extract(generated)))
    if found["origin"] == FACTS["origin"]:
        assert found == FACTS
        return
    for name, rows in FACTS["tables"].items():  # another version may have more, never something else
        assert found["tables"][name][: len(rows)] == rows
    for name, values in FACTS["enums"].items():
        assert found["enums"][name].items() >= values.items()


def test_schema_equals_tflite_package():
    import tflite

    tables = extract_schema.tables(tflite)
    assert len(tables) > 150
    for name, cls in tables.items():
        ours = {row[0]: row for row in FACTS["tables"][name]}
        for row in extract_schema.fields(tflite, name, cls):
            if (name, row[1]) == ("OperatorCode", "builtin_code"):
                continue  # that package's accessor looks at both fields of the number
            mine = ours[row[0]]
            kind = "union" if mine[2] in FACTS["unions"] else mine[2]
            assert [mine[0], mine[1], kind, *mine[3:]] == row, name
    for name, values in extract_schema.enums(tflite).items():
        union = FACTS["unions"].get(name)
        mine = {table: int(tag) for tag, table in union.items()} | {"NONE": 0} if union else FACTS["enums"][name]
        assert mine.items() >= values.items()


def test_element_types_equal_schema():
    assert {t.code: t.name.upper() for t in BY_CODE.values()} == schema().enum_names["TensorType"]


def test_every_op_has_its_options():
    """All options tables are some op's, and ops without options are known by name."""
    used = set(schema().options.values())
    assert used == {t for u in ("BuiltinOptions", "BuiltinOptions2") for t in schema().unions[u].values()}
    plain = set(schema().enums["BuiltinOperator"]) - set(schema().options)
    assert {"LOGISTIC", "TANH", "RELU", "RELU6", "FLOOR", "SQRT", "PRELU", "ELU", "CUSTOM"} <= plain


def test_everything_survives_a_rewrite():
    data = rich()
    root = flat.read(data)
    again = flat.write(root)
    assert verify.verify(data) == verify.verify(again) == ()
    assert records.diff(root, flat.read(again)) == []
    assert flat.write(flat.read(again)) == again


def test_vectors_are_views_and_buffers_aligned():
    data = rich()
    root = flat.read(data)
    whole = np.frombuffer(data, np.uint8)
    for buffer in root["buffers"]:
        stored = reader.stored_bytes(buffer)
        if stored.size:
            assert np.shares_memory(stored, whole) and not stored.flags.writeable
            assert (stored.__array_interface__["data"][0] - whole.__array_interface__["data"][0]) % 16 == 0


def changes() -> list[tuple[str, object]]:
    """(path as `diff` names it, function that changes a tree there)."""

    def main(root):
        return root["subgraphs"][0]

    return [
        ("version", lambda r: r.update(version=2)),
        ("description", lambda r: r.pop("description")),
        ("subgraphs[0].name", lambda r: main(r).update(name="other")),
        ("subgraphs[0].tensors", lambda r: main(r)["tensors"].pop()),
        ("subgraphs[0].tensors[1].quantization.scale", lambda r: main(r)["tensors"][1]["quantization"].update(scale=np.ones(2, "<f4"))),
        (
            "subgraphs[0].tensors[8].quantization.details.scales",
            lambda r: main(r)["tensors"][8]["quantization"]["details"].update(scales=1),
        ),
        ("subgraphs[0].operators[0].builtin_options.stride_w", lambda r: main(r)["operators"][0]["builtin_options"].update(stride_w=2)),
        ("subgraphs[0].operators[1].custom_options", lambda r: main(r)["operators"][1].pop("custom_options")),
        ("subgraphs[0].operators[1].large_custom_options", lambda r: main(r)["operators"][1].update(outside=np.zeros(24, np.uint8))),
        ("subgraphs[0].operators[2].builtin_options_2.version", lambda r: main(r)["operators"][2]["builtin_options_2"].pop("version")),
        ("buffers[7].data", lambda r: r["buffers"][7].update(outside=np.zeros(16, np.uint8))),
        ("signature_defs[0].inputs[0].tensor_index", lambda r: r["signature_defs"][0]["inputs"][0].update(tensor_index=3)),
    ]


@pytest.mark.parametrize("path, change", changes(), ids=[c[0] for c in changes()])
def test_diff_names_the_path(path, change):
    before, after = flat.read(rich()), flat.read(rich())
    change(after)
    assert records.diff(before, after) == [path]
    assert records.diff(before, flat.read(flat.write(after))) == [path]


def test_diff_ignores_what_means_the_same():
    before, after = flat.read(rich()), flat.read(rich())
    after["subgraphs"][0]["tensors"][0]["is_variable"] = False  # written out, at its default
    after["buffers"][7] = Record("Buffer", {"data": after["buffers"][7]["outside"]})
    assert records.diff(before, after) == []


def test_dump_is_json():
    dumped = records.dump(flat.read(rich()))
    text = json.loads(json.dumps(dumped))
    assert text["subgraphs"][0]["tensors"][0]["type"] == "INT8"
    assert text["subgraphs"][0]["operators"][0]["builtin_options"]["padding"] == "VALID"
    assert text["buffers"][1]["data"] == [1, 254, 3, 4]


def test_long_vectors_are_dumped_as_hashes():
    found = records.dump(Record("Buffer", {"data": np.zeros(100, np.uint8)}))
    assert found["data"]["elements"] == 100 and re.fullmatch("[0-9a-f]{64}", found["data"]["sha256"])


def with_table(name: str) -> Record:
    """The records of a legal file in which a table of this name occurs."""
    root = flat.read(rich())
    tensors, operators = root["subgraphs"][0]["tensors"], root["subgraphs"][0]["operators"]
    union, tag = schema().union_of.get(name, ("", 0))
    if union == "QuantizationDetails":
        tensors[7]["quantization"] = Record("QuantizationParameters", {"details": Record(name), "details_type": tag})
    elif union == "SparseIndexVector":
        dtype = {"Int32Vector": "<i4", "Uint16Vector": "<u2", "Uint8Vector": "u1"}[name]
        indices = Record(name, {"values": np.array([1, 0], dtype)})
        tensors[6]["sparsity"]["dim_metadata"][1].update(array_indices=indices, array_indices_type=tag)
    elif union:
        operators[1] |= operator(1, (3, -1), (10,), name)
    return root


def future(name: str, extra: Field) -> bytes:
    """A legal file whose tables of this name have a field that the schema does not know yet."""
    real = schema()
    grown = Table(name, (*real.tables[name].fields, extra))
    wider = replace(real, tables={**real.tables, name: grown})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flat, "schema", lambda: wider)
        root = with_table(name)
        _add(root, name)
        return flat.write(root)


def _add(record: Record, name: str) -> None:
    if record.table == name:
        record["future"] = 7
    for value in record.values():
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, Record):
                _add(child, name)


@pytest.mark.parametrize("name", sorted(schema().tables))
def test_newer_fields_are_seen_kept_and_never_lost(name):
    """One more slot in each table in turn: load tells, patch keeps every byte, rebuild refuses by name."""
    slot = len(schema().tables[name].by_slot)
    data = future(name, Field(slot, "future", "scalar", "int32", 0))
    model = reader.read(data)
    assert f"unknown newer field: {name} slot {slot}" in model.notes
    assert writer.to_bytes(model) == data
    q = model.graph.tensors[0].qparams
    tensors = (model.graph.tensors[0].but(qparams=replace(q, scale=np.float32([0.75]))), *model.graph.tensors[1:])
    changed = writer.to_bytes(model.but(graphs=(model.graph.but(tensors=tensors), *model.graphs[1:])), "patch")
    assert len(changed) == len(data) and 0 < sum(a != b for a, b in zip(changed, data, strict=True)) <= 12
    with pytest.raises(NewerSchema, match=f"{name} slot {slot}"):
        writer.to_bytes(model, "rebuild")


def test_newer_union_member_is_seen():
    data = bytearray(flat.write(with_table("StablehloCaseOptions")))
    at = flat.read(bytes(data))["subgraphs"][0]["operators"][1].at
    slots = flat.slots(bytes(data), at)
    data[at + slots[schema().tables["Operator"].by_name["builtin_options_2_type"].slot]] = 99
    model = reader.read(bytes(data))
    assert "unknown newer field: Operator.builtin_options_2 tag 99" in model.notes
    with pytest.raises(NewerSchema, match="tag 99"):
        writer.to_bytes(model, "rebuild")


def test_newer_op_loads_for_inspection():
    root = flat.read(rich())
    root["operator_codes"][3] = Record("OperatorCode", {"builtin_code": 9999, "deprecated_builtin_code": 127})
    model = reader.read(flat.write(root))
    assert model.graphs[1].nodes[0].op == "UNKNOWN:9999"
    assert any("newer than this version knows" in n for n in model.notes)
    assert records.diff(root, flat.read(writer.to_bytes(model, "rebuild"))) == []


def bomb(width: int = 20_000) -> bytes:
    """160 KB in which `width` subgraph references lead to one subgraph, and its `width` tensor references to one tensor."""
    fields = {"Model": struct.pack("<5H", 10, 12, 4, 0, 8), "SubGraph": struct.pack("<3H", 6, 8, 4), "Tensor": struct.pack("<2H", 4, 4)}
    data = bytearray(b"\0\0\0\0TFL3")

    def table(name: str, body: bytes) -> int:
        vtable = len(data)
        data.extend(fields[name] + bytes(-len(fields[name]) % 4))
        data.extend(struct.pack("<i", len(data) - vtable) + body)
        return len(data) - 4 - len(body)

    def references(ahead: int) -> None:  # all to the table that follows, `ahead` bytes (its table of fields) behind the last one
        data.extend(struct.pack("<I", width))
        data.extend((np.arange(4 * width, 0, -4) + ahead).astype("<u4").tobytes())

    data[:4] = struct.pack("<I", table("Model", struct.pack("<2I", 3, 4)))
    references(8)
    table("SubGraph", struct.pack("<I", 4))
    references(4)
    table("Tensor", b"")
    return bytes(data)


def test_bomb_is_refused_at_once():
    assert len(flat.read(bomb(3))["subgraphs"][2]["tensors"]) == 3  # each of its references is a good one
    data = bomb()
    assert 150_000 < len(data) < 170_000
    started = time.thread_time()
    with pytest.raises(TooLarge, match="unfold"):
        reader.read(data)
    assert time.thread_time() - started < 5  # unfolded it would be minutes


@pytest.mark.parametrize("length", [1 << 20, 0x7FFFFFFF, 0xFFFFFFFF])
def test_vector_lengths_are_checked_before_they_are_believed(length):
    data = bytearray(rich())
    shape = flat.read(bytes(data))["subgraphs"][0]["tensors"][0]["shape"]
    at = shape.__array_interface__["data"][0] - np.frombuffer(data, np.uint8).__array_interface__["data"][0]
    at = bytes(data).index(shape.tobytes()) - 4 if not 0 <= at < len(data) else at - 4
    data[at : at + 4] = length.to_bytes(4, "little")
    with pytest.raises(Malformed, match="Tensor.shape"):
        reader.read(bytes(data))


def test_future_reader_of_plain_options():
    """Options of an op whose file has another op's table: as in LiteRT they count as absent."""
    root = flat.read(rich())
    root["subgraphs"][1]["operators"] = [operator(3, (0,), (1,), "Conv2DOptions", {"stride_w": 5})]
    root["operator_codes"][3] = code("LEAKY_RELU")
    assert reader.read(flat.write(root)).graphs[1].nodes[0].options == {"alpha": 0.0}


def test_schema_origin_is_stated():
    assert re.fullmatch(r"introspected from ai-edge-litert \d+\.\d+\.\d+", FACTS["origin"])
