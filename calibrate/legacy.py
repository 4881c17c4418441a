"""The words of older converters: `quantized_input_stats` (mean, std) and the names of inference types. (Default ranges: `lacking`.)"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from qsim.errors import BadRange, BadRecipe
from qsim.scheme import affine
from qsim.types import TYPES, code_range

_WORDS = {"float": "float32", "half": "float16", "qint8": "int8", "quint8": "uint8", "qint16": "int16"}


def stats_range(mean: float, std: float, type_name: str = "uint8") -> tuple[float, float]:
    """Real range of all codes of an input: ((qmin - mean) / std, (qmax - mean) / std), real units.

    mean: the code that stands for 0.0. std: codes per real unit, above 0. type_name: the type that the codes of the input have; the
    same pair means another range for int8 than for uint8. *Raises*: BadRange where a number is not finite or std is not positive.
    *Restates*: `quantized_input_stats` of the TFLite converter, which takes -128..127 for int8 and 0..255 for uint8.
    """
    low, high = code_range(type_name)
    if not (math.isfinite(mean) and math.isfinite(std) and std > 0):
        raise BadRange("input statistics are a mean and a positive std", found=(mean, std), expected="real = (code - mean) / std")
    return (low - mean) / std, (high - mean) / std


def stats_parameters(mean: float, std: float, type_name: str = "uint8") -> tuple[np.float32, int]:
    """(scale, zero point) of input statistics: scale = 1 / std, zero point = round(mean) where 0.0 is one of the codes.

    *Raises*: BadRange as `stats_range`, and where 0.0 lies outside the codes: the scale would then not be 1 / std.
    """
    low, high = stats_range(mean, std, type_name)
    if low > 0 or high < 0:
        raise BadRange(f"a mean outside the codes of {type_name} leaves 0.0 without a code", found=mean, expected=code_range(type_name))
    return affine(low, high, type_name)


def parameters_stats(scale: float, zero_point: int) -> tuple[float, float]:
    """(mean, std) that say the same as a scale and a zero point: mean = zero point, std = 1 / scale. *Raises*: BadRange, scale <= 0."""
    if not (math.isfinite(scale) and scale > 0):
        raise BadRange("a scale is a positive number", found=scale)
    return float(zero_point), 1 / float(scale)


def element_type(name: Any) -> str:
    """Our name of an `inference_type`, `inference_input_type` or `inference_output_type`, however it is written.

    Known: strings ("int8", "INT8", "tf.uint8", "QUANTIZED_UINT8", "tf.lite.constants.FLOAT", "np.int8") and objects with a name
    (numpy's types and dtypes, TensorFlow's DTypes). *Raises*: BadRecipe for anything else.
    """
    text = name if isinstance(name, str) else getattr(name, "name", None) or getattr(name, "__name__", "")
    word = str(text).strip().rpartition(".")[2].lower().removeprefix("quantized_")
    found = _WORDS.get(word, word)
    if found not in TYPES:
        raise BadRecipe("not the name of a type", found=name, expected="int8, tf.uint8, QUANTIZED_UINT8, np.int16, FLOAT, ...")
    return found
