"""Weights rounded so that the outputs of their op change least on the data, not the weights themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from qsim.function import Function
from qsim.graph import Model, Node, QParams
from qsim.layout import known_values
from qsim.windows import window

from .correction import Pair, some_samples, stored_pairs

POSITIONS = 128  # of windows of a sample that count, picked at random where there are more
DAMPING = 0.1  # share of the mean variance of the inputs that is added to each: few samples do not know the covariance well
LARGEST = 8192  # inputs of one output above which an op's covariance would not fit
AT_ONCE = 32  # samples of which intermediates are held
SEED = 20_261_123


class Rounded(NamedTuple):
    """One op: its node in the quantized graph; the expected noise that its weights' rounding adds to its outputs, mean square in real
    units about the mean, as it was and as it is; and the share of codes that changed."""

    node: int
    op: str
    before: float
    after: float
    changed: float


def round_weights(
    source: Model, made: Model, batches: Any, *, samples: int = 512, progress: Callable[[int], None] | None = None
) -> tuple[Model, tuple[Rounded, ...]]:
    """A quantized model with its weights rounded anew, and what that gained: per output channel argmin (w_q - w) C (w_q - w)^T, nearly.

    C: the covariance of the op's inputs in the float model, over samples and window positions (the mean is the bias's to correct: run
    `correct_bias` after this), plus DAMPING of its mean variance on the diagonal. Codes are fixed one input after another, from the
    largest variance to the smallest; what each rounding does is taken out of the weights that are still free. A channel whose noise
    does not fall keeps its codes. Scales and biases stay. CONV_2D, DEPTHWISE_CONV_2D and FULLY_CONNECTED with integer activations whose
    weights no other op reads, up to 8192 inputs to an output.

    source: the float model that `made` was quantized from; at most `samples` samples are used. *Raises*: as `correct_bias`.
    *Restates*: Frantar et al. 2022 (GPTQ), algorithm 1, and before it Hassibi and Stork 1993. *Differs*: the covariance is about the
    mean; inputs are the float model's.
    """
    values = known_values(source.graph)
    pairs = [p for p in stored_pairs(source, made) if _can(made, p, values)]
    found = _covariances(source, pairs, some_samples(source, batches, samples), values)
    tensors, rows = list(made.graph.tensors), []
    for pair, covariance in zip(pairs, found, strict=True):
        t = tensors[pair.made.inputs[1]]
        assert t.data is not None and t.qparams is not None
        exact, per_channel = _rows(pair.source, values[pair.source.inputs[1]]), _rows(pair.source, t.data)
        codes, noise = _rounded(exact, per_channel, t.qparams, covariance)
        rows.append(Rounded(pair.made.index, pair.made.op, *noise, float((codes != per_channel).mean())))
        tensors[t.index] = t.but(data=_weights(pair.source, codes, t.data.shape).astype(t.data.dtype), buffer=0)
        if progress:
            progress(1)
    return made.but(graphs=(made.graph.but(tensors=tuple(tensors)), *made.graphs[1:])), tuple(rows)


def _can(made: Model, pair: Pair, values: Any) -> bool:
    w = pair.made.inputs[1]
    alone = len(made.graph.consumers.get(w, ())) == 1 and w not in made.graph.outputs
    return alone and _rows(pair.source, values[pair.source.inputs[1]]).shape[1] <= LARGEST


def _rows(node: Node, w: np.ndarray) -> np.ndarray:
    """(O, K): the weights of each output channel, in the order of `_inputs`."""
    if node.op == "DEPTHWISE_CONV_2D":
        return np.moveaxis(w, 3, 0).reshape(w.shape[3], -1)
    return w.reshape(w.shape[0], -1)


def _weights(node: Node, rows: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """`_rows` undone."""
    if node.op == "DEPTHWISE_CONV_2D":
        return np.moveaxis(rows.reshape(shape[3], *shape[:3]), 0, 3)
    return rows.reshape(shape)


# ---------------------------------------------------------------- what the op reads


def _covariances(source: Model, pairs: list[Pair], arrays: tuple[np.ndarray, ...], values: Any) -> Iterator[np.ndarray]:
    """(G, K, K) float64 of each op: the covariance of the K inputs of an output, for each group of input channels."""
    rng = np.random.default_rng(SEED)
    sums: list[list[Any]] = [[0, 0.0, 0.0, None] for _ in pairs]
    function = Function(source, "float", "xnnpack", list(dict.fromkeys(p.float_input for p in pairs)))
    for start in range(0, len(arrays[0]), AT_ONCE):
        _, taps = function.batch(*(x[start : start + AT_ONCE] for x in arrays))
        for total, pair in zip(sums, pairs, strict=True):
            x = _inputs(pair.source, np.asarray(taps[pair.float_input]), values[pair.source.inputs[1]].shape, rng)
            if total[3] is None:
                total[3] = x.mean(1, keepdims=True)  # taken off, so that float32 products tell a small variance from a large mean
            x = x - total[3]
            total[0] += x.shape[1]
            total[1] = total[1] + x.sum(1, dtype=np.float64)
            total[2] = total[2] + (x.transpose(0, 2, 1) @ x).astype(np.float64)
    for count, total, products, _ in sums:
        mean = total / count
        yield products / count - mean[:, :, None] * mean[:, None, :]


def _inputs(node: Node, x: np.ndarray, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """(G, positions, K): what an op reads for one output, for each group of input channels. x: (samples, *tensor)."""
    if node.op == "FULLY_CONNECTED":
        return x.reshape(1, -1, shape[1])
    x, o = x.reshape(-1, *x.shape[-3:]), node.options
    steps = [(k, o[f"stride_{a}"], o.get(f"dilation_{a}_factor", 1)) for k, a in zip(shape[1:3], "hw", strict=True)]
    sizes = [window(n, *step, o["padding"]) for n, step in zip(x.shape[1:3], steps, strict=True)]
    padded = np.pad(x, ((0, 0), sizes[0][1:], sizes[1][1:], (0, 0)))
    taken = rng.permutation(sizes[0][0] * sizes[1][0])[:POSITIONS]
    at = np.unravel_index(taken, (sizes[0][0], sizes[1][0]))
    i, j = (first[:, None] * stride + np.arange(k) * dilation for first, (k, stride, dilation) in zip(at, steps, strict=True))
    read = padded[:, i[:, :, None], j[:, None, :]]  # (samples, positions, kh, kw, channels)
    wide = 1 if node.op == "DEPTHWISE_CONV_2D" else shape[3]
    groups = read.reshape(-1, *read.shape[2:4], read.shape[4] // wide, wide)
    return np.ascontiguousarray(groups.transpose(3, 0, 1, 2, 4)).reshape(groups.shape[3], len(groups), -1)


# ---------------------------------------------------------------- rounding


def _rounded(exact: np.ndarray, codes: np.ndarray, q: QParams, covariance: np.ndarray) -> tuple[np.ndarray, tuple[float, float]]:
    """(new codes (O, K), (noise before, after)); covariance: (G, K, K), of O / G outputs each."""
    scales = np.broadcast_to(np.ravel(q.scale).astype(np.float64), len(exact))[:, None]
    zero = int(np.ravel(q.zero_point)[0])
    ends, wanted, old = (q.low + 1 - zero, q.high - zero), exact / scales, codes.astype(np.float64) - zero
    new, each = np.empty_like(old), len(exact) // len(covariance)
    before, after = np.empty(len(exact)), np.empty(len(exact))
    for g, c in enumerate(covariance):
        part = slice(g * each, (g + 1) * each)
        new[part] = _in_turn(wanted[part], c, ends)
        before[part], after[part] = (np.einsum("ok,kl,ol->o", d, c, d, optimize=True) for d in ((v - wanted)[part] for v in (old, new)))
    worse = after >= before
    new[worse], after[worse] = old[worse], before[worse]
    units = scales[:, 0] ** 2
    return new + zero, (float((before * units).mean()), float((after * units).mean()))


def _in_turn(wanted: np.ndarray, covariance: np.ndarray, ends: tuple[int, int]) -> np.ndarray:
    """(O, K) codes for wanted / scale: columns in turn, the error of each spread over the later ones (GPTQ)."""
    variance = np.diag(covariance)
    damped = covariance + (DAMPING * variance.mean() or 1.0) * np.eye(len(covariance))
    order = np.argsort(-variance, kind="stable")
    upper = np.linalg.cholesky(np.linalg.inv(damped[np.ix_(order, order)])).T
    free, codes = wanted[:, order].copy(), np.empty_like(wanted)
    for k in range(len(order)):
        codes[:, k] = np.clip(np.rint(free[:, k]), *ends)
        free[:, k:] -= ((free[:, k] - codes[:, k]) / upper[k, k])[:, None] * upper[k, k:]
    back = np.empty_like(codes)
    back[:, order] = codes
    return back
