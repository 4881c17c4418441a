"""Small float nets for the quantizer's tests: a builder, and random nets that use every op it knows, in odd combinations."""

from __future__ import annotations

from typing import Any

import numpy as np

from qsim.graph import Graph, Model, Node, Options, Tensor

WINDOW = {"padding": "SAME", "stride_h": 1, "stride_w": 1}
DILATION = {"dilation_h_factor": 1, "dilation_w_factor": 1}
DENSE = {"keep_num_dims": False, "weights_format": "DEFAULT", "asymmetric_quantize_inputs": False}
ACTIVATIONS = ("NONE", "RELU", "RELU6", "RELU_N1_TO_1")


class Net:
    """A float graph in the making: every method adds one tensor and returns its index."""

    def __init__(self) -> None:
        self.tensors: list[Tensor] = []
        self.nodes: list[Node] = []
        self.inputs: list[int] = []

    def tensor(self, shape: tuple[int, ...], name: str = "", kind: str = "float32", data: Any = None) -> int:
        i = len(self.tensors)
        self.tensors.append(Tensor(i, name or f"x{i}", tuple(shape), kind, data=data))
        return i

    def input(self, *shape: int) -> int:
        self.inputs.append(self.tensor(shape, f"in{len(self.inputs)}"))
        return self.inputs[-1]

    def constant(self, values: Any, kind: str = "float32", name: str = "") -> int:
        data = np.asarray(values, kind)
        return self.tensor(data.shape, name or f"c{len(self.tensors)}", kind, data)

    def op(self, op: str, inputs: list[int], shape: tuple[int, ...], version: int = 1, kind: str = "float32", **options: Any) -> int:
        out = self.tensor(shape, kind=kind)
        self.nodes.append(Node(len(self.nodes), op, tuple(inputs), (out,), Options(options), version))
        return out

    def shape(self, t: int) -> tuple[int, ...]:
        return self.tensors[t].shape

    def conv(self, x: int, w: np.ndarray, bias: Any = None, act: str = "NONE") -> int:
        parts = [x, self.constant(w), *([] if bias is None else [self.constant(bias)])]
        return self.op("CONV_2D", parts, (*self.shape(x)[:3], len(w)), fused_activation_function=act, **WINDOW, **DILATION)

    def depthwise(self, x: int, w: np.ndarray, bias: Any, act: str = "NONE") -> int:
        more = {"fused_activation_function": act, "depth_multiplier": 1, **WINDOW, **DILATION}
        return self.op("DEPTHWISE_CONV_2D", [x, self.constant(w), self.constant(bias)], self.shape(x), **more)

    def dense(self, x: int, w: np.ndarray, bias: Any = None, act: str = "NONE") -> int:
        parts = [x, self.constant(w), -1 if bias is None else self.constant(bias)]
        return self.op("FULLY_CONNECTED", parts, (1, len(w)), fused_activation_function=act, **DENSE)

    def two(self, op: str, a: int, b: int, act: str = "NONE") -> int:
        shape = np.broadcast_shapes(self.shape(a), self.shape(b))
        return self.op(op, [a, b], shape, fused_activation_function=act, **({} if op == "MUL" else {"pot_scale_int16": False}))

    def pool(self, op: str, x: int, act: str = "NONE") -> int:
        n, h, w, c = self.shape(x)
        more = {"padding": "SAME", "stride_h": 2, "stride_w": 2, "filter_height": 2, "filter_width": 2, "fused_activation_function": act}
        return self.op(op, [x], (n, -(-h // 2), -(-w // 2), c), **more)

    def mean(self, x: int) -> int:
        return self.op("MEAN", [x, self.constant([1, 2], "int32")], (self.shape(x)[0], 1, 1, self.shape(x)[3]), keep_dims=True)

    def reshape(self, x: int, *shape: int) -> int:
        return self.op("RESHAPE", [x, self.constant(shape, "int32")], shape, new_shape=shape)

    def concat(self, xs: list[int], axis: int = -1) -> int:
        shape = list(self.shape(xs[0]))
        shape[axis] = sum(self.shape(x)[axis] for x in xs)
        return self.op("CONCATENATION", xs, tuple(shape), axis=axis % len(shape), fused_activation_function="NONE")

    def one(self, op: str, x: int, **options: Any) -> int:
        return self.op(op, [x], self.shape(x), **options)

    def model(self, *outputs: int) -> Model:
        names = {f"out{i}": t for i, t in enumerate(outputs)}
        sides = {"inputs": {self.tensors[t].name: t for t in self.inputs}, "outputs": names}
        signature = {"key": "serving_default", "graph": 0, **sides}
        return Model((Graph(tuple(self.tensors), tuple(self.nodes), tuple(self.inputs), tuple(outputs)),), (signature,))


KINDS = ("conv", "depthwise", "two", "constant", "pool", "one", "concat", "move", "mean", "float")


def random_net(rng: np.random.Generator, length: int = 8, float_ops: bool = True) -> Model:
    """A random graph of images (1, 4, 4, 4) and of what they become; some weights are degenerate.

    float_ops: whether it may have ops that stay float.
    """
    net = Net()
    alive = [net.input(1, 4, 4, 4)]
    if rng.random() < 0.3:
        alive.append(net.input(1, 4, 4, 4))
    for _ in range(length):
        alive.append(_step(net, rng, alive, float_ops))
    last = alive[-1]
    if rng.random() < 0.5:
        flat = net.reshape(last, 1, int(np.prod(net.shape(last))))
        last = net.one("SOFTMAX", net.dense(flat, _weights(rng, (5, net.shape(flat)[1])), _bias(rng, 5)), beta=1.0)
    extra = [int(rng.choice(alive[1:]))] if rng.random() < 0.3 else []
    return net.model(last, *(t for t in extra if t != last))


def _step(net: Net, rng: np.random.Generator, alive: list[int], float_ops: bool) -> int:
    x = int(rng.choice(alive[-4:]))
    n, h, w, c = net.shape(x)
    act = str(rng.choice(ACTIVATIONS))
    same = [t for t in alive if net.shape(t) == net.shape(x)]
    y = int(rng.choice(same))
    kind = rng.choice(KINDS)
    if kind == "conv":
        out, k = int(rng.choice([c, 6])), int(rng.choice([1, 3]))
        return net.conv(x, _weights(rng, (out, k, k, c)), _bias(rng, out), act)
    if kind == "depthwise":
        return net.depthwise(x, _weights(rng, (1, 3, 3, c)), _bias(rng, c), act)
    if kind == "two":
        op = str(rng.choice(["ADD", "SUB", "MUL", "SQUARED_DIFFERENCE"]))
        return net.op(op, [x, y], net.shape(x)) if op == "SQUARED_DIFFERENCE" else net.two(op, x, y, act)
    if kind == "constant":
        values = _weights(rng, (c,) if rng.random() < 0.7 else ())
        return net.two(str(rng.choice(["ADD", "SUB", "MUL"])), x, net.constant(values), act)
    if kind == "pool" and h > 1:
        return net.pool(str(rng.choice(["MAX_POOL_2D", "AVERAGE_POOL_2D"])), x, act)
    if kind == "one":
        op = str(rng.choice(["RELU", "RELU6", "LOGISTIC", "TANH", "SOFTMAX", "HARD_SWISH"]))
        return net.one(op, x, **({"beta": 1.0} if op == "SOFTMAX" else {}))
    if kind == "concat" and c < 12:
        return net.concat([x, y] if rng.random() < 0.8 else [x, net.constant(_weights(rng, (n, h, w, 2)))])
    if kind == "move":
        return _move(net, rng, x)
    if kind == "mean" or not float_ops:
        return net.mean(x)
    return net.one(str(rng.choice(["SIN", "COS", "NEG", "SQUARE"])), x)


def _move(net: Net, rng: np.random.Generator, x: int) -> int:
    n, h, w, c = net.shape(x)
    kind = rng.choice(["PAD", "TRANSPOSE", "STRIDED_SLICE", "RESIZE_BILINEAR", "RESHAPE"])
    if kind == "PAD":
        return net.op("PAD", [x, net.constant([[0, 0], [1, 0], [0, 1], [0, 0]], "int32")], (n, h + 1, w + 1, c))
    if kind == "TRANSPOSE":
        return net.op("TRANSPOSE", [x, net.constant([0, 2, 1, 3], "int32")], (n, w, h, c))
    if kind == "STRIDED_SLICE":
        ends = [net.constant(v, "int32") for v in ([0, 0, 0, 0], [n, h, max(w - 1, 1), c], [1, 1, 1, 1])]
        return net.op("STRIDED_SLICE", [x, *ends], (n, h, max(w - 1, 1), c), **dict.fromkeys(MASKS, 0))
    if kind == "RESIZE_BILINEAR":
        size = net.constant([3, 5], "int32")
        return net.op("RESIZE_BILINEAR", [x, size], (n, 3, 5, c), 3, align_corners=False, half_pixel_centers=True)
    return net.reshape(x, n, w, h, c)


MASKS = ("begin_mask", "end_mask", "ellipsis_mask", "new_axis_mask", "shrink_axis_mask")


def _weights(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Normal weights; at times dead or huge channels, zeros, or very small or large values throughout."""
    w = rng.normal(size=shape) * 10.0 ** rng.choice([-8, -3, -1, 0, 0, 0, 0, 1, 4])
    if shape and rng.random() < 0.3:
        w[rng.integers(len(w))] *= 10.0 ** rng.choice([-30, -9, -6, 3])
    if rng.random() < 0.05:
        w = np.zeros(shape)
    return w.astype(np.float32)


def _bias(rng: np.random.Generator, n: int) -> np.ndarray:
    return (rng.normal(size=n) * 10.0 ** rng.choice([-9, -2, 0, 0, 3])).astype(np.float32)


def random_range(rng: np.random.Generator) -> tuple[float, float]:
    """A range as a careless caller might give it: one-sided, symmetric, far from 0, zero wide, tiny or huge."""
    size = 10.0 ** rng.choice([-30, -12, -6, -2, 0, 0, 0, 1, 3, 9, 15])
    low, high = sorted(rng.normal(size=2) * size)
    shapes = [(low, high), (-abs(low), abs(high)), (0.0, abs(high)), (-abs(low), 0.0), (low, low), (0.0, 0.0)]
    return shapes[rng.choice(6, p=[0.3, 0.3, 0.2, 0.1, 0.05, 0.05])]
