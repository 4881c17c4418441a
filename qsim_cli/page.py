"""A sweep report as one HTML file that needs no network: charts by Altair with its libraries inside, tables that sort.

All text from files is escaped; the page's policy lets it load nothing and run its own script alone, so names cannot become code.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib import resources
from typing import Any, NamedTuple

from calibrate.summaryform import Finalist, Found, Summary
from qsim.errors import Unsupported

from . import charts
from .screen import safe
from .verdicts import VERDICTS, loss_text, share, verdict_lines

LONGEST = 400  # of a name in a table
HINT = "pip install 'qsim-tflite[report]'"


class Cell(NamedTuple):
    """What a table shows, and what it is sorted by."""

    text: str
    value: float | None = None
    words: bool = False


def page(summaries: Sequence[Summary]) -> str:
    """The report. *Raises*: Unsupported naming the command that installs what is missing."""
    _require_altair()
    specs: dict[str, Any] = {}
    body = _overview(summaries, specs) + "".join(_sweep(s, specs, k) for k, s in enumerate(summaries))
    return document("Quantization sweeps: " + ", ".join(s.name for s in summaries), body, specs)


def document(title: str, body: str, specs: Mapping[str, Any]) -> str:
    """A page with charts that needs no network. body: HTML; specs: Vega-Lite specifications by the id of the element that shows each.

    *Raises*: Unsupported naming the command that installs what is missing.
    """
    script = f"{_library()}\n{_own('page.js')}"
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; script-src 'sha256-{allowed}'; style-src 'unsafe-inline'; img-src data: blob:"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{_text(title)}</title><style>{_own('page.css')}</style></head><body><main>{body}</main>"
        f'<script type="application/json" id="charts">{embedded(specs)}</script><script>{script}</script></body></html>\n'
    )


def embedded(value: Any) -> str:
    """JSON that may stand inside a script element, whatever strings it holds."""
    return json.dumps(value, allow_nan=False).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _library() -> str:
    """Vega, Vega-Lite and vega-embed as one script."""
    _require_altair()
    import altair
    import vl_convert

    version = ".".join(altair.SCHEMA_VERSION.split(".")[:2])
    return str(vl_convert.javascript_bundle(vl_version=version)).replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _require_altair() -> None:
    try:
        import altair  # noqa: F401
        import vl_convert  # noqa: F401
    except ImportError as fault:
        raise Unsupported(f"charts need Altair and vl-convert ({fault})", hint=HINT) from None


def _own(name: str) -> str:
    return (resources.files("qsim_cli") / name).read_text(encoding="utf-8")


def _text(value: object, longest: int = LONGEST) -> str:
    return escape(safe(value, longest))


# parts of the page


def _overview(summaries: Sequence[Summary], specs: dict[str, Any]) -> str:
    links = " ".join(f'<a href="#sweep{k}">{_text(s.name)}</a>' for k, s in enumerate(summaries))
    found = charts.pareto_charts(summaries) if sum(len(s.schemes) for s in summaries) > 1 else []
    parts = [
        _chart(specs, f"pareto{k}", chart, "" if k else _size_words(), "Size against quality" if not k else "")
        for k, chart in enumerate(found)
    ]
    return f"<h1>Quantization sweeps</h1><nav>{links}</nav>" + "".join(parts)


def _size_words() -> str:
    return (
        "The winner of each scheme on the test split, with intervals of two standard errors; dashed lines join those that no other of the "
        "same model beats in both. Simulated schemes have no file: their size is that of their constants."
    )


def _sweep(s: Summary, specs: dict[str, Any], k: int) -> str:
    about = f"{s.model}, {s.ops} ops, {s.float_size:,} bytes, SHA-256 {s.model_hash[:12]}; data {', '.join(s.data)}; {s.split}; {s.version}"
    schemes = "".join(_scheme(s, f, specs, f"{k}-{n}") for n, f in enumerate(s.schemes))
    return f'<h2 id="sweep{k}">{_text(s.name)}</h2><p class="soft">{_text(about, 2000)}</p>{schemes}'


def _scheme(s: Summary, f: Found, specs: dict[str, Any], tag: str) -> str:
    lines = verdict_lines(f)
    said = f"<strong>{_text(lines[0])}</strong>" + "".join(f"<br>{_text(line, 2000)}" for line in lines[1:])
    return "".join((
        f'<h2>{_text(s.name)}: {_text(f.scheme)}</h2><div class="verdict">{said}</div>',
        _finalists(f),
        _chart(specs, f"strategy{tag}", charts.strategy_chart(f), _strategy_words(f), "Loss and accuracy against strategy"),
        _candidates(f),
        _chart(specs, f"size{tag}", charts.size_chart(s, f), _draw_words(), "Loss against calibration size"),
        _chart(specs, f"histogram{tag}", charts.histogram_chart(f), _range_words(f), "Values and chosen ranges"),
        _tensors(f),
        _chart(specs, f"layer{tag}", charts.layer_chart(f), _layer_words(), "Error by layer"),
    ))  # fmt: skip


def _strategy_words(f: Found) -> str:
    more = len(f.tried) - charts.MOST
    rest = f" The first {charts.MOST} are drawn; the table has {more} more." if more > 0 else ""
    return (
        "On the select split (grey) and, for the finalists, on the test split (blue), with intervals of two standard errors. Faint points "
        "dropped out early and stand at the winner's loss plus their paired difference." + rest
    )


def _draw_words() -> str:
    return "Ticks: the select loss with each choice of calibration samples. Points: their mean, with two standard errors of that mean."


def _range_words(f: Found) -> str:
    many = sum(bool(t.counts) for t in f.tensors)
    rest = f" The {charts.WORST} noisiest of {many} can be chosen." if many > charts.WORST else ""
    return "Dashed: the winner's range. The tensor with the most rounding noise comes first." + rest


def _layer_words() -> str:
    return "Each op's output in the winner against the float model's, errors of all ops before it included, in the order of the graph."


def _chart(specs: dict[str, Any], tag: str, chart: Any, words: str, title: str) -> str:
    """Nothing where there is no chart."""
    if chart is None:
        return ""
    specs[tag] = chart.to_dict()
    head = f'<h3>{_text(title)}</h3><p class="soft">{_text(words, 2000)}</p>' if title else ""
    return f'{head}<div class="chart" id="{tag}"></div>'


# tables


def _finalists(f: Found) -> str:
    heads = ["on the test split", "loss", "gain over min/max", "is", "accuracy", "against float", "lost / won"]
    rows = [_finalist(t, f) for t in _distinct([*f.tested, f.baseline])]
    return f"<h3>Finalists</h3>{_table(heads, rows, best=0)}"


def _distinct(finalists: Iterable[Finalist]) -> list[Finalist]:
    return list({t.text: t for t in finalists}.values())


def _finalist(t: Finalist, f: Found) -> list[Cell]:
    against = "" if t.not_inferior is None else "not inferior" if t.not_inferior else "inferior"
    return [
        _words(t.candidate), Cell(loss_text(t.loss, t.error), t.loss), Cell(loss_text(t.gain, t.gain_error), t.gain),
        _words(VERDICTS[t.against_baseline]), Cell(share(t.right, t.right_error), t.right), _words(against),
        Cell("" if t.lost is None else f"{t.lost} / {t.won}", t.lost),
    ]  # fmt: skip


def _candidates(f: Found) -> str:
    heads = ["candidate", "select samples", "loss", "behind the winner", "accuracy", "test loss", "test accuracy", "failed"]
    rows = [
        [
            _words(t.candidate),
            Cell(str(t.select_samples), t.select_samples),
            Cell(loss_text(t.select_loss, t.select_error), t.select_loss),
            Cell(loss_text(t.behind, t.behind_error), t.behind),
            Cell(share(t.select_right, t.select_right_error), t.select_right),
            _number(t.test_loss),
            Cell(share(t.test_right), t.test_right),
            _words(t.failed),
        ]
        for t in f.tried
    ]
    if not any(t.failed for t in f.tried):
        heads, rows = heads[:-1], [row[:-1] for row in rows]
    return _table(heads, rows, best=next((k for k, t in enumerate(f.tried) if t.winner), None))


def _tensors(f: Found) -> str:
    heads = ["tensor", "op", "strategy", "low", "high", "min seen", "max seen", "clipped", "signal to noise, dB"]
    rows = [
        [
            _words(t.name + (f" (and {len(t.tied)} more)" if t.tied else "")), _words(t.op), _words(t.strategy),
            *map(_number, (t.low, t.high, t.min, t.max)), Cell(share(t.clipped), t.clipped), _number(t.sqnr_db),
        ]
        for t in f.tensors
    ]  # fmt: skip
    return _table(heads, rows)


def _words(text: str) -> Cell:
    return Cell(text, None, True)


def _number(value: float | None) -> Cell:
    return Cell("" if value is None else f"{value:.5g}", value)


def _table(heads: Sequence[str], rows: Sequence[Sequence[Cell]], best: int | None = None) -> str:
    wordy = [all(row[k].words for row in rows) for k in range(len(heads))]
    top = "".join(f'<th class="words">{_text(h)}</th>' if w else f"<th>{_text(h)}</th>" for h, w in zip(heads, wordy, strict=True))
    lines = "".join(f"<tr{' class=best' if k == best else ''}>{''.join(map(_cell, row))}</tr>" for k, row in enumerate(rows))
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{lines}</tbody></table></div>'


def _cell(cell: Cell) -> str:
    if cell.words:
        return f'<td class="words">{_text(cell.text)}</td>'
    return f'<td data-value="{"" if cell.value is None else repr(float(cell.value))}">{_text(cell.text)}</td>'
