"""`compare`: run methods on one problem, tuned alike, and draw how they compare."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lightning_optreg.commands._study import StudyCommand
from lightning_optreg.places import Place
from lightning_optreg.studies.plan import StudyPlan
from lightning_optreg.studies.plan_file import read_plan
from lightning_optreg.studies.records import StudyResult

if TYPE_CHECKING:
    from lightning_optreg.studies.run_queue import Queue

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run `lightning-optreg compare`.

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


def _collect(queue: "Queue[StudyPlan]") -> StudyResult:
    from lightning_optreg.studies.collect import collect  # imports Lightning

    return collect(queue)


def _hint(plan: StudyPlan) -> str:
    return "fewer than 3 seeds: the intervals will say little" if len(plan.seeds) < 3 else ""


def _report(result: StudyResult, folder: Place) -> list[Place]:
    from lightning_optreg.studies.report import write_report
    from lightning_optreg.studies.summary import notice, summarize, unfinished_lines
    from lightning_optreg.studies.tables import format_table

    said = notice(result)
    if said:
        print("\n".join([said, *unfinished_lines(result)]))
    paths = write_report(result, folder)
    print(format_table(summarize(result)))
    return paths


_COMMAND = StudyCommand(
    "compare",
    "Run methods on one problem, each with equally many values of a setting and the same seeds, and write a "
    "report: table, curves, sensitivity, one HTML page. A stopped study continues where it stopped; several "
    "processes and machines can share its storage.",
    read_plan,
    _collect,
    _report,
    _hint,
)
