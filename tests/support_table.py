"""The README's table of ops, types and flavours, made from the registry and the trial counts of experiments/results/conformance.json.

`python -m tests.support_table` writes it into the README.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import progress

from qsim import control, state
from qsim.op import FLAVOURS, Kernel, Measured, Op
from qsim.ops import REGISTRY

README = Path(__file__).resolve().parent.parent / "README.md"
START, END = "<!-- support table: written by `make readme` -->\n", "<!-- end of the support table -->\n"
Counts = Mapping[tuple[str, str, str], tuple[int, int, str]]  # (op, flavour, kind): draws, elements that differ, known defect


def table(found: Mapping[str, Any] | None = None) -> str:
    """One line an op: whether it has a real function, and the types of its integer kernels with the models compared in each flavour."""
    found = progress.load() if found is None else found
    counts = _counts(found["rows"])
    cells = {op.name: _types(op, counts) for op in REGISTRY.values()}
    cells |= dict.fromkeys(control.OPS, "what the graphs it runs do") | dict.fromkeys(state.OPS, "any")
    lines = [_line(("op", "float, fake", "integer")), _line("---" for _ in range(3))]
    lines += [_line((f"`{name}`", "yes", types)) for name, types in sorted(cells.items())]
    return "\n".join([*lines, "", *_notes(found)]) + "\n"


def _notes(found: Mapping[str, Any]) -> Iterable[str]:
    most = str(Measured())
    yield f"Integer kernels measured on: {most}."
    rows = ((op.name, " x ".join(k.inputs[:2]), str(k.measured)) for op in REGISTRY.values() for k in op.kernels)
    yield from (f"`{op}` of {types}: {measured}." for op, types, measured in sorted(r for r in rows if r[2] != most))
    if found["rows"]:
        yield (
            f"Numbers: generated models compared with {found['runtime']} on {found['cpu']} in the flavours {', '.join(FLAVOURS)}, "
            f"{found['draws']:,} in all; {found['differing']:,} of {found['elements']:,} elements differ. -: not measured, "
            "no: a flavour without this kernel, †: a defect of LiteRT."
        )
        yield from (f"†: {r}." for r in sorted({f"{r['op']}: {r['defect']}" for r in found["rows"] if "defect" in r}))


def _counts(rows: Iterable[Mapping[str, Any]]) -> Counts:
    draws: Counter[tuple[str, str, str]] = Counter()
    differing: Counter[tuple[str, str, str]] = Counter()
    defects = {}
    for r in rows:
        op = REGISTRY.get(r["op"])
        ins, outs = (tuple("" if t == "none" else t for t in side.split(", ")) for side in r["types"].split(" -> "))
        kernel = next((k for k in op.kernels if k.serves((ins, outs), r["flavour"])), None) if op else None
        if op is None or kernel is None:  # no longer there
            continue
        key = (op.name, r["flavour"], _kind(op, kernel))
        if "defect" in r:
            defects[key] = r["defect"]
        else:
            draws[key] += r["draws"]
            differing[key] += r["differing"]
    return {key: (draws[key], differing[key], defects.get(key, "")) for key in {*draws, *defects}}


def _line(cells) -> str:
    return "| " + " | ".join(cells) + " |"


def _types(op: Op, counts: Counts) -> str:
    if not op.kernels:
        return "on shapes only" if op.host else ""
    kinds: dict[str, set[str]] = {}
    for k in op.kernels:
        kinds.setdefault(_kind(op, k), set()).update(k.flavours)
    return ", ".join(kind + _measured(op.name, kind, flavours, counts) for kind, flavours in kinds.items())


def _measured(op: str, kind: str, flavours: set[str], counts: Counts) -> str:
    """Models compared, by flavour; without counts, the flavours where they are not all."""
    if not counts:
        return "" if flavours == set(FLAVOURS) else f" ({', '.join(f for f in FLAVOURS if f in flavours)})"
    return " " + "/".join(_count(*counts.get((op, f, kind), (0, 0, ""))) if f in flavours else "no" for f in FLAVOURS)


def _count(draws: int, differing: int, defect: str) -> str:
    return (str(draws) if draws else "" if defect else "-") + ("†" if defect else "") + (f" ({differing} differ)" if differing else "")


def _kind(op: Op, kernel: Kernel) -> str:
    """The type of the data in and out, "in to out" where they differ, "in x weights" where the weights have another."""
    data = op.rule.data[0] if op.rule.data and not isinstance(op.rule.data, str) else 0
    x, y = kernel.inputs[min(data, len(kernel.inputs) - 1)].rstrip("*?"), kernel.outputs[0].rstrip("*?")
    w = kernel.inputs[op.rule.weights].rstrip("*?") if op.rule.weights is not None and op.rule.weights < len(kernel.inputs) else x
    if x == "float32" and w == x:  # by weights of few bits, wherever they stand
        w = next((i.rstrip("*?") for i in kernel.inputs if i.rstrip("*?") in ("int8", "int4", "int2")), x)
    if w != x:
        return f"{x} x {w}"
    return (x if x == y else f"{x} to {y}").replace("|", " or ")


def rewritten(readme: str) -> str:
    """The README with the table between its marks replaced."""
    before, rest = readme.split(START)
    return before + START + table() + END + rest.split(END)[1]


if __name__ == "__main__":
    README.write_text(rewritten(README.read_text(encoding="utf-8")), encoding="utf-8")
