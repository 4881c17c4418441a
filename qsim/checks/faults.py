"""Faults: what no runtime gives a meaning. STRUCTURE first; MEANING may rely on it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np

from ..graph import Graph, Model, Node, Tensor
from ..options import options_table
from ..types import TYPES


def place(model: Model, graph: int, node: Node) -> str:
    """ "op 12 CONV_2D ('model/conv')", with the subgraph in front where it is not the primary one."""
    tensors = model.graphs[graph].tensors
    name = tensors[node.outputs[0]].name if node.outputs and 0 <= node.outputs[0] < len(tensors) else ""
    return f"{_prefix(graph)}op {node.index} {shown(node.op)} ({shown(name)!r})"


def tensor_place(graph: int, tensor: Tensor) -> str:
    return f"{_prefix(graph)}tensor {tensor.index} ({shown(tensor.name)!r})"


def shown(name: str) -> str:
    """A name from a file as messages show it: not too long, and without control characters."""
    name = name if len(name) <= 120 else name[:100] + "..." + name[-17:]
    return name if name.isprintable() else "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in name)


def _prefix(graph: int) -> str:
    return f"subgraph {graph} " if graph else ""


def nodes_of(model: Model) -> Iterator[tuple[int, Graph, Node, str]]:
    for g, graph in enumerate(model.graphs):
        for node in graph.nodes:
            yield g, graph, node, place(model, g, node)


def tensors_of(model: Model) -> Iterator[tuple[Tensor, str]]:
    for g, graph in enumerate(model.graphs):
        for tensor in graph.tensors:
            yield tensor, tensor_place(g, tensor)


def numbered_in_order(model: Model) -> Iterator[str]:
    for g, graph in enumerate(model.graphs):
        for kind, numbers in (("tensor", [t.index for t in graph.tensors]), ("op", [n.index for n in graph.nodes])):
            wrong = [i for i, number in enumerate(numbers) if number != i]
            if wrong:
                yield f"{_prefix(g)}{kind} at position {wrong[0]} has the index {numbers[wrong[0]]}"


def indices_exist(model: Model) -> Iterator[str]:
    for _, graph, node, where in nodes_of(model):
        for what, low, indices in (("input", -1, node.inputs), ("output", 0, node.outputs), ("intermediate", -1, node.intermediates)):
            wrong = [i for i in indices if not low <= i < len(graph.tensors)]
            if wrong:
                yield f"{where}: {what} names tensor {wrong[0]}, the graph has {len(graph.tensors)}"
    for g, graph in enumerate(model.graphs):
        for what, indices in (("input", graph.inputs), ("output", graph.outputs)):
            wrong = [i for i in indices if not 0 <= i < len(graph.tensors)]
            if wrong:
                yield f"{_prefix(g)}graph {what} names tensor {wrong[0]}, the graph has {len(graph.tensors)}"


def types_known(model: Model) -> Iterator[str]:
    return (f"{where}: unknown element type {t.type!r}" for t, where in tensors_of(model) if t.type not in TYPES)


STRUCTURE = (numbered_in_order, indices_exist, types_known)


def computed_once(model: Model) -> Iterator[str]:
    for g, graph in enumerate(model.graphs):
        taken = {t: "a graph input" for t in graph.inputs}
        taken |= {t.index: "a constant" for t in graph.tensors if t.is_constant}
        taken |= {t.index: "a variable" for t in graph.tensors if t.is_variable}
        for node in graph.nodes:
            for t in node.outputs:
                if t in taken:
                    yield f"{place(model, g, node)}: writes {tensor_place(g, graph.tensors[t])}, which is {taken[t]}"
                taken[t] = f"already written by op {node.index}"


def computed_before_use(model: Model) -> Iterator[str]:
    for g, graph in enumerate(model.graphs):
        known = set(graph.inputs) | {-1} | {t.index for t in graph.tensors if _has_value(t)}
        for node in graph.nodes:
            for t in node.inputs:
                if t not in known:
                    yield f"{place(model, g, node)}: reads {tensor_place(g, graph.tensors[t])} before it is computed"
            known |= set(node.outputs)
        for t in graph.outputs:
            if t not in known:
                yield f"{_prefix(g)}graph output {tensor_place(g, graph.tensors[t])} is never computed"


def variables_empty(model: Model) -> Iterator[str]:
    return (f"{where}: a variable that is also a constant" for t, where in tensors_of(model) if t.is_variable and t.is_constant)


def _has_value(tensor: Tensor) -> bool:
    sparse = tensor.raw is not None and "sparsity" in tensor.raw
    return tensor.is_constant or tensor.is_variable or sparse or 0 in tensor.shape


def constants_fit(model: Model) -> Iterator[str]:
    for t, where in tensors_of(model):
        kind = TYPES[t.type]
        if t.data is None or kind.dtype is None:
            continue
        if tuple(t.data.shape) != t.shape or t.data.dtype != np.dtype(kind.dtype):
            yield f"{where}: constant is {t.data.dtype} {tuple(t.data.shape)}, the tensor {kind.dtype} {t.shape}"
        elif kind.low is not None and kind.bits < 8 and t.data.size and (t.data.min() < kind.low or t.data.max() > (kind.high or 0)):
            yield f"{where}: constant does not fit {t.type}: {t.data.min()}..{t.data.max()}"


def shapes_legal(model: Model) -> Iterator[str]:
    for t, where in tensors_of(model):
        if any(d < 0 for d in t.shape):
            yield f"{where}: negative dimension in {t.shape}"


def parameters_legal(model: Model) -> Iterator[str]:
    """Scales are finite and positive; zero points are codes; as many of each as channels."""
    for t, where in tensors_of(model):
        if t.qparams is None:
            continue
        scale, zero = np.asarray(t.qparams.scale), np.asarray(t.qparams.zero_point)
        bad = scale[~(np.isfinite(scale) & (scale > 0))]
        if bad.size:
            yield f"{where}: scale {bad[0]} is not a positive number"
        kind = TYPES[t.type]
        if kind.low is None or kind.high is None:
            yield f"{where}: quantization parameters on {t.type}"
        elif np.any(zero < kind.low) or np.any(zero > kind.high):
            yield f"{where}: a zero point ({zero.min()}..{zero.max()}) is outside {t.type}"
        yield from _channels_match(t, where, scale.size, zero.size)


def _channels_match(t: Tensor, where: str, scales: int, zeros: int) -> Iterator[str]:
    axis = t.qparams.axis if t.qparams else 0
    if scales != zeros:
        yield f"{where}: {scales} scales and {zeros} zero points"
    elif t.shape and not 0 <= axis < len(t.shape):
        yield f"{where}: quantized along dimension {axis} of {t.shape}"
    elif scales != 1 and t.shape and t.shape[axis] != scales:
        yield f"{where}: {scales} scales for {t.shape[axis]} channels along dimension {axis}"


# How many inputs an op cannot do without; LiteRT refuses to prepare it otherwise. Ops not named here are not judged.
_NEEDS = {
    **dict.fromkeys("LOGISTIC TANH RELU RELU6 RELU_N1_TO_1 SOFTMAX LOG_SOFTMAX QUANTIZE DEQUANTIZE CAST SHAPE".split(), 1),
    **dict.fromkeys("AVERAGE_POOL_2D MAX_POOL_2D L2_POOL_2D L2_NORMALIZATION RESHAPE SQUEEZE CONCATENATION PACK UNPACK".split(), 1),
    **dict.fromkeys("CONV_2D DEPTHWISE_CONV_2D FULLY_CONNECTED ADD SUB MUL DIV MAXIMUM MINIMUM PRELU BATCH_MATMUL".split(), 2),
    **dict.fromkeys("MEAN SUM PAD TRANSPOSE EXPAND_DIMS GATHER SPLIT RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR MIRROR_PAD".split(), 2),
    **dict.fromkeys("REDUCE_MAX REDUCE_MIN REDUCE_PROD TILE ARG_MAX ARG_MIN SQUARED_DIFFERENCE POW BROADCAST_TO".split(), 2),
    **dict.fromkeys("SLICE PADV2 SELECT SELECT_V2 SPLIT_V TRANSPOSE_CONV CONV_3D".split(), 3),
    "STRIDED_SLICE": 4,
}


def operands_present(model: Model) -> Iterator[str]:
    """Ops have the inputs they cannot do without, and an output."""
    for _, _, node, where in nodes_of(model):
        needed = _NEEDS.get(node.op, 0)
        if len(node.inputs) < needed or -1 in node.inputs[:needed]:
            yield f"{where}: has inputs {node.inputs[:4]}, needs {needed}"
        if needed and not node.outputs:
            yield f"{where}: has no output"


_POSITIVE = frozenset(
    ("stride_w", "stride_h", "stride_d", "dilation_w_factor", "dilation_h_factor", "dilation_d_factor")
    + ("filter_width", "filter_height", "block_size", "num_splits")
)
_AXES = {"CONCATENATION": "output", "SOFTMAX": None, "GATHER": "input", "PACK": "output", "UNPACK": "input", "SPLIT": None}


def options_legal(model: Model) -> Iterator[str]:
    """Strides, dilations, filter and block sizes are positive; axes lie inside the shapes they speak of; beta is a number."""
    for _, graph, node, where in nodes_of(model):
        for name, default in _positive_options(node.op):
            if node.options.get(name, default) <= 0:
                yield f"{where}: {name} is {node.options.get(name, default)}, must be positive"
        if "beta" in node.options and not np.isfinite(node.options["beta"]):
            yield f"{where}: beta is {node.options['beta']}"
        yield from _axis_legal(graph, node, where)


@cache
def _positive_options(op: str) -> tuple[tuple[str, int], ...]:
    """(name, default) of the op's options that must be positive; the default counts where a node leaves one out."""
    table = options_table(op)
    return tuple((f.name, f.default) for f in table.fields if f.name in _POSITIVE) if table else ()


def _axis_legal(graph: Graph, node: Node, where: str) -> Iterator[str]:
    side = _AXES.get(node.op)
    if side is None or "axis" not in node.options:
        return
    indices = node.outputs if side == "output" else node.inputs
    rank = len(graph.tensors[indices[0]].shape) if indices and indices[0] >= 0 else 0
    if rank and not -rank <= node.options["axis"] < rank:
        yield f"{where}: axis {node.options['axis']} is outside rank {rank}"


def calls_end(model: Model) -> Iterator[str]:
    """Called subgraphs exist, and none calls itself, directly or through others."""
    calls: dict[int, set[int]] = {g: set() for g in range(len(model.graphs))}
    for g, _, node, where in nodes_of(model):
        for called in _called(node):
            if not 0 <= called < len(model.graphs):
                yield f"{where}: calls subgraph {called}, the model has {len(model.graphs)}"
            else:
                calls[g].add(called)
    if not _acyclic(calls):
        yield "a subgraph calls itself"


@cache
def _call_options() -> tuple[str, ...]:
    from ..schema import schema

    fields = {f.name for t in schema().tables.values() if t.name.endswith("Options") for f in t.fields}
    return tuple(sorted(n for n in fields if n.endswith(("subgraph_index", "subgraph_indices"))) + ["subgraph"])


def _called(node: Node) -> Iterator[int]:
    for name in _call_options():
        value = node.options.get(name, ())
        yield from value if isinstance(value, tuple) else (value,)


def _acyclic(calls: dict[int, set[int]]) -> bool:
    """Whether every subgraph can be ordered behind those it calls (Kahn's algorithm)."""
    waiting = {g: len(called) for g, called in calls.items()}
    callers: dict[int, list[int]] = {}
    for g, called in calls.items():
        for c in called:
            callers.setdefault(c, []).append(g)
    ready = [g for g, n in waiting.items() if n == 0]
    for g in ready:
        for caller in callers.get(g, ()):
            waiting[caller] -= 1
            if waiting[caller] == 0:
                ready.append(caller)
    return len(ready) == len(calls)


def signatures_exist(model: Model) -> Iterator[str]:
    """Signatures name subgraphs and tensors that are there."""
    for s in model.signatures:
        where, graph = f"signature {shown(s['key'])!r}", s.get("graph", 0)
        if not 0 <= graph < len(model.graphs):
            yield f"{where}: names subgraph {graph}, the model has {len(model.graphs)}"
            continue
        count = len(model.graphs[graph].tensors)
        for name, index in (*s["inputs"].items(), *s["outputs"].items()):
            if not 0 <= index < count:
                yield f"{where}: {shown(name)!r} names tensor {index}, the graph has {count}"


def convolution_groups(model: Model) -> Iterator[str]:
    """Input channels of a CONV_2D are a multiple of the filter's, and its output channels of their quotient."""
    for _, graph, node, where in nodes_of(model):
        if node.op == "CONV_2D" and len(node.inputs) > 1 and min(node.inputs[:2]) >= 0:
            x, w = (graph.tensors[i].shape for i in node.inputs[:2])
            if len(x) == len(w) == 4 and (not w[3] or x[3] % w[3] or (x[3] and w[0] % (x[3] // w[3]))):
                yield f"{where}: filter {w} does not divide the channels of {x} into groups"


MEANING = (
    operands_present, variables_empty,
    computed_once, computed_before_use, constants_fit, shapes_legal, parameters_legal, options_legal, calls_end,
    convolution_groups, signatures_exist,
)  # fmt: skip
