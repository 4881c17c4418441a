"""Targets: what each forbids and why, that the table names only what exists, and that shipped files agree with it."""

from __future__ import annotations

import itertools

import pytest

import qsim
from qsim.errors import BadRecipe
from qsim.op import site
from qsim.ops import REGISTRY
from qsim.schema import schema
from qsim.targets import FLAVOURS, TARGETS, Row, forbids, leaves
from qsim.types import CODES, TYPES

CONV = (("int8", "int8", "int32"), ("int8",))
CONV16 = (("int16", "int8", "int64"), ("int16",))
CONV4 = (("int8", "int4", "int32"), ("int8",))
HYBRID = (("float32", "int8", "float32"), ("float32",))
FLOATS = (("float32", "float32", "float32"), ("float32",))
UINT8 = (("uint8", "uint8", "int32"), ("uint8",))
ONE, ONE16, HALF = ((("int8",), ("int8",)), (("int16",), ("int16",)), (("float32",), ("float32",)))

FACTS = [  # target, op, types, per channel, version, why it cannot run, why it is left to the CPU
    ("litert", "CONV_2D", CONV, True, 3, None, None),
    ("litert", "FULLY_CONNECTED", CONV16, True, 7, None, None),
    ("litert", "HARD_SWISH", ONE16, False, 1, "no HARD_SWISH of int16 -> int16", None),
    ("litert", "SIN", HALF, False, 1, None, None),
    ("tflm", "CONV_2D", CONV, True, 3, None, None),
    ("tflm", "CONV_2D", CONV4, True, 3, None, None),
    ("tflm", "CONV_2D", HYBRID, True, 5, "no CONV_2D of float32, int8, float32 -> float32", None),
    ("tflm", "CONV_2D", UINT8, False, 1, "no CONV_2D of uint8", None),
    ("tflm", "FULLY_CONNECTED", CONV, True, 4, None, None),
    ("tflm", "FULLY_CONNECTED", CONV4, True, 7, "one scale for its weights", None),
    ("tflm", "FULLY_CONNECTED", CONV4, False, 7, None, None),
    ("tflm", "HARD_SWISH", ONE16, False, 1, "no HARD_SWISH of int16", None),
    ("tflm", "RELU_N1_TO_1", ONE, False, 1, "TFLite Micro has no RELU_N1_TO_1", None),
    ("tflm", "CONCATENATION", (("int8",) * 5, ("int8",)), False, 1, None, None),
    ("ethos-u", "CONV_2D", CONV, True, 3, None, None),
    ("ethos-u", "CONV_2D", CONV16, True, 4, None, None),
    ("ethos-u", "CONV_2D", CONV4, True, 3, None, "no CONV_2D of int8, int4"),
    ("ethos-u", "CONV_2D", FLOATS, False, 1, None, "no CONV_2D of float32"),
    ("ethos-u", "CONV_2D", UINT8, False, 1, None, None),
    ("ethos-u", "FULLY_CONNECTED", CONV, False, 4, None, None),
    ("ethos-u", "FULLY_CONNECTED", CONV, True, 4, None, "one scale for its weights"),
    ("ethos-u", "CONV_2D", HYBRID, True, 5, "TFLite Micro has no CONV_2D of float32, int8", None),
    ("ethos-u", "HARD_SWISH", ONE16, False, 1, "no HARD_SWISH of int16", None),
    ("ethos-u", "GATHER", (("int8", "int32"), ("int8",)), False, 1, None, "the Ethos-U NPU has no GATHER"),
    ("edgetpu", "CONV_2D", CONV, True, 3, None, None),
    ("edgetpu", "CONV_2D", CONV, True, 6, "knows CONV_2D up to version 5, this is 6", None),
    ("edgetpu", "CONV_2D", CONV16, True, 4, None, "no CONV_2D of int16"),
    ("edgetpu", "CONV_2D", CONV4, True, 3, "no CONV_2D of int8, int4", None),
    ("edgetpu", "FULLY_CONNECTED", CONV, True, 4, "one scale for its weights, not one a channel", None),
    ("edgetpu", "FULLY_CONNECTED", CONV, False, 4, None, None),
    ("edgetpu", "LEAKY_RELU", ONE, False, 2, None, "the Edge TPU has no LEAKY_RELU"),
    ("edgetpu", "RESIZE_BILINEAR", (("int8", "int32"), ("int8",)), False, 3, None, "up to version 2"),
]


@pytest.mark.parametrize("target, op, types, per_channel, version, stopped, left", FACTS)
def test_what_a_target_forbids_and_leaves(target, op, types, per_channel, version, stopped, left):
    for ask, expected in ((forbids, stopped), (leaves, left)):
        found = ask(target, op, types, per_channel=per_channel, version=version)
        assert found is None if expected is None else found is not None and expected in found


def test_an_unknown_target_is_named():
    with pytest.raises(BadRecipe, match="gpu.*litert, tflm, ethos-u, edgetpu"):
        forbids("gpu", "ADD", (("int8", "int8"), ("int8",)))


def test_only_litert_is_measured():
    assert {t.name: t.status for t in TARGETS.values() if t.status == "measured"} == {"litert": "measured"}
    assert all(t.source and t.status == "documented, not measured" for t in TARGETS.values() if not t.measured)


def tables() -> list[tuple[str, Row]]:
    return [(t.name, r) for t in TARGETS.values() for r in (*t.rows, *t.beside_rows)]


def test_rows_name_only_what_exists():
    ops = set(schema().enums["BuiltinOperator"])
    for _, row in tables():
        assert set(row.ops.split()) <= ops | {"*"}
        kinds = {k for pattern in (*row.inputs.split(), *row.outputs.split()) for k in pattern.rstrip("*").rstrip("?").split("|")}
        assert kinds <= {"any", *TYPES}, row


def test_every_row_lets_its_own_types_through():
    """A row that no types reach, or that an earlier table shadows, would be a dead line."""

    def some(patterns: str) -> list[tuple[str, ...]]:
        choices = [p.rstrip("*").rstrip("?").replace("any", "int8").split("|") for p in patterns.split()]
        return list(itertools.product(*choices))

    for name, row in tables():
        for op in ("CONV_2D" if o == "*" else o for o in row.ops.split()):
            for types in itertools.product(some(row.inputs), some(row.outputs)):
                if row.ops != "*":
                    assert forbids(name, op, types, per_channel=row.per_channel, version=row.version or 1) is None, (name, op, types)


def test_litert_is_what_the_registry_runs_everywhere():
    for op in REGISTRY.values():
        for k in op.kernels:
            types = first(k.inputs), first(k.outputs)
            coded = any(kind in CODES for kind in (*types[0], *types[1]))
            everywhere = all(any(q.serves(types, f) for q in op.kernels) for f in FLAVOURS)
            assert (forbids("litert", op.name, types) is None) == (everywhere or not coded)


def first(patterns: tuple[str, ...]) -> tuple[str, ...]:
    """The first type that each pattern names."""
    return tuple(p.rstrip("*").rstrip("?").split("|")[0].replace("any", "int8") for p in patterns)


@pytest.mark.models
@pytest.mark.parametrize("name", ["mlperf_kws_int8", "mlperf_vww96_int8", "mlperf_resnet8_int8", "mlperf_ad01_int8", "micro_speech_int8"])
def test_files_that_ship_for_microcontrollers_pass(name, models_dir):
    """MLPerf Tiny and the micro examples run these files on TFLite Micro."""
    assert refused(models_dir, name, "tflm") == set()
    assert refused(models_dir, name, "litert") == set()


@pytest.mark.models
def test_hybrid_files_do_not_pass_where_there_are_no_hybrid_kernels(models_dir):
    assert refused(models_dir, "mlperf_kws_dynrange", "litert") == set()
    assert refused(models_dir, "mlperf_kws_dynrange", "tflm") == {"CONV_2D"}
    assert refused(models_dir, "mobilenet_v1_025_224_uint8", "edgetpu") == set()
    assert "CONV_2D" in refused(models_dir, "mobilenet_v1_025_224_uint8", "tflm")


def refused(models_dir, name: str, target: str) -> set[str]:
    graph = qsim.load(models_dir / "nets" / f"{name}.tflite").graph
    found = set()
    for node in graph.nodes:
        where = site(graph, node)
        weights = REGISTRY[node.op].rule.weights
        scales = where.inputs[weights].qparams if weights is not None else None
        if forbids(target, node.op, where.types, per_channel=scales is not None and scales.per_channel, version=node.version):
            found.add(node.op)
    return found
