"""Samples as `Data`: read part by part, as often as wanted, from files, folders, arrays or other libraries' data sets. No jax here."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from qsim.errors import BadData
from qsim.graph import Model

from .arrayfiles import FILES, Stored, array_file, array_folder, holds_arrays
from .feeding import Port, Scaling, admit, batched, by_port, ports
from .images import image_folder
from .sources import Rows, items_of, kept
from .tables import table_file

BATCH = 64  # samples read at once


@dataclass(frozen=True, eq=False)
class Data:
    """Samples on disk, read part by part. Iterating (as often as wanted) gives batches: tuples of arrays, one per model input.

    count: samples. part(start, stop): stored arrays, one per model input, (stop - start, ...). labels: (count, ...) or None.
    scaling: real = a * x + b, applied where the batches are used. skipped: names of files that were left out. groups: (count,) ids of
    samples that belong together (windows of one recording, say), or None.
    """

    count: int
    part: Callable[[int, int], tuple[np.ndarray, ...]]
    ports: tuple[Port, ...]
    labels: np.ndarray | None = None
    scaling: Scaling = Scaling()
    where: str = ""
    skipped: tuple[str, ...] = ()
    groups: np.ndarray | None = None

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[tuple[np.ndarray, ...]]:
        for start in range(0, self.count, BATCH):
            yield self.part(start, min(start + BATCH, self.count))

    def take(self, rows: Sequence[int] | np.ndarray, where: str = "") -> Data:
        """The samples of these numbers, in this order, as data of their own; nothing is read."""
        kept = np.asarray(rows, np.int64)

        def part(start: int, stop: int) -> tuple[np.ndarray, ...]:
            return _gathered(self.part, kept[start:stop])

        labels, groups = (None if a is None else a[kept] for a in (self.labels, self.groups))
        return replace(self, count=len(kept), part=part, labels=labels, groups=groups, where=where or self.where)

    def grouped(self, groups: np.ndarray) -> Data:
        """The same samples with other groups."""
        return replace(self, groups=groups)

    def pairs(self) -> Iterator[tuple[tuple[np.ndarray, ...], np.ndarray]]:
        """(inputs, labels) batch by batch; inputs are (n, *shape) as the float function takes them. Raises: BadData without labels."""
        if self.labels is None:
            raise BadData("no labels", where=self.where, hint='Give an array "y", or a labels.csv in the folder')
        for k, arrays in enumerate(self):
            start = k * BATCH
            inputs = tuple(admit(p, a, self.scaling, f"{self.where}, {p.where}") for p, a in zip(self.ports, arrays, strict=True))
            yield inputs, self.labels[start : start + len(arrays[0])]


def _gathered(part: Callable[[int, int], tuple[np.ndarray, ...]], rows: np.ndarray) -> tuple[np.ndarray, ...]:
    """The samples of these numbers; neighbours are read together."""
    runs = np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1) if len(rows) else []
    read = [part(int(r[0]), int(r[-1]) + 1) for r in runs] or [part(0, 0)]
    return read[0] if len(read) == 1 else tuple(np.concatenate(column) for column in zip(*read, strict=True))


def open_data(
    path: str | os.PathLike[str],
    model: Model,
    *,
    input_scale: float = 1.0,
    input_offset: float = 0.0,
    limit: int | None = None,
    shuffle: int | None = None,
    groups: str | int | None = None,
    label: str | None = None,
    skip_bad: bool = False,
) -> Data:
    """The samples of a .npz, .npy or .csv, or of a folder, for a model's inputs; real = input_scale * x + input_offset.

    .npz: one array per model input by tensor name, signature name or t<index>; with one input also "x", or the only array that is not
    labels ("y", "label", "labels"). .npy: one input. .csv: a row a sample, see `tables.table_file`; label: its column of labels. A folder
    of images: sorted by name, decoded when needed, converted to the input's channels and resized to it; labels from labels.csv
    (file,label). A folder of .npz and .npy files: all their samples, each file a group. groups: so many samples in a row are a group, or
    the key of an array (the column of a .csv) of group ids. limit: so many samples only, the first ones, or with shuffle (a seed) the
    first of a random order. skip_bad: leave out files that are no images instead of refusing the folder. *Raises*: BadData naming file
    and array, also for pickled objects and oversized arrays.
    """
    path, wanted = Path(path), ports(model)
    if limit is not None and limit < 1:
        raise BadData("the limit must be at least 1", found=limit)
    stored = _stored(path, wanted, groups if isinstance(groups, str) else None, label, skip_bad)
    ids = np.arange(stored.count) // groups if isinstance(groups, int) and groups > 0 else stored.groups
    scaling = Scaling(float(input_scale), float(input_offset))
    data = Data(stored.count, stored.part, wanted, stored.labels, scaling, str(path), stored.skipped, ids)
    if path.suffix.lower() in FILES:
        for p, a in zip(wanted, data.part(0, 1), strict=True):
            admit(p, a, scaling, f"{path}, {p.where}")
    return data if limit is None and shuffle is None else data.take(picked(stored.count, limit, shuffle))


def _stored(path: Path, wanted: tuple[Port, ...], groups: str | None, label: str | None, skip_bad: bool) -> Stored:
    try:
        folder = path.is_dir()
    except OSError as fault:  # a name that is too long, say
        raise BadData(f"cannot be read ({fault.strerror})", where=str(path)) from fault
    if folder:
        if groups is not None:
            raise BadData(f"a folder has no array {groups!r} of group ids", where=str(path), hint="Give so many samples in a row")
        return array_folder(path, wanted) if holds_arrays(path) else image_folder(path, wanted, skip_bad)
    return table_file(path, wanted, groups, label) if path.suffix.lower() in (".csv", ".tsv") else array_file(path, wanted, groups)


def picked(count: int, limit: int | None, shuffle: int | None) -> np.ndarray:
    """The numbers of the samples to use: the first `limit`, of a random order where a seed is given."""
    rows = np.arange(count) if shuffle is None else np.random.default_rng(shuffle).permutation(count)
    return rows[:limit]


def as_data(model: Model, batches: Any, *, labels: Any = None, groups: Any = None) -> Data:
    """Anything that `observe` takes as `Data`, which can be read again in parts and split: arrays and data sets with `len` and `[]` as
    they are, other iterables kept in memory. *Raises*: BadData as `observe`, and for more than 1 GiB to keep."""
    if isinstance(batches, Data):
        given = {name: np.asarray(a) for name, a in (("labels", labels), ("groups", groups)) if a is not None}
        return replace(batches, **given) if given else batches  # type: ignore[arg-type]
    source, scaling = items_of(model, batches), getattr(batches, "scaling", None) or Scaling()
    if isinstance(source, Rows) and source.indexed:
        count, part = len(source.source), _of_rows(ports(model), source.source)
    else:
        count, part = _of_batches(ports(model), source, isinstance(source, Rows))
    found = [None if a is None else np.asarray(a) for a in (labels, groups)]
    if any(a is not None and len(a) != count for a in found):
        raise BadData("labels and groups are one a sample", found=[len(a) for a in found if a is not None], expected=count)
    return Data(count, part, ports(model), found[0], scaling, "data", (), found[1])


def _of_rows(wanted: tuple[Port, ...], source: Any) -> Callable[[int, int], tuple[np.ndarray, ...]]:
    """Reads samples of a data set with `[]` when they are asked for."""

    def part(start: int, stop: int) -> tuple[np.ndarray, ...]:
        rows = [by_port(wanted, source[i], f"row {i}", loose=True) for i in range(start, stop)]
        if any(len(a) != 1 for row in rows for a in row):
            raise BadData("rows must be single samples", where=f"row {start}", hint="Leave out batch(): rows are batched here")
        return tuple(np.concatenate(column) for column in zip(*rows, strict=True))

    return part


def _of_batches(wanted: tuple[Port, ...], source: Any, loose: bool) -> tuple[int, Callable[[int, int], tuple[np.ndarray, ...]]]:
    """Batches kept in memory."""
    held = [by_port(wanted, item, f"batch {k}", loose) for k, item in enumerate(kept(source))]
    if not held:
        raise BadData("no samples", hint="An iterator or generator that was used before is empty: make a new one")
    whole = tuple(np.concatenate([batched(p, row[k], f"batch {n}, {p.where}") for n, row in enumerate(held)]) for k, p in enumerate(wanted))
    if len({len(a) for a in whole}) != 1:
        raise BadData("inputs have different numbers of samples", found=[len(a) for a in whole])
    return len(whole[0]), lambda start, stop: tuple(a[start:stop] for a in whole)
