"""Folders of images as samples: sorted by name, decoded when needed, resized to the model's input."""

from __future__ import annotations

import csv
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from qsim.errors import BadData

from .arrayfiles import Stored
from .feeding import Port

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
MOST_PIXELS = 1 << 26  # of one image


def image_folder(path: Path, wanted: tuple[Port, ...], skip_bad: bool = False) -> Stored:
    """The images of a folder; labels from labels.csv (file,label). skip_bad: leave out files that are no images. *Raises*: BadData."""
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

    def part(start: int, stop: int) -> tuple[np.ndarray, ...]:
        return (np.stack([decode(f, port.shape[1], port.shape[2], port.shape[3]) for f in files[start:stop]]),)

    return Stored(len(files), part, labels, None, skipped)


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
