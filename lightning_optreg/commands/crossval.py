"""`crossval`: train a recipe, or several, on all folds but one, in turn."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lightning_optreg.commands._study import StudyCommand, print_results
from lightning_optreg.places import Place
from lightning_optreg.studies.crossval import Crossval, read_crossval

if TYPE_CHECKING:
    from lightning_optreg.studies.crossval_report import CrossvalResult
    from lightning_optreg.studies.run_queue import Queue

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run `lightning-optreg crossval`.

    Args:
        argv: The arguments after the command's name. Default: those of this process.

    Returns:
        Exit status: 0 if the study is complete; 1 if it is not, because a run failed or is missing, or if the
        database was lost; 2 if arguments or the study's YAML are wrong; 130 after an interrupt, 143 after
        SIGTERM, 129 after SIGHUP.

    Example:
        >>> main(["--config", "no_such_study.yaml"])
        2
    """
    return _COMMAND.main(argv)


def _collect(queue: "Queue[Crossval]") -> "CrossvalResult":
    from lightning_optreg.studies.crossval_report import collect_crossval  # imports optuna

    return collect_crossval(queue)


def _report(result: "CrossvalResult", folder: Place) -> list[Place]:
    from lightning_optreg.studies.crossval_report import (
        crossval_notes,
        crossval_table,
        write_crossval_report,
    )

    paths = write_crossval_report(result, folder)
    print_results(crossval_table(result), crossval_notes(result))
    return paths


_COMMAND = StudyCommand(
    "crossval",
    "Train one recipe, or several, on all folds of the training images but one, in turn, and write a report: "
    "mean and spread, differences fold by fold with the corrected resampled t-test. A stopped study "
    "continues where it stopped; several processes and machines can share its storage.",
    read_crossval,
    _collect,
    _report,
)
