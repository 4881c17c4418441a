"""qsim: quantization simulator and calibration toolkit for TensorFlow Lite / LiteRT models, on JAX.

Names are loaded at first use: importing qsim pulls in neither numpy nor jax.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._version import NUMERICS, __version__

_WHERE = {
    "load": "reader",
    "save": "writer",
    "quantize": "quantizer",
    "explain": "plans",
    "certify": "certificate",
    "requantize": "requantizer",
    "dequantize": "dequantizer",
    "load_recipe": "recipe",
    **dict.fromkeys(
        (
            "Scheme", "INT8", "UINT8", "INT16X8", "INT8W4", "DYNAMIC8", "DYNAMIC4", "WEIGHTS8", "WEIGHTS4", "BLOCKWISE4", "FLOAT16",
        ),
        "scheme",
    ),
    "Model": "graph",
    "QParams": "graph",
    **dict.fromkeys(
        (
            "QsimError", "BadModel", "Malformed", "Invalid", "TooLarge", "NewerSchema", "Unsupported", "BadData", "BadRange",
            "BadRecipe", "WriteFailed", "OracleFailed",
        ),
        "errors",
    ),
}  # fmt: skip
__all__ = ["NUMERICS", "__version__", *_WHERE]

if TYPE_CHECKING:
    from .certificate import certify
    from .dequantizer import dequantize
    from .errors import *  # noqa: F403
    from .graph import Model, QParams
    from .plans import explain
    from .quantizer import quantize
    from .reader import load
    from .recipe import load_recipe
    from .requantizer import requantize
    from .scheme import BLOCKWISE4, DYNAMIC4, DYNAMIC8, FLOAT16, INT8, INT8W4, INT16X8, UINT8, WEIGHTS4, WEIGHTS8, Scheme
    from .writer import save


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(f".{_WHERE[name]}", __name__), name)
    raise AttributeError(f"module 'qsim' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
