"""What the demo leaves behind: tables on the terminal, CSV files, and a plot as PNG and as one HTML file that needs no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qsim_cli import screen
from qsim_cli.page import document
from qsim_cli.rowfiles import csv_bytes

from .scoring import Score, best, difference, is_tie, lost_won, reads_alike, wilson

Scores = Mapping[str, Mapping[str, Score]]  # setting -> strategy -> score


def selection(scores: Scores) -> None:
    """The table of all strategies. A star marks the winner of a setting, a tilde what cannot be told from it."""
    winners = {setting: best(list(found.values())) for setting, found in scores.items()}
    rows = []
    for name in next(iter(scores.values())):
        row = [name]
        for setting, found in scores.items():
            row += [f"{found[name].kl:.5f} {_mark(found[name], winners[setting])}", str(found[name].wrong)]
        rows.append(row)
    heads = ["strategy", *(h for setting in scores for h in (f"{setting}: KL  ", "wrong"))]
    screen.table("", heads, rows, heads[1:])
    for setting, found in scores.items():
        winner = winners[setting]
        others = [s for s in found.values() if s is not winner]
        ties, alike = sum(is_tie(s, winner) for s in others), sum(reads_alike(winner, s) for s in others)
        screen.text(
            f"    {setting}: {winner.name} is nearest (*). Of the other {len(others)}, {ties} cannot be told from it by KL (~), "
            f"{alike} not by the digits they read."
        )


def _mark(mine: Score, winner: Score) -> str:
    return "*" if mine is winner else "~" if is_tie(mine, winner) else " "


def test(scores: Sequence[Score]) -> None:
    """The table of the test digits, everything paired with the first score (float), and the verdicts in words."""
    base, *others = scores
    heads = ["net", "accuracy", "95 % interval", "lost / won", "gained, points (95 %)", "KL"]
    screen.table("", heads, [_cells(base, s) for s in scores], heads[1:])
    for s in others:
        verdict = "not to be told from float" if reads_alike(base, s) else "unlike float"
        screen.text(f"    {s.name}: {verdict} on these {len(s.right)} digits")


def _cells(base: Score, s: Score) -> list[str]:
    lost, won = lost_won(base, s)
    low, high = wilson(s.right)
    cells = [s.name, f"{100 * s.accuracy:.2f} %", f"{100 * low:.2f} .. {100 * high:.2f}"]
    if s is base:
        return [*cells, "", "", ""]
    low, high = difference(lost, won, len(s.right))
    return [*cells, f"{lost} / {won}", f"{100 * low:+.2f} .. {100 * high:+.2f}", f"{s.kl:.5f}"]


def selection_rows(scores: Scores) -> list[dict[str, Any]]:
    return [
        {"strategy": s.name, "setting": setting, "kl": s.kl, "accuracy": s.accuracy, "wrong": s.wrong}
        for setting, found in scores.items()
        for s in found.values()
    ]


def test_rows(scores: Sequence[Score]) -> list[dict[str, Any]]:
    rows = []
    for s in scores:
        lost, won = lost_won(scores[0], s)
        low, high = difference(lost, won, len(s.right))
        rows.append({"net": s.name, "accuracy": s.accuracy, "lost": lost, "won": won, "gained_low": low, "gained_high": high, "kl": s.kl})
    return rows


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.write_bytes(csv_bytes(rows))


def plot(rows: Sequence[Mapping[str, Any]], png: Path, html: Path) -> None:
    """One line a strategy: its distance from the float net and the digits it reads wrongly, one mark a setting."""
    import altair as alt

    settings, strategies = (list(dict.fromkeys(r[key] for r in rows)) for key in ("setting", "strategy"))
    base = alt.Chart(alt.Data(values=[dict(r) for r in rows])).mark_point(filled=True, size=70).encode(
        color=alt.Color("setting:N", title=None, scale=alt.Scale(domain=settings)),
        shape=alt.Shape("setting:N", title=None, scale=alt.Scale(domain=settings)),
        tooltip=["strategy:N", "setting:N", "kl:Q", "accuracy:Q", "wrong:Q"],
    )  # fmt: skip
    decades = alt.Axis(values=[10.0**k for k in range(-6, 3)], format="~g")
    kl = alt.X("kl:Q", scale=alt.Scale(type="log"), axis=decades, title="KL from the float net, nats (log scale)")
    left = base.encode(x=kl, y=alt.Y("strategy:N", sort=strategies, title=None)).properties(width=420)
    wrong = alt.X("wrong:Q", title="digits read wrongly")
    right = base.encode(x=wrong, y=alt.Y("strategy:N", sort=strategies, axis=None)).properties(width=260)
    title = f"{len(strategies)} calibration strategies from one pass, judged on the selection digits"
    chart = alt.hconcat(left, right).properties(title=title).configure_legend(orient="bottom", labelLimit=400)
    chart.save(str(png), scale_factor=2.0)
    html.write_text(document(title, '<div class="chart" id="plot"></div>', {"plot": chart.to_dict()}), encoding="utf-8")
