"""The report of a cross-validation: a table, the scores fold by fold, a picture, and one page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lightning_optreg.figures.folds import draw_folds
from lightning_optreg.figures.study import style
from lightning_optreg.places import Place
from lightning_optreg.studies.crossval import Crossval
from lightning_optreg.studies.direction import better
from lightning_optreg.studies.layout import in_csv, in_markdown, write_files
from lightning_optreg.studies.records import RunRecord, Unfinished
from lightning_optreg.studies.resampled import Resampled, resampled
from lightning_optreg.studies.run_queue import Queue
from lightning_optreg.studies.summary import final
from lightning_optreg.studies.template import render

__all__ = ["CrossvalResult", "collect_crossval", "crossval_notes", "crossval_table", "write_crossval_report"]


@dataclass(frozen=True)
class CrossvalResult:
    """All that a report shows of a cross-validation.

    Attributes:
        plan: The plan.
        records: Records of the runs that have ended.
        unfinished: The runs without a result, failed ones too.
    """

    plan: Crossval
    records: tuple[RunRecord, ...]
    unfinished: tuple[Unfinished, ...]

    def scores(self, method: str) -> dict[str, float]:
        """Return a method's scores by "repeat.fold", of completed runs."""
        found = {}
        for record in self.records:
            value = final(record, self.plan.metric)
            if record.method == method and value is not None:
                found[f"{record.seed}.{record.value:g}"] = value
        return found

    def test_scores(self, method: str) -> list[float]:
        """Return the test metric of a method's completed runs."""
        name = self.plan.test_metric
        return [r.test[name] for r in self.records if r.method == method and name in r.test]

    def differences(self, method: str) -> list[float]:
        """Return a method's scores less the reference's, on the folds that both have."""
        own, other = self.scores(method), self.scores(self.plan.reference)
        return [own[fold] - other[fold] for fold in own if fold in other]


def collect_crossval(queue: Queue[Crossval]) -> CrossvalResult:
    """Collect from its storage what a report shows.

    Args:
        queue: The study's runs.

    Raises:
        StorageUnavailableError: If the database does not answer.
    """
    return CrossvalResult(queue.plan, tuple(queue.records()), tuple(queue.unfinished()))


def crossval_table(result: CrossvalResult) -> list[list[str]]:
    """Return the methods as text, the header first, the best mean first."""
    plan = result.plan
    rows = []
    for method in plan.methods:
        scores = list(result.scores(method).values())
        test = result.test_scores(method)
        if not scores:
            rows.append((0.0, [method, "0", *[""] * 7]))
            continue
        score = resampled(scores, plan.folds)
        cells = [method, str(len(scores)), f"{score.mean:.4f}", _number(score.spread), _interval(score)]
        differences = result.differences(method) if method != plan.reference else []
        if differences:
            difference = resampled(differences, plan.folds)
            p_value = "" if difference.p_value is None else f"{difference.p_value:.3f}"
            cells += [f"{difference.mean:+.4f}", _interval(difference, "+"), p_value]
        else:
            cells += ["reference" if method == plan.reference else "", "", ""]
        cells.append(f"{sum(test) / len(test):.4f} ({min(test):.4f} to {max(test):.4f})" if test else "")
        rows.append((score.mean, cells))
    rows.sort(key=lambda row: row[0], reverse=plan.mode == "max")
    header = [
        "method",
        "folds",
        plan.metric,
        "sd",
        "95 % interval",
        f"less {plan.reference}",
        "95 % interval",
        "p",
    ]
    return [[*header, plan.test_metric], *(cells for _, cells in rows)]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _interval(what: Resampled, sign: str = "") -> str:
    return "" if what.interval is None else f"{what.interval[0]:{sign}.4f} to {what.interval[1]:{sign}.4f}"


def crossval_notes(result: CrossvalResult) -> list[str]:
    """Return what to know before trusting the figures."""
    notes = []
    plan = result.plan
    if result.unfinished:
        done = plan.size - len(result.unfinished)
        notes.append(f"incomplete: {done} of {plan.size} runs are done; the figures are provisional")
    lost = sum(record.status == "diverged" for record in result.records)
    if lost:
        notes.append(f"{lost} runs diverged: their folds are missing, so the means are of different folds")
    compared = len(plan.methods) - 1
    if compared > 1:
        notes.append(
            f"{compared} methods are compared with {plan.reference}: by chance alone one of them has p < "
            f"{0.05 / compared:.3g} in 5 % of studies, the bound that allows for this (Bonferroni)"
        )
    if better(plan.metric) is None:
        notes.append(
            f"{plan.metric} is taken to be better the {'larger' if plan.mode == 'max' else 'smaller'}"
        )
    return notes


def write_crossval_report(result: CrossvalResult, folder: Place) -> list[Place]:
    """Write `report.html`, `table.md`, `table.csv`, `scores.csv` and, as PNG and SVG, `folds`.

    Args:
        result: The study, complete or not.
        folder: Created if it is missing.

    Returns:
        The files.
    """
    table, plan = crossval_table(result), result.plan
    notes = [f"{note}." for note in crossval_notes(result)]
    texts = {
        "report.html": _page(result, table),
        "table.md": "\n\n".join([*notes, "\n".join(in_markdown(table))]) + "\n",
        "table.csv": in_csv(table),
        "scores.csv": in_csv(_scores(result)),
    }
    scores = {method: result.scores(method) for method in plan.methods}
    figure = draw_folds(
        scores,
        {m: resampled(list(s.values()), plan.folds).interval if s else None for m, s in scores.items()},
        _differences(result),
        plan.metric,
        plan.reference,
    )
    return write_files(folder, texts, {"folds": figure})


def _differences(result: CrossvalResult) -> dict[str, tuple[list[float], tuple[float, float] | None]]:
    found = {}
    for method in result.plan.methods:
        values = result.differences(method)
        if method != result.plan.reference:
            found[method] = (values, resampled(values, result.plan.folds).interval if values else None)
    return found


def _scores(result: CrossvalResult) -> list[list[str]]:
    plan = result.plan
    rows = [["method", "repeat", "fold", plan.metric, plan.test_metric, "state"]]
    for record in result.records:
        value, test = final(record, plan.metric), record.test.get(plan.test_metric)
        numbers = ["" if number is None else f"{number:.6g}" for number in (value, test)]
        rows.append([record.method, str(record.seed), f"{record.value:g}", *numbers, record.status])
    return rows


def _page(result: CrossvalResult, table: Sequence[Sequence[str]]) -> str:
    plan = result.plan
    header, *rows = table
    figures = [_plot({m: result.scores(m) for m in plan.methods}, plan.metric)]
    return render(
        "crossval.html.jinja",
        title=plan.title,
        outline=plan.outline(),
        notes=crossval_notes(result),
        unfinished=[f"{run.state}: {run.run} ({run.reason})" for run in result.unfinished],
        header=header,
        rows=rows,
        metric=plan.metric,
        figures=figures,
    )


def _plot(scores: Mapping[str, Mapping[str, float]], metric: str) -> dict[str, object]:
    traces = [
        {
            "x": list(by_fold),
            "y": list(by_fold.values()),
            "name": method,
            "mode": "markers+lines",
            "line": {"color": style(number)["color"], "width": 1},
        }
        for number, (method, by_fold) in enumerate(scores.items())
    ]
    axes = {
        "xaxis": {"title": {"text": "repeat.fold"}, "type": "category"},
        "yaxis": {"title": {"text": metric}},
    }
    return {"data": traces, "layout": axes}
