"""The scale limits of LiteRT's kernels at their edges, for types other than int8; experiments/scale_limits.py tries every power of two."""

from __future__ import annotations

import pytest
import scale_limits

pytestmark = pytest.mark.exact
EDGES = [  # what, flavour, exponent of the ratio inside and outside, what happens outside
    ("CONV_2D uint8 x uint8", "xnnpack", 7, 8, "R"),
    ("TRANSPOSE_CONV int8 x int8", "xnnpack", 7, 8, "R"),
    ("FULLY_CONNECTED int8 x int4", "xnnpack", 7, 8, "R"),
    ("FULLY_CONNECTED int8 x int4, bias 2^27", "xnnpack", -28, -20, "x"),
    ("CONV_2D int16 x int8", "reference", 6, 7, "x"),
    ("CONV_2D int16 x int8, bias 2^40", "reference", -32, -33, "x"),
    ("TRANSPOSE_CONV int16 x int8, bias 2^47", "xnnpack", -17, -16, "x"),
    ("ADD int16 zero 0, s_a = s_b", "xnnpack", 13, 14, "A"),
    ("SUB int16 zero 0, s_a = s_b", "reference", 13, 15, "x"),
    ("SQUARED_DIFFERENCE int8, s_a = s_b = 1", "reference", 11, 12, "A"),
    ("MUL int16 zero 0", "xnnpack", -1, 0, "x"),
    ("MUL uint8 zero 255", "builtin", -2, -1, "x"),
    ("MEAN int16", "reference", 15, 16, "x"),
    ("QUANTIZE int16 to int8", "xnnpack", 15, 16, "x"),
    ("RELU int16", "reference", 15, 16, "x"),
    ("HARD_SWISH int8, s_x = 1/16", "xnnpack", 6, 7, "R"),
    ("LOGISTIC int16, s_x", "reference", 2, 3, "x"),
    ("SOFTMAX int16, s_x", "reference", 2, 3, "x"),
    ("SOFTMAX uint8, s_x", "reference", -25, -26, "A"),
    ("MAX_POOL_2D uint8", "xnnpack", 0, 1, "R"),
    ("CONCATENATION int16, one input", "xnnpack", 0, 1, "x"),
]


@pytest.mark.parametrize("what, flavour, inside, outside, sign", EDGES, ids=lambda v: str(v))
def test_the_edge_lies_where_it_was_measured(what, flavour, inside, outside, sign, oracle):
    make = dict(scale_limits.rows())[what]
    assert [scale_limits.sign(oracle, make(e), flavour) for e in (inside, outside)] == [".", sign]


@pytest.mark.parametrize("what", ["QUANTIZE int16 to uint8", "RELU_N1_TO_1 int16"])
def test_what_has_no_kernel(what, oracle):
    make = dict(scale_limits.rows())[what]
    assert {scale_limits.sign(oracle, make(0), f) for f in scale_limits.FLAVOURS} == {"R"}
