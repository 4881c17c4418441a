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
