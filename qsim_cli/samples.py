"""Data of a file or folder (see `calibrate.data`) as the samples that a function takes: reals, or stored codes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from calibrate.arrayfiles import holds_arrays
from calibrate.data import Data, open_data
from calibrate.splits import group_ids
from qsim.errors import BadData, BadRecipe
from qsim.graph import Model, Tensor

from .values import Affine, admit, meaning


class Pick(NamedTuple):
    """Which samples to use: at most `limit`, in the random order of seed `shuffle`; `groups` as `--groups` says."""

    limit: int | None = None
    shuffle: int | None = None
    groups: str | None = None

    @property
    def grouping(self) -> str | int | None:
        """So many in a row, or a key. *Raises*: BadRecipe for 0 in a row."""
        if self.groups is None or not self.groups.isdigit():
            return self.groups
        if int(self.groups) < 1:
            raise BadRecipe("--groups takes a number of samples above 0, or a key", found=self.groups)
        return int(self.groups)


@dataclass(frozen=True, eq=False)
class Samples:
    """`len` samples for a model's inputs, read part by part. notes: what was assumed about them, to be told.

    labels: y of the file or labels.csv, None without.
    """

    data: Data
    tensors: tuple[Tensor, ...]
    mode: str
    affine: Affine
    notes: tuple[str, ...] = field(default=())

    def __len__(self) -> int:
        return self.data.count

    @property
    def labels(self) -> np.ndarray | None:
        return self.data.labels

    @property
    def groups(self) -> list[int] | None:
        """A group number a sample; None without groups."""
        ids = group_ids(self.data.groups, len(self))
        return None if ids is None else ids.tolist()

    def part(self, start: int, stop: int) -> tuple[np.ndarray, ...]:
        """One array an input, (n, *shape), as `Function.batch` takes them in this mode. *Raises*: BadData naming file and sample."""
        with _named(self.data.where):
            arrays = zip(self.data.part(start, stop), self.tensors, strict=True)
            return tuple(admit(x.reshape(len(x), *t.shape), t, self.mode, self.affine, start) for x, t in arrays)

    def batches(self, size: int) -> Iterator[tuple[np.ndarray, ...]]:
        for start in range(0, len(self), size):
            yield self.part(start, min(start + size, len(self)))

    @property
    def stored(self) -> tuple[np.dtype, ...]:
        """The types of the data, one an input."""
        return tuple(x.dtype for x in self.data.part(0, 1))


ALL = Pick()


def read(path: Path, model: Model, mode: str, affine: Affine, pick: Pick = ALL) -> Samples:
    """The samples in `path` for the inputs of a model that will run in `mode`. *Raises*: BadData naming the file and the way out."""
    data = open_data(path, model, limit=pick.limit, shuffle=pick.shuffle, groups=pick.grouping)
    tensors = tuple(model.graph.tensors[t] for t in model.graph.inputs)
    found = Samples(data, tensors, mode, affine)
    images = path.is_dir() and not holds_arrays(path)
    notes = [f"{len(data)} images, resized to {tensors[0].shape[1]}x{tensors[0].shape[2]} where needed"] if images else []
    if pick.limit is not None and len(data) < pick.limit:
        notes.append(f"{path.name} has {len(data)} samples, fewer than --limit {pick.limit}")
    notes += [
        f"{path.name}, {model.graph.key(t.index)!r}: {m}"
        for x, t in zip(found.stored, tensors, strict=True)
        if (m := meaning(x, t, affine))
    ]
    found.part(0, 1)  # wrong types are told before anything is computed
    return Samples(data, tensors, mode, affine, tuple(notes))


@contextmanager
def _named(where: str) -> Iterator[None]:
    """Errors inside name the file."""
    try:
        yield
    except BadData as fault:
        fault.where = fault.where or where
        raise


def declared_domain(samples: Samples, affine: Affine) -> tuple[float, float] | None:
    """The real domain that integer data of one input declare: their type's full range through a*x + b; None for floats."""
    if len(samples.stored) != 1 or samples.stored[0].kind not in "iu" or samples.stored[0].itemsize > 2:
        return None
    ends = np.iinfo(samples.stored[0])
    low, high = sorted(float(v) for v in affine.real(np.array([ends.min, ends.max])))
    return low, high
