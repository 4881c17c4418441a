"""`qsim inspect`: what a model is. Uses neither jax nor LiteRT."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from . import options as o
from .screen import emit, safe, say, table, text

if TYPE_CHECKING:
    from qsim.graph import Graph, Model, Node, Tensor

COLUMNS = ("index", "name", "role", "shape", "type", "scale", "zero point", "real range")
SHOWN_OPTIONS = ("padding", "fused_activation_function", "stride_h", "stride_w", "axis", "keep_dims", "beta")


def command(model: o.Model, /, *, json: o.Json = False) -> int:
    """What a model is: scheme in words, ops, tensors with LiteRT's own indices and the real ranges they cover."""
    from qsim import load

    loaded = load(model)
    if json:
        emit(document(loaded))
        return 0
    show(loaded)
    return 0


def document(model: Model) -> dict[str, Any]:
    """Everything the tables show, as plain values."""
    return {
        "path": model.path,
        "description": model.description,
        "scheme": scheme_in_words(model),
        "signatures": [dict(s) for s in model.signatures],
        "graphs": [_graph(g) for g in model.graphs],
        "notes": list(model.notes),
    }


def _graph(g: Graph) -> dict[str, Any]:
    return {
        "name": g.name,
        "inputs": list(g.inputs),
        "outputs": list(g.outputs),
        "ops": [
            {
                "index": n.index, "op": n.op, "version": n.version, "inputs": list(n.inputs), "outputs": list(n.outputs),
                "options": dict(n.options), "inferred_activation": n.inferred_activation,
            }
            for n in g.nodes
        ],
        "tensors": [_tensor(g, t) for t in g.tensors],
    }  # fmt: skip


def _tensor(g: Graph, t: Tensor) -> dict[str, Any]:
    facts = {"index": t.index, "name": t.name, "key": g.key(t.index), "role": role(g, t), "shape": list(t.shape), "type": t.type}
    if t.blocks is not None:
        return facts | {"scale": t.blocks.scale.tolist(), "block_size": t.blocks.size}
    if t.qparams is None:
        return facts
    q, (low, high) = t.qparams, t.qparams.real_range()
    return facts | {
        "scale": [float(s) for s in q.scale],
        "zero_point": [int(z) for z in q.zero_point],
        "axis": q.axis if q.per_channel else None,
        "real_range": [float(low.min()), float(high.max())],
    }


def show(model: Model) -> None:
    """Print the model: facts, ops, tensors of every graph, notes."""
    text(f"{safe(model.path)}: {scheme_in_words(model)}")
    if model.description:
        text(f"made by: {safe(model.description)}")
    for number, g in enumerate(model.graphs):
        label = "" if len(model.graphs) == 1 else f"subgraph {number} {g.name}: "
        counts = ", ".join(f"{c} {op}" for op, c in Counter(n.op for n in g.nodes).most_common())
        text(f"{safe(label)}{len(g.nodes)} ops ({safe(counts, 1000)}), {len(g.tensors)} tensors, {_bytes(g):,} bytes of constants")
        table("ops", ("op", "name", "inputs", "outputs", "options"), (_op_cells(n) for n in g.nodes))
        table("tensors", COLUMNS, (_tensor_cells(g, t) for t in g.tensors), numeric=("index",))
    for s in model.signatures:
        text(f"signature {safe(s.get('signature_key', ''))}")
    for note in model.notes:
        say(f"note: {note}")


def _op_cells(n: Node) -> tuple[str, ...]:
    shown = [f"{k}={n.options[k]}" for k in SHOWN_OPTIONS if k in n.options and n.options[k] not in ("NONE", None)]
    if n.inferred_activation:
        shown.append(f"inferred activation {n.inferred_activation}")
    return str(n.index), n.op, _refs(n.inputs), _refs(n.outputs), "  ".join(shown)


def _refs(tensors: tuple[int, ...]) -> str:
    return " ".join(f"t{t}" if t >= 0 else "-" for t in tensors)


def _tensor_cells(g: Graph, t: Tensor) -> tuple[str, ...]:
    cells = str(t.index), t.name, role(g, t), "x".join(map(str, t.shape)) or "scalar", t.type
    if t.blocks is not None:
        return *cells, f"{t.blocks.scale.min():.4g}..{t.blocks.scale.max():.4g} (blocks of {t.blocks.size} columns)", "0", ""
    if t.qparams is None:
        return *cells, "", "", ""
    q, (low, high) = t.qparams, t.qparams.real_range()
    if q.per_channel:
        scale = f"{min(q.scale):.4g}..{max(q.scale):.4g} ({len(q.scale)} along axis {q.axis})"
    else:
        scale = f"{q.scale[0]:.6g}"
    zeros = sorted({int(z) for z in q.zero_point})
    zero = str(zeros[0]) if len(zeros) == 1 else f"{zeros[0]}..{zeros[-1]}"
    return *cells, scale, zero, f"{low.min():.4g} .. {high.max():.4g}"


def role(g: Graph, t: Tensor) -> str:
    """input, output, constant, variable, unused, or empty for what ops compute in between."""
    if t.index in g.inputs:
        return "input"
    if t.index in g.outputs:
        return "output"
    if t.is_variable:
        return "variable"
    if t.is_constant:
        return "constant"
    return "" if t.index in g.producer else "unused"


def _bytes(g: Graph) -> int:
    return sum(t.data.nbytes for t in g.tensors if t.data is not None)


def scheme_in_words(model: Model) -> str:
    """The quantization of the primary graph in one phrase."""
    g = model.graph
    weights, computed = list(_weights(g)), [g.tensors[t] for n in g.nodes for t in n.outputs]
    stored = Counter(t.type for t in computed if t.qparams is not None and t.type not in ("float32", "int32"))
    packed = Counter(t.type for t in weights if t.qparams is not None and t.type != "float32")
    if not stored and not packed:
        half = any(t.type == "float16" for t in weights)
        return "float16 weights, float32 activations" if half else "float32, not quantized"
    of_weights = ", ".join(f"{kind} weights {_channels(weights, kind)}" for kind in packed) or "float weights"
    if not stored:
        return f"{of_weights}; float32 activations (LiteRT quantizes them at run time where the kernel is a hybrid one)"
    real = sum(all(g.tensors[t].type == "float32" for t in n.outputs) for n in g.nodes)
    rest = f"; {real} of {len(g.nodes)} ops give floats" if real else ""
    ends = ", ".join(sorted({g.tensors[t].type for t in g.inputs})), ", ".join(sorted({g.tensors[t].type for t in g.outputs}))
    return f"{' and '.join(stored)} activations, {of_weights}; {ends[0]} in, {ends[1]} out{rest}"


def _weights(g: Graph) -> Iterator[Tensor]:
    """Constants of two or more axes that ops read."""
    for index in g.consumers:
        t = g.tensors[index]
        if t.is_constant and len(t.shape) > 1:
            yield t


def _channels(weights: list[Tensor], kind: str) -> str:
    per_channel = [t.qparams.per_channel for t in weights if t.type == kind and t.qparams is not None]
    if all(per_channel):
        return "per channel"
    return "per tensor" if not any(per_channel) else f"per channel in {sum(per_channel)} of {len(per_channel)}"
