"""Moving what depends on parameters alone out of a loop over samples: weight layouts, snapped weights, repeated constants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core

INLINED = {"jit": "jaxpr", "pjit": "jaxpr", "custom_jvp_call": "call_jaxpr", "custom_vmap_call": "call"}  # primitive: its body


def split(fun: Callable[..., Any], params: Any, *inputs: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """(first, rest) with rest(first(params), *inputs) = fun(params, *inputs), `first` doing all that depends on params alone.

    params, inputs: arrays or shapes; only their shapes and types are used. Both parts are pure. For loops whose body calls `rest`:
    XLA leaves computations that do not change inside the loops of its CPU programs.
    """
    closed, shapes = jax.make_jaxpr(fun, return_shape=True)(params, *inputs)
    leaves = jax.tree.leaves(params)
    closed = jax.make_jaxpr(lambda *xs: _inlined(closed.jaxpr, closed.consts, xs))(*leaves, *jax.tree.leaves(inputs))
    jaxpr = closed.jaxpr
    known = {*jaxpr.constvars, *jaxpr.invars[: len(leaves)]}
    before: list[Any] = []
    after: list[Any] = []
    for eqn in jaxpr.eqns:
        fixed = all(isinstance(v, core.Literal) or v in known for v in eqn.invars)
        (before if fixed else after).append(eqn)
        known.update(eqn.outvars if fixed else ())
    after = [*_needed_broadcasts(before, after), *after]
    used = [v for eqn in after for v in eqn.invars] + list(jaxpr.outvars)
    made = {v for eqn in after for v in eqn.outvars}
    needed = list(dict.fromkeys(v for v in used if not isinstance(v, core.Literal) and v in known and v not in made))
    before_inputs = core.ClosedJaxpr(jaxpr.replace(eqns=before, outvars=needed), closed.consts)
    second = core.ClosedJaxpr(
        jaxpr.replace(constvars=[], invars=[*needed, *jaxpr.invars[len(leaves) :]], eqns=after), []
    )  # fmt: skip
    tree = jax.tree.structure(shapes)

    def first(params: Any) -> Any:
        # its jaxpr takes the inputs too, unused: any value of their shape serves
        blanks = [jax.numpy.zeros(v.aval.shape, v.aval.dtype) for v in jaxpr.invars[len(leaves) :]]
        return core.jaxpr_as_fun(before_inputs)(*jax.tree.leaves(params), *blanks)

    def rest(done: Any, *xs: Any) -> Any:
        return jax.tree.unflatten(tree, core.jaxpr_as_fun(second)(*done, *jax.tree.leaves(xs)))

    return first, rest


def _needed_broadcasts(before: list[Any], after: list[Any]) -> list[Any]:
    """Broadcasts among `before` that `after` reads: made again there, where they cost nothing, instead of kept as large arrays."""
    read = {v for eqn in after for v in eqn.invars if not isinstance(v, core.Literal)}
    found: list[Any] = []
    for eqn in reversed(before):
        if eqn.primitive.name == "broadcast_in_dim" and read & set(eqn.outvars):
            found.insert(0, eqn)
            read.update(v for v in eqn.invars if not isinstance(v, core.Literal))
    return found


def _inlined(jaxpr: Any, consts: Any, args: Any) -> list[Any]:
    """The outputs of a jaxpr, with the bodies of calls in place of the calls (their rules for derivatives and batches are lost)."""
    env = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))

    def read(v: Any) -> Any:
        return v.val if isinstance(v, core.Literal) else env[v]

    for eqn in jaxpr.eqns:
        if eqn.primitive.name in INLINED:
            body = eqn.params[INLINED[eqn.primitive.name]]
            outs = _inlined(body.jaxpr, body.consts, [read(v) for v in eqn.invars])
        else:
            ins = list(dict.fromkeys(v for v in eqn.invars if not isinstance(v, core.Literal)))
            alone = jaxpr.replace(constvars=[], invars=ins, outvars=eqn.outvars, eqns=[eqn])
            outs = core.jaxpr_as_fun(core.ClosedJaxpr(alone, []))(*map(read, ins))
        env.update(zip(eqn.outvars, outs, strict=True))
    return [read(v) for v in jaxpr.outvars]
