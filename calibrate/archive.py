"""Statistics as a file: .npz without pickle. And the one way in which this package writes files."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from qsim.errors import BadData
from qsim.files import replace_file
from qsim.writer import may_write

from .statistics import Domain, Sketch, Statistics

FORMAT = 2


WHOLE, BEFORE, CHANNEL = range(3)  # of a tensor, of it before its activation, of one of its channels
NUMBERS = ("size", "sampled", "samples", "low", "high", "nan", "inf", "huge", "fractional", "overflow", "unit")


def pack(s: Statistics) -> bytes:
    """The .npz as bytes: one JSON header, then the sketches' arrays end to end, in the header's order."""
    labelled = [((WHOLE, t, 0), k) for t, k in sorted(s.tensors.items())]
    labelled += [((BEFORE, t, 0), k) for t, k in sorted(s.before.items())]
    labelled += [((CHANNEL, t, c), k) for t, row in sorted(s.channels.items()) for c, k in enumerate(row)]
    sketches, order = [k for _, k in labelled], sorted(s.tensors)
    header = {
        "format": FORMAT, "model": s.model, "data": s.data, "numerics": s.numerics, "samples": s.samples, "skipped": s.skipped,
        "copies": sorted(s.copies.items()), "domains": [(t, d.low, d.high, d.words) for t, d in sorted(s.domains.items())],
        "sketches": [[*label, *(_plain(getattr(k, n)) for n in NUMBERS), len(k.bins), -1 if k.raw is None else len(k.raw)]
                     for label, k in labelled],
        "sequence": s.sequence is not None,
    }  # fmt: skip
    arrays = {
        "header": np.frombuffer(json.dumps(header, sort_keys=True).encode(), np.uint8),
        "bins": _joined([k.bins for k in sketches], np.uint16),
        "counts": _joined([k.counts for k in sketches], np.int64),
        "weights": _joined([k.weights for k in sketches if k.weights is not None], np.int64),
        "raw": _joined([k.raw for k in sketches if k.raw is not None], np.float32),
        "sequence": _joined([s.sequence[t].reshape(-1) for t in order] if s.sequence is not None else [], np.float32),
    }
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def _plain(number: Any) -> int | float:
    return number if isinstance(number, float) else int(number)


def _joined(parts: list[np.ndarray], dtype: Any) -> np.ndarray:
    return np.concatenate([np.zeros(0, dtype), *parts]).astype(dtype)


def load_statistics(path: str | os.PathLike[str], *, limit: int = 1 << 30) -> Statistics:
    """Read what `Statistics.save` wrote. Raises: BadData for anything else, also for a file that unpacks to more than `limit` bytes."""
    where = str(path)
    try:
        with zipfile.ZipFile(path) as z:
            if sum(i.file_size for i in z.infolist()) > limit:
                raise BadData("the file unpacks to too much", where=where, expected=f"at most {limit} bytes")
        with np.load(path, allow_pickle=False) as z:
            arrays = {k: z[k] for k in ("header", "bins", "counts", "weights", "raw", "sequence")}
        header = json.loads(arrays["header"].tobytes())
        if header["format"] != FORMAT:
            raise BadData("statistics of another format", where=where, found=header["format"], expected=FORMAT)
        return _unpack(header, arrays)
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as fault:
        raise BadData(f"not a statistics file ({fault})", where=where) from fault


def _unpack(header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Statistics:
    parts: tuple[dict[int, Any], ...] = ({}, {}, {})
    sequence = {}
    take = {name: _Taken(arrays[name]) for name in ("bins", "counts", "weights", "raw", "sequence")}
    for part, t, _, *numbers, bins, raws in header["sketches"]:
        known = dict(zip(NUMBERS, numbers, strict=True))
        known["fractional"] = bool(known["fractional"])
        found = Sketch(
            **known, bins=take["bins"](bins), counts=take["counts"](bins), raw=None if raws < 0 else take["raw"](raws),
            weights=take["weights"](bins) if known["unit"] else None,
        )  # fmt: skip
        if found.counts.sum() != found.sampled * found.samples:
            raise ValueError(f"counts of tensor {t} do not add up")
        parts[part][t] = (*parts[part].get(t, ()), found) if part == CHANNEL else found
        if header["sequence"] and part == WHOLE:
            sequence[t] = take["sequence"](2 * found.samples).reshape(-1, 2)
    return Statistics(
        parts[WHOLE], header["model"], dict(map(tuple, header["copies"])), {t: Domain(*d) for t, *d in header["domains"]},
        header["samples"], header["skipped"], header["data"], header["numerics"], sequence if header["sequence"] else None,
        parts[BEFORE], parts[CHANNEL],
    )  # fmt: skip


class _Taken:
    """An array, taken from its start part by part."""

    def __init__(self, array: np.ndarray):
        self.array, self.at = array, 0

    def __call__(self, n: int) -> np.ndarray:
        self.at += n
        if self.at > len(self.array):
            raise ValueError("an array ends too early")
        return self.array[self.at - n : self.at]


def write(path: Path, data: bytes, force: bool) -> None:
    """All or nothing. Raises: WriteFailed, also for an existing file without `force`."""
    may_write(path, "", force=force)
    replace_file(path, data)
