"""The page of a comparison; its template is `report.html.jinja`."""

import html
from collections.abc import Mapping, Sequence
from statistics import mean, median
from typing import Any

from lightning_optreg.figures.study import Band, style, usual_range
from lightning_optreg.studies.records import StudyResult
from lightning_optreg.studies.summary import Summary, notice, unfinished_lines
from lightning_optreg.studies.tables import NOTE, table_cells
from lightning_optreg.studies.template import render

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
        summary: Its summary.
        panels: Learning curves: for each panel, by the names of its axes, the bands by method.
        bands: What each method reached over the tuned setting.
        lost: For each method, the values at which runs diverged or failed.
        tuned: Name of the axis of these values.

    Returns:
        HTML, about 5 MB, nearly all of it plotly's script.
    """
    methods = [row.method for row in summary.methods]
    figures = [_figure(x, y, shown, methods) for (x, y), shown in panels.items()]
    figures.append(_figure(tuned, f"{result.metric} at the end", bands, methods, lost))
    if result.settings:
        figures[-1]["layout"]["xaxis"] |= {"type": "linear", "dtick": 1}
    figures.append(_ranking(summary, result.test_metric))
    done = sum(record.status != "failed" for record in result.records)
    said = notice(result)
    header, *rows = table_cells(summary)
    return render(
        "report.html.jinja",
        title=result.title,
        notice=said[:1].upper() + said[1:],
        unfinished=[line.strip() for line in unfinished_lines(result, few=None)] if said else [],
        description={**result.description, "Runs": f"{done} of {result.planned}"},
        header=header,
        rows=rows,
        note=NOTE if any(row.at_edge for row in summary.methods) else "",
        choice=_choice(result, summary),
        lost=_lost(result),
        legend=[_legend(index, method) for index, method in enumerate(methods)],
        figures=figures,
    )


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
    # plotly reads tags in its strings
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


def _legend(index: int, method: str) -> tuple[str, str, str]:
    """Return a method's name, line style in CSS and colour."""
    look = style(index)
    return method, {"-": "solid", "--": "dashed", ":": "dotted"}[look["linestyle"]], look["color"]


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


def _lost(result: StudyResult) -> list[str]:
    """Return a line for each run that diverged or failed."""
    said = []
    for r in result.records:
        if r.status == "complete":
            continue
        name = result.settings.get(r.method, result.tuned)
        value = "" if name is None else f", {name} {r.value:g}"
        said.append(f"{r.method}{value}, seed {r.seed}: {r.status} {r.message}")
    return said
