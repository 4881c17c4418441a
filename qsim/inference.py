"""What is known of a graph before any data: values that need none, and the shapes that its inputs' shapes give."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from .checks.indices import require_inside
from .checks.scales import details
from .errors import QsimError, Unsupported
from .graph import Graph, Node, Options, Tensor
from .op import Op, Site, site
from .ops import REGISTRY
from .snap import dequantize
from .types import CODES, TYPES


def host_values(graph: Graph, flavour: str = "reference") -> dict[int, np.ndarray]:
    """Values of computed tensors that do not depend on data: shape arithmetic and dequantized constants, evaluated in numpy.

    flavour: whose DEQUANTIZE; they differ in the last bit.
    """
    known: dict[int, np.ndarray] = {}
    for node in graph.nodes:
        known.update(_host_values(graph, node, known, flavour))
    return known


def sized(graph: Graph) -> Graph:
    """The graph with the shapes that follow from those of its inputs, where the file leaves sizes of computed tensors open.

    As LiteRT does when it allocates tensors: what the file says of an open size (often 1) is a guess of its converter. Up to the first
    op whose outputs cannot be told (it is unknown, runs other graphs, or its shape depends on data); from there on the file's are kept.
    """
    if not any(-1 in (graph.tensors[t].shape_signature or ()) for n in graph.nodes for t in n.outputs):
        return graph
    tensors, known = list(graph.tensors), dict[int, np.ndarray]()
    seen = graph.but(tensors=tensors)  # follows the list
    for node in graph.nodes:
        known.update(_host_values(seen, node, known, "reference"))
        shapes = _shapes(seen, node, known)
        if shapes is None:
            break
        for t, shape in zip(node.outputs, shapes, strict=True):
            tensors[t] = tensors[t].but(shape=shape)
    return graph.but(tensors=tuple(tensors))


def _shapes(graph: Graph, node: Node, known: Mapping[int, np.ndarray]) -> Sequence[tuple[int, ...]] | None:
    """The shapes of a node's outputs; None where they cannot be told."""
    if all(t in known for t in node.outputs):
        return [known[t].shape for t in node.outputs]
    op, where = REGISTRY.get(node.op), site(graph, node, known)
    if op is None:
        return None
    try:
        fixed = static_positions(op, where)
    except Unsupported:
        return None
    host = tuple((p, v.dtype.str, v.shape, v.tobytes()) for p, v in ((p, np.asarray(where.values[p])) for p in fixed))
    live = tuple((p, t.shape, _dtype(t)) for p, t in enumerate(where.inputs) if t is not None and p not in fixed)
    found = _traced(op, real_options(op, where), len(where.inputs), host, live)
    return None if found is None or len(found) < len(node.outputs) else found[: len(node.outputs)]


@functools.lru_cache(maxsize=4096)
def _traced(op: Op, options: Options, count: int, host: tuple, live: tuple) -> tuple[tuple[int, ...], ...] | None:
    """The shapes that an op's real function gives for `count` inputs, by position: values (dtype, shape, bytes), or shapes and types."""
    values = {p: np.frombuffer(data, dtype).reshape(shape) for p, dtype, shape, data in host}
    try:
        found = jax.eval_shape(
            lambda xs: op.real(options, *((values | xs).get(p) for p in range(count))),
            {p: jax.ShapeDtypeStruct(shape, dtype) for p, shape, dtype in live},
        )
    except (QsimError, TypeError, ValueError, NotImplementedError):
        return None
    return tuple(tuple(y.shape) for y in (found if isinstance(found, tuple) else (found,)))


def _dtype(t: Tensor) -> np.dtype:
    return np.dtype(np.float32) if stores_codes(t) else jax.dtypes.canonicalize_dtype(TYPES[t.type].dtype)


def real_options(op: Op, where: Site) -> Options:
    """The options that the real function of a node gets."""
    options = where.node.real_options
    return options.but(out_type=where.outputs[0].type) if op.rule.typed else options


def static_positions(op: Op, where: Site) -> list[int]:
    """Positions of the inputs that are needed on the host. Raises: Unsupported where such a value is computed from data."""
    needed = [p for p in op.rule.static if p < len(where.inputs) and where.inputs[p] is not None]
    for p in needed:
        if where.values[p] is None:
            name = where.inputs[p].name  # type: ignore[union-attr]
            raise Unsupported(f"input {p} ({name!r}) depends on data, but it fixes a shape", where=where.where)
    return needed


def takes_kernel(op: Op, where: Site, flavour: str) -> bool:
    """Whether integer mode runs a kernel here, rather than the real function (float ops, shape arithmetic).

    So it does where a tensor is quantized; small integers without parameters are codes too where the op has a kernel for them, which
    refuses them if it reads parameters.
    """
    tensors = [t for t in (*where.inputs, *where.outputs) if t is not None]
    small = any(t.type in CODES for t in tensors) and any(k.serves(where.types, flavour) for k in op.kernels)
    return small or any(map(stores_codes, tensors))


def stores_codes(t: Tensor) -> bool:
    """A quantized tensor: its value is a kernel's business, not the real function's."""
    return (t.qparams is not None or t.blocks is not None) and t.type != "float32"


def _host_values(graph: Graph, node: Node, known: Mapping[int, np.ndarray], flavour: str) -> dict[int, np.ndarray]:
    """The outputs of a node whose values need no data; empty for other nodes."""
    op = REGISTRY.get(node.op)
    if op is None or not op.host or any(stores_codes(graph.tensors[t]) for t in node.outputs):
        return {}
    where = site(graph, node, known)
    if details(where) is not None:
        return {}
    if node.op in ("SHAPE", "RANK"):
        shape = where.inputs[0].shape  # type: ignore[union-attr]
        return {node.outputs[0]: np.asarray(shape if node.op == "SHAPE" else len(shape), TYPES[where.outputs[0].type].dtype)}
    if not node.inputs or any(v is None and t is not None for v, t in zip(where.values, where.inputs, strict=True)):
        return {}
    whose = flavour if node.op == "DEQUANTIZE" else "reference"
    ins = [_host_operand(t, v, whose) for t, v in zip(where.inputs, where.values, strict=True)]
    require_inside(where)
    out = op.real(node.real_options, *ins)
    outs = out if isinstance(out, tuple) else (out,)
    return {t: np.asarray(y, TYPES[graph.tensors[t].type].dtype) for t, y in zip(node.outputs, outs, strict=True)}


def _host_operand(t: Tensor | None, value: Any, flavour: str) -> Any:
    if t is None or t.qparams is None or not t.is_constant or not stores_codes(t):
        return value
    if flavour != "reference" and not t.qparams.per_channel:
        from .ops.convert import dequantize_array

        return dequantize_array(value, t.qparams, t.type, flavour)
    return dequantize(value, t.qparams)
