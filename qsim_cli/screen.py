"""What reaches the terminal: text from files made inert, tables, JSON, progress. Messages go to stderr, results to stdout."""

from __future__ import annotations

import json
import math
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

LONGEST_NAME = 160
_INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}  # control, bidirectional and format marks, surrogates, unassigned, separators


def safe(text: object, longest: int = LONGEST_NAME) -> str:
    """Text from a file as it may be printed: what could move the cursor or reorder the line becomes `\\x1b`, the rest stays."""
    shown = "".join(c if unicodedata.category(c) not in _INVISIBLE else c.encode("unicode_escape").decode() for c in str(text))
    return shown if len(shown) <= longest else shown[: longest - 3] + "..."


def safe_lines(text: object) -> str:
    """Like `safe` for our own messages, which may have several lines and be long, but quote names from files."""
    return "\n".join(safe(line, 2000) for line in str(text).split("\n"))


def say(message: str) -> None:
    """A note for the person at the terminal; stdout stays the result's."""
    print(safe_lines(message), file=sys.stderr)


def warn(message: str) -> None:
    say(f"warning: {message}")


def emit(value: Any) -> None:
    """The result as one JSON document on stdout (ASCII: names from files stay inert; numbers JSON does not know become null)."""
    json.dump(_finite(value), sys.stdout, indent=2, default=_plain, allow_nan=False)
    sys.stdout.write("\n")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _plain(value: Any) -> Any:
    """Numpy's values and anything else JSON does not know."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return str(value)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], numeric: Sequence[str] = ()) -> None:
    """Print a table; every cell is made inert, columns named in `numeric` are set flush right."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    if title:
        text(safe(title, 400))
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for c in columns:
        made.add_column(c, justify="right" if c in numeric else "left", overflow="fold")
    for row in rows:
        made.add_row(*(Text(safe(cell)) for cell in row))
    console().print(made)


def cells(row: Mapping[str, Any]) -> list[str]:
    """A record's values for a table: numbers to six digits."""
    return [f"{v:.6g}" if isinstance(v, float) else "" if v is None else str(v) for v in row.values()]


def console() -> Any:
    """The terminal, or 160 columns where stdout is a file or pipe (nothing is cut off there)."""
    from rich.console import Console

    return Console(soft_wrap=False) if sys.stdout.isatty() else Console(width=160, no_color=True)


def text(line: str = "") -> None:
    """One line of a result."""
    print(safe_lines(line))


@contextmanager
def progress(what: str, total: int | None) -> Iterator[Any]:
    """`with progress("observing", 500) as step: step(32)`: a bar on stderr with rate and remaining time; nothing where that is not a
    terminal."""
    if not sys.stderr.isatty():
        yield lambda count=1: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _rate_column(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda count=1: bar.advance(task, count)


def _rate_column() -> Any:
    from rich.progress import ProgressColumn, Task
    from rich.text import Text

    class Rate(ProgressColumn):
        """Samples a second, of the last seconds."""

        def render(self, task: Task) -> Text:
            return Text("" if task.speed is None else f"{task.speed:.3g}/s")

    return Rate()
