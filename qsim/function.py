"""Model -> pure function, in three modes. Host work (shape arithmetic, plans) happens once in `build`; `apply` is pure JAX."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from . import onednn
from .checks.indices import require_inside
from .checks.scales import details, require_affine
from .errors import BadData, QsimError, Unsupported
from .graph import Graph, Model, Node, QParams, Tensor
from .hoist import split
from .op import FLAVOURS, Op, Plan, Site, site
from .ops import REGISTRY
from .snap import dequantize, snap
from .state import OPS as STATE_OPS
from .state import handles, initial, variables
from .types import TYPES

MODES = ("float", "fake", "integer")
jax.tree_util.register_dataclass(QParams, data_fields=["scale", "zero_point", "low", "high"], meta_fields=["axis"])

Params = dict[str, dict[Any, Any]]


@dataclass(frozen=True, eq=False)
class Step:
    """One op, ready to run: `call(leaves, *inputs)` on arrays; `host` are inputs known on the host, by position."""

    node: Node
    call: Callable[..., Any]
    host: Mapping[int, Any]
    static: Any = None
    note: str = ""
    state: tuple[int, ...] = ()  # positions of variable tensors that it replaces


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
    "constants": {tensor: array}}; both "state": {variable: the value it starts with}. `micro_batch`: samples that `batch` runs at
    once on a CPU.

    Models with variables: a call and every sample of a batch start from the initial state; `step` and `sequence` carry it on.
    """

    def __init__(self, model: Model, mode: str, flavour: str, taps: Any = None):
        self.model, self.mode, self.flavour = model, mode, flavour
        self.graph = model.graph
        self.steps, params = _assemble(model, mode, flavour)
        self.params: Params = jax.tree.map(jnp.asarray, params)
        self.taps = _taps(self.graph, taps)
        self._handles, self._variables = handles(self.graph), variables(self.graph)
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
        state = dict(state)
        define = self._snapped(params) if self.mode == "fake" else lambda index, value: value
        env: dict[int, Any] = {t: define(t, x) for t, x in zip(self.graph.inputs, inputs, strict=True)}
        constants = params["constants"]
        env |= {t: state[name] for t, name in self._variables.items()}
        for step in self.steps:
            if step.node.op == "READ_VARIABLE":
                env[step.node.outputs[0]] = state[self._handles[step.node.inputs[0]]]
                continue
            if step.node.op == "ASSIGN_VARIABLE":
                state[self._handles[step.node.inputs[0]]] = _fetch(step.node.inputs[1], env, constants, define)
                continue
            ins = [_operand(step, p, t, env, constants, define) for p, t in enumerate(step.node.inputs)]
            outs = step.call(params.get("plans", {}).get(step.node.index, {}), *ins)
            outs = outs if isinstance(outs, tuple) else (outs,)
            for t, y in zip((*step.node.outputs, *(step.node.inputs[p] for p in step.state)), outs, strict=True):
                env[t] = define(t, y)
        state |= {name: env[t] for t, name in self._variables.items()}
        outputs = tuple(_fetch(t, env, constants, define) for t in self.graph.outputs)
        return outputs if self.taps is None else (outputs, {t: env[t] for t in self.taps if t in env}), state

    def _snapped(self, params: Params) -> Callable[[int, Any], Any]:
        qparams = params["qparams"]
        return lambda index, value: snap(value, qparams[index]) if index in qparams else value

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
        steps, params = _assemble(model, self.mode, self.flavour)
        for mine, other in zip(self.steps, steps, strict=True):
            if mine.static != other.static or mine.node.op != other.node.op:
                raise Unsupported(
                    "another static plan", where=f"op {mine.node.index} {mine.node.op}", found=other.static, expected=mine.static,
                    hint="Build a function of its own for this model",
                )  # fmt: skip
        return jax.tree.map(jnp.asarray, params)

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


# ---------------------------------------------------------------- assembling


def _assemble(model: Model, mode: str, flavour: str) -> tuple[list[Step], Params]:
    graph = model.graph
    known = host_values(graph, flavour if mode == "integer" else "reference")
    steps: list[Step] = []
    params: Params = {"constants": {}, "state": {name: _constant(t, value, mode) for name, (t, value) in initial(model).items()}}
    params["plans" if mode == "integer" else "qparams"] = {}
    faults: list[str] = []
    for node in graph.nodes:
        if node.outputs and all(t in known for t in node.outputs):
            continue
        where = site(graph, node, known)
        if node.op in STATE_OPS:
            steps += [Step(node, lambda *_: None, {})] if node.op in ("READ_VARIABLE", "ASSIGN_VARIABLE") else []
            if node.op == "ASSIGN_VARIABLE":
                _add_constants(params["constants"], steps[-1], Op(node.op, lambda *_: None), where, mode, False)
            continue
        try:
            op = REGISTRY.get(node.op)
            if op is None:
                raise Unsupported(f"op {node.op} is not known", where=where.where)
            require_inside(where)
            require_affine(where)
            step, plan = _integer_step(op, where, flavour) if mode == "integer" else (_real_step(op, where, mode), None)
        except QsimError as fault:
            faults.append(str(fault))
            continue
        steps.append(step)
        if plan is not None:
            params["plans"][node.index] = dict(plan.leaves)
        _add_constants(params["constants"], step, op, where, mode, plan is not None)
    if faults:
        raise Unsupported(f"{len(faults)} op(s) cannot run in {mode} mode:\n  " + "\n  ".join(faults), where=model.path)
    for t in graph.outputs:
        if t in known or graph.tensors[t].is_constant:
            params["constants"][t] = _constant(graph.tensors[t], known.get(t, graph.tensors[t].data), mode)
    if mode == "fake":
        params["qparams"] = _fake_qparams(graph, params["constants"], steps)
    return steps, params


def _real_step(op: Op, where: Site, mode: str) -> Step:
    options = where.node.real_options
    host = {p: where.values[p] for p in _static_positions(op, where)}
    return Step(where.node, lambda leaves, *xs: op.real(options, *xs), host, (options, _shapes(host)), state=op.rule.state)


def _integer_step(op: Op, where: Site, flavour: str) -> tuple[Step, Plan | None]:
    """A kernel where the node has integer tensors with parameters, else (float nodes, shape arithmetic) the real function."""
    tensors = (*where.inputs, *where.outputs)
    if not any(t is not None and _stores_codes(t) for t in tensors):
        return _real_step(op, where, "integer"), None
    kernel = op.kernel(where, flavour)
    static_positions = _static_positions(op, where)
    plan = kernel.plan(where, flavour)
    options = where.options
    hidden = {p: None for p in (*static_positions, *op.rule.prepared) if p < len(where.inputs)}
    call = functools.partial(_run_kernel, kernel.run, options, plan.static)
    return Step(where.node, call, hidden, (options, plan.static), plan.note, op.rule.state), plan  # type: ignore[arg-type]


def _run_kernel(run: Callable[..., Any], options: Any, static: Any, leaves: Any, *inputs: Any) -> Any:
    return run(options, static, leaves, *inputs)


def _static_positions(op: Op, where: Site) -> list[int]:
    """Positions of the inputs that are needed on the host. Raises: Unsupported where such a value is computed from data."""
    needed = [p for p in op.rule.static if p < len(where.inputs) and where.inputs[p] is not None]
    for p in needed:
        if where.values[p] is None:
            name = where.inputs[p].name  # type: ignore[union-attr]
            raise Unsupported(f"input {p} ({name!r}) depends on data, but it fixes a shape", where=where.where)
    return needed


def _shapes(host: Mapping[int, Any]) -> tuple:
    return tuple((p, np.asarray(v).tobytes()) for p, v in sorted(host.items()))


def _add_constants(constants: dict[int, Any], step: Step, op: Op, where: Site, mode: str, kernel: bool) -> None:
    for p, t in enumerate(where.inputs):
        if t is None or p in step.host or where.values[p] is None:
            continue
        if not (kernel and p in op.rule.prepared):
            constants[t.index] = _constant(t, where.values[p], mode)


def _constant(t: Tensor, value: Any, mode: str) -> np.ndarray:
    """A constant as the function carries it: real where it has parameters (not in integer mode), 64-bit integers in 32 bits."""
    value = np.asarray(value)
    if mode != "integer" and t.is_constant and _stores_codes(t):
        return dequantize(value, t.qparams)  # type: ignore[arg-type]
    if value.dtype in (np.int64, np.uint64):
        if value.size and (value.max() > 2**31 - 1 or value.min() < -(2**31)):
            raise Unsupported(f"constant {t.name!r} has values beyond 32 bits", found=int(np.abs(value).max()))
        return value.astype(np.int32)
    return value


def _fake_qparams(graph: Graph, constants: Mapping[int, Any], steps: Sequence[Step]) -> dict[int, QParams]:
    """Parameters of every tensor to snap: graph inputs, op outputs and the constants in use that have them."""
    defined = [*graph.inputs, *(t for s in steps for t in s.node.outputs), *constants]
    return {t: _carried(q) for t in defined if (q := graph.tensors[t].qparams) is not None and _stores_codes(graph.tensors[t])}


def _carried(q: QParams) -> QParams:
    return QParams(
        np.asarray(q.scale, np.float32), np.asarray(q.zero_point).astype(np.int32), np.int32(q.low), np.int32(q.high), q.axis
    )  # fmt: skip


def host_values(graph: Graph, flavour: str = "reference") -> dict[int, np.ndarray]:
    """Values of computed tensors that do not depend on data: shape arithmetic and dequantized constants, evaluated in numpy.

    flavour: whose DEQUANTIZE; they differ in the last bit.
    """
    known: dict[int, np.ndarray] = {}
    for node in graph.nodes:
        op = REGISTRY.get(node.op)
        if op is None or not op.host or any(_stores_codes(graph.tensors[t]) for t in node.outputs):
            continue
        where = site(graph, node, known)
        if details(where) is not None:
            continue
        if node.op in ("SHAPE", "RANK"):
            shape = where.inputs[0].shape  # type: ignore[union-attr]
            known[node.outputs[0]] = np.asarray(shape if node.op == "SHAPE" else len(shape), TYPES[where.outputs[0].type].dtype)
        elif node.inputs and all(v is not None or t is None for v, t in zip(where.values, where.inputs, strict=True)):
            ins = [
                _host_operand(t, v, flavour if node.op == "DEQUANTIZE" else "reference")
                for t, v in zip(where.inputs, where.values, strict=True)
            ]
            require_inside(where)
            out = op.real(node.real_options, *ins)
            outs = out if isinstance(out, tuple) else (out,)
            known.update({t: np.asarray(y, TYPES[graph.tensors[t].type].dtype) for t, y in zip(node.outputs, outs, strict=True)})
    return known


def _stores_codes(t: Tensor) -> bool:
    """A quantized tensor: its value is a kernel's business, not the real function's."""
    return t.qparams is not None and t.type != "float32"


def _host_operand(t: Tensor | None, value: Any, flavour: str) -> Any:
    if t is None or t.qparams is None or not t.is_constant or not _stores_codes(t):
        return value
    if flavour != "reference" and not t.qparams.per_channel:
        from .ops.convert import dequantize_array

        return dequantize_array(value, t.qparams, t.type, flavour)
    return dequantize(value, t.qparams)


def _operand(step: Step, position: int, t: int, env: Mapping[int, Any], constants: Mapping[int, Any], define: Callable) -> Any:
    if t < 0:
        return None
    if position in step.host:
        return step.host[position]
    return _fetch(t, env, constants, define)


def _fetch(t: int, env: Mapping[int, Any], constants: Mapping[int, Any], define: Callable) -> Any:
    return env[t] if t in env else define(t, constants[t])


# ---------------------------------------------------------------- small numbers


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
