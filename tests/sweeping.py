"""What the tests of sweeps share: a job over a small net and labelled pictures, and executors that misbehave."""

from __future__ import annotations

import threading
from concurrent.futures import BrokenExecutor, Executor, Future
from pathlib import Path
from typing import Any

import numpy as np
from small import CLASSES, float_net, images

import qsim
from calibrate.scoring import Job

SAMPLES = 400


def job_in(folder: Path, count: int = SAMPLES, **more: Any) -> Job:
    """A job on files written to a folder: labels are what the float net says."""
    model, x = float_net(), images(count, seed=3)
    qsim.save(model, folder / "net.tflite", force=True)
    y = model.function("float").batch(x.astype(np.float32))[0].reshape(count, -1).argmax(1)
    np.savez(folder / "data.npz", x=x, y=y)
    assert y.max() < CLASSES
    return Job(str(folder / "net.tflite"), (str(folder / "data.npz"),), parts=(0.4, 0.3, 0.3), **more)


class Hostile(Executor):
    """Runs a task now and answers it, or does not: by chance it raises, gives NaN, gives too little, or dies."""

    def __init__(self, rng: np.random.Generator):
        self.rng, self.dead = rng, False

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future:
        found: Future = Future()
        what = self.rng.integers(0, 24)
        if self.dead or what == 0:
            self.dead = True
            found.set_exception(BrokenExecutor("a worker was killed"))
        elif what == 1:
            found.set_exception(RuntimeError("lost"))
        else:
            key, arrays = fn(*args, **kwargs)
            spoiled = {2: {"loss": arrays["loss"] * np.nan}, 3: {"loss": arrays["loss"][1:]}}
            found.set_result((key, spoiled.get(int(what), arrays)))
        return found


class Poisoned(Executor):
    """Like a pool of processes that answers a little later: the task of one candidate breaks it, and with it all that wait there."""

    def __init__(self, poison: str):
        self.poison, self.held, self.dead, self.lock = poison, list[tuple[Future, Any, Any]](), False, threading.Lock()

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future:
        found: Future = Future()
        with self.lock:
            self.held.append((found, fn, args))
            self.dead = self.dead or args[1].candidate == self.poison
        threading.Timer(0.05, self._answer).start()
        return found

    def _answer(self) -> None:
        with self.lock:
            for future, fn, args in self.held:
                if self.dead:
                    future.set_exception(BrokenExecutor("a worker was killed"))
                else:
                    future.set_result(fn(*args))
            self.held = []


class Silent(Executor):
    """Answers every task but the first few, which it never does."""

    def __init__(self, silent: int):
        self.left = silent

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future:
        found: Future = Future()
        self.left -= 1
        if self.left < 0:
            found.set_result(fn(*args, **kwargs))
        return found


def facts(result: Any) -> list[tuple[Any, ...]]:
    """All that a sweep found, as values that can be compared exactly."""
    return [
        (s.candidate, s.losses.tobytes(), s.failed) for o in result.outcomes for s in o.scores
    ] + [(t.candidate, t.loss, t.gain, t.right) for o in result.outcomes for t in (*o.tested, o.baseline)]  # fmt: skip
