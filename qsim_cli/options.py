"""Options that several verbs share, each with its help. Light: nothing here imports numpy or jax."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter, Token

_NO_NEGATIVE = ""


def _number(type_: type, tokens: list[Token]) -> float:
    """`0.25`, `1e-3`, or a ratio such as `1/127.5`."""
    return _value(tokens[0].value)


def _pair(type_: type, tokens: list[Token]) -> tuple[float, float]:
    """`lo,hi`, ratios allowed."""
    low, high = _two(tokens[0].value, "lo,hi - for example --input-range=-1,1")
    if not low < high:
        raise ValueError("lo must be below hi")
    return low, high


def _stats(type_: type, tokens: list[Token]) -> tuple[float, float]:
    """`mean,std`, ratios allowed."""
    mean, std = _two(tokens[0].value, "mean,std - for example --input-stats 127.5,127.5")
    if not std > 0:
        raise ValueError("std must be above 0")
    return mean, std


def _two(text: str, form: str) -> tuple[float, float]:
    parts = text.split(",")
    if len(parts) != 2:
        raise ValueError(f"write it as {form}")
    return _value(parts[0]), _value(parts[1])


def _type(type_: type, tokens: list[Token]) -> str:
    """A type by any of its names: int8, tf.int8, QUANTIZED_UINT8, ..."""
    from calibrate.legacy import element_type
    from qsim.errors import BadRecipe

    try:
        return element_type(tokens[0].value)
    except BadRecipe as fault:
        raise ValueError(str(fault)) from None


def _value(text: str) -> float:
    top, _, bottom = text.partition("/")
    try:
        return float(Fraction(top.strip()) / Fraction(bottom.strip() or 1))
    except (ValueError, ZeroDivisionError, OverflowError):
        raise ValueError(f"{text!r} is not a number; 0.25, 1e-3 and 1/127.5 are") from None


Model = Annotated[Path, Parameter(help="A .tflite file.")]
Signature = Annotated[str | None, Parameter(help="Which of the file's signatures to work on (default: the primary graph).")]
Mode = Annotated[
    Literal["float", "fake", "integer"],
    Parameter(help="integer: the codes LiteRT computes; fake: reals on the quantization grid; float: the real function."),
]
Flavour = Annotated[
    Literal["xnnpack", "reference", "builtin"],
    Parameter(help="Whose integer kernels: what LiteRT uses by default, BUILTIN_REF, or the optimized ones without delegate."),
]
Json = Annotated[bool, Parameter(name="--json", negative=_NO_NEGATIVE, help="Print the result as JSON.")]
Force = Annotated[bool, Parameter(name="--force", negative=_NO_NEGATIVE, help="Overwrite an existing output.")]
Output = Annotated[Path, Parameter(name=["--output", "-o"], help="File to write.")]
Device = Annotated[Literal["auto", "cpu", "gpu"], Parameter(help="Where JAX computes.")]
Batch = Annotated[int | None, Parameter(name="--batch", help="Samples computed at once; default: chosen for the caches.")]
InputScale = Annotated[
    float | None,
    Parameter(
        name="--input-scale",
        converter=_number,
        help="a of real = a*x + b for the data; 1/255 is allowed. Without a and b, data in the input's stored type are codes.",
    ),
]
InputOffset = Annotated[
    float | None, Parameter(name="--input-offset", converter=_number, allow_leading_hyphen=True, help="b of real = a*x + b.")
]
InputRange = Annotated[
    tuple[float, float] | None,
    Parameter(
        name="--input-range",
        converter=_pair,
        n_tokens=1,
        allow_leading_hyphen=True,
        help="Declared domain lo,hi of the model's real input.",
    ),
]
InputStats = Annotated[
    tuple[float, float] | None,
    Parameter(
        name="--input-stats",
        converter=_stats,
        n_tokens=1,
        allow_leading_hyphen=True,
        help="mean,std of the input's codes: real = (code - mean) / std (quantized_input_stats of the TFLite converter).",
    ),
]
DefaultRange = Annotated[
    tuple[float, float] | None,
    Parameter(
        name="--default-range",
        converter=_pair,
        n_tokens=1,
        allow_leading_hyphen=True,
        help="lo,hi for every tensor that has no range (default_ranges_stats of the TFLite converter).",
    ),
]
TypeName = Annotated[str, Parameter(converter=_type, help="A type by any of its names: int8, tf.uint8, QUANTIZED_UINT8, float32.")]
Data = Annotated[
    Path, Parameter(name="--data", help="An .npz, .npy or .csv of samples, or a folder of images or of such arrays (sorted by name).")
]
Limit = Annotated[int | None, Parameter(help="Use so many samples only, the first ones (of the random order, with --shuffle).")]
Shuffle = Annotated[int | None, Parameter(help="Take the samples in a random order; the seed of it.")]
Inputs = Annotated[Path, Parameter(help="An .npz with one array per input, keyed by tensor name or t<index>, of shape (N, *shape).")]
Task = Annotated[
    Literal["classification"] | None,
    Parameter(help="classification: the output holds scores of classes, so KL judges it (default: only where it comes from SOFTMAX)."),
]
Strategy = Annotated[
    str,
    Parameter(
        help="auto (compare several on held-back data), minmax, percentile:99.9, mse, ... (`qsim strategies`), or your module:function."
    ),
]
DeadRange = Annotated[
    bool,
    Parameter(
        name="--dead-range",
        negative=_NO_NEGATIVE,
        help="Spend no codes on values that all that reads a tensor maps to one: below 0 before RELU, below -3 before HARD_SWISH, ...",
    ),
]
SchemeName = Annotated[
    str,
    Parameter(
        name="--scheme",
        help="int8, uint8, int16x8, int8w4 (need ranges); dynamic8, dynamic4, weights8, weights4, blockwise4, float16 (weights alone).",
    ),
]
RecipeFile = Annotated[
    Path | None,
    Parameter(name="--recipe", help="JSON (ai-edge-quantizer's too) or TOML: schemes by op, in place of --scheme; ranges by tensor."),
]
Groups = Annotated[
    str | None,
    Parameter(help="Samples that belong together, say a recording's windows: N (in a row), or the key of an array or column of group ids."),
]
