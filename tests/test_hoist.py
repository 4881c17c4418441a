"""What depends on parameters alone is computed before the loop, and the rest gives what the whole gave."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from qsim.hoist import split


def fun(params, x, y):
    w = jnp.transpose(params["w"]) * np.float32(2)
    return {"a": x @ w + y, "w": w, "y": y, "three": jnp.float32(3)}


PARAMS = {"w": jnp.arange(6, dtype=np.float32).reshape(2, 3), "unused": jnp.zeros((), np.int8)}
X, Y = jnp.arange(3, dtype=np.float32).reshape(1, 3), jnp.ones((1, 2), np.float32)


def test_the_two_parts_are_the_whole():
    @jax.jit
    def parts(params, x, y):
        first, rest = split(fun, params, x, y)
        return rest(first(params), x, y)

    whole, got = jax.jit(fun)(PARAMS, X, Y), parts(PARAMS, X, Y)
    assert jax.tree.structure(whole) == jax.tree.structure(got)
    assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(got), strict=True))


def test_the_second_part_does_none_of_the_work_of_the_first():
    first, rest = split(fun, PARAMS, X, Y)
    done = first(PARAMS)
    assert any(np.array_equal(d, PARAMS["w"].T * 2) for d in done)
    names = [e.primitive.name for e in jax.make_jaxpr(rest)(done, X, Y).jaxpr.eqns]
    assert "transpose" not in names and "dot_general" in str(jax.make_jaxpr(rest)(done, X, Y))
