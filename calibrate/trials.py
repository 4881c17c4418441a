"""Quantized models on samples, in exact integer mode, judged against the real function that they stand for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from qsim.errors import Unsupported
from qsim.function import Function
from qsim.graph import Graph, Model, QParams, Tensor
from qsim.ops.convert import quantize_array
from qsim.relayout import CONVERSIONS, record

from . import evaluation
from .choosing import loss_of

SEED = 20_261_123  # of the weights' rounding; part of the numerics


class Bench:
    """Runs models on samples and measures each sample's loss to the observed function; models of one static plan share a compile.

    measure: "kl" (nats) or "sqnr" (noise relative to the signal), as `choosing.loss_of`, judged behind conversions of type.
    """

    def __init__(self, observed: Model, task: str | None):
        roots = tuple(_unconverted(observed.graph, t) for t in observed.graph.outputs)
        self.measure, self._loss = loss_of(observed.graph.but(outputs=roots), task)
        self.observed = Function(observed, "float", "xnnpack")
        self.functions: list[Function] = []

    def reference(self, arrays: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
        """The observed function's outputs."""
        return self.observed.batch(*arrays)  # type: ignore[no-any-return]

    def losses(self, reference: Sequence[np.ndarray], outputs: Sequence[np.ndarray]) -> np.ndarray:
        """(N,) losses; outputs: reals of the same shapes. *Raises*: Unsupported where the shapes differ."""
        if [y.shape for y in reference] != [y.shape for y in outputs]:
            raise Unsupported("the original has other outputs than the file", found=[y.shape[1:] for y in reference])
        return self._loss(reference, outputs)

    def rounded(self, arrays: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
        """The observed function's outputs with every weight moved by as much as its rounding may have moved it.

        w + s_w u, u uniform in [-1/2, 1/2]: one draw of a fixed seed. The distance to `reference` tells how well a quantized file's
        weights know the function.
        """
        rng, params = np.random.default_rng(SEED), dict(self.observed.params)
        moved = {
            t: _moved(rng, np.asarray(params["constants"][t]), q) for t, q in _weights(self.observed.graph) if t in params["constants"]
        }
        params["constants"] = {**params["constants"], **moved}
        return self.observed.run_samples(params, *arrays)  # type: ignore[no-any-return]

    def outputs(self, model: Model, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """A quantized model's outputs for real inputs, dequantized, in integer mode (flavour xnnpack)."""
        graph = model.graph
        inputs = [_stored(x, graph.tensors[t]) for x, t in zip(arrays, graph.inputs, strict=True)]
        return [_real(y, graph.tensors[t]) for y, t in zip(self._run(model, inputs), graph.outputs, strict=True)]

    def _run(self, model: Model, inputs: Sequence[np.ndarray]) -> Any:
        for function in self.functions:
            if len(function.graph.nodes) == len(model.graph.nodes):
                try:
                    return function.run_samples(function.lower(model), *inputs)
                except Unsupported:
                    continue
        self.functions.append(Function(model, "integer", "xnnpack"))
        return self.functions[-1].run_samples(self.functions[-1].params, *inputs)


def scores(y: np.ndarray, labels: np.ndarray) -> np.ndarray | None:
    """(N,) of outputs against labels, higher is better: 1 where the class is right, or -|error| for one real output; None otherwise."""
    flat = y.reshape(len(y), -1)
    if labels.dtype.kind in "iu" and flat.shape[1] > 1:
        return evaluation.right(flat, labels.reshape(-1)).astype(np.float64)
    return -np.abs(flat[:, 0] - labels.reshape(-1)) if flat.shape[1] == 1 else None


def _weights(graph: Graph) -> list[tuple[int, QParams]]:
    found = {}
    for node in graph.nodes:
        op = record(node)
        if op is not None and op.rule.weights is not None and op.rule.weights < len(node.inputs):
            t = graph.tensors[node.inputs[op.rule.weights]]
            if t.qparams is not None and t.data is not None:
                found[t.index] = t.qparams
    return list(found.items())


def _moved(rng: np.random.Generator, w: np.ndarray, q: QParams) -> np.ndarray:
    shape = [1] * w.ndim
    shape[q.axis] = np.size(q.scale) if q.per_channel else 1
    return (w + rng.uniform(-0.5, 0.5, w.shape) * np.ravel(q.scale).reshape(shape)).astype(np.float32)


def _unconverted(graph: Graph, t: int) -> int:
    """The tensor behind the conversions of type that make an output."""
    while t in graph.producer and graph.nodes[graph.producer[t]].op in CONVERSIONS:
        t = graph.nodes[graph.producer[t]].inputs[0]
    return t


def _stored(x: np.ndarray, t: Tensor) -> np.ndarray:
    return quantize_array(x, t.qparams, t.type, "xnnpack") if t.qparams is not None and t.type != "float32" else x


def _real(y: np.ndarray, t: Tensor) -> np.ndarray:
    return evaluation.reals(y, t.qparams).reshape(y.shape)
