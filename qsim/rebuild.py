"""Model -> records: the records it was read from, with what changed laid over them. Where nothing changed, the same records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from . import reader
from .errors import Invalid, Unsupported
from .flat import Record
from .graph import Graph, Model, Node, QParams, Tensor
from .options import CUSTOM, UNIONS, read_options, write_options
from .packing import pack
from .schema import schema
from .types import TYPES

LARGEST_INSIDE = (1 << 31) - (1 << 24)  # bytes of one flatbuffer, with room for everything but buffers
EXTERNAL_FROM = 1024  # buffers of at least this many bytes move outside where the total is too large


def rebuild(model: Model) -> Record:
    """The root record of the model's file. *Raises*: Invalid for options or values that the schema cannot hold."""
    old = model.source.root if model.source is not None else Record("Model", {"version": 3, "buffers": [Record("Buffer")]})
    buffers, codes = _Buffers(model, old), _Codes(model, old)
    graphs = [_graph(g, buffers, codes) for g in model.graphs]
    root = old.but(operator_codes=codes.records, subgraphs=graphs, buffers=buffers.finished())
    if model.description != old.get("description", ""):
        root = root.but(description=model.description or None)
    if model.signatures != reader.signatures(old, model.graphs):
        root = root.but(signature_defs=[_signature(s) for s in model.signatures] or None)
    return root


def _graph(graph: Graph, buffers: _Buffers, codes: _Codes) -> Record:
    raw = _raw(graph.raw, "SubGraph")
    record = raw.but(
        tensors=[_tensor(t, buffers) for t in graph.tensors],
        operators=[_node(n, codes) for n in graph.nodes],
        inputs=_same_or(raw.get("inputs"), graph.inputs),
        outputs=_same_or(raw.get("outputs"), graph.outputs),
    )
    return _with_text(record, "name", graph.name)


def _raw(raw: Mapping[str, Any] | None, table: str) -> Record:
    return raw if isinstance(raw, Record) else Record(table)


def _same_or(old: np.ndarray | None, values: tuple[int, ...], dtype: str = "<i4") -> np.ndarray | None:
    """The old vector where it says the same, absent or not; else a new one."""
    if tuple(() if old is None else old.tolist()) == tuple(values):
        return old if old is not None or values else None
    return np.asarray(values, dtype)


def _with_text(record: Record, name: str, text: str) -> Record:
    return record if record.get(name, "") == text else record.but(**{name: text or None})


def _tensor(tensor: Tensor, buffers: _Buffers) -> Record:
    raw = _raw(tensor.raw, "Tensor")
    shape, signature = raw.get("shape"), tensor.shape_signature
    record = raw.but(
        shape=_same_or(shape, tensor.shape) if tensor.raw is not None else np.asarray(tensor.shape, "<i4"),
        type=TYPES[tensor.type].code,
        buffer=buffers.index(tensor),
        is_variable=bool(tensor.is_variable),
        shape_signature=None if signature is None else _same_or(raw.get("shape_signature"), signature),
        quantization=_quantization(raw, tensor.qparams),
    )
    if signature == () and "shape_signature" in raw:
        record["shape_signature"] = raw["shape_signature"]
    if tensor.raw is None:
        record["has_rank"] = True
    return _with_text(record, "name", tensor.name)


def _quantization(raw: Record, q: QParams | None) -> Record | None:
    """The old parameters where nothing changed. New ones drop min and max, which described the old."""
    old = raw.get("quantization")
    if q == reader.qparams(raw):
        return old
    if q is None:
        return None
    scale, zero = np.atleast_1d(np.asarray(q.scale, "<f4")), np.atleast_1d(np.asarray(q.zero_point, "<i8"))
    return Record("QuantizationParameters", {"scale": scale, "zero_point": zero, "quantized_dimension": int(q.axis)})


def _node(node: Node, codes: _Codes) -> Record:
    raw = _raw(node.raw, "Operator")
    record = raw.but(
        opcode_index=codes.index(node),
        inputs=_same_or(raw.get("inputs"), node.inputs),
        outputs=_same_or(raw.get("outputs"), node.outputs),
        intermediates=_same_or(raw.get("intermediates"), node.intermediates),
    )
    if node.raw is not None and codes.name_of(raw) == node.op and read_options(node.op, raw) == node.options:
        return record
    gone = [*UNIONS.values(), *(u + "_type" for u in UNIONS.values()), "custom_options", "outside"]
    try:
        return record.but(**{**dict.fromkeys(gone), **write_options(node.op, node.options)})
    except Invalid as e:
        e.where = f"op {node.index} {node.op}"
        raise


class _Codes:
    """The operator codes of the file: the old ones that are still used or never were, then new ones as nodes ask for them."""

    def __init__(self, model: Model, old: Record):
        self.old: list[Record] = old.get("operator_codes", [])
        self.found: dict[tuple[str, int], int] = {}
        self.records: list[Record] = []
        wanted = {(n.op, n.version) for g in model.graphs for n in g.nodes}
        was_used = {r.value("opcode_index") for g in old.get("subgraphs", []) for r in g.get("operators", [])}
        for i, code in enumerate(self.old):
            key = reader.op_name(code), code.value("version")
            if key in wanted or i not in was_used:
                self.found.setdefault(key, len(self.records))
                self.records.append(code)
        # Several old codes may say the same; nodes keep the one they had where nothing moved.
        self.moved = len(self.records) != len(self.old)

    def name_of(self, operator: Record) -> str:
        index = operator.value("opcode_index")
        return reader.op_name(self.old[index]) if index < len(self.old) else ""

    def index(self, node: Node) -> int:
        key = node.op, node.version
        if not self.moved and isinstance(node.raw, Record) and self.name_of(node.raw) == node.op:
            same = node.raw.value("opcode_index")
            if self.old[same].value("version") == node.version:
                return same
        if key not in self.found:
            self.found[key] = len(self.records)
            self.records.append(_operator_code(*key))
        return self.found[key]


def _operator_code(op: str, version: int) -> Record:
    numbers = schema().enums["BuiltinOperator"]
    name = "CUSTOM" if op.startswith(CUSTOM) else op
    if name not in numbers:
        raise Unsupported(f"the schema has no op {op}")
    # Old readers look at the 8-bit field, in which 127 stands for "see the other one".
    fields = {"builtin_code": numbers[name], "deprecated_builtin_code": min(numbers[name], 127), "version": version}
    if name == "CUSTOM":
        fields["custom_code"] = op.removeprefix(CUSTOM)  # type: ignore[assignment]
    return Record("OperatorCode", fields)


class _Buffers:
    """The buffers of the file. A constant whose bytes are unchanged keeps its buffer, shared or not; a changed one gets its own.

    Buffers that lost their last user are emptied, not removed: metadata and other tools refer to buffers by number.
    """

    def __init__(self, model: Model, old: Record):
        self.records: list[Record] = list(old.get("buffers", []))
        self.first_new = len(self.records)
        self.used = {0} | {m.value("buffer") for m in old.get("metadata", [])} | set(map(int, old.get("metadata_buffer", ())))
        self.was_used = {t.value("buffer") for g in old.get("subgraphs", []) for t in g.get("tensors", [])}
        self.shared: dict[tuple[int, str], int] = {}  # (id of an array, element type) -> the new buffer that holds it
        self.arrays: list[np.ndarray] = []  # keeps those ids alive

    def index(self, tensor: Tensor) -> int:
        found = self._index(tensor)
        self.used.add(found)
        return found

    def _index(self, tensor: Tensor) -> int:
        old = tensor.raw.value("buffer") if isinstance(tensor.raw, Record) else None
        stored = reader.stored_bytes(self.records[old]) if old is not None else None
        if tensor.data is None:
            keeps = old is not None and (not stored.size or "sparsity" in tensor.raw)  # type: ignore[union-attr,operator]
            return old if keeps else 0  # type: ignore[return-value]
        if old is not None and stored is not None and np.array_equal(stored, pack(tensor.data, tensor.type)):
            return old
        key = id(tensor.data), tensor.type
        if key not in self.shared:
            self.arrays.append(tensor.data)
            self.shared[key] = len(self.records)
            self.records.append(Record("Buffer", {"data": pack(tensor.data, tensor.type)}))
        return self.shared[key]

    def finished(self) -> list[Record]:
        lost = self.was_used - self.used
        records = [Record("Buffer") if i in lost else r for i, r in enumerate(self.records)]
        if sum(r["data"].size for r in records if "data" in r) > LARGEST_INSIDE:
            records = [_outside(r) for r in records]
        return records


def _outside(buffer: Record) -> Record:
    if buffer.get("data") is None or buffer["data"].size < EXTERNAL_FROM:
        return buffer
    return Record("Buffer", {"outside": buffer["data"]})


def _signature(signature: Mapping[str, Any]) -> Record:
    def sides(side: str) -> list[Record]:
        return [Record("TensorMap", {"name": k, "tensor_index": v}) for k, v in signature[side].items()]

    fields = {"signature_key": signature["key"], "subgraph_index": signature.get("graph", 0)}
    return Record("SignatureDef", {**fields, "inputs": sides("inputs"), "outputs": sides("outputs")})
