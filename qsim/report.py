"""What `quantize` did, as one frozen record: parameters of every tensor, what became of every op, and every range it had to change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

AS_IT_WAS = "as it was"
LONGEST = 60  # characters of a printed cell; the rows themselves hold everything


@dataclass(frozen=True)
class TensorRow:
    """One stored tensor. role: range, fixed (the op dictates it), constant, weights, bias. low, high: real values the codes cover."""

    tensor: str
    role: str
    type: str
    scale: float
    zero_point: int
    low: float
    high: float
    channels: int = 1


@dataclass(frozen=True)
class OpRow:
    """One op of the source. stored: the activation type, with that of the weights where it is another, or "as it was". reason: why it
    stays as it was, or is not quite what the scheme asks for."""

    index: int
    op: str
    output: str
    stored: str
    reason: str = ""


@dataclass(frozen=True)
class RepairRow:
    """One changed range. before, after: scale in real units per step."""

    tensor: str
    before: float
    after: float
    asked_by: str
    reason: str


@dataclass(frozen=True)
class GuardRow:
    """Channels of one op whose weight scale was raised so that bias and accumulator fit 32 bits.

    dead: channels whose weights lie below 1e-6 of the layer's largest. raised: channels changed. steps: the largest bias code that
    the plain scale would have needed (32 bits hold 2.1e9).
    """

    op: str
    channels: int
    dead: int
    raised: int
    steps: float


@dataclass(frozen=True)
class Report:
    """The report of one `quantize`. `print(report)` shows it as rows; `sections` gives them for other uses."""

    scheme: str
    io: str
    ops: tuple[OpRow, ...]
    tensors: tuple[TensorRow, ...]
    repairs: tuple[RepairRow, ...] = ()
    guards: tuple[GuardRow, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def kept_float(self) -> tuple[OpRow, ...]:
        """Ops that were not quantized."""
        return tuple(row for row in self.ops if row.stored == AS_IT_WAS)

    def sections(self) -> dict[str, Sequence[Any]]:
        """Title -> rows (frozen records of one kind, possibly none)."""
        return {"ops": self.ops, "tensors": self.tensors, "repaired ranges": self.repairs, "bias guard": self.guards}

    def __str__(self) -> str:
        kept = len(self.kept_float)
        lines = [f"scheme {self.scheme}, model input and output {self.io}: {len(self.ops) - kept} ops quantized, {kept} as they were"]
        for title, rows in self.sections().items():
            lines += [f"{title}:", *_table(rows)] if rows else []
        return "\n".join([*lines, *(f"note: {printable(n)}" for n in self.notes)])


def _table(rows: Sequence[Any]) -> list[str]:
    names = [f.name for f in fields(rows[0])]
    cells = [names] + [[_cell(getattr(row, name)) for name in names] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    return ["  " + "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in cells]


def _cell(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else printable(str(value))
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


def printable(text: str) -> str:
    """Names come from files: whatever could act on a terminal becomes a question mark."""
    return "".join(c if c.isprintable() else "?" for c in text)


def some(names: Sequence[str], most: int = 4) -> str:
    """The first names of a list and how many more there are."""
    return "; ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
