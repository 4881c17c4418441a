"""NON_MAX_SUPPRESSION_V4, NON_MAX_SUPPRESSION_V5: boxes chosen by score, without those that overlap a chosen one.

LiteRT keeps candidates in a binary heap, which decides the order of equal scores; the same heap is kept here, step by step.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..fixed import unfused
from ..graph import Options
from ..op import Op, Rule

_0, _1, _2 = (np.int32(n) for n in range(3))


class Entry(NamedTuple):
    """A candidate: its score, and (box, number of chosen boxes it was compared with)."""

    score: jax.Array
    facts: jax.Array


class Heap(NamedTuple):
    """The first `size` entries are a heap: no child's score is above its parent's."""

    scores: jax.Array
    facts: jax.Array
    size: jax.Array

    def moved(self, source: jax.Array, target: jax.Array, really: jax.Array) -> Heap:
        source = jnp.where(really, source, target)
        return self._replace(scores=self.scores.at[target].set(self.scores[source]), facts=self.facts.at[target].set(self.facts[source]))


def _depth(heap: Heap) -> int:
    return max(int(heap.scores.shape[0]).bit_length(), 1)


def _lifted(heap: Heap, entry: Entry, at: jax.Array, really: Any) -> Heap:
    """The heap with an entry in the empty place `at`, moved up past lower parents."""

    def step(_: Any, state: tuple[Heap, jax.Array]) -> tuple[Heap, jax.Array]:
        heap, at = state
        parent = jnp.maximum((at - _1) // _2, _0)
        up = (at > 0) & (heap.scores[parent] < entry.score) & really
        return heap.moved(parent, at, up), jnp.where(up, parent, at)

    heap, at = lax.fori_loop(0, _depth(heap), step, (heap, at))
    return heap._replace(
        scores=heap.scores.at[at].set(jnp.where(really, entry.score, heap.scores[at])),
        facts=heap.facts.at[at].set(jnp.where(really, entry.facts, heap.facts[at])),
    )


def _pushed(heap: Heap, entry: Entry, really: Any) -> Heap:
    """The heap with one entry more. *Restates*: std::push_heap of libstdc++."""
    at = jnp.minimum(heap.size, np.int32(heap.scores.shape[0] - 1))
    return _lifted(heap, entry, at, really)._replace(size=heap.size + jnp.asarray(really).astype(np.int32))


def _popped(heap: Heap) -> tuple[Entry, Heap]:
    """The first entry and the heap without it: the hole moves down to the bottom along the larger children, then the last entry up
    from there. *Restates*: std::pop_heap of libstdc++."""
    size = heap.size - _1
    first, last = (Entry(heap.scores[at], heap.facts[at]) for at in (_0, jnp.maximum(size, _0)))

    def step(_: Any, state: tuple[Heap, jax.Array]) -> tuple[Heap, jax.Array]:
        heap, hole = state
        right = jnp.minimum(_2 * hole + _2, np.int32(heap.scores.shape[0] - 1))
        child = jnp.where(heap.scores[right] < heap.scores[right - _1], right - _1, right)
        down = hole < (size - _1) // _2
        return heap.moved(child, hole, down), jnp.where(down, child, hole)

    if heap.scores.shape[0] > 1:
        heap, hole = lax.fori_loop(0, _depth(heap), step, (heap, _0))
        single = (size % _2 == 0) & (size > 0) & (hole == (size - _2) // _2)
        left = jnp.minimum(_2 * hole + _1, np.int32(heap.scores.shape[0] - 1))
        heap, hole = heap.moved(left, hole, single), jnp.where(single, left, hole)
        heap = _lifted(heap, last, hole, size > 0)
    return first, heap._replace(size=size)


def _overlaps(box: jax.Array, boxes: jax.Array) -> jax.Array:
    """Intersection over union of a box (4,) and each of (K, 4), corners in any order; 0 where one has no area."""

    def corners(b: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jnp.minimum(b[..., :2], b[..., 2:]), jnp.maximum(b[..., :2], b[..., 2:])

    def area(low: jax.Array, high: jax.Array) -> jax.Array:
        sides = high - low
        return unfused(sides[..., 0] * sides[..., 1])

    (low, high), (lows, highs) = corners(jnp.broadcast_to(box, boxes.shape)), corners(boxes)
    inner = jnp.maximum(jnp.minimum(high, highs) - jnp.maximum(low, lows), np.float32(0))
    common, one, whole = area(jnp.zeros_like(inner), inner), area(low, high), area(lows, highs)
    ratio = common / (one + whole - common)
    return jnp.where((one > 0) & (whole > 0), ratio, np.float32(0))


_STEPS = 32  # of an octave
_CUBIC = (0.05550361559341535 / _STEPS**3, 0.2402284522445722 / _STEPS**2, 0.6931471806916203 / _STEPS)


def _exponential(x: jax.Array) -> jax.Array:
    """exp of float32 numbers from -87 to 0, as glibc's expf rounds it: a table of 32 steps an octave and a cubic, in float64."""
    with jax.enable_x64(True):
        z = lax.convert_element_type(jnp.maximum(x, np.float32(-87)), np.float64) * np.float64(_STEPS / np.log(2))
        whole = jnp.round(z)
        r, k = z - whole, lax.convert_element_type(whole, np.int64)
        table = jnp.asarray(np.exp2(np.arange(_STEPS) / _STEPS))
        octave = lax.bitcast_convert_type((k // np.int64(_STEPS) + np.int64(1023)) << np.int64(52), np.float64)
        c0, c1, c2 = (np.float64(c) for c in _CUBIC)
        y = (c0 * r + c1) * (r * r) + (c2 * r + np.float64(1))
        return lax.convert_element_type(y * table[k % np.int64(_STEPS)] * octave, np.float32)


def _softened(score: jax.Array, overlap: jax.Array, compared: jax.Array, iou: Any, least: Any, sigma: Any) -> tuple[jax.Array, jax.Array]:
    """(score after the chosen boxes it is compared with, newest first; whether one of them suppresses it)."""
    scale = jnp.where(sigma > 0, np.float32(-0.5) / sigma, np.float32(0))
    count = overlap.shape[0]

    def step(n: Any, state: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        score, hard, done = state
        j = np.int32(count - 1) - n
        now = compared[j] & ~done
        hard = hard | (now & (overlap[j] >= iou))
        weight = _exponential(unfused(unfused(scale * overlap[j]) * overlap[j]))
        score = jnp.where(now & ~hard & (sigma > 0), score * weight, score)
        return score, hard, done | hard | (now & (score <= least))

    score, hard, _ = lax.fori_loop(_0, np.int32(count), step, (score, jnp.asarray(False), jnp.asarray(False)))
    return score, hard


def _suppress(boxes: Any, scores: Any, count: Any, iou: Any, least: Any, sigma: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(indices, scores, count) of at most `count` boxes whose scores are above `least`; zeros behind the last.

    The best candidate is chosen unless a chosen box overlaps it by `iou` or more. sigma > 0: each chosen box scales the scores of
    others by exp(-overlap^2 / (2 sigma)), after which a candidate waits again. A box without area does not suppress itself: it is
    chosen over and over. *Restates*: NON_MAX_SUPPRESSION_V4 and V5 of LiteRT.
    """
    boxes, scores, most = jnp.asarray(boxes), jnp.asarray(scores), int(np.ravel(count)[0])
    iou, least = (jnp.asarray(v).reshape(()) for v in (iou, least))
    candidates = int(scores.shape[0])
    if not most or not candidates:
        return jnp.zeros(most, np.int32), jnp.zeros(most, np.float32), jnp.zeros((), np.int32)

    def enter(n: jax.Array, heap: Heap) -> Heap:
        return _pushed(heap, Entry(scores[n], jnp.stack([n, _0])), scores[n] > least)

    empty = Heap(jnp.zeros(candidates, np.float32), jnp.zeros((candidates, 2), np.int32), jnp.zeros((), np.int32))
    heap = lax.fori_loop(_0, np.int32(candidates), enter, empty)
    goal = jnp.minimum(heap.size, np.int32(most))
    position = np.arange(most, dtype=np.int32)

    def wanted(state: Any) -> jax.Array:
        heap, _, _, _, found = state
        return (found < goal) & (heap.size > 0)

    def step(state: Any) -> Any:
        heap, index, score, corners, found = state
        best, heap = _popped(heap)
        box, begin = best.facts[0], best.facts[1]
        overlap = _overlaps(boxes[box], corners)
        compared = (position >= begin) & (position < found)
        if sigma is None:
            now, hard = best.score, jnp.any(compared & (overlap >= iou))
        else:
            now, hard = _softened(best.score, overlap, compared, iou, least, jnp.asarray(sigma).reshape(()))
        chosen = ~hard & (now == best.score)
        here = (position == found) & chosen
        index, score = jnp.where(here, box, index), jnp.where(here, now, score)
        corners = jnp.where(here[:, None], boxes[box], corners)
        heap = _pushed(heap, Entry(now, jnp.stack([box, found])), ~hard & (now > least))
        return heap, index, score, corners, found + chosen.astype(np.int32)

    start = jnp.zeros(most, np.int32), jnp.zeros(most, np.float32), jnp.zeros((most, 4), np.float32), jnp.zeros((), np.int32)
    _, index, score, _, found = lax.while_loop(wanted, step, (heap, *start))
    return index, score, found


def _v4(options: Options, boxes: Any, scores: Any, count: Any, iou: Any, least: Any) -> tuple[jax.Array, jax.Array]:
    index, _, found = _suppress(boxes, scores, count, iou, least, None)
    return index, found


def _v5(options: Options, boxes: Any, scores: Any, count: Any, iou: Any, least: Any, sigma: Any) -> tuple[jax.Array, ...]:
    return _suppress(boxes, scores, count, iou, least, sigma)


_RULE = Rule(data=(), static=(2,), keep_float=True, versions={"float32": 1})

OPS = (Op("NON_MAX_SUPPRESSION_V4", _v4, _RULE), Op("NON_MAX_SUPPRESSION_V5", _v5, _RULE))
