"""Data on disk as batches for `observe` and `choose`: .npz and .npy (mapped, not read), folders of images. Nothing here needs jax."""

from __future__ import annotations

import csv
import os
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from qsim.errors import BadData
from qsim.graph import Model

from .feeding import Port, Scaling, admit, ports

LABELS = ("y", "label", "labels")
IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
MOST_BYTES = 1 << 35  # of one array
MOST_PIXELS = 1 << 26  # of one image
BATCH = 64  # samples read at once


@dataclass(frozen=True, eq=False)
class Data:
    """Samples on disk, read part by part. Iterating (as often as wanted) gives batches: tuples of arrays, one per model input.

    count: samples. part(start, stop): stored arrays, one per model input, (stop - start, ...). labels: (count, ...) or None.
    scaling: real = a * x + b, applied where the batches are used. skipped: names of files that were left out. groups: (count,) ids of
    samples that belong together (windows of one recording, say), or None.
    """

    count: int
    part: Callable[[int, int], tuple[np.ndarray, ...]]
    ports: tuple[Port, ...]
    labels: np.ndarray | None = None
    scaling: Scaling = Scaling()
    where: str = ""
    skipped: tuple[str, ...] = ()
    groups: np.ndarray | None = None

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[tuple[np.ndarray, ...]]:
        for start in range(0, self.count, BATCH):
            yield self.part(start, min(start + BATCH, self.count))

    def take(self, rows: Sequence[int] | np.ndarray, where: str = "") -> Data:
        """The samples of these numbers, in this order, as data of their own; nothing is read."""
        kept = np.asarray(rows, np.int64)

        def part(start: int, stop: int) -> tuple[np.ndarray, ...]:
            return _gathered(self.part, kept[start:stop])

        labels, groups = (None if a is None else a[kept] for a in (self.labels, self.groups))
        return replace(self, count=len(kept), part=part, labels=labels, groups=groups, where=where or self.where)

    def grouped(self, groups: np.ndarray) -> Data:
        """The same samples with other groups."""
        return replace(self, groups=groups)

    def pairs(self) -> Iterator[tuple[tuple[np.ndarray, ...], np.ndarray]]:
        """(inputs, labels) batch by batch; inputs are (n, *shape) as the float function takes them. Raises: BadData without labels."""
        if self.labels is None:
            raise BadData("no labels", where=self.where, hint='Give an array "y", or a labels.csv in the folder')
        for k, arrays in enumerate(self):
            start = k * BATCH
            inputs = tuple(admit(p, a, self.scaling, f"{self.where}, {p.where}") for p, a in zip(self.ports, arrays, strict=True))
            yield inputs, self.labels[start : start + len(arrays[0])]


def _gathered(part: Callable[[int, int], tuple[np.ndarray, ...]], rows: np.ndarray) -> tuple[np.ndarray, ...]:
    """The samples of these numbers; neighbours are read together."""
    runs = np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1) if len(rows) else []
    read = [part(int(r[0]), int(r[-1]) + 1) for r in runs] or [part(0, 0)]
    return read[0] if len(read) == 1 else tuple(np.concatenate(column) for column in zip(*read, strict=True))


def open_data(
    path: str | os.PathLike[str],
    model: Model,
    *,
    input_scale: float = 1.0,
    input_offset: float = 0.0,
    limit: int | None = None,
    skip_bad: bool = False,
) -> Data:
    """The samples of a .npz, a .npy or a folder of images, for a model's inputs; real = input_scale * x + input_offset.

    .npz: one array per model input by tensor name or t<index>; with one input also "x", or the only array that is not labels ("y",
    "label", "labels"). .npy: one input. A folder: images sorted by name, decoded when needed, converted to the input's channels and
    resized to it; labels from labels.csv (file,label). limit: the first samples only. skip_bad: leave out files that are no images
    instead of refusing the folder. *Raises*: BadData naming file and array, also for pickled objects and oversized arrays.
    """
    path, wanted = Path(path), ports(model)
    scaling = Scaling(float(input_scale), float(input_offset))
    if limit is not None and limit < 1:
        raise BadData("the limit must be at least 1", found=limit)
    if path.is_dir():
        return _folder(path, wanted, scaling, limit, skip_bad)
    arrays = read_arrays(path)
    chosen, labels = _chosen(arrays, wanted, str(path))
    counts = {len(a) if a.ndim else 0 for a in chosen}
    if len(counts) != 1 or counts == {0}:
        raise BadData("arrays have different or no samples", where=str(path), found=[a.shape for a in chosen])
    count = min(counts.pop(), limit or MOST_BYTES)
    for p, a in zip(wanted, chosen, strict=True):
        admit(p, np.asarray(a[:1]), scaling, f"{path}, {p.where}")
    if labels is not None and len(labels) < count:
        raise BadData("fewer labels than samples", where=str(path), found=len(labels), expected=count)

    def part(start: int, stop: int) -> tuple[np.ndarray, ...]:
        return tuple(np.asarray(a[start:stop]) for a in chosen)

    return Data(count, part, wanted, None if labels is None else np.asarray(labels[:count]), scaling, str(path))


# ---------------------------------------------------------------- arrays


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
        if size > MOST_BYTES:
            raise BadData("the array is too large", where=where, found=f"{size} bytes", expected=f"at most {MOST_BYTES}")
        if info.file_size - start != size:
            raise BadData("the array's size does not match its header", where=where, found=info.file_size - start, expected=size)
        order = "F" if fortran else "C"
        if info.compress_type == zipfile.ZIP_STORED and size:
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


def _chosen(arrays: Mapping[str, np.ndarray], wanted: tuple[Port, ...], where: str) -> tuple[list[np.ndarray], np.ndarray | None]:
    """The arrays of the model's inputs in order, and the labels."""
    names = {alias: p.index for p in wanted for alias in (p.key, f"t{p.index}")}
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


# ---------------------------------------------------------------- images


def _folder(path: Path, wanted: tuple[Port, ...], scaling: Scaling, limit: int | None, skip_bad: bool) -> Data:
    port = wanted[0]
    if len(wanted) != 1 or len(port.shape) != 4 or port.shape[0] != 1 or port.shape[3] not in (1, 3):
        raise BadData("images need a model with one input (1, height, width, 1 or 3)", where=str(path), found=[p.shape for p in wanted])
    files, labels, skipped = _listed(path, skip_bad)
    if skip_bad:
        bad = [f for f in files if not _opens(f)]
        keep = np.array([f not in bad for f in files], bool)
        skipped += tuple(f.name for f in bad)
        files, labels = [f for f in files if f not in bad], None if labels is None else labels[keep]
    if not files:
        raise BadData("no images", where=str(path), expected=", ".join(IMAGES))
    files, labels = files[:limit], None if labels is None else labels[:limit]

    def part(start: int, stop: int) -> tuple[np.ndarray, ...]:
        return (np.stack([decode(f, port.shape[1], port.shape[2], port.shape[3]) for f in files[start:stop]]),)

    return Data(len(files), part, wanted, labels, scaling, str(path), skipped)


def _listed(path: Path, skip_bad: bool) -> tuple[list[Path], np.ndarray | None, tuple[str, ...]]:
    """(images sorted by name, labels, other files). Raises: BadData for files that are no images, unless they are to be skipped."""
    entries = sorted(f for f in path.iterdir() if f.is_file() and f.name != "labels.csv" and not f.name.startswith("."))
    files = [f for f in entries if f.suffix.lower() in IMAGES]
    others = tuple(f.name for f in entries if f.suffix.lower() not in IMAGES)
    if others and not skip_bad:
        raise BadData("files that are not images", where=str(path), found=", ".join(others[:5]), hint="Remove them, or skip them: skip_bad")
    table = path / "labels.csv"
    if not table.exists():
        return files, None, others
    given = _labels(table)
    absent = sorted(set(given) - {f.name for f in files})
    unlabelled = [f.name for f in files if f.name not in given]
    if absent or unlabelled:
        found = f"without image: {', '.join(absent[:3]) or 'none'}; without label: {', '.join(unlabelled[:3]) or 'none'}"
        raise BadData("labels.csv and the images do not match", where=str(table), found=found)
    return files, np.array([given[f.name] for f in files]), others


def _labels(table: Path) -> dict[str, float]:
    """Rows `file,label,...`; a heading is a first row whose second field is not a number."""
    given: dict[str, float] = {}
    try:
        with open(table, newline="", encoding="utf-8") as f:
            rows = [r for r in csv.reader(f) if r]
    except (UnicodeDecodeError, csv.Error) as fault:
        raise BadData(f"not a table ({fault})", where=str(table)) from fault
    for k, row in enumerate(rows):
        try:
            value = float(row[1])
        except (IndexError, ValueError):
            if k == 0:
                continue
            raise BadData("not a row file,label", where=f"{table}, row {k + 1}", found=",".join(row)) from None
        given[row[0]] = int(value) if value.is_integer() else value
    return given


def decode(path: Path, height: int, width: int, channels: int) -> np.ndarray:
    """(height, width, channels) uint8 of an image file: converted to grey or RGB (alpha and palette resolved, CMYK converted; orientation
    tags are not applied), resized bilinearly where its size differs. *Raises*: BadData, also for more than 2^26 pixels and 16 bits."""
    image_module = _pillow()
    try:
        with _quiet(), image_module.open(path) as image:
            if image.width * image.height > MOST_PIXELS:
                raise BadData(
                    "the image is too large", where=str(path), found=f"{image.width}x{image.height}", expected=f"{MOST_PIXELS} pixels"
                )
            if image.mode.startswith(("I", "F")):
                raise BadData("not 8 bits a channel", where=str(path), found=image.mode, hint="Give such data as .npz")
            image = image.convert("RGB" if channels == 3 else "L")
            if image.size != (width, height):
                image = image.resize((width, height), image_module.Resampling.BILINEAR)
            return np.asarray(image, np.uint8).reshape(height, width, channels)
    except BadData:
        raise
    except (OSError, ValueError, SyntaxError, image_module.DecompressionBombError) as fault:
        raise BadData(f"not a readable image ({fault})", where=str(path)) from fault


def _opens(path: Path) -> bool:
    image_module = _pillow()
    try:
        with _quiet(), image_module.open(path) as image:
            image.verify()
        return True
    except Exception:  # noqa: BLE001 - whatever a decoder raises on a damaged file
        return False


@contextmanager
def _quiet() -> Iterator[None]:
    """Without pillow's warnings: sizes are judged here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError:
        raise BadData("images need pillow", hint="pip install qsim-tflite[images]") from None
    return Image
