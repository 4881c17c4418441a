"""How far each op's output in a quantized model is from the float model's."""

from __future__ import annotations

import math

import numpy as np

from qsim.function import Function
from qsim.graph import Graph, Model
from qsim.snap import dequantize

from .candidates import Candidate
from .scoring import Lab, read_samples
from .summaryform import Layer

COMPARED_ON = 32  # select samples
AT_ONCE = 8  # samples whose intermediates are held


def layer_errors(lab: Lab, c: Candidate, made: Model, whole: Function | None = None) -> list[Layer]:
    """The outputs of ops that both graphs have by name, in the float graph's order: 10 log10(sum r^2 / sum (r - q)^2), dB, over the first
    `COMPARED_ON` select samples. r: the float model's values; q: the quantized model's, in exact integer mode (simulated schemes: fake).

    whole: the float model's function with all taps, which several schemes share.
    """
    pairs = shared(lab.model.graph, made.graph)
    other = Function(made, "fake" if c.parsed.is_simulated else "integer", "xnnpack", [b for _, _, b in pairs])
    functions = whole or float_function(lab), other
    power, noise = np.zeros(len(pairs)), np.zeros(len(pairs))
    count = min(COMPARED_ON, len(lab.splits["select"]))
    for start in range(0, count, AT_ONCE):
        arrays = read_samples(lab.splits["select"], start, min(start + AT_ONCE, count))
        (_, ours), (_, theirs) = (f.run_samples(f.params, *arrays) for f in functions)
        for k, (_, a, b) in enumerate(pairs):
            r, q = np.asarray(ours[a], np.float64), reals(theirs[b], made.graph, b)
            power[k] += (r**2).sum()
            noise[k] += ((r - q) ** 2).sum()
    return [
        Layer(op, lab.model.graph.key(a), 10 * math.log10(p / n) if n > 0 and p > 0 else None)
        for (op, a, _), p, n in zip(pairs, power, noise, strict=True)
    ]


def float_function(lab: Lab) -> Function:
    return Function(lab.model, "float", "xnnpack", "all")


def shared(a: Graph, b: Graph) -> list[tuple[str, int, int]]:
    """(op, tensor in a, tensor in b) of the real outputs of ops whose name is unique in both graphs and that an op computes in both."""
    made = {b.key(t): t for n in b.nodes for t in n.outputs if b.key(t) == b.tensors[t].name}
    pairs = [(n.op, t, made[a.key(t)]) for n in a.nodes for t in n.outputs if a.key(t) in made and a.tensors[t].type == "float32"]
    return [(op, s, t) for op, s, t in pairs if b.tensors[t].qparams is not None or b.tensors[t].type == "float32"]


def reals(x: np.ndarray, graph: Graph, t: int) -> np.ndarray:
    qparams = graph.tensors[t].qparams
    return np.asarray(x if qparams is None or x.dtype.kind == "f" else dequantize(x, qparams), np.float64)
