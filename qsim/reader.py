"""Reading a .tflite: bytes -> verified records -> one frozen `Model`.

The order is fixed: size limit, identifier, structural verifier, meaning. Nothing looks at bytes that the verifier has not accepted.
Load rejects what LiteRT rejects and what has no defined result; whatever else looks wrong becomes one of the model's notes.
"""

from __future__ import annotations

import logging
import os
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from . import check, flat
from .blockwise import with_blocks
from .errors import Invalid, Malformed, NewerSchema, QsimError, TooLarge, Unsupported
from .flat import Record
from .graph import Graph, Model, Node, QParams, Tensor
from .options import CUSTOM, read_options
from .packing import stored_size, unpack
from .schema import schema
from .sparse import densify
from .types import BY_CODE, TYPES
from .verify import verify

log = logging.getLogger("qsim")
MAX_BYTES = 1 << 34  # of a file
MAX_RANK = 8
UNKNOWN = "UNKNOWN:"  # op names of builtin ops that the schema does not know


@dataclass(frozen=True, eq=False)
class Source:
    """What a model was read from. `data`: the file's bytes. `root`: its records. `unknown`: newer things in it, by name.

    `model`: graphs as they were read, so that a writer sees what has changed.
    """

    data: bytes
    root: Record
    unknown: tuple[str, ...]
    graphs: tuple[Graph, ...] = ()


def load(path_or_bytes: str | os.PathLike[str] | bytes, *, limit: int = MAX_BYTES) -> Model:
    """The model in a file, or in bytes. *Raises*: BadModel (Malformed, Invalid, TooLarge, NewerSchema) with the place."""
    if isinstance(path_or_bytes, (bytes, bytearray, memoryview)):
        return read(bytes(path_or_bytes))
    path = Path(path_or_bytes)
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise Malformed("cannot be read: it is not a file", where=str(path))
        if status.st_size > limit:
            raise TooLarge(
                "the file is larger than the limit", where=str(path), found=f"{status.st_size} bytes", expected=f"at most {limit}"
            )
        data = path.read_bytes()
    except (OSError, ValueError) as e:
        raise Malformed(f"cannot be read: {getattr(e, 'strerror', None) or e}", where=str(path)) from e
    return read(data, str(path))


def read(data: bytes, path: str = "") -> Model:
    """The model in `data`; `path` is for messages only. *Raises*: as `load`."""
    try:
        return _read(data, path)
    except QsimError as e:
        if path:
            e.where = f"{path}: {e.where}" if e.where else path
        raise


def _read(data: bytes, path: str) -> Model:
    _identify(data)
    unknown = verify(data)
    root = flat.read(data)
    if root.value("version") != 3:
        raise Malformed("the schema version is not supported", found=root.value("version"), expected=3)
    if not root.get("subgraphs"):
        raise Invalid("the model has no subgraphs")
    codes = [op_name(c) for c in root.get("operator_codes", [])]
    graphs = tuple(_graph(root, g, i, codes) for i, g in enumerate(root["subgraphs"]))
    notes = tuple(f"unknown newer field: {u}" for u in unknown)
    if unknown:
        log.warning("%s: fields newer than this version knows: %s", path or "the model", ", ".join(unknown))
    model = Model(graphs, signatures(root), root.get("description", ""), path, None, notes)
    check.reject(model)
    graphs = tuple(_infer_activations(g) for g in graphs)
    model = model.but(graphs=graphs, source=Source(data, root, unknown, graphs))
    return model.but(notes=(*notes, *_oddities(model), *_activation_notes(model), *check.warnings(model)))


_FOREIGN = (
    (b"PK\x03\x04", "a zip archive (a .task bundle, or an archive to unpack first)", "Unpack it and load the .tflite inside"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself", "Run `git lfs pull`"),
    (b"LITERTLM", "a .litertlm bundle", "Extract the .tflite section first"),
    (b"<", "an HTML or XML page", "The download probably gave an error page; fetch the file again"),
    (b"\x08", "an ONNX model", "Convert it to .tflite first"),
    (b"\x89HDF", "an HDF5 (Keras .h5) file", "Convert it to .tflite first"),
    (b"\x1f\x8b", "a gzip archive", "Unpack it first"),
)


def _identify(data: bytes) -> None:
    if data[4:8] == flat.IDENTIFIER:
        return
    if not data.strip(b"\0"):
        raise Malformed("the file is empty" if not data else "the file holds only zero bytes")
    head = data.lstrip()[:64] if data[:1].isspace() else data[:64]
    for magic, what, hint in _FOREIGN:
        if head.startswith(magic):
            raise Malformed(f"not a .tflite: it looks like {what}", hint=hint)
    if len(data) < 8:
        raise Malformed("too short to be a .tflite", found=f"{len(data)} bytes")
    raise Malformed("not a .tflite: the identifier is missing", found=data[4:8], expected=flat.IDENTIFIER)


def op_name(code: Record) -> str:
    """Schema name of an operator code; "CUSTOM:<code>" for custom ops, "UNKNOWN:<number>" for ops newer than the schema."""
    number = max(code.value("builtin_code"), code.value("deprecated_builtin_code"))
    name = schema().enum_names["BuiltinOperator"].get(number, f"{UNKNOWN}{number}")
    return CUSTOM + code.get("custom_code", "") if name == "CUSTOM" else name


def _graph(root: Record, record: Record, number: int, codes: list[str]) -> Graph:
    where = f"subgraph {number} " if number else ""
    nodes = tuple(_node(root, r, i, codes, where) for i, r in enumerate(record.get("operators", [])))
    computed = {t for n in nodes for t in n.outputs} | set(_indices(record, "inputs"))
    tensors = tuple(_tensor(root, r, i, i in computed, where) for i, r in enumerate(record.get("tensors", [])))
    made = Graph(tensors, nodes, _indices(record, "inputs"), _indices(record, "outputs"), record.get("name", ""), record)
    return with_blocks(made)


def _indices(record: Record, name: str) -> tuple[int, ...]:
    return tuple(record[name].tolist()) if name in record else ()


def _node(root: Record, record: Record, index: int, codes: list[str], where: str) -> Node:
    code = record.value("opcode_index")
    if code >= len(codes):
        raise Invalid("names an operator code that is not there", where=f"{where}op {index}", found=code, expected=f"below {len(codes)}")
    op = codes[code]
    try:
        options = read_options(op, record)
    except Invalid as e:
        e.where = f"{where}op {index} {check.shown(op)}"
        raise
    version = root["operator_codes"][code].value("version")
    ins, outs, between = (_indices(record, name) for name in ("inputs", "outputs", "intermediates"))
    return Node(index, op, ins, outs, options, version, between, raw=record)


def _tensor(root: Record, record: Record, index: int, computed: bool, where: str) -> Tensor:
    name = record.get("name", "")
    where = f"{where}tensor {index} ({check.shown(name)!r})"
    t = BY_CODE.get(record.value("type"))
    if t is None:
        raise NewerSchema("has an element type this version does not know", where=where, found=f"type {record.value('type')}")
    shape = _shape(record, where)
    signature = tuple(record["shape_signature"].tolist()) if "shape_signature" in record else None
    data = _constant(root, record, t.name, shape, computed, where)
    variable, buffer = bool(record.value("is_variable")), record.value("buffer")
    return Tensor(index, name, shape, t.name, qparams(record, where), data, signature, variable, buffer, record)


def _shape(record: Record, where: str) -> tuple[int, ...]:
    dims = record.get("shape", np.zeros(0, np.int32))
    if dims.size > MAX_RANK:
        raise TooLarge("has too many dimensions", where=where, found=dims.size, expected=f"at most {MAX_RANK}")
    shape = tuple(dims.tolist())
    if any(d < 0 for d in shape):
        raise Invalid("has a negative dimension", where=where, found=shape)
    return shape


def _constant(root: Record, record: Record, type_name: str, shape: tuple[int, ...], computed: bool, where: str) -> np.ndarray | None:
    """Value of a constant tensor, sparse ones in their dense form. None for computed ones and for types without numbers."""
    buffers, index, size = root.get("buffers", []), record.value("buffer"), stored_size(type_name, shape)
    if size is not None and size >= 1 << 63:
        raise Invalid("is larger than any memory", where=where, found=shape)
    if index >= len(buffers):
        raise Invalid("names a buffer that is not there", where=where, found=index, expected=f"below {len(buffers)}")
    if record.value("external_buffer"):
        raise Unsupported("its constant lies in another file, which is not read", where=where)
    stored = stored_bytes(buffers[index]) if index else np.zeros(0, np.uint8)  # buffer 0 means: no constant
    if stored.size and "sparsity" in record:
        return sparse_constant(record, stored, type_name, shape, where)
    if not stored.size:
        empty = size == 0 and not computed and not record.value("is_variable") and bool(shape)
        return unpack(np.zeros(0, np.uint8), type_name, shape) if empty else None
    if size is not None and stored.size < size:
        raise Invalid("has a constant of the wrong size", where=where, found=f"{stored.size} bytes", expected=f"{size} for {shape}")
    return unpack(stored, type_name, shape)


def sparse_constant(record: Record, stored: np.ndarray, type_name: str, shape: tuple[int, ...], where: str = "") -> np.ndarray | None:
    """The dense form of a sparse constant; None where this version cannot make it (the tensor keeps its record)."""
    try:
        return densify(record["sparsity"], stored, type_name, shape, where)
    except Unsupported as e:
        log.warning("%s", e)
        return None


def stored_bytes(buffer: Record) -> np.ndarray:
    """Bytes of a buffer record, uint8 (B,), wherever they lie."""
    found = buffer.get("data")
    return buffer.get("outside", np.zeros(0, np.uint8)) if found is None or not found.size else found


def qparams(record: Record, where: str = "") -> QParams | None:
    """Affine parameters of a tensor record; None where it has none, and for types without integer codes."""
    quantization, t = record.get("quantization"), BY_CODE[record.value("type")]
    scale = None if quantization is None else quantization.get("scale")
    if quantization is None or scale is None or not scale.size:
        return None
    zero, axis, rank = quantization.get("zero_point"), quantization.value("quantized_dimension"), record.get("shape", ())
    if zero is None or zero.size != scale.size:
        raise Invalid("has a different number of scales and zero points", where=where, found=(scale.size, 0 if zero is None else zero.size))
    if axis < 0 or (len(rank) and axis >= len(rank)):
        raise Invalid(
            "has quantization parameters for a dimension it does not have", where=where, found=axis, expected=f"below {len(rank)}"
        )
    if scale.size != 1 and len(rank) and scale.size != rank[axis]:
        raise Invalid("has the wrong number of scales", where=where, found=scale.size, expected=f"1 or {rank[axis]}")
    if t.low is None or t.name == "bool":
        return None
    return QParams(scale, zero, t.low, t.high, axis)


def signatures(root: Record) -> tuple[dict[str, Any], ...]:
    """{"key": name, "graph": subgraph index, "inputs": {name: tensor index}, "outputs": {name: tensor index}} of each signature."""
    return tuple(_signature(s) for s in root.get("signature_defs", []))


def _signature(record: Record) -> dict[str, Any]:
    maps = {side: {m.get("name", ""): m.value("tensor_index") for m in record.get(side, [])} for side in ("inputs", "outputs")}
    return {"key": record.get("signature_key", ""), "graph": record.value("subgraph_index"), **maps}


def _oddities(model: Model) -> Iterator[str]:
    """What is legal, and worth knowing: newer ops, long or sparse constants, parameters that are not affine."""
    for g, graph in enumerate(model.graphs):
        for node in graph.nodes:
            if node.op.startswith(UNKNOWN):
                yield f"{check.place(model, g, node)}: an op newer than this version knows"
        for t in graph.tensors:
            details = (t.raw or {}).get("quantization", {}).get("details")
            if details is not None:
                yield f"{check.tensor_place(g, t)}: its quantization is a {details.table}, kept as it is stored"
            if t.raw is not None and "sparsity" in t.raw:
                yield f"{check.tensor_place(g, t)}: a sparse constant, written as it is stored"
            elif t.data is not None and _stored(model, t).size > (stored_size(t.type, t.shape) or sys.maxsize):
                yield f"{check.tensor_place(g, t)}: the stored constant is longer than its shape, the rest is ignored"


def _stored(model: Model, tensor: Tensor) -> np.ndarray:
    return stored_bytes(model.source.root["buffers"][tensor.buffer])


# Ops whose fused activation acts on the output itself (in recurrent ops it acts on the cell) and whose range is their own: pools and
# CONCATENATION hand on the range of their inputs, whose producer has the activation already.
_ACTIVATED = frozenset("ADD SUB MUL DIV CONV_2D DEPTHWISE_CONV_2D CONV_3D TRANSPOSE_CONV FULLY_CONNECTED".split())


def _infer_activations(graph: Graph) -> Graph:
    return graph.but(nodes=tuple(n.but(inferred_activation=inferred_activation(graph, n)) for n in graph.nodes))


def inferred_activation(graph: Graph, node: Node) -> str | None:
    """The activation that only the range of a quantized output carries, or None.

    Converters drop a RELU or RELU6 that the output's range already performs. Where a quantized op has activation NONE and the
    stored range begins at exactly 0 (zero point = lowest code): RELU6 if it ends at 6 within one step, else RELU.
    """
    if node.op not in _ACTIVATED or node.options.get("fused_activation_function") != "NONE" or len(node.outputs) != 1:
        return None
    out, first = graph.tensors[node.outputs[0]], graph.tensors[node.inputs[0]]
    if out.qparams is None or out.type not in ("int8", "uint8") or first.qparams is None or out.qparams.per_channel:
        return None
    if int(out.qparams.zero_point[0]) != TYPES[out.type].low:
        return None
    step, high = float(out.qparams.scale[0]), float(out.qparams.real_range()[1][0])
    return "RELU6" if abs(high - 6.0) <= step else "RELU"


def _activation_notes(model: Model) -> tuple[str, ...]:
    return tuple(
        f"{check.place(model, g, n)}: {n.inferred_activation} inferred from the output's range"
        for g, graph in enumerate(model.graphs)
        for n in graph.nodes
        if n.inferred_activation
    )
