"""Samples over eight devices: the same integers, the same statistics. Devices are forced on the host, in a process of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from nets import random_net
from small import float_net, images

import qsim
from calibrate import evaluate, observe, ranges
from calibrate.data import as_data
from calibrate.sharding import observe_on

ROOT = Path(__file__).parent.parent
MODEL = float_net()
X = (images(75) / 64 - 2).astype(np.float32)


def int8(model, x):
    return qsim.quantize(model, ranges(model, observe(model, x), "minmax"), qsim.INT8)


def on_devices(tmp_path, count, program):
    """Runs a program in a fresh process with `count` host devices; it sees `sys.argv[1]`, this folder."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={count}"
    env = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr[-3000:]


EVALUATED = """
import json, sys
import jax, numpy as np, qsim
from pathlib import Path
from calibrate import evaluate
from calibrate.sharding import Sharded
from qsim_cli import main
folder = Path(sys.argv[1])
assert len(jax.devices()) == 8
with np.load(folder / "small.npz") as d:
    x = d["t0"]
run = Sharded(qsim.load(folder / "small.tflite"))
run.micro_batch = 4
np.savez(folder / "small.out.npz", **{f"t{t}": y for t, y in zip(run.graph.outputs, run.batch(x))})
found = evaluate(run, x, labels=np.arange(75) % 4)
(folder / "values.json").write_text(json.dumps({k: list(v) for k, v in found.values.items()}))
assert main(["run", *(str(folder / name) for name in ("random.tflite", "random.npz")), "-o", str(folder / "random.out.npz")]) == 0
"""


def test_eight_devices_give_the_same_integers(tmp_path):
    rng = np.random.default_rng(3)
    net = random_net(rng, 5, float_ops=False)
    x = [rng.normal(size=(37, *net.graph.tensors[t].shape)).astype(np.float32) for t in net.graph.inputs]
    models = {"small": (int8(MODEL, X), [X]), "random": (int8(net, [x]), x)}
    for name, (model, x) in models.items():
        qsim.save(model, tmp_path / f"{name}.tflite")
        np.savez(tmp_path / f"{name}.npz", **{f"t{t}": a for t, a in zip(model.graph.inputs, x, strict=True)})
    on_devices(tmp_path, 8, EVALUATED)
    for name, (_, x) in models.items():
        run = qsim.load(tmp_path / f"{name}.tflite").function()
        with np.load(tmp_path / f"{name}.out.npz") as found:
            for t, y in zip(run.graph.outputs, run.batch(*x), strict=True):
                assert np.array_equal(found[f"t{t}"], y) and found[f"t{t}"].dtype == y.dtype, (name, t)
    values = evaluate(models["small"][0], X, labels=np.arange(75) % 4).values
    assert json.loads((tmp_path / "values.json").read_text()) == {k: list(v) for k, v in values.items()}


OBSERVED = """
import sys
import jax, numpy as np, qsim
from calibrate import open_data
from calibrate.sharding import observe_on
model = qsim.load(sys.argv[1] + "/net.tflite")
observe_on(model, open_data(sys.argv[1] + "/d.npz", model)).save(sys.argv[1] + "/many.npz")
"""


@pytest.mark.nightly
@pytest.mark.parametrize("count", [2, 8])
def test_devices_together_observe_what_one_does(tmp_path, count):
    qsim.save(MODEL, tmp_path / "net.tflite")
    np.savez(tmp_path / "d.npz", x=X)
    observe(qsim.load(tmp_path / "net.tflite"), X).save(tmp_path / "one.npz")
    on_devices(tmp_path, count, OBSERVED)
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "many.npz").read_bytes()


@pytest.mark.parametrize("shards", [3, 8])
def test_parts_merged_are_the_whole(shards):
    whole, parts = observe(MODEL, X), observe_on(MODEL, as_data(MODEL, X), jax.devices()[:1] * shards)
    assert parts == whole and all(np.array_equal(parts.sequence[t], s) for t, s in whole.sequence.items())
    assert all(ranges(MODEL, parts, s) == ranges(MODEL, whole, s) for s in ("minmax", "mse", "moving_average"))
