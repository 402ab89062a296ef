"""The report of a nested cross-validation: the best trial of each search, on images it never saw."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lightning_optreg.figures.folds import draw_folds
from lightning_optreg.places import Place
from lightning_optreg.studies.layout import in_csv, in_markdown, write_files
from lightning_optreg.studies.resampled import resampled
from lightning_optreg.studies.search_report import best_rows
from lightning_optreg.studies.search_result import SearchResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["nested_notes", "nested_table", "write_nested_report"]


def nested_table(results: Sequence[SearchResult]) -> list[list[str]]:
    """Return the best trial of each fold's search as text, the header first.

    Args:
        results: The search of each fold, in the order of the folds.

    Returns:
        Columns: the fold, and those of `best_rows`.
    """
    found = [best_rows(result, few=1) for result in results]
    header = found[0][0]
    rows = [best[0] if best else [""] * len(header) for _, *best in found]
    return [["fold", *header], *([str(fold), *row] for fold, row in enumerate(rows))]


def nested_notes(results: Sequence[SearchResult]) -> list[str]:
    """Return the estimate, and what to know before trusting it.

    Args:
        results: The search of each fold, in the order of the folds.
    """
    plan = results[0].plan
    notes, scores = [], _scores(results)
    if scores:
        found = resampled(list(scores.values()), len(results))
        text = f"{plan.test_metric} of a search, on images that it never saw: mean {found.mean:.4f}"
        if found.interval is not None:
            text += (
                f", sd {found.spread:.4f}, 95 % interval {found.interval[0]:.4f} to {found.interval[1]:.4f}"
            )
        notes.append(text)
    if len(scores) < len(results):
        notes.append(
            f"incomplete: {len(scores)} of {len(results)} folds have a best trial with {plan.test_metric}"
        )
    return notes


def _scores(results: Sequence[SearchResult]) -> dict[str, float]:
    """Return the test metric of each search's best trial, by its fold."""
    found = {}
    for fold, result in enumerate(results):
        if result.best is not None and result.plan.test_metric in result.best.record.test:
            found[str(fold)] = result.best.record.test[result.plan.test_metric]
    return found


def _picture(results: Sequence[SearchResult]) -> "Figure":
    """Draw the metric by which each search chose, and what its choice reached on the fold it never saw."""
    plan = results[0].plan
    bests = [(str(fold), result.best) for fold, result in enumerate(results)]
    chosen = {fold: best.reached(plan.metric) for fold, best in bests if best is not None}
    unseen = f"{plan.test_metric}, on the fold"
    scores = {
        f"{plan.metric}, by which it was chosen": {k: v for k, v in chosen.items() if v is not None},
        unseen: _scores(results),
    }
    interval = resampled(list(scores[unseen].values()), len(results)).interval if scores[unseen] else None
    return draw_folds(scores, {unseen: interval}, {}, "best trials", unseen, axis="fold")


def write_nested_report(results: Sequence[SearchResult], folder: Place) -> list[Place]:
    """Write `folds.md`, `folds.csv` and, as PNG and SVG, `folds`.

    Args:
        results: The search of each fold, in the order of the folds.
        folder: Created if it is missing.

    Returns:
        The files.
    """
    table = nested_table(results)
    notes = [f"{note}." for note in nested_notes(results)]
    texts = {
        "folds.md": "\n\n".join([*notes, "\n".join(in_markdown(table))]) + "\n",
        "folds.csv": in_csv(table),
    }
    return write_files(folder, texts, {"folds": _picture(results)})
