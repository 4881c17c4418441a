"""Ranges as JSON: our own form, and ai-edge-quantizer's calibration result ({tensor: {"min": [...], "max": [...]}})."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from qsim import NUMERICS, __version__
from qsim.errors import BadRange
from qsim.graph import Model

from .archive import write
from .ranging import Ranges
from .statistics import model_hash

FORMAT = "qsim-ranges"
VERSION = 1
LARGEST = 1 << 28  # bytes of a file


class Stored(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The file. model: SHA-256 of the .tflite the ranges are of, "" if unknown. ranges: tensor key -> (low, high), real units."""

    format: str
    version: int
    ranges: dict[str, tuple[float, float]]
    model: str = ""
    strategy: str = ""
    notes: tuple[str, ...] = ()
    made_by: str = ""
    numerics: int = 0


def save_ranges(
    path: str | os.PathLike[str],
    ranges: Mapping[str, tuple[float, float]],
    model: Model | None = None,
    *,
    form: str = "qsim",
    force: bool = False,
) -> None:
    """Write ranges as JSON. form: "qsim", or "ai-edge-quantizer" for its calibration-result form, with tensor names as it expects them.

    *Raises*: WriteFailed, BadRange for a range that is NaN, infinite or inverted.
    """
    checked = {key: _pair(key, value) for key, value in ranges.items()}
    if form == "ai-edge-quantizer":
        data: Any = _foreign(checked, model)
    elif form == "qsim":
        data = Stored(
            format=FORMAT, version=VERSION, ranges=checked, model=model_hash(model) if model is not None else "",
            strategy=getattr(ranges, "strategy", ""), notes=getattr(ranges, "notes", ()), made_by=f"qsim {__version__}", numerics=NUMERICS,
        )  # fmt: skip
    else:
        raise ValueError(f"form is 'qsim' or 'ai-edge-quantizer', not {form!r}")
    write(Path(path), msgspec.json.format(msgspec.json.encode(data), indent=1) + b"\n", force)


def load_ranges(path: str | os.PathLike[str], model: Model | None = None) -> Ranges:
    """Ranges from JSON in either form. With a model, every name must be one of its tensors, and our own form must be of this model.

    *Raises*: BadRange for unknown names (with the nearest ones), NaN, infinite or inverted ranges, and for anything else in the file.
    """
    where = str(path)
    try:
        if os.path.getsize(path) > LARGEST:
            raise BadRange("the file is too large", where=where, expected=f"at most {LARGEST} bytes")
        raw = Path(path).read_bytes()
        data = msgspec.json.decode(raw)
        if not isinstance(data, dict):
            raise BadRange("not a file of ranges", where=where, found=type(data).__name__, expected="a JSON object")
        own = data.get("format") == FORMAT
        stored = _own(msgspec.convert(data, Stored, strict=False), model, where) if own else _imported(data, where)
    except (OSError, UnicodeDecodeError, msgspec.DecodeError) as fault:
        raise BadRange(f"not a file of ranges ({fault})", where=where) from fault
    faults, found = [], {}
    for key, value in stored.ranges.items():
        try:
            found[model.graph.key(model.graph.find(key)) if model is not None else key] = _pair(key, value)
        except BadRange as fault:
            faults.append(str(fault))
    if faults:
        raise BadRange(f"{len(faults)} range(s) cannot be used:\n  " + "\n  ".join(faults), where=where)
    return Ranges(found, stored.strategy, stored.notes)


def _own(stored: Stored, model: Model | None, where: str) -> Stored:
    if stored.version > VERSION:
        raise BadRange("written by a newer version", where=where, found=stored.version, expected=f"at most {VERSION}")
    if model is not None and stored.model and stored.model != model_hash(model):
        raise BadRange(
            "these ranges are of another model", where=where, found=stored.model[:12], expected=model_hash(model)[:12],
            hint='If the tensors are the same, empty the field "model" in the file',
        )  # fmt: skip
    return stored


def _imported(data: Mapping[str, Any], where: str) -> Stored:
    """ai-edge-quantizer's form: arrays of one element (per-channel ones are pooled); a bare pair is accepted too."""
    found: dict[str, tuple[float, float]] = {}
    for key, value in data.items():
        if isinstance(value, Mapping) and {"min", "max"} <= set(value):
            low, high = _flat(value["min"], key), _flat(value["max"], key)
            with np.errstate(invalid="ignore"):
                found[key] = (float(low.min()), float(high.max()))
        elif isinstance(value, list) and len(value) == 2:
            low = _flat(value, key)
            found[key] = (float(low[0]), float(low[1]))
        else:
            raise BadRange(
                "neither our form of ranges nor ai-edge-quantizer's", where=f"{where}, {key!r}", expected='{"min": [..], "max": [..]}'
            )
    return Stored(format=FORMAT, version=VERSION, ranges=found, strategy="imported")


def _flat(value: Any, key: str) -> np.ndarray:
    try:
        x = np.asarray(value, np.float64).reshape(-1)
    except (TypeError, ValueError):
        x = np.zeros(0)
    if not x.size or np.isnan(x).any():
        raise BadRange("not a range", where=f"range of {key!r}", found=value)
    return x


def _foreign(ranges: Mapping[str, tuple[float, float]], model: Model | None) -> dict[str, Any]:
    """Arrays of shape (1,) * rank by the tensor's name in the file; (1,) where the model is not given."""
    found = {}
    for key, (low, high) in ranges.items():
        name, rank = key, 1
        if model is not None:
            t = model.graph.tensors[model.graph.find(key)]
            name, rank = t.name or key, max(1, len(t.shape))
        found[name] = {"min": _nested(low, rank), "max": _nested(high, rank)}
    return found


def _nested(value: float, rank: int) -> Any:
    for _ in range(rank):
        value = [value]  # type: ignore[assignment]
    return value


def _pair(key: Any, value: Any) -> tuple[float, float]:
    low, high = (float(v) for v in value)
    if not (np.isfinite(low) and np.isfinite(high)):
        raise BadRange("a range must be finite", where=f"range of {key!r}", found=(low, high))
    if low > high:
        raise BadRange("the low end is above the high end", where=f"range of {key!r}", found=(low, high))
    return low, high
