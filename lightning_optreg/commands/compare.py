"""`compare`: run methods on one problem, tuned alike, and draw how they compare."""

import argparse
import importlib.util
import math
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_optreg.cli.option_parser import OptionParser, UsageError
from lightning_optreg.places import Place, UrlPath, check_place, place_of
from lightning_optreg.studies.access import StorageUnavailableError
from lightning_optreg.studies.plan import StudyPlan
from lightning_optreg.studies.plan_file import read_plan
from lightning_optreg.studies.records import StudyResult
from lightning_optreg.studies.stop import Stopped, StopRequest, stop_with_parent
from lightning_optreg.studies.workers import STORAGE, UNAVAILABLE, Broken, default_workers, run_workers
from lightning_optreg.trust import add_allow, add_safe, trust_options

if TYPE_CHECKING:
    from lightning_optreg.studies.run_queue import Queue

__all__ = ["main"]

_NONE_ENDED = "report: no run has ended yet"


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
    try:
        args = _parser().read(sys.argv[1:] if argv is None else argv)
        if args.worker:
            stop_with_parent()  # before the imports, which take seconds
    except (UsageError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    from lightning_optreg.cli.errors import run_guarded  # imports Lightning
    from lightning_optreg.runs.memory import keep_freed_memory

    keep_freed_memory()

    failed: list[int] = []
    status = run_guarded(lambda: failed.append(_run(args)))
    return status or failed[0]


def _parser() -> OptionParser:
    parser = OptionParser(
        prog="lightning-optreg compare",
        description="Run methods on one problem, each with equally many values of a setting and the same "
        "seeds, and write a report: table, curves, sensitivity, one HTML page. A stopped study continues "
        "where it stopped; several processes and machines can share its storage.",
        allow_abbrev=False,
    )
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="the study, a YAML")
    parser.add_argument(
        "--output",
        type=place_of,
        metavar="FOLDER",
        help="for runs and report, a path or a URL; default: runs/studies/NAME",
    )
    parser.add_argument(
        "--storage",
        metavar="URL",
        help=f"of the database; default: the variable {STORAGE} of the environment, which keeps a password "
        "out of the command line, else SQLite in the output folder",
    )
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes on this machine, which share its cores; default: one, without a GPU one per core",
    )
    parser.add_argument(
        "--oversubscribe", action="store_true", help="allow more workers than there are cores"
    )
    parser.add_argument(
        "--storage_wait",
        type=float,
        default=300.0,
        metavar="SECONDS",
        help="how long to wait for a database that stops answering; default: %(default)g",
    )
    parser.add_argument("--plan", action="store_true", help="print what would be run, and run nothing")
    parser.add_argument("--report_only", action="store_true", help="write the report of the runs done so far")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    add_safe(parser)
    add_allow(parser, "a study held to --safe")
    return parser


def _run(args: argparse.Namespace) -> int:
    with StopRequest() as stop:
        if args.worker:
            stop.second = _nothing  # Ctrl+C comes from the terminal, and as SIGTERM from the parent
        try:
            return _compare(args, stop)
        except Stopped as stopped:
            if not args.worker:  # its parent prints the message
                name = signal.Signals(stopped.number).name
                print(f"error: stopped by {name}; the same command goes on where it stopped", file=sys.stderr)
            raise
        except StorageUnavailableError:
            if args.worker:
                raise SystemExit(UNAVAILABLE) from None
            raise


def _nothing() -> None:
    """Do nothing: the parent ends this process."""


def _compare(args: argparse.Namespace, stop: StopRequest) -> int:
    from lightning_optreg.cli.processes import count_cores  # imports Lightning

    trusted = trust_options(args)
    plan = read_plan(args.config)
    if args.workers is not None and not args.workers >= 1:
        raise ValueError(f"workers: must be >= 1, got {args.workers}")
    if args.workers is not None and args.workers > count_cores() and not args.oversubscribe:
        raise ValueError(
            f"workers must be <= {count_cores()}, this machine's CPU cores, got {args.workers}; "
            "--oversubscribe allows more"
        )
    if not 0.0 <= args.storage_wait < math.inf:
        raise ValueError(f"storage_wait: must be a number of seconds >= 0, got {args.storage_wait}")
    folder: Place = args.output or Path("runs", "studies", plan.name)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--output: {str(folder)!r} is a file, and not a folder")
    check_place(folder, "--output")
    given = os.environ.pop(STORAGE, None) if args.worker else os.environ.get(STORAGE)
    args.storage = args.storage if args.storage is not None else given or None
    if args.storage is None and isinstance(folder, UrlPath):
        raise ValueError(
            f"--output: {str(folder)!r} can't hold the study's SQLite database, which must be on a disk; "
            "name a database with --storage, such as sqlite:///study.db"
        )
    storage = args.storage or f"sqlite:///{Path(str(folder), 'study.db').resolve()}"
    if not args.worker:
        with stop.breaking_off():
            _check(args, plan, storage, folder, trusted)
    if args.plan:
        print(plan.outline())
        return 0
    folder.mkdir(parents=True, exist_ok=True)

    from lightning_optreg.studies.collect import collect
    from lightning_optreg.studies.run_queue import Queue  # imports optuna

    queue = Queue(plan, storage, args.storage_wait)
    queue.patience.pause = stop.sleep
    if args.worker:
        from lightning_optreg.studies.work import work

        work(queue, folder, trusted, stop)
        return 0
    broken = None if args.report_only else _do_runs(args, queue, storage, folder, stop)
    with stop.breaking_off():
        if broken is None:
            return _report(collect(queue), folder)
        queue.patience.seconds = 0.0  # they have waited
        try:
            result = collect(queue)
        except StorageUnavailableError:
            result = None
        if result is not None and not result.unfinished:
            print(f"{broken.how}; the others have done their runs", file=sys.stderr)
            return _report(result, folder)
        print(f"error: {broken.how}; the same command goes on where they stopped", file=sys.stderr)
        if result is not None and result.records:
            _report(result, folder)
        return broken.status


def _check(
    args: argparse.Namespace, plan: StudyPlan, storage: str, folder: Place, trusted: Sequence[str]
) -> None:
    """Raise an error if the study can't be run, before anything is written."""
    for module in ("optuna", "plotly", "scipy", "jinja2"):  # the report needs the last three at the very end
        if importlib.util.find_spec(module) is None:
            raise ModuleNotFoundError(f"No module named {module!r}", name=module)
    from lightning_optreg.studies.storage import check_storage

    if args.storage is not None:
        check_storage(storage)
    elif args.report_only and not args.plan and not (folder / "study.db").exists():
        raise ValueError(_NONE_ENDED)
    if args.plan or not args.report_only:
        from lightning_optreg.studies.runner import check_settings  # imports Lightning

        check_settings(plan, trusted)


def _do_runs(
    args: argparse.Namespace, queue: "Queue[StudyPlan]", storage: str, folder: Place, stop: StopRequest
) -> Broken | None:
    """Do the waiting runs; return how processes ended early, if they did."""
    plan = queue.plan
    queue.fill()
    waiting = len(plan.runs) - sum(record.status != "failed" for record in queue.records())
    workers = min(args.workers or default_workers(), waiting)
    print(plan.outline())
    if len(plan.seeds) < 3:
        print("fewer than 3 seeds: the intervals will say little")
    if waiting < len(plan.runs):
        print(f"{len(plan.runs) - waiting} of them are done already")
    sys.stdout.flush()
    start = time.perf_counter()
    broken = None
    if workers > 1:
        options = ["--config", str(args.config), "--output", str(folder), *trust_options(args)]
        broken = run_workers(options, storage, args.storage_wait, workers, stop)
    elif workers == 1:
        from lightning_optreg.studies.work import work

        work(queue, folder, trust_options(args), stop)
    if broken is None:
        print(f"{waiting} runs in {time.perf_counter() - start:.0f} s")
    return broken


def _report(result: StudyResult, folder: Place) -> int:
    if not result.records:
        raise ValueError(_NONE_ENDED)
    from lightning_optreg.studies.report import write_report
    from lightning_optreg.studies.summary import notice, summarize, unfinished_lines
    from lightning_optreg.studies.tables import format_table

    said = notice(result)
    if said:
        print("\n".join([said, *unfinished_lines(result)]))
    paths = write_report(result, folder)
    print(format_table(summarize(result)))
    for path in paths:
        print(path)
    for run in result.unfinished:
        if run.state == "failed":
            print(f"failed: {run.run}: {run.reason}", file=sys.stderr)
    return 1 if said else 0
