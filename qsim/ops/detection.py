"""TFLite_Detection_PostProcess: boxes decoded from anchors, and non-maximum suppression over classes, fast or regular."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..errors import Invalid
from ..fixed import divide_by, unfused
from ..flexbuffers import read_numbers
from ..graph import Options
from ..op import FLAVOURS, Kernel, Op, Plan, Rule, Site
from .common import Leaves, affine, body, f32
from .partial_sort import largest


class Settings(NamedTuple):
    """Options of the op. `scales`: of y, x, h, w."""

    max_detections: int
    max_classes: int
    per_class: int
    regular: bool
    score: float
    iou: float
    classes: int
    scales: tuple[float, ...]


def settings(options: Options) -> Settings:
    """*Raises*: Invalid for options that LiteRT refuses."""
    found = read_numbers(options.custom_options)

    def number(name: str) -> float:
        return float(f32(found.get(name, 0)))

    s = Settings(
        int(found.get("max_detections", 0)),
        int(found.get("max_classes_per_detection", 0)),
        int(found.get("detections_per_class", 100)),
        bool(found.get("use_regular_nms", False)),
        number("nms_score_threshold"),
        number("nms_iou_threshold"),
        int(found.get("num_classes", 0)),
        tuple(number(f"{name}_scale") for name in "yxhw"),
    )
    least = s.per_class if s.regular else s.max_classes
    if not 0 < s.iou <= 1 or s.max_detections < 1 or least < 1 or s.classes < 1 or s.max_classes < 0:
        raise Invalid("options that LiteRT refuses", where="TFLite_Detection_PostProcess", found=s)
    return s


# ---------------------------------------------------------------- boxes


def _decode(s: Settings, boxes: Any, anchors: Any) -> jax.Array:
    """float32 (N, 4): ymin, xmin, ymax, xmax from encodings and anchors (y, x, h, w), computed in float64 and rounded once each.

    centre = y / y_scale * anchor.h + anchor.y, half = exp(h / h_scale) anchor.h / 2, likewise x by w.
    """
    with jax.enable_x64(True):
        b, a = (lax.convert_element_type(v[:, :4], np.float64) for v in (boxes, anchors))
        scaled = divide_by(b, np.asarray(s.scales, np.float64))
        centre = unfused(scaled[:, :2] * a[:, 2:]) + a[:, :2]
        half = np.float64(0.5) * jnp.exp(scaled[:, 2:]) * a[:, 2:]
        centre, half = (lax.convert_element_type(v, np.float32) for v in (centre, half))
    return jnp.concatenate([centre - half, centre + half], axis=1)


def _area(low: jax.Array, high: jax.Array) -> jax.Array:
    sides = jnp.maximum(high - low, np.float32(0))
    return unfused(sides[..., 0] * sides[..., 1])


def _overlap(box: jax.Array, boxes: jax.Array) -> jax.Array:
    """Intersection over union of one box (4,) with all (N, 4); 0 where either has no area."""
    whole, one = _area(boxes[:, :2], boxes[:, 2:]), _area(box[:2], box[2:])
    box = jnp.broadcast_to(box, boxes.shape)
    common = _area(jnp.maximum(boxes[:, :2], box[:, :2]), jnp.minimum(boxes[:, 2:], box[:, 2:]))
    ratio = common / (one + whole - common)
    return jnp.where((one > 0) & (whole > 0), ratio, np.float32(0))


# ---------------------------------------------------------------- suppression


def _suppressed(s: Settings, scores: jax.Array, boxes: jax.Array, count: int) -> jax.Array:
    """int32 (count,): the boxes chosen one by one, the highest score first (of equals the first box), -1 after the last.

    A chosen box drops all that overlap it by more than the threshold; only boxes with at least the threshold's score take part.
    """
    position = np.arange(boxes.shape[0], dtype=np.int32)

    def step(n: Any, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        left, chosen = state
        best = lax.argmax(jnp.where(left, scores, np.float32(-np.inf)), 0, np.int32)
        dropped = (_overlap(boxes[best], boxes) > np.float32(s.iou)) | (position == best)
        return left & ~dropped, chosen.at[n].set(jnp.where(left.any(), best, np.int32(-1)))

    start = scores >= np.float32(s.score), jnp.full(count, -1, np.int32)
    return lax.fori_loop(0, count, step, start)[1]


def _fast(s: Settings, scores: jax.Array, boxes: jax.Array) -> tuple[jax.Array, ...]:
    """Suppression by the best score of each box; then the best classes of each chosen box, equal ones as a partial sort leaves them."""
    kept = min(s.max_classes, s.classes)
    chosen = _suppressed(s, jnp.max(scores, axis=1), boxes, s.max_detections)
    there, rows = chosen >= 0, jnp.maximum(chosen, np.int32(0))
    own = scores[rows]
    classes = lax.argmax(own, 1, np.int32)[:, None] if kept == 1 else jax.vmap(lambda one: largest(one, kept))(own)
    best = jnp.take_along_axis(own, classes, axis=1)

    def spread(x: jax.Array) -> jax.Array:
        """(detections, kept) -> (detections * max_classes,), zeros in the places LiteRT does not write."""
        x = jnp.where(there[:, None], x.astype(np.float32), np.float32(0))
        return jnp.pad(x, ((0, 0), (0, s.max_classes - kept))).reshape(-1)

    corners = [spread(jnp.broadcast_to(boxes[rows, c][:, None], best.shape)) for c in range(4)]
    return jnp.stack(corners, axis=1), spread(classes), spread(best), jnp.sum(there.astype(np.float32))


def _regular(s: Settings, scores: jax.Array, boxes: jax.Array) -> tuple[jax.Array, ...]:
    """Suppression in each class by itself; then the highest scores of all classes, of equals the first class."""
    per_class = min(s.per_class, s.max_detections)
    chosen = jax.vmap(lambda one: _suppressed(s, one, boxes, per_class))(scores.T).reshape(-1)
    classes = np.repeat(np.arange(s.classes, dtype=np.int32), per_class)
    score = scores[jnp.maximum(chosen, np.int32(0)), classes]
    kept = min(s.max_detections, classes.size)
    _, _, order = lax.sort((chosen < 0, -score, jnp.arange(classes.size, dtype=np.int32)), num_keys=2, is_stable=True)
    order = order[:kept]
    there = chosen[order] >= 0
    rows = jnp.maximum(chosen[order], np.int32(0))

    def filled(x: jax.Array) -> jax.Array:
        x = jnp.where(there.reshape(-1, *(1,) * (x.ndim - 1)), x.astype(np.float32), np.float32(0))
        return jnp.pad(x, ((0, s.max_detections - kept), *((0, 0),) * (x.ndim - 1)))

    return filled(boxes[rows]), filled(jnp.asarray(classes)[order]), filled(score[order]), jnp.sum(there.astype(np.float32))


def _detect(options: Options, boxes: Any, scores: Any, anchors: Any) -> tuple[jax.Array, ...]:
    """(boxes, classes, scores, count): the detections of one image, all float32.

    boxes (1, N, 4 or more), scores (1, N, classes or classes + 1: the first is the background), anchors (N, 4).

    *Domain*: anchors of height and width 0 or more (LiteRT fails on others). Behind `count` this gives zeros; LiteRT's fast suppression
    leaves there what was in memory. *Restates*: TFLite_Detection_PostProcess of LiteRT.
    """
    s = settings(options)
    columns = scores.shape[2]
    if not 0 <= columns - s.classes <= 1:
        raise Invalid("scores of another number of classes", where="TFLite_Detection_PostProcess", found=columns, expected=s.classes)
    decoded = _decode(s, jnp.asarray(boxes)[0], jnp.asarray(anchors))
    found = (_regular if s.regular else _fast)(s, jnp.asarray(scores)[0, :, columns - s.classes :], decoded)
    return tuple(x[None] for x in found)


def _plan(site: Site, flavour: str) -> Plan:
    """static: the shape of the scores and which inputs are codes."""
    settings(site.options)
    codes, leaves = [], Leaves()
    for name, t in zip(("boxes", "scores", "anchors"), site.inputs, strict=True):
        assert t is not None
        if t.type == "uint8":
            scale, zero = affine(site, t)
            leaves |= {f"{name}_scale": scale, f"{name}_zero_point": np.int32(zero), f"{name}_offset": f32(f32(-zero) * scale)}
            codes.append(name)
    shape = site.inputs[1].shape  # type: ignore[union-attr]
    return Plan((tuple(codes), shape), leaves, "codes made real, then the real function")


def _run(options: Options, static: tuple, leaves: Leaves, boxes: Any, scores: Any, anchors: Any) -> tuple[jax.Array, ...]:
    """The real function of (q - z) s; scores in blocks of 8 are q s + (-z s).

    *Restates*: TFLite_Detection_PostProcess of LiteRT, the same in every flavour.
    """
    codes, shape = static

    def real(name: str, x: Any) -> Any:
        if name not in codes:
            return x
        y = (x.astype(np.int32) - leaves[f"{name}_zero_point"]).astype(np.float32) * leaves[f"{name}_scale"]
        if name != "scores":
            return y
        block = unfused(x.astype(np.float32) * leaves["scores_scale"]) + leaves["scores_offset"]
        mask = body(shape, 8)
        return block if mask is None else jnp.where(mask, block, y)

    return _detect(options, real("boxes", boxes), real("scores", scores), real("anchors", anchors))


_OUTPUTS = ("float32",) * 4

OPS = (
    Op(
        "CUSTOM:TFLite_Detection_PostProcess",
        _detect,
        Rule(data=(), keep_float=True),
        (
            Kernel(("uint8", "uint8|float32", "uint8"), _OUTPUTS, FLAVOURS, _plan, _run),
            Kernel(("float32", "uint8", "float32"), _OUTPUTS, FLAVOURS, _plan, _run),
        ),
    ),
)
