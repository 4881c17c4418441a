"""LSTM, one step (kernel types FULL and BASIC), and BIDIRECTIONAL_SEQUENCE_LSTM."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import dot
from ..graph import Options
from ..op import Op, Rule
from .lstm_cell import Cell, cell_of, over_time, step

f32 = np.float32
FORWARD, BACKWARD, AUX = 1, 18, 39
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


OPS = (
    Op("LSTM", lstm_real, Rule(data=(0,), state={20: (18, 19), 24: (18, 19), 5: (1, 4)}, keep_float=True)),
    Op("BIDIRECTIONAL_SEQUENCE_LSTM", bidirectional_real, Rule(data=(0,), state=STATES, keep_float=True)),
)
