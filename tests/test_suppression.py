"""NON_MAX_SUPPRESSION_V4 and V5 against LiteRT: equal in every index, also where scores are equal."""

from __future__ import annotations

import numpy as np
import pytest

from qsim.errors import Unsupported
from qsim.function import build
from qsim.graph import Graph, Model, Node, Tensor
from qsim.reader import read
from qsim.writer import to_bytes

SAMPLES = 6


def suppression(boxes: int, most: int, iou: float, least: float, sigma: float | None = None) -> Model:
    """A model of the op alone; its boxes and scores are inputs."""
    scalars = [np.array(most, np.int32), np.array(iou, np.float32), np.array(least, np.float32)]
    scalars += [] if sigma is None else [np.array(sigma, np.float32)]
    tensors = [Tensor(0, "boxes", (boxes, 4), "float32"), Tensor(1, "scores", (boxes,), "float32")]
    tensors += [Tensor(2 + n, f"s{n}", (), str(s.dtype), None, s) for n, s in enumerate(scalars)]
    first = len(tensors)
    outs = [((most,), "int32"), *([((most,), "float32")] if sigma is not None else []), ((), "int32")]
    tensors += [Tensor(first + n, f"y{n}", shape, kind) for n, (shape, kind) in enumerate(outs)]
    node = Node(0, f"NON_MAX_SUPPRESSION_V{4 if sigma is None else 5}", tuple(range(first)), tuple(range(first, len(tensors))))
    return Model((Graph(tuple(tensors), (node,), (0, 1), node.outputs),))


def crowd(rng: np.random.Generator, boxes: int, style: str) -> list[np.ndarray]:
    """Boxes around few places, corners in any order, some without area; scores with or without ties."""
    centres = rng.uniform(0, 4, (SAMPLES, boxes, 2)).round() + rng.normal(0, 0.15, (SAMPLES, boxes, 2))
    size = rng.uniform(0.2, 1, (SAMPLES, boxes, 2)) * rng.choice([-1, 1], (SAMPLES, boxes, 2))
    if style == "flat":
        size *= rng.random((SAMPLES, boxes, 1)) < 0.8
    found = np.concatenate([centres - size, centres + size], axis=-1)
    scores = rng.random((SAMPLES, boxes))
    if style != "random":
        found, scores = np.round(found * 4) / 4, np.round(scores * 8) / 8
    return [found.astype(np.float32), scores.astype(np.float32)]


@pytest.mark.parametrize("style", ["random", "ties", "flat"])
@pytest.mark.parametrize(
    "boxes, most, iou, least, sigma",
    [
        (30, 10, 0.5, 0.2, None), (50, 50, 0.3, -1.0, None), (7, 20, 0.6, 0.5, None), (1, 1, 0.5, 0.0, None), (2, 2, 0.5, 0.0, None),
        (33, 12, 1.0, 0.1, None), (30, 10, 0.5, 0.2, 0.0), (30, 12, 0.6, 0.1, 0.5), (17, 17, 1.0, 0.05, 0.1), (12, 4, 0.9, 0.3, 1.0),
    ],
)  # fmt: skip
def test_suppression_equals_litert(boxes, most, iou, least, sigma, style, oracle, record_property):
    model = suppression(boxes, most, iou, least, sigma)
    data, rng, elements = to_bytes(model), np.random.default_rng([boxes, most, len(style)]), 0
    function = build(read(data), "integer")
    for draw in range(4):
        inputs = crowd(rng, boxes, style)
        theirs = oracle.run(data, inputs, ("xnnpack", "reference", "builtin")[draw % 3])
        for t, mine in zip(model.graph.outputs, function.batch(*inputs), strict=True):
            assert (mine.shape, mine.dtype) == (theirs[t].shape, theirs[t].dtype)
            assert np.array_equal(mine, theirs[t])
            elements += mine.size
    record_property("draws", 4)
    record_property("elements", elements)


def test_the_number_of_boxes_must_be_known():
    model = suppression(5, 3, 0.5, 0.0)
    graph = model.graph
    live = graph.but(tensors=(*graph.tensors[:2], graph.tensors[2].but(data=None), *graph.tensors[3:]), inputs=(0, 1, 2))
    with pytest.raises(Unsupported, match="fixes a shape"):
        build(model.but(graphs=(live,)), "float")
