"""oneDNN's convolutions and products: the same integers as XLA's own, the rules of vmap and derivatives, and where it stays off."""

from __future__ import annotations

import json
import logging

import hashes
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from qsim import dot, onednn
from qsim.onednn import Window
from qsim.windows import pad


@pytest.fixture
def no_cache():
    jax.config.update("jax_enable_compilation_cache", False)
    yield
    jax.config.update("jax_enable_compilation_cache", True)


@pytest.fixture
def on(no_cache):
    if not onednn.enable():
        pytest.skip(f"oneDNN is not used here: {onednn._obstacle()}")
    yield
    onednn.enable(False)


INTEGER = [  # (x shape, w shape, how)
    ((2, 18, 17, 16), (3, 3, 16, 16), Window((1, 1))),
    ((2, 33, 32, 3), (3, 3, 3, 8), Window((2, 2))),
    ((1, 40, 21, 5), (3, 2, 5, 7), Window((2, 1), (1, 2))),
    ((3, 16, 16, 12), (3, 3, 1, 12), Window((1, 1), groups=12)),
    ((1, 34, 34, 4), (3, 3, 1, 8), Window((2, 2), groups=4)),
    ((4, 12, 12, 8), (3, 3, 4, 10), Window((1, 1), groups=2)),
    ((2, 16, 16, 6), (4, 4, 6, 33), Window((1, 1), pads=((1, 2), (0, 3)))),
    ((1, 20, 20, 15), (3, 3, 1, 15), Window((1, 1), pads=((1, 1), (1, 1)), groups=15)),
    ((1, 31, 30, 4), (5, 3, 1, 4), Window((1, 1), (2, 1), ((4, 3), (0, 1)), groups=4)),
    ((4, 16, 16, 40), (1, 1, 40, 12), Window((2, 2))),
]


def _codes(shape, seed=0):
    return np.random.default_rng(seed).choice(np.array([-128, -127, -3, 0, 126, 127], np.int8), shape)


def _wide(how, x, w, bias, zero_point):
    """The same sums in int32."""
    return dot.add_bias(dot._conv_plain(pad(x, zero_point, how.pads), w, how.stride, how.dilation, how.groups), bias)


def _bias(w):
    return np.random.default_rng(2).integers(-(2**20), 2**20, w.shape[-1]).astype(np.int32)


@pytest.mark.parametrize(("x", "w", "how"), INTEGER)
def test_integer_convolutions_are_exact(on, x, w, how):
    args = (_codes(x), _codes(w, 1), _bias(np.empty(w)))
    for zero_point in (np.int8(-128), np.int8(0), np.int8(127)):
        run = jax.jit(lambda *a: onednn.conv(_wide, how, *a))
        assert "onednn" in run.lower(*args, zero_point).as_text()
        assert np.array_equal(run(*args, zero_point), _wide(how, *args, zero_point))


@pytest.mark.parametrize("shape", [(1, 1280, 1001), (64, 64, 64), (300, 31, 29), (7, 40000, 1), (9000, 3, 10), (50, 65, 129)])
def test_products_are_exact(on, shape):
    m, k, n = shape
    x, w = _codes((m, k)), _codes((k, n), 1)
    x[0], w[:, 0] = -128, -128
    want = x.astype(np.int64) @ w.astype(np.int64)
    bias, run = _bias(w), jax.jit(dot.dense)
    assert np.array_equal(run(x, w), want) and np.array_equal(run(x, w, bias), want + bias)
    assert "onednn" in run.lower(x, w, bias).as_text()


@pytest.mark.parametrize("activation", ["NONE", "RELU", "RELU6", "TANH", "RELU_N1_TO_1"])
def test_a_float_convolution_with_bias_and_activation(on, activation):
    from qsim.ops.linear import _conv_real

    rng = np.random.default_rng(0)
    x, w, b = (rng.normal(size=s).astype(np.float32) for s in ((4, 24, 24, 8), (3, 3, 8, 16), (16,)))
    how = Window((1, 1), pads=((1, 1), (0, 2)), activation=activation)
    run = jax.jit(lambda *a: onednn.conv(_conv_real, how, *a))
    assert ("onednn" in run.lower(x, w, b).as_text()) == (activation in onednn.FUSED)
    assert np.allclose(run(x, w, b), _conv_real(how, x, w, b), atol=1e-4, rtol=1e-5)


def test_a_batch_of_inputs_is_one_call_and_a_batch_of_weights_is_none(on):
    x, w, how = _codes((5, 2, 18, 17, 16)), _codes((3, 3, 16, 16), 1), Window((1, 1), pads=((1, 1), (1, 1)))
    bias, zero_point = _bias(w), np.int8(-5)

    def one(x, w):
        return onednn.conv(_wide, how, x, w, bias, zero_point)

    run = jax.jit(jax.vmap(one, (0, None)))
    assert run.lower(x, w).as_text().count("__onednn$convolution") == 1
    assert np.array_equal(run(x, w), np.stack([_wide(how, v, w, bias, zero_point) for v in x]))
    many = np.stack([w, -(w // 2)])
    both = jax.jit(jax.vmap(jax.vmap(one, (0, None)), (None, 0)))
    assert "onednn" not in both.lower(x, many).as_text()
    assert np.array_equal(both(x, many), np.stack([[_wide(how, v, u, bias, zero_point) for v in x] for u in many]))


def test_derivatives_are_those_of_the_plain_function(on):
    from qsim.ops.linear import _conv_real

    rng = np.random.default_rng(0)
    x, w, b = (rng.normal(size=s).astype(np.float32) for s in ((4, 24, 24, 8), (3, 3, 8, 16), (16,)))
    how = Window((1, 1), activation="RELU")

    def loss(f):
        return jax.grad(lambda *a: jnp.sum(f(*a) ** 2), (0, 1, 2))

    got, want = loss(lambda *a: onednn.conv(_conv_real, how, *a))(x, w, b), loss(lambda *a: _conv_real(how, *a))(x, w, b)
    assert all(np.allclose(g, v, rtol=1e-3, atol=1e-2) for g, v in zip(got, want, strict=True))


def test_a_model_gives_the_same_integers(on):
    assert hashes.hashes("demo") == json.loads(hashes.FILE.read_text())["demo"]


@pytest.mark.models
@pytest.mark.parametrize("name", [n for n in hashes.NETS if n != "demo"])
def test_a_real_model_gives_the_same_integers(on, name):
    assert hashes.hashes(name) == json.loads(hashes.FILE.read_text())[name]


@pytest.mark.parametrize("mode", ["float", "fake"])
def test_a_model_gives_the_same_reals_up_to_their_last_bits(mode, no_cache):
    model, x = small.float_net(), small.images(3).astype(np.float32) / 255
    want = model.function(mode).batch(x)
    if not onednn.enable():
        pytest.skip(f"oneDNN is not used here: {onednn._obstacle()}")
    try:
        got = model.function(mode).batch(x)
    finally:
        onednn.enable(False)
    assert all(np.allclose(g, v, rtol=1e-4, atol=1e-5) for g, v in zip(got, want, strict=True))


def test_it_stays_off_with_other_versions_and_says_why(monkeypatch, caplog):
    monkeypatch.setattr(onednn, "MEASURED", ("0.0.1",))
    with caplog.at_level(logging.WARNING, "qsim"):
        assert not onednn.enable() and not onednn.enabled()
    assert "jaxlib" in caplog.text


def test_it_stays_off_with_the_persistent_cache(monkeypatch, tmp_path, caplog):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    try:
        with caplog.at_level(logging.WARNING, "qsim"):
            assert not onednn.enable()
    finally:
        jax.config.update("jax_compilation_cache_dir", None)
    assert "cache" in caplog.text or "measured" in caplog.text
