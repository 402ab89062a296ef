"""What the commands that run a study share: options, worker processes, stopping, and the exit status."""

import argparse
import importlib.util
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from lightning_optreg.cli.option_parser import OptionParser, UsageError
from lightning_optreg.places import Place, UrlPath, check_place, place_of
from lightning_optreg.studies.access import StorageUnavailableError
from lightning_optreg.studies.plan import Plan
from lightning_optreg.studies.records import Unfinished
from lightning_optreg.studies.stop import Stopped, StopRequest, stop_with_parent
from lightning_optreg.studies.workers import STORAGE, UNAVAILABLE, Broken, default_workers, run_workers
from lightning_optreg.trust import add_allow, add_safe, trust_options

if TYPE_CHECKING:
    from lightning_optreg.studies.run_queue import Queue

__all__ = ["StudyCommand"]

_NONE_ENDED = "report: no run has ended yet"

Planned = TypeVar("Planned", bound=Plan)
Result = TypeVar("Result", bound="_Result")


class _Result(Protocol):
    @property
    def unfinished(self) -> Sequence[Unfinished]: ...


@dataclass(frozen=True)
class StudyCommand(Generic[Planned, Result]):
    """A command that runs a study.

    Attributes:
        name: The command's name.
        description: What `--help` says of it.
        read: Reads the plan from the study's YAML.
        collect: Returns the result of the runs so far, of which at least one has ended.
        report: Writes the report of a result into a folder, and prints what matters; returns its files.
        hint: Returns what to say before the first run; empty for nothing. Default: nothing.
    """

    name: str
    description: str
    read: Callable[[Path], Planned]
    collect: Callable[["Queue[Planned]"], Result]
    report: Callable[[Result, Place], Sequence[Place]]
    hint: Callable[[Planned], str] = lambda plan: ""

    def main(self, argv: Sequence[str] | None = None) -> int:
        """Run the command; return its exit status.

        Args:
            argv: The arguments after the command's name. Default: those of this process.
        """
        try:
            args = self._options().read(sys.argv[1:] if argv is None else argv)
            if args.worker:
                stop_with_parent()  # before the imports, which take seconds
        except (UsageError, ValueError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        from lightning_optreg.cli.errors import run_guarded  # imports Lightning
        from lightning_optreg.runs.memory import keep_freed_memory

        keep_freed_memory()

        failed: list[int] = []
        status = run_guarded(lambda: failed.append(self._run(args)))
        return status or failed[0]

    def _options(self) -> OptionParser:
        parser = OptionParser(
            prog=f"lightning-optreg {self.name}", description=self.description, allow_abbrev=False
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
            help=f"of the database; default: the variable {STORAGE} of the environment, which keeps a "
            "password out of the command line, else SQLite in the output folder",
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
        parser.add_argument(
            "--report_only", action="store_true", help="write the report of the runs done so far"
        )
        parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
        add_safe(parser)
        add_allow(parser, "a study held to --safe")
        return parser

    def _run(self, args: argparse.Namespace) -> int:
        with StopRequest() as stop:
            if args.worker:
                stop.second = _nothing  # Ctrl+C comes from the terminal, and as SIGTERM from the parent
            try:
                return self._study(args, stop)
            except Stopped as stopped:
                if not args.worker:  # its parent prints the message
                    name = signal.Signals(stopped.number).name
                    print(
                        f"error: stopped by {name}; the same command goes on where it stopped",
                        file=sys.stderr,
                    )
                raise
            except StorageUnavailableError:
                if args.worker:
                    raise SystemExit(UNAVAILABLE) from None
                raise

    def _study(self, args: argparse.Namespace, stop: StopRequest) -> int:
        trusted = trust_options(args)
        plan = self.read(args.config)
        _check_numbers(args)
        folder: Place = args.output or Path("runs", "studies", plan.name)
        check_place(folder, "--output")
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"--output: {str(folder)!r} is a file, and not a folder")
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

        from lightning_optreg.studies.run_queue import Queue  # imports optuna

        queue = Queue(plan, storage, args.storage_wait)
        queue.patience.pause = stop.sleep
        if args.worker:
            from lightning_optreg.studies.work import work

            work(queue, folder, trusted, stop)
            return 0
        broken = None if args.report_only else self._do_runs(args, queue, storage, folder, stop)
        with stop.breaking_off():
            if broken is None:
                if not queue.records():
                    raise ValueError(_NONE_ENDED)
                return self._report(self.collect(queue), folder)
            return self._report_broken(queue, broken, folder)

    def _report_broken(self, queue: "Queue[Planned]", broken: Broken, folder: Place) -> int:
        queue.patience.seconds = 0.0  # they have waited
        try:
            some, all_done = bool(queue.records()), not queue.unfinished()
            result = self.collect(queue) if some else None
        except StorageUnavailableError:
            result, all_done = None, False
        if result is not None and all_done:
            print(f"{broken.how}; the others have done their runs", file=sys.stderr)
            return self._report(result, folder)
        print(f"error: {broken.how}; the same command goes on where they stopped", file=sys.stderr)
        if result is not None:
            self._report(result, folder)
        return broken.status

    def _report(self, result: Result, folder: Place) -> int:
        """Write the report; return the exit status: whether every run has a result."""
        for path in self.report(result, folder):
            print(path)
        for run in result.unfinished:
            if run.state == "failed":
                print(f"failed: {run.run}: {run.reason}", file=sys.stderr)
        return 1 if result.unfinished else 0

    def _do_runs(
        self,
        args: argparse.Namespace,
        queue: "Queue[Planned]",
        storage: str,
        folder: Place,
        stop: StopRequest,
    ) -> Broken | None:
        """Do the waiting runs; return how processes ended early, if they did."""
        plan = queue.plan
        queue.fill()
        done = sum(record.status != "failed" for record in queue.records())
        waiting = math.inf if plan.size is None else plan.size - done
        workers = int(min(args.workers or default_workers(), waiting))
        print(plan.outline())
        if said := self.hint(plan):
            print(said)
        if done:
            print(f"{done} of them are done already")
        sys.stdout.flush()
        start = time.perf_counter()
        broken = None
        if workers > 1:
            options = ["--config", str(args.config), "--output", str(folder), *trust_options(args)]
            broken = run_workers(self.name, options, storage, args.storage_wait, workers, stop)
        elif workers == 1:
            from lightning_optreg.studies.work import work

            work(queue, folder, trust_options(args), stop)
        if broken is None:
            print(f"{len(queue.records()) - done} runs in {time.perf_counter() - start:.0f} s")
        return broken


def _nothing() -> None:
    """Do nothing: the parent ends this process."""


def _check_numbers(args: argparse.Namespace) -> None:
    from lightning_optreg.cli.processes import count_cores  # imports Lightning

    if args.workers is not None and not args.workers >= 1:
        raise ValueError(f"workers: must be >= 1, got {args.workers}")
    if args.workers is not None and args.workers > count_cores() and not args.oversubscribe:
        raise ValueError(
            f"workers must be <= {count_cores()}, this machine's CPU cores, got {args.workers}; "
            "--oversubscribe allows more"
        )
    if not 0.0 <= args.storage_wait < math.inf:
        raise ValueError(f"storage_wait: must be a number of seconds >= 0, got {args.storage_wait}")


def _check(args: argparse.Namespace, plan: Plan, storage: str, folder: Place, trusted: Sequence[str]) -> None:
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
        plan.check()
