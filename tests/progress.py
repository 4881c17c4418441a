"""What a long conformance run keeps: one line per finished row in a work file, so that a second run goes on where the first stopped.

A line counts while the sources of its kernels (the family's file and all that it imports), the runtime, the CPU class and JAX are
the ones it was measured with; else the row runs again. `results` sums the lines into experiments/results/conformance.json.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from qsim import NUMERICS
from qsim.litert import cpu_class

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "experiments" / "results" / "conformance.json"
EXECUTOR = ("qsim.function", "qsim.program")  # they run every kernel
COUNTS = ("draws", "elements", "differing")


@functools.cache
def environment() -> dict[str, Any]:
    """What results depend on beside the sources."""
    try:
        runtime = f"ai-edge-litert {version('ai-edge-litert')}"
    except PackageNotFoundError:
        runtime = "none"
    return {"runtime": runtime, "cpu": cpu_class(), "jax": version("jax"), "numerics": NUMERICS}


@functools.cache
def fingerprint(module: str) -> str:
    """SHA-256 over a module, the modules of this package that it imports (theirs too), the executor, and the environment."""
    found: set[str] = set()
    _reach(module, found)
    parts = [environment(), *((m, _path(m).read_text(encoding="utf-8")) for m in sorted(found | set(EXECUTOR)))]  # type: ignore[union-attr]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _reach(module: str, found: set[str]) -> None:
    path = _path(module)
    if module in found or path is None:
        return
    found.add(module)
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.level:
            base = ".".join([*module.split(".")[: -node.level], *([node.module] if node.module else [])])
            for name in (base, *(f"{base}.{a.name}" for a in node.names)):
                _reach(name, found)


def _path(module: str) -> Path | None:
    path = ROOT / (module.replace(".", "/") + ".py")
    return path if path.is_file() else None


class Work:
    """The work file: rows that finished, by name."""

    def __init__(self, path: Path):
        self.path = path
        self.rows: dict[str, dict[str, Any]] = {}
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
            try:
                self._take(json.loads(line))
            except ValueError:  # the line that was being written when the run was killed
                continue

    def _take(self, found: dict[str, Any]) -> None:
        old = self.rows.get(found["row"])
        if old is None or old["sources"] != found["sources"] or old["differing"] or old["draws"] <= found["draws"]:
            self.rows[found["row"]] = found

    def add(self, found: dict[str, Any]) -> None:
        self._take(found)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+b") as file:
            file.seek(0, 2)
            whole = file.tell() == 0 or (file.seek(-1, 2), file.read(1))[1] == b"\n"
            file.write((b"" if whole else b"\n") + json.dumps(found).encode() + b"\n")

    def of(self, row: Any) -> dict[str, Any] | None:
        """What is known of a row, if it was measured with these sources."""
        found = self.rows.get(str(row))
        return found if found is not None and found["sources"] == fingerprint(family(row)) else None

    def beside(self, rows: Iterable[Any]) -> list[dict[str, Any]]:
        """What is known beside these rows, measured with these sources: of ops that have generators of their own."""
        known, families = set(map(str, rows)), _families()
        found = (f for name, f in self.rows.items() if name not in known and f["op"] in families)
        return [f for f in found if f["sources"] == fingerprint(families[f["op"]])]

    def done(self, row: Any, draws: int) -> bool:
        found = self.of(row)
        return found is not None and found["draws"] >= draws and (not found["differing"] or bool(found["defect"]))


def family(row: Any) -> str:
    """The module that holds the op's record."""
    return _families()[row.op.name]


@functools.cache
def _families() -> dict[str, str]:
    import qsim.ops

    files = {n: m for n, m in sys.modules.items() if n.startswith(f"{qsim.ops.__name__}.")}
    return {op.name: n for n, m in files.items() for op in getattr(m, "OPS", ())}


def types(row: Any) -> str:
    """ "int8, int8 -> int8"."""
    ins, outs = row.types
    return ", ".join(t or "none" for t in ins) + " -> " + ", ".join(outs)


def record(row: Any, counts: Mapping[str, int], defect: str = "") -> dict[str, Any]:
    """The line of a finished row. defect: why it must differ."""
    facts = {"row": str(row), "sources": fingerprint(family(row)), "op": row.op.name, "types": types(row), "flavour": row.flavour}
    return {**facts, **{k: counts[k] for k in COUNTS}, "defect": defect}


def results(found: Iterable[Mapping[str, Any]], sources: Mapping[str, str]) -> dict[str, Any]:
    """Sums of the rows per (op, types, flavour), and of all. What a known defect of LiteRT's makes differ is counted apart."""
    rows: dict[tuple[str, str, str], dict[str, Any]] = {}
    for f in found:
        key = (f["op"], f["types"], f["flavour"])
        into = rows.setdefault(key, dict(zip(("op", "types", "flavour"), key, strict=True)) | dict.fromkeys(COUNTS, 0))
        into |= {k: into[k] + f[k] for k in COUNTS} | ({"defect": f["defect"]} if f["defect"] else {})
    clean = [r for r in rows.values() if "defect" not in r]
    total = {k: sum(r[k] for r in clean) for k in COUNTS}
    return {**environment(), "sources": dict(sources), **total, "rows": [rows[k] for k in sorted(rows)]}


def write(found: Mapping[str, Any], path: Path = RESULTS) -> None:
    """One line a row, so that changes are easy to read."""
    head = json.dumps({k: v for k, v in found.items() if k != "rows"}, indent=1)[:-2]
    rows = ",\n".join("  " + json.dumps(r) for r in found["rows"])
    path.write_text(f'{head},\n "rows": [\n{rows}\n ]\n}}\n', encoding="utf-8")


def load(path: Path = RESULTS) -> dict[str, Any]:
    """The results file; no rows where there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"rows": []}


def table(found: Mapping[str, Any]) -> Any:
    """A rich table: one line an op, draws and elements of each flavour, and what differs."""
    from rich.table import Table

    from qsim.op import FLAVOURS

    shown = Table("op", "types", *(f"draws, {f}" for f in FLAVOURS), "elements", "differing", title=f"{found['runtime']}, {found['cpu']}")
    for op in sorted({r["op"] for r in found["rows"]}):
        mine = [r for r in found["rows"] if r["op"] == op]
        clean = [r for r in mine if "defect" not in r]
        draws = [sum(r["draws"] for r in clean if r["flavour"] == f) for f in FLAVOURS]
        numbers = [*draws, sum(r["elements"] for r in clean), sum(r["differing"] for r in clean)]
        known = len(mine) - len(clean)
        note = f" ({known} known defect{'s' * (known > 1)} of LiteRT)" if known else ""
        shown.add_row(op, str(len({r["types"] for r in mine})), *(f"{n:,}" for n in numbers[:-1]), f"{numbers[-1]:,}{note}")
    shown.add_section()
    clean = [r for r in found["rows"] if "defect" not in r]
    totals = [sum(r["draws"] for r in clean if r["flavour"] == f) for f in FLAVOURS]
    shown.add_row("all", "", *(f"{n:,}" for n in (*totals, found["elements"], found["differing"])))
    return shown


@dataclass(frozen=True)
class Row:
    """What a test with a generator of its own compares in one flavour."""

    name: str
    op: Any
    flavour: str
    types: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())

    def __str__(self) -> str:
        return f"{self.name}-{self.flavour}"


class Recorder:
    """The pytest plugin of `--work`: notes rows as they finish; at the end sums them, once all rows are there."""

    def __init__(self, config: Any):
        self.config = config
        self.work = Work(Path(config.getoption("--work")) / "rows.jsonl")
        self.notes = not hasattr(config, "workerinput")  # not in the processes of pytest-xdist that run the tests

    def pytest_report_header(self) -> str:
        rows = self._rows()
        done = sum(self.work.done(r, r.draws(self.config.getoption("--draws"))) for r in rows)
        return f"conformance: {done:,} of {len(rows):,} rows are done, {len(rows) - done:,} to go"

    def pytest_runtest_logreport(self, report: Any) -> None:
        if self.notes and report.when == "call":
            for found in (value for name, value in report.user_properties if name == "finished"):
                self.work.add(found)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        rows = self._rows()
        found = [f for r in rows if (f := self.work.of(r)) is not None]
        others = self.work.beside(rows)
        if len(found) < len(rows):
            terminalreporter.write_line(f"conformance: {len(found):,} of {len(rows):,} rows have run; the same command goes on from here")
            return
        summed = results([*found, *others], {f: fingerprint(f) for f in sorted(set(map(family, rows)))})
        write(summed)
        terminalreporter.write_line(shown(table(summed)))
        terminalreporter.write_line(f"written: {RESULTS.relative_to(ROOT)}")

    @staticmethod
    def _rows() -> list[Any]:
        from test_conformance import ROWS

        return ROWS


def shown(what: Any) -> str:
    from rich.console import Console

    console = Console(width=150)
    with console.capture() as captured:
        console.print(what)
    return captured.get()
