"""The one pass over the data: a float model's tensors into mergeable statistics, inside one compiled loop.

Every micro-batch runs the float function and folds its tensors into the carried histograms: a scatter-add over float bits, and one
reduction per sample for the exact extremes. The micro-batch is fixed per model, whatever batches the data come in, because float
results on XLA change with the batch size; a sample's values then depend on nothing but the sample.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from qsim.errors import BadData
from qsim.function import Function, host_values
from qsim.graph import Graph, Model

from . import statistics as st
from .feeding import Batch, Scaling, feed, finite, ports
from .statistics import Domain, Sketch, Statistics

log = logging.getLogger("qsim")
MOST_SAMPLED = 1 << 14  # elements a sample above which whole pixels are sampled for the histogram
SEED = 20_231_122  # of the sampled positions; part of the numerics
MOST_COUNT = 2**31 - 1  # of a histogram bin on the device
COPIES = frozenset({"RESHAPE", "SQUEEZE", "EXPAND_DIMS", "TRANSPOSE"})  # outputs hold the values of the first input, moved
BLOCK_BYTES, BLOCK_SAMPLES = 32 << 20, 512  # of input in one call


def observe(
    model: Model,
    batches: Any,
    *,
    taps: Sequence[str | int] | None = None,
    sequence: bool = True,
    nonfinite: str = "raise",
    progress: Callable[[int], None] | None = None,
) -> Statistics:
    """Statistics of a model's float tensors over data, in one pass (each sample is asked for once).

    batches: see `feeding.feed`; batch sizes do not matter. taps: tensor keys to observe; default every model input and op output that
    holds reals. sequence: keep each sample's extremes in order (8 bytes a sample and tensor), for `moving_average`. nonfinite:
    "raise" (BadData naming sample and input for NaN or infinity in the data) or "skip" (left out and counted). progress: called with
    the number of samples done. NaN, infinity and +-FLT_MAX in intermediate tensors are counted, and take no part in ranges.

    Tensors above 16,384 elements a sample feed the histogram with whole pixels (all channels) at seeded positions, the same for every
    sample; extremes always see every element. *Raises*: BadData, Unsupported (ops without a float function).
    """
    watches, copies = _watches(model, taps)
    run = _Pass(model, watches)
    gathered = _Gathered(watches, sequence)
    domains: dict[int, Domain] | None = None
    block: list[Batch] = []
    held, scaling, wanted = 0, getattr(batches, "scaling", None) or Scaling(), ports(model)
    for batch in feed(model, batches):
        domains = _common(domains, _domains(wanted, batch, scaling))
        batch, left_out = finite(batch, wanted, gathered.samples + gathered.skipped + held, nonfinite)
        gathered.skipped += left_out
        block, held = [*block, batch], held + len(batch)
        while held >= run.block:
            part, block, held = _take(block, run.block)
            gathered.add(run(part), part)
            if progress:
                progress(gathered.samples)
    if held:
        part, _, _ = _take(block, held)
        gathered.add(run(part), part)
    gathered.close(run)
    if not gathered.samples:
        raise BadData("no samples left", found=f"{gathered.skipped} left out for NaN or infinity")
    if progress:
        progress(gathered.samples)
    return Statistics(
        gathered.sketches(), st.model_hash(model), copies, domains or {}, gathered.samples, gathered.skipped,
        gathered.fingerprint, sequence=gathered.sequences(),
    )  # fmt: skip


# ---------------------------------------------------------------- which tensors


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


def _watches(model: Model, taps: Sequence[str | int] | None) -> tuple[tuple[Watch, ...], dict[int, int]]:
    """The tensors to observe, and which others repeat their values."""
    g = model.graph
    known = host_values(g)
    computed = [*g.inputs, *(t for n in g.nodes for t in n.outputs if t not in known)]
    real = [t for t in computed if g.tensors[t].type == "float32" or (g.tensors[t].qparams is not None)]
    copies: dict[int, int] = {}
    for n in g.nodes:
        if n.op in COPIES and n.inputs[0] in real and n.outputs[0] in real and _keeps_grid(g, n.inputs[0], n.outputs[0]):
            copies[n.outputs[0]] = copies.get(n.inputs[0], n.inputs[0])
    wanted = real if taps is None else [g.find(t) for t in taps]
    roots = dict.fromkeys(copies.get(t, t) for t in wanted if t in real)
    watches = []
    for t in roots:
        shape = g.tensors[t].shape
        watches.append(Watch(t, int(np.prod(shape)), int(shape[-1]) if shape else 1, sampled_positions(shape)))
    return tuple(w for w in watches if w.size), {t: r for t, r in copies.items() if r in roots}


def _keeps_grid(g: Graph, source: int, target: int) -> bool:
    return g.tensors[source].type == g.tensors[target].type == "float32"


# ---------------------------------------------------------------- on the device


def update(histogram: Any, x: Any, valid: Any, watch: Watch) -> tuple[Any, dict[str, Any]]:
    """Fold a micro-batch (m, *shape) into a histogram (BINS,) int32; also each sample's low and high key, bad count and whether any
    value is fractional, each (m,). valid: (m,) bool; samples that are padding change nothing in the histogram. Pure."""
    flat = x.reshape(x.shape[0], -1)
    part = flat
    if watch.positions is not None:
        part = x.reshape(x.shape[0], -1, watch.channels)[:, watch.positions].reshape(x.shape[0], -1)
    bins = (_keys(part) >> st.SHIFT) + jnp.int32(st.ZERO)
    bins = jnp.where(valid[:, None], bins, jnp.int32(st.BINS))  # out of bounds: dropped
    histogram = histogram.at[bins.reshape(-1)].add(1, mode="drop")
    return histogram, _extremes(flat)


def _keys(x: Any) -> Any:
    bits = lax.bitcast_convert_type(x, jnp.int32)
    return bits ^ ((bits >> 31) & jnp.int32(0x7FFFFFFF))


def _extremes(flat: Any) -> dict[str, Any]:
    """One reduction for everything: several times faster than one each on a CPU, where keys are also cheaper to compare than floats."""
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

    return dict(zip(("low", "high", "bad", "fractional"), lax.reduce(operands, start, fold, (1,)), strict=True))


class _Pass:
    """The compiled pass over blocks of micro-batches; carries the histograms from call to call."""

    def __init__(self, model: Model, watches: tuple[Watch, ...]):
        self.watches = watches
        self.function = Function(model, "float", "xnnpack", taps=[w.index for w in watches])
        self.size = self.function.micro_batch if jax.default_backend() == "cpu" else 128
        per_sample = sum(int(np.prod(p.shape)) * p.dtype.itemsize for p in ports(model))
        chunks = min(BLOCK_BYTES // max(per_sample * self.size, 1), BLOCK_SAMPLES // self.size)
        self.chunks = max(1, chunks)
        self.block = self.chunks * self.size
        self._jitted = jax.jit(self._run, donate_argnums=1)
        self.histograms = self._fresh()
        self.pending = 0  # samples in the histograms
        self.most = MOST_COUNT // max((w.sampled for w in watches), default=1)

    def _fresh(self) -> dict[int, Any]:
        return {w.index: jnp.zeros(st.BINS, jnp.int32) for w in self.watches}

    def __call__(self, batch: Batch) -> tuple[Any, list[dict[int, np.ndarray]]]:
        """Start a block; returns what it will give per sample, and histograms that had to be emptied first (int32 must not overflow)."""
        emptied = [self.flush()] if self.pending + len(batch) > self.most else []
        chunks = [_padded(a, self.block).reshape(self.chunks, self.size, *a.shape[1:]) for a in batch.arrays]
        self.histograms, rows = self._jitted(self.function.params, self.histograms, np.int32(len(batch)), *chunks)
        self.pending += len(batch)
        return rows, emptied

    def flush(self) -> dict[int, np.ndarray]:
        done = {t: np.asarray(h) for t, h in self.histograms.items()}
        self.histograms, self.pending = self._fresh(), 0
        return done

    def _run(self, params: Any, histograms: Any, count: Any, *chunks: Any) -> Any:
        """The first `count` samples of (chunks, micro-batch, *shape) inputs; rows come back as (chunks, micro-batch, ...)."""
        sample = jax.vmap(functools.partial(self.function.apply, params))

        def once(histograms: Any, valid: Any, xs: Any) -> Any:
            _, taps = sample(*xs)
            rows, new = {}, {}
            for w in self.watches:
                new[w.index], rows[w.index] = update(histograms[w.index], taps[w.index], valid, w)
                if w.raw:
                    rows[w.index]["raw"] = taps[w.index].reshape(self.size, -1)
            return new, rows

        def body(i: Any, carry: Any) -> Any:
            histograms, kept = carry
            valid = i * self.size + jnp.arange(self.size, dtype=jnp.int32) < count
            histograms, rows = once(histograms, valid, [lax.dynamic_index_in_dim(c, i, keepdims=False) for c in chunks])
            return histograms, jax.tree.map(lambda k, r: lax.dynamic_update_index_in_dim(k, r, i, 0), kept, rows)

        shapes = jax.eval_shape(once, histograms, jnp.zeros(self.size, bool), [c[0] for c in chunks])[1]
        kept = jax.tree.map(lambda s: jnp.zeros((self.chunks, *s.shape), s.dtype), shapes)
        return lax.fori_loop(0, (count + self.size - 1) // self.size, body, (histograms, kept))


# ---------------------------------------------------------------- on the host


class _Gathered:
    """Sums up what blocks give, in 64 bits. A block's results are fetched when the next one has started."""

    def __init__(self, watches: tuple[Watch, ...], sequence: bool):
        self.watches, self.keep = watches, sequence
        self.samples = self.skipped = 0
        self.fingerprint: str = st.add_fingerprints([])
        self.counts: dict[int, tuple[np.ndarray, np.ndarray]] = {w.index: (np.zeros(0, np.uint16), np.zeros(0, np.int64)) for w in watches}
        self.rows: dict[int, list[dict[str, np.ndarray]]] = {w.index: [] for w in watches}
        self.totals: dict[int, list[int]] = {w.index: [st.EMPTY_LOW, st.EMPTY_HIGH, 0, 0] for w in watches}
        self.waiting: list[tuple[Any, int]] = []

    def add(self, started: tuple[Any, list[dict[int, np.ndarray]]], batch: Batch) -> None:
        rows, emptied = started
        for histograms in emptied:
            self._count(histograms)
        self.samples += len(batch)
        self.waiting.append((rows, len(batch)))
        self.fingerprint = st.add_fingerprints([self.fingerprint, *(st.sample_hash(a[i] for a in batch.arrays) for i in range(len(batch)))])
        if len(self.waiting) > 1:
            self._fetch(*self.waiting.pop(0))

    def close(self, run: _Pass) -> None:
        while self.waiting:
            self._fetch(*self.waiting.pop(0))
        self._count(run.flush())

    def _fetch(self, rows: Mapping[int, Mapping[str, Any]], n: int) -> None:
        for w in self.watches:
            r = {k: np.asarray(v).reshape(-1, *v.shape[2:])[:n] for k, v in rows[w.index].items()}
            t = self.totals[w.index]
            t[0], t[1] = min(t[0], int(r["low"].min())), max(t[1], int(r["high"].max()))
            t[2], t[3] = t[2] + int(r["bad"].sum(dtype=np.int64)), t[3] | int(r["fractional"].max())
            if not st.keeps_raw(w.size, self.samples):
                r.pop("raw", None)
            self.rows[w.index].append({k: r[k] for k in ("low", "high", "raw") if k in r and (self.keep or k == "raw")})

    def _count(self, histograms: Mapping[int, np.ndarray]) -> None:
        for t, h in histograms.items():
            dense = h.astype(np.int64)
            bins, counts = self.counts[t]
            dense[bins] += counts
            occupied = np.flatnonzero(dense)
            self.counts[t] = (occupied.astype(np.uint16), dense[occupied])

    def sketches(self) -> dict[int, Sketch]:
        return {w.index: self._sketch(w) for w in self.watches}

    def _sketch(self, w: Watch) -> Sketch:
        low, high, bad, fractional = self.totals[w.index]
        raw = None
        if st.keeps_raw(w.size, self.samples):
            values = np.concatenate([np.zeros((0, w.size), np.float32), *(r["raw"] for r in self.rows[w.index])]).reshape(-1)
            raw = st.sorted_values(values)
        return Sketch(w.size, w.sampled, self.samples, low, high, bad, bool(fractional), *self.counts[w.index], raw)

    def sequences(self) -> dict[int, np.ndarray] | None:
        if not self.keep:
            return None
        none = np.zeros(0, np.int32)
        ends = {w.index: [np.concatenate([none, *(r[k] for r in self.rows[w.index])]) for k in ("low", "high")] for w in self.watches}
        return {t: np.stack([st.float_of(low), st.float_of(high)], axis=1) for t, (low, high) in ends.items()}


# ---------------------------------------------------------------- small things


def _take(block: list[Batch], n: int) -> tuple[Batch, list[Batch], int]:
    """The first n samples of batches in a row, what is left, and how many samples that is."""
    arrays = tuple(np.concatenate(parts) if len(block) > 1 else parts[0] for parts in zip(*(b.arrays for b in block), strict=True))
    first, rest = Batch(tuple(a[:n] for a in arrays), block[0].types), Batch(tuple(a[n:] for a in arrays), block[0].types)
    return first, [rest] if len(rest) else [], len(rest)


def _padded(x: np.ndarray, n: int) -> np.ndarray:
    return x if len(x) == n else np.concatenate([x, np.zeros((n - len(x), *x.shape[1:]), x.dtype)])


def _domains(wanted: Sequence[Any], batch: Batch, scaling: Scaling) -> dict[int, Domain]:
    pairs = zip(wanted, batch.types, strict=True)
    return {p.index: d for p, t in pairs if p.dtype == np.float32 and (d := scaling.domain(t)) is not None}


def _common(before: dict[int, Domain] | None, new: dict[int, Domain]) -> dict[int, Domain]:
    """Domains that every batch so far declared alike."""
    return new if before is None else {t: d for t, d in before.items() if new.get(t) == d}
