"""Custom ops that LiteRT itself has, beside detection: AudioSpectrogram, Mfcc, NumericVerify."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..errors import Invalid
from ..fixed import unfused
from ..flexbuffers import read_numbers, write_numbers
from ..graph import Options
from ..op import Case, Op, Plan, Rule, Site
from .common import Leaves, affine, each, f32
from .convert import _run_dequantize

FLOOR = 1e-12  # of a band, before the logarithm


def _spectrogram(options: Options, x: Any) -> Any:
    """(channels, frames, bins) of (samples, channels): |FFT|^2 of each frame under a Hann window, filled with zeros to a power of two.

    In float64, rounded once; without magnitude_squared the square root of that. *Restates*: AudioSpectrogram of LiteRT.
    """
    found = read_numbers(options.custom_options)
    size, stride = int(found.get("window_size", 0)), int(found.get("stride", 0))
    if size < 2 or stride < 1:
        raise Invalid("options that LiteRT refuses", where="AudioSpectrogram", found=found)
    length, frames = 1 << (size - 1).bit_length(), max(0, 1 + (x.shape[0] - size) // stride)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)
    places = stride * np.arange(frames, dtype=np.int32)[:, None] + np.arange(size, dtype=np.int32)
    with jax.enable_x64(True):
        parts = lax.convert_element_type(jnp.asarray(x).T[:, places], np.float64) * window[None, None]
        bins = jnp.fft.rfft(parts, length)
        power = unfused(jnp.real(bins) * jnp.real(bins)) + unfused(jnp.imag(bins) * jnp.imag(bins))
        power = lax.convert_element_type(power, np.float32)
    return power if found.get("magnitude_squared", False) else jnp.sqrt(power)


def _mel(frequency: Any) -> Any:
    return 1127.0 * np.log1p(np.asarray(frequency) / 700.0)


def bands(bins: int, rate: int, count: int, low: float, high: float) -> np.ndarray:
    """float64 (bins, count): triangles over a mel scale, each up from the last centre and down to the next. The first bin is left out."""
    centres = _mel(low) + (_mel(high) - _mel(low)) / (count + 1) * np.arange(1, count + 2)
    step = 0.5 * rate / (bins - 1)
    first, last = int(1.5 + low / step), int(high / step)
    if last >= bins:
        raise Invalid("an upper frequency limit above the spectrum", where="Mfcc", found=high)
    found, channel = np.zeros((bins, count)), 0
    for i in range(first, last + 1):
        here = _mel(i * step)
        while channel < count and centres[channel] < here:
            channel += 1
        before = centres[channel - 1] if channel else _mel(low)
        share = (centres[channel] - here) / (centres[channel] - before)
        if channel:
            found[i, channel - 1] += share
        if channel < count:
            found[i, channel] += 1 - share
    return found


def _mfcc(options: Options, x: Any, rate: Any) -> Any:
    """Cosine transform of the logarithms of mel bands of the magnitudes sqrt(x), in float64, rounded once. *Restates*: Mfcc of LiteRT."""
    found = {name: int(value) for name, value in read_numbers(options.custom_options).items()}
    count, kept = found.get("filterbank_channel_count", 0), found.get("dct_coefficient_count", 0)
    low, high = (float(found.get(f"{name}_frequency_limit", 0)) for name in ("lower", "upper"))
    rate = int(np.ravel(rate)[0])
    if not 0 < kept <= count or not 0 <= low < high or rate < 1 or x.shape[-1] < 2:
        raise Invalid("options that LiteRT refuses", where="Mfcc", found=found)
    mel = bands(x.shape[-1], rate, count, low, high)
    turn = np.arange(kept)[:, None] * np.pi / count * (np.arange(count) + 0.5)
    transform = np.sqrt(2.0 / count) * np.cos(turn)
    with jax.enable_x64(True):
        power = jnp.sqrt(lax.convert_element_type(x, np.float64))
        loud = jnp.log(jnp.maximum(power @ mel, np.float64(FLOOR)))
        return lax.convert_element_type(loud @ transform.T, np.float32)


def _verify(options: Options, x: Any, reference: Any) -> Any:
    """How far x is from the reference. *Domain*: LiteRT stops where log_if_failed and the distance is large."""
    return x - reference


def _plan_verify(site: Site, flavour: str) -> Plan:
    """static: as of DEQUANTIZE."""
    x = site.inputs[0]
    assert x is not None
    scale, zero = affine(site, x)
    leaves = {"scale": scale, "zero_point": np.int32(zero), "offset": f32(f32(-zero) * scale)}
    form = "plain" if flavour == "reference" or x.type == "int16" else "builtin"
    return Plan((form, x.shape), leaves, "DEQUANTIZE less the reference")


def _run_verify(options: Options, static: tuple, leaves: Leaves, x: Any, reference: Any) -> Any:
    """DEQUANTIZE (that of flavour builtin where XNNPACK is on) less the reference. *Restates*: NumericVerify of LiteRT."""
    return unfused(_run_dequantize(options, static, leaves, x)) - reference


def _sound(samples: int, channels: int, size: int, stride: int, squared: bool) -> Case:
    numbers = {"window_size": size, "stride": stride, "magnitude_squared": squared}
    return Case(((samples, channels),), {"custom_options": write_numbers(numbers)})


def _bank(shape: tuple, rate: int, count: int, kept: int, high: int = 4000, low: int = 20) -> Case:
    numbers = {"upper_frequency_limit": high, "lower_frequency_limit": low}
    numbers |= {"filterbank_channel_count": count, "dct_coefficient_count": kept}
    return Case((shape, ()), {"custom_options": write_numbers(numbers)}, {1: rate}, {1: "int32"})


_ONCE = {"float32": 1}

OPS = (
    Op(
        "CUSTOM:AudioSpectrogram",
        _spectrogram,
        Rule(data=(), keep_float=True, versions=_ONCE),
        cases=(_sound(600, 1, 256, 128, True), _sound(500, 2, 100, 37, False), _sound(90, 1, 64, 64, False)),
    ),
    Op(
        "CUSTOM:Mfcc",
        _mfcc,
        Rule(data=(), static=(1,), keep_float=True, versions=_ONCE),
        cases=(_bank((1, 4, 257), 16000, 40, 13), _bank((2, 3, 129), 8000, 20, 20, 3900), _bank((1, 2, 513), 44100, 26, 12, 8000, 0)),
    ),
    Op(
        "CUSTOM:NumericVerify",
        _verify,
        Rule(data=(0, 1), keep_float=True, versions=_ONCE),
        each(("int8", "uint8", "int16"), ("T", "float32"), ("float32",), _plan_verify, _run_verify),
        (Case(((2, 3, 5), (2, 3, 5)), {"custom_options": write_numbers({"tolerance": 5.0, "log_if_failed": False})}, {}, {1: "float32"}),),
    ),
)
