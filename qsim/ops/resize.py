"""RESIZE_BILINEAR and RESIZE_NEAREST_NEIGHBOR over NHWC: the grid is computed on the host."""

from __future__ import annotations

import functools
import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import Unsupported
from ..fixed import round_away, unfused
from ..graph import Options
from ..op import Case, Op, Plan, Rule, Site
from .common import Leaves, each, f32, require_tied

Grid = tuple[np.ndarray, np.ndarray, np.ndarray]  # lower index, upper index, weight of the upper


def float_grid(size: int, out: int, align: bool, half_pixel: bool) -> Grid:
    """The float kernels' grid: weight = f32 distance from the lower index."""
    scale = f32(size - 1) / f32(out - 1) if align and out > 1 else f32(size) / f32(out)
    v: Any = np.arange(out, dtype=f32)
    v = f32(f32(v + f32(0.5)) * scale) - f32(0.5) if half_pixel else v * scale
    lower = np.maximum(np.floor(v), 0).astype(np.int32)
    upper = np.minimum(np.ceil(v), size - 1).astype(np.int32)
    return lower, upper, (v - lower.astype(f32)).astype(f32)


def xnnpack_grid(size: int, out: int, align: bool, half_pixel: bool) -> Grid:
    """XNNPACK's grid: the coordinate clamped to the image in float32, weights in 1/2048 rounded half to even."""
    less = int(align and out != 1)
    scale = f32(size - less) / f32(out - less)
    v = np.arange(out, dtype=f32) * scale
    if half_pixel and not align:
        v = np.maximum(v + f32(f32(0.5) * scale - f32(0.5)), f32(0))
    v = np.minimum(v, f32(size - 1))
    lower = v.astype(np.int32)
    return lower, np.minimum(lower + 1, size - 1), np.rint((v - lower.astype(f32)) * f32(2048)).astype(np.int32)


def fixed_grid(size: int, out: int, align: bool, half_pixel: bool) -> Grid:
    """LiteRT's integer grid: coordinates and weights in 1/1024 from an integer scale."""
    scale = (1024 * (size - 1) + (out - 1) // 2) // (out - 1) if align and out > 1 else (1024 * size + out // 2) // out
    v = np.arange(out) * scale + (scale // 2 - 512 if half_pixel else 0)
    lower = np.maximum(np.trunc(v / 1024), 0).astype(np.int32)
    upper = np.minimum(np.trunc((v + 1023) / 1024), size - 1).astype(np.int32)
    return lower, upper, (v - 1024 * lower).astype(np.int32)


def _grids(make: Any, shape: tuple[int, ...], size: tuple[int, int], align: bool, half_pixel: bool) -> tuple[Grid, Grid]:
    return make(shape[1], size[0], align, half_pixel), make(shape[2], size[1], align, half_pixel)


def _blend(x: jax.Array, rows: Grid, columns: Grid, one: Any) -> jax.Array:
    """Rows, then columns: lower * (one - weight) + upper * weight, along axes 1 and 2."""
    return _blend_axis(_blend_axis(x, 1, rows, one), 2, columns, one)


def _blend_axis(x: jax.Array, axis: int, grid: Grid, one: Any) -> jax.Array:
    lower, upper, weight = grid
    w = weight.reshape([-1 if i == axis else 1 for i in range(4)])
    return jnp.take(x, lower, axis=axis, mode="clip") * (one - w) + jnp.take(x, upper, axis=axis, mode="clip") * w


def _size(value: Any) -> tuple[int, int]:
    h, w = np.ravel(value)
    return int(h), int(w)


def _real(options: Options, x: jax.Array, size: Any) -> jax.Array:
    rows, columns = _grids(float_grid, x.shape, _size(size), *_modes(options))
    return _blend(x, rows, columns, f32(1))


def _modes(options: Options) -> tuple[bool, bool]:
    return bool(options.get("align_corners", False)), bool(options.get("half_pixel_centers", False))


def _plan(site: Site, flavour: str) -> Plan:
    """static: (form, output height and width)."""
    if site.values[1] is None:
        raise Unsupported("the output size is not known before the model runs", where=site.where)
    if site.outputs[0].type == "int16":
        return Plan(("wide", _size(site.values[1])), note="weights in 1/1024, halves away from zero")
    if flavour != "xnnpack" and site.outputs[0].type == "uint8":
        return _plan_bytes(site, flavour)
    if flavour == "xnnpack":
        require_tied(site)
        return Plan(("xnnpack", _size(site.values[1])), note="weights in 1/2048, one shift, halves up")
    return Plan(("fixed", _size(site.values[1])), note="weights in 1/1024, halves away from zero")


def _run(options: Options, static: tuple, leaves: Leaves, x: jax.Array, _: Any) -> jax.Array:
    """Bilinear interpolation of int8 codes in exact integers; no rescale. *Shapes*: (n, h, w, c) -> (n, h', w', c).

    XNNPACK: T = sum of four codes times 11-bit weights, y = (T + 2^21) >> 22. LiteRT: 10-bit weights,
    y = trunc((T + sign(T) 2^19) / 2^20). |T| < 2^30 (8 bits), and the sum is exact, so rows and columns may be blended one after the other.

    *Restates*: XNNPACK's s8-ibilinear, RESIZE_BILINEAR of LiteRT.
    """
    form, size = static
    if form in _BYTES:
        return _run_bytes(form, x, *_grids(float_grid, x.shape, size, *_modes(options)))
    if form == "wide":
        return _run_wide(x, *_grids(fixed_grid, x.shape, size, *_modes(options)))
    codes = x.astype(np.int32)
    if form == "xnnpack":
        total = _blend(codes, *_grids(xnnpack_grid, x.shape, size, *_modes(options)), np.int32(2048))
        return ((total + np.int32(1 << 21)) >> np.int32(22)).astype(x.dtype)
    total = _blend(codes, *_grids(fixed_grid, x.shape, size, *_modes(options)), np.int32(1024))
    magnitude = (jnp.abs(total) + np.int32(1 << 19)) >> np.int32(20)
    return jnp.where(total < 0, -magnitude, magnitude).astype(x.dtype)


def _run_wide(x: jax.Array, rows: Grid, columns: Grid) -> jax.Array:
    """The LiteRT form for int16, where T needs 36 bits: T = 1024 high + low, low in 0..1023, from halves of the blended rows."""
    one = np.int32(1024)
    t = _blend_axis(x.astype(np.int32), 1, rows, one)
    high, low = (_blend_axis(part, 2, columns, one) for part in (t >> np.int32(10), t & np.int32(1023)))
    high, low = high + (low >> np.int32(10)), low & np.int32(1023)
    below = np.int32(512) - high - (low > 0).astype(np.int32)
    return jnp.where(high < 0, -(below >> np.int32(10)), (high + np.int32(512)) >> np.int32(10)).astype(x.dtype)


# ---------------------------------------------------------------- uint8 of LiteRT: float32

_BYTES = ("reference", "builtin")


def _plan_bytes(site: Site, flavour: str) -> Plan:
    x, size = site.inputs[0], _size(site.values[1])
    assert x is not None
    return Plan((flavour, size), note="float32 weights and sum, a half added, truncated")


def _run_bytes(form: str, x: jax.Array, rows: Grid, columns: Grid) -> jax.Array:
    """uint8 codes, each product and sum rounded to float32: y = trunc(a + b + c + d + 0.5) with a..d the codes times their weights.

    Reference: (p w_y) w_x of top left, bottom left, top right, bottom right. Builtin: p (w_y w_x) of top left, top right, bottom
    left, bottom right. *Restates*: RESIZE_BILINEAR of LiteRT on uint8.
    """
    vertical, horizontal = (_sides(g, axis) for g, axis in ((rows, 1), (columns, 2)))
    pairs = [(v, h) for v in vertical for h in horizontal] if form == "builtin" else [(v, h) for h in horizontal for v in vertical]
    terms = []
    for (i, wy), (j, wx) in pairs:
        code = jnp.take(jnp.take(x, i, axis=1, mode="clip"), j, axis=2, mode="clip").astype(np.float32)
        terms.append(unfused(code * (wy * wx)) if form == "builtin" else unfused(unfused(code * wy) * wx))
    total = functools.reduce(operator.add, terms)
    return (total + np.float32(0.5)).astype(np.int32).astype(x.dtype)


def _sides(grid: Grid, axis: int) -> list[tuple[np.ndarray, np.ndarray]]:
    lower, upper, weight = grid
    w = weight.reshape([-1 if i == axis else 1 for i in range(4)])
    return [(lower, f32(1) - w), (upper, w)]


# ---------------------------------------------------------------- RESIZE_NEAREST_NEIGHBOR


def nearest(size: int, out: int, align: bool, half_pixel: bool) -> np.ndarray:
    """Source index per output position: f32 coordinate, rounded half away with align_corners, else down."""
    scale = f32(size - 1) / f32(out - 1) if align and out > 1 else f32(size) / f32(out)
    v = (np.arange(out, dtype=f32) + f32(0.5 if half_pixel else 0)) * scale
    return np.maximum(np.minimum((round_away(v) if align else np.floor(v)).astype(np.int32), size - 1), 0)


def _take_nearest(options: Options, x: jax.Array, size: tuple[int, int]) -> jax.Array:
    rows, columns = (nearest(x.shape[axis], size[axis - 1], *_modes(options)) for axis in (1, 2))
    return jnp.take(jnp.take(x, rows, axis=1, mode="clip"), columns, axis=2, mode="clip")


def _real_nearest(options: Options, x: jax.Array, size: Any) -> jax.Array:
    return _take_nearest(options, x, _size(size))


def _plan_nearest(site: Site, flavour: str) -> Plan:
    """static: the output's height and width."""
    if site.values[1] is None:
        raise Unsupported("the output size is not known before the model runs", where=site.where)
    return Plan(_size(site.values[1]), note="raw copy")


def _run_nearest(options: Options, static: tuple[int, int], leaves: Leaves, x: jax.Array, _: Any) -> jax.Array:
    """The nearest codes; scales are never read. *Restates*: RESIZE_NEAREST_NEIGHBOR of LiteRT, alike in every flavour."""
    return _take_nearest(options, x, static)


def _case(shape: tuple, size: tuple[int, int], align: bool = False, half_pixel: bool = False) -> Case:
    return Case((shape, (2,)), {"align_corners": align, "half_pixel_centers": half_pixel}, {1: size}, {1: "int32"})


OPS = (
    Op(
        "RESIZE_BILINEAR",
        _real,
        Rule(tied=True, static=(1,), versions={"float32": 1, "uint8": 1, "int8": 2, "int16": 4}),
        each(("int8", "uint8", "int16"), ("T", "int32"), ("T",), _plan, _run),
        (
            _case((1, 4, 5, 3), (8, 10)),
            _case((1, 4, 5, 3), (8, 10), half_pixel=True),
            _case((1, 7, 3, 2), (4, 9), align=True),
            _case((1, 5, 6, 17), (3, 4), half_pixel=True),
            _case((1, 3, 4, 1), (1, 1), align=True),
            _case((1, 2, 3, 16), (16, 24)),
            _case((1, 2, 3, 3), (16, 24), half_pixel=True),
        ),
    ),
    Op(
        "RESIZE_NEAREST_NEIGHBOR",
        _real_nearest,
        Rule(tied=True, static=(1,), versions={"float32": 1, "uint8": 1, "int8": 2, "int16": 4}),
        each(("int8", "uint8", "int16"), ("T", "int32"), ("T",), _plan_nearest, _run_nearest),
        (
            _case((1, 4, 5, 3), (8, 10)),
            _case((1, 7, 9, 2), (4, 13), half_pixel=True),
            _case((1, 7, 3, 2), (4, 9), align=True),
            _case((2, 5, 6, 17), (17, 4), half_pixel=True),
            _case((1, 3, 4, 1), (1, 1), align=True),
        ),
    ),
)
