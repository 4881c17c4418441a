"""The process that runs the installed LiteRT interpreter: reads requests on stdin, writes answers on stdout, until stdin ends.

Only the standard library, numpy and the interpreter are loaded here, so that an abort in LiteRT costs this process and nothing else.
A frame is an 8-byte little-endian length, that many bytes of JSON (with the `sizes` of the blobs), then the blobs.
"""

from __future__ import annotations

import json
import os
import struct
import sys
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, BinaryIO

import numpy as np

UNREADABLE = ("DELEGATE", "VAR_HANDLE", "HASHTABLE")  # ops whose outputs repeat others', or are resources, which stop LiteRT when read
RESOLVERS = {"xnnpack": "AUTO", "builtin": "BUILTIN_WITHOUT_DEFAULT_DELEGATES", "reference": "BUILTIN_REF"}


def send(stream: BinaryIO, header: dict[str, Any], blobs: Iterable[Any] = ()) -> None:
    """Write one frame; blobs are bytes or C-contiguous arrays."""
    views = [b.reshape(-1).view(np.uint8).data if isinstance(b, np.ndarray) else memoryview(b) for b in blobs]
    text = json.dumps({**header, "sizes": [v.nbytes for v in views]}).encode()
    stream.write(struct.pack("<Q", len(text)) + text)
    for view in views:
        stream.write(view)
    stream.flush()


def receive(stream: BinaryIO) -> tuple[dict[str, Any], list[bytearray]]:
    """Read one frame. Raises: EOFError where the stream ends first."""
    (length,) = struct.unpack("<Q", _exactly(stream, 8))
    header = json.loads(_exactly(stream, length))
    return header, [_exactly(stream, size) for size in header["sizes"]]


def _exactly(stream: BinaryIO, size: int) -> bytearray:
    found = bytearray(size)
    view, at = memoryview(found), 0
    while at < size:
        count = stream.readinto(view[at:])  # type: ignore[attr-defined]
        if not count:
            raise EOFError
        at += count
    return found


def pack(arrays: Sequence[np.ndarray]) -> tuple[list[list[Any]], list[np.ndarray]]:
    """(form of each array for the header, contiguous arrays). Strings travel as fixed-width bytes."""
    plain = [np.ascontiguousarray(np.asarray(a, "S") if a.dtype == object else a) for a in arrays]
    forms = [[p.dtype.str, list(a.shape)] for p, a in zip(plain, arrays, strict=True)]
    return forms, [p if p.dtype.kind != "S" else np.frombuffer(p.tobytes(), np.uint8) for p in plain]


def unpack(forms: Sequence[Sequence[Any]], blobs: Sequence[bytearray]) -> list[np.ndarray]:
    """The arrays of `pack`; each owns its bytes."""
    return [np.frombuffer(b, np.dtype(f[0])).reshape(f[1]) if len(b) else np.zeros(f[1], f[0]) for f, b in zip(forms, blobs, strict=True)]


class Runner:
    """Answers requests; keeps the interpreter of the last model, so that a second batch costs no second load."""

    def __init__(self) -> None:
        self.key: Any = None
        self.interpreter: Any = None
        self.used = False  # invoked since it was made

    def answer(self, header: dict[str, Any], blobs: list[bytearray]) -> tuple[dict[str, Any], list[np.ndarray]]:
        try:
            if header["verb"] == "version":
                return {"version": _version()}, []
            self.load(bytes(blobs[0]), header["flavour"], header.get("tensors", "outputs") == "all")
            return self.run(header, unpack(header["forms"], blobs[1:])) if header["verb"] == "run" else ({}, [])
        except Exception as error:  # whatever LiteRT says is the answer, never the end of this process
            self.key = self.interpreter = None
            return {"error": f"{type(error).__name__}: {error}"}, []

    def load(self, data: bytes, flavour: str, keep_all: bool) -> None:
        if self.key == (data, flavour, keep_all):
            return
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        self.key = self.interpreter = None
        resolver = OpResolverType[RESOLVERS[flavour]]
        made = Interpreter(
            model_content=data, num_threads=1, experimental_op_resolver_type=resolver, experimental_preserve_all_tensors=keep_all
        )
        made.allocate_tensors()
        self.key, self.interpreter, self.used = (data, flavour, keep_all), made, False

    def run(self, header: dict[str, Any], inputs: list[np.ndarray]) -> tuple[dict[str, Any], list[np.ndarray]]:
        wanted = _wanted(self.interpreter, header["tensors"])
        rows = []
        for n in range(header["samples"]):
            if n == 0 or not header["sequence"]:
                self.start_anew()
            self.invoke([a[n] for a in inputs])
            rows.append(_read(self.interpreter, wanted))
        found = {t: np.stack([r[t] for r in rows]) for t in wanted if all(t in r for r in rows)} if rows else {}
        forms, blobs = pack(list(found.values()))
        return {"tensors": list(found), "forms": forms}, blobs

    def invoke(self, sample: list[np.ndarray]) -> None:
        details = self.interpreter.get_input_details()
        if len(details) != len(sample):
            raise ValueError(f"the model has {len(details)} inputs, {len(sample)} arrays given")
        for detail, value in zip(details, sample, strict=True):
            shaped = np.ascontiguousarray(value).reshape(tuple(detail["shape"]))
            self.interpreter.set_tensor(detail["index"], shaped.astype(object) if shaped.dtype.kind == "S" else shaped)
        self.interpreter.invoke()
        self.used = True

    def start_anew(self) -> None:
        """Variables as before the first invocation: variable tensors are reset; resource variables only end with their interpreter."""
        if self.used and any(op["op_name"] == "VAR_HANDLE" for op in self.interpreter._get_ops_details()):
            key, self.key = self.key, None
            self.load(*key)
        self.interpreter.reset_all_variables()


def _wanted(interpreter: Any, tensors: str) -> list[int]:
    """Tensor indexes to hand back: the outputs, or the inputs and every op's outputs."""
    outputs = [int(d["index"]) for d in interpreter.get_output_details()]
    if tensors != "all":
        return list(dict.fromkeys(outputs))
    inputs = [int(d["index"]) for d in interpreter.get_input_details()]
    made = [int(t) for op in interpreter._get_ops_details() if op["op_name"] not in UNREADABLE for t in op["outputs"] if t >= 0]
    return sorted({*inputs, *made, *outputs})


def _read(interpreter: Any, wanted: list[int]) -> dict[int, np.ndarray]:
    """The tensors that Python can read: resources and variants have no numpy form and are left out."""
    found = {}
    for t in wanted:
        try:
            found[t] = np.asarray(interpreter.get_tensor(t))
        except ValueError:
            continue
    return found


def _version() -> str:
    from importlib.metadata import version

    import ai_edge_litert.interpreter  # noqa: F401  (present in the metadata is not yet usable)

    return version("ai-edge-litert")


def _leave_no_core_files() -> None:
    try:
        import resource
    except ImportError:  # not a POSIX system
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main() -> None:
    # LiteRT and its delegates may print: file descriptor 1 becomes stderr, and the answers keep the pipe to themselves.
    answers = os.fdopen(os.dup(1), "wb", buffering=1 << 16)
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    _leave_no_core_files()
    runner = Runner()
    while True:
        try:
            header, blobs = receive(sys.stdin.buffer)
        except EOFError:
            return
        send(answers, *runner.answer(header, blobs))


if __name__ == "__main__":
    main()
