"""Squared gradients of the output log-likelihood with respect to every watched tensor: the weights of the second histogram.

L = sum over outputs of log p(label), the label drawn from the model's own probabilities; its squared gradients are in expectation the
diagonal of the Fisher information. Outputs that are no probabilities count as means of unit normals: their Fisher information is
J^T J, whose diagonal is the expectation of (J^T s)^2 over random signs s.

What is drawn for a sample depends on (seed, the sample's content, number of the draw) alone. Squared gradients are summed in whole
units, a power of two a tensor that the model alone decides (`exponents`): sums are then exact, in any order and over any shards.

Precision: rounding costs half a unit an element, so gradients below 2^-17 of the usual size of random directions count as none, and the
bound on a tensor's sum is (counts / 2).sum() / weights.sum(). On resnet8 that is 2e-9, on a digit reader that is sure of every sample 5 %.
Gradients above 2^5 of the usual size are cut off there, and counted in `Sketch.overflow` (none on these nets).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from qsim.errors import BadRecipe, Unsupported
from qsim.function import Function
from qsim.graph import Graph, Model
from qsim.program import Program, Step

from . import statistics as st
from .feeding import ports
from .transposed import CONVOLUTIONS, convolution

MOST = 44  # an element weighs at most 2^44 units a draw; less where 2^62 could be passed before a sum leaves the device
USUAL = 34  # an element weighs about 2^34 units where its gradient is as large as random directions make it
TINY = 1e-30  # probabilities below it have no logarithm of use
START, STEP, LARGEST, ENOUGH = -40, 20, 200, 16.0  # of the search for units: exponents, and the least mean that tells one
PROBES = 8


def readings(graph: Graph, task: str | None) -> tuple[str | None, ...]:
    """How each output is read: "probabilities" or "logits" where outputs are classes (as `choosing.loss_of` decides), "reals", None for
    integers. *Raises*: Unsupported where no output holds reals."""
    from .choosing import from_softmax

    if task not in (None, "classification", "regression"):
        raise BadRecipe("unknown task", found=task, expected="classification, regression")
    real = [graph.tensors[t].type == "float32" or graph.tensors[t].qparams is not None for t in graph.outputs]
    if not any(real):
        raise Unsupported("no output holds reals: there is nothing to take gradients of")
    soft = [from_softmax(graph, t) for t in graph.outputs]
    classes = task != "regression" and (all(soft) or task == "classification")
    kinds = ("probabilities" if s else "logits" if classes else "reals" for s in (classes and s for s in soft))
    return tuple(kind if r else None for kind, r in zip(kinds, real, strict=True))


def words(hashes: Sequence[int], draws: int, seed: int) -> np.ndarray:
    """(n, draws) uint32: what each draw of each sample (its content hash) starts from."""
    made = (hashlib.sha256(f"{seed} {h} {d}".encode()).digest()[:4] for h in hashes for d in range(draws))
    return np.frombuffer(b"".join(made), "<u4").reshape(len(hashes), draws).astype(np.uint32)


class Slopes:
    """A float function whose watched tensors come with gradients, `draws` of each. Pure, but for the program it holds."""

    def __init__(self, function: Function, watched: Sequence[int], draws: int, task: str | None):
        graph = function.graph
        self.function, self.draws = function, draws
        self.readings = readings(graph, task)
        self.shapes = {t: graph.tensors[t].shape for t in watched}
        self.program = Program(graph, [_shifting(s) for s in function.program.steps], "float")
        lost = [s.node.op for s in function.program.steps if s.control is not None]
        if lost:
            raise Unsupported(f"no gradients through ops that run other graphs: {', '.join(sorted(set(lost)))}", where=function.model.path)

    def __call__(self, params: Any, word: Any, probing: Any, *inputs: Any) -> tuple[dict[int, Any], dict[int, Any]]:
        """({tensor: array} of all computed tensors, {watched tensor: gradients (draws, *shape)}) of one sample; word: (draws,) uint32.

        probing: a boolean; random directions in place of labels, whose gradients do not vanish where the model is sure.
        """

        def scores(offsets: Any) -> Any:
            outputs, env = self._run(params, offsets, inputs)
            return self._scores(outputs), env

        kept, back, env = jax.vjp(scores, {t: jnp.zeros(s, np.float32) for t, s in self.shapes.items()}, has_aux=True)

        def slopes(word: Any) -> Any:
            return back(self._directions(kept, word, probing))[0]

        return env, lax.map(slopes, word) if self.draws > 1 else {t: g[None] for t, g in slopes(word[0]).items()}

    def _run(self, params: Any, offsets: Mapping[int, Any], inputs: Sequence[Any]) -> Any:
        """Outputs and all tensors where each watched one is shifted by its offset."""
        graph = self.function.graph
        inputs = [x + offsets[t] if t in offsets else x for t, x in zip(graph.inputs, inputs, strict=True)]
        shifts = {s.node.index: tuple(offsets.get(t) for t in s.node.outputs) for s in self.program.steps}
        outputs, env, _ = self.program.run(params | {"plans": shifts}, params["state"], inputs)
        return outputs, env

    def _scores(self, outputs: Sequence[Any]) -> list[Any]:
        """Log-probabilities of outputs that are classes, others as they are."""
        forms = {
            "probabilities": lambda y: jnp.log(jnp.maximum(y, np.float32(TINY))), "logits": lambda y: jax.nn.log_softmax(y, axis=-1),
            "reals": lambda y: y,
        }  # fmt: skip
        return [forms[kind](y) for kind, y in zip(self.readings, outputs, strict=True) if kind]

    def _directions(self, scores: Sequence[Any], word: Any, probing: Any) -> list[Any]:
        """One for the drawn label and zero for the others, or random signs: what the gradient of each score is multiplied with."""
        found = []
        for number, (kind, y) in enumerate(zip(filter(None, self.readings), scores, strict=True)):
            noise = _noise(word + np.uint32(number), y.size)
            signs = jnp.where(noise < np.float32(0.5), np.float32(-1), np.float32(1)).reshape(y.shape)
            found.append(signs if kind == "reals" else jnp.where(probing, signs, _drawn(y, noise)))
        return found


def _shifting(step: Step) -> Step:
    """The step with its leaves (one an output, or None) added to its outputs; convolutions with a derivative that is fast."""
    run = convolution(step.node) if step.node.op in CONVOLUTIONS else lambda *xs: step.call({}, *xs)

    def call(leaves: Any, *inputs: Any) -> Any:
        outputs = run(*inputs)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        leaves = (*leaves, *(None,) * (len(outputs) - len(leaves)))
        return tuple(y if d is None else y + d for y, d in zip(outputs, leaves, strict=True))

    return replace(step, call=call)


def _noise(word: Any, n: int) -> Any:
    """(n,) float32 in [0, 1): the numbers word + k * 2^32 / golden ratio, mixed (the finalizer of MurmurHash3)."""
    x = word + jnp.arange(n, dtype=np.uint32) * np.uint32(0x9E3779B9)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x = (x ^ (x >> np.uint32(shift))) * np.uint32(factor)
    return ((x ^ (x >> np.uint32(16))) >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)


def _drawn(scores: Any, noise: Any) -> Any:
    """One-hot (..., C): a class drawn from the log-probabilities of each row, by the first number of that row's noise."""
    ends = jnp.cumsum(jnp.exp(scores), axis=-1)
    part = noise.reshape(scores.shape)[..., :1] * ends[..., -1:]
    return jax.nn.one_hot((ends <= part).sum(axis=-1), scores.shape[-1], dtype=np.float32)


def units_of(gradients: Any, scale: Any, most: float) -> tuple[Any, Any]:
    """(n,) int64 of (draws, n) gradients: sum over draws of rint((g * scale)^2), each at most `most`; and how many elements were cut off
    there or had no gradient (NaN counts nothing). Pure."""
    with jax.enable_x64(True):
        squares = lax.square(gradients * scale)
        cut = ~(squares <= np.float32(most))
        kept = jnp.where(cut, jnp.where(squares > 0, np.float32(most), np.float32(0)), squares)
        whole = lax.convert_element_type(lax.round(kept, lax.RoundingMethod.TO_NEAREST_EVEN), np.int64)
        return whole.sum(axis=0), lax.convert_element_type(cut.any(axis=0).sum(), np.int32)


def split(histogram: Any) -> Any:
    """(2, BINS) uint32, upper and lower halves: no 64-bit array leaves a compiled function."""
    with jax.enable_x64(True):
        return jnp.stack([lax.convert_element_type(h, np.uint32) for h in (histogram >> np.int64(32), histogram & np.int64(2**32 - 1))])


def joined(halves: Any) -> Any:
    """The inverse of `split`, on the device."""
    with jax.enable_x64(True):
        upper, lower = (lax.convert_element_type(h, np.int64) for h in halves)
        return (upper << np.int64(32)) | lower


def whole_numbers(halves: Any) -> np.ndarray:
    """The inverse of `split`, on the host."""
    upper, lower = np.asarray(halves).astype(np.int64)
    return (upper << 32) | lower


def probes(model: Model, count: int) -> tuple[np.ndarray, ...]:
    """(count, *shape) for each model input: normal values of size 1 and positive ones of size 128 by turns; zeros for integers."""
    rng = np.random.default_rng(st.NUMERICS)
    found = []
    for p in ports(model):
        x = rng.normal(size=(count, *p.shape))
        x[1::2] = 128 * np.abs(x[1::2])
        found.append(x.astype(p.dtype) if p.dtype.kind == "f" else np.zeros(x.shape, p.dtype))
    return tuple(found)


def exponents(sums: Callable[[np.ndarray], np.ndarray], squares: np.ndarray) -> np.ndarray:
    """For each tensor the even k for which the mean square of the probes' gradients is about 2^USUAL units of 2^k.

    sums: exponents -> (tensors,) sums of units over the probes, infinite where one was cut off; squares: how many each is a sum of.
    A tensor whose gradients stay at zero gets the unit that suits gradients of size 1.
    """
    k = np.full(len(squares), START)
    for _ in range(LARGEST // STEP):
        mean = sums(k) / squares
        k_next = np.clip(np.where(np.isinf(mean), k + STEP, np.where(mean < ENOUGH, k - STEP, k)), -LARGEST, LARGEST)
        if np.array_equal(k, k_next):
            break
        k = k_next
    usual = np.isfinite(mean) & (mean > 0)
    best = np.where(usual, k + np.log2(np.where(usual, mean, 1.0)), 0.0) - USUAL
    return (2 * np.floor(best / 2)).astype(int)
