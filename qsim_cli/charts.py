"""The charts of a sweep report, as Vega-Lite specifications. Names from files reach them as JSON data and nothing else."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from calibrate.summaryform import Found, Summary, Tried

from .screen import safe

MOST = 40  # candidates that a chart shows; the table has all
WORST = 60  # tensors that the chart of histograms offers, the noisiest first
WIDTH = 620
NAME = 48  # longest name on an axis
SPLITS = {"domain": ["select", "test"], "range": ["#8b98ad", "#2f7ed8"]}
ACCENT = "#e8743b"


def strategy_chart(found: Found) -> Any:
    """Loss, and accuracy where it is known, of the candidates on the select split and of the finalists on the test split, with intervals
    of two standard errors. None where no candidate was scored."""
    import altair as alt

    names = distinct(t.candidate.removeprefix(found.scheme).strip() for t in found.tried[:MOST])
    rows = [row for t, name in zip(found.tried[:MOST], names, strict=False) for row in _scores(found, t, name)]
    if not rows:
        return None
    order = list(dict.fromkeys(r["candidate"] for r in rows))
    base = alt.Chart(alt.Data(values=rows)).encode(
        yOffset=alt.YOffset("split:N", scale=alt.Scale(domain=SPLITS["domain"])),
        color=alt.Color("split:N", title=None, scale=alt.Scale(**SPLITS)),
    )
    named, bare = (base.encode(y=alt.Y("candidate:N", sort=order, title=None, axis=axis)) for axis in (alt.Axis(labelLimit=260), None))
    panels = [_points(named, "loss", found.unit, all(r["loss"] > 0 for r in rows), 400)]
    if any(r["right"] is not None for r in rows):
        panels.append(_with_float(_points(bare, "right", "accuracy", False, 220, format="%"), found.float_right))
    return alt.hconcat(*panels).resolve_scale(color="shared")


def _scores(found: Found, t: Tried, name: str) -> list[dict[str, Any]]:
    """One row for each split that a candidate was scored on."""
    rows = []
    if t.select_loss is not None:
        whole = t.select_samples == found.tried[0].select_samples
        rows.append(_row(name, "select", t.select_loss + moved(found, t), t.select_error, t.select_right, t.select_right_error, whole))
    finalist = next((f for f in [*found.tested, found.baseline] if f.text == t.text), None)
    if finalist is not None:
        rows.append(_row(name, "test", finalist.loss, finalist.error, finalist.right, finalist.right_error, True))
    return rows


def moved(found: Found, t: Tried) -> float:
    """What is added to the loss of a candidate that dropped out early: it then stands at the winner's loss plus their paired difference.

    On the few samples that such a candidate was scored on, every loss may be larger or smaller than on all."""
    best = found.tried[0]
    return (best.select_loss or 0.0) + (t.behind or 0.0) - (t.select_loss or 0.0)


def _row(
    candidate: str, split: str, loss: float, error: float | None, right: float | None, right_error: float | None, whole: bool
) -> dict[str, Any]:
    """Intervals end at a tenth of the loss, which a logarithmic axis can show."""
    e, r = 2 * (error or 0.0), 2 * (right_error or 0.0)
    row: dict[str, Any] = {
        "candidate": label(candidate),
        "split": split,
        "samples": "all" if whole else "some",
    }
    row |= {"loss": loss, "loss_low": max(loss - e, loss / 10), "loss_high": loss + e, "right": right}
    return row | ({} if right is None else {"right_low": max(right - r, 0.0), "right_high": min(right + r, 1.0)})


def _points(base: Any, field: str, title: str, log: bool, width: int, format: str = "~g") -> Any:
    """Points with their intervals; hollow where a candidate dropped out before the last round."""
    import altair as alt

    scale = alt.Scale(type="log", nice=False, padding=8) if log else alt.Scale(zero=False, padding=8)
    x = alt.X(f"{field}:Q", title=title, scale=scale, axis=alt.Axis(format=format, tickCount=6, labelOverlap=True))
    bars = base.mark_rule(strokeWidth=2, opacity=0.55).encode(x=x, x2=f"{field}_high:Q").encode(x=_low(x, field))
    points = base.mark_point(size=55, filled=True).encode(
        x=x, opacity=alt.Opacity("samples:O", title="select samples", scale=alt.Scale(domain=["all", "some"], range=[1.0, 0.35])),
        tooltip=["candidate:N", "split:N", "samples:N", "loss:Q", "right:Q"],
    )  # fmt: skip
    return (bars + points).properties(width=width, height=alt.Step(11))


def _low(x: Any, field: str) -> Any:
    found = x.copy()
    found.shorthand = f"{field}_low:Q"
    return found


def _with_float(panel: Any, right: float | None) -> Any:
    import altair as alt

    if right is None:
        return panel
    line = alt.Chart(alt.Data(values=[{"float": right}])).mark_rule(strokeDash=[4, 3], color=ACCENT)
    return panel + line.encode(x="float:Q", tooltip=[alt.Tooltip("float:Q", title="accuracy of the float model")])


def size_chart(summary: Summary, found: Found) -> Any:
    """Select loss against the number of calibration samples: each draw, and the mean over draws with two standard errors of it. None where
    no candidate took fewer samples than all."""
    import altair as alt

    few = [t for t in found.tried if t.select_loss is not None and t.samples]
    families = list(dict.fromkeys(_family(found, t) for t in few))
    if not few:
        return None
    rows = [row for t in found.tried if t.select_loss is not None and _family(found, t) in families for row in _sized(summary, found, t)]
    for r in rows:  # side by side
        r["at"] = r["samples"] * 1.03 ** (families.index(r["family"]) - (len(families) - 1) / 2)
        r["family"] = label(r["family"])
    values = sorted({r["samples"] for r in rows})
    x = alt.X(
        "at:Q", title="calibration samples", scale=alt.Scale(type="log", nice=False, padding=20), axis=alt.Axis(format="d", values=values)
    )
    color = alt.Color("family:N", title=None, legend=alt.Legend(labelLimit=260, symbolLimit=60))
    y = alt.Y("loss:Q", title=found.unit, scale=alt.Scale(zero=False))
    base = alt.Chart(alt.Data(values=rows)).encode(x=x, color=color)
    means = base.transform_filter("datum.draws > 0")
    bars = means.mark_rule(strokeWidth=2).encode(y=alt.Y("low:Q", title=found.unit, scale=alt.Scale(zero=False)), y2="high:Q")
    lines = means.mark_line(point=True).encode(y=y, tooltip=["family:N", "samples:Q", "loss:Q", "draws:Q"])
    each = base.transform_filter("datum.draws == 0").mark_tick(orient="horizontal", thickness=2, size=14, opacity=0.6).encode(y=y)
    return (bars + lines + each).properties(width=WIDTH - 120, height=300)


def _family(found: Found, t: Tried) -> str:
    """A candidate but for its scheme and number of samples."""
    return t.candidate.replace(f" samples={t.samples}", "").removeprefix(found.scheme).strip()


def _sized(summary: Summary, found: Found, t: Tried) -> list[dict[str, Any]]:
    """A row for the mean over draws, with their number, and one for each draw, with 0."""
    n, mean, more = len(t.draws), t.select_loss or 0.0, moved(found, t)
    spread = math.sqrt(sum((d - mean) ** 2 for d in t.draws) / (n - 1) / n) if n > 1 else 0.0
    same = {"family": _family(found, t), "samples": t.samples or summary.samples["calibrate"]}
    rows = [same | {"loss": mean + more, "low": mean + more - 2 * spread, "high": mean + more + 2 * spread, "draws": n}]
    return rows + [same | {"loss": d + more, "draws": 0} for d in t.draws if t.samples]


def pareto_charts(summaries: Sequence[Summary]) -> list[Any]:
    """Size against test loss, one chart for each unit of loss, and against accuracy: the winner of each scheme of each model; lines join
    those that no other of the model beats in both."""
    rows = [_winner(s, f) for s in summaries for f in s.schemes if f.tested]
    charts = []
    for unit in dict.fromkeys(r["unit"] for r in rows):
        charts.append(_pareto([r for r in rows if r["unit"] == unit], "loss", unit, smaller=True))
    floats = [
        {"model": label(s.name), "scheme": "float32", "size": s.float_size, "right": f.float_right, "sized": "the file"}
        for s in summaries for f in s.schemes[:1] if f.float_right is not None
    ]  # fmt: skip
    labelled = [r for r in rows if r["right"] is not None]
    return charts + ([_pareto([*labelled, *floats], "right", "accuracy", smaller=False)] if labelled else [])


def _winner(s: Summary, f: Found) -> dict[str, Any]:
    best = f.tested[0]
    row = _row(best.candidate, "test", best.loss, best.error, best.right, best.right_error, True)
    return row | {"model": label(s.name), "scheme": f.scheme, "size": f.size, "sized": f.sized, "unit": f.unit}


def _pareto(rows: Sequence[dict[str, Any]], field: str, title: str, smaller: bool) -> Any:
    import altair as alt

    rows = [r | {"front": not _beaten(r, rows, field, smaller)} for r in rows]
    log = smaller and all(r[field] > 0 for r in rows)
    y = alt.Scale(type="log", nice=False, padding=14) if log else alt.Scale(zero=False, padding=14)
    axis = alt.Axis(format="~g" if smaller else "%", labelOverlap=True)
    base = alt.Chart(alt.Data(values=rows)).encode(
        x=alt.X("size:Q", title="size, bytes", scale=alt.Scale(zero=False, padding=30), axis=alt.Axis(format="~s", tickCount=8)),
        color=alt.Color("model:N", title=None, legend=alt.Legend(labelLimit=260)),
    )
    at = alt.Y(f"{field}:Q", title=title, scale=y, axis=axis)
    bars = base.mark_rule(opacity=0.5).encode(y=alt.Y(f"{field}_low:Q", title=title, scale=y, axis=axis), y2=f"{field}_high:Q")
    front = base.transform_filter("datum.front").mark_line(strokeDash=[4, 3], opacity=0.6).encode(y=at, order="size:Q")
    points = base.mark_point(filled=True, size=80, opacity=1).encode(
        y=at, tooltip=["model:N", "scheme:N", "candidate:N", "size:Q", "sized:N", f"{field}:Q"]
    )
    names = base.mark_text(dy=-12, fontSize=11).encode(y=at, text="scheme:N")
    return (bars + front + points + names).properties(width=WIDTH - 120, height=300)


def _beaten(r: dict[str, Any], rows: Sequence[dict[str, Any]], field: str, smaller: bool) -> bool:
    sign = 1 if smaller else -1
    mine = (r["size"], sign * r[field])
    others = [(o["size"], sign * o[field]) for o in rows if o["model"] == r["model"]]
    return any(o != mine and o[0] <= mine[0] and o[1] <= mine[1] for o in others)


def histogram_chart(found: Found) -> Any:
    """The values of one tensor, chosen by name, and its range; the tensors with the most rounding noise come first. None without any."""
    import altair as alt

    shown = sorted((t for t in found.tensors if t.counts), key=lambda t: math.inf if t.sqnr_db is None else t.sqnr_db)[:WORST]
    if not shown:
        return None
    bins, ends = [], []
    for k, t in enumerate(shown):
        name, low, high = f"{k + 1}. {label(t.name)}", t.min or 0.0, t.max or 0.0
        width = (high - low) / len(t.counts)
        bins += [
            {"tensor": name, "left": low + i * width, "right": low + (i + 1) * width, "count": n} for i, n in enumerate(t.counts) if n > 0
        ]
        ends += [{"tensor": name, "end": e, "at": at} for e, at in (("low", t.low), ("high", t.high))]
    names = list(dict.fromkeys(r["tensor"] for r in ends))
    pick = alt.selection_point(
        name="tensor_choice", fields=["tensor"], bind=alt.binding_select(options=names, name="tensor "), value=names[0]
    )
    y = alt.Y("count:Q", title="values (log)", scale=alt.Scale(type="symlog"), axis=alt.Axis(format="~s", tickCount=6))
    x = alt.X("left:Q", title="value", scale=alt.Scale(zero=False, padding=10))
    bars = alt.Chart(alt.Data(values=bins)).mark_rect(color=SPLITS["range"][1], opacity=0.75)
    bars = bars.encode(x=x, x2="right:Q", y=y, y2=alt.datum(0), tooltip=["left:Q", "right:Q", "count:Q"]).transform_filter(pick)
    lines = alt.Chart(alt.Data(values=ends)).mark_rule(color=ACCENT, strokeWidth=2, strokeDash=[5, 3])
    lines = lines.encode(x="at:Q", tooltip=["end:N", "at:Q"]).transform_filter(pick)
    return (bars + lines).add_params(pick).properties(width=WIDTH, height=260)


def layer_chart(found: Found) -> Any:
    """The error of each op's output, in the order of the graph. None where it is not known."""
    import altair as alt

    rows = [
        {"layer": f"{k + 1}. {r.op} {label(r.tensor)}", "op": r.op, "tensor": label(r.tensor), "sqnr_db": r.sqnr_db}
        for k, r in enumerate(found.layers) if r.sqnr_db is not None
    ]  # fmt: skip
    if not rows:
        return None
    order = [r["layer"] for r in rows]
    chart = alt.Chart(alt.Data(values=rows)).mark_bar(height=9, color=SPLITS["range"][1])
    return chart.encode(
        x=alt.X("sqnr_db:Q", title="signal to noise, dB (longer is better)"),
        y=alt.Y("layer:N", sort=order, title=None, axis=alt.Axis(labelLimit=300)), tooltip=["op:N", "tensor:N", "sqnr_db:Q"],
    ).properties(width=WIDTH - 240, height=alt.Step(15))  # fmt: skip


def distinct(names: Iterable[str]) -> list[str]:
    """Names for an axis; one that comes again (candidates that differ in their rules alone) gets a number."""
    seen = Counter[str]()
    found = []
    for name in names:
        seen[name] += 1
        found.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return found


def label(name: str) -> str:
    """A name from a file, inert and short enough for an axis: its beginning and its end."""
    text = safe(name, 4 * NAME)
    return text if len(text) <= NAME else f"{text[: NAME // 2 - 1]}...{text[-NAME // 2 + 2 :]}"
