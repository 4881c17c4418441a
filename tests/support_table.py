"""The README's table of ops, types and flavours, made from the registry. `python -m tests.support_table` writes it into the README."""

from __future__ import annotations

from pathlib import Path

from qsim.op import FLAVOURS, Kernel, Op
from qsim.ops import REGISTRY

README = Path(__file__).resolve().parent.parent / "README.md"
START, END = "<!-- support table: written by `make readme` -->\n", "<!-- end of the support table -->\n"


def table() -> str:
    """One line an op: whether it has a real function, and the types of its integer kernels by flavour."""
    heads = ("op", "float, fake", *(f"integer, {f}" for f in FLAVOURS))
    lines = [_line(heads), _line("---" for _ in heads)]
    lines += [_line((f"`{op.name}`", "yes", *(_types(op, f) for f in FLAVOURS))) for _, op in sorted(REGISTRY.items())]
    measured = sorted({k.measured for op in REGISTRY.values() for k in op.kernels})
    return "\n".join([*lines, "", f"Integer kernels measured on: {'; '.join(measured)}."]) + "\n"


def _line(cells) -> str:
    return "| " + " | ".join(cells) + " |"


def _types(op: Op, flavour: str) -> str:
    if not op.kernels:
        return "on shapes only" if op.host else ""
    return ", ".join(dict.fromkeys(_kind(op, k) for k in op.kernels if flavour in k.flavours))


def _kind(op: Op, kernel: Kernel) -> str:
    """The type of the data in and out, "in to out" where they differ, "in x weights" where the weights have another."""
    data = op.rule.data[0] if op.rule.data and not isinstance(op.rule.data, str) else 0
    x, y = kernel.inputs[min(data, len(kernel.inputs) - 1)].rstrip("*?"), kernel.outputs[0].rstrip("*?")
    w = kernel.inputs[op.rule.weights].rstrip("*?") if op.rule.weights is not None and op.rule.weights < len(kernel.inputs) else x
    if w != x:
        return f"{x} x {w}"
    return (x if x == y else f"{x} to {y}").replace("|", " or ")


def rewritten(readme: str) -> str:
    """The README with the table between its marks replaced."""
    before, rest = readme.split(START)
    return before + START + table() + END + rest.split(END)[1]


if __name__ == "__main__":
    README.write_text(rewritten(README.read_text(encoding="utf-8")), encoding="utf-8")
