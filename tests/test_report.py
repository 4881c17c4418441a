"""Sweeps told to people: what is kept of them, tables, rows, and the page in a real browser."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from browser import Browser
from sweeping import job_in

from calibrate.candidates import grid
from calibrate.distribution import Distribution
from calibrate.store import Store, merge
from calibrate.summary import BINS, _histogram, key_of, summary
from calibrate.summaryform import checked
from calibrate.sweeper import Search, run_sweep
from qsim.errors import BadData
from qsim_cli import charts
from qsim_cli.app import run
from qsim_cli.report import rows_of

SEARCH = Search(shortlist=3, rounds=2, final=2, draws=3)
ASKED = [
    *grid({"scheme": ["int8", "sim:a4w4"], "activation": ["minmax", "mse", "percentile:99"]}),
    *grid({"scheme": ["int8"], "activation": ["minmax"], "samples": [16, 64]}),
]
HOSTILE = "</script><script>alert(1)</script><img src=http://evil.example/x onerror=alert(2)>\u202e{{7*7}}'\"&amp;"


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return run_sweep(job_in(tmp_path_factory.mktemp("report"), input_range=(0.0, 255.0)), ASKED, SEARCH)


@pytest.fixture(scope="module")
def data(found):
    return summary(found)


@pytest.fixture
def path(data, tmp_path):
    with Store(tmp_path / "s.sqlite") as store:
        store.keep_summary("k", data)
    return tmp_path / "s.sqlite"


@pytest.fixture(scope="module")
def hostile(data, tmp_path_factory):
    """A store in which every text that comes from a file is an attack."""
    bad = json.loads(json.dumps(data))
    bad["name"] = bad["model"] = bad["data"][0] = HOSTILE
    for f in bad["schemes"]:
        f["notes"] = [HOSTILE]
        for t in f["tensors"]:
            t["name"] = f"{HOSTILE}{t['name']}"
        for r in f["layers"]:
            r["tensor"] = r["op"] = HOSTILE
        f["tried"][-1]["candidate"] = f["tried"][-1]["failed"] = HOSTILE
    path = tmp_path_factory.mktemp("hostile") / "hostile.sqlite"
    with Store(path) as store:
        store.keep_summary("k", bad)
    return path


# ---------------------------------------------------------------- what is kept


def test_a_summary_holds_what_was_found(found, data):
    s = checked(data)
    assert s.samples == {"calibrate": 160, "select": 120, "test": 120} and s.split == found.words
    for f, o in zip(s.schemes, found.outcomes, strict=True):
        assert [t.text for t in f.tried] == [x.candidate.text for x in o.scores] and f.tried[0].select_loss == o.scores[0].mean
        assert (f.tested[0].loss, f.tested[0].right, f.baseline.gain) == (o.tested[0].loss, o.tested[0].right, 0.0)
        assert f.baseline.against_baseline == "itself" and (f.alike, f.optimism) == (o.alike, o.optimism)
        assert f.tested[0].won - f.tested[0].lost == round(120 * (f.tested[0].right - f.float_right))
        ranges = found.lab.allotted(o.winner)
        assert all((t.low, t.high) == ranges[t.name] for t in f.tensors) and len(f.tensors) >= 4
    assert sum(len(t.draws) for t in s.schemes[0].tried if t.samples == 16) == SEARCH.draws
    assert data == summary(found)


def test_the_sizes_are_those_of_files_and_of_simulated_bits(found, data, tmp_path):
    import qsim

    exact, simulated = checked(data).schemes
    qsim.save(found.model("int8"), tmp_path / "q.tflite")
    assert exact.size == (tmp_path / "q.tflite").stat().st_size
    weights, biases, shape = 8 * 9 + 8 * 72 + 4 * 32, 20, 2
    assert simulated.size == weights // 2 + 4 * (biases + shape) and "simulated" in simulated.sized


def test_the_errors_by_layer_grow_where_bits_are_fewer(data):
    exact, simulated = (
        [(r.op, r.tensor) for r in f.layers] and np.array([r.sqnr_db for r in f.layers]) for f in checked(data).schemes
    )  # fmt: skip
    assert (exact > simulated + 6).all() and len(exact) == 5 and exact[0] > 30


def test_a_histogram_counts_every_value():
    points = np.array([-1.0, 0.0, 3.0])
    exact = Distribution(points, points, np.array([2.0, 5.0, 1.0]), -1.0, 3.0, True, 1)
    counts = _histogram(exact)
    assert (counts[0], counts[16], counts[-1], sum(counts), len(counts)) == (2.0, 5.0, 1.0, 8.0, BINS)
    spread = Distribution(np.array([0.0]), np.array([1.0]), np.array([64.0]), 0.0, 1.0, False, 1)
    assert _histogram(spread) == [1.0] * BINS
    constant = Distribution(points[:1], points[:1], np.array([2.0]), -1.0, -1.0, True, 1)
    assert sum(_histogram(constant)) in (0.0, 2.0)


def test_a_later_summary_takes_the_place_of_an_earlier_one_and_merging_is_a_union(found, data, tmp_path):
    key = key_of(found.lab, ASKED, SEARCH)
    assert key != key_of(found.lab, ASKED[1:], SEARCH) and key != key_of(found.lab, ASKED, Search())
    for n, name in enumerate(("a", "b", "a")):
        with Store(tmp_path / f"w{n}.sqlite") as store:
            store.keep_summary(key + name, {**data, "name": "old"})
            store.keep_summary(key + name, {**data, "name": name})
    merge(tmp_path, tmp_path / "all.sqlite")
    with Store(tmp_path / "all.sqlite") as store:
        assert [s["name"] for s in store.summaries()] == ["a", "b"] and store.summaries()[0] == {**data, "name": "a"}


def test_a_summary_that_is_none_is_refused(data):
    with pytest.raises(BadData, match=r"schemes\[0\].alike"):
        checked({**data, "schemes": [{**data["schemes"][0], "alike": "many"}]})
    with pytest.raises(BadData, match="another form"):
        checked({**data, "form": 99})


# ---------------------------------------------------------------- the command


def test_the_terminal_has_winner_and_verdict(path, data, capsys):
    assert run(["report", str(path)]) == 0
    shown, f = capsys.readouterr().out, checked(data).schemes[0]
    assert f.tested[0].candidate in shown and f"{f.tested[0].loss:.4g} ±" in shown and "cannot be told from the winner" in shown
    assert f"{f.size:,} bytes" in shown and "noisiest tensors" in shown and "sim:a4w4" in shown


def test_json_is_what_the_store_holds(path, data, capsys):
    assert run(["report", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"sweeps": [data], "files": []}


def test_rows_as_csv_and_parquet(path, data, tmp_path, capsys):
    polars = pytest.importorskip("polars", reason="Parquet needs polars (extra report)")
    assert run(["report", str(path), "--csv", str(tmp_path / "r.csv"), "--parquet", str(tmp_path / "r.parquet")]) == 0
    rows = rows_of([checked(data)])
    read = list(csv.DictReader(io.StringIO((tmp_path / "r.csv").read_text(encoding="utf-8"))))
    assert [r["candidate"] for r in read] == [r["candidate"] for r in rows] and len(rows) == sum(len(f["tried"]) for f in data["schemes"])
    assert [float(r["select_loss"]) for r in read] == [r["select_loss"] for r in rows]
    assert polars.read_parquet(tmp_path / "r.parquet").to_dicts() == rows


@pytest.mark.parametrize(("module", "option"), [("polars", "--parquet"), ("altair", "-o")])
def test_what_is_missing_is_named_with_its_command(path, tmp_path, monkeypatch, capsys, module, option):
    monkeypatch.setitem(sys.modules, module, None)
    assert run(["report", str(path), option, str(tmp_path / "out")]) == 4
    assert "pip install 'qsim-tflite[report]'" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_an_existing_file_stays_without_force(path, tmp_path, capsys):
    out = tmp_path / "r.csv"
    out.write_text("mine")
    assert run(["report", str(path), "--csv", str(out)]) == 6 and out.read_text() == "mine"
    assert run(["report", str(path), "--csv", str(path), "--force"]) == 6
    assert run(["report", str(path), "--csv", str(out), "--force"]) == 0 and out.read_text().startswith("sweep,")


def test_a_store_without_a_finished_sweep_is_told(tmp_path, capsys):
    assert run(["report", str(tmp_path / "none.sqlite")]) == 5 and not (tmp_path / "none.sqlite").exists()
    Store(tmp_path / "empty.sqlite").close()
    assert run(["report", str(tmp_path / "empty.sqlite")]) == 5
    assert "no finished sweep" in capsys.readouterr().err


def test_candidates_that_differ_in_their_rules_alone_keep_apart():
    assert charts.distinct(["mse", "mse with 1 rule", "mse with 1 rule"]) == ["mse", "mse with 1 rule", "mse with 1 rule (2)"]


# ---------------------------------------------------------------- the page


class Page(HTMLParser):
    """Tags with their attributes, the charts, and the text that is shown."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.texts: dict[str, list[str]] = {}
        self._open = ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self._open = tag + ("#" + dict(attributes)["id"] if tag == "script" and dict(attributes).get("id") else "")

    def handle_data(self, text):
        self.texts.setdefault(self._open, []).append(text)


@pytest.fixture(scope="module")
def made(hostile):
    pytest.importorskip("altair", reason="the page needs Altair (extra report)")
    assert run(["report", str(hostile), "-o", str(hostile.parent / "report.html")]) == 0
    return hostile.parent / "report.html"


def test_the_page_is_whole_refers_to_nothing_outside_and_escapes_names(made, data):
    page = Page(made.read_text(encoding="utf-8"))
    assert [t for t, _ in page.tags if t in ("img", "iframe", "link", "object", "base")] == ["link"]
    assert sum(t == "script" for t, _ in page.tags) == 2  # the charts, the code
    outside = [
        v for _, a in page.tags for k, v in a.items() if k in ("src", "href", "action", "srcset") and not v.startswith(("#", "data:"))
    ]
    assert not outside and "url(" not in "".join(page.texts["style"])
    policy = next(a["content"] for t, a in page.tags if t == "meta" and "http-equiv" in a)
    assert policy.startswith("default-src 'none'; script-src 'sha256-") and "unsafe-eval" not in policy
    assert any("<script>alert(1)" in text and "\\u202e" in text for text in page.texts["td"] + page.texts["h2"])


def test_every_chart_can_be_drawn_and_holds_the_figures(made, data):
    converter = pytest.importorskip("vl_convert")
    specs = json.loads("".join(Page(made.read_text(encoding="utf-8")).texts["script#charts"]))
    wanted = ["pareto0", "pareto1", "strategy0-0", "size0-0", "histogram0-0", "layer0-0", "strategy0-1", "histogram0-1", "layer0-1"]
    assert sorted(specs) == sorted(wanted)
    for name in ("strategy0-0", "size0-0", "histogram0-0"):
        drawn = converter.vegalite_to_svg(json.dumps(specs[name]))
        assert len(re.findall(r"<path[^>]* aria-roledescription=\"[a-z ]+\"", drawn)) > 2, name
    best = data["schemes"][0]["tested"][0]
    rows = [r for r in values(specs["strategy0-0"]) if r.get("split") == "test"]
    assert any(r["loss"] == best["loss"] and r["right"] == best["right"] for r in rows)
    ends = {(r["end"], r["at"]) for r in values(specs["histogram0-0"]) if "end" in r}
    assert all({("low", t["low"]), ("high", t["high"])} <= ends for t in data["schemes"][0]["tensors"])
    assert {r["size"] for r in values(specs["pareto0"])} == {f["size"] for f in data["schemes"]}
    assert {r["samples"] for r in values(specs["size0-0"])} == {16, 64, 160}


def values(spec):
    """All rows of data in a specification."""
    if isinstance(spec, dict):
        yield from spec["data"]["values"] if "values" in spec.get("data", {}) else ()
    for part in spec.values() if isinstance(spec, dict) else spec if isinstance(spec, list) else ():
        yield from values(part)


def test_a_browser_draws_every_chart_without_a_complaint_or_a_request(made, tmp_path):
    with Browser(tmp_path) as browser:
        browser.open(made)
        browser.wait("document.body.dataset.drawn === '9'")
        assert browser.value("document.querySelectorAll('.chart svg.marks').length") == 9
        marks = "[...document.querySelectorAll('.chart')].map(c => c.querySelectorAll('[aria-roledescription] , .mark-rect path').length)"
        assert min(json.loads(browser.value(f"JSON.stringify({marks})"))) > 2
        losses = "[...document.querySelectorAll('table')].find(t => t.textContent.includes('behind the winner'))"
        browser.value(f"{losses}.querySelectorAll('th')[2].click()")
        order = json.loads(browser.value(f"JSON.stringify([...{losses}.tBodies[0].rows].map(r => Number(r.cells[2].dataset.value)))"))
        assert order == sorted(order) and len(order) > 3
        before = browser.value("document.getElementById('histogram0-0').querySelector('.mark-rect').innerHTML")
        browser.value("{ const s = document.querySelector('select'); s.selectedIndex = 1; s.dispatchEvent(new Event('change')) }")
        browser.wait(f"document.getElementById('histogram0-0').querySelector('.mark-rect').innerHTML !== {json.dumps(before)}")
        assert not browser.complaints() and not browser.requests()
        assert browser.value("document.querySelectorAll('img').length") == 0
