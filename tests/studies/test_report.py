"""The summary of a study against hand-made numbers, and its page as a browser shows it."""

import csv
import html
import json
import math
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any, Literal
from xml.etree import ElementTree

import numpy as np
import pytest
from scipy import stats

from lightning_optreg.figures.ranking import draw_ranking
from lightning_optreg.figures.study import Band, draw_bands, draw_sensitivity, style
from lightning_optreg.studies import Point, RunRecord, StudyResult
from lightning_optreg.studies.report import curves, sensitivity, write_report
from lightning_optreg.studies.summary import final, summarize
from lightning_optreg.studies.tables import format_table, table_csv, table_markdown

METHODS = (
    "SGD",
    "Momentum",
    "Nesterov",
    "Adagrad",
    "Adadelta",
    "RMSprop",
    "Adam",
    "AdaMax",
    "NAdam",
    "A <b>&",
    "L-BFGS",
)


def record(
    method: str,
    value: float,
    seed: int,
    accuracies: list[float],
    test: float = 0.5,
    status: Literal["complete", "diverged", "failed"] = "complete",
) -> RunRecord:
    points = tuple(
        Point(float(i), 2.0 * i, {"val/accuracy": a, "train/loss": 2.0 / i})
        for i, a in enumerate(accuracies, 1)
    )
    return RunRecord(
        method, value, seed, status, points, {"test/accuracy": test} if status == "complete" else {}
    )


def study(*records: RunRecord, **changes: Any) -> StudyResult:
    result = StudyResult(
        name="study",
        title="A <study>",
        tuned="learning rate",
        metric="val/accuracy",
        mode="max",
        test_metric="test/accuracy",
        target=None,
        description={"Data": "made up"},
        planned=len(records),
        records=records,
    )
    return replace(result, **changes)


def large() -> StudyResult:
    rng = np.random.default_rng(0)
    records = []
    for i, method in enumerate(METHODS):
        for j, value in enumerate(10.0 ** np.arange(-4, 1)):
            for seed in range(3):
                if j == 4 and i % 3 == 0:
                    records.append(record(method, value, seed, [0.1], status="diverged"))
                    continue
                best = 0.9 - 0.004 * i - 0.03 * (j - 2) ** 2 + rng.normal(0, 0.004)
                steps = [best * (1 - 0.5 * math.exp(-k)) for k in range(6)]
                records.append(record(method, float(value), seed, steps, best - 0.01))
    return study(*records)


def test_chosen_by_validation_and_reported_by_test() -> None:
    result = study(
        *(
            record("a", 0.1, seed, [0.5, v], t)
            for seed, (v, t) in enumerate([(0.8, 0.7), (0.9, 0.75), (0.7, 0.8)])
        ),
        *(record("a", 0.2, seed, [0.5, 0.79], 0.99) for seed in range(3)),
        *(record("b", 0.1, seed, [0.5, 0.6], 0.9) for seed in range(3)),
        target=0.75,
    )
    summary = summarize(result)
    b, a = summary.methods
    assert (b.method, a.method) == ("b", "a")  # by the test metric
    assert a.value == 0.1  # mean 0.8 against 0.79, whatever the test says
    assert a.test == (0.7, 0.75, 0.8)
    low, high = stats.t.interval(0.95, 2, loc=0.75, scale=stats.sem([0.7, 0.75, 0.8]))
    assert a.interval == pytest.approx((low, high))
    assert (a.reached, a.epochs_to_target, a.seconds_to_target) == (2, 2.0, 4.0)
    assert (b.reached, b.epochs_to_target) == (0, None)
    assert a.at_edge
    assert not b.at_edge  # one value is no grid
    assert a.seconds_per_epoch == 2.0
    text = format_table(summary)
    assert "2 (2/3)" in text
    assert "not reached" in text


def test_lost_runs_count_as_the_worst() -> None:
    result = study(
        record("a", 0.1, 0, [0.99]),
        record("a", 0.1, 1, [0.1], status="diverged"),
        record("a", 0.01, 0, [0.5]),
        record("a", 0.01, 1, [0.6]),
        record("b", 0.1, 0, [math.nan]),
        record("b", 0.1, 1, [], status="failed"),
    )
    a, b = summarize(result).methods
    assert (a.value, a.lost, a.seeds) == (0.01, 1, 2)
    assert (b.value, b.lost, b.seeds, b.test, b.interval) == (None, 2, 0, (), None)
    assert "none" in format_table(summarize(result))


def test_the_smallest_of_equals_and_a_target_that_half_reach() -> None:
    result = study(
        *(record("a", value, seed, [0.2, 0.8]) for value in (0.3, 0.1, 0.2) for seed in (0, 1)),
        *(record("b", 0.1, seed, [0.2, 0.6 + 0.1 * seed]) for seed in (0, 1, 2)),
    )
    summary = summarize(result)
    assert next(row for row in summary.methods if row.method == "a").value == 0.1
    assert summary.target == pytest.approx(0.7)
    assert next(row for row in summary.methods if row.method == "b").reached == 2


def test_small_may_be_good() -> None:
    result = study(
        record("a", 0.1, 0, [3.0, 1.0], test=1.0),
        record("a", 0.2, 0, [3.0, 2.0]),
        record("b", 0.1, 0, [0.5], test=0.5),
        mode="min",
    )
    b, a = summarize(result).methods
    assert (b.method, a.value) == ("b", 0.1)
    assert summarize(result).target == 1.0
    assert a.epochs_to_target == 2.0


def test_one_seed_and_nothing_at_all() -> None:
    (row,) = summarize(study(record("a", 0.1, 0, [0.5]))).methods
    assert row.interval is None
    assert summarize(study()).methods == ()
    assert final(record("a", 0.1, 0, [0.5], status="failed"), "val/accuracy") is None


def test_tables() -> None:
    summary = summarize(large())
    rows = list(csv.DictReader(table_csv(summary).splitlines()))
    assert [row["method"] for row in rows] == [row.method for row in summary.methods]
    assert float(rows[0]["mean"]) == pytest.approx(mean(summary.methods[0].test))
    markdown = table_markdown(summarize(study(record("a|b", 0.1, 0, [0.5]))))
    assert "| a\\|b | 0.1 | 0.5000 |" in markdown


def test_bands() -> None:
    band = Band.of([[(1, 1.0), (2, 5.0)], [(2, 2.0), (3, 1.0), (9, 9.0)], [(3, 9.0), (7, 3.0)]])
    assert band == Band((2, 3), (2.0, 3.0), (1.0, 1.0), (9.0, 5.0))
    looks = [tuple(style(i).values()) for i in range(21)]
    assert len({look[:2] for look in looks}) == 21


def test_figures() -> None:
    result = large()
    summary = summarize(result)
    panels = curves(result, summary)
    assert [y for _, y in panels] == ["train/loss", "val/accuracy"] * 2
    figure = draw_bands(panels, [row.method for row in summary.methods])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        row.method for row in summary.methods
    ]
    bands, lost = sensitivity(result, summary)
    assert lost["SGD"] == (1.0,)
    assert bands["SGD"].x == pytest.approx((1e-4, 1e-3, 1e-2, 1e-1))
    axes = draw_sensitivity(bands, lost, "learning rate", "accuracy").axes[0]
    assert axes.get_xscale() == "log"
    assert any("diverged" in text.get_text() for text in axes.texts)


def test_what_is_far_off_does_not_flatten_the_others() -> None:
    bands = {f"m{i}": Band((1, 2), (0.85, 0.88 + 0.002 * i), (0.8, 0.8), (0.9, 0.9)) for i in range(5)}
    bands["far"] = Band((1, 2), (0.1, 0.3), (0.1, 0.3), (0.1, 0.3))
    axes = draw_bands({("epoch", "accuracy"): bands}, list(bands)).axes[0]
    low, high = axes.get_ylim()
    assert 0.8 < low < 0.85
    assert 0.888 < high < 0.9
    assert axes.get_title(loc="left") == "partly outside: far"


def test_report_of_part_of_a_study(tmp_path: Path) -> None:
    result = study(record("a", 0.1, 0, [0.5]), record("b", 0.1, 0, [], status="failed"), planned=9)
    paths = write_report(replace(result, records=(*result.records,)), tmp_path / "new")
    assert all(path.stat().st_size > 100 for path in paths)
    page = (tmp_path / "new" / "report.html").read_text()
    assert "1 of 9 runs are done, 1 failed" in page
    assert "1 runs were lost" in page
    assert "<h1>A &lt;study&gt;</h1>" in page


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def browse(page: Path, profile: Path) -> str:
    """The page as a browser has made it."""
    command = [
        str(CHROMIUM),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
    ]
    command += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    command += [
        f"--user-data-dir={profile}",
        "--virtual-time-budget=10000",
        "--dump-dom",
        page.as_uri(),
    ]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium or Chrome to open the page with")
def test_a_browser_draws_the_page(tmp_path: Path) -> None:
    result = large()
    write_report(result, tmp_path)
    page = tmp_path / "report.html"
    source = page.read_text()
    own = source[: source.index("<script>")] + source[source.rindex("<script>") :]
    assert not re.search(r"https?://|src=|<link", own)  # nothing to fetch
    dom = browse(page, tmp_path / "profile")
    dom = dom[: dom.index("<script>")]
    panels = re.findall(r'<figure id="panel\d".*?</figure>', dom, re.S)
    assert len(panels) == 7  # the last but one: what tuning costs
    for panel in panels[:-1]:
        assert len(re.findall(r'class="js-line"', panel)) == 2 * len(METHODS)  # a band and a line each
    assert len(re.findall(r'class="point"', panels[-1])) == 4 * len(METHODS)  # three runs and their mean
    for method in METHODS:
        assert f"<td>{html.escape(method)}</td>" in dom
        assert f'data-method="{html.escape(method, quote=False)}"' in dom or method in html.unescape(dom)
    assert "<b>" not in dom.partition("<table>")[2].partition("</table>")[0]


HOSTILE = (
    "<!--<script",
    "</script><img src=x onerror=document.title='hostile'>",
    "]]><svg onload=document.title='hostile'>",
    '"><b onmouseover=',
    "'};document.title='hostile';//",
    "@@plotly@@ @@figures@@",
    "\u2028\u2029 \ud800",
    "</script><b>",
    "$x^{$ \\frac | pipe",
    "%{x} &lt;b&gt; &amp;",
)


def hostile() -> StudyResult:
    """A study in which every text is hostile."""
    points = (Point(1.0, 2.0, {HOSTILE[0]: 0.5, "train/loss": 1.0}),)
    records = [
        RunRecord(method, value, seed, "complete", points, {HOSTILE[1]: 0.5 + seed})
        for method in HOSTILE
        for value in (0.1, 0.2)
        for seed in (0, 1)
    ]
    failed = RunRecord(HOSTILE[0], 0.3, 0, "failed", (), {}, HOSTILE[1])
    return StudyResult(
        name=HOSTILE[0],
        title=HOSTILE[1],
        tuned=HOSTILE[2],
        metric=HOSTILE[0],
        mode="max",
        test_metric=HOSTILE[1],
        target=None,
        description={HOSTILE[1]: HOSTILE[2], "Network": HOSTILE[0]},
        planned=99,
        records=(*records, failed),
        reference=HOSTILE[1],
    )


def test_hostile_texts_stay_texts(tmp_path: Path) -> None:
    write_report(hostile(), tmp_path)
    page = (tmp_path / "report.html").read_text()
    body, script = page[: page.index("<script>")], page[page.rindex("<script>") :]
    assert not re.search(r"<(?:img|svg|b[ >]|!--)", body)
    assert page.count("<script>") == page.count("</script>") == 2
    figures = script.partition("const figures = ")[2].partition(";\n")[0]
    assert not re.search("[<>&\u2028\u2029]", figures)
    names = {trace["legendgroup"] for figure in json.loads(figures) for trace in figure["data"]}
    assert names == {method.replace("\ud800", "?") for method in HOSTILE}
    for file in tmp_path.glob("*.svg"):
        drawing = ElementTree.parse(file)
        assert not [tag for tag in drawing.iter() if str(tag.tag).endswith(("script", "img"))]
        assert "onload" not in re.sub(r"<!--.*?-->", "", file.read_text(), flags=re.S)
    table = (tmp_path / "table.md").read_text()
    assert "<" not in table
    assert len(re.findall("^[|].*[|]$", table, re.M)) == 2 + len(HOSTILE)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium or Chrome to open the page with")
def test_a_browser_runs_nothing_of_hostile_texts(tmp_path: Path) -> None:
    write_report(hostile(), tmp_path)
    dom = browse(tmp_path / "report.html", tmp_path / "profile")
    assert "<title>hostile" not in dom
    dom = dom[: dom.index("<script>")]
    panels = re.findall(r'<figure id="panel\d".*?</figure>', dom, re.S)
    assert all('class="main-svg"' in panel for panel in panels)
    assert len(re.findall(r'class="point"', panels[-1])) == 3 * len(HOSTILE)  # two runs and their mean
    for method in HOSTILE[:5]:
        assert f"<td>{html.escape(method, quote=False)}</td>" in dom


def test_ranking_shows_each_run_and_the_mean_of_each_method() -> None:
    runs = {"L2": (0.8, 0.82, 0.84), "none": (0.7, 0.72), "lost": ()}
    axes = draw_ranking(runs, {"L2": (0.77, 0.87), "none": None}, "test/accuracy", "none").axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["L2", "none", "lost"]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first on top
    lines = [(list(line.get_xdata()), list(line.get_ydata())) for line in axes.get_lines()]
    assert ([0.8, 0.82, 0.84], [0, 0, 0]) in lines
    assert ([pytest.approx(0.82)], [0]) in lines
    assert ([0.77, 0.87], [0, 0]) in lines
    assert ([pytest.approx(0.71)] * 2, [0, 1]) in lines  # the reference, through all rows
    assert not any(2 in rows for _, rows in lines)
    low, high = axes.get_xlim()
    assert low < 0.7
    assert high > 0.84


def test_settings_of_their_own_are_put_in_order() -> None:
    records = [
        record(method, value, 0, [value])
        for method, values in {"L1": (0.01, 0.001), "patience": (5.0, 20.0), "none": (0.0,)}.items()
        for value in values
    ]
    result = study(*records, settings={"L1": "lambd", "patience": "patience", "none": None})
    bands, _ = sensitivity(result, summarize(result))
    assert {method: band.x for method, band in bands.items()} == {"L1": (1.0, 2.0), "patience": (1.0, 2.0)}
    assert bands["L1"].middle == (0.001, 0.01)
    axes = draw_sensitivity(bands, {}, "strength", "accuracy", ordinal=True).axes[0]
    assert axes.get_xscale() == "linear"
    assert list(axes.get_xticks()) == [1.0, 2.0]


def test_methods_are_ranked_by_the_better_end_of_the_test_metric() -> None:
    """Chosen by a loss, of which less is better, they are still ranked by accuracy, of which more is."""
    records = [record("worse", 0.1, 0, [0.5], test=0.2), record("better", 0.1, 0, [0.5], test=0.9)]
    for mode in ("min", "max"):
        rows = summarize(study(*records, metric="train/loss", mode=mode)).methods
        assert [row.method for row in rows] == ["better", "worse"]
