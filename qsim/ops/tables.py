"""LOGISTIC, TANH, ELU, EXP, LOG, GELU: functions of one input, a table over all codes (the kernels' own, or made with their steps)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import fixed16, libm
from ..errors import Invalid, Unsupported
from ..fixed import lookup, round_away
from ..graph import Options
from ..op import Case, Op, Plan, Rule, Site, namespace
from ..types import code_range
from .common import Leaves, affine, each, f32, require_centred, where_positive

Curve = Callable[[np.ndarray, Site], np.ndarray]  # float32 -> float32, in the kernel's steps

# ---------------------------------------------------------------- the functions, in float32


def _sigmoid_xnnpack(x: np.ndarray, site: Site) -> np.ndarray:
    e = np.exp(np.clip(x.astype(np.float64), -700, 700))
    return (e / (1 + e)).astype(f32)


def _sigmoid(x: np.ndarray, site: Site) -> np.ndarray:
    return f32(1) / (f32(1) + libm.expf(-x))


def _tanh(x: np.ndarray, site: Site | None = None) -> np.ndarray:
    return libm.tanhf(x)


def _elu(x: np.ndarray, site: Site) -> np.ndarray:
    return np.where(x < 0, libm.expm1f(x), x)


def _exp(x: np.ndarray, site: Site) -> np.ndarray:
    return libm.expf(x)


def _log(x: np.ndarray, site: Site) -> np.ndarray:
    """log(x); where x <= 0 the lowest real of the output."""
    sy, zy = affine(site, site.outputs[0])
    lowest = f32(f32(code_range(site.outputs[0].type)[0] - zy) * sy)
    return np.where(x <= 0, lowest, np.log(np.where(x <= 0, f32(1), x).astype(np.float64)).astype(f32))


def reciprocal_root(x: np.ndarray, site: Site) -> np.ndarray:
    """1 / sqrt(x); where x <= 0 the highest real of the output."""
    highest = f32(code_range(site.outputs[0].type)[1]) * affine(site, site.outputs[0])[0]
    return np.where(x <= 0, highest, f32(1) / np.sqrt(np.where(x <= 0, f32(1), x)))


def _gelu(x: np.ndarray, site: Site) -> np.ndarray:
    """0.5 x erfc(-x / sqrt(2)), or 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) if approximate; each step float32."""
    if site.options.get("approximate", False):
        cubed = f32(0.044715) * x * x * x
        return f32(0.5) * x * (f32(1) + _tanh(f32(0.7978845608) * (x + cubed)))
    return f32(0.5) * x * libm.erfcf(x * f32(-0.7071067811865476))


# ---------------------------------------------------------------- 8 bits: 256 entries


def table(function: Curve, site: Site, rounding: str) -> np.ndarray:
    """256 output codes of a function of one 8-bit input, in float32 steps: g = function(f32(s_x (q - z_x))).

    XNNPACK: clip(round_half_even(f32(f32(g / s_y) + z_y))). LiteRT: clip(trunc(round_away(f32(g / s_y)) + z_y)). Both multiply by
    f32(1 / s_y). *Domain*: int8 and uint8.
    """
    (sx, zx), (sy, zy) = affine(site, site.inputs[0]), affine(site, site.outputs[0])
    low, high = code_range(site.outputs[0].type)
    q = np.arange(low, high + 1, dtype=np.int32)
    with np.errstate(over="ignore", invalid="ignore"):
        g = function((q - zx).astype(f32) * sx, site).astype(f32) * f32(f32(1) / sy)
        g = np.rint(g + f32(zy)) if rounding == "xnnpack" else np.trunc(round_away(g) + f32(zy))
    return np.clip(g, low, high).astype(site.outputs[0].type)


def _plan_8(functions: dict[str, Curve]) -> Callable[[Site, str], Plan]:
    """functions: flavour -> function; flavours not named compute as "reference" does."""

    def plan(site: Site, flavour: str) -> Plan:
        form = flavour if flavour in functions or (flavour == "xnnpack" and site.node.op in _DELEGATED) else "reference"
        scale, _ = affine(site, site.outputs[0])
        if form != "xnnpack" and site.node.op == "LOGISTIC" and scale != 1 / 256:
            raise Invalid("LOGISTIC gives scale 1/256 only", where=site.where, found=float(scale), hint="LiteRT refuses such a file")
        function = functions.get(form, functions["reference"])
        return Plan((), {"table": table(function, site, form)}, f"256-entry table, {form} rounding")

    return plan


_DELEGATED = ("LOGISTIC", "TANH", "ELU")

# ---------------------------------------------------------------- 16 bits: 513 entries, interpolated


def interpolation_table(function: Callable, x: tuple[Any, int], y: tuple[Any, int], real: Any = f32) -> np.ndarray:
    """513 int16 entries of a function of one int16 code; x, y: (scale, zero point) of input and output; real: type of every step.

    Entry i is the output at 512 equal steps of the input's range, less half of what a straight line misses in the middle of the step.
    *Restates*: the tables of LiteRT's int16 kernels (grid: the codes from the lowest to 32767 in 512 steps, not 128 codes a step).
    """
    sx, sy = real(x[0]), real(y[0])
    first, last = sx * real(-32768 - x[1]), sx * real(32767 - x[1])
    span = sy * real(32767 - y[1]) - sy * real(-32768 - y[1])
    step, scale = (last - first) / real(512), real(65536) / span
    at = (first + np.arange(513).astype(real) * step).astype(real)
    with np.errstate(over="ignore", invalid="ignore"):
        ends = function(at).astype(real) * scale
        middle = round_away(function((at[:-1] + step / real(2)).astype(real)).astype(real) * scale)
        left = round_away(ends[:-1])
        line = round_away((ends[1:] + left) / real(2))
        entries = left - round_away((line - middle) / real(2))
        final = round_away(function(np.array([last], real)).astype(real) * scale)
    return np.clip(np.concatenate([entries, final]), -32768, 32767).astype(np.int64)


def interpolated(entries: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """The value of a 513-entry table at int16 codes: 7 bits between two entries, halves up."""
    codes = np.asarray(codes, np.int64)
    low = entries[256 + (codes >> 7)]
    slope = (entries[257 + (codes >> 7)] - low + 32768 & 0xFFFF) - 32768
    return low + ((slope * (codes & 127) + 64) >> 7)


_CODES_16 = np.arange(-32768, 32768)


def _plan_16(function: Curve) -> Callable[[Site, str], Plan]:
    def plan(site: Site, flavour: str) -> Plan:
        require_centred(site)
        (sx, _), (sy, _) = affine(site, site.inputs[0]), affine(site, site.outputs[0])
        with np.errstate(over="ignore"):
            if not np.isfinite(function(f32(sx) * np.array([-32768, 32767], f32), site)).all():
                raise Unsupported(f"{site.node.op} overflows within the input's range", where=site.where, found=float(sx))
        entries = interpolation_table(lambda x: function(x, site), (sx, 0), (sy, 0))
        return Plan((), {"table": interpolated(entries, _CODES_16).astype(np.int16)}, "513-entry table, interpolated")

    return plan


# ---------------------------------------------------------------- LOGISTIC, TANH of 16 bits

# Entries of LiteRT's table of 65536 sigmoid(i / 24) that are one above the rounded value.
_ABOVE = np.array(
    (
        "4 8 12 14 15 16 17 19 20 21 22 25 27 28 29 30 31 33 34 35 37 39 40 41 43 44 45 46 49 50 54 62 "
        "63 64 66 82 86 93 100 103 112 116 135 255"
    ).split(),
    np.int64,
)
_SIGMOID = np.floor(65536 / (1 + np.exp(-np.arange(256) / 24)) + 0.5).astype(np.int64)
_SIGMOID[_ABOVE] += 1


def _power(scale: np.float32, most: int) -> int | None:
    """k where the scale is 2^(k - 12) (nearly) and 0 <= k <= most."""
    log = f32(np.log(scale)) * f32(f32(1) / np.log(f32(2)))
    k = 12 + int(round_away(log))
    return k if abs(log - round_away(log)) < 1e-3 and 0 <= k <= most else None


def _argument(scale: np.float32, most: int) -> np.ndarray:
    """All int16 codes times scale, in steps of 1 / (3 * 4096), with the kernels' 15-bit multiplier; no shift for a `_power`."""
    k = _power(scale, most)
    if k is not None:
        return _CODES_16 * (3 << k)
    real, shift = float(scale) * 4096 * 3, 0
    while real <= 32767 / 2 and shift <= 30:
        real, shift = real * 2, shift + 1
    product = (_CODES_16 * int(real) + (1 << shift >> 1)).astype(np.int32).astype(np.int64)
    return product >> shift


def _sigmoid_16(scale: np.float32, tanh: bool) -> np.ndarray:
    """Output codes of LOGISTIC, or of TANH (twice the slope, -1 to 1), for all int16 codes: `_SIGMOID`, lines between its entries."""
    v = _argument(scale, int(tanh))
    bits = 8 if tanh else 9
    size, rest = np.abs(v) >> bits, np.abs(v) & ((1 << bits) - 1)
    i = np.minimum(size, 254)
    y = (_SIGMOID[i] << bits) + rest * (_SIGMOID[i + 1] - _SIGMOID[i])
    if tanh:
        y = np.where(size >= 255, 0xFFFF << 8, y)
        y = np.where(v >= 0, y - (1 << 23) + 128, (1 << 23) - y + 127) >> 8
    else:
        y = np.where(size >= 255, 0x7FFF << 10, y)
        y = np.where(v >= 0, y + 512, (1 << 25) - y + 511) >> 10
    return y.astype(np.int16)


def _plan_sigmoid_16(site: Site, flavour: str) -> Plan:
    require_centred(site)
    scale, (sy, _) = affine(site, site.inputs[0])[0], affine(site, site.outputs[0])
    if sy != 2.0**-15:
        raise Invalid(
            f"{site.node.op} of int16 gives scale 1/32768 only", where=site.where, found=float(sy), hint="LiteRT refuses such a file"
        )
    tanh = site.node.op == "TANH"
    power = _power(scale, int(tanh))
    if flavour != "reference" and power is not None:
        codes = np.clip(_CODES_16 << power, -32768, 32767)
        found = fixed16.tanh(codes, 3) if tanh else fixed16.logistic(codes, 3)
        return Plan((), {"table": found.astype(np.int16)}, "16-bit fixed point: the scale is a power of two")
    return Plan((), {"table": _sigmoid_16(scale, tanh)}, "LiteRT's 256-entry sigmoid, interpolated")


def run_table(options: Options, static: tuple, leaves: Leaves, x: jax.Array) -> jax.Array:
    """y = table[q]: the kernel's own steps for each of the 256 or 65536 codes, taken on the host.

    8 bits: `table`, rounded as XNNPACK does where its delegate takes the op (LOGISTIC, TANH, ELU), else as LiteRT's tables are.
    16 bits: EXP, LOG, GELU by `interpolation_table`; LOGISTIC and TANH by LiteRT's sigmoid table, or (builtin, where the scale is 2^-12, or
    2^-11 of TANH) by gemmlowp's fixed point; no zero points.
    *Restates*: LOGISTIC, TANH, ELU, EXP, LOG, GELU of LiteRT; LOGISTIC, TANH, ELU of XNNPACK.
    """
    return lookup(leaves["table"], x)


def _real_gelu(options: Options, x: Any) -> Any:
    return jax.nn.gelu(x, approximate=bool(options.get("approximate", False)))


UNARY = (Case(((1, 3, 5, 7),)), Case(((1, 259),)), Case(((1, 1),)))
_8 = ("int8", "uint8")
_16 = ("int16",)
_T = ("T",)

OPS = (
    Op(
        "LOGISTIC",
        lambda options, x: jax.nn.sigmoid(x),
        Rule(fixed={"int8": (1 / 256, -128), "uint8": (1 / 256, 0), "int16": (1 / 32768, 0)}),
        (
            *each(_8, _T, _T, _plan_8({"xnnpack": _sigmoid_xnnpack, "reference": _sigmoid}), run_table),
            *each(_16, _T, _T, _plan_sigmoid_16, run_table),
        ),
        UNARY,
    ),
    Op(
        "TANH",
        lambda options, x: namespace(x).tanh(x),
        Rule(fixed={"int8": (1 / 128, 0), "uint8": (1 / 128, 128), "int16": (1 / 32768, 0)}),
        (*each(_8, _T, _T, _plan_8({"reference": _tanh}), run_table), *each(_16, _T, _T, _plan_sigmoid_16, run_table)),
        UNARY,
    ),
    Op(
        "ELU",
        lambda options, x: jnp.where(x > 0, x, jnp.expm1(jnp.minimum(x, np.zeros((), x.dtype)))),
        Rule(versions={"float32": 1, "int8": 1}),
        each(("int8",), _T, _T, _plan_8({"reference": _elu}), run_table, ("xnnpack", "builtin")),
        UNARY,
    ),
    Op(
        "EXP",
        lambda options, x: jnp.exp(x),
        Rule(),
        (*each(("int8",), _T, _T, _plan_8({"reference": _exp}), run_table), *each(_16, _T, _T, _plan_16(_exp), run_table)),
        UNARY,
    ),
    Op(
        "LOG",
        where_positive(jnp.log, lambda limits: limits.min),
        Rule(typed=True),
        (*each(("int8",), _T, _T, _plan_8({"reference": _log}), run_table), *each(_16, _T, _T, _plan_16(_log), run_table)),
        UNARY,
    ),
    Op(
        "GELU",
        _real_gelu,
        Rule(),
        (*each(_8, _T, _T, _plan_8({"reference": _gelu}), run_table), *each(_16, _T, _T, _plan_16(_gelu), run_table)),
        (*(Case(c.inputs, {"approximate": False}) for c in UNARY), Case(((1, 259),), {"approximate": True})),
    ),
)
