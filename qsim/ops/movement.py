"""PAD, TRANSPOSE, CONCATENATION, STRIDED_SLICE, GATHER, PACK: elements moved, never computed; any type, scales never read.

Each op is a `geometry` (host: what the static inputs and options mean for these shapes, hashable) and an `apply` (the movement).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..checks.indices import outside
from ..errors import BadData, Unsupported
from ..fixed import unfused
from ..graph import Options
from ..op import Case, Kernel, Op, Plan, Rule, Site, namespace
from .common import Leaves, activate, affine, each, f32, require_tied, same_type
from .copying import WHOLE

Types = tuple[str, ...]

Geometry = Callable[..., Any]  # (options, shapes, values) -> hashable


def _values(site: Site, positions: tuple[int, ...]) -> list[np.ndarray | None]:
    """Host values of the static inputs. Raises: Unsupported naming the input that is not known."""
    for p in positions:
        if p < len(site.inputs) and site.inputs[p] is not None and site.values[p] is None:
            raise Unsupported(f"the value of input {p} ({site.inputs[p].name!r}) is not known before the model runs", where=site.where)  # type: ignore[union-attr]
    return [site.values[p] if p < len(site.values) else None for p in positions]


def _planned(geometry: Geometry, static: tuple[int, ...]) -> Callable[[Site, str], Plan]:
    def plan(site: Site, flavour: str) -> Plan:
        shape = site.inputs[0].shape if site.inputs[0] is not None else ()
        if flavour == "xnnpack" and site.node.op == "TRANSPOSE":
            require_tied(site)
        return Plan(geometry(site.options, shape, *_values(site, static)), note="raw copy")

    return plan


# ---------------------------------------------------------------- PAD


def _pad_pairs(options: Options, shape: tuple[int, ...], paddings: Any) -> tuple[tuple[int, int], ...]:
    return tuple((int(a), int(b)) for a, b in np.asarray(paddings).reshape(-1, 2))


def _real_pad(options: Options, x: Any, paddings: Any) -> Any:
    return namespace(x).pad(x, _pad_pairs(options, x.shape, paddings))


def _plan_pad(site: Site, flavour: str) -> Plan:
    if flavour == "xnnpack":
        require_tied(site)
    zero = affine(site, site.outputs[0])[1] if site.outputs[0].qparams is not None else 0
    pairs = _pad_pairs(site.options, (), *_values(site, (1,)))
    return Plan(pairs, {"value": np.asarray(zero, site.outputs[0].type)}, "pads with the output zero point")


def _run_pad(options: Options, static: tuple, leaves: Leaves, x: Any, _: Any) -> Any:
    """Codes padded with the output's zero point (0 where it has none). *Restates*: PAD of LiteRT and XNNPACK."""
    return jnp.pad(x, static, constant_values=jnp.asarray(leaves["value"]))


# ---------------------------------------------------------------- TRANSPOSE


def _order(options: Options, shape: tuple[int, ...], permutation: Any) -> tuple[int, ...]:
    return tuple(int(a) % max(len(shape), 1) for a in np.ravel(permutation))


def _real_transpose(options: Options, x: Any, permutation: Any) -> Any:
    return x.transpose(_order(options, x.shape, permutation))


def _run_transpose(options: Options, static: tuple[int, ...], leaves: Leaves, x: Any, _: Any) -> Any:
    """Codes under permuted axes. *Restates*: TRANSPOSE of LiteRT and XNNPACK."""
    return x.transpose(static)


# ---------------------------------------------------------------- CONCATENATION


def _real_concatenation(options: Options, *inputs: Any) -> Any:
    inputs = same_type(*inputs)
    y = namespace(*inputs).concatenate(inputs, axis=options.get("axis", 0))
    return activate(options.get("fused_activation_function", "NONE"), y)


def _plan_concatenation(site: Site, flavour: str) -> Plan:
    """static: which inputs are rescaled (uint8 only); leaves: their scale and offset."""
    if site.options.get("fused_activation_function", "NONE") != "NONE":
        raise Unsupported("CONCATENATION with a fused activation has no integer kernel", where=site.where)
    target, y = site.outputs[0].qparams, site.outputs[0]
    if target is None:
        return Plan((), note="raw copy")
    differing = tuple(i for i, t in enumerate(site.inputs) if affine(site, t) != affine(site, y))
    if not differing:
        return Plan((), note="raw copy")
    if y.type != "uint8":
        require_tied(site, site.inputs)
    sy, zy = affine(site, y)
    leaves: Leaves = {"zero_point": np.int32(zy)}
    for i in differing:
        s, z = affine(site, site.inputs[i])
        scale = f32(s * f32(f32(1) / sy))
        leaves |= {f"scale_{i}": scale, f"offset_{i}": f32(f32(-z) * scale)}
    return Plan(differing, leaves, "inputs with other parameters rescaled in float32")


def _run_concatenation(options: Options, static: tuple[int, ...], leaves: Leaves, *inputs: jax.Array) -> jax.Array:
    """Codes side by side; a uint8 input with other parameters is rescaled: clip(round_away(f32(f32(q s) - f32(z s))) + z_y, 0, 255).

    *Domain*: int8 inputs share the output's parameters. *Restates*: CONCATENATION of LiteRT.
    """
    parts = [_rescaled(x, leaves, i) if i in static else x for i, x in enumerate(inputs)]
    return jnp.concatenate(parts, axis=options.get("axis", 0))


def _rescaled(x: jax.Array, leaves: Leaves, i: int) -> jax.Array:
    real = unfused(x.astype(np.float32) * leaves[f"scale_{i}"]) + leaves[f"offset_{i}"]
    whole = jnp.trunc(real)
    whole = whole + jnp.where(jnp.abs(real - whole) >= np.float32(0.5), jnp.sign(real), np.float32(0))
    return jnp.clip(whole.astype(np.int32) + leaves["zero_point"], np.int32(0), np.int32(255)).astype(x.dtype)


# ---------------------------------------------------------------- STRIDED_SLICE


def slices(options: Options, shape: tuple[int, ...], begin: Any, end: Any, strides: Any) -> tuple[tuple, ...]:
    """What STRIDED_SLICE takes, axis by axis: ("take", start, stop, step), ("pick", index) for a shrunk axis, ("new",) for a new one.

    The masks mean what they do in TensorFlow: bit i speaks of entry i of begin, end, strides; an ellipsis stands for as many whole
    axes as are left over. A stop of -1 with a negative step means "through element 0".
    """
    begin, end, strides = (np.ravel(v).tolist() for v in (begin, end, strides))
    mask = {name: int(options.get(f"{name}_mask", 0)) for name in ("begin", "end", "ellipsis", "new_axis", "shrink_axis")}
    if options.get("offset", False):
        end = [b + e for b, e in zip(begin, end, strict=True)]
    found: list[tuple] = []
    axis = 0
    for i in range(len(begin)):
        bit = 1 << i
        if mask["ellipsis"] & bit:
            later = sum(1 for j in range(i + 1, len(begin)) if not mask["new_axis"] >> j & 1)
            while len(shape) - axis > later:
                found.append(("take", 0, shape[axis], 1))
                axis += 1
            continue
        if mask["new_axis"] & bit:
            found.append(("new",))
            continue
        found.append(_one_slice(shape[axis], begin[i], end[i], strides[i], bit, mask))
        axis += 1
    return (*found, *(("take", 0, n, 1) for n in shape[axis:]))


def _one_slice(size: int, begin: int, end: int, step: int, bit: int, mask: dict[str, int]) -> tuple:
    if mask["shrink_axis"] & bit:
        index = 0 if mask["begin"] & bit else begin
        return "pick", min(max(index + size if index < 0 else index, 0), size - 1)
    start, stop, step = slice(None if mask["begin"] & bit else begin, None if mask["end"] & bit else end, step).indices(size)
    return "take", start, stop, step


def take_slices(items: tuple[tuple, ...], x: Any) -> Any:
    """x under the slices of `slices`."""
    index: list[Any] = []
    for kind, *numbers in items:
        if kind == "take":
            start, stop, step = numbers
            index.append(slice(start, None if step < 0 and stop < 0 else stop, step))
        else:
            index.append(None if kind == "new" else numbers[0])
    return x[tuple(index)]


def _real_strided_slice(options: Options, x: Any, begin: Any, end: Any, strides: Any) -> Any:
    return take_slices(slices(options, x.shape, begin, end, strides), x)


def _run_strided_slice(options: Options, static: tuple, leaves: Leaves, x: Any, *_: Any) -> Any:
    """Codes of the sliced elements. *Restates*: STRIDED_SLICE of LiteRT."""
    return take_slices(static, x)


# ---------------------------------------------------------------- GATHER, PACK


def _gather(x: Any, index: Any, axis: int, batch: int) -> Any:
    ns = namespace(x, index)
    if batch == 0:
        return ns.take(x, index, axis=axis, mode="clip")
    return ns.stack([_gather(x[i], index[i], axis - 1, batch - 1) for i in range(x.shape[0])])


def _real_gather(options: Options, x: Any, index: Any) -> Any:
    """Elements (slices along `axis`) at the given indices. *Domain*: 0 <= index < size; others read the nearest element.

    *Raises*: BadData for an index out of range where all is known on the host.
    """
    fault = outside("GATHER", options, np.shape(x), index) if namespace(x, index) is np else None
    if fault:
        raise BadData(f"GATHER: {fault}")
    axis, batch = int(options.get("axis", 0)), int(options.get("batch_dims", 0))
    batch = batch + np.ndim(index) if batch < 0 else batch
    return _gather(x, index, axis % max(np.ndim(x), 1), batch)


def _run_gather(options: Options, static: tuple, leaves: Leaves, x: Any, index: Any) -> Any:
    """Codes at the given indices. *Restates*: GATHER of LiteRT (an index out of range is an error there)."""
    return _real_gather(options, x, index)


def _real_pack(options: Options, *inputs: Any) -> Any:
    inputs = same_type(*inputs)
    return namespace(*inputs).stack(inputs, axis=options.get("axis", 0))


def _run_pack(options: Options, static: tuple, leaves: Leaves, *inputs: Any) -> Any:
    """Codes of the inputs stacked along a new axis. *Restates*: PACK of LiteRT."""
    return _real_pack(options, *inputs)


def _plan_copy(site: Site, flavour: str) -> Plan:
    if site.node.op == "PACK":
        require_tied(site, site.inputs)
    return Plan(note="raw copy")


def _copies(
    types: tuple[str, ...], inputs: tuple[str, ...], plan: Callable[[Site, str], Plan], run: Callable[..., Any]
) -> tuple[Kernel, ...]:
    return each(types, inputs, ("T",), plan, run)


_PLAIN = (*WHOLE, "bool")
_TYPES = (*_PLAIN, "int4")


def _sliced(shape: tuple, begin: tuple, end: tuple, strides: tuple, **masks: Any) -> Case:
    n = (len(begin),)
    return Case((shape, n, n, n), masks, {1: begin, 2: end, 3: strides}, dict.fromkeys((1, 2, 3), "int32"))


def _padded(shape: tuple, pairs: tuple) -> Case:
    return Case((shape, (len(pairs), 2)), {}, {1: pairs}, {1: "int32"})


def _permuted(shape: tuple, order: tuple) -> Case:
    return Case((shape, (len(order),)), {}, {1: order}, {1: "int32"})


OPS = (
    Op(
        "PAD",
        _real_pad,
        Rule(tied=True, static=(1,)),
        _copies(_PLAIN, ("T", "int32|int64"), _plan_pad, _run_pad),
        (
            _padded((1, 4, 5, 3), ((0, 0), (1, 1), (2, 0), (0, 0))),
            _padded((1, 3, 4), ((0, 0), (0, 2), (1, 0))),
            _padded((1, 6), ((0, 0), (3, 1))),
        ),
        host=True,
    ),
    Op(
        "TRANSPOSE",
        _real_transpose,
        Rule(tied=True, static=(1,)),
        _copies(_TYPES, ("T", "int32"), _planned(_order, (1,)), _run_transpose),
        (_permuted((1, 3, 4, 5), (0, 3, 1, 2)), _permuted((2, 3, 4), (2, 0, 1)), _permuted((1, 7), (1, 0))),
        host=True,
    ),
    Op(
        "CONCATENATION",
        _real_concatenation,
        Rule(data="all", tied=True),
        _copies(_TYPES, ("T*",), _plan_concatenation, _run_concatenation),
        (
            Case(((1, 3, 4, 2), (1, 3, 4, 5)), {"axis": 3}),
            Case(((1, 3, 4), (1, 2, 4), (1, 1, 4)), {"axis": 1}),
            Case(((1, 5), (1, 5), (1, 3), (1, 1)), {"axis": -1}),
        ),
        host=True,
    ),
    Op(
        "STRIDED_SLICE",
        _real_strided_slice,
        Rule(tied=True, static=(1, 2, 3)),
        _copies(_PLAIN, ("T", "int32", "int32", "int32?"), _planned(slices, (1, 2, 3)), _run_strided_slice),
        (
            _sliced((1, 6, 5, 3), (0, 1, 0, 0), (1, 6, 4, 3), (1, 2, 3, 1)),
            _sliced((1, 6, 5), (0, 5, 4), (1, 0, 0), (1, -2, -1), begin_mask=4, end_mask=4),
            _sliced((1, 6, 5), (0, 2, 0), (1, 3, 5), (1, 1, 1), shrink_axis_mask=2),
            _sliced((1, 7), (0, -5), (0, -1), (1, 2), end_mask=1),
        ),
        host=True,
    ),
    Op(
        "GATHER",
        _real_gather,
        Rule(tied=True),
        _copies(_PLAIN, ("T", "int32|int64"), _plan_copy, _run_gather),
        (
            Case(((1, 5, 3), (4,)), {"axis": 1, "batch_dims": 0}, {1: (0, 4, 2, 2)}, {1: "int32"}),
            Case(((6, 2), (2, 2)), {"axis": 0, "batch_dims": 0}, {1: ((5, 0), (1, 3))}, {1: "int32"}),
            Case(((1, 5, 3), (4,)), {"axis": 1, "batch_dims": 0}, {}, {1: "int32"}),
            Case(((2, 5, 3), (2, 2)), {"axis": 1, "batch_dims": 1}, {1: ((4, 0), (1, 3))}, {1: "int32"}),
        ),
        host=True,
    ),
    Op(
        "PACK",
        _real_pack,
        Rule(data="all", tied=True),
        _copies(WHOLE, ("T*",), _plan_copy, _run_pack),
        (
            Case(((1, 3), (1, 3)), {"axis": 1, "values_count": 2}),
            Case(((2, 3, 2), (2, 3, 2), (2, 3, 2)), {"axis": -1, "values_count": 3}),
            Case(((4,),), {"axis": 0, "values_count": 1}),
        ),
        host=True,
    ),
)
