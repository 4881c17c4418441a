"""Generated models of one structure run by few compiled functions."""

from __future__ import annotations

from collections.abc import Sequence

import generate
import jax
import numpy as np

from qsim.graph import Model


class Shared:
    """Compiled functions for models of one structure: draws and flavours that select the same code share one.

    It keeps those of the last structure only: give it the rows of one structure together.
    """

    def __init__(self, mode: str = "integer"):
        self.mode, self.structure, self.compiled = mode, None, {}

    def __call__(self, row: generate.Row, model: Model, inputs: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
        """The outputs for all samples, in the stored types."""
        if self.structure != structure(row):
            self.structure, self.compiled = structure(row), {}
        fn = model.function(self.mode, row.flavour)
        code = fn.program.static
        if code not in self.compiled:
            self.compiled[code] = jax.jit(jax.vmap(fn.apply, in_axes=(None, *[0] * len(inputs))))
        return fn._leave(jax.tree.map(np.asarray, self.compiled[code](fn.params, *inputs)))


def structure(row: generate.Row) -> tuple:
    """Rows that are equal in it have the same tensors and options, and differ in their flavour."""
    return row.op.name, row.types, row.number, row.variant


def reals(trial: generate.Trial) -> list[np.ndarray]:
    """What the codes of a trial stand for."""
    tensors = trial.model.graph.tensors
    return [real(x, tensors[t]) for x, t in zip(trial.inputs, trial.model.graph.inputs, strict=True)]


def real(x: np.ndarray, t) -> np.ndarray:
    if t.qparams is None:
        return x
    return ((x.astype(np.int64) - t.qparams.zero_point[0]) * np.float64(t.qparams.scale[0])).astype(np.float32)
