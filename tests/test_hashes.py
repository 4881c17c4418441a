"""The integers of known nets, on the CPU and, where JAX sees one, on a GPU: equal to the hashes that were stored when LiteRT agreed."""

from __future__ import annotations

import json

import hashes
import jax
import pytest

import qsim

KNOWN = json.loads(hashes.FILE.read_text())


def test_every_net_has_a_hash():
    assert tuple(KNOWN) == hashes.NETS


def test_the_demo_net_on_this_backend():
    assert hashes.hashes("demo") == KNOWN["demo"]


@pytest.mark.models
def test_a_real_net_on_this_backend():
    assert hashes.hashes("mlperf_kws_int8") == KNOWN["mlperf_kws_int8"]


@pytest.mark.gpu
@pytest.mark.parametrize("name", hashes.NETS)
def test_a_gpu_gives_the_same_integers(name, request):
    if name != "demo":
        request.getfixturevalue("models_dir")
    model = qsim.load(hashes.path(name))
    run = model.function()
    out = jax.jit(run.apply)(run.params, *hashes.inputs(model)[:1])
    assert {d.platform for y in out for d in y.devices()} <= {"gpu", "cuda", "rocm"}
    assert hashes.hashes(name) == KNOWN[name]
