"""A small file that uses every feature of the format that the file layer knows, for tests that damage or rewrite it."""

from __future__ import annotations

import numpy as np

from qsim import flat
from qsim.flat import Record
from qsim.schema import schema

OPS = schema().enums["BuiltinOperator"]


def i32(*values: int) -> np.ndarray:
    return np.array(values, "<i4")


def tensor(name: str, shape: tuple[int, ...], type_code: int = 0, buffer: int = 0, **more: object) -> Record:
    return Record("Tensor", {"name": name, "shape": i32(*shape), "type": type_code, "buffer": buffer, **more})


def quantization(scale: list[float], zero: list[int], axis: int = 0, **more: object) -> Record:
    fields = {"scale": np.array(scale, "<f4"), "zero_point": np.array(zero, "<i8"), "quantized_dimension": axis, **more}
    return Record("QuantizationParameters", fields)


def code(op: str, version: int = 1, **more: object) -> Record:
    return Record("OperatorCode", {"builtin_code": OPS[op], "deprecated_builtin_code": min(OPS[op], 127), "version": version, **more})


def operator(
    opcode: int, inputs: tuple[int, ...], outputs: tuple[int, ...], table: str = "", options: object = None, **more: object
) -> Record:
    fields = {"opcode_index": opcode, "inputs": i32(*inputs), "outputs": i32(*outputs), **more}
    if table:
        union, tag = schema().union_of[table]
        name = {"BuiltinOptions": "builtin_options", "BuiltinOptions2": "builtin_options_2"}[union]
        fields |= {name: Record(table, options or {}), name + "_type": tag}  # type: ignore[arg-type]
    return Record("Operator", fields)


def _tensors() -> list[Record]:
    csr = {"format": 1, "array_segments": Record("Uint8Vector", {"values": np.array([0, 1, 2], "u1")}), "array_segments_type": 3}
    csr |= {"array_indices": Record("Uint16Vector", {"values": np.array([1, 0], "<u2")}), "array_indices_type": 2}
    dense = Record("DimensionMetadata", {"dense_size": 2})
    sparsity = {"traversal_order": i32(0, 1), "dim_metadata": [dense, Record("DimensionMetadata", csr)]}
    blocks = Record("BlockwiseQuantization", {"scales": 7, "block_size": 2})
    return [
        tensor("x", (1, 4, 4, 2), 9, quantization=quantization([0.5], [3], min=np.array([-1.0], "<f4"), max=np.array([1.0], "<f4"))),
        tensor("w", (2, 1, 1, 2), 9, 1, quantization=quantization([0.25, 0.5], [0, 0])),
        tensor("b", (2,), 2, 2, quantization=quantization([0.125, 0.25], [0, 0])),
        tensor("y", (1, 4, 4, 2), 9, shape_signature=i32(-1, 4, 4, 2), quantization=quantization([0.5], [-128]), has_rank=True),
        tensor("four", (3,), 17, 3, quantization=quantization([1.0], [0])),
        tensor("text", (1,), 5, 4),
        tensor("sparse", (2, 2), 0, 5, sparsity=Record("SparsityParameters", sparsity)),
        tensor("scales", (2,), 0, 6),
        tensor("blocks", (2, 2), 17, 3, quantization=Record("QuantizationParameters", {"details": blocks, "details_type": 2})),
        tensor("state", (2,), 0, 0, is_variable=True),
        tensor("", (1, 4, 4, 2), 9, variant_tensors=[Record("VariantSubType", {"shape": i32(2), "type": 9, "has_rank": True})]),
        tensor("far", (4,), 0, 7),
        tensor("z", (1, 4, 4, 2), 9),
    ]


def _operators() -> list[Record]:
    conv = {"padding": 1, "stride_w": 1, "stride_h": 1}
    far = np.arange(24, dtype="u1")
    return [
        operator(0, (0, 1, 2), (3,), "Conv2DOptions", conv, debug_metadata_index=2),
        operator(1, (3, -1), (10,), custom_options=np.arange(5, dtype="u1"), intermediates=i32(-1, 9), outside=far),
        operator(2, (10,), (12,), "StableHLOCompositeOptions", {"name": "c", "decomposition_subgraph_index": 1, "version": 1}),
    ]


def rich() -> bytes:
    """The bytes of the file: 2 subgraphs, 13 tensors, 10 buffers of which one outside, custom op, composite, signatures, metadata."""
    inner = Record("SubGraph", {"tensors": [tensor("i", (2,)), tensor("o", (2,))], "inputs": i32(0), "outputs": i32(1), "name": "inner"})
    inner["operators"] = [operator(3, (0,), (1,))]
    main = Record("SubGraph", {"tensors": _tensors(), "inputs": i32(0), "outputs": i32(12), "operators": _operators(), "name": "main"})
    maps = {side: [Record("TensorMap", {"name": side, "tensor_index": i})] for side, i in (("inputs", 0), ("outputs", 12))}
    text = np.frombuffer(np.array([1, 12, 14], "<i4").tobytes() + b"hi", np.uint8)
    stored = [np.array([1, -2, 3, 4], "i1").view("u1"), i32(7, -7).view("u1"), np.array([0x21, 0x0F], "u1"), text]
    stored += [np.array([1, 2], "<f4").view("u1"), np.array([0.5, 1], "<f4").view("u1")]
    buffers = [Record("Buffer"), *(Record("Buffer", {"data": s}) for s in stored)]
    buffers += [Record("Buffer", {"outside": np.arange(4, dtype="<f4").view("u1")}), Record("Buffer", {"data": np.arange(9, dtype="u1")})]
    root = {
        "version": 3,
        "operator_codes": [code("CONV_2D", 3), code("CUSTOM", custom_code="mine"), code("STABLEHLO_COMPOSITE"), code("RELU")],
        "subgraphs": [main, inner],
        "description": "rich",
        "buffers": buffers,
        "metadata": [Record("Metadata", {"name": "note", "buffer": 8})],
        "metadata_buffer": i32(8),
        "signature_defs": [Record("SignatureDef", {**maps, "signature_key": "serve", "deprecated_tag": "t"})],
        "external_buffer_groups": [Record("ExternalBufferGroup", {"name": "g"})],
        "external_buffers": [Record("ExternalBuffer", {"id": 1, "group": 0, "offset": 3, "length": 4, "packing": "p"})],
    }
    return flat.write(Record("Model", root))
