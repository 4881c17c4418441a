"""`qsim report`: what the sweeps of a store found, on the terminal, as rows and as one HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from . import options as o
from .outputs import may_write
from .screen import emit, say, table, text
from .verdicts import VERDICTS, loss_text, share, verdict_lines

if TYPE_CHECKING:
    from calibrate.summaryform import Found, Summary

StoreFile = Annotated[Path, Parameter(help="The store that `qsim sweep` or `qsim merge` wrote.")]
Page = Annotated[Path | None, Parameter(name=["--output", "-o"], help="HTML file to write: charts and tables, no network needed.")]
Csv = Annotated[Path | None, Parameter(name="--csv", help="CSV file to write: a row for each candidate.")]
Parquet = Annotated[Path | None, Parameter(name="--parquet", help="The same rows as a Parquet file.")]
SHOWN = 8  # rows of a table on the terminal; files have all


def command(
    store: StoreFile,
    /,
    output: Page = None,
    *,
    csv: Csv = None,
    parquet: Parquet = None,
    force: o.Force = False,
    json: o.Json = False,
) -> int:
    """What the sweeps of a store found: winners with what they are worth, every candidate, ranges and errors by tensor and layer."""
    from calibrate.summaryform import checked

    wanted = [path for path in (output, csv, parquet) if path is not None]
    for path in wanted:
        may_write(path, [store], force)
    data = _summaries(store)
    summaries = [checked(d, str(store)) for d in data]
    _write(summaries, output, csv, parquet)
    if json:
        emit({"sweeps": data, "files": [str(path) for path in wanted]})
        return 0
    for s in summaries:
        _show(s)
    for path in wanted:
        say(f"wrote {path}")
    return 0


def _summaries(path: Path) -> list[dict[str, Any]]:
    """*Raises*: BadData where there is no store or no finished sweep in it."""
    from calibrate.store import Store
    from qsim.errors import BadData

    if not path.exists():
        raise BadData("no such store", where=str(path), hint="`qsim sweep` writes one")
    with Store(path) as store:
        found = store.summaries()
        if not found:
            hint = "Run `qsim sweep` with it, without --worker: what is there is reused"
            raise BadData("no finished sweep in this store", where=str(path), found=f"{len(store)} results", hint=hint)
    return found


def _write(summaries: Sequence[Summary], output: Path | None, csv: Path | None, parquet: Path | None) -> None:
    """All contents are made before the first file is written."""
    from qsim.files import replace_file

    from .rowfiles import csv_bytes, parquet_bytes

    made: list[tuple[Path, bytes]] = []
    if output is not None:
        from .page import page

        made.append((output, page(summaries).encode()))
    if csv is not None:
        made.append((csv, csv_bytes(rows_of(summaries))))
    if parquet is not None:
        made.append((parquet, parquet_bytes(rows_of(summaries))))
    for path, content in made:
        replace_file(path, content)


def rows_of(summaries: Sequence[Summary]) -> list[dict[str, Any]]:
    """One row for each candidate of each sweep; a winner's has the size of its model."""
    import msgspec

    rows = []
    for s in summaries:
        for f in s.schemes:
            for t in f.tried:
                plain = {k: v for k, v in msgspec.structs.asdict(t).items() if k != "draws"}
                size = f.size if t.winner else None
                rows.append({"sweep": s.name, "model": s.model, "scheme": f.scheme, "unit": f.unit, **plain, "size": size})
    return rows


def _show(s: Summary) -> None:
    text(f"{s.name}: {s.model}, {s.ops} ops, {s.float_size:,} bytes")
    text(f"{', '.join(s.data)}: {s.split}")
    for f in s.schemes:
        text()
        for line in verdict_lines(f):
            text(line)
        _finalists(f)
        _candidates(f)
        _worst(f)


def _finalists(f: Found) -> None:
    heads = ["on the test split", "loss", "gain over min/max", "is", "accuracy", "lost / won"]
    finalists = {t.text: t for t in [*f.tested, f.baseline]}.values()
    rows = [
        [
            t.candidate, loss_text(t.loss, t.error), loss_text(t.gain, t.gain_error), VERDICTS[t.against_baseline],
            share(t.right, t.right_error), "" if t.lost is None else f"{t.lost} / {t.won}",
        ]
        for t in finalists
    ]  # fmt: skip
    table("", heads, rows, ["loss", "gain over min/max", "accuracy", "lost / won"])


def _candidates(f: Found) -> None:
    heads = ["on the select split", "samples", "loss", "behind the winner", "accuracy"]
    rows = [
        [t.candidate, t.select_samples, t.failed or loss_text(t.select_loss), loss_text(t.behind, t.behind_error), share(t.select_right)]
        for t in f.tried[:SHOWN]
    ]
    table("", heads, rows, heads[1:])
    if len(f.tried) > SHOWN:
        text(f"and {len(f.tried) - SHOWN} more (--csv has all)")


def _worst(f: Found) -> None:
    """The tensors with the most rounding noise."""
    noisy = sorted((t for t in f.tensors if t.sqnr_db is not None), key=lambda t: t.sqnr_db or 0.0)[:SHOWN]
    if noisy:
        heads = ["noisiest tensors", "op", "strategy", "low", "high", "clipped", "SQNR, dB"]
        rows = [[t.name, t.op, t.strategy, f"{t.low:.5g}", f"{t.high:.5g}", share(t.clipped), f"{t.sqnr_db:.1f}"] for t in noisy]
        table("", heads, rows, heads[3:])
