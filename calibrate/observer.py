"""The one pass over the data: a float model's tensors into mergeable statistics.

Every micro-batch runs the float function and folds its tensors into carried histograms, inside one compiled loop (`folding`). The
micro-batch is fixed per model, whatever batches the data come in, because float results on XLA change with the batch size; a sample's
values then depend on nothing but the sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from qsim.errors import BadData
from qsim.graph import Model

from . import statistics as st
from .feeding import Batch, Scaling, feed, finite, ports, take
from .folding import Pass, compiled
from .statistics import Domain, Sketch, Statistics


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
    indices = None if taps is None else tuple(model.graph.find(t) for t in taps)
    scaling = getattr(batches, "scaling", None) or Scaling()
    return observe_fed(model, feed(model, batches), scaling, taps=indices, sequence=sequence, nonfinite=nonfinite, progress=progress)


def observe_fed(
    model: Model,
    fed: Iterable[Batch],
    scaling: Scaling,
    *,
    taps: tuple[int, ...] | None = None,
    sequence: bool = True,
    nonfinite: str = "raise",
    progress: Callable[[int], None] | None = None,
) -> Statistics:
    """`observe` on batches that `feed` has checked already; `scaling` is how their values came about."""
    run, wanted = compiled(model, taps), ports(model)
    gathered = _Gathered(run, sequence)
    domains: dict[int, Domain] | None = None
    block: list[Batch] = []
    held = 0
    for batch in fed:
        domains = _common(domains, _domains(wanted, batch, scaling))
        batch, left_out = finite(batch, wanted, gathered.samples + gathered.skipped + held, nonfinite)
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
    return Statistics(
        gathered.sketches(), st.model_hash(model), dict(run.copies), domains or {}, gathered.samples, gathered.skipped,
        gathered.fingerprint, sequence=gathered.sequences(),
    )  # fmt: skip


class _Gathered:
    """Sums up what blocks give, in 64 bits. A block's results are fetched when the next one has started."""

    def __init__(self, run: Pass, sequence: bool):
        self.run, self.sequence = run, sequence
        self.samples = self.skipped = self.pending = 0
        self.histograms = run.fresh()
        self.fingerprint: str = st.add_fingerprints([])
        self.counts = [(np.zeros(0, np.uint16), np.zeros(0, np.int64)) for _ in run.watches]
        self.totals = [[st.EMPTY_LOW, st.EMPTY_HIGH, 0, 0] for _ in run.watches]
        self.ends: list[np.ndarray] = []  # (n, tensors, 2) keys, where a sequence is wanted
        self.raw: dict[int, list[np.ndarray]] = {w.index: [] for w in run.watches if w.raw}
        self.waiting: list[tuple[tuple[Any, Any], int]] = []

    def add(self, batch: Batch) -> None:
        if self.pending + len(batch) > self.run.most:
            self._flush()
        self.histograms, results = self.run(self.histograms, batch)
        self.samples, self.pending = self.samples + len(batch), self.pending + len(batch)
        self.waiting.append((results, len(batch)))
        self.fingerprint = st.add_fingerprints([self.fingerprint, *(st.sample_hash(a[i] for a in batch.arrays) for i in range(len(batch)))])
        if len(self.waiting) > 1:
            self._fetch(*self.waiting.pop(0))

    def close(self) -> None:
        while self.waiting:
            self._fetch(*self.waiting.pop(0))
        self._flush()

    def _flush(self) -> None:
        """Move the device's 32-bit counts to the host's 64-bit ones."""
        for k, h in enumerate(self.histograms):
            dense = np.asarray(h).astype(np.int64)
            bins, counts = self.counts[k]
            dense[bins] += counts
            occupied = np.flatnonzero(dense)
            self.counts[k] = (occupied.astype(np.uint16), dense[occupied])
        self.histograms, self.pending = self.run.fresh(), 0

    def _fetch(self, results: tuple[Any, Any], n: int) -> None:
        rows = np.asarray(results[0])[:n]
        for k, t in enumerate(self.totals):
            low, high, bad, fractional = rows[:, k].T
            t[0], t[1] = min(t[0], int(low.min())), max(t[1], int(high.max()))
            t[2], t[3] = t[2] + int(bad.sum(dtype=np.int64)), t[3] | int(fractional.max())
        if self.sequence:
            self.ends.append(rows[:, :, :2].copy())
        for index, kept in self.raw.items():
            kept.append(np.array(results[1][index][:n]))
        self.raw = {w.index: self.raw[w.index] for w in self.run.watches if w.index in self.raw and st.keeps_raw(w.size, self.samples)}

    def sketches(self) -> dict[int, Sketch]:
        found = {}
        for w, (low, high, bad, fractional), counts in zip(self.run.watches, self.totals, self.counts, strict=True):
            raw = st.sorted_values(np.concatenate(self.raw[w.index])) if w.index in self.raw else None
            found[w.index] = Sketch(w.size, w.sampled, self.samples, low, high, bad, bool(fractional), *counts, raw)
        return found

    def sequences(self) -> dict[int, np.ndarray] | None:
        if not self.sequence:
            return None
        ends = st.float_of(np.concatenate(self.ends))
        return {w.index: np.ascontiguousarray(ends[:, k]) for k, w in enumerate(self.run.watches)}


def _domains(wanted: Sequence[Any], batch: Batch, scaling: Scaling) -> dict[int, Domain]:
    pairs = zip(wanted, batch.types, strict=True)
    return {p.index: d for p, t in pairs if p.dtype == np.float32 and (d := scaling.domain(t)) is not None}


def _common(before: dict[int, Domain] | None, new: dict[int, Domain]) -> dict[int, Domain]:
    """Domains that every batch so far declared alike."""
    return new if before is None else {t: d for t, d in before.items() if new.get(t) == d}
