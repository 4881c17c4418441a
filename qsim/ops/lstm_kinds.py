"""LSTM, one step (kernel types FULL and BASIC), and BIDIRECTIONAL_SEQUENCE_LSTM."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import dot, fixed, fixed16
from ..errors import Invalid, Unsupported
from ..graph import Options
from ..op import FLAVOURS, Kernel, Op, Plan, Rule, Site
from . import lstm_hybrid
from .common import affine
from .lstm import INT8, VERSIONS, integer_step, lstm_fake, lstm_plan, saturate16, table
from .lstm_cell import Cell, cell_of, over_time, step

f32 = np.float32
FORWARD, BACKWARD, AUX = 1, 18, 39
BASIC_HIDDEN, BASIC_CELL = 1, 4
FORWARD_AUX, BACKWARD_AUX = 40, 44
STATES = (35, 36, 37, 38)


def lstm_real(options: Options, *at: Any) -> tuple[Any, ...]:
    """FULL: (h, h, c) of `lstm_cell.step` on x (n, k). BASIC: see `_basic`."""
    if options.kernel_type == "BASIC":
        return _basic(*at)
    h, c = step(options, cell_of(at, norm=20), (at[18], at[19]), at[0])
    return h, h, c


def _basic(x: Any, h: Any, weights: Any, bias: Any, c: Any) -> tuple[Any, ...]:
    """(h', c', x beside h, sums, h', c'): sums = W (x beside h) + b, its quarters I, G, F, O; c' = sigmoid(I) tanh(G) + sigmoid(F) c,
    h' = sigmoid(O) tanh(c')."""
    both = jnp.concatenate([x, h], axis=1)
    sums = dot.add_bias(dot.dense_float(both, jnp.asarray(weights).T), jnp.asarray(bias))
    i, g, f, o = jnp.split(sums, 4, axis=1)
    c = jax.nn.sigmoid(i) * jnp.tanh(g) + jax.nn.sigmoid(f) * c
    h = jax.nn.sigmoid(o) * jnp.tanh(c)
    return h, c, both, sums, h, c


def bidirectional_real(options: Options, *at: Any) -> tuple[Any, ...]:
    """A forward and a backward LSTM: (y forward, y backward), or one y of both side by side where merge_outputs; then the states.

    An auxiliary input with weights is added in every gate; without weights it is the input of the backward LSTM.
    """
    x, aux = at[0], at[AUX] if len(at) > AUX else None
    weighted = len(at) > FORWARD_AUX + 1 and at[FORWARD_AUX + 1] is not None
    below = x if aux is None or weighted else aux
    more = (aux,) if weighted else ()
    ys, states = [], []
    for first, own, state, backward in ((FORWARD, FORWARD_AUX, 35, False), (BACKWARD, BACKWARD_AUX, 37, True)):
        cell = cell_of(at, first, aux=own)
        y, last = _run(options, cell, (at[state], at[state + 1]), (below if backward else x, *more), backward)
        ys.append(y)
        states += last
    return (jnp.concatenate(ys, axis=2), *states) if options.merge_outputs else (*ys, *states)


def _run(options: Options, cell: Cell, state: Any, xs: tuple[Any, ...], backward: bool) -> tuple[Any, Any]:
    def one(state: Any, *now: Any) -> Any:
        h, c = step(options, cell, state, *now)
        return (h, c), h

    return over_time(one, state, *xs, time_major=options.time_major, backward=backward)


# the integer kernels of one step -------------------------------------------------


def full_plan(site: Site, flavour: str) -> Plan:
    """`lstm_plan` for one step on x (n, k)."""
    if site.options.kernel_type != "FULL":
        raise Invalid("a BASIC LSTM with the operands of a FULL one", where=site.where)
    return lstm_plan(site, flavour)


def full_run(options: Options, how: Any, leaves: dict[str, Any], x: Any, *rest: Any) -> tuple[Any, ...]:
    h, c = integer_step(how, leaves, x, *rest[17:19])
    return h, h, c


def basic_plan(site: Site, flavour: str) -> Plan:
    """sums = sat16(requantize(sum (both - 128) (W - z_W) + b, 2^12 s_b)), halves up, both = x beside h; with logistic, tanh and products
    in 16-bit fixed point c' = sat16(half_away(I G / 2^4) + F c), h' = 128 + sat8(half_away(O tanh(sat16(2 c')) / 2^8)).

    *Domain*: uint8 x, weights and h, int32 bias, int16 cell of scale 2^-11; scales and zero points of x and h count as 1/128 and 128.
    *Restates*: LstmCell of the optimized LiteRT kernels, one code in every flavour.
    """
    if site.options.kernel_type != "BASIC" or affine(site, site.outputs[1])[0] != f32(2.0**-11):
        raise Invalid("an uint8 LSTM is BASIC with a cell of scale 2^-11", where=site.where)
    if site.values[2] is None or site.values[3] is None:
        raise Unsupported("weights are computed, not constant", where=site.where)
    w = site.values[2].astype(np.int64) - 128
    m, e = fixed.quantize_multiplier(np.float64(4096) * np.float64(affine(site, site.inputs[3])[0]))
    leaves = {
        "weights": np.ascontiguousarray(w.T).astype(np.int8), "bias": site.values[3].astype(np.int32),
        "offset": np.int32(128 - affine(site, site.inputs[2])[1]), "multiplier": np.int32(m[0]), "shift": np.int32(e[0]),
        "logistic": table(fixed16.logistic, 3), "tanh": table(fixed16.tanh, 3),
    }  # fmt: skip
    return Plan((), leaves, "16-bit fixed-point gates; two fixed-point roundings, halves up")


def basic_run(options: Options, _: Any, leaves: dict[str, Any], x: Any, h: Any, *rest: Any) -> tuple[Any, ...]:
    both = jnp.concatenate([x, h], axis=1)
    codes = both.astype(np.int32) - np.int32(128)
    acc = dot.dense(codes.astype(np.int8), leaves["weights"], leaves["bias"])
    acc = acc + jnp.sum(codes, axis=1, keepdims=True, dtype=np.int32) * leaves["offset"]
    sums = saturate16(fixed.requantize(acc, leaves["multiplier"], leaves["shift"], rounding="up"))
    quarters = jnp.split(sums, 4, axis=1)
    i, g, f, o = (
        fixed.lookup(leaves[k], v).astype(np.int32) for k, v in zip(("logistic", "tanh", "logistic", "logistic"), quarters, strict=True)
    )
    kept = _half_up(f * rest[-1].astype(np.int32))
    c = saturate16(fixed.shift_away(_half_up(i * g), jnp.int32(4)) + kept)
    t = fixed.lookup(leaves["tanh"], saturate16(c.astype(np.int32) * np.int32(2))).astype(np.int32)
    h = fixed.store(fixed.shift_away(_half_up(o * t), jnp.int32(8)), 0, -128, 127, np.int32)
    h = (h + np.int32(128)).astype(np.uint8)
    return h, c, both, sums, h, c


def _half_up(product: Any) -> Any:
    return (product + np.int32(1 << 14)) >> np.int32(15)


UINT8 = ("uint8", "uint8", "uint8", "int32", "int16"), ("uint8", "int16", "uint8", "int16")

OPS = (
    Op(
        "LSTM",
        lstm_real,
        Rule(
            data=(0,),
            prepared=(2, 3),
            state={20: (18, 19), 24: (18, 19), 5: (BASIC_HIDDEN, BASIC_CELL)},
            versions={"float32": 1, "int8": 2, "float32 x int8": 4},
        ),
        (
            Kernel(INT8, ("int8",), FLAVOURS, full_plan, full_run),
            Kernel(*UINT8, FLAVOURS, basic_plan, basic_run),
            Kernel(lstm_hybrid.LSTM, ("float32",), FLAVOURS, lstm_hybrid.lstm_plan, lstm_hybrid.full_run),
        ),
        fake=lstm_fake,
    ),
    Op(
        "BIDIRECTIONAL_SEQUENCE_LSTM",
        bidirectional_real,
        Rule(data=(0,), prepared=(*range(1, 35), *range(40, 48)), state=STATES, keep_float=True, versions=VERSIONS),
        tuple(
            Kernel(lstm_hybrid.BOTH_WAYS, ("float32",) * n, FLAVOURS, lstm_hybrid.bidirectional_plan, lstm_hybrid.bidirectional_run)
            for n in (1, 2)
        ),
    ),
)
