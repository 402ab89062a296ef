"""One HTML page of a study, with plotly inside: it opens from a disk, without a network."""

import html
import json
import re
from collections.abc import Mapping, Sequence
from statistics import mean, median
from typing import Any

from lightning_optreg.figures.study import Band, style, usual_range
from lightning_optreg.studies.records import StudyResult
from lightning_optreg.studies.summary import NOTE, Summary, notice, table_cells, unfinished_lines

__all__ = ["render_page"]

_DASHES = {"-": "solid", "--": "dash", ":": "dot"}
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "cross", "x", "star", "hexagon")


def render_page(
    result: StudyResult,
    summary: Summary,
    panels: Mapping[tuple[str, str], Mapping[str, Band]],
    bands: Mapping[str, Band],
    lost: Mapping[str, Sequence[float]],
    tuned: str,
) -> str:
    """Render the page.

    Args:
        result: The study.
        summary: What was chosen of it.
        panels: Learning curves: for each panel, by the names of its axes, the bands by method.
        bands: What each method reached over the tuned setting.
        lost: For each method, the values at which runs diverged or failed.
        tuned: Name of the axis of these values.

    Returns:
        HTML, about 5 MB, nearly all of it plotly's script.
    """
    from plotly.offline import get_plotlyjs

    methods = [row.method for row in summary.methods]
    figures = [_figure(x, y, shown, methods) for (x, y), shown in panels.items()]
    figures.append(_figure(tuned, f"{result.metric} at the end", bands, methods, lost))
    if result.settings:
        figures[-1]["layout"]["xaxis"] |= {"type": "linear", "dtick": 1}
    figures.append(_ranking(summary, result.test_metric))
    done = sum(record.status != "failed" for record in result.records)
    parts = {
        "title": html.escape(result.title),
        "notice": _notice(result),
        "description": "".join(
            f"<dt>{html.escape(key)}</dt><dd>{html.escape(value)}</dd>"
            for key, value in {**result.description, "Runs": f"{done} of {result.planned}"}.items()
        ),
        "table": _table(summary),
        "note": html.escape(NOTE) if any(row.at_edge for row in summary.methods) else "",
        "choice": html.escape(_choice(result, summary)),
        "lost": _lost(result),
        "legend": "".join(_legend(index, method) for index, method in enumerate(methods)),
        "panels": "".join(f'<figure id="panel{i}" class="panel"></figure>' for i in range(len(figures))),
        "figures": _for_script(figures),
        "plotly": get_plotlyjs(),
    }
    # In one pass: a method may be called @@plotly@@.
    return re.sub(r"@@(\w+)@@", lambda place: parts[place[1]], _PAGE)


def _for_script(value: Any) -> str:
    """JSON that no text in it can end a script element, begin a comment in it, or break a line of it."""
    # Half of a surrogate pair is no text: it becomes a question mark, as in the rest of the page.
    text = json.dumps(value, ensure_ascii=False).encode(errors="replace").decode()
    return re.sub("[<>&\u2028\u2029]", lambda found: f"\\u{ord(found[0]):04x}", text)


def _figure(
    x: str,
    y: str,
    bands: Mapping[str, Band],
    methods: Sequence[str],
    lost: Mapping[str, Sequence[float]] | None = None,
) -> dict[str, Any]:
    traces: list[dict[str, Any]] = []
    for index, method in enumerate(methods):
        look = style(index)
        common = {"legendgroup": method, "name": html.escape(method), "showlegend": False}
        if band := bands.get(method):
            around = {"x": [*band.x, *band.x[::-1]], "y": [*band.high, *band.low[::-1]]}
            fill = {"fill": "toself", "fillcolor": look["color"] + "22", "line": {"width": 0}}
            traces.append({**common, **around, **fill, "mode": "lines", "hoverinfo": "skip"})
            line = {"color": look["color"], "dash": _DASHES[look["linestyle"]], "width": 2}
            marker = {"symbol": _SYMBOLS[index % len(_SYMBOLS)], "size": 6}
            spread = [f"{low:.4g} to {high:.4g}" for low, high in zip(band.low, band.high, strict=True)]
            hover = "<b>%{fullData.name}</b><br>%{x:.4g}: %{y:.4g}<br>%{customdata}<extra></extra>"
            traces.append(
                {
                    **common,
                    **{"x": list(band.x), "y": list(band.middle), "customdata": spread},
                    **{"mode": "lines+markers", "line": line, "marker": marker, "hovertemplate": hover},
                }
            )
        if lost and lost.get(method):
            values = list(lost[method])
            cross = {"symbol": "x-thin", "size": 11, "line": {"width": 3, "color": look["color"]}}
            hover = "<b>%{fullData.name}</b><br>%{x:.4g}: runs lost<extra></extra>"
            traces.append(
                {
                    **common,
                    **{"x": values, "y": [0.02] * len(values), "yaxis": "y2", "mode": "markers"},
                    **{"marker": cross, "hovertemplate": hover},
                }
            )
    # plotly reads tags in its texts
    layout: dict[str, Any] = {
        axis: {"title": {"text": html.escape(t)}} for axis, t in (("xaxis", x), ("yaxis", y))
    }
    middles = [band.middle for band in bands.values() if band.middle]
    if middles:
        typical = [middle[-1] if lost is None else median(middle) for middle in middles]
        low, high = usual_range([value for middle in middles for value in middle], typical)
        margin = 0.06 * (high - low) or 0.01
        layout["yaxis"]["range"] = [low - margin, high + margin]
    if lost is not None:
        tried = [v for band in bands.values() for v in band.x] + [v for vs in lost.values() for v in vs]
        if tried and min(tried) > 0:
            layout["xaxis"]["type"] = "log"
        layout["yaxis2"] = {"overlaying": "y", "range": [0, 1], "visible": False, "fixedrange": True}
    return {"data": traces, "layout": layout}


def _ranking(summary: Summary, quantity: str) -> dict[str, Any]:
    """The runs of each method at the chosen value and their mean, a row a method."""
    traces: list[dict[str, Any]] = []
    for index, row in enumerate(summary.methods):
        color = style(index)["color"]
        name = html.escape(row.method)
        common = {"legendgroup": row.method, "name": name, "showlegend": False, "mode": "markers"}
        bar = {"symbol": "line-ns", "size": 16, "line": {"width": 3, "color": color}}
        for values, marker in ((row.test, {"color": color, "opacity": 0.6}), ((mean(row.test or [0]),), bar)):
            if row.test:
                place = {"x": list(values), "y": [name] * len(values)}
                hover = "<b>%{y}</b>: %{x:.4f}<extra></extra>"
                traces.append({**common, **place, "marker": marker, "hovertemplate": hover})
    return {
        "data": traces,
        "layout": {
            "xaxis": {"title": {"text": html.escape(f"{quantity}: runs and their mean")}},
            "yaxis": {"autorange": "reversed", "type": "category"},
        },
    }


def _table(summary: Summary) -> str:
    header, *rows = table_cells(summary)
    head = "".join(f'<th scope="col"><button>{html.escape(cell)}</button></th>' for cell in header)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _legend(index: int, method: str) -> str:
    look = style(index)
    border = {"-": "solid", "--": "dashed", ":": "dotted"}[look["linestyle"]]
    return (
        f'<button class="method" aria-pressed="true" data-method="{html.escape(method)}">'
        f'<i style="border-top: 3px {border} {look["color"]}"></i>{html.escape(method)}</button>'
    )


def _choice(result: StudyResult, summary: Summary) -> str:
    seeds = len({record.seed for record in result.records})
    target = "" if summary.target is None else f" The target is {result.metric} {summary.target:.4g}"
    if target:
        target += "." if result.target is not None else ", the worst of the methods' medians."
    return (
        f"Each method's {result.tuned} is the one with the best mean of {result.metric} at the end over "
        f"{seeds} seed(s), among those with the fewest lost runs; of equals the smallest. "
        f"{result.test_metric} plays no part in the choice: mean, median and best are those of the chosen "
        "runs. Intervals are 95 % confidence intervals of the mean (Student's t); bands go from the least to "
        f"the greatest run about the median.{target}"
    )


def _notice(result: StudyResult) -> str:
    """Say first that a study is incomplete, and which runs it lacks."""
    said = notice(result)
    if not said:
        return ""
    items = "".join(f"<li>{html.escape(line.strip())}</li>" for line in unfinished_lines(result, few=None))
    which = f"<details><summary>which</summary><ul>{items}</ul></details>" if items else ""
    return f'<div class="notice">{html.escape(said[0].upper() + said[1:])}.{which}</div>'


def _lost(result: StudyResult) -> str:
    lost = [record for record in result.records if record.status != "complete"]
    if not lost:
        return ""
    said = []
    for r in lost:
        name = result.settings.get(r.method, result.tuned)
        value = "" if name is None else f", {name} {r.value:g}"
        said.append(f"{r.method}{value}, seed {r.seed}: {r.status} {r.message}")
    items = "".join(f"<li>{html.escape(text)}</li>" for text in said)
    return f"<details><summary>{len(lost)} runs were lost</summary><ul>{items}</ul></details>"


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>@@title@@</title>
<style>
:root { color-scheme: light dark; --text: #1c1e21; --soft: #5f6670; --line: #d9dce1; --back: #fff; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e6e8eb; --soft: #a0a7b1; --line: #3a3f47; --back: #16181c; }
}
body { font: 16px/1.5 system-ui, sans-serif; color: var(--text); background: var(--back);
  max-width: 76rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 1rem; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; margin: 0; font-size: .92rem; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
p, li { font-size: .92rem; color: var(--soft); max-width: 62rem; }
.notice { border-left: 4px solid #e69f00; padding-left: .8rem; margin-bottom: 1rem; color: var(--text); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums;
  white-space: nowrap; }
th { text-align: left; border-bottom: 2px solid var(--line); padding: 0; }
th button { all: unset; cursor: pointer; font-weight: 600; padding: .35rem .9rem .35rem 0; }
td { border-bottom: 1px solid var(--line); padding: .35rem .9rem .35rem 0; }
#legend { position: sticky; top: 0; z-index: 2; background: var(--back); padding: .5rem 0; display: flex;
  flex-wrap: wrap; gap: .3rem; }
.method { all: unset; cursor: pointer; font-size: .88rem; padding: .2rem .6rem; border: 1px solid var(--line);
  border-radius: 1rem; }
.method i { display: inline-block; width: 1.5rem; vertical-align: middle; margin-right: .4rem; }
.method[aria-pressed="false"] { opacity: .4; text-decoration: line-through; }
.method:focus-visible, th button:focus-visible { outline: 2px solid #0072b2; }
#panels { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 30rem), 1fr)); gap: 1rem; }
.panel { margin: 0; height: 22rem; min-width: 0; }
</style>
</head>
<body>
@@notice@@
<h1>@@title@@</h1>
<dl>@@description@@</dl>
<h2>Results</h2>
<div class="scroll">@@table@@</div>
<p>@@note@@</p>
<p>@@choice@@</p>
@@lost@@
<h2>Curves and sensitivity</h2>
<p>Drag to look closer; a double click shows all, also what lies far off.</p>
<div id="legend">@@legend@@</div>
<div id="panels">@@panels@@</div>
<script>@@plotly@@</script>
<script>
const figures = @@figures@@;
const css = getComputedStyle(document.documentElement);
const [text, line] = ["--text", "--line"].map(name => css.getPropertyValue(name).trim());
const axis = {gridcolor: line, linecolor: line, zeroline: false, automargin: true, exponentformat: "power"};
figures.forEach((figure, i) => {
  const layout = {...figure.layout, margin: {l: 60, r: 12, t: 16, b: 48}, hovermode: "closest",
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: {color: text, size: 12}};
  for (const name of ["xaxis", "yaxis"]) layout[name] = {...axis, ...layout[name]};
  const options = {responsive: true, displayModeBar: false, doubleClick: "autosize"};
  Plotly.newPlot("panel" + i, figure.data, layout, options);
});
document.querySelectorAll(".method").forEach(button => button.addEventListener("click", () => {
  const shown = button.getAttribute("aria-pressed") === "false";
  button.setAttribute("aria-pressed", shown);
  figures.forEach((figure, i) => {
    const traces = [...figure.data.keys()].filter(k => figure.data[k].legendgroup === button.dataset.method);
    if (traces.length) Plotly.restyle("panel" + i, {visible: shown}, traces);
  });
}));
document.querySelectorAll("th button").forEach((button, column) => button.addEventListener("click", () => {
  const body = document.querySelector("tbody");
  const key = row => { const cell = row.cells[column].textContent; const number = parseFloat(cell);
    return isNaN(number) ? [1, cell] : [0, number]; };
  const order = button.dataset.order = button.dataset.order === "1" ? "-1" : "1";
  [...body.rows].sort((a, b) => { const [p, q] = [key(a), key(b)];
    return (p[0] - q[0] || (p[1] > q[1] ? 1 : p[1] < q[1] ? -1 : 0)) * order; })
    .forEach(row => body.append(row));
}));
</script>
</body>
</html>
"""
