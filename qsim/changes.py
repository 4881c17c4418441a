"""What changed between two tensors: type, shape, range, and the values of a constant."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .graph import QParams, Tensor
from .minmax import stored_range


@dataclass(frozen=True)
class Change:
    """One difference. kind: op, tensor, constant, graph, signature, metadata, model, record. where: the place, by the old model's names.

    words: what changed. facts: the same as plain values, for programs.
    """

    kind: str
    where: str
    words: str
    facts: Mapping[str, Any] = field(default_factory=dict)


WIDE = 1 << 16  # codes of a type whose range says nothing (biases)


def kind(t: Tensor) -> str:
    """A tensor in a few words: constant or not, type, shape, range."""
    shape = "x".join(map(str, t.shape)) or "scalar"
    return f"{'constant ' if t.is_constant else ''}{t.type} {shape}{'' if t.qparams is None else ', ' + _affine(t.qparams)}"


def of_tensor(where: str, a: Tensor, b: Tensor) -> Iterator[Change]:
    """The changes from one tensor to another: what it is, its range, its constant's values."""
    told = list(_of_tensors(a, b))
    if told:
        yield Change("tensor", where, "; ".join(words for words, _ in told), {k: v for _, facts in told for k, v in facts.items()})
    yield from _constants(where, a, b)


def _of_tensors(a: Tensor, b: Tensor) -> Iterator[tuple[str, dict[str, Any]]]:
    for word, name in (
        ("renamed", "name"),
        ("type", "type"),
        ("shape", "shape"),
        ("open shape", "shape_signature"),
        ("variable", "is_variable"),
    ):
        before, after = getattr(a, name), getattr(b, name)
        if before != after:
            yield f"{word} {before!s} -> {after!s}", {f"old_{name}": before, f"new_{name}": after}
    if a.is_constant != b.is_constant:
        yield f"{'a constant' if a.is_constant else 'computed'} -> {'a constant' if b.is_constant else 'computed'}", {}
    if (a.qparams is None) != (b.qparams is None):
        none = "not quantized"
        words = f"{_affine(a.qparams) if a.qparams else none} -> {_affine(b.qparams) if b.qparams else none}"
        yield words, {"old_range": _ends(a.qparams), "new_range": _ends(b.qparams)}
    elif a.qparams is not None and b.qparams is not None and a.qparams != b.qparams:
        yield _parameters(a.qparams, b.qparams), {"old_range": _ends(a.qparams), "new_range": _ends(b.qparams)}
    if _blocks(a) != _blocks(b):
        yield "scales by blocks changed", {}
    before, after = stored_range(a), stored_range(b)
    if before != after:
        yield f"min/max in the file {before or 'none'} -> {after or 'none'}", {"old_range": before, "new_range": after}


def _blocks(t: Tensor) -> tuple[int, bytes] | None:
    return None if t.blocks is None else (t.blocks.size, np.ascontiguousarray(t.blocks.scale).tobytes())


def _ends(q: QParams | None) -> list[float] | None:
    return None if q is None else [float(q.real_range()[0].min()), float(q.real_range()[1].max())]


def _affine(q: QParams) -> str:
    low, high = _ends(q)  # type: ignore[misc]
    if q.per_channel:
        return f"{q.scale.size} scales {min(q.scale):.6g}..{max(q.scale):.6g}"
    numbers = f"scale {q.scale[0]:.9g}, zero point {q.zero_point[0]}"
    return numbers if q.high - q.low >= WIDE else f"range {low:.6g} .. {high:.6g} ({numbers})"


def _parameters(a: QParams, b: QParams) -> str:
    """The change of a tensor's parameters: whole ranges, or how many channels changed and by which factors."""
    if not (a.per_channel and b.per_channel and a.scale.size == b.scale.size):
        return f"{_affine(a)} -> {_affine(b)}"
    changed = (a.scale != b.scale) | (a.zero_point != b.zero_point)
    if a.axis != b.axis:
        return f"scales along axis {a.axis} -> {b.axis}"
    with np.errstate(divide="ignore", invalid="ignore"):
        factors = (b.scale.astype(np.float64) / a.scale)[changed]
    return f"scales of {int(changed.sum())} of {changed.size} channels times {factors.min():.6g} .. {factors.max():.6g}"


def _constants(key: str, a: Tensor, b: Tensor) -> Iterator[Change]:
    """The change of a constant's values: codes where both have the same type, else reals in steps of the quantized one."""
    if a.data is None or b.data is None:
        return
    if a.data.shape != b.data.shape or a.data.dtype.kind not in "fiub" or b.data.dtype.kind not in "fiub":
        if a.data.tobytes() != b.data.tobytes():
            yield Change("constant", key, "another value")
    elif a.type == b.type:
        yield from _same_type(key, a, b)
    else:
        yield from _other_type(key, a, b)


def _other_type(key: str, a: Tensor, b: Tensor) -> Iterator[Change]:
    unit = "real units" if b.qparams is None else "steps of the new scale"
    step = 1.0 if b.qparams is None else _along(b.qparams.scale, b)
    with np.errstate(divide="ignore", invalid="ignore"):
        largest = float((np.abs(_reals(a) - _reals(b)) / step).max(initial=0.0))
    yield Change("constant", key, f"its reals moved by at most {largest:.4g} {unit}", {"largest": largest, "unit": unit})


def _same_type(key: str, a: Tensor, b: Tensor) -> Iterator[Change]:
    assert a.data is not None and b.data is not None
    changed = _bits(a.data) != _bits(b.data)
    count, size = int(changed.sum()), changed.size
    if not count:
        return
    unit, what = ("steps", "codes") if a.data.dtype.kind in "iub" else ("real units", "values")
    wide = np.float64 if a.data.dtype.kind == "f" else np.int64
    with np.errstate(invalid="ignore"):
        largest = np.abs(b.data.astype(wide) - a.data.astype(wide)).max()
    words = f"{count} of {size} {what} changed, by at most {largest:.6g} {unit}"
    yield Change("constant", key, words, {"changed": count, "of": size, "largest": largest.item(), "unit": unit})


def _bits(values: np.ndarray) -> np.ndarray:
    """Values as integers of their bits, so that NaNs are equal to themselves."""
    return np.ascontiguousarray(values).view(f"u{values.dtype.itemsize}")


def _reals(t: Tensor) -> np.ndarray:
    assert t.data is not None
    if t.qparams is None:
        return t.data.astype(np.float64)
    return (t.data.astype(np.float64) - _along(t.qparams.zero_point, t)) * _along(t.qparams.scale, t)


def _along(values: np.ndarray, t: Tensor) -> np.ndarray:
    """One number a channel, in the shape that broadcasts over a tensor."""
    flat = np.asarray(values, np.float64).reshape(-1)
    assert t.data is not None and t.qparams is not None
    return flat if flat.size == 1 else flat.reshape([-1 if d == t.qparams.axis else 1 for d in range(t.data.ndim)])
