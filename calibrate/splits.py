"""Three disjoint parts of the data: to calibrate on, to select by, to test with. No part holds what another has seen."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qsim.errors import BadData
from qsim.graph import Model
from qsim.ties import Ties

from .data import Data
from .feeding import feed
from .statistics import add_fingerprints, sample_hash

PARTS = ("calibrate", "select", "test")
SHARES = (0.6, 0.2, 0.2)


@dataclass(frozen=True, eq=False)
class Splits:
    """The parts as data, each in the order of the whole; `words` tell how they came about.

    part: (N,) uint8 for each sample of the whole, the place in `PARTS`; None where the parts were given.
    """

    calibrate: Data
    select: Data
    test: Data
    words: str
    part: np.ndarray | None = None


def three_way(
    model: Model, data: Data, parts: Sequence[float] = SHARES, groups: Sequence[Any] | None = None, blocks: int = 0, seed: int = 0
) -> Splits:
    """A data set in three: samples to calibrate on, to select by and to test with; see `split`.

    What stays together is a group: an id per sample (`groups`; default the data's own, else the sample), or so many samples in a row
    (`blocks`, for frames in order). The data are read once for their content hashes,
    which are kept; samples are not. *Raises*: BadData for a share that nothing is left for, and as `feed`.
    """
    hashes, ids = contents(model, data), _groups(data, groups, blocks)
    part = split(hashes, ids, parts, seed)
    rows = [np.flatnonzero(part == k) for k in range(len(PARTS))]
    require_disjoint(*([hashes[i] for i in r] for r in rows))
    whole = data if ids is None else data.grouped(ids)
    count = "" if ids is None else f" in {len(np.unique(ids))} groups"
    words = f"{len(hashes)} samples{count}: {_told(rows)} (seed {seed})"
    calibrate, select, test = (whole.take(r, f"{data.where}, {name} split") for r, name in zip(rows, PARTS, strict=True))
    return Splits(calibrate, select, test, words, part)


def given_splits(model: Model, calibrate: Data, select: Data, test: Data) -> Splits:
    """Three data sets as they are. *Raises*: BadData where a sample occurs in two of them; see `require_disjoint`."""
    sets = calibrate, select, test
    require_disjoint(*(contents(model, d) for d in sets))
    return Splits(calibrate, select, test, f"given: {_told(sets)}")


def split(
    hashes: Sequence[int], groups: Sequence[Any] | np.ndarray | None = None, parts: Sequence[float] = SHARES, seed: int = 0
) -> np.ndarray:
    """(N,) uint8: 0 calibrate, 1 select, 2 test, for samples of these content hashes; it does not depend on their order.

    Units (`units`) are dealt in the order of their hashes, each to the part that is furthest below its share. parts: three shares, in
    any unit; a part of share 0 stays empty. *Raises*: BadData where a part with a share gets nothing.
    """
    shares = np.asarray(parts, np.float64)
    if shares.shape != (len(PARTS),) or not np.isfinite(shares).all() or (shares < 0).any() or not shares.any():
        raise BadData("shares of calibrate, select and test are three numbers from 0 up, not all 0", found=tuple(parts))
    ordered = units(hashes, group_ids(groups, len(hashes)), seed)
    found = deal(ordered, shares).astype(np.uint8)
    if empty := [name for k, name in enumerate(PARTS) if shares[k] > 0 and not (found == k).any()]:
        largest = max(map(len, ordered), default=0)
        raise BadData(
            f"too few groups to split: nothing is left for {' and '.join(empty)}",
            found=f"{len(ordered)} groups, the largest of {largest} samples",
            hint="Samples of equal content, and all that is grouped with them, are one group",
        )
    return found


def require_disjoint(*hashes: Sequence[int], names: Sequence[str] = PARTS) -> None:
    """*Raises*: BadData where samples of equal content occur in two parts, naming them. hashes: each part's, in the order of `names`."""
    seen: dict[int, tuple[str, int]] = {}
    for name, part in zip(names, hashes, strict=True):
        twice = [(i, seen[h]) for i, h in enumerate(part) if h in seen]
        if twice:
            i, (other, k) = twice[0]
            raise BadData(
                f"{len(twice)} samples of the {name} split occur in another one", where=f"sample {i}", found=f"sample {k} of {other}",
                hint="Remove them from one of the two, or let one data set be split",
            )  # fmt: skip
        seen |= {h: (name, i) for i, h in enumerate(part)}


def contents(model: Model, batches: Any) -> list[int]:
    """The content hash of every sample, as the model takes it. *Raises*: as `feed`."""
    return [sample_hash(a[i] for a in b.arrays) for b in feed(model, batches) for i in range(len(b))]


def group_ids(groups: Any, count: int) -> np.ndarray | None:
    """Group ids (any values, one a sample) as numbers from 0. *Raises*: BadData for another number of them."""
    if groups is None:
        return None
    ids = np.asarray(groups)
    if ids.shape != (count,):
        raise BadData("groups give one id per sample", found=ids.shape, expected=(count,))
    return np.unique(ids, return_inverse=True)[1]


def units(hashes: Sequence[int], groups: np.ndarray | None = None, seed: int = 0) -> list[list[int]]:
    """What must stay together, as lists of sample numbers: equal groups and equal contents, and what either links.

    In ascending order of the units' hashes (the sum of their samples' modulo 2^128); with a seed, in the order of the SHA-256 of seed
    and hash.
    """
    ties = Ties()
    for k, h in enumerate(hashes):
        keys = [("content", h)] if groups is None else [("content", h), ("group", int(groups[k]))]
        for key in keys:
            ties.add(key)
        ties.join(keys)
    members: dict[Any, list[int]] = {}
    for k, h in enumerate(hashes):
        members.setdefault(ties.root(("content", h)), []).append(k)
    return sorted(members.values(), key=lambda m: (_order(add_fingerprints(hashes[k] for k in m), seed), m))


def deal(ordered: Sequence[Sequence[int]], shares: Sequence[float] | np.ndarray) -> np.ndarray:
    """(N,) the part of each sample: every unit goes to the part with the smallest size / share so far, of equal ones to the first."""
    found = np.zeros(sum(map(len, ordered)), np.int64)
    sizes, wanted = np.zeros(len(shares)), np.asarray(shares, np.float64)
    for unit in ordered:
        part = int(np.argmin(np.divide(sizes, wanted, out=np.full(len(sizes), np.inf), where=wanted > 0)))
        found[list(unit)] = part
        sizes[part] += len(unit)
    return found


def _order(fingerprint: str, seed: int) -> str:
    return fingerprint if seed == 0 else hashlib.sha256(f"{seed}:{fingerprint}".encode()).hexdigest()


def _groups(data: Data, groups: Any, blocks: int) -> np.ndarray | None:
    if blocks and groups is not None:
        raise BadData("give groups or blocks", found="both")
    if blocks:
        return np.arange(len(data)) // blocks
    return group_ids(data.groups if groups is None else groups, len(data))


def _told(parts: Sequence[Any]) -> str:
    return ", ".join(f"{len(p)} to {name}" for p, name in zip(parts, PARTS, strict=True))
