"""Question: how much do int8 ranges and the KL of the outputs depend on the order of the calibration samples?

Answer, per net: with the moving average of each sample's extremes (what ai-edge-quantizer does by default) over several orders of the same
samples (by class, by class backwards, at random), by how much the ends of a tensor's range move, as a share of its mean width, and the mean
KL to the float net on the same test samples, in nats, with two standard errors; exact integer mode. With min/max, MSE and percentile every
order must give the same bytes of ranges and of the quantized file: the run stops where one does not.

    QSIM_MODELS=... python experiments/moving_average_order.py [--net resnet8 kws vww96] [--orders 10] [--samples 500] [--out FILE.json]
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import labs
import numpy as np
import sets
from realdata import net

import calibrate
import qsim
from calibrate.ranging import Ranges, several
from calibrate.trials import Bench
from qsim.writer import to_bytes

FREE = ("minmax", "mse", "percentile:99.99")  # of the order


def orders(labels: np.ndarray, count: int) -> dict[str, np.ndarray]:
    """The numbers of the samples by class, by class backwards, and at random."""
    by_class, rng = np.argsort(labels.reshape(-1), kind="stable"), np.random.default_rng(labs.SEED)
    return {"by class": by_class, "backwards": by_class[::-1]} | {f"random {k}": rng.permutation(len(labels)) for k in range(count - 2)}


def ordered_ranges(model: qsim.Model, name: str, count: int) -> Iterator[tuple[str, list[Ranges]]]:
    """(order, the ranges of the moving average and of `FREE`), each from a pass of its own."""
    x, labels = sets.load(sets.TASKS[name].calibration)
    assert labels is not None
    for order, rows in orders(labels, count).items():
        stats = calibrate.observe(model, [x[rows]])
        yield order, several(model, stats, ("moving_average", *FREE), qsim.INT8, sets.TASKS[name].domain)


def measured(name: str, samples: int, count: int) -> dict[str, Any]:
    model, x = net(sets.TASKS[name].net), labs.drawn(name, samples)[0]
    bench = Bench(model, None)
    x = np.reshape(x, (len(x), *model.graph.tensors[model.graph.inputs[0]].shape))
    reference = bench.reference((x,))

    def losses(ranges: Ranges) -> np.ndarray:
        return bench.losses(reference, bench.outputs(qsim.quantize(model, ranges), (x,)))

    found = dict(ordered_ranges(model, name, count))
    require_equal(model, [ranges[1:] for ranges in found.values()])
    moved = {order: losses(ranges[0]) for order, ranges in found.items()}
    low, high = (pick(moved, key=lambda k: moved[k].mean()) for pick in (min, max))
    return {
        "moving_average": {order: labs.mean_error(v) for order, v in moved.items()}, "best_order": low, "worst_order": high,
        "worst_behind_best": labs.mean_error(moved[high] - moved[low]),
        "spread": spread(model, [ranges[0] for ranges in found.values()]),
        "ours": {s: labs.mean_error(losses(r)) for s, r in zip(FREE, next(iter(found.values()))[1:], strict=True)},
        "orders": len(found), "measure": bench.measure,
    }  # fmt: skip


def require_equal(model: qsim.Model, found: Sequence[Sequence[Ranges]]) -> None:
    """Every order's ranges and files are those of the first, byte for byte."""
    for by_order in zip(*found, strict=True):
        assert len({ends(r).tobytes() for r in by_order}) == 1 and len({tuple(r) for r in by_order}) == 1, by_order[0].strategy
        assert len({to_bytes(qsim.quantize(model, r)) for r in by_order}) == 1, by_order[0].strategy


def ends(ranges: Mapping[str, Any]) -> np.ndarray:
    """(tensors, 2)."""
    return np.array([*ranges.values()], np.float64)


def spread(model: qsim.Model, found: Sequence[Ranges]) -> dict[str, Any]:
    """By how much the end that moves most moves over the orders, as a share of the mean width: median and largest over the tensors whose
    range is estimated."""
    inputs = {model.graph.key(t) for t in model.graph.inputs}
    keys = [k for k in found[0] if k not in inputs]
    both = np.array([[r[k] for k in keys] for r in found], np.float64)  # (orders, tensors, 2)
    moved = np.ptp(both, axis=0).max(axis=1) / np.maximum((both[..., 1] - both[..., 0]).mean(axis=0), np.finfo(np.float64).tiny)
    return {"median": float(np.median(moved)), "largest": float(moved.max()), "of": keys[int(moved.argmax())], "tensors": len(keys)}


def print_row(name: str, row: Mapping[str, Any]) -> None:
    print(f"\n{name}, {row['measure']}")
    for order, (kl, error) in [*row["moving_average"].items(), *row["ours"].items()]:
        print(f"{order:20} {kl:.6f} +- {error:.6f}")
    s, (behind, error) = row["spread"], row["worst_behind_best"]
    print(f"ends move by {s['median']:.1%} of the width (median of {s['tensors']} tensors), at most {s['largest']:.1%}")
    print(f"{row['worst_order']} behind {row['best_order']}: {behind:.6f} +- {error:.6f}", flush=True)


def told(name: str, row: Mapping[str, Any]) -> str:
    low, high = (row["moving_average"][row[f"{which}_order"]][0] for which in ("best", "worst"))
    return f"{name} KL {low:.4g} to {high:.4g}, ends move by up to {row['spread']['largest']:.1%}"


def main() -> None:
    p = labs.options(__doc__, ("resnet8", "kws", "vww96"), 500, "moving_average_order.json")
    p.add_argument("--orders", type=int, default=10)
    asked = p.parse_args()
    rows = {}
    for name in asked.net:
        settings = {"samples": asked.samples, "orders": asked.orders}
        rows[name] = labs.row(asked.out, name, settings, functools.partial(measured, name, asked.samples, asked.orders))
        print_row(name, rows[name])
    seen = "; ".join(told(name, r) for name, r in rows.items())
    print(f"\nmoving average over {asked.orders} orders: {seen}; {', '.join(FREE)}: the same bytes in every order")


if __name__ == "__main__":
    main()
