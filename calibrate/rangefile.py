"""Ranges as files, so that users can mix tools. The form follows from the file's name, or is named.

json, form "qsim": {"qsim_ranges": 1, "model_sha256": ..., "strategy": ..., "ranges": {tensor: [low, high]}}, real units.
json, form "aeq": {tensor: {"min": nested list of one number, "max": ...}}, the calibration result of ai-edge-quantizer.
csv: a line `tensor,low,high`, then one a tensor.
tflite: the float model itself with min and max (float32) in its quantization records, which the TFLite converter's `mlir_quantize` takes.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from qsim.errors import BadModel, BadRange
from qsim.files import replace_file
from qsim.given import given_ranges
from qsim.graph import Graph, Model
from qsim.layout import layout
from qsim.minmax import with_min_max
from qsim.reader import load
from qsim.types import code_range
from qsim.writer import may_write, to_bytes

Ranges = Mapping[str, tuple[float, float]]
FORMS = ("qsim", "aeq", "csv", "tflite")
COLUMNS = ["tensor", "low", "high"]


class RangeFile(msgspec.Struct, forbid_unknown_fields=True):
    """Our own form, as it stands in the file."""

    qsim_ranges: int
    ranges: dict[str, tuple[float, float]]
    strategy: str = ""
    model_sha256: str = ""


def form_of(path: str | Path) -> str:
    """The form that a file's name asks for: csv, tflite, else our JSON."""
    suffix = Path(path).suffix.lower().removeprefix(".")
    return suffix if suffix in ("csv", "tflite") else "qsim"


def save_ranges(
    path: str | Path, ranges: Ranges, *, form: str | None = None, model: Model | None = None, strategy: str = "", force: bool = False
) -> None:
    """Write {tensor key: (low, high)}, whole or not at all. form: one of `FORMS`, default by the file's name.

    "aeq" and "tflite" need `model`; "aeq" also holds the outputs whose range their op dictates, which that tool asks for.
    *Raises*: WriteFailed where the file exists and `force` is not given, or cannot be written; BadRange for a range that is no range.
    """
    path = Path(path)
    may_write(path, model.path if model is not None else "", force=force)
    checked = {str(k): _range(k, v) for k, v in ranges.items()}
    replace_file(path, _encoded(form or form_of(path), checked, model, strategy))


def _encoded(form: str, ranges: Ranges, model: Model | None, strategy: str) -> bytes:
    if form == "csv":
        return _table(ranges)
    if form == "tflite":
        return to_bytes(with_min_max(_needed(model, form), ranges), "rebuild")
    content: Any = RangeFile(1, dict(ranges), strategy, fingerprint(model)) if form == "qsim" else _aeq(ranges, _needed(model, form))
    return msgspec.json.format(msgspec.json.encode(content), indent=1) + b"\n"


def _needed(model: Model | None, form: str) -> Model:
    if model is None:
        raise BadRange(f"the form {form} needs the model")
    return model


def load_ranges(path: str | Path, model: Model | None = None) -> dict[str, tuple[float, float]]:
    """Read any of the forms. With a model, names are checked and become its tensor keys.

    *Raises*: BadRange naming file and entry: not of any form, NaN, inverted, per channel, or an unknown tensor (with the nearest names).
    """
    where = str(path)
    found = {"csv": _read_csv, "tflite": _read_tflite}.get(form_of(path), _read_json)(path, where)
    graph = model.graph if model is not None else None
    return {_key(k, graph, where): _range(k, v, where) for k, v in found.items()}


def _read_json(path: str | Path, where: str) -> dict[str, tuple[float, float]]:
    try:
        text = Path(path).read_bytes()
        content = json.loads(text)
    except (OSError, ValueError) as fault:
        raise BadRange(f"no ranges can be read: {fault}", where=where) from fault
    if not isinstance(content, dict):
        raise BadRange("ranges are a JSON object", where=where, found=type(content).__name__)
    return _own(text, where) if "qsim_ranges" in content else {k: _min_max(k, v, where) for k, v in content.items()}


def _read_tflite(path: str | Path, where: str) -> dict[str, tuple[float, float]]:
    try:
        found = given_ranges(load(path), trusted=True)
    except BadModel as fault:
        raise BadRange(f"no ranges can be read: {fault}", where=where) from fault
    if not found:
        raise BadRange("no float tensor of this model has min and max, and it has no FAKE_QUANT", where=where)
    return found


def _table(ranges: Ranges) -> bytes:
    made = io.StringIO()
    rows = csv.writer(made, lineterminator="\n")
    rows.writerow(COLUMNS)
    rows.writerows((k, repr(low), repr(high)) for k, (low, high) in ranges.items())
    return made.getvalue().encode("utf-8", "surrogateescape")


def _read_csv(path: str | Path, where: str) -> dict[str, tuple[float, float]]:
    try:
        text = Path(path).read_bytes().decode("utf-8-sig", "surrogateescape")
        lines = [row for row in csv.reader(io.StringIO(text, newline="")) if row]
    except (OSError, csv.Error) as fault:
        raise BadRange(f"no ranges can be read: {fault}", where=where) from fault
    if not lines or [cell.strip().lower() for cell in lines[0]] != COLUMNS:
        raise BadRange(
            "the first line names the columns", where=where, found=",".join(lines[0]) if lines else "", expected=",".join(COLUMNS)
        )
    found: dict[str, tuple[float, float]] = {}
    for number, row in enumerate(lines[1:], 2):
        place = f"{where}, row {number}"
        if len(row) != len(COLUMNS) or row[0] in found:
            raise BadRange("not one tensor with low and high, each tensor once", where=place, found=",".join(row))
        found[row[0]] = _number(row[1], place), _number(row[2], place)
    return found


def _number(text: str, place: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise BadRange("not a number", where=place, found=text) from None


def fingerprint(model: Model | None) -> str:
    """sha256 of the file a model was read from; empty for models made in memory."""
    data = getattr(getattr(model, "source", None), "data", None)
    return hashlib.sha256(data).hexdigest() if data is not None else ""


def _own(text: bytes, where: str) -> dict[str, tuple[float, float]]:
    try:
        return msgspec.json.decode(text, type=RangeFile).ranges
    except msgspec.ValidationError as fault:
        raise BadRange(f"not a file of ranges: {fault}", where=where) from fault


def _min_max(name: str, entry: Any, where: str) -> tuple[float, float]:
    if not isinstance(entry, dict) or not {"min", "max"} <= entry.keys():
        raise BadRange("neither our form nor ai-edge-quantizer's", where=f"{where}, entry {name!r}", expected='{"min": ..., "max": ...}')
    low, high = np.ravel(entry["min"]), np.ravel(entry["max"])
    if low.size != 1 or high.size != 1:
        raise BadRange(
            "a range per channel; activations have one", where=f"{where}, entry {name!r}", found=f"{low.size} and {high.size} numbers"
        )
    try:
        return float(low[0]), float(high[0])
    except (TypeError, ValueError) as fault:
        raise BadRange(f"not a number: {fault}", where=f"{where}, entry {name!r}") from fault


def _range(name: Any, pair: Any, where: str = "") -> tuple[float, float]:
    place = f"{where}, tensor {name!r}" if where else f"tensor {name!r}"
    try:
        low, high = (float(v) for v in pair)
    except (TypeError, ValueError):
        raise BadRange("a range is a pair (low, high)", where=place, hint="Files do not hold ranges by channel") from None
    if not (math.isfinite(low) and math.isfinite(high)):
        raise BadRange("a range must be finite", where=place, found=(low, high))
    if low > high:
        raise BadRange("the low end of a range is above its high end", where=place, found=(low, high))
    return low, high


def _key(name: str, graph: Graph | None, where: str) -> str:
    if graph is None:
        return name
    try:
        return graph.key(graph.find(name))
    except BadRange as fault:
        raise BadRange(fault.message, where=where, hint=fault.hint) from fault


def _aeq(ranges: Ranges, model: Model) -> dict[str, Any]:
    graph, fixed = model.graph, _dictated(model)
    found = {graph.find(k): (low, high) for k, (low, high) in {**fixed, **ranges}.items()}
    return {graph.key(t): {"min": _boxed(low, graph, t), "max": _boxed(high, graph, t)} for t, (low, high) in sorted(found.items())}


def _boxed(value: float, graph: Graph, tensor: int) -> Any:
    return np.full((1,) * len(graph.tensors[tensor].shape), value).tolist()


def _dictated(model: Model) -> dict[str, tuple[float, float]]:
    """The ranges of outputs whose parameters their op dictates (SOFTMAX: [0, 255/256])."""
    low, high = code_range("int8")
    return {model.graph.key(t): (scale * (low - zero), scale * (high - zero)) for t, (scale, zero) in layout(model).fixed.items()}
