"""The labelled and the calibration sets under $QSIM_MODELS/data, as real model inputs."""

from __future__ import annotations

import csv
import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np


class Task(NamedTuple):
    """A float net, its calibration set and its test set (names of files), and the real range that its inputs can take."""

    net: str
    calibration: str
    test: str
    domain: tuple[float, float] | None


TASKS = {
    "resnet8": Task("mlperf_resnet8_f32", "cifar10_jpeg_calib500", "cifar10_jpeg_more5000", (0.0, 255.0)),
    "vww96": Task("mlperf_vww96_f32", "vww01_calib100", "vww01_test300", (0.0, 1.0)),
    "mobilenet_v1": Task("mobilenet_v1_025_224_f32", "imagenet_sample_calib100_224", "imagenet_sample_test400_224", (-1.0, 1.0)),
    "mobilenet_v2": Task("twin_mobilenet_v2_100_224_f32", "imagenet_sample_calib100_224", "imagenet_sample_test400_224", (-1.0, 1.0)),
    "meter_digits": Task("meter_digits_f32", "meter_digits_calib100", "meter_digits_test700", (0.0, 255.0)),
    "kws": Task("twin_mlperf_kws_f32", "kws01_calib100", "kws01_test500", None),
    "ad01": Task("mlperf_ad01_f32", "ad01_calib40", "ad01_test124x70", None),
}
WINDOW = 5  # consecutive frames that make one input of ad01


def root() -> Path:
    named = os.environ.get("QSIM_MODELS")
    if not named:
        raise SystemExit("QSIM_MODELS is not set: it names the folder that holds nets/ and data/")
    return Path(named)


def load(name: str) -> tuple[np.ndarray, np.ndarray | None]:
    """(x real float32 (N, ...), labels or None). ad01: x is (files, windows, 640)."""
    if name.startswith("imagenet"):
        return images(name)
    with np.load(root() / "data" / f"{name}.npz") as d:
        y = d["y"] if "y" in d.files else None
        if name.startswith("kws"):
            return (d["x_int8"].astype(np.float32) - np.float32(d["zero_point"])) * np.float32(d["scale"]), y
        return _FORMS.get(name.split("_")[0], _raw)(d["x"].astype(np.float32)), y


def windows(frames: np.ndarray) -> np.ndarray:
    """(files, T, 128) -> (files, T - 4, 640): every run of five frames, as one row."""
    last = frames.shape[1] - WINDOW + 1
    return np.concatenate([frames[:, i : i + last] for i in range(WINDOW)], axis=2)


def _raw(x: np.ndarray) -> np.ndarray:
    return x


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.float32(255)


_FORMS: dict[str, Callable[[np.ndarray], np.ndarray]] = {"vww01": _unit, "mnist5k": _unit, "ad01": windows}


def images(name: str, size: int = 224) -> tuple[np.ndarray, np.ndarray]:
    from PIL import Image

    with zipfile.ZipFile(root() / "data" / f"{name}.zip") as z:
        rows = [r for r in csv.reader(io.TextIOWrapper(z.open("labels.csv"))) if r and r[1].lstrip("-").isdigit()]
        pictures = [Image.open(io.BytesIO(z.read(r[0]))).convert("RGB").resize((size, size), Image.Resampling.BILINEAR) for r in rows]
    x = np.stack([np.asarray(p, np.float32) for p in pictures]) / np.float32(127.5) - np.float32(1)
    return x, np.array([int(r[1]) for r in rows])
