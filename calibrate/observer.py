"""The one pass over the data: a float model's tensors into mergeable statistics.

Every micro-batch runs the float function and folds its tensors into carried histograms, inside one compiled loop (`folding`). The
micro-batch is fixed per model, whatever batches the data come in, because float results on XLA change with the batch size; a sample's
values then depend on nothing but the sample.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from qsim.errors import BadData
from qsim.graph import Model

from . import statistics as st
from .channels import ByChannel
from .feeding import Batch, Scaling, feed, finite, ports, take
from .folding import EVERYTHING, Pass, Results, Wanted, compiled
from .gradients import whole_numbers, words
from .preactivation import require_activation
from .statistics import Domain, Sketch, Statistics


def observe(
    model: Model,
    batches: Any,
    *,
    taps: Sequence[str | int] | None = None,
    sequence: bool = True,
    nonfinite: str = "raise",
    progress: Callable[[int], None] | None = None,
    exact: bool = False,
    gradients: int = 0,
    task: str | None = None,
    seed: int = 0,
    before: Sequence[str | int] = (),
    channels: Sequence[str | int] = (),
) -> Statistics:
    """Statistics of a model's float tensors over data, in one pass (each sample is asked for once).

    batches: see `feeding.feed`; batch sizes do not matter. taps: tensor keys to observe; default every model input and op output that
    holds reals. sequence: keep each sample's extremes in order (8 bytes a sample and tensor), for `moving_average`. nonfinite:
    "raise" (BadData naming sample and input for NaN or infinity in the data) or "skip" (left out and counted). progress: called with
    the number of samples done. NaN, infinity and +-FLT_MAX in intermediate tensors are counted, and take no part in ranges.

    Tensors above 16,384 elements a sample feed the histogram with whole pixels (all channels) at seeded positions, the same for every
    sample; extremes always see every element. exact: every element feeds the histogram.

    gradients: squared gradients of the output log-likelihood weigh a second histogram (for `fisher`), from that many draws of labels (or
    directions) a sample; about three times the time. Draws depend on `seed` and the sample's content. task: "classification" or
    "regression" where the outputs alone do not tell.

    before: tensors to observe before the activation fused into their op as well. channels: tensors to observe channel by channel as
    well, every element of them, on the host (slower). *Raises*: BadData, BadRange (unknown tensors), Unsupported (ops without a float
    function, or without gradients).
    """
    indices = None if taps is None else tuple(model.graph.find(t) for t in taps)
    bare, apart = (tuple(dict.fromkeys(model.graph.find(t) for t in keys)) for keys in (before, channels))
    require_activation(model, bare)
    wanted, scaling = Wanted(indices, exact, gradients, task, bare), getattr(batches, "scaling", None) or Scaling()
    how: dict[str, Any] = {"sequence": sequence, "nonfinite": nonfinite, "progress": progress, "seed": seed, "channels": apart}
    return observe_fed(model, feed(model, batches), scaling, wanted, **how)


def observe_fed(
    model: Model,
    fed: Iterable[Batch],
    scaling: Scaling,
    wanted: Wanted = EVERYTHING,
    *,
    sequence: bool = True,
    nonfinite: str = "raise",
    progress: Callable[[int], None] | None = None,
    seed: int = 0,
    channels: Sequence[int] = (),
) -> Statistics:
    """`observe` on batches that `feed` has checked already; `scaling` is how their values came about."""
    run, inputs = compiled(model, wanted), ports(model)
    gathered = _Gathered(run, sequence, seed, ByChannel(model, channels))
    domains: dict[int, Domain] | None = None
    block: list[Batch] = []
    held = 0
    for batch in fed:
        domains = _common(domains, _domains(inputs, batch, scaling))
        batch, left_out = finite(batch, inputs, gathered.samples + gathered.skipped + held, nonfinite)
        gathered.skipped += left_out
        block, held = [*block, batch], held + len(batch)
        while held >= run.block:
            part, block, held = take(block, run.block)
            gathered.add(part)
            if progress:
                progress(gathered.samples)
    if held:
        gathered.add(take(block, held)[0])
    gathered.close()
    if not gathered.samples:
        raise BadData("no samples left", found=f"{gathered.skipped} left out for NaN or infinity")
    if progress and held:
        progress(gathered.samples)
    tensors = gathered.sketches()
    before = {t: tensors.pop(i) for t, i in run.before.items()}
    return Statistics(
        tensors, st.model_hash(model), dict(run.copies), domains or {}, gathered.samples, gathered.skipped,
        gathered.fingerprint, sequence=gathered.sequences(tensors), before=before, channels=gathered.by_channel.found,
    )  # fmt: skip


class _Gathered:
    """Sums up what blocks give, in 64 bits. A block's results are fetched when the next one has started."""

    def __init__(self, run: Pass, sequence: bool, seed: int, by_channel: ByChannel):
        self.run, self.sequence, self.seed, self.by_channel = run, sequence, seed, by_channel
        self.samples = self.skipped = self.pending = 0
        self.histograms = run.fresh()
        self.fingerprint: str = st.add_fingerprints([])
        self.counts = [_Column() for _ in run.watches]
        self.weights = {w.index: _Column() for w in run.weighed}
        self.totals = [[st.EMPTY_LOW, st.EMPTY_HIGH, 0, 0, 0, 0] for _ in run.watches]
        self.cut = np.zeros(len(run.weighed), np.int64)
        self.ends: list[np.ndarray] = []  # (n, tensors, 2) keys, where a sequence is wanted
        self.raw: dict[int, list[np.ndarray]] = {w.index: [] for w in run.watches if w.raw}
        self.waiting: list[tuple[Results, int]] = []

    def add(self, batch: Batch) -> None:
        if self.pending + len(batch) > self.run.most:
            self._flush()
        hashes = [st.sample_hash(a[i] for a in batch.arrays) for i in range(len(batch))]
        self.histograms, results = self.run(self.histograms, batch, words(hashes, self.run.draws, self.seed))
        self.by_channel.add(batch.arrays)
        self.samples, self.pending = self.samples + len(batch), self.pending + len(batch)
        self.waiting.append((results, len(batch)))
        self.fingerprint = st.add_fingerprints([self.fingerprint, *hashes])
        if len(self.waiting) > 1:
            self._fetch(*self.waiting.pop(0))

    def close(self) -> None:
        while self.waiting:
            self._fetch(*self.waiting.pop(0))
        self._flush()

    def _flush(self) -> None:
        """Move the device's 32-bit counts and 64-bit sums to the host."""
        for column, h in zip(self.counts, self.histograms.counts, strict=True):
            column.add(np.asarray(h))
        for column, h in zip(self.weights.values(), self.histograms.weights, strict=True):
            column.add(whole_numbers(h))
        self.histograms, self.pending = self.run.fresh(), 0

    def _fetch(self, results: Results, n: int) -> None:
        rows, kinds = np.asarray(results.rows)[:n], np.asarray(results.kinds)[:n]
        for k, t in enumerate(self.totals):
            low, high, bad, fractional = rows[:, k].T
            nan, inf = kinds[:, k].sum(axis=0, dtype=np.int64)
            t[:2] = min(t[0], int(low.min())), max(t[1], int(high.max()))
            t[2:] = t[2] + int(nan), t[3] + int(inf), t[4] + int(bad.sum(dtype=np.int64) - nan - inf), t[5] | int(fractional.max())
        self.cut += np.asarray(results.cut)
        if self.sequence:
            self.ends.append(rows[:, :, :2].copy())
        for index, kept in self.raw.items():
            kept.append(np.array(results.raw[index][:n]))
        self.raw = {w.index: self.raw[w.index] for w in self.run.watches if w.index in self.raw and st.keeps_raw(w.size, self.samples)}

    def sketches(self) -> dict[int, Sketch]:
        found = {}
        weighed = {w.index: (u, c) for w, u, c in zip(self.run.weighed, self.run.units, self.cut, strict=True)}
        for w, (low, high, nan, inf, huge, fractional), counts in zip(self.run.watches, self.totals, self.counts, strict=True):
            raw = st.sorted_values(np.concatenate(self.raw[w.index])) if w.index in self.raw else None
            sketch = Sketch(w.size, w.sampled, self.samples, low, high, nan, inf, huge, bool(fractional), counts.bins, counts.values, raw)
            if w.index in weighed:
                unit, cut = weighed[w.index]
                weights = self.weights[w.index].at(counts.bins)
                sketch = replace(sketch, weights=weights, unit=float(2.0**unit) / self.run.draws, overflow=int(cut))
            elif self.run.draws:  # values inside an op: every element counts alike
                sketch = replace(sketch, weights=counts.values, unit=1.0)
            found[w.index] = sketch
        return found

    def sequences(self, tensors: Container[int]) -> dict[int, np.ndarray] | None:
        if not self.sequence:
            return None
        ends = st.float_of(np.concatenate(self.ends))
        return {w.index: np.ascontiguousarray(ends[:, k]) for k, w in enumerate(self.run.watches) if w.index in tensors}


class _Column:
    """Sums of a histogram in 64 bits, of the bins in use."""

    def __init__(self) -> None:
        self.bins, self.values = np.zeros(0, np.uint16), np.zeros(0, np.int64)

    def add(self, dense: np.ndarray) -> None:
        total = dense.astype(np.uint64)
        total[self.bins] += self.values.astype(np.uint64)
        occupied = np.flatnonzero(total)
        self.bins, self.values = occupied.astype(np.uint16), np.minimum(total[occupied], np.uint64(st.LARGEST)).astype(np.int64)

    def at(self, bins: np.ndarray) -> np.ndarray:
        """The sums of these bins, which all in use are among."""
        found = np.zeros(len(bins), np.int64)
        found[np.searchsorted(bins, self.bins)] = self.values
        return found


def _domains(wanted: Sequence[Any], batch: Batch, scaling: Scaling) -> dict[int, Domain]:
    pairs = zip(wanted, batch.types, strict=True)
    return {p.index: d for p, t in pairs if p.dtype == np.float32 and (d := scaling.domain(t)) is not None}


def _common(before: dict[int, Domain] | None, new: dict[int, Domain]) -> dict[int, Domain]:
    """Domains that every batch so far declared alike."""
    return new if before is None else {t: d for t, d in before.items() if new.get(t) == d}
