"""The model as frozen records: Model, Graph, Node, Tensor, QParams. Knows nothing of the file format, and does not import jax."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import BadRange
from .types import CODES, code_range

if TYPE_CHECKING:
    from .blockwise import Blocks
    from .function import Function


@dataclass(frozen=True, eq=False)
class QParams:
    """Affine parameters of a tensor: real = scale * (code - zero_point), codes in [low, high].

    scale: float32 (C,), real per step. zero_point: int64 (C,), steps. C = 1, or the tensor's size along `axis` (per channel).
    low, high: ends of the code range in steps. A pytree in jax: the arrays and low, high are leaves, `axis` is static.
    """

    scale: Any
    zero_point: Any
    low: Any
    high: Any
    axis: int = 0

    @property
    def per_channel(self) -> bool:
        return np.size(self.scale) > 1

    def __eq__(self, other: object) -> bool:
        return isinstance(other, QParams) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple:
        scale, zero = np.asarray(self.scale, np.float32), np.asarray(self.zero_point, np.int64)
        return scale.tobytes(), zero.tobytes(), int(self.low), int(self.high), self.axis if scale.size > 1 else 0

    def real_range(self) -> tuple[np.ndarray, np.ndarray]:
        """(low, high) in real units that the codes cover, one value per channel (float64)."""
        s, z = np.asarray(self.scale, np.float64), np.asarray(self.zero_point, np.float64)
        return s * (self.low - z), s * (self.high - z)


class Options(Mapping[str, Any]):
    """An op's options by their schema names, defaults filled in; enumerations are names ("SAME", "RELU6"). Hashable, read-only.

    `options.stride_w` and `options["stride_w"]` are the same; `options.but(padding="VALID")` is a changed copy.
    """

    __slots__ = ("_items",)

    def __init__(self, items: Mapping[str, Any] | None = None, **more: Any):
        object.__setattr__(self, "_items", {k: _frozen(v) for k, v in {**(items or {}), **more}.items()})

    def __getitem__(self, key: str) -> Any:
        return self._items[key]

    def __getattr__(self, key: str) -> Any:
        try:
            return self._items[key]
        except KeyError:
            raise AttributeError(key) from None

    def __setattr__(self, key: str, value: Any) -> None:
        raise AttributeError("options are read-only; use but()")

    def __reduce__(self) -> tuple:
        return Options, (dict(self._items),)

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __hash__(self) -> int:
        return hash(tuple(sorted(self._items.items(), key=lambda kv: kv[0])))

    def __repr__(self) -> str:
        return "Options(" + ", ".join(f"{k}={v!r}" for k, v in self._items.items()) + ")"

    def but(self, **changes: Any) -> Options:
        return Options({**self._items, **changes})


def _frozen(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return tuple(value.tolist())
    return tuple(_frozen(v) for v in value) if isinstance(value, (list, tuple)) else value


@dataclass(frozen=True, eq=False)
class Tensor:
    """A tensor of one graph. `data` is a constant's value (read-only, sub-byte integers unpacked), None for computed tensors.

    `raw` is the file's own record, kept so that writing loses nothing; None for tensors made here. `blocks`: scales by blocks of
    columns (`blockwise.Blocks`), of weights that have them in place of `qparams`.
    """

    index: int
    name: str
    shape: tuple[int, ...]
    type: str
    qparams: QParams | None = None
    data: np.ndarray | None = None
    shape_signature: tuple[int, ...] | None = None
    is_variable: bool = False
    buffer: int = 0
    raw: Mapping[str, Any] | None = None
    blocks: Blocks | None = None

    @property
    def is_simulated(self) -> bool:
        """Whether its codes have fewer bits than its type: parameters that only fake mode knows."""
        return self.qparams is not None and self.type in CODES and (int(self.qparams.low), int(self.qparams.high)) != code_range(self.type)

    @property
    def is_constant(self) -> bool:
        return self.data is not None

    def but(self, **changes: Any) -> Tensor:
        return replace(self, **changes)


@dataclass(frozen=True, eq=False)
class Node:
    """One op of a graph. `op` is the schema name ("CONV_2D"; custom ops: "CUSTOM:<code>"); -1 in `inputs` is an absent input.

    `inferred_activation` is an activation that only the output's range carries in a quantized file (see reader); it belongs to the
    real function (float and fake mode), while integer mode has it in the clamp of the type.
    """

    index: int
    op: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Options = field(default_factory=Options)
    version: int = 1
    intermediates: tuple[int, ...] = ()
    inferred_activation: str | None = None
    raw: Mapping[str, Any] | None = None

    @property
    def real_options(self) -> Options:
        """The options of the real function: the inferred activation counts as the fused one."""
        if self.inferred_activation is None:
            return self.options
        return self.options.but(fused_activation_function=self.inferred_activation)

    def but(self, **changes: Any) -> Node:
        return replace(self, **changes)


@dataclass(frozen=True, eq=False)
class Graph:
    tensors: tuple[Tensor, ...]
    nodes: tuple[Node, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    name: str = ""
    raw: Mapping[str, Any] | None = None

    @cached_property
    def producer(self) -> dict[int, int]:
        """tensor index -> index of the node that computes it."""
        return {t: n.index for n in self.nodes for t in n.outputs}

    @cached_property
    def consumers(self) -> dict[int, tuple[tuple[int, int], ...]]:
        """tensor index -> ((node index, input position), ...)."""
        found: dict[int, list[tuple[int, int]]] = {}
        for n in self.nodes:
            for position, t in enumerate(n.inputs):
                if t >= 0:
                    found.setdefault(t, []).append((n.index, position))
        return {t: tuple(uses) for t, uses in found.items()}

    @cached_property
    def _unique(self) -> dict[str, int]:
        counts = Counter(t.name for t in self.tensors)
        return {t.name: t.index for t in self.tensors if t.name and counts[t.name] == 1}

    def key(self, index: int) -> str:
        """The name users see for a tensor: its own where that is unique in the graph, else `t<index>`."""
        name = self.tensors[index].name
        return name if name in self._unique else f"t{index}"

    def find(self, key: str | int) -> int:
        """Tensor index of a name, `t<index>`, or number. Raises: BadRange with the nearest names."""
        if isinstance(key, (int, np.integer)) and 0 <= key < len(self.tensors):
            return int(key)
        text = str(key)
        if text in self._unique:
            return self._unique[text]
        if text.startswith("t") and text[1:].isdigit() and int(text[1:]) < len(self.tensors):
            return int(text[1:])
        from difflib import get_close_matches

        near = get_close_matches(text, self._unique, n=3)
        raise BadRange(f"no tensor {text!r}", hint=f"Nearest: {', '.join(near)}" if near else "`qsim inspect` lists the tensors")

    def but(self, **changes: Any) -> Graph:
        return replace(self, **changes)


def _renumbered(node: Node, order: list[int]) -> Node:
    """The node with its options that name graphs (`..._subgraph_index`, `..._subgraph_indices`) in another order of the graphs."""
    changed = {k: order[v] for k, v in node.options.items() if k.endswith("subgraph_index") and 0 <= v < len(order)}
    changed |= {k: tuple(order[i] for i in v) for k, v in node.options.items() if k.endswith("subgraph_indices")}
    return node.but(options=node.options.but(**changed)) if any(node.options[k] != v for k, v in changed.items()) else node


@dataclass(frozen=True, eq=False)
class Model:
    """A loaded .tflite. Frozen and safe to share between threads. `graphs[0]` is the primary graph.

    `source` holds the bytes and records it was read from (None for models made here); `path` is for messages only;
    `notes` are what the reader has to say (inferred activations, unknown newer fields); `report` is what `quantize` did.
    """

    graphs: tuple[Graph, ...]
    signatures: tuple[Mapping[str, Any], ...] = ()
    description: str = ""
    path: str = ""
    source: Any = None
    notes: tuple[str, ...] = ()
    report: Any = None

    @property
    def graph(self) -> Graph:
        return self.graphs[0]

    @cached_property
    def is_quantized(self) -> bool:
        """True if any computed tensor of the primary graph is stored as integers with quantization parameters."""
        g = self.graph
        return any(g.tensors[t].qparams is not None and g.tensors[t].type != "float32" for n in g.nodes for t in n.outputs)

    def select(self, key: str | int) -> Model:
        """The model with another graph as the primary one: the graph of signature `key`, or graph number `key`.

        The two graphs change places in the file, and what refers to them follows, so that every function of qsim (run, certify,
        calibrate, quantize, save) works on the chosen one. *Raises*: BadRange where there is no such signature or graph.
        """
        found = [s["graph"] for s in self.signatures if s["key"] == key] if isinstance(key, str) else [key]
        if not found or not 0 <= found[0] < len(self.graphs):
            known = ", ".join(repr(s["key"]) for s in self.signatures) or "no signatures"
            raise BadRange(f"no signature or graph {key!r}", expected=f"{known}, or a number below {len(self.graphs)}")
        order = list(range(len(self.graphs)))
        order[0], order[found[0]] = found[0], 0  # its own inverse
        graphs = tuple(self.graphs[i].but(nodes=tuple(_renumbered(n, order) for n in self.graphs[i].nodes)) for i in order)
        return self.but(graphs=graphs, signatures=tuple({**s, "graph": order[s["graph"]]} for s in self.signatures))

    def function(self, mode: str = "integer", flavour: str = "xnnpack", *, taps: Any = None) -> Function:
        """The model as a pure JAX function; see `qsim.function.build`."""
        from .function import build

        return build(self, mode, flavour, taps=taps)

    def but(self, **changes: Any) -> Model:
        return replace(self, **changes)
