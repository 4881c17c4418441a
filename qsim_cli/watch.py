"""What looks wrong in a run and should be told: inputs outside what the model takes, outputs that do not move or saturate."""

from __future__ import annotations

import numpy as np

from qsim.graph import Graph, Model, Tensor

NATURAL_ENDS = ("SOFTMAX", "LOGISTIC", "TANH", "RELU6", "HARD_SWISH")  # ops whose outputs rightly sit at the ends of their codes


class Watch:
    """Counts, part by part, what a person should be told: inputs outside the domain, outputs that do not move or sit at an end."""

    def __init__(self, model: Model, mode: str, domain: tuple[float, float] | None = None):
        self.graph, self.mode, self.domain = model.graph, mode, domain
        self.outside = [0] * len(self.graph.inputs)
        self.seen = [0] * len(self.graph.inputs)
        self.first: list[np.ndarray | None] = [None] * len(self.graph.outputs)
        self.moves = [False] * len(self.graph.outputs)
        self.at_end = [0] * len(self.graph.outputs)
        self.elements = [0] * len(self.graph.outputs)
        self.samples = 0

    def take(self, inputs: tuple[np.ndarray, ...], outputs: tuple[np.ndarray, ...]) -> None:
        self.samples += len(inputs[0])
        for i, (x, t) in enumerate(zip(inputs, self.graph.inputs, strict=True)):
            self._input(i, x, self._domain(t))
        for i, (y, t) in enumerate(zip(outputs, self.graph.outputs, strict=True)):
            self._output(i, y, self.graph.tensors[t])

    def _domain(self, t: int) -> tuple[float, float] | None:
        """The declared domain, else what the input's codes cover; the real function (float mode) clips nothing."""
        return self.domain or (None if self.mode == "float" else input_domain(self.graph, self.graph.tensors[t]))

    def _input(self, i: int, x: np.ndarray, domain: tuple[float, float] | None) -> None:
        if domain is not None and x.dtype == np.float32:
            slack = (domain[1] - domain[0]) / 256
            self.outside[i] += int(((x < domain[0] - slack) | (x > domain[1] + slack)).sum())
            self.seen[i] += x.size

    def _output(self, i: int, y: np.ndarray, t: Tensor) -> None:
        if self.first[i] is None:
            self.first[i] = y[:1].copy()
        self.moves[i] = self.moves[i] or bool((y != self.first[i]).any())
        ends = output_ends(self.graph, t, coded=y.dtype.kind in "iu")
        if ends:
            self.at_end[i] += int(np.isin(y, ends).sum())
            self.elements[i] += y.size

    def warnings(self) -> list[str]:
        """What to tell, one sentence each."""
        told = []
        for i, t in enumerate(self.graph.inputs):
            if self.outside[i]:
                low, high = self._domain(t) or (0, 0)
                share, takes = _percent(self.outside[i], self.seen[i]), f"{low:.4g} .. {high:.4g}, which is what the model takes"
                told.append(f"{share} of input {self.graph.key(t)!r} lies outside {takes}; is --input-scale or --input-offset missing?")
        for i, t in enumerate(self.graph.outputs):
            key = self.graph.key(t)
            if self.samples > 1 and not self.moves[i] and self.first[i] is not None:
                told.append(f"output {key!r} is the same for all {self.samples} samples")
            elif self.elements[i] and self.at_end[i] > self.elements[i] // 2:
                told.append(f"{_percent(self.at_end[i], self.elements[i])} of output {key!r} sits at an end of its codes")
        return told


def output_ends(graph: Graph, t: Tensor, coded: bool) -> list[float]:
    """Values (codes, or float32 reals) at which an output saturates; none where sitting there is natural, or it has no codes.

    An output that DEQUANTIZE makes is judged by the codes it is made from; a low end that stands for 0 is natural.
    """
    node = graph.producer.get(t.index)
    if node is not None and graph.nodes[node].op == "DEQUANTIZE":
        t = graph.tensors[graph.nodes[node].inputs[0]]
        node = graph.producer.get(t.index)
    q = t.qparams
    if q is None or (node is not None and graph.nodes[node].op in NATURAL_ENDS):
        return []
    zero, scale = int(np.ravel(q.zero_point)[0]), np.float32(np.ravel(q.scale)[0])
    codes = [int(q.high)] if zero == int(q.low) else [int(q.low), int(q.high)]
    return [float(c) if coded else float(np.float32(c - zero) * scale) for c in codes]


def input_domain(graph: Graph, t: Tensor) -> tuple[float, float] | None:
    """The reals that an input covers: its own parameters, or those of the QUANTIZE that alone reads it; None for a float input."""
    uses = graph.consumers.get(t.index, ())
    if t.qparams is None and len(uses) == 1 and graph.nodes[uses[0][0]].op == "QUANTIZE":
        t = graph.tensors[graph.nodes[uses[0][0]].outputs[0]]
    if t.qparams is None:
        return None
    low, high = t.qparams.real_range()
    return float(low.min()), float(high.max())


def _percent(part: int, whole: int) -> str:
    share = 100 * part / whole
    return "less than 0.1 %" if share < 0.1 else f"{share:.1f} %"
