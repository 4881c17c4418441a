"""The bridge to LiteRT: results, refusals, aborts, time-outs, and a missing package, none of which may harm this process."""

from __future__ import annotations

import struct
import subprocess
import sys
import threading

import numpy as np
import pytest

from qsim.errors import BadData, OracleFailed
from qsim.graph import Graph, Model, Node, Options, QParams, Tensor
from qsim.litert import Oracle, cpu_class
from qsim.writer import to_bytes

SCALE = np.float32(0.12345)  # easily found in the bytes


def chain() -> bytes:
    """y = relu6(relu(x)), float32, shape (1, 4)."""
    tensors = tuple(Tensor(i, name, (1, 4), "float32") for i, name in enumerate(("x", "h", "y")))
    nodes = (Node(0, "RELU", (0,), (1,)), Node(1, "RELU6", (1,), (2,)))
    return to_bytes(Model((Graph(tensors, nodes, (0,), (2,)),)))


def aborting() -> bytes:
    """An int8 ADD whose output scale is 0: LiteRT aborts on it while it prepares the op."""
    q = QParams(np.array([SCALE]), np.array([0]), -128, 127)
    tensors = tuple(Tensor(i, name, (1, 4), "int8", q if name == "y" else one()) for i, name in enumerate(("a", "b", "y")))
    node = Node(0, "ADD", (0, 1), (2,), Options(fused_activation_function="NONE", pot_scale_int16=False), version=2)
    data = to_bytes(Model((Graph(tensors, (node,), (0, 1), (2,)),)))
    assert data.count(struct.pack("<f", SCALE)) == 1
    return data.replace(struct.pack("<f", SCALE), struct.pack("<f", 0.0))


def one() -> QParams:
    return QParams(np.array([1.0], np.float32), np.array([0]), -128, 127)


X = np.array([[[-1.0, 2.0, 7.0, 0.5]], [[9.0, -3.0, 6.0, 1.0]]], np.float32)


@pytest.mark.parametrize("flavour", ["xnnpack", "builtin", "reference"])
def test_outputs_and_all_tensors(oracle, flavour):
    relu = np.maximum(X, 0)
    found = oracle.run(chain(), [X], flavour)
    assert list(found) == [2] and np.array_equal(found[2], np.minimum(relu, 6))
    every = oracle.run(chain(), [X], flavour, "all")
    assert list(every) == [0, 1, 2]
    assert np.array_equal(every[0], X) and np.array_equal(every[1], relu) and np.array_equal(every[2], np.minimum(relu, 6))


def test_samples_may_leave_out_a_batch_axis_of_one(oracle):
    assert np.array_equal(oracle.run(chain(), [X[:, 0]])[2], oracle.run(chain(), [X])[2])


def test_an_abort_names_its_signal_and_the_next_call_works(oracle):
    x = np.ones((1, 1, 4), np.int8)
    with pytest.raises(OracleFailed, match="aborted with SIGABRT"):
        oracle.run(aborting(), [x, x], "reference")
    assert "SIGABRT" in oracle.loads(aborting(), "reference")
    assert oracle.run(chain(), [X])[2].shape == (2, 1, 4)


def test_a_time_out_ends_the_child_and_the_next_call_works():
    with Oracle() as oracle:
        with pytest.raises(OracleFailed, match="did not answer within 0.01 s"):
            oracle.run(chain(), [np.zeros((300_000, 1, 4), np.float32)], timeout=0.01)
        assert oracle.run(chain(), [X])[2].shape == (2, 1, 4)


def test_refusals_carry_the_text_of_litert(oracle):
    with pytest.raises(OracleFailed, match="LiteRT refused: ValueError"):
        oracle.run(b"not a model", [])
    with pytest.raises(OracleFailed, match="the model has 1 inputs, 2 arrays given"):
        oracle.run(chain(), [X, X])
    with pytest.raises(OracleFailed, match="LiteRT refused"):
        oracle.run(chain(), [X.astype(np.int8)])
    assert oracle.loads(chain()) is None
    assert "ValueError" in oracle.loads(chain()[:40])


def test_what_the_caller_got_wrong_is_bad_data(oracle):
    with pytest.raises(BadData, match="no such flavour"):
        oracle.run(chain(), [X], "fast")
    with pytest.raises(BadData, match="different numbers of samples"):
        oracle.run(chain(), [X, X[:1]])
    with pytest.raises(BadData, match="'outputs' or 'all'"):
        oracle.run(chain(), [X], tensors="some")


def test_a_missing_package_is_said_with_the_fix(tmp_path, monkeypatch):
    (tmp_path / "ai_edge_litert").mkdir()
    (tmp_path / "ai_edge_litert" / "__init__.py").write_text("raise ImportError('not here')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with Oracle() as oracle:
        for call in (oracle.version, lambda: oracle.run(chain(), [X]), lambda: oracle.loads(chain())):
            with pytest.raises(OracleFailed, match="pip install 'qsim-tflite"):
                call()


def test_threads_take_turns(oracle):
    wrong: list[int] = []

    def work(k: int) -> None:
        for _ in range(5):
            if not np.array_equal(oracle.run(chain(), [X * k])[2], np.clip(X * k, 0, 6)):
                wrong.append(k)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(1, 5)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_the_child_loads_neither_jax_nor_the_code_it_judges():
    code = "import sys, qsim.litert_child; print([m for m in sys.modules if m.startswith(('jax', 'qsim.'))])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['qsim._version', 'qsim.litert_child']"


def test_cpu_class_names_the_widest_set_of_instructions(monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr("qsim.litert._cpu_flags", lambda: {"sse4_2", "avx", "avx2", "fma"})
    assert cpu_class() == "x86-64 AVX2+FMA"
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert cpu_class() == "arm64"
