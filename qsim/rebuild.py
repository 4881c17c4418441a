"""Model -> records: the records it was read from, with what changed laid over them. Where nothing changed, the same records."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from . import reader
from .errors import Invalid, Unsupported
from .flat import Record
from .graph import Graph, Model, Node, QParams, Tensor
from .options import CUSTOM, UNIONS, read_options, write_options
from .packing import pack, stored_size, unpack
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
    if model.signatures != reader.signatures(old):
        root = root.but(signature_defs=[_signature(s) for s in model.signatures] or None)
    return root


def _graph(graph: Graph, buffers: _Buffers, codes: _Codes) -> Record:
    raw = _raw(graph.raw, "SubGraph")
    record = raw.but(
        tensors=_list([_tensor(t, buffers) for t in graph.tensors], "tensors" in raw),
        operators=_list([_node(n, codes) for n in graph.nodes], "operators" in raw),
        inputs=_same_or(raw.get("inputs"), graph.inputs),
        outputs=_same_or(raw.get("outputs"), graph.outputs),
    )
    return _with_text(record, "name", graph.name)


def _list(records: list[Record], present: bool) -> list[Record] | None:
    return records if records or present else None


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
    elif tensor.data is not None and "sparsity" in raw and not buffers.still_sparse(tensor):  # a new value is a dense one
        del record["sparsity"]
    return _with_text(record, "name", tensor.name)


def _quantization(raw: Record, q: QParams | None) -> Record | None:
    """The old parameters where nothing changed. min and max, where the file had them, follow the new scale and zero point."""
    old = raw.get("quantization")
    if q == reader.qparams(raw):
        return old
    if q is None:
        return None
    scale, zero = np.atleast_1d(np.asarray(q.scale, "<f4")), np.atleast_1d(np.asarray(q.zero_point, "<i8"))
    new = Record("QuantizationParameters", {"scale": scale, "zero_point": zero, "quantized_dimension": int(q.axis)})
    for name, end in zip(("min", "max"), q.real_range(), strict=True):
        if old is not None and name in old and old[name].size == scale.size:
            new[name] = np.atleast_1d(end).astype("<f4")
    return new


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
        self.used = {0} | {m.value("buffer") for m in old.get("metadata", [])} | set(map(int, old.get("metadata_buffer", ())))
        self.users = Counter(t.value("buffer") for g in old.get("subgraphs", []) for t in g.get("tensors", []))
        self.shared: dict[tuple, int] = {}  # what makes two new constants the same -> their buffer
        self.arrays: list[np.ndarray] = []  # keeps those ids alive

    def index(self, tensor: Tensor) -> int:
        found = self._index(tensor)
        self.used.add(found)
        return found

    def _index(self, tensor: Tensor) -> int:
        raw = _raw(tensor.raw, "Tensor")
        old = raw.value("buffer")  # 0 means: no constant
        stored = reader.stored_bytes(self.records[old]) if old else np.zeros(0, np.uint8)
        if tensor.data is None:
            return old if not stored.size or "sparsity" in raw else 0
        if self.still_sparse(tensor) or ("sparsity" not in raw and _holds(stored, tensor)):
            return old
        data = pack(tensor.data, tensor.type)
        # Tensors that shared a buffer go on sharing one where they still say the same; so do tensors made of one array.
        key = (old, hashlib.sha256(data.tobytes()).digest()) if old else (id(tensor.data), tensor.type)
        if key not in self.shared:
            self.arrays.append(tensor.data)
            self.shared[key] = self.place(old, data)
        return self.shared[key]

    def still_sparse(self, tensor: Tensor) -> bool:
        """Whether a tensor is a sparse constant of the file with the shape and value it had there."""
        raw = _raw(tensor.raw, "Tensor")
        if "sparsity" not in raw or tensor.data is None or raw.value("type") != TYPES[tensor.type].code:
            return False
        stored = reader.stored_bytes(self.records[raw.value("buffer")])
        if not stored.size or tuple(raw.get("shape", ())) != tensor.shape:
            return False
        was = reader.sparse_constant(raw, stored, tensor.type, tensor.shape)
        return was is not None and was.tobytes() == tensor.data.tobytes()

    def place(self, old: int, data: np.ndarray) -> int:
        """Index of a buffer for new bytes: the tensor's old one where it is the only user, else one of its own."""
        if old and old not in self.used and self.users[old] == 1:
            where = "outside" if "outside" in self.records[old] else "data"
            self.records[old] = self.records[old].but(data=None, outside=None).but(**{where: data})
            return old
        self.records.append(Record("Buffer", {"data": data}))
        return len(self.records) - 1

    def finished(self) -> list[Record]:
        lost = self.users.keys() - self.used
        records = [Record("Buffer") if i in lost else r for i, r in enumerate(self.records)]
        if sum(r["data"].size for r in records if "data" in r) > LARGEST_INSIDE:
            records = [_outside(r) for r in records]
        return records


def _holds(stored: np.ndarray, tensor: Tensor) -> bool:
    """Whether these bytes are the tensor's value; those of a fixed size may be followed by others."""
    data = tensor.data
    assert data is not None
    if stored.nbytes == data.nbytes and stored.__array_interface__["data"] == data.__array_interface__["data"]:
        return True  # the reader's own view of them
    if not TYPES[tensor.type].bits:
        return np.array_equal(stored, pack(data, tensor.type))
    size = stored_size(tensor.type, tensor.shape) or 0
    # Compared as values: the bits that fill up the last byte of a sub-byte constant mean nothing.
    return stored.size >= size and unpack(stored, tensor.type, tensor.shape).tobytes() == data.tobytes()


def _outside(buffer: Record) -> Record:
    if buffer.get("data") is None or buffer["data"].size < EXTERNAL_FROM:
        return buffer
    return Record("Buffer", {"outside": buffer["data"]})


def _signature(signature: Mapping[str, Any]) -> Record:
    def sides(side: str) -> list[Record]:
        return [Record("TensorMap", {"name": k, "tensor_index": v}) for k, v in signature[side].items()]

    fields = {"signature_key": signature["key"], "subgraph_index": signature.get("graph", 0)}
    return Record("SignatureDef", {**fields, "inputs": sides("inputs"), "outputs": sides("outputs")})
