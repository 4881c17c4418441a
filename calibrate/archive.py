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

FORMAT = 1


def pack(s: Statistics) -> bytes:
    """The .npz as bytes: one JSON header, then the sketches' arrays end to end in ascending order of tensor index."""
    order = sorted(s.tensors)
    sketches = [s.tensors[t] for t in order]
    names = ("size", "sampled", "samples", "low", "high", "bad", "fractional")
    header = {
        "format": FORMAT, "model": s.model, "data": s.data, "numerics": s.numerics, "samples": s.samples, "skipped": s.skipped,
        "copies": sorted(s.copies.items()), "domains": [(t, d.low, d.high, d.words) for t, d in sorted(s.domains.items())],
        "tensors": [[t, *(int(getattr(k, n)) for n in names), len(k.bins), -1 if k.raw is None else len(k.raw)]
                    for t, k in zip(order, sketches, strict=True)],
        "sequence": s.sequence is not None,
    }  # fmt: skip
    arrays = {
        "header": np.frombuffer(json.dumps(header, sort_keys=True).encode(), np.uint8),
        "bins": _joined([k.bins for k in sketches], np.uint16),
        "counts": _joined([k.counts for k in sketches], np.int64),
        "raw": _joined([k.raw for k in sketches if k.raw is not None], np.float32),
        "sequence": _joined([s.sequence[t].reshape(-1) for t in order] if s.sequence is not None else [], np.float32),
    }
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


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
            arrays = {k: z[k] for k in ("header", "bins", "counts", "raw", "sequence")}
        header = json.loads(arrays["header"].tobytes())
        if header["format"] != FORMAT:
            raise BadData("statistics of another format", where=where, found=header["format"], expected=FORMAT)
        return _unpack(header, arrays)
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as fault:
        raise BadData(f"not a statistics file ({fault})", where=where) from fault


def _unpack(header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Statistics:
    tensors, sequence, at, raw_at, seq_at = {}, {}, 0, 0, 0
    for t, size, sampled, samples, low, high, bad, fractional, bins, raws in header["tensors"]:
        raw = None if raws < 0 else arrays["raw"][raw_at : raw_at + raws]
        tensors[t] = Sketch(
            size, sampled, samples, low, high, bad, bool(fractional),
            arrays["bins"][at : at + bins], arrays["counts"][at : at + bins], raw,
        )  # fmt: skip
        if tensors[t].counts.sum() != sampled * samples:
            raise ValueError(f"counts of tensor {t} do not add up")
        at, raw_at = at + bins, raw_at + max(raws, 0)
        sequence[t] = arrays["sequence"][seq_at : seq_at + 2 * samples].reshape(-1, 2)
        seq_at += 2 * samples
    return Statistics(
        tensors, header["model"], dict(map(tuple, header["copies"])), {t: Domain(*d) for t, *d in header["domains"]},
        header["samples"], header["skipped"], header["data"], header["numerics"], sequence if header["sequence"] else None,
    )  # fmt: skip


def write(path: Path, data: bytes, force: bool) -> None:
    """All or nothing. Raises: WriteFailed, also for an existing file without `force`."""
    may_write(path, "", force=force)
    replace_file(path, data)
