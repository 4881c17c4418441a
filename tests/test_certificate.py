"""Certificates: what agrees is called exact, one wrong step is named with its op and element, and LiteRT's failures are outcomes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import generate
import numpy as np
import pytest
import small

import qsim
from qsim import certificate
from qsim.errors import OracleFailed
from qsim.graph import Graph, Model, Node, Options, Tensor
from qsim.litert import Oracle
from qsim.ops import REGISTRY
from qsim_cli import main

DIGITS = Path(__file__).parent.parent / "experiments" / "demo" / "digits_int8.tflite"


@pytest.fixture(scope="module")
def digits():
    return qsim.load(DIGITS)


def test_a_model_that_agrees_is_exact_in_every_flavour(digits, oracle):
    found = qsim.certify(digits, samples=5)
    assert found.exact and certificate.exit_code(found) == 0 and found.sha256 == hashlib.sha256(DIGITS.read_bytes()).hexdigest()
    assert set(found.flavours) == {"xnnpack", "reference", "builtin"} and dict(found.samples) == dict.fromkeys(certificate.STYLES, 5)
    document = json.loads(json.dumps(found.document()))
    assert document["exact"] and document["litert"] == oracle.version() and document["numerics"] == qsim.NUMERICS
    for outcome in document["flavours"].values():
        for tally in (*outcome["per_op"], *outcome["whole"]):
            shape = next(t.shape for t in digits.graph.tensors if digits.graph.key(t.index) == tally["tensor"])
            assert tally["elements"] == 15 * np.prod(shape) and tally["differing"] == 0 and tally["first"] is None
        assert len(outcome["per_op"]) == len(digits.graph.nodes)


def test_one_wrong_step_is_named_with_op_and_element(digits, oracle, monkeypatch):
    wrong = next(n.index for n in digits.graph.nodes if n.op == "CONV_2D")
    built = certificate.Judge.__init__

    def broken(self, *args):
        built(self, *args)
        plan = self.ops[wrong].params["plans"][0]
        plan["output_zero_point"] = plan["output_zero_point"] + np.int32(1)

    monkeypatch.setattr(certificate.Judge, "__init__", broken)
    found = certificate.certify(digits, samples=2, flavours=["reference"])
    outcome = found.flavours["reference"]
    assert outcome.status == "differs" and f"op {wrong} CONV_2D alone" in outcome.cause and certificate.exit_code(found) == 1
    (tally,) = [t for t in outcome.per_op if t.differing]
    assert tally.first is not None and tally.first["qsim"] == tally.first["litert"] + 1 and tally.first["index"][0] == 0
    assert outcome.differing == tally.differing


def test_given_inputs_are_used(digits, oracle):
    t = digits.graph.tensors[digits.graph.inputs[0]]
    x = np.zeros((3, *t.shape), t.type)
    found = certificate.certify(digits, [x], flavours=["xnnpack"])
    assert found.exact and dict(found.samples) == {"given": 3} and found.seed is None


def test_the_failures_of_litert_are_outcomes(digits, oracle, monkeypatch):
    def aborts(self, *args, **more):
        raise OracleFailed("LiteRT aborted with SIGABRT")

    monkeypatch.setattr(Oracle, "run", aborts)
    found = certificate.certify(digits, samples=1, flavours=["xnnpack"])
    assert found.flavours["xnnpack"].status == "litert failed" and "SIGABRT" in found.flavours["xnnpack"].cause
    assert certificate.exit_code(found) == 7


def test_reals_may_differ_a_little_integers_not_at_all():
    tally = certificate.Tally(0, "ADD", "y", "float32")
    theirs = np.array([[100.0, np.nan, np.inf, 1.0]], np.float32)
    tally.add(theirs + np.float32([1e-4, 0, 0, 0]), theirs)
    assert tally.differing == 0
    tally.add(theirs + np.float32([0, 0, 0, 4e-3]), theirs, 7, lambda: np.float32([[0, 0, 0, 3e-3]]))
    assert tally.differing == 1 and tally.rounding == 0 and tally.first is not None and tally.first["index"] == [7, 3]
    tally.add(theirs + np.float32([0, 0, 0, 4e-3]), theirs, 7, lambda: np.float32([[0, 0, 0, 5e-3]]))
    assert tally.differing == 1 and tally.rounding == 1
    whole = certificate.Tally(0, "ADD", "y", "int8")
    whole.add(np.int8([[1, 2]]), np.int8([[1, 3]]))
    assert whole.differing == 1
    with pytest.raises(ValueError, match="int16"):
        whole.add(np.int16([[1]]), np.int8([[1]]))


def test_styles_reach_the_ends_and_the_middle(digits):
    made = certificate.generated(digits, 50)
    assert set(np.unique(made["saturating"][0])) == {-128, 127}
    assert len(np.unique(made["uniform"][0])) == 256 and len(np.unique(made["ties"][0])) <= 9
    again, other = certificate.generated(digits, 50), certificate.generated(digits, 50, seed=1)
    assert all(np.array_equal(made[s][0], again[s][0]) for s in certificate.STYLES) and not np.array_equal(
        made["ties"][0], other["ties"][0]
    )


def test_the_command(oracle, tmp_path, capsys):
    target = tmp_path / "certificate.json"
    asked = ["certify", str(DIGITS), "--samples", "2", "--flavour", "xnnpack", "--flavour", "reference", "-o", str(target)]
    assert main(asked) == 0
    assert "exact" in capsys.readouterr().out and set(json.loads(target.read_text())["flavours"]) == {"xnnpack", "reference"}
    assert main(asked) == 6 and "--force" in capsys.readouterr().err
    assert main(["certify", str(DIGITS), "--samples", "0"]) == 2
    np.savez(tmp_path / "x.npz", x=np.zeros((2, 3, 3, 1), np.int8))
    assert main(["certify", str(DIGITS), "--data", str(tmp_path / "x.npz")]) == 5 and "shape" in capsys.readouterr().err


def test_a_float_model_is_compared_within_the_tolerance_of_reals(oracle):
    found = certificate.certify(small.float_net(), samples=3, flavours=["xnnpack"])
    assert found.exact and {t.type for t in found.flavours["xnnpack"].whole} == {"float32"}


def test_a_known_defect_of_litert_is_named_as_the_cause(oracle):
    row = next(r for r in generate.rows(REGISTRY, variants=1) if (r.op.name, r.types[0][0], r.flavour) == ("SUM", "int8", "reference"))
    found = certificate.certify(generate.trial(row, 0).model, samples=4, flavours=["reference", "builtin"])
    assert found.flavours["reference"].status == "differs" and "known of LiteRT: it reads int8" in found.flavours["reference"].cause
    assert found.flavours["builtin"].status == "exact"


def test_outputs_that_litert_does_not_hand_out_are_not_counted():
    """XNNPACK keeps no memory for what nothing reads."""
    tensors = (Tensor(0, "axis", (), "int32", None, np.array(1, np.int32)), Tensor(1, "x", (1, 6), "float32"))
    tensors += tuple(Tensor(2 + n, f"y{n}", (1, 2), "float32") for n in range(3))
    model = Model((Graph(tensors, (Node(0, "SPLIT", (0, 1), (2, 3, 4), Options(num_splits=3)),), (1,), (2,)),))
    found = certificate.certify(model, flavours=("xnnpack", "reference"), samples=4)
    assert found.exact
    counted = {f: [t.elements for t in o.per_op] for f, o in found.flavours.items()}
    assert counted == {"xnnpack": [24, 0, 0], "reference": [24, 24, 24]}
    assert {f: o.unseen for f, o in found.flavours.items()} == {"xnnpack": ("y1", "y2"), "reference": ()}
    assert found.document()["flavours"]["xnnpack"]["unseen"] == ["y1", "y2"]
    assert {line["flavour"]: line["tensors not seen"] for line in certificate.rows(found)} == {"xnnpack": 2, "reference": 0}


def test_where_sums_cancel_or_curves_are_steep_rounding_decides_what_a_real_may_differ_by(oracle, monkeypatch):
    """A logistic of the difference of large sums: last bits of the sums move it far. A wrong bias there does not pass for rounding."""
    rng = np.random.default_rng(0)
    w, b = np.concatenate([a := rng.normal(0, 3e4, (1, 512)), -a], 1).astype(np.float32), np.zeros(1, np.float32)
    tensors = (Tensor(0, "x", (1, 1024), "float32"), Tensor(1, "w", w.shape, "float32", None, w), Tensor(2, "b", (1,), "float32", None, b))
    tensors += (Tensor(3, "h", (1, 1), "float32"), Tensor(4, "y", (1, 1), "float32"))
    act = Options(fused_activation_function="NONE", keep_num_dims=False, weights_format="DEFAULT", asymmetric_quantize_inputs=False)
    nodes = (Node(0, "FULLY_CONNECTED", (0, 1, 2), (3,), act), Node(1, "LOGISTIC", (3,), (4,), Options()))
    model = Model((Graph(tensors, nodes, (0,), (4,)),))
    half = rng.normal(size=(64, 1, 512))
    x = np.concatenate([half, half], 2).astype(np.float32)
    found = certificate.certify(model, [x], flavours=["builtin"]).flavours["builtin"]
    assert found.status == "exact" and found.rounding > 0 and max(t.worst for t in found.whole) > 1e-3
    made = certificate.Judge.__init__

    def wrong(self, *args):
        made(self, *args)
        for fn in (self.function, *self.ops.values()):
            fn.params["constants"] = {k: v + 0.1 if v.shape == (1,) else v for k, v in fn.params["constants"].items()}

    monkeypatch.setattr(certificate.Judge, "__init__", wrong)
    even = np.concatenate([half[:, :, :1], 0 * half[:, :, 1:], half[:, :, :1], 0 * half[:, :, 1:]], 2).astype(np.float32)
    assert certificate.certify(model, [even], flavours=["builtin"]).flavours["builtin"].status == "differs"
