"""`tune`: search for the settings of a recipe that work best."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lightning_optreg.commands._study import Nested, StudyCommand, print_results
from lightning_optreg.places import Place
from lightning_optreg.studies.search import Search
from lightning_optreg.studies.search_file import read_search

if TYPE_CHECKING:
    from lightning_optreg.studies.run_queue import Queue
    from lightning_optreg.studies.search_result import SearchResult

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run `lightning-optreg tune`.

    Args:
        argv: The arguments after the command's name. Default: those of this process.

    Returns:
        Exit status: 0 if the budget is used and every trial has ended; 1 if one failed, is running elsewhere
        or was left behind, or if the database was lost; 2 if arguments or the study's YAML are wrong; 130
        after an interrupt, 143 after SIGTERM, 129 after SIGHUP.

    Example:
        >>> main(["--config", "no_such_study.yaml"])
        2
    """
    return _COMMAND.main(argv)


def _collect(queue: "Queue[Search]") -> "SearchResult":
    from lightning_optreg.studies.search_result import collect_search  # imports optuna

    return collect_search(queue)


def _report(result: "SearchResult", folder: Place) -> list[Place]:
    from lightning_optreg.studies.search_report import best_rows, search_notes, write_search_report

    paths = write_search_report(result, folder)
    print_results(best_rows(result), search_notes(result))
    return paths


def _report_folds(results: "Sequence[SearchResult]", folder: Place) -> list[Place]:
    from lightning_optreg.studies.nested_report import nested_notes, nested_table, write_nested_report

    paths = write_nested_report(results, folder)
    print_results(nested_table(results), nested_notes(results))
    return paths


_COMMAND = StudyCommand(
    "tune",
    "Search for the settings of a recipe that work best, by Optuna, and write them as a recipe that `fit` "
    "takes, with one HTML page of pictures. A stopped study continues where it stopped; several processes "
    "and machines can share its storage.",
    read_search,
    _collect,
    _report,
    nested=Nested(lambda plan: plan.folds, Search.of_fold, _report_folds),
)
