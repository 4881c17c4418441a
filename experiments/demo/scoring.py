"""What the demo measures: accuracy, distance from the float net's answer, and what a difference between two nets is worth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Z = 1.96  # 95 % of a normal distribution lie within Z standard deviations
Z_MANY = 3.09  # the same 5 % spread over 25 comparisons
FLOOR = 1 / 512  # half a step of an int8 probability: what a stored zero may stand for


@dataclass(frozen=True)
class Score:
    """One net on one part. right: bool (n,). divergence: (n,), nats from the float net's answer to this one's."""

    name: str
    right: np.ndarray
    divergence: np.ndarray

    @property
    def accuracy(self) -> float:
        return float(self.right.mean())

    @property
    def wrong(self) -> int:
        return int((~self.right).sum())

    @property
    def kl(self) -> float:
        return float(self.divergence.mean())


def score(name: str, answer: np.ndarray, float_answer: np.ndarray, labels: np.ndarray) -> Score:
    """answer, float_answer: probabilities (n, 10). KL(float || answer), both floored at FLOOR and normalized."""
    p, q = (np.maximum(a.reshape(len(labels), -1).astype(np.float64), FLOOR) for a in (float_answer, answer))
    p, q = p / p.sum(1, keepdims=True), q / q.sum(1, keepdims=True)
    return Score(name, q.argmax(1) == labels, (p * np.log(p / q)).sum(1))


def wilson(right: np.ndarray) -> tuple[float, float]:
    """95 % interval of an accuracy (Wilson's score interval): honest near 100 %, where mean +- 2 standard errors is not."""
    n, p = len(right), right.mean()
    middle, reach = p + Z**2 / (2 * n), Z * np.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
    return float((middle - reach) / (1 + Z**2 / n)), float((middle + reach) / (1 + Z**2 / n))


def lost_won(base: Score, other: Score) -> tuple[int, int]:
    """(digits that only `base` reads, digits that only `other` reads)."""
    return int((base.right & ~other.right).sum()), int((other.right & ~base.right).sum())


def difference(lost: int, won: int, n: int) -> tuple[float, float]:
    """95 % interval of the accuracy gained, from paired counts: Bonett and Price's interval, which adds one to each count."""
    a, b = (lost + 1) / (n + 2), (won + 1) / (n + 2)
    reach = Z * np.sqrt((a + b - (b - a) ** 2) / (n + 2))
    return float(b - a - reach), float(b - a + reach)


def reads_alike(a: Score, b: Score) -> bool:
    """Whether the interval of the difference in accuracy holds zero."""
    low, high = difference(*lost_won(a, b), len(a.right))
    return low <= 0 <= high


def best(scores: list[Score]) -> Score:
    """The smallest KL from the float net; the first of equals."""
    return min(scores, key=lambda s: s.kl)


def is_tie(a: Score, b: Score) -> bool:
    """Whether the mean paired difference in divergence lies within Z_MANY standard errors of zero: one of many comparisons."""
    d = a.divergence - b.divergence
    return bool(abs(d.mean()) <= Z_MANY * d.std(ddof=1) / np.sqrt(len(d)))
