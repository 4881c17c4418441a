"""What users have, as what a model takes: any iterable of batches to checked arrays (n, *shape), one per model input.

The only place where data are cast, scaled (real = a * x + b, in float32) and refused.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from qsim.errors import BadData, BadRange
from qsim.graph import Model
from qsim.types import TYPES

from .sources import Rows, items_of
from .statistics import Domain

LABELS = ("y", "label", "labels")
log = logging.getLogger("qsim")


@dataclass(frozen=True)
class Port:
    """One model input: tensor index, the name users see, the file's shape, and the numpy type that the float function takes.

    names: what signatures call it.
    """

    index: int
    key: str
    shape: tuple[int, ...]
    dtype: np.dtype
    names: tuple[str, ...] = ()

    @property
    def where(self) -> str:
        return f"input {self.key!r}"


def ports(model: Model) -> tuple[Port, ...]:
    """The inputs of the primary graph in order; those with quantization parameters take reals."""
    g = model.graph
    found = []
    for i in g.inputs:
        t = g.tensors[i]
        real = t.type == "float32" or t.qparams is not None
        names = [name for s in model.signatures if s["graph"] == 0 for name, tensor in s["inputs"].items() if tensor == i]
        found.append(Port(i, g.key(i), t.shape, np.dtype(np.float32 if real else TYPES[t.type].dtype), tuple(dict.fromkeys(names))))
    return tuple(found)


def named_ports(wanted: tuple[Port, ...]) -> dict[str, Port]:
    """Inputs by every name they have: t<index>, their signatures' names, and, before those, the tensor's own."""
    of_signatures = {name: p for p in wanted for name in p.names}
    return {f"t{p.index}": p for p in wanted} | of_signatures | {p.key: p for p in wanted}


@dataclass(frozen=True)
class Scaling:
    """real = scale * x + offset for inputs that take reals; 1, 0 leaves values as they are."""

    scale: float = 1.0
    offset: float = 0.0

    @property
    def identity(self) -> bool:
        return self.scale == 1.0 and self.offset == 0.0

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """In float32: f32(f32(a) * f32(x)) + f32(b)."""
        x = x.astype(np.float32, copy=False)
        return x if self.identity else np.float32(self.scale) * x + np.float32(self.offset)

    def domain(self, dtype: np.dtype) -> Domain | None:
        """The reals that data of an integer type of at most 16 bits can become; None for other types."""
        if dtype.kind not in "iub" or dtype.itemsize > 2:
            return None
        ends = np.array([0, 1] if dtype.kind == "b" else [np.iinfo(dtype).min, np.iinfo(dtype).max])
        low, high = sorted(float(v) for v in self(ends))
        words = f"the full range of {dtype} data" + ("" if self.identity else f" through {self.scale:g}*x + {self.offset:g}")
        return Domain(low, high, words)


@dataclass(frozen=True)
class Batch:
    """Checked arrays, one per model input, each (n, *shape) in the port's type; `types`: the types they came in; `where`: their file."""

    arrays: tuple[np.ndarray, ...]
    types: tuple[np.dtype, ...]
    where: str = ""

    def __len__(self) -> int:
        return len(self.arrays[0])

    def rows(self, which: Any) -> Batch:
        """Some of its samples: a slice, a mask, or their numbers."""
        return replace(self, arrays=tuple(a[which] for a in self.arrays))


def feed(model: Model, batches: Any) -> Iterator[Batch]:
    """Checked batches of anything: an array, a mapping, an iterable of either, or a function that gives one (representative_dataset).

    A batch is one array per model input: an array (one input), a list or tuple in the order of the inputs, or a mapping by input name,
    the signature's name for it, or t<index>. Each array is (n, *shape), or (n, *shape[1:]) where shape[0] is 1, or exactly shape for one
    invocation. Batches by signature, {signature: iterable}, are taken for the graph at work. Data sets of tf.data, HuggingFace, grain and
    torch are taken as they are: their rows may be single samples, and labels beside the inputs are left out. An object with `scaling`
    (a `Scaling`) has its values scaled. *Raises*: BadData naming input and place for a wrong shape, type or name, and where there is
    not one sample.
    """
    wanted, scaling = ports(model), getattr(batches, "scaling", Scaling())
    file, items = str(getattr(batches, "where", "")), items_of(model, batches)
    count = 0
    for number, item in enumerate(items):
        where = f"{file}, batch {number}" if file else f"batch {number}"
        arrays = by_port(wanted, item, where, loose=isinstance(items, Rows))
        ready = tuple(admit(p, a, scaling, f"{where}, {p.where}") for p, a in zip(wanted, arrays, strict=True))
        if len({len(a) for a in ready}) > 1:
            raise BadData("inputs have different numbers of samples", where=where, found=[len(a) for a in ready])
        if number == 0:
            _announce(wanted, arrays, scaling)
        count += len(ready[0])
        if len(ready[0]):
            yield Batch(ready, tuple(a.dtype for a in arrays), file)
    if count == 0:
        raise BadData("no samples", where=file, hint="An iterator or generator that was used before is empty: make a new one")


def by_port(wanted: tuple[Port, ...], item: Any, where: str, loose: bool = False) -> list[np.ndarray]:
    """The arrays of one batch in the order of the model's inputs. loose: it may be one sample, with a label beside its inputs."""
    if isinstance(item, (list, tuple)) and loose:
        item = item[0] if len(item) <= 2 and isinstance(item[0], Mapping) else item[: len(wanted)] if len(item) == len(wanted) + 1 else item
    if isinstance(item, Mapping):
        item = _by_name(wanted, _inputs_of(wanted, item) if loose else item, where)
    elif not isinstance(item, (list, tuple)):
        item = [item]
    if len(item) != len(wanted):
        names = ", ".join(p.key for p in wanted)
        raise BadData("wrong number of arrays", where=where, found=len(item), expected=f"{len(wanted)} ({names})")
    return [_single(p, np.asarray(a)) if loose else np.asarray(a) for p, a in zip(wanted, item, strict=True)]


def _inputs_of(wanted: tuple[Port, ...], item: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """A row's columns without labels; for a model with one input "x" or the only column may have any name."""
    names = named_ports(wanted)
    rest = {k: v for k, v in item.items() if str(k) in names or str(k) not in LABELS}
    if len(wanted) == 1 and not any(str(k) in names for k in rest) and ("x" in rest or len(rest) == 1):
        return {wanted[0].key: rest.get("x", next(iter(rest.values())))}
    return rest


def _single(port: Port, x: np.ndarray) -> np.ndarray:
    """A sample without its batch dimension, or without dimensions of 1, as (1, *shape)."""
    body = port.shape[1:] if port.shape[:1] == (1,) else port.shape
    alike = [n for n in x.shape if n != 1] == [n for n in body if n != 1]
    return x.reshape(1, *port.shape) if alike and x.ndim <= len(body) else x


def _by_name(wanted: tuple[Port, ...], item: Mapping[Any, Any], where: str) -> list[Any]:
    names = named_ports(wanted)
    unknown = [str(k) for k in item if str(k) not in names]
    given = {names[str(k)].index: v for k, v in item.items() if str(k) in names}
    missing = [p.key for p in wanted if p.index not in given]
    if unknown or missing:
        raise BadData(
            "names do not match the model's inputs", where=where,
            found=", ".join(map(str, item)) or "none", expected=", ".join(p.key for p in wanted),
        )  # fmt: skip
    return [given[p.index] for p in wanted]


def admit(port: Port, x: np.ndarray, scaling: Scaling, where: str) -> np.ndarray:
    """(n, *shape) in the port's type, values unchanged but for the scaling. Raises: BadData."""
    if x.dtype.kind not in "fiub":
        raise BadData("not numbers", where=where, found=x.dtype, expected=port.dtype)
    x = batched(port, x, where)
    if port.dtype == np.float32:
        return _as_reals(x, scaling, where)
    if x.dtype == port.dtype:
        return x
    if x.dtype.kind in "iub" and port.dtype.kind in "iub":
        cast = x.astype(port.dtype)
        if np.array_equal(cast, x):
            return cast
        raise BadData("values do not fit the input's type", where=where, found=f"{x.dtype} up to {x.max()}", expected=port.dtype)
    raise BadData("wrong type", where=where, found=x.dtype, expected=port.dtype, hint="Convert the array first")


def batched(port: Port, x: np.ndarray, where: str) -> np.ndarray:
    """(n, *shape), whichever of the forms of `feed` it came in. *Raises*: BadData."""
    shape = port.shape
    if x.shape[1:] == shape and x.ndim == len(shape) + 1:
        return x
    if shape[:1] == (1,) and x.ndim == len(shape) and x.shape[1:] == shape[1:]:
        return x.reshape(len(x), *shape)
    if x.shape == shape:
        return x[None]
    expected = "(N, " + ", ".join(map(str, shape[1:] if shape[:1] == (1,) else shape)) + ")"
    raise BadData("wrong shape", where=where, found=x.shape, expected=expected, hint=_shape_hint(shape, x.shape))


def _shape_hint(shape: tuple[int, ...], got: tuple[int, ...]) -> str:
    body = shape[1:] if shape[:1] == (1,) else shape
    if got == body:
        return "The batch dimension is missing: x[None]"
    if len(got) == len(body) + 1 == 4 and (got[2], got[3], got[1]) == body:
        return "Channels come last: x.transpose(0, 2, 3, 1)"
    if (*got[1:], 1) == body:
        return "The channel dimension is missing: x[..., None]"
    return ""


def _as_reals(x: np.ndarray, scaling: Scaling, where: str) -> np.ndarray:
    if x.dtype.kind in "iu" and x.dtype.itemsize > 2 and np.any(x.astype(np.float32).astype(np.float64) != x):
        raise BadData("integers that float32 cannot hold", where=where, found=f"{x.dtype} up to {x.max()}", expected="at most 2^24 in size")
    if x.dtype.kind == "f" and x.dtype.itemsize > 8:
        raise BadData("wrong type", where=where, found=x.dtype, expected="float32")
    with np.errstate(over="ignore", invalid="ignore"):
        return scaling(x)


def _announce(wanted: tuple[Port, ...], arrays: list[np.ndarray], scaling: Scaling) -> None:
    for p, a in zip(wanted, arrays, strict=True):
        if a.dtype != p.dtype:
            how = f" as {scaling.scale:g}*x + {scaling.offset:g}" if p.dtype == np.float32 and not scaling.identity else ""
            log.info("%s: %s data are used as %s%s", p.where, a.dtype, p.dtype, how)


def finite(batch: Batch, wanted: tuple[Port, ...], first: int, policy: str) -> tuple[Batch, int]:
    """(the batch, how many samples were left out): NaN or infinity in a sample raises BadData, or with policy "skip" drops it."""
    good = np.ones(len(batch), bool)
    for p, a in zip(wanted, batch.arrays, strict=True):
        if a.dtype.kind != "f":
            continue
        fine = np.isfinite(a.reshape(len(a), -1)).all(axis=1)
        if policy != "skip" and not fine.all():
            file = f"{batch.where}, " if batch.where else ""
            raise BadData(
                "NaN or infinity in the data", where=f"{file}sample {first + int(np.argmin(fine))}, {p.where}",
                hint="Remove the sample, or leave such samples out: nonfinite='skip'",
            )  # fmt: skip
        good &= fine
    if good.all():
        return batch, 0
    return batch.rows(good), int((~good).sum())


def take(block: list[Batch], n: int) -> tuple[Batch, list[Batch], int]:
    """The first n samples of batches in a row, what is left, and how many samples that is."""
    arrays = tuple(np.concatenate(parts) if len(block) > 1 else parts[0] for parts in zip(*(b.arrays for b in block), strict=True))
    whole = replace(block[0], arrays=arrays)
    first, rest = whole.rows(slice(n)), whole.rows(slice(n, None))
    return first, [rest] if len(rest) else [], len(rest)


def rebatched(fed: Iterable[Batch], size: int) -> Iterator[Batch]:
    """The same samples in batches of `size`, the last one smaller."""
    block: list[Batch] = []
    held = 0
    for batch in fed:
        block, held = [*block, batch], held + len(batch)
        while held >= size:
            first, block, held = take(block, size)
            yield first
    if held:
        yield take(block, held)[0]


def declared(model: Model, given: Any) -> dict[int, tuple[float, float]]:
    """Input ranges given by the user: (low, high) for every input that takes reals, or a mapping by input name. Raises: BadRange."""
    if given is None:
        return {}
    wanted = {p.index: p for p in ports(model) if p.dtype == np.float32}
    if not isinstance(given, Mapping):
        given = dict.fromkeys(wanted, given)
    found = {}
    for key, pair in given.items():
        index = model.graph.find(key)
        if index not in wanted:
            raise BadRange("not a model input that takes reals", where=str(key), expected=", ".join(p.key for p in wanted.values()))
        low, high = (float(v) for v in pair)
        if not (np.isfinite(low) and np.isfinite(high) and low < high):
            raise BadRange("an input range must be finite with low < high", where=wanted[index].where, found=(low, high))
        found[index] = (low, high)
    return found
