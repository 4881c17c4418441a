"""A folder of images as data: decoded when needed, converted to the channels and size of the model's input."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from qsim.errors import BadData
from qsim.graph import Model

from .samples import Samples
from .values import Affine, admit, meaning

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")


def folder(path: Path, model: Model, mode: str, affine: Affine) -> Samples:
    """Images of a folder, sorted by name (or as labels.csv lists them), decoded when they are needed and resized to the input."""
    graph = model.graph
    if len(graph.inputs) != 1 or len(graph.tensors[graph.inputs[0]].shape) != 4:
        raise BadData("a folder of images needs a model with one input of shape (1, height, width, channels)", where=str(path))
    t = graph.tensors[graph.inputs[0]]
    if t.shape[0] != 1 or t.shape[3] not in (1, 3):
        raise BadData("images have 1 or 3 channels", where=str(path), found=f"input of shape {t.shape}")
    files, labels = _listed(path)
    notes = [f"{len(files)} images, resized to {t.shape[1]}x{t.shape[2]} where they are of another size"]
    notes += [note] if (note := meaning(np.dtype(np.uint8), t, affine)) else []

    def part(start: int, stop: int) -> tuple[np.ndarray, ...]:
        x = np.stack([decode(f, t.shape[1], t.shape[2], t.shape[3]) for f in files[start:stop]])[:, None]
        return (admit(x, t, mode, affine, start),)

    part(0, 1)
    return Samples(len(files), part, (np.dtype(np.uint8),), labels, tuple(notes))


def _listed(path: Path) -> tuple[list[Path], np.ndarray | None]:
    """Files and labels: rows `name,class` of labels.csv (a heading is skipped), else every image, sorted by name, unlabelled."""
    listing = path / "labels.csv"
    if not listing.exists():
        files = sorted(f for f in path.iterdir() if f.suffix.lower() in IMAGES and f.is_file())
        if not files:
            raise BadData("there are no images in it", where=str(path), expected=", ".join(IMAGES))
        return files, None
    with open(listing, newline="", encoding="utf-8", errors="replace") as lines:
        rows = [r for r in csv.reader(lines) if len(r) > 1 and r[1].strip().lstrip("-").isdigit()]
    files = [path / Path(r[0]).name for r in rows]
    missing = [f.name for f in files if not f.is_file()]
    if missing or not files:
        raise BadData("labels.csv lists no images" if not files else "labels.csv names files that are not there", found=missing[:5] or None)
    return files, np.array([int(r[1]) for r in rows])


def decode(path: Path, height: int, width: int, channels: int) -> np.ndarray:
    """An image as uint8 (height, width, channels): converted to grey or RGB, resized bilinearly. *Raises*: BadData naming the file."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as fault:
        raise BadData("images need Pillow", where=str(path), hint="pip install 'qsim-tflite[images]'") from fault
    try:
        with Image.open(path) as image:
            if image.width * image.height > Image.MAX_IMAGE_PIXELS:  # type: ignore[operator]
                raise BadData("the image has too many pixels", where=str(path), found=f"{image.width}x{image.height}")
            ready = image.convert("L" if channels == 1 else "RGB")
            if ready.size != (width, height):
                ready = ready.resize((width, height), Image.Resampling.BILINEAR)
            return np.asarray(ready, np.uint8).reshape(height, width, channels)
    except (OSError, UnidentifiedImageError, ValueError, Image.DecompressionBombError) as fault:
        raise BadData(f"not a readable image ({fault})", where=str(path)) from fault
