"""Moving what depends on parameters alone out of a loop over samples: weight layouts, snapped weights, repeated constants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core


def split(fun: Callable[..., Any], params: Any, *inputs: Any) -> tuple[Any, Callable[..., Any]]:
    """(what `fun(params, *inputs)` computes from params alone, rest) with rest(that, *inputs) = fun(params, *inputs).

    inputs: arrays or shapes; only their shapes and types are used. To be called while tracing, before a loop whose body calls `rest`:
    XLA leaves computations that do not change inside the loops of its CPU programs.
    """
    closed, shapes = jax.make_jaxpr(fun, return_shape=True)(params, *inputs)
    jaxpr, leaves = closed.jaxpr, jax.tree.leaves(params)
    known = {*jaxpr.constvars, *jaxpr.invars[: len(leaves)]}
    before: list[Any] = []
    after: list[Any] = []
    for eqn in jaxpr.eqns:
        fixed = all(isinstance(v, core.Literal) or v in known for v in eqn.invars)
        (before if fixed else after).append(eqn)
        known.update(eqn.outvars if fixed else ())
    used = [v for eqn in after for v in eqn.invars] + list(jaxpr.outvars)
    needed = list(dict.fromkeys(v for v in used if not isinstance(v, core.Literal) and v in known))
    first = core.ClosedJaxpr(jaxpr.replace(eqns=before, outvars=needed), closed.consts)
    second = core.ClosedJaxpr(
        jaxpr.replace(constvars=[], invars=[*needed, *jaxpr.invars[len(leaves) :]], eqns=after), []
    )  # fmt: skip
    tree = jax.tree.structure(shapes)

    def rest(done: Any, *xs: Any) -> Any:
        return jax.tree.unflatten(tree, core.jaxpr_as_fun(second)(*done, *jax.tree.leaves(xs)))

    # the first part takes the inputs too, unused: any value of their shape serves
    blanks = [jax.numpy.zeros(v.aval.shape, v.aval.dtype) for v in jaxpr.invars[len(leaves) :]]
    return core.jaxpr_as_fun(first)(*leaves, *blanks), rest
