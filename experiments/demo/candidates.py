"""From one pass over the calibration digits to many quantized nets, and their answers in exact integer and in simulated 4-bit form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

import calibrate
import qsim
from qsim.errors import Unsupported
from qsim.function import Function
from qsim.graph import Graph, Model, QParams
from qsim.scheme import affine

from .strategies import Strategy

IMAGE_RANGE = (0.0, 1.0)  # gray / 255: known, not estimated


def candidates(model: Model, x: np.ndarray, strategies: Mapping[str, Strategy], io: str = "float32") -> dict[str, Model]:
    """One quantized model per strategy, all from a single pass over x. io: type of the models' inputs and outputs."""
    seen = calibrate.observe(model, [x], sequence=True)
    found = {}
    for name, strategy in strategies.items():
        ranges = calibrate.ranges(model, seen, strategy, scheme=qsim.INT8, input_range=IMAGE_RANGE)
        found[name] = qsim.quantize(model, ranges, qsim.INT8, io=io)
    return found


class Compiled:
    """Functions of the candidates seen so far: candidates that differ in numbers only share a compile."""

    def __init__(self, mode: str):
        self.mode, self.functions = mode, list[Function]()

    def params(self, model: Model) -> tuple[Function, Any]:
        for run in self.functions:
            try:
                return run, run.lower(model)
            except Unsupported:  # another choice of code, such as a shift to the left: that one gets a compile of its own
                continue
        self.functions.append(model.function(self.mode))
        return self.functions[-1], self.functions[-1].params

    def answers(self, model: Model, x: np.ndarray, bits: int = 8) -> np.ndarray:
        """Probabilities (n, 10). bits: below 8, the width of activations between the first and the last op (fake mode only)."""
        run, params = self.params(model)
        if bits < 8:
            params = {**params, "qparams": {t: narrowed(model.graph, t, bits) or q for t, q in params["qparams"].items()}}
        return run.run_samples(params, x[:, None])[0].reshape(len(x), -1)


def narrowed(graph: Graph, tensor: int, bits: int) -> QParams | None:
    """Parameters with 2^bits codes over the same real range where the tensor is an inner activation, else None."""
    producer = graph.producer.get(tensor)
    if producer is None or graph.nodes[producer].op in ("QUANTIZE", "SOFTMAX", "DEQUANTIZE"):
        return None
    (low,), (high,) = graph.tensors[tensor].qparams.real_range()
    scale, zero = affine(low, high, f"int{bits}")
    return QParams(np.array([scale]), np.array([zero], np.int32), np.int32(-(2 ** (bits - 1))), np.int32(2 ** (bits - 1) - 1))
