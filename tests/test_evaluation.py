"""Metrics against their definitions, computed the long way."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from calibrate.evaluation import auc, divergence, reals, sqnr, verdict
from qsim.graph import QParams


def test_auc_counts_ordered_pairs():
    rng = np.random.default_rng(0)
    for _ in range(20):
        scores, positive = rng.integers(0, 6, 30).astype(float), rng.random(30) < 0.4
        positive[:2] = True, False
        pairs = [(a > b) + 0.5 * (a == b) for a, b in itertools.product(scores[positive], scores[~positive])]
        assert auc(scores, positive) == pytest.approx(np.mean(pairs))


def test_the_verdict_is_the_stated_rule():
    assert verdict(100, 80, 5000)["not_inferior"]  # 20 <= 2 sqrt(180)
    assert not verdict(100, 50, 5000)["not_inferior"]  # 50 > 24.5, and 1.0 points
    assert verdict(15, 0, 5000)["not_inferior"]  # 0.3 points
    low, high = verdict(100, 50, 5000)["interval"]
    assert (low, high) == pytest.approx((1 - 2 * np.sqrt(150) / 50, 1 + 2 * np.sqrt(150) / 50))


def test_reals_are_dequantized_codes():
    q = QParams(np.array([0.5], np.float32), np.array([3]), -128, 127)
    assert reals(np.array([[-1, 3], [5, 127]], np.int8), q).tolist() == [[-2, 0], [1, 62]]


def test_divergence_and_noise():
    p, q = np.array([[0.5, 0.5], [0.9, 0.1]]), np.array([[0.25, 0.75], [0.9, 0.1]])
    assert divergence(p, q) == pytest.approx((0.5 * np.log(2) + 0.5 * np.log(0.5 / 0.75)) / 2)
    assert sqnr(p, p) is None
    assert sqnr(np.array([[10.0]]), np.array([[9.0]])) == pytest.approx(20.0)
