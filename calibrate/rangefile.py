"""Ranges as JSON files: our own form, and ai-edge-quantizer's calibration results, so that users can mix tools.

Own form: {"qsim_ranges": 1, "model_sha256": ..., "strategy": ..., "ranges": {tensor: [low, high]}}, real units.
ai-edge-quantizer's: {tensor: {"min": nested list of one number, "max": ...}}, which its `quantize` takes back.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from qsim.errors import BadRange
from qsim.files import replace_file
from qsim.graph import Graph, Model
from qsim.writer import may_write

Ranges = Mapping[str, tuple[float, float]]
FORMS = ("qsim", "aeq")


class RangeFile(msgspec.Struct, forbid_unknown_fields=True):
    """Our own form, as it stands in the file."""

    qsim_ranges: int
    ranges: dict[str, tuple[float, float]]
    strategy: str = ""
    model_sha256: str = ""


def save_ranges(
    path: str | Path, ranges: Ranges, *, form: str = "qsim", model: Model | None = None, strategy: str = "", force: bool = False
) -> None:
    """Write {tensor key: (low, high)} as JSON, whole or not at all. form: "qsim" or "aeq" (which needs `model` for the ranks).

    *Raises*: WriteFailed where the file exists and `force` is not given, or cannot be written; BadRange for a range that is no range.
    """
    path = Path(path)
    may_write(path, "", force=force)
    checked = {str(k): _range(k, v) for k, v in ranges.items()}
    content: Any = RangeFile(1, checked, strategy, fingerprint(model)) if form == "qsim" else _aeq(checked, model)
    replace_file(path, msgspec.json.format(msgspec.json.encode(content), indent=1) + b"\n")


def load_ranges(path: str | Path, model: Model | None = None) -> dict[str, tuple[float, float]]:
    """Read either form. With a model, names are checked and become its tensor keys.

    *Raises*: BadRange naming file and entry: not JSON, not of either form, NaN, inverted, per channel, or an unknown tensor (with
    the nearest names).
    """
    where = str(path)
    try:
        text = Path(path).read_bytes()
        content = json.loads(text)
    except (OSError, ValueError) as fault:
        raise BadRange(f"no ranges can be read: {fault}", where=where) from fault
    if not isinstance(content, dict):
        raise BadRange("ranges are a JSON object", where=where, found=type(content).__name__)
    found = _own(text, where) if "qsim_ranges" in content else {k: _min_max(k, v, where) for k, v in content.items()}
    graph = model.graph if model is not None else None
    return {_key(k, graph, where): _range(k, v, where) for k, v in found.items()}


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
    low, high = (float(v) for v in pair)
    place = f"{where}, tensor {name!r}" if where else f"tensor {name!r}"
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


def _aeq(ranges: Ranges, model: Model | None) -> dict[str, Any]:
    if model is None:
        raise BadRange("ai-edge-quantizer's form needs the model, for the ranks of its tensors")
    graph = model.graph

    def boxed(value: float, rank: int) -> Any:
        return np.full((1,) * rank, value).tolist()

    ranks = {k: len(graph.tensors[graph.find(k)].shape) for k in ranges}
    return {k: {"min": boxed(low, ranks[k]), "max": boxed(high, ranks[k])} for k, (low, high) in ranges.items()}
