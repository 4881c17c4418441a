"""RNN, UNIDIRECTIONAL_SEQUENCE_RNN and BIDIRECTIONAL_SEQUENCE_RNN: h' = act(W x + R h + b), the state a variable tensor."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from .. import dot
from ..graph import Options
from ..op import FLAVOURS, Kernel, Op, Rule
from .lstm_cell import activation, over_time
from .rnn_hybrid import bidirectional_run, rnn_plan, rnn_run, sequence_run


def _step(options: Options, weights: Any, recurrent: Any, bias: Any, h: Any, x: Any, aux: Any = None, aux_weights: Any = None) -> Any:
    sums = dot.dense_float(x, jnp.asarray(weights).T) + dot.dense_float(h, jnp.asarray(recurrent).T)
    sums = sums if aux is None else sums + dot.dense_float(aux, jnp.asarray(aux_weights).T)
    return activation(options, dot.add_bias(sums, jnp.asarray(bias)))


def rnn_real(options: Options, x: Any, weights: Any, recurrent: Any, bias: Any, h: Any) -> tuple[Any, Any]:
    """(h', h') with h' = act(W x + R h + b); x: (n, k)."""
    h = _step(options, weights, recurrent, bias, h, x)
    return h, h


def sequence_real(options: Options, x: Any, weights: Any, recurrent: Any, bias: Any, h: Any) -> tuple[Any, Any]:
    """(every h', the last) over x (n, time, k), or (time, n, k) where time_major."""
    return _over(options, (weights, recurrent, bias), h, (x,), (), False)


def _over(options: Options, cell: tuple[Any, ...], h: Any, xs: tuple[Any, ...], aux_weights: tuple[Any, ...], backward: bool) -> Any:
    weights, recurrent, bias = cell

    def one(h: Any, *now: Any) -> Any:
        h = _step(options, weights, recurrent, bias, h, *now, *aux_weights)
        return h, h

    return over_time(one, h, *xs, time_major=options.time_major, backward=backward)


def bidirectional_real(options: Options, x: Any, *at: Any) -> tuple[Any, ...]:
    """A forward and a backward RNN: (y forward, y backward), or one y of both side by side where merge_outputs; then the states.

    An auxiliary input with weights A is added as A aux; without weights it is the input of the backward RNN.
    """
    aux, forward, back = (*at, None, None, None)[8:11]
    below = x if aux is None or forward is not None else aux
    more = (aux,) if forward is not None else ()
    first, h = _over(options, at[0:3], at[3], (x, *more), (forward,) * len(more), False)
    second, g = _over(options, at[4:7], at[7], (below, *more), (back,) * len(more), True)
    return (jnp.concatenate([first, second], axis=2), h, g) if options.merge_outputs else (first, second, h, g)


CELL = ("int8", "int8", "float32", "float32")  # weights, recurrent weights, bias, state


def _hybrid(run: Any, cells: int = 1, more: tuple[str, ...] = (), outputs: tuple[str, ...] = ("float32",)) -> Kernel:
    return Kernel(("float32", *CELL * cells, *more), outputs, FLAVOURS, rnn_plan, run)


VERSIONS = {"float32": 1, "int8": 2, "float32 x int8": 3}
AUX = ("float32?", "int8?", "int8?")

OPS = (
    Op("RNN", rnn_real, Rule(data=(0,), prepared=(1, 2, 3), state=(4,), keep_float=True, versions=VERSIONS), (_hybrid(rnn_run),)),
    Op(
        "UNIDIRECTIONAL_SEQUENCE_RNN", sequence_real, Rule(data=(0,), prepared=(1, 2, 3), state=(4,), keep_float=True, versions=VERSIONS),
        (_hybrid(sequence_run),),
    ),
    Op(
        "BIDIRECTIONAL_SEQUENCE_RNN", bidirectional_real,
        Rule(data=(0,), prepared=(1, 2, 3, 5, 6, 7, 10, 11), state=(4, 8), keep_float=True, versions=VERSIONS),
        tuple(_hybrid(bidirectional_run, 2, AUX, ("float32",) * n) for n in (1, 2)),
    ),
)  # fmt: skip
