"""LSTM kinds on float data by int8 weights: data and hidden state are quantized row by row as they come."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .. import fixed
from ..errors import Unsupported
from ..graph import Options
from ..op import Plan, Site
from .common import affine
from .float_math import logistic, times
from .hybrid import NOTES, QUANTIZERS
from .lstm_cell import CELL, FORGET, GATES, INPUT, OUTPUT, over_time
from .rnn_hybrid import Leaves, act, constant, product, quantizer, require_activation, weight_leaves

f32 = np.float32
KNOWN = ("RELU", "RELU6", "RELU_N1_TO_1", "TANH")


class Static(NamedTuple):
    """gates: which there are. together: rows that the kernel takes at once."""

    gates: tuple[int, ...]
    how: str
    peephole: bool
    norm: bool
    projection: bool
    together: int


def lstm_plan(site: Site, flavour: str) -> Plan:
    """As `lstm_cell.step` with every product by weights `rnn_hybrid.product` of rows quantized as `asymmetric_quantize_inputs` says; a
    gate's sums are ((((b + W x) + A aux) + R h) + (p s_p) c); every step float32, tanh and logistic as in `float_math`.

    *Domain*: int8 weights within -127..127, zero point 0, recurrent ones not diagonal; float32 bias and norms; sums of the gates above
    -87; an activation (the kernels leave their scratch as it is without one). *Restates*: LstmStepHybrid of the LiteRT kernels, one
    code in every flavour.
    """
    rows = site.inputs[0].shape[-2] if site.options.get("time_major", True) else 1  # type: ignore[union-attr]
    leaves, static = _cell_plan(site, 1, None, 20, rows)
    return Plan((static,), leaves, NOTES[static.how])


def bidirectional_plan(site: Site, flavour: str) -> Plan:
    """`lstm_plan` of a forward and a backward LSTM."""
    rows = site.inputs[0].shape[-2] if site.options.time_major else 1  # type: ignore[union-attr]
    if site.options.merge_outputs and not site.options.time_major and site.inputs[0].shape[0] > 1:  # type: ignore[union-attr]
        raise Unsupported("merged outputs of several rows with time as second axis", where=site.where, hint="LiteRT reads past its states")
    weighted = _present(site, 41)
    found = [_cell_plan(site, first, aux if weighted else None, None, rows) for first, aux in ((1, 40), (18, 44))]
    leaves = {f"{way}_{k}": v for way, (own, _) in zip(("forward", "backward"), found, strict=True) for k, v in own.items()}
    return Plan((*(static for _, static in found), weighted), leaves, NOTES[found[0][1].how])


def _present(site: Site, p: int) -> bool:
    return p < len(site.inputs) and site.inputs[p] is not None


def _cell_plan(site: Site, first: int, aux: int | None, norm: int | None, rows: int) -> tuple[Leaves, Static]:
    require_activation(site, KNOWN)
    gates = tuple(g for g in range(4) if _present(site, first + g))
    normalized = norm is not None and _present(site, norm + 1)
    static = Static(gates, quantizer(site), _present(site, first + 10), normalized, _present(site, first + 15), rows)
    leaves: Leaves = {}
    for g in gates:
        name = GATES[g]
        leaves |= weight_leaves(site, first + g, name) | weight_leaves(site, first + 4 + g, f"{name}_recurrent")
        leaves |= {} if aux is None else weight_leaves(site, aux + g, f"{name}_aux")
        leaves[f"{name}_bias"] = constant(site, first + 11 + g).astype(f32).reshape(-1)
        if static.peephole and g != CELL:
            at = first + 8 + min(g, 2)
            leaves[f"{name}_peephole"] = constant(site, at).astype(f32) * affine(site, site.inputs[at])[0]
        if static.norm:
            leaves[f"{name}_norm"] = constant(site, norm + g).astype(f32)  # type: ignore[operator]
    if static.projection:
        leaves |= weight_leaves(site, first + 15, "projection")
        outputs = site.inputs[first + 15].shape[0]  # type: ignore[union-attr]
        bias = constant(site, first + 16).astype(f32) if _present(site, first + 16) else np.zeros(outputs, f32)
        leaves["projection_bias"] = bias
    return leaves, static


def alone(static: Static, slot: int, n: int, cells: int) -> np.ndarray:
    """Mask (n, cells) of the elements of a gate that are computed one by one: those before the first and after the last whole vector of
    four at an address divisible by 16. The gates lie one behind the other, `slot` in their order there."""
    size, found = static.together * cells, []
    for start in range(slot * n * cells, (slot + 1) * n * cells, size):
        before = min(-start % 4, size)
        at = np.arange(size)
        found.append((at < before) | (at >= before + (size - before) // 4 * 4))
    return np.concatenate(found).reshape(n, cells)


def step(options: Options, static: Static, leaves: Leaves, state: Any, x: Any, aux: Any = None) -> tuple[Any, Any]:
    """(next h, next c): see `lstm_plan`."""
    h, c = state
    order = [g for g in (INPUT, CELL, FORGET, OUTPUT) if g in static.gates]
    rows = [None if v is None else QUANTIZERS[static.how](v) for v in (x, aux, h)]

    def sigmoid(g: int, c: Any) -> Any:
        return logistic(_sums(static, leaves, GATES[g], rows, c), alone(static, order.index(g), *c.shape))

    forget = sigmoid(FORGET, c)
    into = f32(1) - forget if INPUT not in static.gates else sigmoid(INPUT, c)
    new = act(options, _sums(static, leaves, GATES[CELL], rows, c))
    c = _clip(times(forget, c) + times(into, new), options.cell_clip)
    y = sigmoid(OUTPUT, c) * act(options, c)
    if static.projection:
        y = leaves["projection_bias"][None] + product(leaves, "projection", QUANTIZERS[static.how](y))
        y = _clip(y, options.proj_clip)
    return y, c


def _sums(static: Static, leaves: Leaves, name: str, rows: list[Any], c: Any) -> Any:
    total = jnp.zeros_like(c) if static.norm else leaves[f"{name}_bias"][None]
    for q, what in zip(rows, (name, f"{name}_aux", f"{name}_recurrent"), strict=True):
        total = total if q is None else total + product(leaves, what, q)
    if static.peephole and name != GATES[CELL]:
        total = total + times(leaves[f"{name}_peephole"][None], c)
    if not static.norm:
        return total
    return times(_normalize(total), leaves[f"{name}_norm"][None]) + leaves[f"{name}_bias"][None]


def _normalize(v: Any) -> Any:
    """(v - mean) / sqrt(variance + 1e-8), sums in order. *Restates*: MeanStddevNormalization of the LiteRT kernels."""
    n = float(v.shape[-1])
    away = v - fixed.divide(_in_order(v), n)[:, None]
    variance = fixed.divide(_in_order(times(away, away)), n) + f32(1e-8)
    with jax.enable_x64(True):
        root = lax.convert_element_type(jnp.sqrt(lax.convert_element_type(variance, np.float64)), np.float32)
        inverse = lax.convert_element_type(np.float64(1) / lax.convert_element_type(root, np.float64), np.float32)
    return times(away, inverse[:, None])


def _in_order(v: Any) -> Any:
    """Sums of rows, one element after the other."""
    return lax.scan(lambda total, now: (total + now, None), jnp.zeros(v.shape[0], f32), v.T)[0]


def _clip(x: Any, most: float) -> Any:
    return fixed.clamp(x, f32(-most), f32(most)) if most > 0 else x


def lstm_run(options: Options, statics: tuple[Static], leaves: Leaves, x: Any, *rest: Any) -> tuple[Any, ...]:
    ys, (h, c) = _over(options, statics[0], leaves, rest[17:19], (x,), False)
    return ys, h, c


def full_run(options: Options, statics: tuple[Static], leaves: Leaves, x: Any, *rest: Any) -> tuple[Any, ...]:
    h, c = step(options, statics[0], leaves, rest[17:19], x)
    return h, h, c


def bidirectional_run(options: Options, statics: tuple[Static, Static, bool], leaves: Leaves, x: Any, *rest: Any) -> tuple[Any, ...]:
    forward, backward, weighted = statics
    aux = rest[38] if len(rest) > 38 else None
    more, below = (aux,) if weighted else (), x if aux is None or weighted else aux
    ys, states = [], []
    for static, name, at, xs in ((forward, "forward", 34, (x, *more)), (backward, "backward", 36, (below, *more))):
        own = {k[len(name) + 1 :]: v for k, v in leaves.items() if k.startswith(f"{name}_")}
        y, last = _over(options, static, own, rest[at : at + 2], xs, name == "backward")
        ys.append(y)
        states += last
    return (jnp.concatenate(ys, axis=2), *states) if options.merge_outputs else (*ys, *states)


def _over(options: Options, static: Static, leaves: Leaves, state: Any, xs: Any, backward: bool) -> tuple[Any, Any]:
    def one(state: Any, *now: Any) -> Any:
        h, c = step(options, static, leaves, state, *now)
        return (h, c), h

    return over_time(one, tuple(state), *xs, time_major=options.time_major, backward=backward)


LSTM = (
    "float32", "int8?", *["int8"] * 3, "int8?", *["int8"] * 3, *["int8?"] * 3, "float32?", *["float32"] * 3, "int8?", "float32?",
    *["float32"] * 2, *["float32?"] * 4,
)  # fmt: skip
BOTH_WAYS = ("float32", *LSTM[1:18] * 2, *["float32"] * 4, "float32?", *["int8?"] * 8)
