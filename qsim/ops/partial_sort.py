"""The largest of some numbers in the order in which std::partial_sort of libstdc++ leaves equal ones."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

_0, _1, _2 = (np.int32(n) for n in range(3))


def largest(values: jax.Array, count: int) -> jax.Array:
    """int32 (count,): places of the `count` largest of float32 (N,), descending, `count` above 1.

    A heap of `count` places whose first is the smallest: each further number that is larger takes its place; then the heap is sorted.
    """
    last, depth = np.int32(count - 1), count.bit_length()

    def sunk(heap: jax.Array, hole: Any, size: Any, entry: Any, really: Any) -> jax.Array:
        """The heap of `size` places with an entry instead of the one at `hole`: the hole sinks along the smaller children, then the
        entry rises from there, not above where the hole was."""
        value, top = values[entry], jnp.asarray(hole)

        def sink(_: Any, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            heap, at = state
            right = jnp.minimum(_2 * at + _2, last)
            left = jnp.maximum(right - _1, _0)
            child = jnp.where(values[heap[right]] > values[heap[left]], left, right)
            down = really & (at < (size - _1) // _2)
            return heap.at[at].set(jnp.where(down, heap[child], heap[at])), jnp.where(down, child, at)

        def rise(_: Any, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            heap, at = state
            parent = jnp.maximum((at - _1) // _2, _0)
            up = really & (at > top) & (values[heap[parent]] > value)
            return heap.at[at].set(jnp.where(up, heap[parent], heap[at])), jnp.where(up, parent, at)

        heap, at = lax.fori_loop(0, depth, sink, (heap, top))
        single = really & (size % _2 == 0) & (size > 0) & (at == (size - _2) // _2)
        only = jnp.minimum(_2 * at + _1, last)
        heap, at = heap.at[at].set(jnp.where(single, heap[only], heap[at])), jnp.where(single, only, at)
        heap, at = lax.fori_loop(0, depth, rise, (heap, at))
        return heap.at[at].set(jnp.where(really, entry, heap[at]))

    always = jnp.asarray(True)
    size, parents = np.int32(count), np.int32(count // 2)

    def made(n: Any, heap: jax.Array) -> jax.Array:
        at = parents - _1 - n
        return sunk(heap, at, size, heap[at], always)

    def chosen(n: Any, heap: jax.Array) -> jax.Array:
        return sunk(heap, _0, size, n, values[n] > values[heap[0]])

    def ordered(n: Any, heap: jax.Array) -> jax.Array:
        end = last - n
        entry, first = heap[end], heap[0]
        return sunk(heap.at[end].set(first), _0, end, entry, always)

    heap = lax.fori_loop(_0, parents, made, jnp.arange(count, dtype=np.int32))
    heap = lax.fori_loop(size, np.int32(values.shape[0]), chosen, heap)
    return lax.fori_loop(_0, last, ordered, heap)
