"""explain: the integers of every op, as records and as print."""

from __future__ import annotations

import itertools
import json

import generate
import numpy as np
import pytest
import small

import qsim
from qsim.graph import Graph, Model, Node, Options, QParams, Tensor
from qsim.ops import REGISTRY
from qsim.plans import FLOAT, HOST, WHOLE, OpPlan

DEPTH, CHANNELS = 3, 2


def quantized(*scales: float, zero: int = 0) -> QParams:
    return QParams(np.array(scales, np.float32), np.full(len(scales), zero, np.int64), -128, 127)


def dense(weights: np.ndarray, bias: np.ndarray, zero: int = -5) -> Model:
    """int8 (1, 3) -> FULLY_CONNECTED, per-channel -> int8 (1, 2)."""
    tensors = (
        Tensor(0, "x", (1, DEPTH), "int8", quantized(0.5, zero=zero)),
        Tensor(1, "w", (CHANNELS, DEPTH), "int8", quantized(0.25, 0.125), data=weights.astype(np.int8)),
        Tensor(2, "b", (CHANNELS,), "int32", quantized(0.125, 0.0625), data=bias.astype(np.int32)),
        Tensor(3, "y", (1, CHANNELS), "int8", quantized(1.0, zero=7)),
    )
    node = Node(0, "FULLY_CONNECTED", (0, 1, 2), (3,), Options(small.DENSE))
    return Model((Graph(tensors, (node,), (0,), (3,)),))


WEIGHTS, BIAS = np.array([[1, -2, 3], [-127, 127, 0]]), np.array([1000, -50])


@pytest.mark.parametrize("zero", [-128, -5, 0, 127])
def test_the_accumulator_bound_is_what_the_worst_input_reaches(zero):
    (plan,) = qsim.explain(dense(WEIGHTS, BIAS, zero), op=0).plans
    corners = np.array(list(itertools.product((-128, 127), repeat=DEPTH)))
    assert plan.bound == np.abs((corners - zero) @ WEIGHTS.T + BIAS).max(initial=np.abs(BIAS).max())
    assert plan.headroom == pytest.approx(31 - np.log2(plan.bound))


def test_an_accumulator_that_would_wrap_has_no_headroom():
    (plan,) = qsim.explain(dense(WEIGHTS, np.array([2**31 - 100, 0]))).plans
    assert plan.headroom is not None and plan.headroom < 0


def test_multiplier_and_shift_are_the_scales():
    (row,) = qsim.explain(dense(WEIGHTS, BIAS), flavour="builtin").rows()
    ratio = np.array(row["leaves"]["multiplier"], float) * 2.0 ** (np.array(row["leaves"]["shift"]) - 31)
    assert np.allclose(ratio, [0.125, 0.0625], rtol=2**-30)
    assert row["leaves"]["output_zero_point"] == 7


def test_the_print_of_one_op_holds_every_integer():
    text = str(qsim.explain(dense(WEIGHTS, BIAS), op=0, flavour="builtin"))
    for word in ("input_zero_point", "multiplier", "shift", "act_min", "-127", "accumulator", "headroom", "scale 0.5, zero point -5", "t3"):
        assert word in text, word


@pytest.mark.parametrize("flavour", ["xnnpack", "reference", "builtin"])
def test_rows_are_plain_values(flavour):
    (row,) = json.loads(json.dumps(qsim.explain(dense(WEIGHTS, BIAS), flavour=flavour).rows()))
    assert row["index"] == 0 and len(row["leaves"]["bias"]) == CHANNELS


def test_flavours_say_which_rounding_they_use():
    rules = {qsim.explain(dense(WEIGHTS, BIAS), flavour=f).plans[0].rule for f in ("xnnpack", "reference", "builtin")}
    assert len(rules) == 3


def test_float_ops_and_missing_kernels_are_listed_with_the_reason():
    assert [p.rule for p in qsim.explain(small.float_net()).plans] == ["float: the real function"] * 5
    model = dense(WEIGHTS, BIAS)
    strange = model.but(graphs=(model.graph.but(nodes=(model.graph.nodes[0].but(op="CUSTOM:Odd"),)),))
    assert "CUSTOM:Odd is not known" in str(qsim.explain(strange))
    wide = model.graph.tensors[3].but(type="int16")
    other = model.but(graphs=(model.graph.but(tensors=(*model.graph.tensors[:3], wide)),))
    assert "no plan" in qsim.explain(other).plans[0].rule


@pytest.mark.parametrize("arguments", [{"op": 1}, {"op": -1}, {"flavour": "tflm"}])
def test_what_does_not_exist_is_refused(arguments):
    with pytest.raises(qsim.BadRecipe):
        qsim.explain(dense(WEIGHTS, BIAS), **arguments)


# every kernel ---------------------------------------------------------


COPYING = (
    "raw copy",
    "stored number",
    "the stored number",
    "exact",
    "number kept",
    "largest code",
    "sums of codes as they are",
)  # rules without numbers of their own
EXPLAINED = [r for r in generate.rows(REGISTRY, variants=1) if r.number == 0]


@pytest.mark.parametrize("op", sorted({r.op.name for r in EXPLAINED}))
def test_every_kernel_is_explained(op):
    """In every flavour, as JSON and in print; what is computed with is named."""
    for row in (r for r in EXPLAINED if r.op.name == op):
        model = generate.trial(row, 0).model
        found = qsim.explain(model, flavour=row.flavour)
        (facts,) = json.loads(json.dumps(found.rows(), allow_nan=False))
        (plan,) = found.plans
        assert plan.rule and not plan.rule.startswith("no plan"), f"{row}: {plan.rule}"
        text = str(qsim.explain(model, 0, row.flavour))
        assert plan.rule in text and plan.rule in str(found) and all(f"  {name} " in text for name in plan.leaves)
        assert set(facts["leaves"]) == set(plan.leaves)
        if any(o.scale for o in (*plan.inputs, *plan.outputs)):
            assert plan.rule not in (FLOAT, WHOLE), str(row)
            unscaled = plan.rule == HOST or plan.rule.startswith(COPYING)
            assert unscaled or _numbers(row, plan), f"{row}: {plan.rule} {set(plan.leaves)}"
        elif plan.rule == WHOLE:
            assert not {"float32", "float16"} & {*row.types[0], *row.types[1]}, str(row)
        elif plan.rule not in (HOST, FLOAT):
            assert not plan.leaves, f"{row}: numbers without a scale, {set(plan.leaves)}"


def _numbers(row: generate.Row, plan: OpPlan) -> bool:
    """A table or a factor; clamps and zero points where products are rescaled in integers."""
    names = set(plan.leaves)
    if {"table", "exp"} & names or not names:
        return bool(names) or row.op.name in ("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR")
    fixed = {n for n in names if n.endswith("multiplier") and n != "real_multiplier"}
    shifts = {n for n in names if n.endswith(("shift", "right"))}
    return bool(not fixed or shifts or "fractional bits" in plan.rule) and any(
        n.endswith(("zero_point", "act_min", "scale", "value", "offset")) for n in names
    )
