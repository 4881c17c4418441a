"""TFLite_Detection_PostProcess against LiteRT: every box, class, score and count equal."""

from __future__ import annotations

import numpy as np
import pytest

from qsim.errors import Invalid
from qsim.flexbuffers import read_numbers, write_numbers
from qsim.function import build
from qsim.graph import Graph, Model, Node, Options, QParams, Tensor
from qsim.ops.detection import settings
from qsim.reader import read
from qsim.writer import to_bytes

SAMPLES, FLAVOURS = 6, ("xnnpack", "reference", "builtin")
BASE = {
    "max_detections": 10, "max_classes_per_detection": 1, "num_classes": 4, "nms_score_threshold": 0.2, "nms_iou_threshold": 0.5,
    "y_scale": 10.0, "x_scale": 10.0, "h_scale": 5.0, "w_scale": 5.0, "use_regular_nms": False, "detections_per_class": 100,
}  # fmt: skip
FORMS = {
    "fast": {},
    "fast, no background": {"background": 0},
    "fast, all": {"max_detections": 40, "nms_score_threshold": 1e-8},
    "fast, other scales": {"y_scale": 1.0, "x_scale": 3.0, "h_scale": 7.0, "w_scale": 2.0, "nms_iou_threshold": 0.3},
    "fast, one class": {"num_classes": 1, "nms_iou_threshold": 1.0},
    "regular": {"use_regular_nms": True},
    "regular, few": {"use_regular_nms": True, "detections_per_class": 2},
    "regular, all": {"use_regular_nms": True, "max_detections": 200, "nms_score_threshold": 1e-8, "nms_iou_threshold": 0.1},
    "regular, no background": {"use_regular_nms": True, "background": 0, "nms_iou_threshold": 0.25},
    "regular, one class": {"use_regular_nms": True, "num_classes": 1},
}


def detector(rng: np.random.Generator, kinds: tuple[str, str], boxes: int = 37, coordinates: int = 4, **changes) -> tuple[Model, list]:
    """A model of the op alone, and data for it: boxes that overlap, scores with ties, some anchors without area."""
    background = changes.pop("background", 1)
    options = {**BASE, **changes}
    shapes = ((1, boxes, coordinates), (1, boxes, options["num_classes"] + background), (boxes, 4))
    anchors = np.concatenate([rng.uniform(0.2, 0.8, (boxes, 2)), rng.uniform(0, 0.5, (boxes, 2))], axis=1).astype(np.float32)
    anchors[::7, 2:] = 0
    tensors, data = [], []
    for n, (kind, shape) in enumerate(zip((*kinds, kinds[0]), shapes, strict=True)):
        if kind == "float32":
            q = None
            x = (np.round(rng.random((SAMPLES, *shape)) * 16) / 16 if n == 1 else 2 * rng.normal(size=(SAMPLES, *shape))).astype(np.float32)
            value = anchors
        else:
            scale = np.float32(rng.uniform(1, 2) * (2**-8, 2**-8, 2**-8)[n] * (20, 1, 1)[n])
            q = QParams(np.array([scale]), np.array([0 if n == 2 else rng.integers(0, 256 if n == 0 else 30)]), 0, 255)
            x = rng.integers(0, 256, (SAMPLES, *shape)).astype(np.uint8)
            value = np.clip(np.rint(anchors / scale), 0, 255).astype(np.uint8)
        tensors.append(Tensor(n, f"x{n}", shape, kind, q, value if n == 2 else None))
        data.append(x)
    count = options["max_detections"] * (options["max_classes_per_detection"] if not options["use_regular_nms"] else 1)
    for n, shape in enumerate(((1, count, 4), (1, count), (1, count), (1,))):
        tensors.append(Tensor(3 + n, f"y{n}", shape, "float32"))
    node = Node(0, "CUSTOM:TFLite_Detection_PostProcess", (0, 1, 2), (3, 4, 5, 6), Options(custom_options=write_numbers(options)))
    return Model((Graph(tuple(tensors), (node,), (0, 1), (3, 4, 5, 6)),)), data[:2]


def compared(oracle, function, model: Model, data: list, flavour: str, regular: bool) -> int:
    """Elements compared; the fast form leaves what lies behind the count unwritten."""
    theirs = oracle.run(to_bytes(model), data, flavour)
    mine = function.run_samples(function.lower(model), *data)
    assert np.array_equal(mine[3], theirs[6])
    total = mine[3].size
    for found, wanted in zip(mine[:3], (theirs[3], theirs[4], theirs[5]), strict=True):
        assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
        for a, b, count in zip(found[:, 0], wanted[:, 0], mine[3][:, 0].astype(int), strict=True):
            end = len(a) if regular else count
            assert a[:end].tobytes() == b[:end].tobytes()
            assert not a[count:].any()
            total += a[:end].size
    return total


MIXED = (("float32", "uint8"), ("uint8", "float32"))
RUNS = [(f, (k, k)) for f in FORMS for k in ("float32", "uint8")] + [(f, kinds) for f in ("fast", "regular") for kinds in MIXED]


@pytest.mark.parametrize("form, kinds", RUNS, ids=str)
def test_detections_equal_litert(form, kinds, oracle, record_property):
    elements, function, number = 0, None, list(FORMS).index(form)
    for draw in range(12):
        rng = np.random.default_rng([number, draw])
        model, data = detector(rng, kinds, boxes=(37, 64, 5)[number % 3], coordinates=(4, 6)[number % 2], **FORMS[form])
        function = function or build(read(to_bytes(model)), "integer")
        elements += compared(oracle, function, model, data, FLAVOURS[draw % 3], "regular" in form)
    record_property("draws", 12)
    record_property("elements", elements)


@pytest.mark.parametrize(
    "classes, kept, kind",
    [
        *((*n, "uint8") for n in ((4, 2), (4, 3), (4, 4), (4, 6), (2, 2), (23, 2), (23, 5), (23, 8), (17, 17))),
        *((*n, "float32") for n in ((4, 3), (23, 5))),
    ],
)
def test_several_classes_of_a_box(classes, kept, kind, oracle, record_property):
    """Scores with many ties, whose order is that of a partial sort."""
    elements, function = 0, None
    for draw in range(4):
        rng = np.random.default_rng([classes, kept, draw])
        model, data = detector(rng, (kind, kind), num_classes=classes, max_classes_per_detection=kept)
        if draw % 2:
            data[1] = (
                data[1] // data[1].dtype.type(64) * data[1].dtype.type(64) if kind == "uint8" else np.round(data[1] * 4) / np.float32(4)
            )
        function = function or build(read(to_bytes(model)))
        theirs, mine = oracle.run(to_bytes(model), data, FLAVOURS[draw % 3]), function.run_samples(function.lower(model), *data)
        assert np.array_equal(mine[3], theirs[6]) and mine[3].max() > 3
        for n in range(SAMPLES):
            count = int(mine[3][n, 0])
            for a, b in zip(mine[:3], (theirs[3], theirs[4], theirs[5]), strict=True):
                a, b = (v[n, 0].reshape(10, kept, -1)[:count, : min(kept, classes)] for v in (a, b))
                assert np.array_equal(a, b)
                elements += a.size
    record_property("draws", 4)
    record_property("elements", elements)


def test_fake_and_float_mode_run():
    model, data = detector(np.random.default_rng(0), ("uint8", "uint8"))
    for mode in ("float", "fake"):
        found = build(model, mode).batch(*(x.astype(np.float32) / 256 for x in data))
        assert [x.shape for x in found] == [(6, 1, 10, 4), (6, 1, 10), (6, 1, 10), (6, 1)]


# options -------------------------------------------------------------


def test_options_are_read_as_they_were_written():
    found = read_numbers(write_numbers(BASE))
    assert found == {k: np.float32(v) if isinstance(v, float) else v for k, v in BASE.items()}
    assert read_numbers(write_numbers({})) == {}


def test_options_of_other_writers_are_read():
    """Two maps as TensorFlow writes them: values of one and of eight bytes."""
    flexbuffers = pytest.importorskip("flatbuffers.flexbuffers")
    for values in (BASE, {"max_detections": 3, "a": 0.1, "far": 1 << 40, "minus": -3, "yes": True}, {"x": 1}):
        builder = flexbuffers.Builder()
        builder.MapFromElements({**values, "text": "not a number"})
        found = read_numbers(bytes(builder.Finish()))
        assert found == pytest.approx(values)


@pytest.mark.parametrize("data", [b"", b"\0", b"\x24\x01", b"abc\x26\x04", bytes(40), write_numbers(BASE)[:-1], write_numbers(BASE)[8:]])
def test_what_is_no_map_is_refused(data):
    with pytest.raises(Invalid, match="FlexBuffers"):
        read_numbers(data)


def test_damaged_options_raise_nothing_else():
    good = write_numbers(BASE)
    for at in range(len(good)):
        for value in (0, 1, 127, 255, good[at] ^ 4):
            try:
                settings(Options(custom_options=good[:at] + bytes([value]) + good[at + 1 :]))
            except Invalid:
                pass
