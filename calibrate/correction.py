"""Bias correction: what quantization adds to the mean of each output channel of a linear op goes into its bias."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from qsim.errors import BadData, Unsupported
from qsim.function import Function
from qsim.graph import Graph, Model, Node, Tensor
from qsim.layout import known_values, record
from qsim.report import AS_IT_WAS
from qsim.snap import dequantize
from qsim.weights import BIAS_LIMIT, LESS_ROOM

from .feeding import feed

LINEAR = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
AT_ONCE = 64  # samples of which intermediates are held


class Corrected(NamedTuple):
    """One op: its node in the quantized graph, and by how much its bias moved, in steps of the bias: the mean |shift| and the largest."""

    node: int
    op: str
    mean: float
    largest: float


def correct_bias(
    source: Model,
    made: Model,
    batches: Any,
    *,
    flavour: str = "xnnpack",
    samples: int = 512,
    progress: Callable[[int], None] | None = None,
    functions: list[Function] | None = None,
) -> tuple[Model, tuple[Corrected, ...]]:
    """A quantized model with corrected biases, and what was changed: b' = b + mean(W x) - mean(W_q x_q), per output channel.

    x: the input of the op in the float model; x_q: the real values of its input codes in the quantized model as it is corrected so
    far, in exact integer mode; W_q: the real values of the stored weights. A linear op's mean over samples is the op of the mean input,
    so the means over at most `samples` samples are all that is kept. Ops go in order, one pass of the quantized model each. Only biases
    of CONV_2D, DEPTHWISE_CONV_2D and FULLY_CONNECTED with integer activations change, by a new value, where no other op reads them; their
    scales stay.

    source: the float model that `made` was quantized from. functions: what earlier calls compiled, which models of the same structure
    share; what is compiled here is added. *Raises*: BadData as `feeding.feed`; Unsupported where `made` has no report
    of a quantization of `source`. *Restates*: Nagel et al. 2019, section 4.2, and appendix D (empirical bias correction), measured
    before the activation.
    """
    pairs = [p for p in stored_pairs(source, made) if _has_bias(made.graph, p.made)]
    arrays = some_samples(source, batches, samples)
    shared = [] if functions is None else functions
    means = _means(
        _sharing(shared, source, "float", flavour, [p.float_input for p in pairs]), arrays, source.graph, [p.float_input for p in pairs]
    )
    function = _sharing(shared, made, "integer", flavour, list(dict.fromkeys(p.stored_input for p in pairs)))
    rows = []
    for pair, mean in zip(pairs, means, strict=True):
        function.params = function.lower(made)
        (stored,) = _means(function, arrays, made.graph, [pair.stored_input])
        made, row = _corrected(source, made, pair, mean, stored)
        rows.append(row)
        if progress:
            progress(1)
    return made, tuple(rows)


def _sharing(functions: list[Function], model: Model, mode: str, flavour: str, taps: list[int]) -> Function:
    """A function that uses what an earlier one of the same code has compiled."""
    found = Function(model, mode, flavour, taps)
    if not any(found.reuse(f) for f in functions if f.mode == mode):
        functions.append(found)
    return found


class Pair(NamedTuple):
    """A linear op in both graphs, and the tensors that it reads there."""

    source: Node
    made: Node
    float_input: int
    stored_input: int


def stored_pairs(source: Model, made: Model) -> Iterator[Pair]:
    """The quantized ops of the report and of the graph stand in the same order."""
    if made.report is None or len(made.report.ops) != len(source.graph.nodes):
        raise Unsupported("the model was not quantized from this source", where=made.path, hint="Give the model that `quantize` was given")
    chosen = [source.graph.nodes[row.index] for row in made.report.ops if row.stored != AS_IT_WAS and row.op in LINEAR]
    stored = [n for n in made.graph.nodes if n.op in LINEAR and _has_codes(made.graph, n)]
    integer = [n for n in chosen if not _stays_real(made, n)]
    if [n.op for n in integer] != [n.op for n in stored]:
        raise Unsupported("the quantized graph does not match its report", where=made.path)
    for a, b in zip(integer, stored, strict=True):
        p = record(a).rule.data_inputs(a)[0]
        yield Pair(a, b, a.inputs[p], b.inputs[p])


def _stays_real(made: Model, node: Node) -> bool:
    return made.report.ops[node.index].stored.startswith("float32")


def _has_bias(graph: Graph, node: Node) -> bool:
    """Whether it has a bias that no other op reads."""
    p = record(node).rule.bias
    return p is not None and p < len(node.inputs) and node.inputs[p] >= 0 and len(graph.consumers[node.inputs[p]]) == 1


def _has_codes(graph: Graph, node: Node) -> bool:
    return all(graph.tensors[t].qparams is not None for t in (node.inputs[0], node.outputs[0]))


def some_samples(model: Model, batches: Any, count: int) -> tuple[np.ndarray, ...]:
    """The first samples of the data, one array per model input. *Raises*: BadData for NaN or infinity, or a count below 1."""
    if count < 1:
        raise BadData("at least one sample is needed", found=count)
    parts: list[Sequence[np.ndarray]] = []
    for batch in feed(model, batches):
        parts.append(batch.arrays)
        if sum(len(p[0]) for p in parts) >= count:
            break
    arrays = tuple(np.concatenate(column)[:count] for column in zip(*parts, strict=True))
    require_finite(arrays)
    return arrays


def require_finite(arrays: Sequence[np.ndarray]) -> None:
    """*Raises*: BadData."""
    if not all(np.isfinite(x).all() for x in arrays if x.dtype.kind == "f"):
        raise BadData("the data hold NaN or infinity", hint="Leave such samples out")


def _means(function: Function, arrays: tuple[np.ndarray, ...], graph: Graph, tensors: Sequence[int]) -> list[np.ndarray]:
    """The mean over samples of the real values of some tensors, float64, in the shapes of the graph."""
    totals = [np.zeros(graph.tensors[t].shape) for t in tensors]
    for start in range(0, len(arrays[0]), AT_ONCE):
        _, taps = function.batch(*(x[start : start + AT_ONCE] for x in arrays))
        for total, t in zip(totals, tensors, strict=True):
            total += _reals(taps[t], graph.tensors[t]).sum(0, dtype=np.float64)
    return [total / len(arrays[0]) for total in totals]


def _reals(x: np.ndarray, t: Tensor) -> np.ndarray:
    return x if t.qparams is None or x.dtype.kind == "f" else dequantize(x, t.qparams)


def _corrected(source: Model, made: Model, pair: Pair, mean: np.ndarray, stored: np.ndarray) -> tuple[Model, Corrected]:
    """The model with one bias changed."""
    rule = record(pair.source).rule
    w, b = made.graph.tensors[pair.made.inputs[rule.weights or 0]], made.graph.tensors[pair.made.inputs[rule.bias or 0]]
    values = known_values(source.graph)
    bias = values.get(pair.source.inputs[rule.bias or 0], 0.0) if len(pair.source.inputs) > (rule.bias or 0) else 0.0
    assert w.data is not None and w.qparams is not None and b.data is not None and b.qparams is not None  # as the quantizer wrote them
    wanted = _channels(pair.source, mean, values[pair.source.inputs[rule.weights or 0]])
    got = _channels(pair.source, stored, dequantize(w.data, w.qparams))
    scale = np.asarray(b.qparams.scale, np.float64)
    limit = BIAS_LIMIT * LESS_ROOM.get((b.type, w.type), 1)
    codes = np.clip(np.rint((np.asarray(bias, np.float64) + wanted - got) / scale), -limit, limit).astype(b.data.dtype)
    moved = np.abs(codes.astype(np.float64) - b.data)
    new = b.but(data=codes, buffer=0)
    graph = made.graph.but(tensors=tuple(new if t.index == b.index else t for t in made.graph.tensors))
    return made.but(graphs=(graph, *made.graphs[1:])), Corrected(pair.made.index, pair.made.op, float(moved.mean()), float(moved.max()))


def _channels(node: Node, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """The mean of each output channel of a linear op without bias and activation, for a mean input."""
    options = node.options.but(fused_activation_function="NONE")
    y = np.asarray(record(node).real(options, x.astype(np.float32), w.astype(np.float32)), np.float64)
    return y.reshape(-1, y.shape[-1]).mean(0)
