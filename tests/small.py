"""A small float net made here, and data for it: enough to try everything that needs a model but not a real one."""

from __future__ import annotations

from typing import Any

import numpy as np

from qsim.graph import Graph, Model, Node, Options, Tensor

SIDE, CLASSES = 8, 4
WINDOW = {"dilation_h_factor": 1, "dilation_w_factor": 1, "stride_h": 2, "stride_w": 2, "padding": "SAME"}
DENSE = {"fused_activation_function": "NONE", "keep_num_dims": False, "weights_format": "DEFAULT", "asymmetric_quantize_inputs": False}


def float_net(seed: int = 0, names: dict[int, str] | None = None) -> Model:
    """image (1, 8, 8, 1) -> CONV_2D RELU -> CONV_2D -> RESHAPE -> FULLY_CONNECTED -> SOFTMAX -> probabilities (1, 4).

    names: tensor index -> another name.
    """
    rng = np.random.default_rng(seed)
    shapes = {
        "image": (1, SIDE, SIDE, 1), "w1": (8, 3, 3, 1), "b1": (8,), "hidden": (1, 4, 4, 8), "w2": (8, 3, 3, 8), "b2": (8,),
        "deep": (1, 2, 2, 8), "shape": (2,), "flat": (1, 32), "w3": (CLASSES, 32), "b3": (CLASSES,), "logits": (1, CLASSES),
        "probabilities": (1, CLASSES),
    }  # fmt: skip
    index = {name: i for i, name in enumerate(shapes)}
    tensors = tuple(_tensor(i, (names or {}).get(i, name), shape, rng) for i, (name, shape) in enumerate(shapes.items()))

    def node(number: int, op: str, inputs: str, output: str, **options: Any) -> Node:
        return Node(number, op, tuple(index[i] for i in inputs.split()), (index[output],), Options(options))

    nodes = (
        node(0, "CONV_2D", "image w1 b1", "hidden", **WINDOW, fused_activation_function="RELU"),
        node(1, "CONV_2D", "hidden w2 b2", "deep", **WINDOW, fused_activation_function="NONE"),
        node(2, "RESHAPE", "deep shape", "flat", new_shape=(1, 32)),
        node(3, "FULLY_CONNECTED", "flat w3 b3", "logits", **DENSE),
        node(4, "SOFTMAX", "logits", "probabilities", beta=1.0),
    )
    return Model((Graph(tensors, nodes, (index["image"],), (index["probabilities"],)),), description="made by the tests")


def _tensor(index: int, name: str, shape: tuple[int, ...], rng: np.random.Generator) -> Tensor:
    if name == "shape" or index == 7:
        return Tensor(index, name, shape, "int32", data=np.array([1, 32], np.int32))
    if index in (1, 4, 9):
        return Tensor(index, name, shape, "float32", data=(rng.normal(0, 1, shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32))
    if index in (2, 5, 10):
        return Tensor(index, name, shape, "float32", data=rng.normal(0, 0.1, shape).astype(np.float32))
    return Tensor(index, name, shape, "float32")


def images(count: int, seed: int = 1) -> np.ndarray:
    """uint8 (count, 8, 8, 1): smooth random pictures."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 2, 2, 1)).repeat(4, 1).repeat(4, 2)
    return np.clip(coarse + rng.integers(-20, 21, (count, SIDE, SIDE, 1)), 0, 255).astype(np.uint8)
