"""The report of a tuning study: a table, the best settings as a recipe, and one page of pictures."""

import json
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import yaml

from lightning_optreg.places import Place
from lightning_optreg.studies.layout import in_csv, write_files
from lightning_optreg.studies.search_result import SearchResult, Tried, short_names
from lightning_optreg.studies.template import render

if TYPE_CHECKING:
    from optuna import Study

__all__ = ["best_rows", "best_yaml", "search_notes", "search_table", "write_search_report"]


def write_search_report(result: SearchResult, folder: Place) -> list[Place]:
    """Write `report.html`, `trials.csv` and, if a trial is complete, `best.yaml`.

    Args:
        result: The study, complete or not.
        folder: Created if it is missing.

    Returns:
        The files.
    """
    header, *rows = search_table(result)
    texts = {"report.html": _page(result, header, rows), "trials.csv": in_csv([header, *rows])}
    if result.best is not None:
        texts["best.yaml"] = best_yaml(result, result.best)
    return write_files(folder, texts)


def best_yaml(result: SearchResult, best: Tried) -> str:
    """Return the settings of a trial as a recipe, which `fit --config` takes as it is."""
    settings = yaml.safe_dump(result.plan.settings(best.values), sort_keys=False, allow_unicode=True)
    value = best.reached(result.plan.metric)
    return (
        f"# Trial {best.number} of the study {result.plan.name}: {result.plan.metric} {value:.4f} "
        f"after {best.passes:g} passes.\n{settings}"
    )


def search_table(result: SearchResult) -> list[list[str]]:
    """Return the trials as text, the header first, by their numbers."""
    plan, names = result.plan, short_names(result.plan.space.parts)
    rows = [["trial", "state", plan.metric, *names.values(), "passes", "seconds", plan.test_metric]]
    for each in result.tried:
        value, test = each.reached(plan.metric), each.record.test.get(plan.test_metric)
        points = each.record.points
        rows.append(
            [
                str(each.number),
                each.record.status,
                "" if value is None else f"{value:.4f}",
                *(_text(each.values.get(key)) for key in names),
                f"{each.passes:g}",
                f"{points[-1].seconds:.1f}" if points else "",
                "" if test is None else f"{test:.4f}",
            ]
        )
    return rows


def _text(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def search_notes(result: SearchResult) -> list[str]:
    """Return what to know before trusting the best value: ends of ranges, lost and open trials."""
    notes = []
    if result.unfinished:
        states = [run.state for run in result.unfinished]
        counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
        notes.append(f"incomplete: of the trials that were begun, {counts}")
    diverged = sum(each.record.status == "diverged" for each in result.tried)
    if diverged:
        notes.append(f"{diverged} trials diverged")
    best = result.best
    for key, end in [] if best is None else result.plan.space.ends(best.values):
        notes.append(f"the best {key} lies at the {end} of its range: a better one may lie outside")
    if best is not None and result.plan.first:
        known = [each for _, each in result.ranked_by if each.number < len(result.plan.first)]
        if best in known:
            notes.append(f"no trial was better than trial {best.number}, whose settings were given")
    return notes


def best_rows(result: SearchResult, few: int = 5) -> list[list[str]]:
    """Return the rows of the best trials, the header first.

    Args:
        result: The study.
        few: How many to show.
    """
    header, *rows = search_table(result)
    order = sorted(result.ranked_by, key=lambda each: each[0], reverse=result.plan.mode == "max")
    by_number = {row[0]: row for row in rows}
    return [header, *(by_number[str(each.number)] for _, each in order[:few])]


def _page(result: SearchResult, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    plan, best = result.plan, result.best
    states = [each.record.status for each in result.tried]
    return render(
        "search.html.jinja",
        title=plan.title,
        outline=plan.outline(),
        ended=", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states)),
        notes=search_notes(result),
        best=None if best is None else best_yaml(result, best),
        header=header,
        rows=rows,
        chosen=None if best is None else str(best.number),
        figures=_figures(result.study, plan.metric),
    )


def _figures(study: "Study", metric: str) -> list[dict[str, Any]]:
    """Draw what there is enough for: Optuna's pictures, with their titles."""
    import optuna
    from optuna import visualization
    from optuna.importance import PedAnovaImportanceEvaluator
    from optuna.trial import TrialState

    complete = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
    if not complete:
        return []
    pictures: list[tuple[str, Callable[[], Any]]] = [
        ("History", lambda: visualization.plot_optimization_history(study, target_name=metric)),
        (f"{metric} after each validation", lambda: visualization.plot_intermediate_values(study)),
        ("Each setting by itself", lambda: visualization.plot_slice(study, target_name=metric)),
        (
            "All settings of each trial",
            lambda: visualization.plot_parallel_coordinate(study, target_name=metric),
        ),
    ]
    if _settings_differ(complete):
        evaluator = PedAnovaImportanceEvaluator()  # it needs no further package
        pictures.append(
            (
                "Importance of the settings for the best results",
                lambda: visualization.plot_param_importances(study, evaluator=evaluator, target_name=metric),
            )
        )
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        for title, draw in pictures:
            figure = json.loads(draw().to_json())
            figure["layout"].pop("template", None)  # the page has colours of its own, for dark screens too
            figure["layout"].pop("title", None)
            figure["layout"]["margin"] = {"t": 48, "r": 72}  # labels of parallel axes lie above them
            found.append({"title": title, "data": figure["data"], "layout": figure["layout"]})
    return found


def _settings_differ(trials: Sequence[Any]) -> bool:
    """Return whether importances can be computed: more than one value of the metric and of a setting."""
    values = {trial.value for trial in trials}
    return len(values) > 1 and len({json.dumps(trial.params, sort_keys=True) for trial in trials}) > 1
