"""Convolutions and products by the oneDNN library that XLA carries, called by name: faster than XLA's own on x86 CPUs. Opt-in.

`enable` (called by `tune_cpu(onednn=True)`) turns it on where the call is known to work. The call is an internal interface of XLA: its
configuration changes between versions and a wrong one aborts the process, so only jaxlib versions that were measured are let in.
Programs that contain it cannot be kept in the persistent compile cache.
"""

from __future__ import annotations

import functools
import json
import logging
import platform
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

log = logging.getLogger("qsim")
MEASURED = ("0.10.2",)  # jaxlib versions with this configuration
FUSED: dict[str, list[str]] = {"NONE": [], "RELU": ["RELU"], "RELU6": ["RELU6"], "TANH": ["TANH"]}
_enabled = False


class Window(NamedTuple):
    """What a convolution does besides its operands. pads: ((top, bottom), (left, right))."""

    stride: tuple[int, int]
    dilation: tuple[int, int] = (1, 1)
    pads: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0))
    groups: int = 1
    activation: str = "NONE"


def enable(on: bool = True) -> bool:
    """Use oneDNN in what is traced from now on; returns whether it is in use. Where it cannot be, a log line says why."""
    global _enabled
    reason = _obstacle() if on else None
    _enabled = on and reason is None
    if reason:
        log.warning("oneDNN is not used: %s", reason)
    return _enabled


def enabled() -> bool:
    return _enabled


def conv(plain: Callable[..., Any], how: Window, *args: Any) -> Any:
    """`plain(how, *args)` by oneDNN where that is likely faster; same shapes, same integers, floats up to their last bits.

    args: float32 x (n, h, w, c), w (kh, kw, c / groups, o) and maybe bias (o,); or int8 x and w, int32 bias and the int8 value that
    x is padded with, to int32 (no activation). Batches of x fold into n. Gradients are those of `plain`; where other operands are
    batched, `plain` computes.
    """
    fits = how.activation in FUSED and _typed(*args)
    return _ruled(plain, _conv_call, _conv_pays, how)(*args) if fits else plain(how, *args)


def dense(plain: Callable[..., Any], *args: Any) -> Any:
    """`plain(None, x, w[, bias])`: sum_k x[m, k] * w[k, n] + bias[n], types as `conv`, by oneDNN where that is likely faster."""
    return _ruled(plain, _dense_call, _dense_pays, None)(*args) if _typed(*args) else plain(None, *args)


def _typed(x: Any, w: Any, *bias: Any) -> bool:
    """Operands of types that the calls take."""
    types = [a.dtype.name for a in (x, w, *bias)]
    return types in (["float32"] * len(types), ["int8", "int8", "int32", "int8"][: len(types)])


@functools.cache
def _ruled(plain: Callable[..., Any], call: Callable[..., Any], pays: Callable[..., bool], how: Any) -> Callable[..., Any]:
    """The call with its rules for vmap (fold the batch into the first axis of x) and for derivatives (those of `plain`)."""

    @jax.custom_batching.custom_vmap
    def run(*args: Any) -> Any:
        return (call if pays(how, *args) else plain)(how, *args)

    @run.def_vmap
    def batch(size: int, batched: Any, *args: Any) -> Any:
        x, *rest = args
        if any(batched[1:]):
            return jax.vmap(functools.partial(plain, how), [0 if b else None for b in batched])(*args), True
        y = run(x.reshape(-1, *x.shape[2:]), *rest)
        return y.reshape(size, -1, *y.shape[1:]), True

    @jax.custom_jvp
    def differentiable(*args: Any) -> Any:
        return run(*args)

    @differentiable.defjvp
    def jvp(primals: Any, tangents: Any) -> Any:
        return differentiable(*primals), jax.jvp(functools.partial(plain, how), primals, tangents)[1]

    return differentiable


# A call costs 10 to 20 us besides its work (a convolution lays its weights out anew each time).


def _conv_pays(how: Window, x: Any, w: Any, *_: Any) -> bool:
    """Many output pixels; of few channels, where XLA's own is as fast otherwise: in float32, or one channel a group."""
    pixels = x.shape[0] * int(np.prod(_sizes(how, x, w)))
    if x.dtype == np.float32:
        return pixels >= 2048 and min(x.shape[3], w.shape[3]) <= 16
    return pixels >= 256 and (w.shape[2] > 1 or x.shape[3] <= 16)


def _dense_pays(_: Any, x: Any, w: Any, *__: Any) -> bool:
    return x.shape[0] * w.shape[0] * w.shape[1] >= (1 << 18 if x.dtype == np.int8 else 1 << 20)


def _sizes(how: Window, x: Any, w: Any) -> tuple[int, ...]:
    """Output height and width."""
    spans = ((x.shape[1 + i] + sum(how.pads[i]) - (w.shape[i] - 1) * how.dilation[i] - 1, how.stride[i]) for i in (0, 1))
    return tuple(span // step + 1 for span, step in spans)


def _conv_call(how: Window, x: Any, w: Any, *more: Any) -> Any:
    if x.dtype == np.int8:
        bias, zero_point = more
        return _conv_library(how, _unsigned(x), w) + _offset(how, x, w, bias, zero_point)
    return _conv_library(how, x, w, *more)


def _conv_library(how: Window, x: Any, w: Any, *bias: Any) -> Any:
    data = {"dims": 4, "data": {"batch_dim": 0, "feature_dim": 3, "spatial_dims": [1, 2]}}
    window = {
        "size": w.shape[:2], "strides": how.stride, "window_dilations": how.dilation,
        "pad_left": [p[0] for p in how.pads], "pad_right": [p[1] for p in how.pads],
    }  # fmt: skip
    config = {
        "dims": 4, "input": data, "output": data, "window": window, "feature_groups": how.groups,
        "kernel": {"dims": 4, "filter": {"input_feature_dim": 2, "output_feature_dim": 3, "spatial_dims": [0, 1]}},
        "fusions": {"ops": [*(["BIAS"] if bias else []), *FUSED[how.activation]]},
    }  # fmt: skip
    return _library("convolution", {"onednn_conv_config": config}, (x.shape[0], *_sizes(how, x, w), w.shape[3]), x, w, *bias)


def _dense_call(_: Any, x: Any, w: Any, *bias: Any) -> Any:
    shape = (x.shape[0], w.shape[1])
    if x.dtype == np.int8:
        offset = sum(bias, np.int32(-128) * w.sum(0, dtype=np.int32))
        packed = {"onednn_matmul_config": {"optimization_config": {"weights_prepacked": True}}}
        return _library("matmul", packed, shape, _unsigned(x), _packed(w)) + offset[None]
    config = {"onednn_matmul_config": {"fusions": {"ops": ["BIAS"] if bias else []}}}
    return _library("matmul", config, shape, x, w, *bias)


def _library(name: str, config: dict[str, Any], shape: tuple[int, ...], x: Any, *args: Any) -> Any:
    out = jax.ShapeDtypeStruct(shape, np.float32 if x.dtype == np.float32 else np.int32)
    call = jax.ffi.ffi_call(f"__onednn${name}", out, custom_call_api_version=2, legacy_backend_config=json.dumps(config))
    return call(x, *args)


# x86 multiplies unsigned by signed bytes: oneDNN would add 128 to int8 inputs at each call. Here what makes x adds it, and 128 sum w
# comes off together with the bias, in what reads the sums.


def _unsigned(x: Any) -> Any:
    return jax.lax.bitcast_convert_type(x ^ np.int8(-128), np.uint8)


def _packed(w: Any) -> Any:
    """w (k, n) as the product would lay it out itself: blocks of 64 rows by 64 columns, 4 rows of a column side by side."""
    w = jnp.pad(w, ((0, -w.shape[0] % 64), (0, -w.shape[1] % 64)))
    return w.reshape(-1, 16, 4, w.shape[1] // 64, 64).transpose(3, 0, 1, 4, 2).reshape(-1)


def _offset(how: Window, x: Any, w: Any, bias: Any, zero_point: Any) -> Any:
    """What the sums of (x + 128) w over the inside of x lack: bias + z sum w - (z + 128) sum w inside; (o,), padded (1, oh, ow, o)."""
    sums = w.sum(2, dtype=np.int32)
    if not any((*how.pads[0], *how.pads[1])):
        return (bias - np.int32(128) * sums.sum((0, 1)))[None, None, None]
    z = zero_point.astype(np.int32)
    rows, cols = (_inside(how, i, x.shape[1 + i], w.shape[i], _sizes(how, x, w)[i]) for i in (0, 1))
    inside = jnp.einsum("hi,wj,ijo->hwo", rows, cols, sums)
    return (bias + z * sums.sum((0, 1)))[None, None, None] - ((z + np.int32(128)) * inside)[None]


def _inside(how: Window, axis: int, size: int, kernel: int, out: int) -> np.ndarray:
    """(out, kernel) int32: 1 where this tap of this output position reads x, 0 where it reads padding."""
    at = np.arange(out)[:, None] * how.stride[axis] - how.pads[axis][0] + np.arange(kernel) * how.dilation[axis]
    return ((at >= 0) & (at < size)).astype(np.int32)


# ---------------------------------------------------------------- may it be used here


def _obstacle() -> str | None:
    import jaxlib

    if jaxlib.__version__ not in MEASURED:
        return f"jaxlib is {jaxlib.__version__}; measured with {', '.join(MEASURED)}"
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        return f"this is {platform.system()} on {platform.machine()}; measured with Linux on x86_64"
    if jax.default_backend() != "cpu":
        return f"jax computes on {jax.default_backend()}"
    config: Any = jax.config
    if config.jax_enable_compilation_cache and config.jax_compilation_cache_dir:
        return "programs with it cannot be kept in the persistent compile cache, which is on"
    return None if _exact() else "its int8 sums are not exact on this CPU"


@functools.cache
def _exact() -> bool:
    """Saturating operands (without VNNI instructions, sums of two products would saturate in 16 bits), and products of several
    shapes (other instructions may want other blocks of weights)."""
    rng, z = np.random.default_rng(0), np.int8(-7)
    x = rng.choice(np.array([-128, -127, 127], np.int8), (2, 9, 9, 24))
    w = rng.choice(np.array([-128, 127], np.int8), (3, 3, 24, 20))
    x[0], w[..., 0], w[..., 1] = -128, -128, 127
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=z)
    views = np.lib.stride_tricks.sliding_window_view(padded.astype(np.int64), (3, 3), (1, 2))
    sums = np.einsum("nhwcij,ijco->nhwo", views, w.astype(np.int64))
    alone = np.einsum("nhwcij,ijc->nhwc", views, w[..., 0].astype(np.int64))
    how, bias = Window((1, 1), pads=((1, 1), (1, 1))), np.arange(24, dtype=np.int32)
    found: list[tuple[Callable[..., Any], Any, tuple[Any, ...], Any]] = [
        (_conv_call, how, (x, w, bias[:20], z), sums + bias[:20]),
        (_conv_call, how._replace(groups=24), (x, w[:, :, None, :, 0], bias, z), alone + bias),
    ]  # fmt: skip
    for m, k, n in ((300, 216, 20), (1, 1280, 1001), (49, 960, 320), (784, 24, 144), (40, 60, 40)):
        x, w = (rng.choice(np.array([-128, -127, 127], np.int8), shape) for shape in ((m, k), (k, n)))
        found.append((_dense_call, None, (x, w), x.astype(np.int64) @ w))
    return all((np.asarray(jax.jit(functools.partial(call, how))(*args)) == want).all() for call, how, args, want in found)
