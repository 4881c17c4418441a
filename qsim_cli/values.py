"""What the numbers of a data file mean to a model's input.

With `--input-scale a --input-offset b` real = a*x + b. Without them, data in the input's stored type are stored codes, floats are
reals, and integers of another type are the reals they name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from qsim.errors import BadData
from qsim.graph import Tensor
from qsim.snap import dequantize
from qsim.types import TYPES


@dataclass(frozen=True, eq=False)
class Affine:
    """real = scale * x + offset of the data; None where the user said neither."""

    scale: float | None = None
    offset: float | None = None

    @property
    def given(self) -> bool:
        return self.scale is not None or self.offset is not None

    def real(self, x: Any) -> np.ndarray:
        """f32(a*x + b), computed in double precision."""
        scale, offset = 1.0 if self.scale is None else self.scale, 0.0 if self.offset is None else self.offset
        return (np.asarray(x, np.float64) * scale + offset).astype(np.float32)


def meaning(dtype: np.dtype, t: Tensor, affine: Affine) -> str:
    """What was assumed about values of `dtype` for input `t`, to be told; empty where nothing was."""
    if affine.given or dtype.kind not in "iu" or t.type not in TYPES or t.type in ("int32", "int64"):
        return ""
    if dtype == np.dtype(TYPES[t.type].dtype):
        return f"{dtype} data are taken as the stored codes of the input" if t.qparams is not None else ""
    return f"{dtype} data are taken as the real values they name; --input-scale and --input-offset say otherwise"


def admit(x: np.ndarray, t: Tensor, mode: str, affine: Affine, first: int = 0) -> np.ndarray:
    """Samples as a function in `mode` takes them for input `t`: reals as float32, or stored codes. *Raises*: BadData."""
    wanted = np.dtype(TYPES[t.type].dtype)
    takes_reals = t.type == "float32" or t.qparams is not None
    if affine.given and takes_reals:
        return _finite(affine.real(x), first)
    if x.dtype == wanted and wanted != np.float32:
        return dequantize(x, t.qparams) if mode != "integer" and t.qparams is not None else x
    if takes_reals and x.dtype.kind in "fiu":
        return _finite(x.astype(np.float32), first)
    if wanted.kind in "iu" and x.dtype.kind in "iub" and _holds(wanted, x):
        return x.astype(wanted)
    raise BadData("wrong type of data", found=x.dtype, expected=wanted, hint="Convert the array first")


def _holds(wanted: np.dtype, x: np.ndarray) -> bool:
    ends = np.iinfo(wanted)
    return not x.size or (int(x.min()) >= ends.min and int(x.max()) <= ends.max)


def _finite(x: np.ndarray, first: int) -> np.ndarray:
    if not np.isfinite(x).all():
        row = int(np.flatnonzero(~np.isfinite(x).reshape(len(x), -1).all(1))[0])
        raise BadData(f"sample {first + row} holds NaN or infinity")
    return x
