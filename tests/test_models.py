"""Real quantized nets: every intermediate and output tensor equal to LiteRT's, per op on its own intermediates and whole graph."""

from __future__ import annotations

import exactness
import numpy as np
import pytest
import realdata

pytestmark = pytest.mark.models
COUNTS = (24, 6, 6)  # real, saturating, uniform; experiments/exactness.py runs 200, 50, 50


@pytest.mark.parametrize("flavour", ["xnnpack", "reference"])
@pytest.mark.parametrize("name", realdata.EXACT)
def test_every_tensor_equals_litert(name, flavour, oracle, models_dir, record_property):
    found = exactness.exactness(name, flavour, oracle, COUNTS)
    record_property("elements", found["whole graph"].elements + found["per op"].elements)
    assert {k: str(c) for k, c in found.items() if c.differing or not c.elements} == {}


@pytest.mark.parametrize("name", ["mlperf_kws_int8"])
def test_the_judge_sees_one_wrong_step(name, oracle, models_dir):
    """A zero point moved by one step in one op must show in that op, and in no other when each is judged alone."""
    model = realdata.net(name)
    data = realdata.path(name).read_bytes()
    judge = exactness.Judge(model, "xnnpack", oracle, data)
    wrong = next(n.index for n in model.graph.nodes if n.op == "DEPTHWISE_CONV_2D")
    plan = judge.ops[wrong].params["plans"][0]
    plan["output_zero_point"] = plan["output_zero_point"] + np.int32(1)
    per_op, whole = exactness.Count(), exactness.Count()
    judge.judge(realdata.samples(name, model, (2, 1, 1))["real"], per_op, whole)
    assert per_op.differing and per_op.first == f"op {wrong} DEPTHWISE_CONV_2D"
    assert not whole.differing
