"""The device side of the pass: which tensors to watch, and the compiled loop that folds a block of samples into their sketches."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from qsim.function import Function
from qsim.graph import Graph, Model
from qsim.inference import host_values, sized

from . import gradients, inside
from . import statistics as st
from .feeding import Batch, ports
from .gradients import Slopes
from .preactivation import separated

MOST_SAMPLED = 1 << 14  # elements a sample above which whole pixels are sampled for the histogram
SEED = 20_231_122  # of the sampled positions; part of the numerics
MOST_COUNT = 2**31 - 1  # of a histogram bin on the device
COPIES = frozenset({"RESHAPE", "SQUEEZE", "EXPAND_DIMS", "TRANSPOSE"})  # outputs hold the values of the first input, moved
BLOCK_BYTES, BLOCK_SAMPLES = 32 << 20, 512  # of input in one call
ENDS = ("low", "high", "bad", "fractional")  # what `ends` gives
LARGEST_SUM = 2**63  # of squared gradients in a bin on the device


@dataclass(frozen=True)
class Wanted:
    """What a pass is to gather. taps: tensors, None for all that hold reals. exact: every element feeds the histogram. gradients: draws
    of squared gradients, 0 for none. task: see `gradients.readings`. before: tensors whose values before the activation are wanted too."""

    taps: tuple[int, ...] | None = None
    exact: bool = False
    gradients: int = 0
    task: str | None = None
    before: tuple[int, ...] = ()


EVERYTHING = Wanted()


class Histograms(NamedTuple):
    """On the device, a tensor each: counts (BINS,) int32, and halves of the sums of squared gradients (2, BINS) uint32."""

    counts: tuple[Any, ...]
    weights: tuple[Any, ...]


class Results(NamedTuple):
    """Of a block: per sample `ends` of every watched tensor and counts of (NaN, infinity); raw values; cut gradients of each tensor."""

    rows: Any
    kinds: Any
    raw: dict[int, Any]
    cut: Any


@dataclass(frozen=True, eq=False)
class Watch:
    """A tensor to observe: elements a sample, the sampled pixels (None: every element), and whether its values may be kept raw."""

    index: int
    size: int
    channels: int
    positions: np.ndarray | None

    @property
    def sampled(self) -> int:
        return self.size if self.positions is None else len(self.positions) * self.channels

    @property
    def raw(self) -> bool:
        return self.size <= st.RAW_SIZE


def sampled_positions(shape: Sequence[int]) -> np.ndarray | None:
    """Pixels (flat index over all axes but the last) whose channels feed the histogram; None where every element does.

    About 16,384 elements' worth, drawn without repetition from a fixed seed and the shape: the same for every sample and run. Whole
    pixels, because a stride through the flat tensor that shares a factor with the channel count sees only some channels.
    """
    size, channels = int(np.prod(shape)), int(shape[-1]) if shape else 1
    pixels = size // max(channels, 1)
    wanted = -(-MOST_SAMPLED // max(channels, 1))
    if size <= MOST_SAMPLED or wanted >= pixels:
        return None
    return np.sort(np.random.default_rng([SEED, pixels, channels]).choice(pixels, wanted, replace=False)).astype(np.int32)


def _watches(model: Model, taps: Sequence[int] | None, exact: bool = False) -> tuple[tuple[Watch, ...], dict[int, int]]:
    """The tensors to observe, and which others repeat their values."""
    g = sized(model.graph)
    known = host_values(g)
    computed = [*g.inputs, *(t for n in g.nodes for t in n.outputs if t not in known)]
    real = [t for t in computed if g.tensors[t].type == "float32" or (g.tensors[t].qparams is not None)]
    copies: dict[int, int] = {}
    for n in g.nodes:
        if n.op in COPIES and n.inputs[0] in real and n.outputs[0] in real and _keeps_grid(g, n.inputs[0], n.outputs[0]):
            copies[n.outputs[0]] = copies.get(n.inputs[0], n.inputs[0])
    cells = inside.cells(model)
    wanted = [*real, *cells] if taps is None else taps
    roots = dict.fromkeys(copies.get(t, t) for t in wanted if t in real or t in cells)
    watches = []
    for t in roots:
        shape = cells[t].shape if t in cells else g.tensors[t].shape
        watches.append(Watch(t, int(np.prod(shape)), int(shape[-1]) if shape else 1, None if exact else sampled_positions(shape)))
    return tuple(w for w in watches if w.size), {t: r for t, r in copies.items() if r in roots}


def _keeps_grid(g: Graph, source: int, target: int) -> bool:
    return g.tensors[source].type == g.tensors[target].type == "float32"


def bins_of(x: Any, watch: Watch, valid: Any = None) -> Any:
    """Histogram bins (m * sampled,) of the elements of (m, *shape) that feed the histogram. valid: (m,) bool, samples that count (the
    bins of the others are out of bounds); None for all. Pure."""
    bins = (_keys(sampled(x, watch)) >> st.SHIFT) + jnp.int32(st.ZERO)
    return (bins if valid is None else jnp.where(valid[:, None], bins, jnp.int32(st.BINS))).reshape(-1)


def sampled(x: Any, watch: Watch) -> Any:
    """(m, sampled): the elements of (m, *shape) that feed the histogram. Pure."""
    if watch.positions is None:
        return x.reshape(x.shape[0], -1)
    return x.reshape(x.shape[0], -1, watch.channels)[:, watch.positions].reshape(x.shape[0], -1)


def count(histogram: Any, bins: Any, weights: Any = 1) -> Any:
    """A histogram (BINS,) of int32 or int64 with a weight for every element added; bins out of bounds are dropped. Pure."""
    with jax.enable_x64(histogram.dtype == np.int64):
        return histogram.at[bins].add(weights, mode="drop")


def ends(x: Any) -> Any:
    """(m, 4) int32 of (m, *shape): each sample's lowest and highest key, how many elements are bad, whether any is fractional. Pure.

    One reduction for all four: several times faster than one each, and integer keys compare faster than floats with their NaN.
    """
    flat = x.reshape(x.shape[0], -1)
    keys = _keys(flat)
    good = (keys < jnp.int32(st.HUGE)) & (keys >= jnp.int32(-st.HUGE))
    operands = (
        jnp.where(good, keys, jnp.int32(st.EMPTY_LOW)),
        jnp.where(good, keys, jnp.int32(st.EMPTY_HIGH)),
        (~good).astype(jnp.int32),
        (good & (flat != jnp.floor(flat))).astype(jnp.int32),
    )
    start = tuple(np.int32(v) for v in (st.EMPTY_LOW, st.EMPTY_HIGH, 0, 0))

    def fold(a: Any, b: Any) -> Any:
        return jnp.minimum(a[0], b[0]), jnp.maximum(a[1], b[1]), a[2] + b[2], a[3] | b[3]

    return jnp.stack(lax.reduce(operands, start, fold, (1,)), axis=1)


def kinds(x: Any) -> Any:
    """(m, 2) int32 of (m, *shape): how many elements of each sample are NaN, how many infinite. Pure."""
    size = lax.bitcast_convert_type(x.reshape(x.shape[0], -1), jnp.int32) & jnp.int32(0x7FFFFFFF)
    return jnp.stack([(size > st.INFINITE).sum(axis=1), (size == st.INFINITE).sum(axis=1)], axis=1).astype(np.int32)


def _keys(x: Any) -> Any:
    bits = lax.bitcast_convert_type(x, jnp.int32)
    return bits ^ ((bits >> 31) & jnp.int32(0x7FFFFFFF))


@functools.lru_cache(maxsize=4)
def compiled(model: Model, wanted: Wanted = EVERYTHING) -> Pass:
    """The pass for a model; kept, so that shards of one data set share a compile."""
    return Pass(model, wanted)


class Pass:
    """The compiled pass over blocks of micro-batches. Holds no data: histograms are handed in and come back.

    before: tensor -> the number under which it is watched before its activation.
    units: exponent of the unit of each watched tensor's squared gradients, where gradients are wanted; those of values inside ops have
    none and are not weighed.
    """

    def __init__(self, model: Model, wanted: Wanted):
        model, self.before = separated(model, wanted.before) if wanted.before else (model, {})
        taps = None if wanted.taps is None else (*wanted.taps, *self.before.values())
        self.watches, self.copies = _watches(model, taps, wanted.exact)
        self.cells = {t: c for t, c in inside.cells(model).items() if any(w.index == t for w in self.watches)}
        read = [c.node.inputs[0] for c in self.cells.values()]
        self.function = Function(model, "float", "xnnpack", taps=[*(w.index for w in self.watches), *read])
        self.on_cpu = jax.default_backend() == "cpu"
        self.size = self.function.micro_batch if self.on_cpu else 128
        self.draws = wanted.gradients
        self.weighed = tuple(w for w in self.watches if w.index not in self.cells) if wanted.gradients else ()
        self.slopes = Slopes(self.function, [w.index for w in self.weighed], self.draws, wanted.task) if self.weighed else None
        per_sample = sum(int(np.prod(p.shape)) * p.dtype.itemsize for p in ports(model))
        self._limit()
        self.chunks = max(1, min(BLOCK_BYTES // max(per_sample * self.size, 1), BLOCK_SAMPLES // self.size, self.most // self.size))
        self.block = self.chunks * self.size
        self._jitted = jax.jit(self._run, donate_argnums=1)
        self.units = self._units(model) if self.slopes else np.zeros(0, int)

    def _limit(self) -> None:
        """`most`: samples whose elements fit a bin of a histogram on the device, if all of them fell into it. `largest`: units that an
        element's squared gradient can weigh."""
        elements = max((w.sampled for w in self.watches), default=1)
        self.most, squares = MOST_COUNT // elements, elements * max(self.draws, 1)
        self.largest = min(2.0**gradients.MOST, 2.0 ** ((LARGEST_SUM // (squares * self.size)).bit_length() - 1))
        if self.draws:
            self.most = min(self.most, LARGEST_SUM // (squares * int(self.largest)))

    def _units(self, model: Model) -> np.ndarray:
        """The exponents of units: of the model alone, by `gradients.exponents`."""
        batch = Batch(gradients.probes(model, gradients.PROBES), ())
        noise = gradients.words(range(gradients.PROBES), self.draws, 0)

        def sums(exponents: np.ndarray) -> np.ndarray:
            histograms, results = self._call(self.fresh(), batch, noise, exponents, True)
            found = [gradients.whole_numbers(h).sum(dtype=np.float64) for h in histograms.weights]
            return np.where(np.asarray(results.cut) > 0, np.inf, found)

        return gradients.exponents(sums, np.array([w.sampled * self.draws * len(batch) for w in self.weighed], float))

    def fresh(self) -> Histograms:
        return Histograms(
            tuple(jnp.zeros(st.BINS, jnp.int32) for _ in self.watches), tuple(jnp.zeros((2, st.BINS), jnp.uint32) for _ in self.weighed)
        )

    def __call__(self, histograms: Histograms, batch: Batch, words: np.ndarray) -> tuple[Histograms, Results]:
        """Histograms with a block's samples counted in, and what it gives besides. words: see `gradients.words`."""
        return self._call(histograms, batch, words, self.units, False)

    def _call(
        self, histograms: Histograms, batch: Batch, words: np.ndarray, units: np.ndarray, probing: bool
    ) -> tuple[Histograms, Results]:
        chunks = [_padded(a, self.block).reshape(self.chunks, self.size, *a.shape[1:]) for a in (words, *batch.arrays)]
        scales = np.float32(2.0) ** np.float32(-units / 2)
        return self._jitted(self.function.params, histograms, np.int32(len(batch)), np.bool_(probing), scales.astype(np.float32), *chunks)

    def _run(self, params: Any, histograms: Histograms, total: Any, probing: Any, scales: Any, *chunks: Any) -> Any:
        """The first `total` samples of (chunks, micro-batch, *shape) words and inputs."""
        sample = jax.vmap(functools.partial(self._taps, params), in_axes=(None, 0, *(0 for _ in chunks[1:])))
        fold = self._one_by_one if self.on_cpu else self._together

        def body(i: Any, carry: Any) -> Any:
            folded, raw, found = carry
            taps, slopes = sample(probing, *(lax.dynamic_index_in_dim(c, i, keepdims=False) for c in chunks))
            raw = {t: lax.dynamic_update_slice(r, taps[t].reshape(self.size, -1), (i * self.size, 0)) for t, r in raw.items()}
            values, steep = [taps[w.index] for w in self.watches], [slopes[w.index] for w in self.weighed]
            folded = fold(folded, values, steep, scales, i * self.size, total)
            return folded, raw, self._kinds(found, folded.rows, values, i * self.size)

        rows = jnp.zeros((self.block, len(self.watches), len(ENDS)), jnp.int32)
        raw = {w.index: jnp.zeros((self.block, w.size), jnp.float32) for w in self.watches if w.raw}
        weights = tuple(gradients.joined(h) for h in histograms.weights)
        folded = _Folded(histograms.counts, weights, jnp.zeros(len(self.weighed), jnp.int32), rows)
        start = folded, raw, jnp.zeros((self.block, len(self.watches), 2), jnp.int32)
        folded, raw, found = lax.fori_loop(0, (total + self.size - 1) // self.size, body, start)
        return Histograms(folded.counts, tuple(gradients.split(h) for h in folded.weights)), Results(folded.rows, found, raw, folded.cut)

    def _taps(self, params: Any, probing: Any, word: Any, *inputs: Any) -> tuple[dict[int, Any], dict[int, Any]]:
        """The watched tensors of one sample, and their gradients."""
        taps, slopes = self.slopes(params, word, probing, *inputs) if self.slopes else (self.function.apply(params, *inputs)[1], {})
        graph = self.function.graph
        return {t: taps[t] for t in self.function.taps or () if t in taps} | {
            t: inside.values(graph, c, params, taps[c.node.inputs[0]]) for t, c in self.cells.items()
        }, slopes

    def _kinds(self, found: Any, rows: Any, values: list[Any], first: Any) -> Any:
        """Counts of NaN and infinity of a micro-batch, which are looked for only where an element was bad."""
        bad = lax.dynamic_slice_in_dim(rows, first, self.size)[:, :, ENDS.index("bad")]
        nothing = jnp.zeros((self.size, len(values), 2), jnp.int32)
        new = lax.cond((bad > 0).any(), lambda xs: jnp.stack([kinds(x) for x in xs], axis=1), lambda xs: nothing, values)
        return lax.dynamic_update_slice(found, new, (first, 0, 0))

    def _one_by_one(self, folded: _Folded, values: list[Any], steep: list[Any], scales: Any, first: Any, total: Any) -> _Folded:
        """A loop over the valid samples of a micro-batch. The loop makes XLA compute each tensor once: it would otherwise repeat the
        tensor's elementwise producers, unvectorized, inside the reduction and the scatter."""

        def one(j: Any, folded: _Folded) -> _Folded:
            part = [lax.dynamic_slice_in_dim(x, j, 1) for x in values], [lax.dynamic_slice_in_dim(g, j, 1) for g in steep]
            return self._fold(folded, *part, scales, first + j, None)

        return lax.fori_loop(0, jnp.minimum(self.size, total - first), one, folded)

    def _together(self, folded: _Folded, values: list[Any], steep: list[Any], scales: Any, first: Any, total: Any) -> _Folded:
        """A whole micro-batch at once, padding masked out."""
        return self._fold(folded, values, steep, scales, first, first + jnp.arange(self.size, dtype=jnp.int32) < total)

    def _fold(self, folded: _Folded, values: list[Any], steep: list[Any], scales: Any, first: Any, valid: Any) -> _Folded:
        """Samples (m, *shape) and their gradients (m, draws, *shape) folded in, their rows written from `first` on."""
        bins = [bins_of(x, w, valid) for x, w in zip(values, self.watches, strict=True)]
        counts = tuple(count(h, b) for h, b in zip(folded.counts, bins, strict=True))
        rows = lax.dynamic_update_slice(folded.rows, jnp.stack([ends(x) for x in values], axis=1), (first, 0, 0))
        which = {w.index: b for w, b in zip(self.watches, bins, strict=True)}
        weights, cuts = [], [jnp.zeros(0, jnp.int32)]
        for k, (h, g, w) in enumerate(zip(folded.weights, steep, self.weighed, strict=True)):
            draws = jnp.stack([sampled(g[:, d], w) for d in range(self.draws)])
            draws = draws if valid is None else jnp.where(valid[:, None], draws, np.float32(0))
            whole, n = gradients.units_of(draws.reshape(self.draws, -1), scales[k], self.largest)
            weights.append(count(h, which[w.index], whole))
            cuts.append(n[None])
        return _Folded(counts, tuple(weights), folded.cut + jnp.concatenate(cuts), rows)


class _Folded(NamedTuple):
    """What the loop over micro-batches carries: counts and sums (int64) of each tensor, elements with cut gradients, `ends`."""

    counts: tuple[Any, ...]
    weights: tuple[Any, ...]
    cut: Any
    rows: Any


def _padded(x: np.ndarray, n: int) -> np.ndarray:
    return x if len(x) == n else np.concatenate([x, np.zeros((n - len(x), *x.shape[1:]), x.dtype)])
