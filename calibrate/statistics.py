"""What the one pass over the data leaves behind: a mergeable sketch per tensor. Host side only (numpy); `observer` fills it.

Everything that is merged is an integer (or the bits of a float), so merging is exact, associative and commutative: the statistics of a
data set do not depend on the order of its samples, on batch sizes, or on how it was cut into shards.

The histogram's bins are the upper 16 bits of the float itself (sign, exponent, 7 mantissa bits), ordered by value: no range is needed
in advance, a bin is at most 2^-7 of its value wide, and every integer up to 256 in size has a bin of its own.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property, reduce
from pathlib import Path
from typing import Any

import numpy as np

from qsim import NUMERICS
from qsim.errors import BadData
from qsim.graph import Model

SHIFT = 16  # bits of a float32 that do not take part in the bin number
BINS = 1 << (32 - SHIFT)
NEGATIVE_ZERO, ZERO = BINS // 2 - 1, BINS // 2  # both hold |x| < 2^-133 only: exact zeros, as far as float32 goes
INFINITE = 0x7F800000  # float bits
HUGE = 0x7F7F0000  # float bits: 3.39e38 and above (padding values such as -FLT_MAX), infinities, NaN; counted, never part of a range
LARGEST = 2**63 - 1  # sums stop there
EMPTY_LOW, EMPTY_HIGH = 2**31 - 1, -(2**31)
EXACT_INTEGER = 256  # integers up to this size have a bin of their own
RAW_SIZE, RAW_LIMIT = 256, 8192  # raw values are kept of tensors up to this many elements a sample, up to this many in all


def float_of(key: Any) -> np.ndarray:
    """The float32 of an ordered key: keys are float bits made monotone (negative ones with their lower 31 bits inverted)."""
    key = np.asarray(key, np.int32)
    return (key ^ ((key >> 31) & np.int32(0x7FFFFFFF))).view(np.float32)


def key_of(x: Any) -> np.ndarray:
    """Float bits as int32 that order as the values do; the inverse of `float_of`."""
    bits = np.asarray(x, np.float32, order="C").view(np.int32)
    return bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF))


def bin_edges(bins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(lower, upper) ends of bins in real units (float64); the one nearer to zero belongs to the bin, the other to the next one."""
    first = (bins.astype(np.int64) - ZERO) << SHIFT
    positive = bins >= ZERO
    lower, upper = np.where(positive, first, first - 1), np.where(positive, first + (1 << SHIFT), first + (1 << SHIFT) - 1)
    return float_of(lower).astype(np.float64), float_of(upper).astype(np.float64)


@dataclass(frozen=True, eq=False)
class Sketch:
    """One tensor's values over all samples.

    size: elements a sample. sampled: how many of them feed the histogram (whole pixels at seeded positions in large tensors; all
    elsewhere). low, high: ordered keys of the exact smallest and largest value, over every element. nan, inf, huge: NaN, infinite and
    FLT_MAX elements, over every element. fractional: whether any value is not an integer. bins (uint16, ascending), counts (int64): the
    occupied bins. raw: all values sorted (float32), where `size` <= 256 and there are at most 8192 of them.

    weights (int64, one a bin) * unit: the sum over a bin's elements of the squared gradients of the output log-likelihood with respect
    to each, averaged over draws, where gradients were asked for (see `gradients`). Every element's share was rounded to whole units, so
    a bin's sum is off by at most counts / 2 units; `overflow` elements were cut off at `gradients.MOST` units or had no finite gradient.
    """

    size: int
    sampled: int
    samples: int
    low: int
    high: int
    nan: int
    inf: int
    huge: int
    fractional: bool
    bins: np.ndarray = field(repr=False)
    counts: np.ndarray = field(repr=False)
    raw: np.ndarray | None = field(default=None, repr=False)
    weights: np.ndarray | None = field(default=None, repr=False)
    unit: float = 0.0
    overflow: int = 0

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sketch):
            return NotImplemented
        return all(_same(getattr(self, f.name), getattr(other, f.name)) for f in fields(self))

    __hash__ = None  # type: ignore[assignment]

    @property
    def bad(self) -> int:
        """Elements that take no part in ranges: NaN, infinite, FLT_MAX."""
        return self.nan + self.inf + self.huge

    @property
    def empty(self) -> bool:
        """True if no element had a value that a range can be made of."""
        return self.bad >= self.size * self.samples

    @property
    def min(self) -> float:
        return float(float_of(self.low))

    @property
    def max(self) -> float:
        return float(float_of(self.high))

    @property
    def elements(self) -> int:
        return self.size * self.samples

    @cached_property
    def zeros(self) -> int:
        """Exact zeros of either sign among the elements of the histogram (subnormal values below 2^-133 count as zero)."""
        return int(self.counts[(self.bins == ZERO) | (self.bins == NEGATIVE_ZERO)].sum())

    @cached_property
    def importance(self) -> np.ndarray | None:
        """(bins,) float64: the sum of squared gradients of each bin's elements; None where none were asked for."""
        return None if self.weights is None else self.weights * self.unit

    @property
    def integral(self) -> bool:
        """True if every value is an integer with a bin of its own: the histogram is then a table of exact values."""
        return not self.fractional and not self.empty and max(-self.min, self.max) <= EXACT_INTEGER

    @cached_property
    def table(self) -> tuple[np.ndarray, np.ndarray] | None:
        """(values, counts) where they are known exactly: kept raw, or integers up to 256; else None."""
        if self.raw is not None:
            return np.unique(self.raw.astype(np.float64) + 0.0, return_counts=True)
        if not self.integral or self.bad:
            return None
        lower, upper = bin_edges(self.bins)
        values = np.where(self.bins >= ZERO, lower, upper)
        values[(self.bins == ZERO) | (self.bins == NEGATIVE_ZERO)] = 0.0
        unique, where = np.unique(values, return_inverse=True)
        return unique, np.bincount(where, weights=self.counts).astype(np.int64)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.dtype == b.dtype and a.tobytes() == b.tobytes()
    return bool(a is b or (not isinstance(a, np.ndarray) and not isinstance(b, np.ndarray) and a == b))


def merge_sketches(a: Sketch, b: Sketch) -> Sketch:
    """The sketch of both data sets together. Exact, associative, commutative. *Raises*: BadData for sketches of different tensors, or
    with gradients in different units or on one side only."""
    for name in ("size", "sampled", "unit"):
        if getattr(a, name) != getattr(b, name):
            raise BadData(f"sketches of different {name} cannot be merged", found=getattr(b, name), expected=getattr(a, name))
    bins, where = np.unique(np.concatenate([a.bins, b.bins]), return_inverse=True)
    counts = _added(len(bins), where, a.counts, b.counts)
    weights = None if a.weights is None or b.weights is None else _added(len(bins), where, a.weights, b.weights)
    return Sketch(
        a.size, a.sampled, a.samples + b.samples, min(a.low, b.low), max(a.high, b.high), a.nan + b.nan, a.inf + b.inf, a.huge + b.huge,
        a.fractional or b.fractional, bins, counts, _merge_raw(a, b), weights, a.unit, a.overflow + b.overflow,
    )  # fmt: skip


def _added(n: int, where: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(n,) int64 sums of two columns of whole numbers >= 0, at most 2^63 - 1: cutting off there is associative too."""
    first, second = np.zeros(n, np.uint64), np.zeros(n, np.uint64)
    first[where[: len(a)]], second[where[len(a) :]] = a, b
    return np.minimum(first + second, np.uint64(LARGEST)).astype(np.int64)


def _merge_raw(a: Sketch, b: Sketch) -> np.ndarray | None:
    """Raw values survive while the number of elements allows it: a property of the whole data, hence the same in any order."""
    if not keeps_raw(a.size, a.samples + b.samples) or a.raw is None or b.raw is None:
        return None
    return sorted_values(np.concatenate([a.raw, b.raw]))


def keeps_raw(size: int, samples: int) -> bool:
    return size <= RAW_SIZE and size * samples <= RAW_LIMIT


def sorted_values(x: np.ndarray) -> np.ndarray:
    """Values that a range can be made of, ascending by ordered key (so that -0.0 and 0.0 have one order)."""
    keys = np.sort(key_of(x).reshape(-1))
    return float_of(keys[(keys < HUGE) & (keys >= -HUGE)])


def sketch_array(x: np.ndarray, positions: np.ndarray | None = None) -> Sketch:
    """The sketch of (samples, elements...) on the host: the definition that the device pass must meet, and for small data.

    positions: the pixels (flat index over all axes but the first and the last) that feed the histogram; None for all.
    """
    x = np.ascontiguousarray(x, np.float32)
    flat = x.reshape(len(x), -1)
    part = flat if positions is None else x.reshape(len(x), -1, x.shape[-1])[:, positions].reshape(len(x), -1)
    size = flat.view(np.int32) & np.int32(0x7FFFFFFF)
    good = size < HUGE
    nan, inf = int((size > INFINITE).sum()), int((size == INFINITE).sum())
    keys = key_of(flat)[good]
    bins, counts = np.unique((key_of(part) >> SHIFT) + ZERO, return_counts=True)
    raw = sorted_values(flat) if keeps_raw(flat.shape[1], len(x)) else None
    fractional = bool((flat[good] != np.floor(flat[good])).any())
    return Sketch(
        flat.shape[1], part.shape[1], len(x), int(keys.min(initial=EMPTY_LOW)), int(keys.max(initial=EMPTY_HIGH)),
        nan, inf, int(good.size - good.sum()) - nan - inf, fractional, bins.astype(np.uint16), counts.astype(np.int64), raw,
    )  # fmt: skip


@dataclass(frozen=True)
class Domain:
    """What a model input can hold, known before any data are seen: real values in [low, high], and why in words."""

    low: float
    high: float
    words: str


@dataclass(frozen=True, eq=False)
class Statistics:
    """The sketches of a model's tensors over a data set; see `observe`.

    tensors: tensor index -> Sketch. copies: tensor index -> index of the tensor whose values it repeats (outputs of RESHAPE and the
    like; they have no sketch of their own). domains: model input -> Domain, where the data's type declares one. samples, skipped:
    samples seen, samples left out because they held NaN or infinity. model: hash of the file. data: fingerprint of the samples,
    the same in any order. sequence: tensor index -> (samples, 2) float32, each sample's smallest and largest value in the order seen;
    the only part that depends on order, kept for `moving_average`. before: tensor index -> Sketch of what its op gave before the fused
    activation; channels: tensor index -> a Sketch for each channel (last axis); both of the tensors asked for.
    """

    tensors: Mapping[int, Sketch]
    model: str
    copies: Mapping[int, int] = field(default_factory=dict)
    domains: Mapping[int, Domain] = field(default_factory=dict)
    samples: int = 0
    skipped: int = 0
    data: str = "0" * 32
    numerics: int = NUMERICS
    sequence: Mapping[int, np.ndarray] | None = None
    before: Mapping[int, Sketch] = field(default_factory=dict)
    channels: Mapping[int, tuple[Sketch, ...]] = field(default_factory=dict)

    def __eq__(self, other: object) -> bool:
        """Equal in everything that does not depend on the order of the samples."""
        if not isinstance(other, Statistics):
            return NotImplemented
        return all(getattr(self, f.name) == getattr(other, f.name) for f in fields(self) if f.name != "sequence")

    __hash__ = None  # type: ignore[assignment]

    def find(self, index: int) -> Sketch | None:
        """The sketch of a tensor, its own or that of the tensor it repeats."""
        return self.tensors.get(self.copies.get(index, index))

    def merge(self, *others: Statistics) -> Statistics:
        """The statistics of all data sets together: shards of one, or what an earlier run saved and what the rest of the data gave.

        *Raises*: BadData for another model, numerics version or set of tensors.
        """
        return reduce(_merge_two, others, self)

    def save(self, path: str | os.PathLike[str], *, force: bool = False) -> None:
        """Write as .npz (no pickle); the same statistics give the same bytes. Raises: WriteFailed."""
        from .archive import pack, write

        write(Path(path), pack(self), force)


def _merge_two(a: Statistics, b: Statistics) -> Statistics:
    for name, words in (("model", "different models"), ("numerics", "different numerics versions")):
        if getattr(a, name) != getattr(b, name):
            raise BadData(f"statistics of {words} cannot be merged", found=getattr(b, name), expected=getattr(a, name))
    for name in ("tensors", "before", "channels"):
        if (different := set(getattr(a, name)) ^ set(getattr(b, name))) != set():
            raise BadData("statistics of different sets of tensors cannot be merged", where=name, found=sorted(different))
    sequence = None
    if a.sequence is not None and b.sequence is not None:
        sequence = {t: np.concatenate([a.sequence[t], b.sequence[t]]) for t in a.sequence}
    return replace(
        a,
        tensors={t: merge_sketches(s, b.tensors[t]) for t, s in a.tensors.items()},
        domains={t: d for t, d in a.domains.items() if b.domains.get(t) == d},
        samples=a.samples + b.samples,
        skipped=a.skipped + b.skipped,
        data=add_fingerprints((a.data, b.data)),
        sequence=sequence,
        before={t: merge_sketches(s, b.before[t]) for t, s in a.before.items()},
        channels={t: tuple(map(merge_sketches, row, b.channels[t])) for t, row in a.channels.items()},
    )


def sample_hash(arrays: Iterable[np.ndarray]) -> int:
    """128-bit content hash of one sample (its model inputs in order)."""
    digest = hashlib.sha256()
    for a in arrays:
        digest.update(np.ascontiguousarray(a).data)
    return int.from_bytes(digest.digest()[:16], "big")


def add_fingerprints(parts: Iterable[int | str]) -> str:
    """The sum of sample hashes or fingerprints modulo 2^128, in hexadecimal: order-free, and repeated samples count."""
    return f"{sum(int(p, 16) if isinstance(p, str) else p for p in parts) % (1 << 128):032x}"


def model_hash(model: Model) -> str:
    """SHA-256 of the model's bytes, in hexadecimal."""
    as_read = model.source is not None and model.graphs is model.source.graphs
    if not as_read:
        from qsim.writer import to_bytes
    return hashlib.sha256(model.source.data if as_read else to_bytes(model)).hexdigest()
