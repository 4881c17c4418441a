"""The LSTM over the reals: one cell with all its options, shared by every LSTM op, and steps over time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .. import dot
from ..graph import Options
from .common import activate

f32 = np.float32
GATES = ("input", "forget", "cell", "output")
INPUT, FORGET, CELL, OUTPUT = range(4)


class Gate(NamedTuple):
    """Operands of one gate, None where absent. aux: weights of an auxiliary input. norm: coefficients of a layer normalization."""

    weights: Any
    recurrent: Any
    peephole: Any
    bias: Any
    norm: Any = None
    aux: Any = None


class Cell(NamedTuple):
    """gates: input (None: 1 - forget), forget, cell, output. projection: (n_output, n_cell) weights, and their bias."""

    gates: tuple[Gate | None, ...]
    projection: Any = None
    projection_bias: Any = None


def _same(x: Any) -> Any:
    return x


class Grids(NamedTuple):
    """What becomes of the internal values of a step: sums of the gates (with layer normalization also those before it), product before
    a projection, its result, next cell state."""

    before: tuple[Callable[[Any], Any], ...] = (_same,) * 4
    gates: tuple[Callable[[Any], Any], ...] = (_same,) * 4
    hidden: Callable[[Any], Any] = _same
    output: Callable[[Any], Any] = _same
    cell: Callable[[Any], Any] = _same


EXACT = Grids()


def cell_of(at: Sequence[Any], first: int = 1, norm: int | None = None, aux: int | None = None) -> Cell:
    """The cell whose operands lie in `at` from position `first` on: 4 weights, 4 recurrent, 3 peepholes, 4 biases, a projection and
    its bias; layer normalization from `norm`, auxiliary weights from `aux` (4 each)."""

    def get(p: int | None) -> Any:
        return at[p] if p is not None and p < len(at) else None

    def gate(g: int) -> Gate | None:
        w = get(first + g)
        peep = None if g == CELL else get(first + 8 + min(g, 2))
        more = (None if p is None else get(p + g) for p in (norm, aux))
        return None if w is None else Gate(w, get(first + 4 + g), peep, get(first + 11 + g), *more)

    return Cell(tuple(gate(g) for g in range(4)), get(first + 15), get(first + 16))


def step(options: Options, cell: Cell, state: tuple[Any, Any], x: Any, aux: Any = None, grids: Grids = EXACT) -> tuple[Any, Any]:
    """(next h, next c) of c' = clip(F c + I act(G)), h' = clip(P (O act(c')) + b); each gate sigmoid(W x + A aux + R h + p c + b), the
    output gate's peephole sees c'. Without an input gate I is 1 - F. With layer normalization b is added after norm (v - mean) / deviation.
    """
    h, c = state

    def gate(g: int, c: Any) -> Any:
        return grids.gates[g](_sums(cell.gates[g], x, aux, h, c, grids.before[g]))  # type: ignore[arg-type]

    forget = jax.nn.sigmoid(gate(FORGET, c))
    into = f32(1) - forget if cell.gates[INPUT] is None else jax.nn.sigmoid(gate(INPUT, c))
    c = grids.cell(_clip(forget * c + into * activation(options, gate(CELL, c)), options.cell_clip))
    y = grids.hidden(jax.nn.sigmoid(gate(OUTPUT, c)) * activation(options, c))
    if cell.projection is not None:
        y = _clip(grids.output(dot.add_bias(_product(y, cell.projection), cell.projection_bias)), options.proj_clip)
    return y, c


def activation(options: Options, x: Any) -> Any:
    """The fused activation; of cell and hidden state also a sigmoid."""
    name = options.fused_activation_function
    return jax.nn.sigmoid(x) if name == "SIGMOID" else activate(name, x)


def _sums(g: Gate, x: Any, aux: Any, h: Any, c: Any, before: Callable[[Any], Any]) -> Any:
    total = _product(x, g.weights) + _product(h, g.recurrent)
    total = total if g.aux is None else total + _product(aux, g.aux)
    total = total if g.peephole is None else total + c * jnp.asarray(g.peephole)[None]
    if g.norm is not None:
        total = before(total)
        total = total - jnp.mean(total, axis=-1, keepdims=True)
        total = total / jnp.sqrt(jnp.mean(total * total, axis=-1, keepdims=True) + f32(1e-8)) * jnp.asarray(g.norm)[None]
    return dot.add_bias(total, g.bias)


def _product(x: Any, w: Any) -> Any:
    """W x of weights (out, in), or of a diagonal."""
    w = jnp.asarray(w)
    return x * w[None] if w.ndim == 1 else dot.dense_float(x, w.T)


def _clip(x: Any, most: float) -> Any:
    return jnp.clip(x, -most, most) if most > 0 else x


def over_time(one: Callable[..., Any], state: Any, *xs: Any, time_major: bool, backward: bool = False) -> tuple[Any, Any]:
    """`one(state, *x_t) -> (next state, y_t)` over arrays (n, time, k), or (time, n, k): (every y in that order, the last state)."""
    if not time_major:
        xs = tuple(jnp.swapaxes(x, 0, 1) for x in xs)
    state, ys = lax.scan(lambda s, now: one(s, *now), state, xs, reverse=backward)
    return (ys if time_major else jnp.swapaxes(ys, 0, 1)), state
