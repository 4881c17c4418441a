"""The ranges that the demo compares: built-in strategies by name, and three families written here as anyone would write their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Strategy = str | Callable[[Any], tuple[float, float]]


def sigmas(k: float) -> Strategy:
    """mean +- k standard deviations, never beyond what was seen."""

    def strategy(d: Any) -> tuple[float, float]:
        middle = (d.lower + d.upper) / 2
        mean = np.average(middle, weights=d.weight)
        reach = k * np.sqrt(np.average((middle - mean) ** 2, weights=d.weight))
        return max(d.min, float(mean - reach)), min(d.max, float(mean + reach))

    return strategy


def shrunk(part: float) -> Strategy:
    """This part of the range from minimum to maximum."""
    return lambda d: (part * d.min, part * d.max)


def octave() -> Strategy:
    """Ends widened to powers of two, for hardware that has shifts but no multipliers."""

    def wider(x: float) -> float:
        return float(np.sign(x) * 2.0 ** np.ceil(np.log2(abs(x)))) if x else 0.0

    return lambda d: (wider(d.min), wider(d.max))


STRATEGIES: dict[str, Strategy] = {
    "minmax": "minmax",
    "moving_average": "moving_average",
    **{name: name for name in ("mse", "mse:p=2.4", "mse:p=3", "mse:p=4")},
    **{f"percentile:{p}": f"percentile:{p}" for p in ("99.999", "99.99", "99.9", "99.5", "99", "98", "95")},
    **{f"{k} sigma": sigmas(k) for k in (10, 8, 6, 5, 4, 3)},
    **{f"{part:.0%} of minmax": shrunk(part) for part in (0.9, 0.8, 0.7, 0.6, 0.5, 0.4)},
    "powers of two": octave(),
}
