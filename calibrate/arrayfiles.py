"""Arrays on disk: .npz and .npy, mapped where they are stored uncompressed, and folders of such files."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qsim.errors import BadData

from .feeding import LABELS, Port, named_ports

MOST_BYTES = 1 << 35  # of one array
MOST_UNPACKED = 1 << 32  # of one that is compressed, and so cannot be mapped
FILES = (".npy", ".npz")


@dataclass(frozen=True, eq=False)
class Stored:
    """Samples as they are stored. part(start, stop): arrays, one per model input. labels, groups: one a sample, or None. skipped: names
    of files that were left out."""

    count: int
    part: Callable[[int, int], tuple[np.ndarray, ...]]
    labels: np.ndarray | None = None
    groups: np.ndarray | None = None
    skipped: tuple[str, ...] = ()


def array_file(path: Path, wanted: tuple[Port, ...], groups: str | None = None) -> Stored:
    """A .npz or .npy; groups: the key of an array of group ids. *Raises*: BadData naming file and array."""
    arrays = read_arrays(path)
    found, labels = chosen({k: a for k, a in arrays.items() if k != groups}, wanted, str(path))
    counts = {len(a) if a.ndim else 0 for a in found}
    if len(counts) != 1 or counts == {0}:
        raise BadData("arrays have different or no samples", where=str(path), found=[a.shape for a in found])
    count = counts.pop()
    if labels is not None and len(labels) < count:
        raise BadData("fewer labels than samples", where=str(path), found=len(labels), expected=count)
    ids = None if groups is None else named_groups(arrays, groups, count, str(path))
    return Stored(count, lambda i, j: tuple(np.asarray(a[i:j]) for a in found), None if labels is None else np.asarray(labels[:count]), ids)


def holds_arrays(path: Path) -> bool:
    """Whether a folder's samples are arrays (else images)."""
    return any(f.suffix in FILES for f in path.iterdir())


def array_folder(path: Path, wanted: tuple[Port, ...]) -> Stored:
    """The samples of all .npy and .npz files of a folder, by name; each file is a group. *Raises*: as `array_file`."""
    files = sorted(f for f in path.iterdir() if f.suffix in FILES and not f.name.startswith("."))
    return joined([array_file(f, wanted) for f in files], str(path))


def joined(parts: Sequence[Stored], where: str) -> Stored:
    """Several sets in a row, each one a group. *Raises*: BadData where some have labels and others none."""
    counts = [p.count for p in parts]
    labels = [p.labels for p in parts if p.labels is not None]
    if labels and len(labels) < len(parts):
        raise BadData("some files have labels, others none", where=where, found=f"{len(labels)} of {len(parts)}")
    starts = np.cumsum([0, *counts]).tolist()

    def part(start: int, stop: int) -> tuple[np.ndarray, ...]:
        rows = [(p, max(start - s, 0), min(stop - s, p.count)) for p, s in zip(parts, starts, strict=False)]
        read = [p.part(i, j) for p, i, j in rows if i < j] or [parts[0].part(0, 0)]
        return tuple(np.concatenate(column) for column in zip(*read, strict=True))

    return Stored(starts[-1], part, np.concatenate(labels) if labels else None, np.repeat(np.arange(len(parts)), counts))


def named_groups(arrays: Mapping[str, np.ndarray], key: str, count: int, where: str) -> np.ndarray:
    """The group ids of `count` samples. *Raises*: BadData."""
    if key not in arrays or arrays[key].shape != (count,):
        raise BadData(f"no array {key!r} with one group number a sample", where=where, found=", ".join(arrays) or "no arrays")
    return np.asarray(arrays[key])


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a .npz (by name) or a .npy ("x"), mapped where they are stored uncompressed. Raises: BadData."""
    try:
        if path.suffix == ".npy":
            return {"x": np.lib.format.open_memmap(path, mode="r")}
        with zipfile.ZipFile(path) as z:
            return {Path(i.filename).stem: _member(path, z, i) for i in z.infolist() if i.filename.endswith(".npy")}
    except BadData:
        raise
    except FileNotFoundError:
        raise BadData("no such file", where=str(path)) from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, NotImplementedError) as fault:
        raise BadData(f"cannot be read as .npz or .npy ({fault})", where=str(path)) from fault


def _member(path: Path, z: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    """One array of a .npz: its header decides the size before anything is unpacked."""
    where = f"{path}, {info.filename}"
    with z.open(info) as f:
        version = np.lib.format.read_magic(f)
        header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
        if header is None:
            raise BadData("an .npy version that is not known", where=where, found=version)
        shape, fortran, dtype = header(f)
        start = f.tell()
        if dtype.hasobject:
            raise BadData("holds Python objects (pickle)", where=where, hint="Save plain arrays of numbers")
        size = dtype.itemsize
        for n in shape:
            size *= n
        packed = info.compress_type != zipfile.ZIP_STORED
        most = MOST_UNPACKED if packed else MOST_BYTES
        if size > most:
            hint = "Save it uncompressed (np.savez): it is mapped then" if packed else ""
            raise BadData("the array is too large", where=where, found=f"{size} bytes", expected=f"at most {most}", hint=hint)
        if info.file_size - start != size:
            raise BadData("the array's size does not match its header", where=where, found=info.file_size - start, expected=size)
        order = "F" if fortran else "C"
        if not packed and size:
            return np.memmap(path, dtype, "r", _offset(path, info) + start, tuple(shape), order)  # type: ignore[call-overload,no-any-return]
        data = f.read(size + 1)
    if len(data) != size:
        raise BadData("the array's data do not match its header", where=where, found=len(data), expected=size)
    return np.frombuffer(data, dtype).reshape(shape, order=order)  # type: ignore[call-overload,no-any-return]


def _offset(path: Path, info: zipfile.ZipInfo) -> int:
    """Where a member's data begin: after its local header, whose name and extra field have their own lengths."""
    with open(path, "rb") as f:
        f.seek(info.header_offset + 26)
        name, extra = struct.unpack("<HH", f.read(4))
    return info.header_offset + 30 + int(name) + int(extra)


def chosen(arrays: Mapping[str, np.ndarray], wanted: tuple[Port, ...], where: str) -> tuple[list[np.ndarray], np.ndarray | None]:
    """The arrays of the model's inputs in order, and the labels."""
    names = {name: p.index for name, p in named_ports(wanted).items()}
    found = {names[k]: a for k, a in arrays.items() if k in names}
    labels = next((arrays[k] for k in LABELS if k in arrays and k not in names), None)
    if len(wanted) == 1 and not found:
        rest = {k: a for k, a in arrays.items() if k not in LABELS and a.ndim > 0}
        only = rest.get("x", next(iter(rest.values())) if len(rest) == 1 else None)
        if only is not None:
            found[wanted[0].index] = only
    missing = [p.key for p in wanted if p.index not in found]
    if missing:
        raise BadData(
            f"no array for {', '.join(missing)}", where=where, found=", ".join(arrays) or "no arrays",
            hint="Name arrays after the model's inputs or t<index>",
        )  # fmt: skip
    return [found[p.index] for p in wanted], labels
