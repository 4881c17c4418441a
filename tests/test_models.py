"""Real quantized nets: every intermediate and output tensor equal to LiteRT's, per op on its own intermediates and whole graph."""

from __future__ import annotations

import exactness
import numpy as np
import pytest
import realdata

from qsim.certificate import Judge
from qsim.isolate import alone

pytestmark = [pytest.mark.models, pytest.mark.exact]
COUNTS = (10, 3, 3)  # real, saturating, uniform; experiments/exactness.py runs 200, 50, 50


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
    judge = Judge(model, "xnnpack", oracle, data)
    wrong = next(n.index for n in model.graph.nodes if n.op == "DEPTHWISE_CONV_2D")
    plan = judge.ops[wrong].params["plans"][0]
    plan["output_zero_point"] = plan["output_zero_point"] + np.int32(1)
    judge.judge(realdata.samples(name, model, (2, 1, 1))["real"])
    per_op, whole = map(exactness.count, judge.tallies())
    assert per_op.differing and per_op.first == f"op {wrong} DEPTHWISE_CONV_2D"
    assert not whole.differing


# Largest |difference| of an output, as a share of LiteRT's largest value: sums of a few hundred to 2,000 products in another order.
FLOAT_NETS = {
    "mlperf_resnet8_f32": 2e-6,
    "mlperf_vww96_f32": 2e-6,
    "mlperf_ad01_f32": 2e-6,
    "aeq_conv_fc_mnist_f32": 2e-6,
    "mobilenet_v1_025_224_f32": 4e-6,
    "twin_mobilenet_v2_100_224_f32": 2e-6,
    "blazeface_front_f32": 3e-6,
    "deeplabv3_257_f32": 5e-6,
}


@pytest.mark.parametrize("name", FLOAT_NETS)
def test_float_outputs_are_close_to_litert(name, oracle, models_dir):
    model = realdata.net(name)
    t = model.graph.tensors[model.graph.inputs[0]]
    x = realdata.real(name, 2).reshape(2, *t.shape)
    theirs = oracle.run(realdata.path(name).read_bytes(), [x], timeout=300)
    for index, mine in zip(model.graph.outputs, model.function("float").batch(x), strict=True):
        assert mine.shape == theirs[index].shape
        assert np.abs(mine - theirs[index]).max() <= FLOAT_NETS[name] * np.abs(theirs[index]).max()


@pytest.mark.parametrize("name", ["mlperf_resnet8_f32", "aeq_conv_fc_mnist_f32"])  # ad01: sums that cancel have no scale of their own
def test_each_float_op_is_close_on_the_inputs_that_litert_had(name, oracle, models_dir):
    model = realdata.net(name)
    t = model.graph.tensors[model.graph.inputs[0]]
    theirs = oracle.run(realdata.path(name).read_bytes(), [realdata.real(name, 4).reshape(4, *t.shape)], "xnnpack", "all")
    for node in model.graph.nodes:
        one = alone(model, node.index)
        assert one is not None
        (mine,) = one.function("float").batch(*(theirs[i] for i in one.graph.inputs))
        want = theirs[node.outputs[0]]
        assert np.abs(mine - want).max() <= 2e-6 * np.abs(want).max(), f"op {node.index} {node.op}"
