"""The real models under $QSIM_MODELS and real inputs for them, in the type that each model's input tensor stores."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import sets

from qsim.graph import Model, Tensor
from qsim.reader import load
from qsim.types import TYPES, code_range

EXACT = (
    "mlperf_resnet8_int8",
    "mlperf_kws_int8",
    "mlperf_vww96_int8",
    "mlperf_ad01_int8",
    "aeq_conv_fc_mnist_int8",
    "conv_resnet8_int8_pertensor",
)


def path(name: str) -> Path:
    return sets.root() / "nets" / f"{name}.tflite"


def net(name: str) -> Model:
    return load(path(name))


def _ad01() -> np.ndarray:
    """Two windows of each recording."""
    files, _ = sets.load("ad01_test124x70")
    return files[:, (0, 40)].reshape(-1, files.shape[-1])


def _mnist() -> np.ndarray:
    with np.load(sets.root() / "data" / "mnist5k.npz") as d:
        return d["x"][d["test"]][..., None].astype(np.float32) / np.float32(255)


SOURCES: dict[str, Callable[[], np.ndarray]] = {
    "resnet8": lambda: sets.load("cifar10_ic01_lossless200")[0],
    "kws": lambda: sets.load("kws01_test500")[0],
    "vww96": lambda: sets.load("vww01_test300")[0],
    "ad01": _ad01,
    "mnist": _mnist,
    "_224": lambda: sets.load("imagenet_sample_calib100_224")[0],
    "deeplabv3_257": lambda: sets.images("imagenet_sample_calib100_224", 257)[0],
    "blazeface_front": lambda: sets.images("imagenet_sample_calib100_224", 128)[0],
}


def real(name: str, count: int) -> np.ndarray:
    """`count` real samples of a net's own task as reals, (count, *shape[1:]) float32, evenly spread over its labelled set."""
    source = next(read for key, read in SOURCES.items() if key in name)
    x = source()
    return x[np.linspace(0, len(x) - 1, min(count, len(x))).astype(int)]


def stored(x: np.ndarray, t: Tensor) -> np.ndarray:
    """Reals as what the input tensor stores: float32 as it is, codes by its own scale and zero point."""
    if t.qparams is None:
        return x.astype(np.float32)
    low, high = code_range(t.type)
    codes = np.rint(x / float(t.qparams.scale[0])) + int(t.qparams.zero_point[0])
    return np.clip(codes, low, high).astype(TYPES[t.type].dtype)


def saturating(shape: tuple[int, ...], count: int, type_name: str, seed: int = 1) -> np.ndarray:
    """Only the ends of the type: all low, all high, then random mixtures of the two."""
    low, high = code_range(type_name)
    chance = np.random.default_rng(seed).random((count, *shape)) < 0.5
    chance[:1], chance[1:2] = False, True
    return np.where(chance, high, low).astype(TYPES[type_name].dtype)


def uniform(shape: tuple[int, ...], count: int, type_name: str, seed: int = 2) -> np.ndarray:
    low, high = code_range(type_name)
    return np.random.default_rng(seed).integers(low, high + 1, (count, *shape)).astype(TYPES[type_name].dtype)


def samples(name: str, model: Model, counts: tuple[int, int, int]) -> dict[str, np.ndarray]:
    """{"real", "saturating", "uniform"}: (N, *shape) codes for the one input of a quantized net."""
    t = model.graph.tensors[model.graph.inputs[0]]
    first = stored(real(name, counts[0]), t)
    return {
        "real": first.reshape(len(first), *t.shape),
        "saturating": saturating(t.shape, counts[1], t.type),
        "uniform": uniform(t.shape, counts[2], t.type),
    }
