"""Model -> pure function, in three modes. Host work (shape arithmetic, plans) happens once in `build`; `apply` is pure JAX."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from . import onednn
from .errors import BadData, Unsupported
from .graph import Graph, Model, Tensor
from .hoist import split
from .op import FLAVOURS
from .program import Params, Program, assemble, stored_constant
from .state import initial
from .types import TYPES

MODES = ("float", "fake", "integer")


def build(model: Model, mode: str = "integer", flavour: str = "xnnpack", *, taps: Any = None) -> Function:
    """The primary graph of a model as a `Function`.

    mode: "float" (reals, dequantized constants), "fake" (every tensor with QParams snapped where it is defined), "integer" (stored
    codes, exactly as LiteRT's kernels of `flavour` compute them). taps: None, "all" (graph inputs and every op output) or tensor keys.
    *Raises*: Unsupported with every missing kernel of the model at once; ValueError for an unknown mode or flavour.
    """
    if mode not in MODES or flavour not in FLAVOURS:
        raise ValueError(f"mode is one of {MODES}, flavour one of {FLAVOURS}; got {mode!r}, {flavour!r}")
    return Function(model, mode, flavour, taps)


class Function:
    """A model as a pure JAX function of (params, inputs). See `build`.

    `params`: float and fake {"constants": {tensor: array}, "qparams": {tensor: QParams}}; integer {"plans": {op: leaves},
    "constants": {tensor: array}}; both "state": {variable: the value it starts with}, and "graphs": {op: {role: such parameters}} of
    the graphs that IF, WHILE and composites run. `micro_batch`: samples that `batch` runs at once on a CPU.

    Models with variables: a call and every sample of a batch start from the initial state; `step` and `sequence` carry it on.
    """

    def __init__(self, model: Model, mode: str, flavour: str, taps: Any = None):
        self.model, self.mode, self.flavour = model, mode, flavour
        self.program, self.params = _assembled(model, mode, flavour)
        self.graph = self.program.graph
        self.taps = _taps(self.graph, taps)
        self.micro_batch = _micro_batch(self.graph)
        self.jitted = jax.jit(self.apply)
        self._scanned = jax.jit(self._scan)
        self._loops: dict[Any, tuple[Callable[..., Any], Callable[..., Any]]] = {}
        self._prepared: tuple[Any, Any] = (None, None)

    # the pure function

    def apply(self, params: Params, *inputs: Any) -> Any:
        """Outputs (a tuple, exactly the file's shapes) for one invocation; with taps (outputs, {tensor index: array}). Pure."""
        return self.step(params, params.get("state", {}), *inputs)[0]

    def init(self) -> dict[str, Any]:
        """The state before the first invocation: {variable: array}; empty for models without variables."""
        return dict(self.params["state"])

    def step(self, params: Params, state: Mapping[str, Any], *inputs: Any) -> tuple[Any, dict[str, Any]]:
        """(what `apply` gives, the next state) for one invocation from a state. Pure."""
        outputs, env, state = self.program.run(params, state, inputs)
        return outputs if self.taps is None else (outputs, {t: env[t] for t in self.taps if t in env}), state

    # the border

    def __call__(self, *inputs: Any) -> Any:
        """One invocation on host arrays of exactly the file's shapes. Raises: BadData. Returns numpy arrays in the stored types."""
        ready = [self._admit(x, t, batch=False) for x, t in self._paired(inputs)]
        return self._leave(self.jitted(self.params, *ready))

    def batch(self, *inputs: Any) -> Any:
        """Many samples: (N, *shape), or (N, *shape[1:]) where shape[0] is 1, to numpy arrays (N, *shape).

        Micro-batches of a fixed size (the last one padded) keep intermediates in cache and make a sample's result independent of N.
        """
        ready = [self._admit(x, t, batch=True) for x, t in self._paired(inputs)]
        counts = {len(x) for x in ready}
        if len(counts) != 1 or not counts - {0}:
            raise BadData("inputs have different or no samples", found=sorted(len(x) for x in ready))
        return self._leave(self.run_samples(self.params, *ready))

    def sequence(self, *inputs: Any) -> Any:
        """(T, *shape) inputs, as `batch`: T invocations in a row of one interpreter, the state carried from each to the next."""
        ready = [self._admit(x, t, batch=True) for x, t in self._paired(inputs)]
        return self._leave(jax.tree.map(np.asarray, self._scanned(self.params, self.init(), *ready)))

    def _scan(self, params: Params, state: Any, *inputs: Any) -> Any:
        def one(state: Any, xs: Any) -> tuple[Any, Any]:
            found, state = self.step(params, state, *xs)
            return state, found

        return jax.lax.scan(one, state, inputs)[1]

    def run_samples(self, params: Params, *inputs: np.ndarray) -> Any:
        """`batch` without checks, for any params: (N, *shape) arrays to a tree of numpy arrays (N, *shape)."""
        count, size = len(inputs[0]), self.micro_batch
        prepared, loop = self._prepare(params, inputs)
        per_block = min(_power_of_two(-(-count // size)), self._most_chunks())
        parts = []
        for start in range(0, count, per_block * size):
            part = [x[start : start + per_block * size] for x in inputs]
            n = len(part[0])
            chunks = [_filled(x, size, per_block * size).reshape(per_block, size, *x.shape[1:]) for x in part]
            out = loop(prepared, np.int32(-(-n // size)), *chunks)
            parts.append(jax.tree.map(lambda y, n=n: np.asarray(y).reshape(-1, *y.shape[2:])[:n], out))
        return parts[0] if len(parts) == 1 else jax.tree.map(lambda *ys: np.concatenate(ys), *parts)

    def _prepare(self, params: Params, inputs: Sequence[np.ndarray]) -> tuple[Any, Callable[..., Any]]:
        """What the loop over micro-batches reads of params (kept for the params used last), and the loop."""
        leaves, structure = jax.tree.flatten(params)
        one = tuple(jax.ShapeDtypeStruct((self.micro_batch, *x.shape[1:]), jax.dtypes.canonicalize_dtype(x.dtype)) for x in inputs)
        key = (structure, tuple((x.shape, x.dtype) for x in leaves), one)
        if key not in self._loops:
            first, sample = split(lambda p, *xs: jax.vmap(functools.partial(self.apply, p))(*xs), params, *one)
            self._loops[key] = jax.jit(first), jax.jit(functools.partial(_run_blocks, sample))
        first, loop = self._loops[key]
        made_for, prepared = self._prepared
        if made_for is None or made_for[0] != key or any(a is not b for a, b in zip(made_for[1], leaves, strict=True)):
            prepared = first(params)
            constant = all(isinstance(x, jax.Array) for x in leaves)  # numpy arrays can change in place
            self._prepared = ((key, leaves), prepared) if constant else (None, None)
        return prepared, loop

    def _most_chunks(self) -> int:
        """How many micro-batches one call may hold: at most 256 MiB of results and 64 chunks."""
        kept = self.graph.outputs if self.taps is None else (*self.graph.outputs, *self.taps)
        size = sum(int(np.prod(self.graph.tensors[t].shape)) * 4 for t in kept) * self.micro_batch
        return max(1, min(64, _power_of_two((256 << 20) // max(size, 1)) // 2))

    def lower(self, model: Model) -> Params:
        """Parameters of another model of the same structure (other ranges, other constants) for this function's compiled code.

        Raises: Unsupported naming the first op whose static part differs (it would need a compile of its own).
        """
        program, params = _assembled(model, self.mode, self.flavour)
        for node, mine, other in zip(self.graph.nodes, *(_by_node(p) for p in (self.program, program)), strict=True):
            if mine != other:
                raise Unsupported(
                    "another static plan", where=f"op {node.index} {node.op}", found=_choices(other), expected=_choices(mine),
                    hint="Build a function of its own for this model",
                )  # fmt: skip
        return params

    def reuse(self, other: Function) -> bool:
        """Take over what another function has compiled or will compile, where both run the same code: the same graph, taps, mode
        and static plans (flavours may differ in parameters alone). Returns whether that is so."""
        same = _code(self) == _code(other)
        if same:
            self.jitted, self._scanned, self._loops = other.jitted, other._scanned, other._loops
        return same

    def _paired(self, inputs: Sequence[Any]) -> Iterator[tuple[Any, Tensor]]:
        if len(inputs) != len(self.graph.inputs):
            names = ", ".join(self.graph.key(t) for t in self.graph.inputs)
            raise BadData("wrong number of inputs", found=len(inputs), expected=f"{len(self.graph.inputs)} ({names})")
        return zip(inputs, (self.graph.tensors[t] for t in self.graph.inputs), strict=True)

    def _admit(self, x: Any, t: Tensor, batch: bool) -> np.ndarray:
        """Check shape and type of one input; quantize a float array given for a quantized input by the flavour's QUANTIZE."""
        x, where = np.asarray(x), f"input {self.graph.key(t.index)!r}"
        if batch and t.shape[:1] == (1,) and x.shape[1:] == t.shape[1:]:
            x = x.reshape(len(x), *t.shape)
        got, lead = (x.shape[1:], "N, ") if batch else (x.shape, "")
        if got != t.shape or (batch and x.ndim != len(t.shape) + 1):
            raise BadData("wrong shape", where=where, found=x.shape, expected=f"({lead}{', '.join(map(str, t.shape))})")
        wanted = np.dtype(np.float32 if self._is_real(t) else TYPES[t.type].dtype)
        if x.dtype == wanted:
            return x
        if wanted == np.float32 and x.dtype in (np.float64, np.float16):
            return x.astype(np.float32)
        if x.dtype.kind == "f" and t.qparams is not None and x.dtype.itemsize <= 8:
            from .ops.convert import quantize_array

            return quantize_array(x.astype(np.float32), t.qparams, t.type, self.flavour)
        raise BadData("wrong type", where=where, found=x.dtype, expected=wanted, hint="Convert the array first")

    def _is_real(self, t: Tensor) -> bool:
        return t.type == "float32" or (self.mode != "integer" and t.qparams is not None)

    def _leave(self, results: Any) -> Any:
        outputs, taps = (results, None) if self.taps is None else results
        outputs = tuple(self._stored(y, t) for y, t in zip(outputs, self.graph.outputs, strict=True))
        return outputs if taps is None else (outputs, {t: self._stored(y, t) for t, y in taps.items()})

    def _stored(self, y: Any, index: int) -> np.ndarray:
        """As numpy, 64-bit integers (carried in 32 bits inside) in their own type again."""
        t, y = self.graph.tensors[index], np.asarray(y)
        return y.astype(TYPES[t.type].dtype) if TYPES[t.type].dtype and not self._is_real(t) else y


def _assembled(model: Model, mode: str, flavour: str) -> tuple[Program, Params]:
    program, params = assemble(model, model.graph, mode, flavour)
    params["state"] = {name: stored_constant(t, value, mode) for name, (t, value) in initial(model).items()}
    missing = sorted(program.reads - params["state"].keys())
    if missing:
        raise Unsupported(f"variable {missing[0]!r} has no starting value", where=model.path)
    return program, jax.tree.map(jnp.asarray, params)


def _code(fn: Function) -> tuple:
    wiring = tuple((s.node.inputs, s.node.outputs) for s in fn.program.steps)
    return fn.mode, fn.taps, fn.micro_batch, fn.graph.inputs, fn.graph.outputs, wiring, fn.program.static


def _by_node(program: Program) -> Iterator[Any]:
    """What selects the code of each node of a graph; None where nothing runs."""
    found = {index: (op, static) for index, op, static in program.static}
    return (found.get(n.index) for n in program.graph.nodes)


def _choices(code: Any) -> Any:
    """Of what `_by_node` gives: options and static plan, without the function that runs."""
    return code if code is None or code[1] is None else code[1][1:]


# small numbers --------------------------------------------------------


def _taps(graph: Graph, taps: Any) -> tuple[int, ...] | None:
    if taps is None:
        return None
    if isinstance(taps, str) and taps == "all":
        return (*graph.inputs, *(t for n in graph.nodes for t in n.outputs))
    return tuple(graph.find(t) for t in taps)


def _micro_batch(graph: Graph) -> int:
    """Samples at once: the largest intermediate, as int32, fills half a mebibyte (a part of the L2 cache); 1..64.

    With oneDNN two mebibytes: its calls cost some microseconds each.
    """
    room = (2 if onednn.enabled() else 0.5) * 2**20
    largest = max((int(np.prod(graph.tensors[t].shape)) for n in graph.nodes for t in n.outputs), default=1)
    return int(np.clip(_power_of_two(int(room) // (4 * max(largest, 1))), 1, 64))


def _power_of_two(n: int) -> int:
    """The smallest power of two that is not below n (1 for n < 1)."""
    return 1 << max(n - 1, 0).bit_length()


def _run_blocks(sample: Callable[..., Any], prepared: Any, count: Any, *chunks: Any) -> Any:
    """The first `count` of (blocks, micro_batch, *shape) chunks, one after another; a loop of one compiled body."""
    one = [jax.ShapeDtypeStruct(c.shape[1:], c.dtype) for c in chunks]
    shapes = jax.eval_shape(sample, prepared, *one)
    start = jax.tree.map(lambda s: jnp.zeros((chunks[0].shape[0], *s.shape), s.dtype), shapes)

    def body(i: Any, done: Any) -> Any:
        out = sample(prepared, *(jax.lax.dynamic_index_in_dim(c, i, keepdims=False) for c in chunks))
        return jax.tree.map(lambda d, y: jax.lax.dynamic_update_index_in_dim(d, y, i, 0), done, out)

    return jax.lax.fori_loop(0, count, body, start)


def _filled(x: np.ndarray, size: int, room: int) -> np.ndarray:
    """x as the first of `room` samples, its last one repeated until `size` divides their number; what follows is not read."""
    n = len(x)
    if n == room:
        return x
    y = np.empty((room, *x.shape[1:]), x.dtype)
    y[:n], y[n : -(-n // size) * size] = x, x[-1]
    return y
