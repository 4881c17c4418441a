"""Running a model over samples from the command line: device, progress, timing, memory."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from qsim.errors import BadRecipe, Unsupported
from qsim.graph import Model

from .samples import Samples
from .screen import progress

PART = 1024  # samples held at once as reals
TRIED = 64  # samples that a new model is tried on


def choose_device(device: str) -> str:
    """Let JAX compute on `device` ("auto", "cpu", "gpu"); returns what it will use. To be called before anything is computed.

    *Raises*: Unsupported if no GPU is seen.
    """
    if device == "cpu":
        os.environ["JAX_PLATFORMS"] = "cpu"  # read when jax starts: no GPU memory is taken then
    import jax

    if device == "gpu":
        try:
            return jax.devices("gpu")[0].device_kind
        except RuntimeError as fault:
            hint = "Install qsim-tflite[cuda12] or [cuda13] and check nvidia-smi, or use --device cpu"
            raise Unsupported("JAX sees no GPU here", hint=hint) from fault
    return jax.devices()[0].device_kind


@dataclass(frozen=True)
class Cost:
    """What a run took: seconds of compilation and of computing, samples in the latter, peak memory in bytes (host; device or None)."""

    compile_seconds: float
    seconds: float
    samples: int
    peak_host: int
    peak_device: int | None

    def row(self) -> dict[str, Any]:
        return {
            "compile_seconds": round(self.compile_seconds, 3),
            "samples_per_second": round(self.samples / self.seconds, 1) if self.seconds > 0 else None,
            "peak_memory_bytes": self.peak_host,
            "peak_device_memory_bytes": self.peak_device,
        }


def function_of(model: Model, mode: str, flavour: str, batch: int | None, taps: Any = None) -> Any:
    """The model's function on all devices, computing `batch` samples at once on each where that is given."""
    from calibrate.sharding import function_on

    if batch is not None and batch < 1:
        raise BadRecipe("--batch must be at least 1", found=batch)
    function = function_on(model, mode, flavour, taps)
    if batch is not None:
        function.micro_batch = batch
    return function


def results(function: Any, samples: Samples, what: str) -> Iterator[tuple[tuple[np.ndarray, ...], Any, float]]:
    """(inputs, results, seconds) part by part, with progress on a terminal."""
    with progress(what, len(samples)) as step:
        for inputs in samples.batches(_part(function, len(samples))):
            start = time.perf_counter()
            out = function.batch(*inputs)
            seconds = time.perf_counter() - start
            step(len(inputs[0]))
            yield inputs, out, seconds


def _part(function: Any, count: int) -> int:
    """Samples in a part: nearly equal parts of whole micro-batches, so that one compiled loop serves all."""
    parts = -(-count // PART)
    size = -(-count // parts)
    return -(-size // function.micro_batch) * function.micro_batch


def timed(function: Any, samples: Samples, what: str, take: Callable[[tuple, Any, int], None]) -> Cost:
    """Run everything, handing each part to `take(inputs, results, first sample)`; the first part is run twice to tell compilation apart."""
    seconds, done, first = 0.0, 0, None
    for inputs, out, took in results(function, samples, what):
        if first is None:
            start = time.perf_counter()
            function.batch(*inputs)
            again = time.perf_counter() - start
            first, took = max(took - again, 0.0), again
        take(inputs, out, done)
        seconds, done = seconds + took, done + len(inputs[0])
    return Cost(first or 0.0, seconds, done, *_peaks())


def _peaks() -> tuple[int, int | None]:
    import resource
    import sys

    import jax

    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    stats = jax.devices()[0].memory_stats() or {}
    return host, stats.get("peak_bytes_in_use")


@contextmanager
def memory_told(batch: int | None) -> Iterator[None]:
    """Turn JAX's report of exhausted memory into one of ours."""
    try:
        yield
    except (MemoryError, RuntimeError) as fault:
        if isinstance(fault, MemoryError) or "RESOURCE_EXHAUSTED" in str(fault):
            raise Unsupported("out of memory", hint=f"Use a smaller --batch (now {batch or 'the default'}), or --device cpu") from fault
        raise
