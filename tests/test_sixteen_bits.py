"""int16 sums: the builtin ADD rounds otherwise where it broadcasts, in a few values of a million; dense data tell the two apart."""

from __future__ import annotations

import numpy as np
import pytest
from nets import Net

import qsim
from qsim.scheme import INT16X8
from qsim.writer import to_bytes

ENDS = 14.29, 1.278, 14.28  # of a net in which the two differ


@pytest.mark.parametrize("shapes", (((1, 64, 64), (64,)), ((1, 4096), (4096,)), ((1, 64, 64), (1, 64, 1))), ids=str)
def test_sums_equal_litert(shapes, oracle):
    net = Net()
    a, b = (net.input(*s) for s in shapes)
    y = net.two("ADD", a, b)
    model = net.model(y)
    ranges = {model.graph.key(t): (-end, end) for t, end in zip((a, b, y), ENDS, strict=True)}
    made = qsim.quantize(model, ranges, INT16X8, io="int16")
    rng = np.random.default_rng(0)
    xs = [rng.integers(-32767, 32768, (128, *s)).astype(np.int16) for s in shapes]
    for flavour in ("reference", "builtin"):
        theirs = next(iter(oracle.run(to_bytes(made), xs, flavour).values()))
        assert (made.function("integer", flavour).batch(*xs)[0] == theirs).all()


def test_sums_of_power_of_two_scales_are_written_for_the_general_kernel(oracle):
    """pot_scale_int16, true by default, would choose another kernel there."""
    net = Net()
    y = net.op("ADD", [net.input(1, 8), net.input(1, 8)], (1, 8), fused_activation_function="NONE")
    model = net.model(y)
    ends = 32767 / 1024
    made = qsim.quantize(model, {model.graph.key(t): (-ends, ends) for t in (*model.graph.inputs, y)}, INT16X8, io="int16")
    assert {float(t.qparams.scale[0]) for t in made.graph.tensors} == {2.0**-10}
    xs = [np.random.default_rng(k).integers(-32767, 32768, (16, 1, 8)).astype(np.int16) for k in (0, 1)]
    theirs = next(iter(oracle.run(to_bytes(made), xs, "builtin").values()))
    assert (made.function("integer", "builtin").batch(*xs)[0] == theirs).all()
