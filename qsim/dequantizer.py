"""A quantized model -> the float32 model that it stands for: the real function of float mode, as a file of its own."""

from __future__ import annotations

import numpy as np

from .assembly import compact, moved_signature
from .graph import Graph, Model, Node, Options, Tensor
from .inference import stores_codes
from .program import stored_constant
from .quantizer import quantize
from .recipe import Schemes

FLOAT = "float32"
HELD = ("QUANTIZE", "DEQUANTIZE", "DENSIFY")  # ops that give the real values of their input


def dequantize(model: Model) -> Model:
    """The float32 model of a quantized one (int8, uint8, int16x8, dynamic range, weight-only, float16): its float mode is the same.

    Constants become their real values f32(f32(q - z) s), activations float32; QUANTIZE and DEQUANTIZE go away (a RESHAPE stands in where
    they join an input of the model to an output, or two outputs); activations that only ranges carried become fused ones. Inputs and
    outputs that had codes are float32; names and signatures stay. All graphs of the model are converted.
    """
    found = [_converted(g) for g in model.graphs]
    signatures = tuple(moved_signature(s, found[s.get("graph", 0)][1]) for s in model.signatures)
    return model.but(graphs=tuple(g for g, _ in found), signatures=signatures, report=None)


def converted(model: Model, scheme: Schemes, *, io: str | tuple[str, str] = "float32", target: str = "litert") -> Model:
    """A quantized model under another scheme, with the ranges that it has: int8 to uint8, to int16x8, to weights alone, and so on.

    No better than the file: weights are those that it stores, and what its ranges clip stays clipped. *Raises*: as `quantize`.
    """
    return quantize(dequantize(model), own_ranges(model), scheme, io=io, target=target)


def own_ranges(model: Model) -> dict[str, tuple[float, float]]:
    """{tensor key of `dequantize(model)`: (low, high)}: the real values that the codes of each activation cover; where several tensors
    of codes became one float tensor, those of the first."""
    work, (made, new) = _work(model.graph), _converted(model.graph)
    found: dict[str, tuple[float, float]] = {}
    for t in model.graph.tensors:
        if stores_codes(t) and t.qparams is not None and not t.is_constant and work.root(t.index) in new:
            low, high = t.qparams.real_range()
            found.setdefault(made.key(new[work.root(t.index)]), (float(low[0]), float(high[0])))
    return found


def _converted(graph: Graph) -> tuple[Graph, dict[int, int]]:
    """(the float graph, old tensor index -> new one)."""
    work = _work(graph)
    made = graph.but(tensors=tuple(work.tensors), nodes=tuple(work.finished()))
    return compact(made, graph)


def _work(graph: Graph) -> _Conversion:
    work = _Conversion(graph)
    for node in graph.nodes:
        work.take(node)
    return work


class _Conversion:
    """The tensors and nodes of one graph on their way to float32. `same`: tensor -> the one that holds its values instead."""

    def __init__(self, graph: Graph):
        self.graph = graph
        self.tensors = [_real(t) for t in graph.tensors]
        self.nodes: list[Node] = []
        self.same: dict[int, int] = {}

    def take(self, node: Node) -> None:
        if not self._holds(node):
            self.nodes.append(node)
            return
        source, target = self.root(node.inputs[0]), node.outputs[0]
        ends = (*self.graph.inputs, *self.graph.outputs)
        if self.tensors[source].data is not None:
            value = self.tensors[source].data.astype(np.float32)  # type: ignore[union-attr]
            self.tensors[target] = self.tensors[target].but(data=_fixed(value), type=FLOAT, qparams=None)
        elif target not in self.graph.outputs:
            self.same[target] = source
        elif source not in ends and not self.tensors[source].is_variable:
            self.same[source] = target
        else:
            self.nodes.append(self._copy(node, source, target))

    def _holds(self, node: Node) -> bool:
        """Whether a node only gives the real values of its input, which are float32 now, or a constant."""
        if node.op not in HELD:
            return False
        source, target = self.tensors[self.root(node.inputs[0])], self.tensors[node.outputs[0]]
        return target.type == FLOAT and (source.data is not None or (source.type == FLOAT and node.op != "DENSIFY"))

    def root(self, t: int) -> int:
        while t in self.same:
            t = self.same[t]
        return t

    def _copy(self, node: Node, source: int, target: int) -> Node:
        shape, at, name = self.tensors[target].shape, len(self.tensors), f"{self.tensors[target].name}_shape"
        self.tensors.append(Tensor(at, name, (len(shape),), "int32", data=_fixed(np.array(shape, np.int32))))
        return Node(node.index, "RESHAPE", (source, at), (target,), Options(new_shape=shape))

    def finished(self) -> list[Node]:
        """The nodes that are left, on the tensors that hold their values."""
        return [self._finished(n, i) for i, n in enumerate(self.nodes)]

    def _finished(self, node: Node, index: int) -> Node:
        inputs = tuple(t if t < 0 else self.root(t) for t in node.inputs)
        outputs = tuple(map(self.root, node.outputs))
        bare = any(stores_codes(self.graph.tensors[t]) for t in node.intermediates)
        between = () if bare else node.intermediates
        return node.but(
            index=index, inputs=inputs, outputs=outputs, intermediates=between, options=node.real_options, inferred_activation=None
        )


def _real(t: Tensor) -> Tensor:
    """A tensor of codes as float32."""
    if not stores_codes(t):
        return t
    data = None if t.data is None else _fixed(np.asarray(stored_constant(t, t.data, "float"), np.float32))
    return t.but(type=FLOAT, qparams=None, blocks=None, data=data)


def _fixed(values: np.ndarray) -> np.ndarray:
    values = np.ascontiguousarray(values).reshape(values.shape)
    values.setflags(write=False)
    return values
