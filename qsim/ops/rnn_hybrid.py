"""Float data by int8 weights in the recurrent ops: data and states are quantized row by row as they come. RNN kinds and SVDF."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from .. import dot
from ..errors import Unsupported
from ..graph import Options
from ..op import Plan, Site
from .common import activate, affine
from .float_math import tanh, times
from .hybrid import NOTES, QUANTIZERS
from .lstm_cell import over_time

f32 = np.float32
Leaves = dict[str, Any]
ACTIVATIONS = ("NONE", "RELU", "RELU6", "RELU_N1_TO_1", "TANH")


def quantizer(site: Site) -> str:
    return "asymmetric" if site.options.asymmetric_quantize_inputs else "symmetric"


def require_activation(site: Site, known: tuple[str, ...] = ACTIVATIONS) -> None:
    """Raises: Unsupported for an activation that the kernels leave undone or compute otherwise."""
    name = site.options.fused_activation_function
    if name not in known:
        raise Unsupported("float data by int8 weights with such an activation", where=site.where, found=name, expected=", ".join(known))


def constant(site: Site, p: int) -> np.ndarray:
    value = site.values[p]
    if value is None:
        raise Unsupported("weights are computed, not constant", where=site.where, hint="Float and fake mode run it")
    return np.asarray(value)


def weight_leaves(site: Site, p: int, name: str) -> Leaves:
    """Leaves of `product` by weights (out, k). Raises: Unsupported for codes of -128, which the x86 kernels multiply wrongly."""
    w, (scale, zero) = constant(site, p), affine(site, site.inputs[p])
    if zero or (w == -128).any() or w.ndim != 2:
        raise Unsupported(
            "float data by such weights", where=site.where, found=f"rank {w.ndim}, zero point {zero}, codes down to {w.min()}",
            expected="rank 2, zero point 0, codes of -127 or more", hint="Float and fake mode run it",
        )  # fmt: skip
    return {
        f"{name}_weights": np.ascontiguousarray(w.T).astype(np.int8), f"{name}_sums": w.astype(np.int64).sum(1).astype(np.int32),
        f"{name}_scale": f32(scale),
    }  # fmt: skip


def product(leaves: Leaves, name: str, q: Any) -> Any:
    """f32(sum (q - z) w) f32(s s_w) of quantized rows q. *Restates*: MatrixBatchVectorMultiplyAccumulate of the LiteRT kernels."""
    acc = dot.dense(q.codes, leaves[f"{name}_weights"]) - q.zero * leaves[f"{name}_sums"][None]
    return times(acc.astype(f32), q.scale * leaves[f"{name}_scale"])


def act(options: Options, x: Any) -> Any:
    return tanh(x) if options.fused_activation_function == "TANH" else activate(options.fused_activation_function, x)


# RNN ----------------------------------------------------------------------------


def rnn_plan(site: Site, flavour: str) -> Plan:
    """h' = act((b + W x) + R h), or ((b + W x) + A aux) + R h, each product `product` of rows quantized as
    `asymmetric_quantize_inputs` says.

    *Domain*: int8 weights within -127..127 with one scale and zero point 0, float32 bias, an auxiliary input as wide as the input.
    *Restates*: RnnBatchStep of the LiteRT kernels, one code in every flavour. *Differs* from the float kernel: BIDIRECTIONAL_SEQUENCE_RNN
    with time as first axis runs over the whole sequence as often as it has steps, the states going on.
    """
    require_activation(site)
    leaves: Leaves = {}
    for first, aux, name in ((1, 10, "forward"), (5, 11, "backward")):
        if first < len(site.inputs):
            leaves |= weight_leaves(site, first, name) | weight_leaves(site, first + 1, f"{name}_recurrent")
            leaves[f"{name}_bias"] = constant(site, first + 2).astype(f32)
        if aux < len(site.inputs) and site.inputs[aux] is not None:
            leaves |= weight_leaves(site, aux, f"{name}_aux")
    if len(site.inputs) > 9 and site.inputs[9] is not None and site.inputs[10] is None and not site.options.time_major:
        raise Unsupported("an input of its own for the backward RNN with time as second axis", where=site.where)
    if "forward_aux_weights" in leaves and site.inputs[9].shape != site.inputs[0].shape:  # type: ignore[union-attr]
        raise Unsupported("an auxiliary input of another width", where=site.where, found=site.inputs[9].shape)  # type: ignore[union-attr]
    how = quantizer(site)
    together = site.options.get("merge_outputs") and site.options.time_major and site.inputs[0].shape[1] > 1  # type: ignore[union-attr]
    if how == "symmetric" and together:
        raise Unsupported(
            "rows quantized symmetrically, several at once, with merged outputs", where=site.where, hint="LiteRT aborts there"
        )
    return Plan((how, "forward_aux_weights" in leaves), leaves, NOTES[how])


def _step(options: Options, how: str, leaves: Leaves, name: str, h: Any, x: Any, *aux: Any) -> Any:
    quantize = QUANTIZERS[how]
    sums = leaves[f"{name}_bias"][None] + product(leaves, name, quantize(x))
    for more in aux:
        sums = sums + product(leaves, f"{name}_aux", quantize(more))
    return act(options, sums + product(leaves, f"{name}_recurrent", quantize(h)))


def rnn_run(options: Options, static: tuple[str, bool], leaves: Leaves, x: Any, *rest: Any) -> tuple[Any, Any]:
    h = _step(options, static[0], leaves, "forward", rest[3], x)
    return h, h


def sequence_run(options: Options, static: tuple[str, bool], leaves: Leaves, x: Any, *rest: Any) -> tuple[Any, Any]:
    return _over(options, static[0], leaves, "forward", rest[3], x)


def bidirectional_run(options: Options, static: tuple[str, bool], leaves: Leaves, x: Any, *rest: Any) -> tuple[Any, ...]:
    how, weighted = static
    aux = rest[8] if len(rest) > 8 else None
    more, below = (aux,) if weighted else (), x if aux is None or weighted else aux
    passes = x.shape[0] if options.time_major else 1
    first, h = _over(options, how, leaves, "forward", rest[3], x, *more, passes=passes)
    second, g = _over(options, how, leaves, "backward", rest[7], below, *more, passes=passes)
    return (jnp.concatenate([first, second], axis=2), h, g) if options.merge_outputs else (first, second, h, g)


def _over(options: Options, how: str, leaves: Leaves, name: str, h: Any, *xs: Any, passes: int = 1) -> tuple[Any, Any]:
    """(every h', the last) of the last of `passes` runs over the sequence, the state going from each to the next."""

    def one(h: Any, *now: Any) -> Any:
        h = _step(options, how, leaves, name, h, *now)
        return h, h

    def whole(h: Any) -> tuple[Any, Any]:
        return over_time(one, h, *xs, time_major=options.time_major, backward=name == "backward")

    return whole(lax.fori_loop(0, passes - 1, lambda _, h: whole(h)[1], h) if passes > 1 else h)


# SVDF ---------------------------------------------------------------------------


def svdf_plan(site: Site, flavour: str) -> Plan:
    """As `svdf_real`, the newest column `product` of quantized rows; the time weights times their scale; sums over time and rank of
    four lanes and then what is left, every step float32.

    *Domain*: int8 weights, those of the features within -127..127. *Restates*: EvalHybridSVDF of the LiteRT kernels, one code in
    every flavour.
    """
    require_activation(site)
    leaves = weight_leaves(site, 1, "features")
    leaves["time"] = constant(site, 2).astype(f32) * affine(site, site.inputs[2])[0]
    if site.inputs[3] is not None:
        leaves["bias"] = constant(site, 3).astype(f32)
    how = quantizer(site)
    return Plan((how, "bias" in leaves), leaves, NOTES[how])


def svdf_run(options: Options, static: tuple[str, bool], leaves: Leaves, x: Any, *rest: Any) -> tuple[Any, Any]:
    how, biased = static
    state, newest = rest[-1], product(leaves, "features", QUANTIZERS[how](x))
    n, filters = newest.shape
    window = jnp.concatenate([state.reshape(n, filters, -1)[:, :, 1:], newest[:, :, None]], axis=2)
    y = lanes(times(window, leaves["time"][None]))
    y = lanes(y.reshape(n, -1, options.rank))
    y = y + leaves["bias"][None] if biased else y
    return act(options, y), window.reshape(state.shape)


def lanes(x: Any) -> Any:
    """Sum over the last axis as the vector loops do: four lanes, whose sums are added in order, then the elements that fill none."""
    whole = x.shape[-1] // 4 * 4
    total = jnp.zeros(x.shape[:-1], f32)
    if whole:
        rows = [x[..., k : k + 4] for k in range(0, whole, 4)]
        four = in_order(rows, jnp.zeros_like(rows[0]))
        total = ((four[..., 0] + four[..., 1]) + four[..., 2]) + four[..., 3]
    total = in_order([x[..., k] for k in range(whole, x.shape[-1])], total)
    return jnp.where(total == 0, f32(0), total)  # no sum from 0 on is -0, but XLA leaves an addition of 0 out


def in_order(terms: list[Any], total: Any) -> Any:
    """((total + t0) + t1) + ..."""
    for t in terms:
        total = total + t
    return total
