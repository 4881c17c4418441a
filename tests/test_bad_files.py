"""Bad input and failing disks: one clear error of our family each time, quickly, and nothing written or lost."""

from __future__ import annotations

import errno
import os
import random
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
from featureful import rich

from qsim import files, flat, reader, records, writer
from qsim.errors import BadModel, Malformed, NewerSchema, Unsupported, WriteFailed
from qsim.flat import Record
from qsim.schema import schema

DATA = rich()
FOREIGN = [
    (b"", "empty"),
    (bytes(100), "only zero bytes"),
    (b"PK\x03\x04" + bytes(60), "zip archive"),
    (b"\x08\x07\x12\x07pytorch\x1a\x051.0.0" + bytes(60), "ONNX"),
    (b"<!DOCTYPE html>\n<html><body>404</body></html>", "HTML"),
    (b"\n\n  <html>" + bytes(20), "HTML"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n", "Git LFS pointer.*git lfs pull"),
    (b"LITERTLM" + bytes(60), "litertlm"),
    (b"\x89HDF\r\n\x1a\n" + bytes(60), "HDF5"),
    (b"\x1f\x8b\x08" + bytes(60), "gzip"),
    (b"hello, this is text", "identifier is missing"),
    (DATA[:4] + b"TFL4" + DATA[8:], "identifier is missing"),
]


@pytest.mark.parametrize("data, words", FOREIGN, ids=[w.split(".")[0] + str(i) for i, (_, w) in enumerate(FOREIGN)])
def test_other_kinds_of_files_are_named(data, words, tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(data)
    with pytest.raises(Malformed, match=f"(?s){words}") as caught:
        reader.load(path)
    assert str(caught.value).startswith(str(path)) and caught.value.exit_code == 3
    assert [p.name for p in tmp_path.iterdir()] == ["model.tflite"]


def test_what_cannot_be_opened_is_named(tmp_path):
    for path in (tmp_path / "missing.tflite", tmp_path, tmp_path / "a\0b"):
        with pytest.raises(Malformed, match="cannot be read"):
            reader.load(path)


def test_only_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(Malformed, match="not a file"):
            reader.load(path)


def test_size_limit(tmp_path):
    (tmp_path / "m.tflite").write_bytes(DATA)
    with pytest.raises(BadModel, match=f"larger than the limit; found {len(DATA)} bytes; expected at most 100"):
        reader.load(tmp_path / "m.tflite", limit=100)


def test_truncated_at_any_byte():
    started = time.thread_time()
    for length in range(len(DATA)):
        with pytest.raises(Malformed):
            reader.read(DATA[:length])
    assert time.thread_time() - started < 20


def survives(data: bytes) -> str:
    """Reads damaged bytes: either an error of our family, or a model that can be walked, rewritten, and read again as the same."""
    started = time.thread_time()
    try:
        model = reader.read(data)
    except (BadModel, Unsupported) as e:
        assert len(str(e)) > 10
        return type(e).__name__
    assert writer.to_bytes(model) is model.source.data
    try:
        again = writer.to_bytes(model, "rebuild")
        assert records.diff(model.source.root, flat.read(again)) == []
    except NewerSchema:
        assert model.source.unknown
    records.dump(model.source.root)
    assert time.thread_time() - started < 5
    return "read"


def neighbours(data: bytes, step: int, start: int = 0):
    """Files that differ from a good one in one byte: ten values for each byte, every `step`-th of them."""
    for case in range(start, 10 * len(data), step):
        i, k = divmod(case, 10)
        value = (0, 1, 0x7F, 0x80, 0xFF, data[i] + 1, data[i] - 1, data[i] ^ 2, data[i] ^ 4, data[i] ^ 16)[k] % 256
        if value != data[i]:
            yield data[:i] + bytes([value]) + data[i + 1 :]


def test_one_byte_neighbours():
    found = [survives(changed) for changed in neighbours(DATA, 11)]
    assert len(found) > 2000 and {"read", "Malformed", "Invalid"} <= set(found)


def test_hostile_names_are_shown_inert():
    root = flat.read(DATA)
    root["subgraphs"][0]["tensors"][1].update(name="\x1b[2J" + "n" * 10_000, buffer=99)
    root["operator_codes"][1]["custom_code"] = "\x1b[2J\n"
    with pytest.raises(BadModel, match="names a buffer") as caught:
        reader.read(flat.write(root))
    assert len(str(caught.value)) < 300 and str(caught.value).isprintable()
    root["subgraphs"][0]["tensors"][1]["buffer"] = 1
    root["subgraphs"][0]["operators"][1]["outputs"] = root["subgraphs"][0]["operators"][0]["outputs"]
    with pytest.raises(BadModel, match="CUSTOM:.*already written") as caught:
        reader.read(flat.write(root))
    assert str(caught.value).isprintable()


def chained(depth: int) -> bytes:
    """A file whose subgraphs call each other in a chain: a recursion limit of any kind would show."""
    inner, once = flat.read(DATA)["subgraphs"][1], schema().union_of["CallOnceOptions"][1]
    graphs = []
    for i in range(depth):
        call = Record("CallOnceOptions", {"init_subgraph_index": i + 1})
        op = Record("Operator", {"builtin_options": call, "builtin_options_type": once})
        graphs.append(Record("SubGraph", {**inner, "outputs": inner["inputs"], "operators": [op] if i + 1 < depth else []}))
    codes = [Record("OperatorCode", {"builtin_code": schema().enums["BuiltinOperator"]["CALL_ONCE"]})]
    return flat.write(Record("Model", {"version": 3, "operator_codes": codes, "subgraphs": graphs, "buffers": [Record("Buffer")]}))


def test_deep_calls_and_long_lists_are_no_trouble():
    started = time.thread_time()
    assert len(reader.read(chained(2000)).graphs) == 2000
    assert time.thread_time() - started < 10


@pytest.mark.nightly
def test_all_one_byte_neighbours():
    found = [survives(changed) for changed in neighbours(DATA, 1)]
    assert {"read", "Malformed", "Invalid", "TooLarge", "NewerSchema"} == set(found)


def mutated(data: bytes, rng: random.Random) -> bytes:
    """One to eight edits: flipped bits, extreme 32-bit words, copied or zeroed runs, lost bytes."""
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 3, 8])):
        at, kind = rng.randrange(8, len(data) - 16), rng.random()
        if kind < 0.4:
            data[at] ^= 1 << rng.randrange(8)
        elif kind < 0.65:
            word = rng.choice([0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, len(data), rng.randrange(len(data)), rng.getrandbits(32)])
            struct.pack_into("<I", data, at & ~3, word)
        elif kind < 0.8:
            source = rng.randrange(8, len(data) - 16)
            data[at : at + 8] = data[source : source + 8]
        elif kind < 0.95:
            length = rng.choice([4, 8, 16])
            data[at : at + length] = bytes(length)
        else:
            del data[at : at + rng.choice([1, 4, 16])]
    return bytes(data)


def test_random_damage():
    rng = random.Random(0)
    found = [survives(mutated(DATA, rng)) for _ in range(3000)]
    assert {"read", "Malformed", "Invalid"} <= set(found)


@pytest.mark.models
def test_random_damage_of_real_models(models_dir):
    seeds = [p.read_bytes() for p in sorted((models_dir / "nets" / "single_op").glob("*.tflite")) if p.stat().st_size < 4000]
    rng = random.Random(1)
    found = [survives(mutated(rng.choice(seeds), rng)) for _ in range(4000)]
    assert {"read", "Malformed", "Invalid"} <= set(found)


@pytest.mark.nightly
@pytest.mark.models
@pytest.mark.timeout(1800)
def test_random_damage_at_length(models_dir):
    seeds = [p.read_bytes() for p in sorted((models_dir / "nets" / "single_op").glob("*.tflite")) if p.stat().st_size < 8000]
    rng = random.Random(2)
    for _ in range(100_000):
        survives(mutated(rng.choice(seeds), rng))


def test_writing_over_something_needs_a_word(tmp_path):
    source, other = tmp_path / "m.tflite", tmp_path / "other.tflite"
    source.write_bytes(DATA)
    other.write_text("precious")
    model = reader.load(source)
    with pytest.raises(WriteFailed, match="other.tflite: exists already.*--force"):
        writer.save(model, other)
    assert other.read_text() == "precious"
    assert writer.save(model, other, force=True) == "patch" and other.read_bytes() == DATA
    for force in (False, True):
        with pytest.raises(WriteFailed, match="is the file the model was read from.*--in-place"):
            writer.save(model, source, force=force)
    os.link(source, tmp_path / "link.tflite")
    with pytest.raises(WriteFailed, match="is the file the model was read from"):
        writer.save(model, tmp_path / "link.tflite", force=True)
    assert writer.save(model.but(description="new"), source, in_place=True) == "rebuild"
    assert reader.load(source).description == "new"


def test_impossible_targets_are_refused_before_any_work(tmp_path, monkeypatch):
    model = reader.read(DATA)
    monkeypatch.setattr(writer, "_encode", lambda *_: pytest.fail("worked before looking at the target"))
    with pytest.raises(WriteFailed, match="is a directory"):
        writer.save(model, tmp_path)
    with pytest.raises(WriteFailed, match="directory does not exist"):
        writer.save(model, tmp_path / "no" / "m.tflite")
    if Path("/proc/self").exists():
        with pytest.raises(WriteFailed, match="cannot be written"):
            writer.save(model, "/proc/m.tflite")
    if os.geteuid() != 0:  # root may write anywhere
        tmp_path.chmod(0o500)
        with pytest.raises(WriteFailed, match="cannot be written"):
            writer.save(model, tmp_path / "m.tflite")
        tmp_path.chmod(0o700)


class HalfWritten:
    """A file that takes half of what it is given, then fails."""

    def __init__(self, file, error):
        self.file, self.error = file, error

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def write(self, data):
        self.file.write(data[: len(data) // 2])
        raise self.error

    def fileno(self):
        return self.file.fileno()


def fail_at(monkeypatch, call: str, error: BaseException) -> None:
    def fails(*_, **__):
        raise error

    if call == "write":
        monkeypatch.setattr(files, "open", lambda handle, mode: HalfWritten(open(handle, mode), error), raising=False)
    else:
        monkeypatch.setattr(files.tempfile if call == "mkstemp" else files.os, call, fails)


CALLS = ("mkstemp", "write", "fchmod", "fsync", "replace")


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EACCES, errno.EINTR])
@pytest.mark.parametrize("existing", [True, False])
def test_a_failing_disk_costs_nothing(call, code, existing, tmp_path, monkeypatch):
    target, model = tmp_path / "m.tflite", reader.read(DATA)
    if existing:
        target.write_bytes(b"old")
    fail_at(monkeypatch, call, OSError(code, os.strerror(code)))
    with pytest.raises(WriteFailed, match=os.strerror(code)) as caught:
        writer.save(model, target, force=True)
    assert caught.value.exit_code == 6
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == ({"m.tflite": b"old"} if existing else {})


@pytest.mark.parametrize("call", CALLS)
def test_an_interrupt_leaves_nothing_behind(call, tmp_path, monkeypatch):
    fail_at(monkeypatch, call, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        writer.save(reader.read(DATA), tmp_path / "m.tflite")
    assert list(tmp_path.iterdir()) == []


def test_a_written_file_has_the_usual_mode(tmp_path):
    model, target = reader.read(DATA), tmp_path / "m.tflite"
    writer.save(model, target)
    mask = os.umask(0o022)
    os.umask(mask)
    assert target.stat().st_mode & 0o777 == 0o666 & ~mask
    target.chmod(0o640)
    writer.save(model, target, force=True)
    assert target.stat().st_mode & 0o777 == 0o640


KILLED = """
import sys
from qsim import reader, writer
model = reader.load(sys.argv[1])
other = model.but(description=model.description + "x" * 400_000)
while True:
    for m in (model, other):
        writer.save(m, sys.argv[2], force=True, how="rebuild")
        print("saved", flush=True)
"""


def test_kill_at_any_instant_leaves_a_whole_file(tmp_path):
    (tmp_path / "m.tflite").write_bytes(DATA)
    out, rng = tmp_path / "out" / "out.tflite", random.Random(3)
    out.parent.mkdir()
    for _ in range(5):
        child = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path / "m.tflite"), str(out)], stdout=subprocess.PIPE)
        assert child.stdout is not None and child.stdout.readline() == b"saved\n"
        time.sleep(rng.uniform(0, 0.05))
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        assert len(reader.load(out).description) in (4, 400_004)
