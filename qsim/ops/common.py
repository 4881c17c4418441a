"""What several op families share: quantization parameters as numbers, fused activations over the reals, ranks, types."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from ..errors import Invalid
from ..fixed import activation_range
from ..graph import Options, Tensor
from ..op import FLAVOURS, Kernel, Plan, Site, namespace
from ..types import code_range

f32 = np.float32
Leaves = dict[str, Any]  # the numbers of a plan by name: numpy on the host, traced arrays in `run`

_ENDS = {"RELU": (0, None), "RELU6": (0, 6), "RELU_N1_TO_1": (-1, 1), "RELU_0_TO_1": (0, 1)}


def activate(name: str, x: Any) -> Any:
    """A fused activation over the reals: RELU max(x, 0), RELU6 min(max(x, 0), 6), RELU_N1_TO_1, TANH; NONE is x."""
    ns = namespace(x)
    if name == "TANH":
        return ns.tanh(x)
    low, high = _ENDS.get(name, (None, None))
    x = x if low is None else ns.where(x < low, x.dtype.type(low), x)
    return x if high is None else ns.where(x > high, x.dtype.type(high), x)


def align(*arrays: Any) -> tuple[Any, ...]:
    """The arrays with leading axes of size 1, so that all have the largest rank (rank promotion is an error in strict mode)."""
    rank = max(np.ndim(a) for a in arrays)
    return tuple(a if np.ndim(a) == rank else a.reshape((1,) * (rank - np.ndim(a)) + np.shape(a)) for a in arrays)


def same_type(*arrays: Any) -> tuple[Any, ...]:
    """Host values take the type of the traced arrays they meet (a traced int64 is carried as int32)."""
    traced = [a for a in arrays if not isinstance(a, (np.ndarray, np.generic))]
    if not traced or len(traced) == len(arrays):
        return arrays
    return tuple(np.asarray(a).astype(traced[0].dtype) if isinstance(a, (np.ndarray, np.generic)) else a for a in arrays)


def carried(type_name: str, ns: Any) -> np.dtype:
    """numpy dtype of an element type: on the host its own, in a traced function the one jax carries (int32 for int64 without x64)."""
    dtype = np.dtype(type_name)
    if ns is np:
        return dtype
    from jax import dtypes

    return dtypes.canonicalize_dtype(dtype)


def where_positive(function: Callable[[Any], Any], otherwise: Callable[[Any], Any]) -> Callable[..., Any]:
    """A real function of positive numbers. Where its output is stored as codes, x <= 0 gives `otherwise(jnp.finfo)`, which becomes the
    code that the integer kernels give, and values and gradients stay finite. Needs Rule(typed=True)."""

    def real(options: Options, x: Any) -> Any:
        if options.get("out_type", "float32") == "float32":
            return function(x)
        instead = np.asarray(otherwise(jnp.finfo(x.dtype)), x.dtype)
        return jnp.where(x > 0, function(jnp.where(x > 0, x, np.asarray(1, x.dtype))), instead)

    return real


def affine(site: Site, tensor: Tensor | None) -> tuple[np.float32, int]:
    """(scale, zero point) of a per-tensor quantized operand. Raises: Invalid where it has none, or one per channel."""
    if tensor is None or tensor.qparams is None:
        name = "an operand" if tensor is None else repr(tensor.name)
        raise Invalid(f"{name} has no quantization parameters", where=site.where, hint="An integer kernel needs a scale and a zero point")
    if tensor.qparams.per_channel:
        raise Invalid(f"{tensor.name!r} is quantized per channel", where=site.where, expected="one scale and zero point")
    return f32(np.ravel(tensor.qparams.scale)[0]), int(np.ravel(tensor.qparams.zero_point)[0])


def plain(site: Site) -> bool:
    """What XNNPACK asks of an op and every 8-bit operand: no TANH or SIGN_BIT fused, at most 6 axes, one scale, quantized dimension 0."""
    if site.options.get("fused_activation_function", "NONE") in ("TANH", "SIGN_BIT"):
        return False
    tensors = [t for t in (*site.inputs, *site.outputs) if t is not None and t.qparams is not None]
    return all(len(t.shape) <= 6 and not t.qparams.per_channel and t.qparams.axis == 0 for t in tensors if t.qparams is not None)


def require_tied(site: Site, inputs: Sequence[Tensor | None] | None = None) -> None:
    """Raises: Invalid unless the inputs (by default the first) share the output's scale and zero point; LiteRT refuses others."""
    y = site.outputs[0]
    for x in site.inputs[:1] if inputs is None else inputs:
        if x is not None and x.qparams is not None and y.qparams is not None and affine(site, x) != affine(site, y):
            raise Invalid(
                f"{site.node.op} needs one scale and zero point for input and output",
                where=site.where,
                found=f"{x.name!r} {affine(site, x)}, {y.name!r} {affine(site, y)}",
                hint="LiteRT refuses such a file",
            )


def require_centred(site: Site) -> None:
    """Raises: Invalid where an int16 operand has a zero point other than 0; LiteRT refuses such files."""
    for t in (*site.inputs, *site.outputs):
        if t is not None and t.type == "int16" and t.qparams is not None and affine(site, t)[1]:
            raise Invalid(f"{t.name!r} is int16 with a zero point", where=site.where, found=affine(site, t)[1], expected="0")


def bounds(site: Site, flavour: str) -> Leaves:
    """Leaves `zero_point`, `act_min`, `act_max` (int32, steps) of the output, the fused activation included."""
    scale, zero = affine(site, site.outputs[0])
    name = site.options.get("fused_activation_function", "NONE")
    low, high = activation_range(name, scale, zero, site.outputs[0].type, flavour)
    return {"zero_point": np.int32(zero), "act_min": np.int32(low), "act_max": np.int32(high)}


def type_bounds(site: Site) -> Leaves:
    """`bounds` without an activation: the ends of the output's type."""
    low, high = code_range(site.outputs[0].type)
    return {"zero_point": np.int32(affine(site, site.outputs[0])[1]), "act_min": np.int32(low), "act_max": np.int32(high)}


def each(
    types: Sequence[str],
    inputs: Sequence[str],
    outputs: Sequence[str],
    plan: Callable[[Site, str], Plan],
    run: Callable[..., Any],
    flavours: Sequence[str] = FLAVOURS,
) -> tuple[Kernel, ...]:
    """One kernel row per type: `T` in the patterns is the type."""

    def named(patterns: Sequence[str], t: str) -> tuple[str, ...]:
        return tuple(p.replace("T", t) for p in patterns)

    return tuple(Kernel(named(inputs, t), named(outputs, t), tuple(flavours), plan, run) for t in types)


def body(shape: Sequence[int], block: int, length: int | None = None) -> np.ndarray | None:
    """Mask of the elements that a vector loop handles: in every run of `length` elements, flat, the first block * floor(length / block).

    None where that is all of them. Without `length` the whole array is one run. The optimized kernels round the rest by another rule.
    """
    n = int(np.prod(shape, dtype=np.int64))
    length = length or max(n, 1)
    full = length // block * block
    return None if full == length else (np.arange(n) % length < full).reshape(tuple(shape))
