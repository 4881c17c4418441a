"""How far is fake mode from integer mode? Distance in steps of the output, over generated single-op models.

    python experiments/fake_distance.py [--draws 4] [--only ADD MUL] [--markdown]

Every kernel with a quantized output, per op, types and flavour (xnnpack and reference): the largest distance, the share of elements
that differ at all, and the share that differ by more than one step. Four draws are one of each style of tests/domains.py: random
scales, ties, saturated results, and scale ratios at the limits of a kernel.
Answer: results/fake_distance.json; of a run of all rows it is written anew.
"""

from __future__ import annotations

import argparse
import itertools
import json
import pathlib
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "tests")]

import domains  # noqa: E402
import generate  # noqa: E402
import jax  # noqa: E402
import numpy as np  # noqa: E402
from sharing import Shared, reals, structure  # noqa: E402

from qsim.graph import QParams  # noqa: E402
from qsim.ops import REGISTRY  # noqa: E402

RESULTS = HERE / "results" / "fake_distance.json"
FLAVOURS = ("xnnpack", "reference")
STORED = ("int8", "uint8", "int16")
WITHOUT = {  # op: why the real function is not what its kernel aims at
    **dict.fromkeys(domains.STORED, "a function of the stored number, whatever it stands for"),
    "REDUCE_PROD": "LiteRT rounds after each product",
    "MATRIX_DIAG": "fills with the stored number 0",
    "SCATTER_ND": "fills with the stored number 0",
    "EMBEDDING_LOOKUP": "copies stored numbers, whatever the scales",
    "DIV": "LiteRT's small quotients are wrong",
}
TABLE = "a table of 513 entries, interpolated: far off where the curve is steep"
SUMS = "float32 sums of 16-bit products and of large biases lose last bits where terms cancel; far saturated sums may wrap"
FAR = {  # (op, type of the output): (largest distance, why it is more than one step)
    ("ADD", "uint8"): (4, "XNNPACK's one shift at the limit of its scale ratios"),
    **{
        ("EXP", "int16"): (400, TABLE),
        ("GELU", "int16"): (100, TABLE),
        ("LOG", "int16"): (24000, TABLE),
        ("RSQRT", "int16"): (24200, TABLE),
    },
    ("LOGISTIC", "int16"): (6, "LiteRT's 256-entry sigmoid, interpolated"),
    ("TANH", "int16"): (12, "LiteRT's 256-entry sigmoid, interpolated"),
    ("SOFTMAX", "int16"): (1900, "exponentials from a table that ends at -10, reciprocals from another"),
    ("RESIZE_BILINEAR", "int16"): (21, "weights in 1/1024"),
    **dict.fromkeys(
        ((op, "int16") for op in ("BATCH_MATMUL", "CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV")), (65535, SUMS)
    ),
}
WRAPPED = {  # (op, types): as FAR
    ("FULLY_CONNECTED", (("int8", "int4", "int32"), ("int8",))): (255, "XNNPACK sums 16 times each weight: far saturated sums wrap"),
}
IGNORED = ("fused_activation_function", "TANH")  # LiteRT's integer kernels take it and leave it out


def rows(variants: int = 2) -> list[generate.Row]:
    """The rows to measure, those of one structure together."""
    found = (r for r in generate.rows(REGISTRY, variants) if r.flavour in FLAVOURS and _stored(r))
    return sorted((r for r in found if r.op.name not in WITHOUT and _compared(r)), key=structure)


def _stored(row: generate.Row) -> bool:
    """Some output has a scale."""
    indices = domains.INDEX_OUTPUTS.get(row.op.name, ())
    return any(t in STORED for k, t in enumerate(row.types[1]) if k not in indices)


def _compared(row: generate.Row) -> bool:
    """Some data input is real or has a scale: else (all int32, say) there is nothing to compare. And no activation is left out."""
    data = [t for p, t in enumerate(row.types[0]) if p not in row.case.values]
    return IGNORED not in row.options.items() and bool({*STORED, "float32"} & set(data))


def bound(op: str, types: generate.Types) -> float:
    """The largest distance that is accounted for."""
    return WRAPPED.get((op, types), FAR.get((op, types[1][0]), (1, "")))[0]


def parsed(text: str) -> generate.Types:
    """The types of a line of the results."""
    ins, outs = text.split(" -> ")
    return tuple(ins.split(", ")), tuple(outs.split(", "))


class Distance:
    """Runs trials in fake mode and in integer mode of some flavours."""

    def __init__(self) -> None:
        self.fake, self.integer = Shared("fake"), Shared("integer")

    def __call__(self, trial: generate.Trial, flavours: Iterable[str]) -> dict[str, np.ndarray]:
        """By flavour: |fake - integer| in steps of each output that has a scale, of all samples, in one flat array."""
        real = self.fake(trial.row, trial.model, reals(trial))
        return {f: self._distance(trial, real, replace(trial.row, flavour=f)) for f in flavours}

    def _distance(self, trial: generate.Trial, real: tuple[np.ndarray, ...], row: generate.Row) -> np.ndarray:
        codes, tensors, found = self.integer(row, trial.model, trial.inputs), trial.model.graph.tensors, [np.zeros(0, np.int64)]
        for t, r, c in zip(trial.model.graph.outputs, real, codes, strict=True):
            q = tensors[t].qparams
            if q is not None:
                found.append(np.abs(_steps(r, q) - c.astype(np.int64)).ravel())
        return np.concatenate(found)


def _steps(x: np.ndarray, q: QParams) -> np.ndarray:
    return np.rint(x.astype(np.float64) / np.float64(q.scale[0])).astype(np.int64) + q.zero_point[0]


def measured(chosen: Iterable[generate.Row], draws: int) -> Iterator[tuple[generate.Row, np.ndarray]]:
    """(row, distances of its draws). The flavours of a structure see the same draws, drawn for `reference` where it is one."""
    distance = Distance()
    for n, (_, group) in enumerate(itertools.groupby(chosen, structure)):
        if n % 100 == 99:
            jax.clear_caches()  # compiled functions of past structures only cost memory
        mine = {r.flavour: r for r in group}
        found = [distance(generate.trial(mine[min(mine)], d), mine) for d in range(draws)]
        yield from ((row, np.concatenate([f[flavour] for f in found])) for flavour, row in mine.items())


def summed(found: Iterable[tuple[generate.Row, np.ndarray]]) -> list[dict[str, Any]]:
    """Per (op, types, flavour)."""
    kept: dict[tuple[str, str, str], dict[str, Any]] = {}
    for row, d in found:
        ins, outs = row.types
        types = ", ".join(t or "none" for t in ins) + " -> " + ", ".join(outs)
        one = kept.setdefault((row.op.name, types, row.flavour), {"elements": 0, "max": 0, "differ": 0, "beyond_one": 0})
        one["elements"] += d.size
        one["max"] = max(one["max"], int(d.max(initial=0)))
        one["differ"] += int((d > 0).sum())
        one["beyond_one"] += int((d > 1).sum())
    return [dict(zip(("op", "types", "flavour"), key, strict=True)) | one for key, one in sorted(kept.items()) if one["elements"]]


def lines(found: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """One line per op and types; the reference flavour's numbers only where they are others."""
    shown = []
    for key in dict.fromkeys((r["op"], r["types"]) for r in found):
        mine = {r["flavour"]: _cells(r) for r in found if (r["op"], r["types"]) == key}
        same = len(mine) == 2 and mine["xnnpack"] == mine["reference"]
        shown += [(*key, "both" if same else f, *cells) for f, cells in list(mine.items())[: 1 if same else 2]]
    return shown


def _cells(r: dict[str, Any]) -> tuple[str, ...]:
    return str(r["max"]), f"{100 * r['differ'] / r['elements']:.2g} %", f"{100 * r['beyond_one'] / r['elements']:.2g} %"


HEADS = ("op", "types", "flavour", "largest, steps", "differ", "by more than one")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=4)
    parser.add_argument("--only", nargs="+", help="ops; nothing is written then")
    parser.add_argument("--markdown", action="store_true", help="print a markdown table")
    args = parser.parse_args()
    from rich.console import Console
    from rich.progress import track
    from rich.table import Table

    chosen = [r for r in rows() if not args.only or r.op.name in args.only]
    found = summed(track(measured(chosen, args.draws), "rows", len(chosen), console=Console(stderr=True)))
    if not args.only:
        head = json.dumps({"draws": args.draws, "left_out": WITHOUT}, indent=1)[:-2]
        RESULTS.write_text(head + ',\n "rows": [\n' + ",\n".join("  " + json.dumps(r) for r in found) + "\n ]\n}\n")
    if args.markdown:
        print("\n".join("| " + " | ".join(c) + " |" for c in (HEADS, ("---",) * len(HEADS), *lines(found))))
        return
    table = Table(*HEADS)
    for cells in lines(found):
        table.add_row(*cells)
    Console(width=130).print(table)


if __name__ == "__main__":
    main()
