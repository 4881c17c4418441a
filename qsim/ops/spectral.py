"""RFFT2D, COMPLEX_ABS, REAL, IMAG: spectra of real data, and what real ops read of complex numbers."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..errors import Invalid
from ..graph import Options
from ..op import Case, Op, Rule, namespace


def _rfft2d(options: Options, x: Any, length: Any) -> Any:
    """complex64 (..., h, w / 2 + 1): the spectrum of the last two axes, cut or filled with zeros to (h, w).

    In float64, rounded once. *Domain*: h and w powers of two, w at least 2 (LiteRT refuses other powers, and is wrong for w = 1).
    *Restates*: RFFT2D of LiteRT.
    """
    h, w = (int(n) for n in np.ravel(length))
    if min(h, w) < 1 or h & (h - 1) or w & (w - 1) or w < 2:
        raise Invalid("RFFT2D needs powers of two, the last at least 2", found=(h, w))
    x = jnp.asarray(x)[..., :h, :w]
    x = jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(0, h - x.shape[-2]), (0, w - x.shape[-1])])
    with jax.enable_x64(True):
        return lax.convert_element_type(jnp.fft.rfft2(lax.convert_element_type(x, np.float64)), np.complex64)


def _complex_abs(options: Options, x: Any) -> Any:
    """sqrt(re^2 + im^2) in float64, rounded once. *Restates*: COMPLEX_ABS of LiteRT."""
    with jax.enable_x64(True):
        re, im = (lax.convert_element_type(v, np.float64) for v in (jnp.real(x), jnp.imag(x)))
        return lax.convert_element_type(jnp.sqrt(re * re + im * im), np.float32)


def _real(options: Options, x: Any) -> Any:
    return namespace(x).real(x)


def _imag(options: Options, x: Any) -> Any:
    return namespace(x).imag(x)


def _complex(name: str, real: Any) -> Op:
    cases = (Case(((2, 3, 5),), types={0: "complex64"}), Case(((7,),), types={0: "complex64"}))
    return Op(name, real, Rule(data=(), keep_float=True, versions={"float32": 1}), cases=cases)


def _spectrum(shape: tuple, length: tuple) -> Case:
    return Case((shape, (2,)), {}, {1: length}, {1: "int32"})


OPS = (
    Op(
        "RFFT2D",
        _rfft2d,
        Rule(data=(), static=(1,), keep_float=True, versions={"float32": 1}),
        cases=(
            _spectrum((2, 4, 8), (4, 8)),
            _spectrum((1, 1, 500), (1, 512)),
            _spectrum((3, 20), (2, 16)),
            _spectrum((1, 2, 3, 3), (8, 2)),
        ),
    ),
    _complex("COMPLEX_ABS", _complex_abs),
    _complex("REAL", _real),
    _complex("IMAG", _imag),
)
