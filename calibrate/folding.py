"""The device side of the pass: which tensors to watch, and the compiled loop that folds a block of samples into their sketches."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from qsim.function import Function
from qsim.graph import Graph, Model
from qsim.inference import host_values, sized

from . import inside
from . import statistics as st
from .feeding import Batch, ports

MOST_SAMPLED = 1 << 14  # elements a sample above which whole pixels are sampled for the histogram
SEED = 20_231_122  # of the sampled positions; part of the numerics
MOST_COUNT = 2**31 - 1  # of a histogram bin on the device
COPIES = frozenset({"RESHAPE", "SQUEEZE", "EXPAND_DIMS", "TRANSPOSE"})  # outputs hold the values of the first input, moved
BLOCK_BYTES, BLOCK_SAMPLES = 32 << 20, 512  # of input in one call
ENDS = ("low", "high", "bad", "fractional")  # what `ends` gives


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


def _watches(model: Model, taps: Sequence[int] | None) -> tuple[tuple[Watch, ...], dict[int, int]]:
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
        watches.append(Watch(t, int(np.prod(shape)), int(shape[-1]) if shape else 1, sampled_positions(shape)))
    return tuple(w for w in watches if w.size), {t: r for t, r in copies.items() if r in roots}


def _keeps_grid(g: Graph, source: int, target: int) -> bool:
    return g.tensors[source].type == g.tensors[target].type == "float32"


def count(histogram: Any, x: Any, watch: Watch, valid: Any = None) -> Any:
    """A histogram (BINS,) int32 with the elements of (m, *shape) counted in by the upper bits of their floats. Pure.

    valid: (m,) bool, samples that count; None for all.
    """
    part = x.reshape(x.shape[0], -1)
    if watch.positions is not None:
        part = x.reshape(x.shape[0], -1, watch.channels)[:, watch.positions].reshape(x.shape[0], -1)
    bins = (_keys(part) >> st.SHIFT) + jnp.int32(st.ZERO)
    if valid is None:
        return histogram.at[bins.reshape(-1)].add(1, mode="promise_in_bounds")
    bins = jnp.where(valid[:, None], bins, jnp.int32(st.BINS))  # out of bounds: dropped
    return histogram.at[bins.reshape(-1)].add(1, mode="drop")


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


def _keys(x: Any) -> Any:
    bits = lax.bitcast_convert_type(x, jnp.int32)
    return bits ^ ((bits >> 31) & jnp.int32(0x7FFFFFFF))


@functools.lru_cache(maxsize=4)
def compiled(model: Model, taps: tuple[int, ...] | None) -> Pass:
    """The pass for a model; kept, so that shards of one data set share a compile."""
    return Pass(model, *_watches(model, taps))


class Pass:
    """The compiled pass over blocks of micro-batches. Holds no data: histograms are handed in and come back."""

    def __init__(self, model: Model, watches: tuple[Watch, ...], copies: Mapping[int, int]):
        self.watches, self.copies = watches, copies
        self.cells = {t: c for t, c in inside.cells(model).items() if any(w.index == t for w in watches)}
        read = [c.node.inputs[0] for c in self.cells.values()]
        self.function = Function(model, "float", "xnnpack", taps=[*(w.index for w in watches), *read])
        self.on_cpu = jax.default_backend() == "cpu"
        self.size = self.function.micro_batch if self.on_cpu else 128
        per_sample = sum(int(np.prod(p.shape)) * p.dtype.itemsize for p in ports(model))
        self.chunks = max(1, min(BLOCK_BYTES // max(per_sample * self.size, 1), BLOCK_SAMPLES // self.size))
        self.block = self.chunks * self.size
        self.most = MOST_COUNT // max((w.sampled for w in watches), default=1)  # samples that a histogram can count in int32
        self._jitted = jax.jit(self._run, donate_argnums=1)

    def fresh(self) -> tuple[Any, ...]:
        return tuple(jnp.zeros(st.BINS, jnp.int32) for _ in self.watches)

    def __call__(self, histograms: tuple[Any, ...], batch: Batch) -> tuple[tuple[Any, ...], tuple[Any, Any]]:
        """Histograms with a block's samples counted in; and per sample of the block (`ends` of every watched tensor, raw values)."""
        chunks = [_padded(a, self.block).reshape(self.chunks, self.size, *a.shape[1:]) for a in batch.arrays]
        return self._jitted(self.function.params, histograms, np.int32(len(batch)), *chunks)

    def _run(self, params: Any, histograms: tuple[Any, ...], total: Any, *chunks: Any) -> Any:
        """The first `total` samples of (chunks, micro-batch, *shape) inputs."""
        sample = jax.vmap(functools.partial(self._taps, params))
        fold = self._one_by_one if self.on_cpu else self._together

        def body(i: Any, carry: Any) -> Any:
            histograms, rows, raw = carry
            taps = sample(*(lax.dynamic_index_in_dim(c, i, keepdims=False) for c in chunks))
            raw = {t: lax.dynamic_update_slice(r, taps[t].reshape(self.size, -1), (i * self.size, 0)) for t, r in raw.items()}
            return *fold(histograms, rows, [taps[w.index] for w in self.watches], i * self.size, total), raw

        rows = jnp.zeros((self.block, len(self.watches), len(ENDS)), jnp.int32)
        raw = {w.index: jnp.zeros((self.block, w.size), jnp.float32) for w in self.watches if w.raw}
        histograms, rows, raw = lax.fori_loop(0, (total + self.size - 1) // self.size, body, (histograms, rows, raw))
        return histograms, (rows, raw)

    def _taps(self, params: Any, *inputs: Any) -> dict[int, Any]:
        """The watched tensors of one sample."""
        taps = self.function.apply(params, *inputs)[1]
        graph = self.function.graph
        return taps | {t: inside.values(graph, c, params, taps[c.node.inputs[0]]) for t, c in self.cells.items()}

    def _one_by_one(self, histograms: Any, rows: Any, taps: list[Any], first: Any, total: Any) -> Any:
        """A loop over the valid samples of a micro-batch. The loop makes XLA compute each tensor once: it would otherwise repeat the
        tensor's elementwise producers, unvectorized, inside the reduction and the scatter."""

        def one(j: Any, carry: Any) -> Any:
            histograms, rows = carry
            xs = [lax.dynamic_slice_in_dim(x, j, 1) for x in taps]
            histograms = tuple(count(h, x, w) for h, x, w in zip(histograms, xs, self.watches, strict=True))
            row = jnp.stack([ends(x) for x in xs], axis=1)
            return histograms, lax.dynamic_update_slice(rows, row, (first + j, 0, 0))

        return lax.fori_loop(0, jnp.minimum(self.size, total - first), one, (histograms, rows))

    def _together(self, histograms: Any, rows: Any, taps: list[Any], first: Any, total: Any) -> Any:
        """A whole micro-batch at once, padding masked out."""
        valid = first + jnp.arange(self.size, dtype=jnp.int32) < total
        histograms = tuple(count(h, x, w, valid) for h, x, w in zip(histograms, taps, self.watches, strict=True))
        return histograms, lax.dynamic_update_slice(rows, jnp.stack([ends(x) for x in taps], axis=1), (first, 0, 0))


def _padded(x: np.ndarray, n: int) -> np.ndarray:
    return x if len(x) == n else np.concatenate([x, np.zeros((n - len(x), *x.shape[1:]), x.dtype)])
