"""What data come as: arrays, mappings, iterables, functions that give one, other libraries' data sets. Told apart by what they can do.

No library is imported: tf.data has `as_numpy_iterator`, HuggingFace `column_names`, grain and torch `len` and `[]`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from qsim.errors import BadData
from qsim.graph import Model

KEPT_BYTES = 1 << 30  # of data that can be read only once, kept to be read again


@dataclass(frozen=True, eq=False)
class Rows:
    """Another library's data set. Its elements may be single samples, and may bring a label along: (input, label), or a key for it."""

    source: Any

    @property
    def indexed(self) -> bool:
        return hasattr(self.source, "__getitem__") and hasattr(self.source, "__len__")

    def __iter__(self) -> Iterator[Any]:
        if hasattr(self.source, "as_numpy_iterator"):
            return iter(self.source.as_numpy_iterator())
        if not self.indexed:
            return iter(self.source)
        rows = (self.source[i] for i in range(len(self.source)))
        return (row for row in rows if row is not None)  # grain leaves out what a filter drops so


def items_of(model: Model, batches: Any) -> Iterable[Any]:
    """The batches of any data: a list, an iterable, or `Rows`. *Raises*: BadData for what is no data."""
    if callable(batches) and not hasattr(batches, "__iter__"):
        batches = batches()
    if isinstance(batches, (str, bytes)) or hasattr(batches, "__fspath__"):
        raise BadData("a path is not data", found=str(batches), hint="Open it first: calibrate.open_data(path, model)")
    if isinstance(batches, Mapping):
        return _of_signature(model, batches)
    if isinstance(batches, np.ndarray) or hasattr(batches, "__array__"):
        return [batches]
    if _is_data_set(batches):
        return Rows(batches)
    if not hasattr(batches, "__iter__"):
        raise BadData("not data", found=type(batches).__name__, expected="an array, a mapping, or an iterable of batches")
    return batches  # type: ignore[no-any-return]


def _is_data_set(batches: Any) -> bool:
    if hasattr(batches, "as_numpy_iterator") or hasattr(batches, "column_names"):
        return True
    if all(callable(getattr(batches, name, None)) for name in ("map", "batch", "__iter__")):
        return True
    return hasattr(batches, "__getitem__") and hasattr(batches, "__len__") and not isinstance(batches, (list, tuple))


def _of_signature(model: Model, batches: Mapping[Any, Any]) -> Iterable[Any]:
    """A batch by input names, or batches by signature ({signature: iterable}) for the graph at work. *Raises*: BadData."""
    keys = {s["key"]: s["graph"] for s in model.signatures}
    if not batches or not set(batches) <= set(keys) or any(hasattr(v, "__array__") for v in batches.values()):
        return [batches]
    here = [v for k, v in batches.items() if keys[k] == 0]
    if len(here) != 1 or len(batches) != 1:
        hint = "Give the data of one signature, and model.select(signature) for another than the primary graph"
        raise BadData("data of several signatures, or of another graph", found=", ".join(map(str, batches)), hint=hint)
    return items_of(model, here[0])


def kept(items: Iterable[Any], most: int = KEPT_BYTES) -> list[Any]:
    """The batches of an iterator, to be read again. *Raises*: BadData for more than `most` bytes."""
    found, size = [], 0
    for item in items:
        arrays = item.values() if isinstance(item, Mapping) else item if isinstance(item, (list, tuple)) else [item]
        size += sum(np.asarray(a).nbytes for a in arrays)
        if size > most:
            raise BadData(
                "data that are needed twice, and can be read only once, are too large to keep", expected=f"at most {most} bytes",
                hint="Give a function that makes the generator anew, or save the samples as .npz",
            )  # fmt: skip
        found.append(item)
    return found
