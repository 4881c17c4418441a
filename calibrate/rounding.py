"""Expected error of storing a distribution in affine integer codes, and the search for the codes that make it smallest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from qsim.scheme import affine
from qsim.types import code_range

from .distribution import Distribution
from .statistics import float_of, key_of

Pair = tuple[float, float]  # (scale, zero point) as they are stored: a float32 and an integer


@dataclass(frozen=True, eq=False)
class Mesh:
    """A distribution laid out for evaluation: points at (K,), or contiguous intervals between edges at (K+1,); weight (K,).

    spikes: points besides intervals, as RELU6 gives at 6.
    """

    at: np.ndarray
    weight: np.ndarray
    points: bool
    spikes: Mesh | None = None

    @cached_property
    def drop(self) -> np.ndarray:
        """(K+1,) how much the density (elements per real unit) falls across each edge."""
        width = np.diff(self.at)
        density = np.divide(self.weight, width, out=np.zeros(len(width)), where=width > 0)
        return -np.diff(density, prepend=0.0, append=0.0)


def mesh(d: Distribution, bits: int = 6, octaves: int = 12) -> Mesh:
    """Points where the distribution is exact; else intervals of 2^-bits of the value in the upper three octaves, twice as wide below.

    Values below the largest * 2^-octaves are one interval: far below a step of 8 bits, of no weight beside one of 16. Zero is left
    out: it always is a code and costs nothing.
    """
    if d.exact:
        return Mesh(d.lower, np.where(d.lower == 0.0, 0.0, d.weight), True)
    top = max(-d.min, d.max)
    edges = np.concatenate([-_side(-d.min, top, bits, octaves)[::-1], [0.0], _side(d.max, top, bits, octaves)])
    middle = 0.5 * (d.lower + d.upper)
    where = np.clip(np.searchsorted(edges, middle, side="right") - 1, 0, len(edges) - 2)
    flat = d.lower == d.upper
    spikes = Mesh(middle[flat], np.where(middle == 0.0, 0.0, d.weight)[flat], True)
    return Mesh(edges, np.bincount(where, weights=np.where(flat, 0.0, d.weight), minlength=len(edges) - 1), False, spikes)


def _side(end: float, top: float, bits: int, octaves: int) -> np.ndarray:
    """Ascending positive edges up to `end`: floats whose lower mantissa bits are zero, so that whole bins fall between them."""
    if end <= 0.0:
        return np.zeros(0)
    parts = _edges(top * 2.0**-octaves, min(end, top / 8), 24 - bits), _edges(top / 8, end, 23 - bits), [end]
    return np.unique(np.concatenate(parts))


def _edges(low: float, high: float, shift: int) -> np.ndarray:
    if high <= low:
        return np.zeros(0)
    edges = float_of(np.arange(int(key_of(low)) >> shift, (int(key_of(high)) >> shift) + 1, dtype=np.int64) << shift)
    return edges[(edges > 0) & (edges < high)].astype(np.float64)


def losses(m: Mesh, pairs: Sequence[Pair] | np.ndarray, type_name: str, powers: Sequence[float]) -> np.ndarray:
    """(powers, pairs): sum over elements of |x - real(code(x))|^p for each stored (scale, zero point).

    Formula: with u = x / scale, the error in steps is u - clip(round(u), qmin - z, qmax - z). Points are evaluated as they are; over
    an interval the error is averaged in closed form (the integral of |e|^p du is 2 n (1/2)^(p+1) / (p+1) over n whole steps and
    |e|^(p+1) / (p+1) over the rest), so neither wide nor narrow intervals are favoured. *Domain*: powers > 0, scales > 0.
    """
    low, high = code_range(type_name)
    scale, zero = np.asarray(pairs, np.float64).T[:, :, None]
    u = m.at / scale
    steps = np.rint(np.minimum(np.maximum(u, low - zero), high - zero))
    error = (u - steps).astype(np.float32)
    with np.errstate(divide="ignore"):
        log = np.log(np.abs(error))
    sums = _point_sums(m, log, powers) if m.points else _interval_sums(m, error, steps, log, powers) * scale[:, 0]
    found = sums * scale[:, 0] ** np.array(powers, np.float64)[:, None]
    return found if m.spikes is None or not m.spikes.weight.any() else found + losses(m.spikes, pairs, type_name, powers)


def _point_sums(m: Mesh, log: np.ndarray, powers: Sequence[float]) -> np.ndarray:
    """(powers, pairs): sum of weight * |e|^p, in steps^p."""
    weight = m.weight.astype(np.float32)
    return np.stack([np.exp(np.float32(p) * log) @ weight for p in powers]).astype(np.float64)


def _interval_sums(m: Mesh, error: np.ndarray, steps: np.ndarray, log: np.ndarray, powers: Sequence[float]) -> np.ndarray:
    """(powers, pairs): sum over intervals of density * the integral of |e|^p du.

    Summed by parts: the antiderivative at each edge times the drop in density across it, so that each edge is looked at once.
    """
    whole, drop, sign, found = steps @ m.drop, m.drop.astype(np.float32), np.sign(error), []
    for p in powers:
        part = np.float32(p + 1) * log
        np.exp(part, out=part)
        part *= sign
        found.append(((part @ drop).astype(np.float64) + whole * 2.0 * 0.5 ** (p + 1)) / (p + 1))
    return np.stack(found)


def search(
    d: Distribution, type_name: str = "int8", powers: Sequence[float] = (2.0,), *, symmetric: bool = False
) -> list[tuple[float, float]]:
    """For each power p the (low, high) whose stored (scale, zero point) makes the p-norm error smallest.

    Candidates are pairs as `affine` stores them (scale in float32, zero point rounded, zero a code). First the scale of min/max times
    0.78^0 .. 0.78^15, each with up to 5 zero points from "low end kept" to "high end kept"; then neighbours of each power's best: 5
    scales within +-18 % and 5 zero points within +-1/16 of the codes; 5 within +-6 % and 3 within +-1/64; on a finer mesh 9 within
    +-4 % and 5 within +-2, then 7 within +-0.8 % and 3 within +-1 (the error of few values is rugged: a coarser end cost a tensor of
    800 values 2.7 %, this one 1.2). The returned range gives exactly that pair again. min/max is a candidate to the last.
    """
    rough, fine = mesh(d, 4), mesh(d)
    codes = code_range(type_name)[1] - code_range(type_name)[0] + 1
    scale, zero = affine(d.min, d.max, type_name, symmetric=symmetric)
    first = np.array([[scale, zero]], np.float64)
    start = _coarse(d, first[0], type_name, symmetric)
    best = _best(rough, start, type_name, powers)
    free = not (symmetric or d.min >= 0.0 or d.max <= 0.0)
    best = _refined(rough, best, type_name, powers, _spread(0.18, 5), _moves(codes / 16, 5) if free else (0,))
    best = _refined(rough, best, type_name, powers, _spread(0.06, 5), _moves(codes / 64, 3) if free else (0,))
    best = _refined(fine, best, type_name, powers, _spread(0.04, 9), _moves(2, 5) if free else (0,), keep=first)
    best = _refined(fine, best, type_name, powers, _spread(0.008, 7), _moves(1, 3) if free else (0,), keep=first)
    return [stored_range(*pair, type_name) for pair in best]


def _spread(part: float, n: int) -> tuple[float, ...]:
    return tuple(np.linspace(1 - part, 1 + part, n))


def _moves(most: float, n: int) -> tuple[int, ...]:
    return tuple(sorted({round(m) for m in np.linspace(-most, most, n)}))


def _coarse(d: Distribution, first: np.ndarray, type_name: str, symmetric: bool) -> np.ndarray:
    """(n, 2) pairs: that of min/max, and smaller scales with zero points between keeping the low end and keeping the high end."""
    qmin, qmax = code_range(type_name)
    found = [first[None]]
    for k in range(1, 16):
        s = float(np.float32(first[0] * 0.78**k))
        ends = np.clip(np.rint([qmin - d.min / s, qmax - d.max / s]), qmin, qmax)
        zeros = first[1:] if symmetric else np.unique(np.rint(np.linspace(ends.min(), ends.max(), 5)))
        found.append(np.stack([np.full(len(zeros), s), zeros], axis=1))
    return np.concatenate(found)


def _best(m: Mesh, pairs: np.ndarray, type_name: str, powers: Sequence[float]) -> list[Pair]:
    return [tuple(p) for p in pairs[np.argmin(losses(m, pairs, type_name, powers), axis=1)].tolist()]


def _refined(
    m: Mesh,
    best: list[Pair],
    type_name: str,
    powers: Sequence[float],
    factors: Sequence[float],
    moves: Sequence[int],
    keep: np.ndarray | None = None,
) -> list[Pair]:
    """The best neighbour of each power's best pair (or one of `keep`); powers with the same best share the evaluation."""
    result = list(best)
    for pair in set(best):
        members = [k for k, b in enumerate(best) if b == pair]
        around = _around(pair, type_name, factors, moves)
        pairs = around if keep is None else np.concatenate([keep, around])
        for k, b in zip(members, _best(m, pairs, type_name, [powers[k] for k in members]), strict=True):
            result[k] = b
    return result


def _around(pair: Pair, type_name: str, factors: Sequence[float], moves: Sequence[int]) -> np.ndarray:
    """(n, 2): every factor of the scale (1 is among them, and changes nothing) with every move of the zero point."""
    qmin, qmax = code_range(type_name)
    scales = np.where(np.array(factors) == 1.0, pair[0], (pair[0] * np.array(factors)).astype(np.float32))
    zeros = np.minimum(np.maximum(pair[1] + np.array(moves), qmin), qmax)
    pairs = np.empty((len(scales), len(zeros), 2))
    pairs[..., 0], pairs[..., 1] = scales[:, None], zeros
    return pairs.reshape(-1, 2)


def stored_range(scale: float, zero: float, type_name: str) -> tuple[float, float]:
    """The range that `affine` turns into exactly this pair (int16 activations are stored symmetric)."""
    qmin, qmax = code_range(type_name)
    if type_name == "int16":
        return -scale * qmax, scale * qmax
    return scale * (qmin - zero), scale * (qmax - zero)
