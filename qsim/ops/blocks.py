"""SPACE_TO_DEPTH, DEPTH_TO_SPACE, SPACE_TO_BATCH_ND, BATCH_TO_SPACE_ND, MIRROR_PAD, PADV2: blocks regrouped, borders added."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from ..graph import Options
from ..op import FLAVOURS, Case, Kernel, Op, Plan, Rule, Site, namespace
from .common import Leaves, affine, require_tied
from .copying import WHOLE, copies, frozen, host_value

PIXELS = ("float32", "int8", "uint8", "int32", "int64")
Pairs = tuple[tuple[int, int], ...]


def _space_to_depth(options: Options, x: Any) -> Any:
    """Squares of block_size x block_size pixels become channels, row by row. *Restates*: SPACE_TO_DEPTH of LiteRT and XNNPACK."""
    (n, h, w, c), b = x.shape, int(options.get("block_size", 1))
    return x.reshape(n, h // b, b, w // b, b, c).transpose(0, 1, 3, 2, 4, 5).reshape(n, h // b, w // b, b * b * c)


def _depth_to_space(options: Options, x: Any) -> Any:
    """The inverse of SPACE_TO_DEPTH. *Restates*: DEPTH_TO_SPACE of LiteRT and XNNPACK."""
    (n, h, w, c), b = x.shape, int(options.get("block_size", 1))
    return x.reshape(n, h, w, b, b, c // (b * b)).transpose(0, 1, 3, 2, 4, 5).reshape(n, h * b, w * b, c // (b * b))


def _pairs(value: Any) -> Pairs:
    return tuple((int(a), int(b)) for a, b in np.asarray(value).reshape(-1, 2))


def _to_batch(x: Any, block: list[int], pads: Pairs, value: Any) -> Any:
    """(n, s..., r...) -> (blocks * n, s / block..., r...): the position inside a block is the slower part of the batch."""
    m, ns = len(block), namespace(x)
    x = ns.pad(x, ((0, 0), *pads, *((0, 0),) * (x.ndim - 1 - m)), constant_values=value)
    n, space, rest = x.shape[0], x.shape[1 : 1 + m], x.shape[1 + m :]
    cut = [k for s, b in zip(space, block, strict=True) for k in (s // b, b)]
    inside, outside = [2 + 2 * i for i in range(m)], [1 + 2 * i for i in range(m)]
    x = x.reshape(n, *cut, *rest).transpose(*inside, 0, *outside, *range(1 + 2 * m, x.ndim + m))
    return x.reshape(n * int(np.prod(block)), *(s // b for s, b in zip(space, block, strict=True)), *rest)


def _space_to_batch(options: Options, x: Any, block: Any, paddings: Any) -> Any:
    return _to_batch(x, np.ravel(block).tolist(), _pairs(paddings), x.dtype.type(0))


def _plan_to_batch(site: Site, flavour: str) -> Plan:
    require_tied(site)
    zero = affine(site, site.outputs[0])[1] if site.outputs[0].qparams is not None else 0
    block, pads = frozen(host_value(site, 1)), frozen(host_value(site, 2))
    return Plan((block, pads), {"value": np.asarray(zero, site.outputs[0].type)}, "pads with the zero point")


def _run_to_batch(options: Options, static: tuple, leaves: Leaves, x: Any, *_: Any) -> Any:
    """Codes regrouped, padded with the output's zero point. *Restates*: SPACE_TO_BATCH_ND of LiteRT."""
    return _to_batch(x, list(static[0]), _pairs(static[1]), jnp.asarray(leaves["value"]))


def _batch_to_space(options: Options, x: Any, block: Any, crops: Any) -> Any:
    """The inverse of SPACE_TO_BATCH_ND, then `crops` are cut off. *Restates*: BATCH_TO_SPACE_ND of LiteRT."""
    block, crops = np.ravel(block).tolist(), _pairs(crops)
    m, n = len(block), x.shape[0] // int(np.prod(block))
    space, rest = x.shape[1 : 1 + m], x.shape[1 + m :]
    order = [m, *(k for i in range(m) for k in (m + 1 + i, i)), *range(2 * m + 1, x.ndim + m)]
    x = x.reshape(*block, n, *space, *rest).transpose(*order)
    x = x.reshape(n, *(s * b for s, b in zip(space, block, strict=True)), *rest)
    return x[(slice(None), *(slice(a, x.shape[1 + i] - b) for i, (a, b) in enumerate(crops)))]


def _mirror_pad(options: Options, x: Any, paddings: Any) -> Any:
    """Borders mirrored: REFLECT leaves the edge itself out, SYMMETRIC repeats it. *Restates*: MIRROR_PAD of LiteRT."""
    return namespace(x).pad(x, _pairs(paddings), mode=options.get("mode", "REFLECT").lower())


def _padv2(options: Options, x: Any, paddings: Any, value: Any) -> Any:
    """Borders of one value; a code where x is quantized. *Restates*: PADV2 of LiteRT."""
    ns = namespace(x, value)
    return ns.pad(x, _pairs(paddings), constant_values=ns.asarray(value, x.dtype).reshape(()))


def _batched(shape: tuple, block: tuple, pairs: tuple) -> Case:
    return Case((shape, (len(block),), (len(block), 2)), {}, {1: block, 2: pairs}, {1: "int32", 2: "int32"})


def _padded(shape: tuple, pairs: tuple, value: bool = False, **options: Any) -> Case:
    return Case((shape, (len(pairs), 2), *([()] if value else [])), options, {1: pairs}, {1: "int32"})


OPS = (
    Op(
        "SPACE_TO_DEPTH",
        _space_to_depth,
        Rule(tied=True, versions={"float32": 1, "int8": 1}),
        copies(_space_to_depth, PIXELS, ("T",), ("T",), tied=(0,), tied_in=("xnnpack",)),
        (Case(((1, 4, 6, 3),), {"block_size": 2}), Case(((1, 3, 6, 2),), {"block_size": 3})),
    ),
    Op(
        "DEPTH_TO_SPACE",
        _depth_to_space,
        Rule(tied=True, versions={"float32": 1, "int8": 1}),
        copies(_depth_to_space, PIXELS, ("T",), ("T",), tied=(0,), tied_in=("xnnpack",)),
        (Case(((1, 2, 3, 12),), {"block_size": 2}), Case(((1, 1, 2, 9),), {"block_size": 3})),
    ),
    Op(
        "SPACE_TO_BATCH_ND",
        _space_to_batch,
        Rule(tied=True, static=(1, 2)),
        tuple(Kernel((t, "int32", "int32"), (t,), FLAVOURS, _plan_to_batch, _run_to_batch) for t in WHOLE),
        (_batched((1, 4, 5, 3), (2, 3), ((1, 1), (0, 1))), _batched((2, 5, 2), (3,), ((1, 0),))),
    ),
    Op(
        "BATCH_TO_SPACE_ND",
        _batch_to_space,
        Rule(tied=True, static=(1, 2)),
        copies(_batch_to_space, WHOLE, ("T", "int32", "int32"), ("T",), static=(1, 2), tied=(0,)),
        (_batched((6, 3, 2, 3), (2, 3), ((1, 0), (0, 2))), _batched((6, 2, 2), (3,), ((1, 0),))),
    ),
    Op(
        "MIRROR_PAD",
        _mirror_pad,
        Rule(tied=True, static=(1,)),
        copies(_mirror_pad, WHOLE, ("T", "int32|int64"), ("T",), static=(1,), tied=(0,)),
        (
            _padded((1, 4, 5, 3), ((0, 0), (1, 3), (2, 0), (0, 1)), mode="REFLECT"),
            _padded((2, 3), ((2, 1), (0, 3)), mode="SYMMETRIC"),
        ),
        host=True,
    ),
    Op(
        "PADV2",
        _padv2,
        Rule(data=(0, 2), tied=True, static=(1,)),
        copies(_padv2, WHOLE, ("T", "int32|int64", "T"), ("T",), static=(1,), tied=(2,)),
        (_padded((1, 4, 5, 3), ((0, 0), (1, 1), (2, 0), (0, 0)), True), _padded((1, 6), ((0, 0), (3, 1)), True)),
        host=True,
    ),
)
