"""The C library's float32 functions, bit by bit, where this machine's library is one of those restated."""

from __future__ import annotations

import ctypes
import platform

import numpy as np
import pytest

from qsim import libm

NAME, VERSION = platform.libc_ver()
OLD = NAME == "glibc" and tuple(map(int, VERSION.split("."))) < (2, 41)


def arguments() -> np.ndarray:
    rng = np.random.default_rng(0)
    wide = 10.0 ** rng.uniform(-30, 1.9, 8000) * rng.choice([-1, 1], 8000)
    parts = np.linspace(-12, 12, 16001), np.linspace(-1, 1, 8001), rng.normal(0, 25, 4000).clip(-87, 87), wide
    return np.concatenate(parts).astype(np.float32)


@pytest.mark.exact
@pytest.mark.skipif(not OLD, reason="this machine's C library is not glibc before 2.41")
@pytest.mark.parametrize("name", ["expf", "expm1f", "tanhf", "erfcf"])
def test_every_bit_is_the_librarys(name):
    theirs = getattr(ctypes.CDLL("libm.so.6"), name)
    theirs.restype, theirs.argtypes = ctypes.c_float, [ctypes.c_float]
    x = arguments()
    expected = np.array([theirs(float(v)) for v in x], np.float32)
    assert np.array_equal(getattr(libm, name)(x).view(np.int32), expected.view(np.int32))


KNOWN = [("erfcf", 1.55712, "0x1.c5270cp-6"), ("tanhf", 0.0, "0x0p+0"), ("expf", 1.0, "0x1.5bf0a8p+1")]


@pytest.mark.parametrize(("name", "x", "y"), KNOWN)
def test_known_values(name, x, y):
    assert float(getattr(libm, name)(np.array([x], np.float32))[0]) == float.fromhex(y)
