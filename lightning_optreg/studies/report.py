"""The report of a study: tables, pictures, and one page that needs nothing else."""

from collections.abc import Mapping
from dataclasses import replace

from lightning_optreg.figures.ranking import draw_ranking
from lightning_optreg.figures.study import Band, draw_bands, draw_sensitivity
from lightning_optreg.places import Place
from lightning_optreg.studies.layout import write_files
from lightning_optreg.studies.page import render_page
from lightning_optreg.studies.records import RunRecord, StudyResult
from lightning_optreg.studies.summary import Summary, expected_best, final, notice, summarize
from lightning_optreg.studies.tables import table_csv, table_markdown

__all__ = ["curves", "sensitivity", "tuning", "write_report"]


def write_report(result: StudyResult, folder: Place) -> list[Place]:
    """Write `report.html`, `table.md`, `table.csv`, and pictures as PNG and SVG.

    The pictures are `ranking`, `curves`, `sensitivity` and, if a method has several values, `tuning`.

    Args:
        result: The study, complete or not.
        folder: Created if it is missing.

    Returns:
        The files.
    """
    summary = summarize(result)
    panels = curves(result, summary)
    bands, lost = sensitivity(result, summary)
    methods = [row.method for row in summary.methods]
    axis = result.tuned
    if result.settings:
        axis = f"{result.tuned}: the values tried for each method, in increasing order"
    runs = {row.method: row.test for row in summary.methods}
    intervals = {row.method: row.interval for row in summary.methods}
    pictures = {
        "ranking": draw_ranking(runs, intervals, result.test_metric, result.reference),
        "curves": draw_bands(panels, methods),
        "sensitivity": draw_sensitivity(
            bands, lost, axis, f"{result.metric} at the end", ordinal=bool(result.settings)
        ),
    }
    spent = tuning(result, summary)
    if spent:
        panel = ("passes spent on tuning", f"best {result.metric}, expected")
        pictures["tuning"] = draw_bands({panel: spent}, methods)
    texts = {
        "report.html": render_page(result, summary, panels, bands, lost, axis, spent),
        "table.md": table_markdown(summary, notice(result)),
        "table.csv": table_csv(summary),
    }
    if said := notice(result):  # also where the picture is shown without the page
        for figure in pictures.values():
            figure.supxlabel(said, x=0.005, ha="left", size="x-small", color="#D55E00")  # as in all figures
    return write_files(folder, texts, pictures)


def curves(result: StudyResult, summary: Summary) -> dict[tuple[str, str], dict[str, Band]]:
    """Collect the learning curves of the chosen values: for each panel, the bands by method.

    Args:
        result: The study.
        summary: What was chosen.

    Returns:
        Panels of the training loss and of the validation metric, over passes and over seconds of training, by
        the names of their axes.
    """
    panels: dict[tuple[str, str], dict[str, Band]] = {}
    for x, attribute in (("passes over the training data", "epoch"), ("seconds of training", "seconds")):
        for metric in ("train/loss", result.metric):
            bands = {}
            for row in summary.methods:
                used = _used(result, row.method, row.value)
                lines = [
                    [
                        (getattr(point, attribute), point.metrics[metric])
                        for point in record.points
                        if metric in point.metrics
                    ]
                    for record in used
                ]
                if lines and all(lines):
                    bands[row.method] = Band.of(lines)
            if bands:
                panels[x, metric] = bands
    return panels


def sensitivity(
    result: StudyResult, summary: Summary
) -> tuple[dict[str, Band], Mapping[str, tuple[float, ...]]]:
    """Collect what each method reached at each value that was tried.

    Args:
        result: The study.
        summary: For the order of the methods.

    Returns:
        Bands of the last validation metric over the values, and the values at which runs were lost, of the
        methods that are tuned. Where each method is tuned by a setting of its own, the values are counted
        from 1 instead, in increasing order.
    """
    bands, lost = {}, {}
    for row in summary.methods:
        if result.settings.get(row.method, "") is None:
            continue
        records = [record for record in result.records if record.method == row.method]
        if result.settings:
            order = sorted({record.value for record in records})
            records = [replace(record, value=order.index(record.value) + 1.0) for record in records]
        lost[row.method] = tuple(sorted({r.value for r in records if final(r, result.metric) is None}))
        points = {}
        for value in sorted({record.value for record in records}):
            reached = [final(record, result.metric) for record in records if record.value == value]
            points[value] = [y for y in reached if y is not None]
        kept = {value: ys for value, ys in points.items() if ys}
        middles = [Band.of([[(value, y)] for y in ys]) for value, ys in kept.items()]
        bands[row.method] = Band(
            tuple(kept),
            tuple(band.middle[0] for band in middles),
            tuple(band.low[0] for band in middles),
            tuple(band.high[0] for band in middles),
        )
    return bands, lost


def tuning(result: StudyResult, summary: Summary) -> dict[str, Band]:
    """Collect what each method's best value is expected to reach over the passes spent on tuning it.

    Args:
        result: The study.
        summary: For the order of the methods.

    Returns:
        Of each method with more than one value: the expected best mean of the last validation metric after
        1, 2, ... values, tried in random order with all seeds. Values whose runs were all lost count as
        passes and not as results.
    """
    found = {}
    for row in summary.methods:
        records = [record for record in result.records if record.method == row.method]
        by_value: dict[float, list[float]] = {}
        for record in records:
            reached = final(record, result.metric)
            by_value.setdefault(record.value, []).extend([] if reached is None else [reached])
        means = [sum(reached) / len(reached) for reached in by_value.values() if reached]
        if len(means) > 1:
            passes = sum(record.points[-1].epoch for record in records if record.points) / len(means)
            best = expected_best(means, result.mode)
            found[row.method] = Band([passes * (n + 1) for n in range(len(best))], best, best, best)
    return found


def _used(result: StudyResult, method: str, value: float | None) -> list[RunRecord]:
    return [
        record
        for record in result.records
        if record.method == method and record.value == value and final(record, result.metric) is not None
    ]
