"""The demo's net as a qsim Model, written down once: training, export and every mode run these records."""

from __future__ import annotations

from typing import Any

import numpy as np

from qsim.graph import Graph, Model, Node, Options, Tensor

CLASSES = 10
WIDTHS = (16, 48, 96)


class Sketch:
    """Collects tensors and nodes of one graph; a method per op returns the index of the op's output."""

    def __init__(self, seed: int):
        self.rng = np.random.default_rng(seed)
        self.tensors: list[Tensor] = []
        self.nodes: list[Node] = []

    def tensor(self, name: str, shape: tuple[int, ...], data: np.ndarray | None = None) -> int:
        kind = "float32" if data is None else data.dtype.name
        self.tensors.append(Tensor(len(self.tensors), name, shape, kind, data=data))
        return len(self.tensors) - 1

    def node(self, op: str, inputs: tuple[int, ...], name: str, shape: tuple[int, ...], **options: Any) -> int:
        y = self.tensor(name, shape)
        self.nodes.append(Node(len(self.nodes), op, inputs, (y,), Options(options)))
        return y

    def weights(self, name: str, shape: tuple[int, ...], channels: int, fan_in: int, gain: float) -> tuple[int, int]:
        """Normal weights of standard deviation gain / sqrt(fan_in) and a zero bias."""
        w = self.rng.normal(0, gain / np.sqrt(fan_in), shape).astype(np.float32)
        return self.tensor(f"{name}/weights", shape, w), self.tensor(f"{name}/bias", (channels,), np.zeros(channels, np.float32))

    def conv(self, name: str, x: int, out: int, size: int, act: str, gain: float = np.sqrt(2)) -> int:
        n, h, w, c = self.tensors[x].shape
        operands = self.weights(name, (out, size, size, c), out, size * size * c, gain)
        return self.node("CONV_2D", (x, *operands), name, (n, h, w, out), **_window("SAME", 1, act), **_DILATION)

    def depthwise(self, name: str, x: int, act: str) -> int:
        shape = self.tensors[x].shape
        operands = self.weights(name, (1, 3, 3, shape[3]), shape[3], 9, np.sqrt(2))
        options = _window("SAME", 1, act) | _DILATION | {"depth_multiplier": 1}
        return self.node("DEPTHWISE_CONV_2D", (x, *operands), name, shape, **options)

    def pool(self, op: str, name: str, x: int) -> int:
        n, h, w, c = self.tensors[x].shape
        options = _window("VALID", 2, "NONE") | {"filter_width": 2, "filter_height": 2}
        return self.node(op, (x,), name, (n, h // 2, w // 2, c), **options)

    def block(self, name: str, x: int) -> int:
        """x + pointwise(depthwise(x)); the branch starts small, so that training starts near the identity."""
        c = self.tensors[x].shape[3]
        branch = self.conv(f"{name}/pointwise", self.depthwise(f"{name}/depthwise", x, "RELU6"), c, 1, "NONE", gain=0.2)
        return self.node("ADD", (x, branch), f"{name}/add", self.tensors[x].shape, fused_activation_function="RELU", pot_scale_int16=True)

    def flatten(self, name: str, x: int) -> int:
        shape = (1, int(np.prod(self.tensors[x].shape)))
        wanted = self.tensor(f"{name}/shape", (2,), np.array(shape, np.int32))
        return self.node("RESHAPE", (x, wanted), name, shape, new_shape=shape)

    def dense(self, name: str, x: int, out: int) -> int:
        k = self.tensors[x].shape[1]
        operands = self.weights(name, (out, k), out, k, 1.0)
        return self.node(
            "FULLY_CONNECTED", (x, *operands), name, (1, out),
            fused_activation_function="NONE", weights_format="DEFAULT", keep_num_dims=False, asymmetric_quantize_inputs=False,
        )  # fmt: skip


def _window(padding: str, stride: int, act: str) -> dict[str, Any]:
    return {"padding": padding, "stride_w": stride, "stride_h": stride, "fused_activation_function": act}


_DILATION = {"dilation_w_factor": 1, "dilation_h_factor": 1}


def net(seed: int) -> Model:
    """A digit classifier with seeded random weights: image (1, 28, 28, 1), gray / 255, to 10 probabilities."""
    s = Sketch(seed)
    image = s.tensor("image", (1, 28, 28, 1))
    x = s.pool("MAX_POOL_2D", "stem/pool", s.conv("stem", image, WIDTHS[0], 3, "RELU6"))
    x = s.conv("wide/pointwise", s.depthwise("wide/depthwise", x, "RELU6"), WIDTHS[1], 1, "RELU")
    x = s.pool("MAX_POOL_2D", "wide/pool", s.block("wide/block", x))
    x = s.conv("deep/pointwise", s.depthwise("deep/depthwise", x, "RELU6"), WIDTHS[2], 1, "RELU")
    x = s.pool("AVERAGE_POOL_2D", "deep/pool", s.block("deep/block", x))
    logits = s.dense("logits", s.flatten("flat", x), CLASSES)
    y = s.node("SOFTMAX", (logits,), "probabilities", (1, CLASSES), beta=1.0)
    return Model((Graph(tuple(s.tensors), tuple(s.nodes), (image,), (y,), "main"),), description="digit classifier of the qsim demo")
