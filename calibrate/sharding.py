"""Samples over several devices: each runs its part of them.

Shards lie outside micro-batches: every device loops over the micro-batches of its own part, so that a sharded axis is never looped over.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from qsim.function import Function
from qsim.graph import Model
from qsim.hoist import split

from .data import Data
from .observer import observe
from .statistics import Statistics

AXIS = "samples"
ROOM, MOST = 256 << 20, 64  # bytes of results and micro-batches of one device in one call


class Sharded(Function):
    """A `Function` whose `batch` and `run_samples` spread the samples over devices (default: all that JAX has), in contiguous parts.

    One compiled program runs on all of them. Integer mode gives the same integers on any number of devices, since a sample's result
    depends on nothing but the sample. Parameters are copied to every device; results come back as numpy arrays. Calls on one sample
    run on one device.
    """

    def __init__(
        self, model: Model, mode: str = "integer", flavour: str = "xnnpack", taps: Any = None, *, devices: Sequence[Any] | None = None
    ):
        super().__init__(model, mode, flavour, taps)
        self.mesh = Mesh(np.array(jax.devices() if devices is None else list(devices)), (AXIS,))
        self._runs: dict[Any, Callable[..., Any]] = {}

    def run_samples(self, params: Any, *inputs: np.ndarray) -> Any:
        """As `Function.run_samples`."""
        spread, copied = (NamedSharding(self.mesh, PartitionSpec(*axis)) for axis in ((AXIS,), ()))
        params, run = jax.device_put(params, copied), self._compiled(jax.tree.structure(params))
        room, parts = self._room(len(inputs[0])), []
        for start in range(0, len(inputs[0]), room):
            part = [x[start : start + room] for x in inputs]
            chunks = [jax.device_put(_blocks(x, room, self.micro_batch), spread) for x in part]
            out = run(params, *chunks)
            count = len(part[0])
            parts.append(jax.tree.map(lambda y, n=count: np.asarray(y).reshape(-1, *y.shape[2:])[:n], out))
        return parts[0] if len(parts) == 1 else jax.tree.map(lambda *ys: np.concatenate(ys), *parts)

    def _room(self, count: int) -> int:
        """Samples in one call: micro-batches enough for all of them, the same number on every device, within `ROOM`."""
        kept = (*self.graph.outputs, *(self.taps or ()))
        size = sum(int(np.prod(self.graph.tensors[t].shape)) * 4 for t in kept) * self.micro_batch
        each, wanted = self.mesh.size * self.micro_batch, 1
        while wanted * each < count and wanted < min(MOST, ROOM // max(size, 1)):
            wanted *= 2
        return wanted * each

    def _compiled(self, structure: Any) -> Callable[..., Any]:
        if structure not in self._runs:
            spread, copied = PartitionSpec(AXIS), PartitionSpec()
            specs = (copied, *(spread for _ in self.graph.inputs))
            run = jax.shard_map(self._one_device, mesh=self.mesh, in_specs=specs, out_specs=spread, check_vma=False)
            self._runs[structure] = jax.jit(run)
        return self._runs[structure]

    def _one_device(self, params: Any, *chunks: Any) -> Any:
        """(blocks, micro_batch, *shape) of one device, one block after another."""
        one = [jax.ShapeDtypeStruct(c.shape[1:], c.dtype) for c in chunks]
        first, sample = split(lambda p, *xs: jax.vmap(functools.partial(self.apply, p))(*xs), params, *one)
        prepared = first(params)
        return lax.map(lambda xs: sample(prepared, *xs), chunks)


def function_on(model: Model, mode: str, flavour: str, taps: Any = None, devices: Sequence[Any] | None = None) -> Function:
    """A model's function over devices (default: all); the plain one where there is one."""
    found = jax.devices() if devices is None else list(devices)
    return Function(model, mode, flavour, taps) if len(found) == 1 else Sharded(model, mode, flavour, taps, devices=found)


def observe_on(model: Model, data: Data, devices: Sequence[Any] | None = None, **options: Any) -> Statistics:
    """`observe` with contiguous parts of the data on several devices (default: all) at the same time, merged: the same statistics.

    Each device compiles the pass for itself. options: as `observe`, but `progress`. *Raises*: as `observe`.
    """
    found = jax.devices() if devices is None else list(devices)
    rows = [r for r in np.array_split(np.arange(len(data)), len(found)) if len(r)]

    def run(k: int) -> Statistics:
        with jax.default_device(found[k]):
            return observe(model, data.take(rows[k]), **options)

    with ThreadPoolExecutor(len(rows)) as pool:
        first, *others = pool.map(run, range(len(rows)))
    return first.merge(*others)


def _blocks(x: np.ndarray, room: int, size: int) -> np.ndarray:
    """(blocks, size, *shape): the samples, the last one repeated to fill the room."""
    filled = x if len(x) == room else np.concatenate([x, np.broadcast_to(x[-1:], (room - len(x), *x.shape[1:]))])
    return filled.reshape(room // size, size, *x.shape[1:])
