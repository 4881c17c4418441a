"""Does integer mode give LiteRT's integers for this model? Every tensor compared, and a certificate of what was found."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ._version import NUMERICS, __version__
from .errors import OracleFailed, QsimError, Unsupported
from .graph import Model, Tensor
from .inference import sized
from .isolate import alone
from .litert import Oracle, cpu_class
from .op import FLAVOURS, site
from .state import initial
from .types import TYPES, code_range

if TYPE_CHECKING:
    from .function import Function

# A real may differ from LiteRT's by this share of the largest value of its tensor: of one op on the same inputs, and of the whole graph,
# where differences of earlier ops are carried on; or by ROUNDING times what it moves by in WOBBLES runs with every real input of every
# op moved at random by up to an ulp (Monte Carlo arithmetic: Parker, "Monte Carlo Arithmetic", 1997), of sums of n products by sqrt(n)
# ulps (how the error of a sum grows: Higham and Mary, "A new approach to probabilistic rounding error analysis", 2019). Integers may not
# differ.
REAL_SHARE = {"per op": 3e-6, "whole": 1e-5}
ROUNDING, WOBBLES = 16, 8
BEHIND_REALS = "reals before it differ in their last bits, and roundings carry that on"
HELD_BYTES = 1 << 28  # intermediates held at once
STYLES = ("uniform", "saturating", "ties")


Values = Mapping[int, np.ndarray]  # by tensor
Room = Callable[[], Any]


@dataclass
class Tally:
    """One tensor beside LiteRT's: elements compared, elements that differ, the first of them (index, our value, LiteRT's).

    share: what a real may differ by, and worst: what one differed by at most, as shares of the largest value of its batch; rounding:
    reals beyond the share that rounding alone moves as far (ROUNDING). 0 elements: LiteRT does not hand the tensor out.
    """

    op: int
    kind: str
    tensor: str
    type: str
    elements: int = 0
    differing: int = 0
    first: dict[str, Any] | None = None
    share: float = REAL_SHARE["per op"]
    worst: float = 0.0
    rounding: int = 0

    def add(self, mine: np.ndarray, theirs: np.ndarray, first_sample: int = 0, room: Room | None = None) -> None:
        """Count two arrays (N, *shape); `room` gives what rounding may move. *Raises*: ValueError where shapes or types differ."""
        if (mine.shape, mine.dtype) != (theirs.shape, theirs.dtype):
            raise ValueError(f"{self.tensor}: {mine.shape} {mine.dtype} against LiteRT's {theirs.shape} {theirs.dtype}")
        wrong, worst = _differ(mine, theirs, self.share)
        self.worst = max(self.worst, worst)
        if mine.dtype.kind == "f" and room is not None and wrong.any():
            with np.errstate(invalid="ignore"):
                explained = wrong & (np.abs(mine - theirs) <= room())
            wrong, self.rounding = wrong & ~explained, self.rounding + int(explained.sum())
        self.elements, self.differing = self.elements + mine.size, self.differing + int(wrong.sum())
        if self.first is None and wrong.any():
            at = tuple(int(i) for i in np.argwhere(wrong)[0])
            index = [first_sample + at[0], *at[1:]]
            self.first = {"index": index, "qsim": mine[at].item(), "litert": theirs[at].item()}


def _differ(mine: np.ndarray, theirs: np.ndarray, share: float) -> tuple[np.ndarray, float]:
    """(where two arrays differ, the largest difference of reals as a share of the largest finite value)."""
    if mine.dtype.kind != "f":
        return mine != theirs, 0.0
    finite = np.isfinite(theirs)
    largest = float(np.abs(theirs[finite]).max(initial=0.0))
    with np.errstate(invalid="ignore", over="ignore"):
        distance = np.abs(mine - theirs)
        near = (distance <= share * largest) | (mine == theirs) | (np.isnan(mine) & np.isnan(theirs))
    both = finite & np.isfinite(mine)
    return ~near, float(distance[both].max(initial=0.0)) / largest if largest else 0.0


@dataclass(frozen=True)
class Outcome:
    """One flavour. status: "exact", "differs", "unsupported" (an op has no kernel here), "litert failed" (refused, aborted, hung).

    per_op: each op fed LiteRT's own intermediates; whole: the whole graph. `cause`: where the first difference comes from, or why nothing
    was compared.
    """

    status: str
    cause: str = ""
    per_op: tuple[Tally, ...] = ()
    whole: tuple[Tally, ...] = ()

    @property
    def elements(self) -> int:
        return sum(t.elements for t in (*self.per_op, *self.whole))

    @property
    def differing(self) -> int:
        return sum(t.differing for t in (*self.per_op, *self.whole))

    @property
    def rounding(self) -> int:
        """Reals beyond the share of their tensor that rounding explains."""
        return sum(t.rounding for t in (*self.per_op, *self.whole))

    @property
    def unseen(self) -> tuple[str, ...]:
        """Tensors of ops that were not compared: LiteRT does not hand them out, or hands out no inputs of their op."""
        return tuple(t.tensor for t in self.per_op if not t.elements)


@dataclass(frozen=True)
class Certificate:
    """What `certify` found: which bytes, which runtime, which CPU, which inputs, and per flavour every tensor's counts.

    sequence: the samples of a style were invocations in a row of one interpreter.
    """

    model: str
    sha256: str
    litert: str
    cpu: str
    samples: Mapping[str, int]
    seed: int | None
    sequence: bool = False
    flavours: Mapping[str, Outcome] = field(default_factory=dict)

    @property
    def exact(self) -> bool:
        return all(o.status == "exact" for o in self.flavours.values())

    def document(self) -> dict[str, Any]:
        """The certificate as JSON has it."""
        found = asdict(self)
        for flavour, outcome in self.flavours.items():
            counts = {k: getattr(outcome, k) for k in ("elements", "differing", "rounding")}
            found["flavours"][flavour] |= counts | {"unseen": list(outcome.unseen)}
        return {"format": "qsim certificate 1", "qsim": __version__, "numerics": NUMERICS, "exact": self.exact, **found}


def certify(
    model: Model,
    inputs: Sequence[Any] | None = None,
    *,
    flavours: Sequence[str] = FLAVOURS,
    samples: int = 16,
    seed: int = 0,
    sequence: bool | None = None,
    timeout: float = 600.0,
    step: Callable[[str], None] = lambda _: None,
) -> Certificate:
    """Compare every tensor of the primary graph in integer mode with the installed LiteRT, in one thread, CPU, per flavour.

    inputs: one array (N, *shape) per model input in its stored type; None: `samples` of each of three generated styles (`generated`).
    sequence: whether the samples of a style are invocations in a row, which carry the state on; None: where the model has a state.
    Each op is fed LiteRT's own intermediates, and the whole graph is run. Integers must be equal; reals may differ by REAL_SHARE of
    their tensor's largest value, and where sums cancel or curves are steep by what rounding moves there. Tensors that LiteRT does not
    hand out (outputs that nothing reads, in XNNPACK) have 0 elements and are listed as unseen.
    LiteRT runs in a child process: a refusal, an abort or `timeout` seconds without an answer is an outcome, not an error. `step` is
    called with a word at each stage. *Raises*: BadData where inputs do not fit the model; OracleFailed where LiteRT is not installed.
    """
    from .writer import to_bytes

    data = to_bytes(model)
    in_a_row = bool(initial(model)) if sequence is None else sequence
    sets = {"given": [np.asarray(x) for x in inputs]} if inputs is not None else generated(model, samples, seed)
    made: list[Judge] = []
    with Oracle(timeout) as oracle:
        version = oracle.version()
        found = {flavour: _judged(model, data, flavour, sets, oracle, step, in_a_row, made) for flavour in flavours}
    counts = {style: len(arrays[0]) if arrays else 1 for style, arrays in sets.items()}
    digest = hashlib.sha256(data).hexdigest()
    return Certificate(model.path, digest, version, cpu_class(), counts, None if inputs is not None else seed, in_a_row, found)


def _judged(
    model: Model, data: bytes, flavour: str, sets: Mapping[str, list[np.ndarray]], oracle: Oracle, step: Any, sequence: bool,
    earlier: list[Judge],
) -> Outcome:  # fmt: skip
    try:
        step(f"{flavour}: compiling")
        judge = Judge(model, flavour, oracle, data, sequence, earlier)
    except Unsupported as fault:
        return Outcome("unsupported", str(fault))
    earlier.append(judge)
    try:
        for style, arrays in sets.items():
            step(f"{flavour}: {style}")
            judge.judge(*arrays)
    except OracleFailed as fault:
        per_op, whole = judge.tallies()
        return Outcome("litert failed", str(fault), per_op, whole)
    per_op, whole = judge.tallies()
    wrong = next((t for t in per_op if t.differing), None)
    if wrong is not None:
        cause = f"op {wrong.op} {wrong.kind} alone, on LiteRT's own inputs, gives other values{_known_defect(model, wrong.op, flavour)}"
        return Outcome("differs", cause, per_op, whole)
    carried = next((t for t in whole if t.differing), None)
    if carried is not None:
        why = BEHIND_REALS if any(t.worst for t in whole if t.op < carried.op) else "compiled together, ops give other values than alone"
        return Outcome(
            "differs", f"every op is right on LiteRT's own inputs, but in the graph op {carried.op} {carried.kind}: {why}", per_op, whole
        )
    return Outcome("exact", "", per_op, whole)


def _known_defect(model: Model, index: int, flavour: str) -> str:
    """What is known to be wrong with LiteRT's kernel of an op, to be appended to a cause."""
    from .ops import REGISTRY

    where, record = site(model.graph, model.graph.nodes[index]), REGISTRY.get(model.graph.nodes[index].op)
    kernels = record.kernels if record is not None else ()
    found = next((k.defects.get(flavour) for k in kernels if k.serves(where.types, flavour)), None)
    return f"; known of LiteRT: {found}" if found else ""


def _moves(mine: Values, wobbled: Callable[[np.random.Generator], Values]) -> Values:
    """ROUNDING times how far each real tensor went from `mine` in WOBBLES runs."""
    rng, found = np.random.default_rng(0), {t: np.zeros_like(x) for t, x in mine.items() if x.dtype.kind == "f"}
    for _ in range(WOBBLES):
        with np.errstate(invalid="ignore"):
            moved = {t: np.abs(x - mine[t]) for t, x in wobbled(rng).items() if t in found}
        found = {t: np.fmax(found[t], moved[t]) for t in moved}
    return {t: ROUNDING * x for t, x in found.items()}


def _of(values: Callable[[], Values], t: int) -> Any:
    return values().get(t, 0.0)


def _terms(fn: Function) -> int:
    """How many products each output of a one-op function sums: weights per output channel; 1 for ops without weights."""
    from .ops import REGISTRY

    node = fn.graph.nodes[0]
    rule = REGISTRY[node.op].rule if node.op in REGISTRY else None
    if rule is None or rule.weights is None or rule.weight_axis is None:
        return 1
    shape = fn.graph.tensors[node.inputs[rule.weights]].shape
    return max(1, int(np.prod(shape)) // max(shape[rule.weight_axis], 1))


def _nudged(x: np.ndarray, rng: np.random.Generator, most: float) -> np.ndarray:
    """Reals times 1 + u, u uniform within `most` ulps; integers as they are."""
    if x.dtype.kind != "f":
        return x
    ulp = most * np.finfo(x.dtype).eps
    return (x * (1 + rng.uniform(-ulp, ulp, x.shape))).astype(x.dtype)


class Judge:
    """A model in one flavour beside LiteRT. *Raises*: Unsupported.

    Functions are compiled once and serve every batch of inputs; where flavours run the same code, also the judges after (`earlier`).
    """

    def __init__(self, model: Model, flavour: str, oracle: Oracle, data: bytes, sequence: bool = False, earlier: Sequence[Judge] = ()):
        model = model.but(graphs=(sized(model.graph), *model.graphs[1:]))
        self.model, self.flavour, self.oracle, self.data, self.sequence = model, flavour, oracle, data, sequence
        self.function = model.function("integer", flavour, taps="all")
        self.ops = {n.index: one.function("integer", flavour) for n in model.graph.nodes if (one := alone(model, n.index)) is not None}
        for judge in earlier:
            self.function.reuse(judge.function)
            for index, fn in self.ops.items():
                fn.reuse(judge.ops[index])
        self.per_op = {t: self._tally(t) for i in self.ops for t in model.graph.nodes[i].outputs}
        self.whole = {t: self._tally(t, "whole") for t in dict.fromkeys((*(self.function.taps or ()), *model.graph.outputs))}
        self.seen = 0

    def judge(self, *inputs: np.ndarray) -> None:
        """Count one batch of samples (a sequence starts with each batch), one array per model input."""
        size = sum(int(np.prod(t.shape)) * 4 for n in self.model.graph.nodes for t in map(self._tensor, n.outputs))
        count = len(inputs[0]) if inputs else 1
        room = count if self.sequence else max(1, HELD_BYTES // max(size, 1))
        for start in range(0, count, room):
            self._compare([x[start : start + room] for x in inputs])

    def _compare(self, inputs: list[np.ndarray]) -> None:
        theirs = self.oracle.run(self.data, inputs, self.flavour, "all", sequence=self.sequence)
        for fn in (f for f in self.ops.values() if theirs.keys() >= set(f.graph.inputs)):
            self._count(self.per_op, self._outputs(fn, theirs), theirs, functools.partial(self._wobbled, fn, theirs))
        outputs, taps = self._run(self.function)(*inputs)
        found, given = (
            taps | dict(zip(self.model.graph.outputs, outputs, strict=True)),
            dict(zip(self.model.graph.inputs, inputs, strict=True)),
        )
        self._count(self.whole, found, theirs, functools.partial(self._wobbled_graph, given))
        self.seen += len(inputs[0]) if inputs else 1

    def _count(self, tallies: Mapping[int, Tally], mine: Values, theirs: Values, wobbled: Callable[[np.random.Generator], Values]) -> None:
        moves = functools.cache(functools.partial(_moves, mine, wobbled))
        for t in mine.keys() & theirs.keys():
            tallies[t].add(mine[t], theirs[t], self.seen, functools.partial(_of, moves, t))

    def _run(self, fn: Function) -> Callable[..., Any]:
        return fn.sequence if self.sequence else fn.batch

    def _outputs(self, fn: Function, values: Values) -> Values:
        return dict(zip(fn.graph.outputs, self._run(fn)(*(values[t] for t in fn.graph.inputs)), strict=True))

    def _wobbled(self, fn: Function, values: Values, rng: np.random.Generator) -> Values:
        """The outputs of an op with each real input moved by up to an ulp, or as many as its sums ask for."""
        most = np.sqrt(_terms(fn))
        return self._outputs(fn, {t: _nudged(values[t], rng, most) for t in fn.graph.inputs})

    def _wobbled_graph(self, values: Values, rng: np.random.Generator) -> Values:
        """Every tensor of the graph, op by op, each op's real inputs moved; without what follows an op that cannot run alone."""
        for fn in (f for f in self.ops.values() if values.keys() >= set(f.graph.inputs)):
            values = {**values, **self._wobbled(fn, values, rng)}
        return values

    def tallies(self) -> tuple[tuple[Tally, ...], tuple[Tally, ...]]:
        """Per op and whole graph, in the order of the ops."""
        per_op, whole = (tuple(sorted(found.values(), key=lambda t: t.op)) for found in (self.per_op, self.whole))
        return per_op, whole

    def _tensor(self, index: int) -> Tensor:
        return self.model.graph.tensors[index]

    def _tally(self, index: int, side: str = "per op") -> Tally:
        graph = self.model.graph
        op = graph.producer.get(index, -1)
        return Tally(op, graph.nodes[op].op if op >= 0 else "input", graph.key(index), graph.tensors[index].type, share=REAL_SHARE[side])


# inputs ---------------------------------------------------------------


def generated(model: Model, samples: int, seed: int = 0) -> dict[str, list[np.ndarray]]:
    """`samples` of each style for the model's inputs, seeded. uniform: over the whole range; saturating: only its two ends;
    ties: codes within 4 steps of the zero point, reals on halves of a step. Plain integers (indices) and booleans: 0 and 1."""
    rng = np.random.default_rng(seed)
    graph = model.graph
    return {style: [_drawn(style, graph.tensors[t], model, rng, samples) for t in graph.inputs] for style in STYLES}


def _drawn(style: str, t: Tensor, model: Model, rng: np.random.Generator, samples: int) -> np.ndarray:
    kind, shape = TYPES[t.type], (samples, *t.shape)
    if kind.dtype is None:
        raise Unsupported(f"inputs of type {t.type} cannot be generated", where=f"input {t.name!r}", hint="Give the inputs")
    if t.type in ("float32", "float16", "float64"):
        return _reals(style, _quantized_to(model, t), rng, shape).astype(kind.dtype)
    if t.qparams is None and t.type not in ("int8", "uint8", "int16"):
        return rng.integers(0, 2, shape).astype(kind.dtype)
    low, high = code_range(t.type)
    zero = int(np.ravel(t.qparams.zero_point)[0]) if t.qparams is not None else 0
    if style == "uniform":
        return rng.integers(low, high, shape, endpoint=True).astype(kind.dtype)
    if style == "saturating":
        return rng.choice(np.array([low, high]), shape).astype(kind.dtype)
    return np.clip(zero + rng.integers(-4, 4, shape, endpoint=True), low, high).astype(kind.dtype)


def _quantized_to(model: Model, t: Tensor) -> tuple[float, float, float]:
    """(low, high, step) of what a real input is quantized to; -1, 1 and 1/128 where it stays real."""
    for node in model.graph.nodes:
        y = model.graph.tensors[node.outputs[0]] if node.outputs else None
        if node.op == "QUANTIZE" and t.index in node.inputs and y is not None and y.qparams is not None:
            scale, zero = float(np.ravel(y.qparams.scale)[0]), int(np.ravel(y.qparams.zero_point)[0])
            low, high = code_range(y.type)
            return (low - zero) * scale, (high - zero) * scale, scale
    return -1.0, 1.0, 1 / 128


def _reals(style: str, spread: tuple[float, float, float], rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    low, high, step = spread
    if style == "uniform":
        return rng.uniform(low, high, shape)
    if style == "saturating":
        return rng.choice(np.array([2 * low, low, high, 2 * high]), shape)
    return (rng.integers(-64, 64, shape) + 0.5) * step


def rows(certificate: Certificate) -> Iterator[dict[str, Any]]:
    """A line per flavour, for a table."""
    for flavour, o in certificate.flavours.items():
        per_op, whole = sum(t.differing for t in o.per_op), sum(t.differing for t in o.whole)
        counts = {"elements": o.elements, "differ per op": per_op, "differ in the graph": whole, "by rounding": o.rounding}
        yield {"flavour": flavour, "result": o.status, **counts, "tensors not seen": len(o.unseen)}


def exit_code(certificate: Certificate) -> int:
    """0 exact; 1 something differs; else that of Unsupported or OracleFailed."""
    codes: dict[str, type[QsimError] | int] = {"differs": 1, "unsupported": Unsupported, "litert failed": OracleFailed}
    found = [codes[o.status] for o in certificate.flavours.values() if o.status != "exact"]
    return min((c if isinstance(c, int) else c.exit_code for c in found), default=0)
