"""The optional bridge to the installed LiteRT interpreter, which runs in a process of its own.

LiteRT aborts on some files that load cleanly. Every call therefore goes to a child process that may die or hang without harm: an
`Oracle` keeps one such child, starts it anew after an abort or a time-out, and reports either as OracleFailed.
"""

from __future__ import annotations

import atexit
import os
import platform
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .errors import BadData, OracleFailed
from .litert_child import RESOLVERS, pack, receive, send, unpack

_MISSING = ("ModuleNotFoundError", "ImportError", "PackageNotFoundError")


class Oracle:
    """A LiteRT interpreter in a child process; a context manager, safe to share between threads (calls take turns)."""

    def __init__(self, timeout: float = 60.0):
        self.timeout = timeout
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._log: Any = None

    def __enter__(self) -> Oracle:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(
        self,
        model_bytes: bytes,
        inputs: Sequence[Any],
        flavour: str = "xnnpack",
        tensors: str = "outputs",
        timeout: float | None = None,
        sequence: bool = False,
    ) -> dict[int, np.ndarray]:
        """Stored values of LiteRT's tensors for N samples, one invocation each, one thread: tensor index -> (N, *shape).

        `inputs`: one array per model input, in the file's order, (N, *shape), or (N, *shape[1:]) where shape[0] is 1. `tensors`:
        "outputs", or "all" = model inputs and every op output of the primary graph (those with a numpy form). Variables start anew
        for each sample, or with `sequence` only for the first. `timeout`: seconds for the whole call.

        *Raises*: OracleFailed: LiteRT is missing, refused the file or the data, aborted (naming the signal), or ran out of time;
        BadData where the arrays differ in N.
        """
        if tensors not in ("outputs", "all"):
            raise BadData("tensors must be 'outputs' or 'all'", found=tensors)
        arrays = [np.asarray(a) for a in inputs]
        counts = {len(a) for a in arrays} or {1}
        if len(counts) > 1:
            raise BadData("the arrays hold different numbers of samples", found=sorted(counts))
        forms, blobs = pack(arrays)
        header = {
            "verb": "run",
            "flavour": _known(flavour),
            "tensors": tensors,
            "samples": counts.pop(),
            "forms": forms,
            "sequence": sequence,
        }
        answer, found = self._ask(header, [model_bytes, *blobs], timeout)
        return dict(zip(answer["tensors"], unpack(answer["forms"], found), strict=True))

    def loads(self, model_bytes: bytes, flavour: str = "xnnpack") -> str | None:
        """None if LiteRT builds and allocates the file with this flavour's resolver, else the reason, an abort included.

        *Raises*: OracleFailed only where LiteRT is not installed.
        """
        try:
            self._ask({"verb": "load", "flavour": _known(flavour), "forms": []}, [model_bytes], None)
        except OracleFailed as error:
            if error.hint:
                raise
            return error.message
        return None

    def version(self) -> str:
        """Version of the installed interpreter. *Raises*: OracleFailed where it is missing."""
        return str(self._ask({"verb": "version"}, [], None)[0]["version"])

    def close(self) -> None:
        """End the child process; the next call starts another."""
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.wait()
            for stream in (child.stdin, child.stdout, self._log):
                _quietly_close(stream)

    def _ask(self, header: dict[str, Any], blobs: Sequence[Any], timeout: float | None) -> tuple[dict[str, Any], list[bytearray]]:
        with self._lock:
            answer, found = self._exchange(header, blobs, self.timeout if timeout is None else timeout)
        if "error" in answer:
            if answer["error"].startswith(_MISSING):
                raise OracleFailed(f"LiteRT is not usable here: {answer['error']}", hint="pip install 'qsim-tflite[litert]'")
            raise OracleFailed(f"LiteRT refused: {answer['error']}")
        return answer, found

    def _exchange(self, header: dict[str, Any], blobs: Sequence[Any], seconds: float) -> tuple[dict[str, Any], list[bytearray]]:
        child = self._running()
        late = threading.Event()

        def end() -> None:
            late.set()
            child.kill()

        timer = threading.Timer(seconds, end)
        timer.start()
        try:
            send(child.stdin, header, blobs)  # type: ignore[arg-type]
            return receive(child.stdout)  # type: ignore[arg-type]
        except (EOFError, OSError):
            code, said = child.wait(), self._said()
            self.close()
            raise OracleFailed(_obituary(code, said, seconds if late.is_set() else None)) from None
        except BaseException:  # an interrupt between question and answer would leave the pipe out of step
            self.close()
            raise
        finally:
            timer.cancel()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._child is None or self._child.poll() is not None:
            self.close()
            self._log = tempfile.TemporaryFile()
            home = str(Path(__file__).resolve().parent.parent)
            path = os.pathsep.join(p for p in (home, os.environ.get("PYTHONPATH", "")) if p)
            self._child = subprocess.Popen(
                [sys.executable, "-P", "-m", "qsim.litert_child"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, env={**os.environ, "PYTHONPATH": path},
            )  # fmt: skip
        return self._child

    def _said(self) -> str:
        """The last words on stderr, without LiteRT's routine notes."""
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").splitlines()[-20:]
        return " / ".join(line.strip() for line in lines if line.strip() and not line.startswith(("INFO", "W0000", "WARNING")))[-600:]


def _known(flavour: str) -> str:
    if flavour not in RESOLVERS:
        raise BadData("no such flavour", found=flavour, expected=" | ".join(RESOLVERS))
    return flavour


def _obituary(code: int, said: str, seconds: float | None) -> str:
    if seconds is not None:
        return f"LiteRT did not answer within {seconds:g} s and was ended"
    how = f"aborted with {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    return f"LiteRT {how}" + (f": {said}" if said else "")


def _quietly_close(stream: Any) -> None:
    try:
        stream.close()
    except OSError:  # a pipe whose reader is gone cannot be flushed
        pass


_shared = Oracle()
atexit.register(_shared.close)
run, loads, version = _shared.run, _shared.loads, _shared.version


def cpu_class() -> str:
    """The CPU as far as kernels differ by it: "x86-64 AVX512-VNNI", "x86-64 AVX2+FMA", "x86-64 AVX", "x86-64 SSE4.2", "arm64", ...

    Some results depend on it: dynamic-range and float kernels, and the integer products of flavour `builtin`.
    """
    machine = platform.machine().lower()
    if machine not in ("x86_64", "amd64"):
        return "arm64" if machine in ("arm64", "aarch64") else machine or "unknown"
    flags = _cpu_flags()
    for name, needs in _CLASSES:
        if needs <= flags:
            return f"x86-64 {name}"
    return "x86-64"


_CLASSES = (
    ("AVX512-VNNI", {"avx512f", "avx512_vnni"}),
    ("AVX512", {"avx512f"}),
    ("AVX2+FMA", {"avx2", "fma"}),
    ("AVX", {"avx"}),
    ("SSE4.2", {"sse4_2"}),
)


def _cpu_flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return next((set(line.split(":", 1)[1].split()) for line in lines if line.startswith("flags")), set())
