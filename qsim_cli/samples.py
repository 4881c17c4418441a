"""Data for a model: arrays of an .npz or .npy, or a folder of images, as samples that are read part by part."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from qsim.errors import BadData
from qsim.graph import Graph, Model, Tensor

from .values import Affine, admit, meaning

LARGEST = 1 << 36  # bytes an .npz may unpack to
LABELS = ("y", "label", "labels")


@dataclass(frozen=True, eq=False)
class Samples:
    """`len` samples for a model's inputs. `part(start, stop)`: one array an input, (n, *shape), as `Function.batch` takes them.

    labels: y of the file or labels.csv, None without. stored: dtype of the data, one an input. notes: what was assumed, to be told.
    """

    count: int
    part: Callable[[int, int], tuple[np.ndarray, ...]]
    stored: tuple[np.dtype, ...]
    labels: np.ndarray | None = None
    notes: tuple[str, ...] = field(default=())

    def __len__(self) -> int:
        return self.count

    def batches(self, size: int) -> Iterator[tuple[np.ndarray, ...]]:
        for start in range(0, self.count, size):
            yield self.part(start, min(start + size, self.count))


def read(path: Path, model: Model, mode: str, affine: Affine) -> Samples:
    """The samples in `path` for the inputs of a model that will run in `mode`. *Raises*: BadData naming the file and the way out."""
    with _named(path):
        if path.is_dir():
            from .images import folder

            found = folder(path, model, mode, affine)
        else:
            found = _arrays(load_arrays(path), path, model, mode, affine)

    def part(start: int, stop: int) -> tuple[np.ndarray, ...]:
        with _named(path):
            return found.part(start, stop)

    return replace(found, part=part)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Errors inside name the file."""
    try:
        yield
    except BadData as fault:
        fault.where = fault.where or str(path)
        raise


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz, or of an .npy under the key "x". Never unpickles; refuses what unpacks to more than `LARGEST`."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as z:
                if (size := sum(i.file_size for i in z.infolist())) > LARGEST:
                    raise BadData("the file unpacks to too much", where=str(path), found=f"{size} bytes", expected=f"at most {LARGEST}")
        elif not _starts(path, b"\x93NUMPY"):
            raise BadData("neither an .npz nor an .npy", where=str(path), hint="Write it with numpy.savez(path, x=array)")
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {"x": loaded}
        with loaded:
            return {key: loaded[key] for key in loaded.files}
    except OSError as fault:
        raise BadData(f"cannot be read: {fault.strerror or fault}", where=str(path)) from fault
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile) as fault:
        why = "it holds Python objects, which are never unpickled" if "pickle" in str(fault) else str(fault)
        raise BadData(f"not an .npz or .npy of plain arrays: {why}", where=str(path)) from fault


def _starts(path: Path, magic: bytes) -> bool:
    with open(path, "rb") as file:
        return file.read(len(magic)) == magic


def _arrays(arrays: Mapping[str, np.ndarray], path: Path, model: Model, mode: str, affine: Affine) -> Samples:
    graph = model.graph
    chosen = [_pick(arrays, graph, t) for t in graph.inputs]
    notes = [f"input {graph.key(t)!r} is array {key!r}" for t, key in zip(graph.inputs, chosen, strict=True) if len(arrays) > 1]
    tensors = [graph.tensors[t] for t in graph.inputs]
    shaped = [_shape(arrays[key], t, graph.key(t.index), notes) for key, t in zip(chosen, tensors, strict=True)]
    counts = [len(x) for x in shaped]
    if len(set(counts)) != 1:
        raise BadData("the inputs have different numbers of samples", found=dict(zip(chosen, counts, strict=True)))
    if counts[0] == 0:
        raise BadData("there are no samples in it", where=str(path))
    notes += [note for x, t in zip(shaped, tensors, strict=True) if (note := meaning(x.dtype, t, affine))]

    def part(start: int, stop: int) -> tuple[np.ndarray, ...]:
        return tuple(admit(x[start:stop], t, mode, affine, start) for x, t in zip(shaped, tensors, strict=True))

    part(0, 1)  # wrong types are told before anything is computed
    return Samples(counts[0], part, tuple(x.dtype for x in shaped), _labels(arrays, counts[0], chosen), tuple(notes))


def _pick(arrays: Mapping[str, np.ndarray], graph: Graph, index: int) -> str:
    """The key of an input: its name, `t<index>`, or any key where there is one input."""
    for key in (graph.key(index), f"t{index}"):
        if key in arrays:
            return key
    if len(graph.inputs) == 1:
        fitting = [k for k, v in arrays.items() if k not in LABELS and _fits(v, graph.tensors[index])]
        if len(arrays) == 1:
            return next(iter(arrays))
        if "x" in arrays or len(fitting) == 1:
            return "x" if "x" in arrays else fitting[0]
    names = ", ".join(f"{graph.key(t)!r} or 't{t}'" for t in graph.inputs)
    raise BadData(f"no array for input {graph.key(index)!r}", found=f"keys {', '.join(map(repr, arrays)) or 'none'}", expected=names)


def _fits(x: np.ndarray, t: Tensor) -> bool:
    return x.ndim > 0 and _wide(x.shape[1:]) == _wide(t.shape)


def _wide(shape: Sequence[int]) -> tuple[int, ...]:
    """A shape without its axes of size 1."""
    return tuple(n for n in shape if n != 1)


def _shape(x: np.ndarray, t: Tensor, key: str, notes: list[str]) -> np.ndarray:
    """x as (N, *shape). Axes of size 1 may be missing or added, which is told; nothing else is guessed."""
    if x.ndim and x.shape[1:] == t.shape:
        return x
    if x.ndim and t.shape[:1] == (1,) and x.shape[1:] == t.shape[1:]:
        return x.reshape(len(x), *t.shape)
    if _fits(x, t):
        notes.append(f"input {key!r}: shape {x.shape} read as (N, {', '.join(map(str, t.shape))})")
        return x.reshape(len(x), *t.shape)
    hint = "It looks like channels first: transpose it" if x.ndim and sorted(_wide(x.shape[1:])) == sorted(_wide(t.shape)) else ""
    expected = f"(N, {', '.join(map(str, t.shape))})" + (f" or (N, {', '.join(map(str, t.shape[1:]))})" if t.shape[:1] == (1,) else "")
    raise BadData(f"wrong shape for input {key!r}", found=x.shape, expected=expected, hint=hint)


def _labels(arrays: Mapping[str, np.ndarray], count: int, taken: Sequence[str]) -> np.ndarray | None:
    for key in LABELS:
        if key in arrays and key not in taken:
            if arrays[key].shape[:1] != (count,):
                raise BadData(f"{key!r} does not have one label a sample", found=arrays[key].shape, expected=f"({count},)")
            return arrays[key]
    return None


def declared_domain(samples: Samples, affine: Affine) -> tuple[float, float] | None:
    """The real domain that integer data of one input declare: their type's full range through a*x + b; None for floats."""
    if len(samples.stored) != 1 or samples.stored[0].kind not in "iu" or samples.stored[0].itemsize > 2:
        return None
    ends = np.iinfo(samples.stored[0])
    low, high = sorted(float(v) for v in affine.real(np.array([ends.min, ends.max])))
    return low, high
