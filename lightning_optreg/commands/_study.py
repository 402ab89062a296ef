"""What the commands that run a study share: options, worker processes, stopping, and the exit status."""

import argparse
import importlib.util
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from lightning_optreg.cli.option_parser import UsageError
from lightning_optreg.commands._study_options import check_numbers, study_options
from lightning_optreg.places import Place, UrlPath, check_place
from lightning_optreg.studies.access import StorageUnavailableError
from lightning_optreg.studies.layout import in_columns
from lightning_optreg.studies.plan import Plan
from lightning_optreg.studies.records import Unfinished
from lightning_optreg.studies.stop import Stopped, StopRequest, stop_with_parent
from lightning_optreg.studies.workers import STORAGE, UNAVAILABLE, Broken, default_workers, run_workers
from lightning_optreg.trust import trust_options

if TYPE_CHECKING:
    from lightning_optreg.studies.run_queue import Queue

__all__ = ["Nested", "StudyCommand", "print_results"]

_NONE_ENDED = "report: no run has ended yet"

Planned = TypeVar("Planned", bound=Plan)
Result = TypeVar("Result", bound="_Result")


class _Result(Protocol):
    @property
    def unfinished(self) -> Sequence[Unfinished]: ...


@dataclass(frozen=True)
class Nested(Generic[Planned, Result]):
    """How a study is done on folds in turn, each time with one held out.

    Attributes:
        count: Returns the number of folds of a plan; None if it has none.
        of_fold: Returns the plan with a fold held out.
        report: Writes the report of the results of all folds into a folder, and prints what matters; returns
            its files.
    """

    count: Callable[[Planned], int | None]
    of_fold: Callable[[Planned, int], Planned]
    report: Callable[[Sequence[Result], Place], Sequence[Place]]


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
        nested: How the study is done on folds in turn. Default: it never is.
    """

    name: str
    description: str
    read: Callable[[Path], Planned]
    collect: Callable[["Queue[Planned]"], Result]
    report: Callable[[Result, Place], Sequence[Place]]
    hint: Callable[[Planned], str] = lambda plan: ""
    nested: Nested[Planned, Result] | None = None

    def main(self, argv: Sequence[str] | None = None) -> int:
        """Run the command; return its exit status.

        Args:
            argv: The arguments after the command's name. Default: those of this process.
        """
        try:
            args = study_options(self.name, self.description, folds=self.nested is not None).read(
                sys.argv[1:] if argv is None else argv
            )
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
        check_numbers(args)
        args.output = folder = args.output or Path("runs", "studies", plan.name)
        given = os.environ.pop(STORAGE, None) if args.worker else os.environ.get(STORAGE)
        args.storage = args.storage if args.storage is not None else given or None
        if self.nested is not None:
            if args.fold is not None:
                plan, folder = self.nested.of_fold(plan, args.fold), folder / f"fold{args.fold}"
            elif folds := self.nested.count(plan):
                return self._all_folds(self.nested, plan, folds, args, stop)
        check_place(folder, "--output")
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"--output: {str(folder)!r} is a file, and not a folder")
        if args.storage is None and isinstance(folder, UrlPath):
            raise ValueError(
                f"--output: {str(folder)!r} can't hold the study's SQLite database, which must be on a disk; "
                "name a database with --storage, such as sqlite:///study.db"
            )
        storage = _storage_of(args, folder)
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

    def _all_folds(
        self,
        nested: Nested[Planned, Result],
        plan: Planned,
        folds: int,
        args: argparse.Namespace,
        stop: StopRequest,
    ) -> int:
        """Do the study on all folds, one after the other, and write the report of them together."""
        folder: Place = args.output
        worst = 0
        for fold in range(1 if args.plan else folds):
            status = self._study(argparse.Namespace(**{**vars(args), "fold": fold}), stop)
            if status not in (0, 1):  # its processes ended early
                return status
            worst = max(worst, status)
        if args.plan:
            for fold in range(1, folds):  # which differ in nothing that could be wrong
                print(nested.of_fold(plan, fold).outline())
            return worst

        from lightning_optreg.studies.run_queue import Queue  # imports optuna

        results = []
        with stop.breaking_off():
            for fold in range(folds):
                storage = _storage_of(args, folder / f"fold{fold}")
                results.append(self.collect(Queue(nested.of_fold(plan, fold), storage, args.storage_wait)))
            for path in nested.report(results, folder):
                print(path)
        return worst

    def _report_broken(self, queue: "Queue[Planned]", broken: Broken, folder: Place) -> int:
        queue.patience.seconds = 0.0  # they have waited
        try:
            some, all_done = bool(queue.records()), queue.is_complete()
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
            options = ["--config", str(args.config), "--output", str(args.output), *trust_options(args)]
            if args.fold is not None:
                options += ["--fold", str(args.fold)]
            broken = run_workers(self.name, options, storage, args.storage_wait, workers, stop)
        elif workers == 1:
            from lightning_optreg.studies.work import work

            work(queue, folder, trust_options(args), stop)
        if broken is None:
            print(f"{len(queue.records()) - done} runs in {time.perf_counter() - start:.0f} s")
        return broken


def print_results(rows: Sequence[Sequence[str]], notes: Iterable[str]) -> None:
    """Print a table, and below it what to know before trusting it.

    Args:
        rows: The table, its header first.
        notes: The notes.
    """
    print(in_columns(rows))
    for note in notes:
        print(f"note: {note}")


def _storage_of(args: argparse.Namespace, folder: Place) -> str:
    """Return the URL of a study's database: the one that was given, else in its folder."""
    return args.storage or f"sqlite:///{Path(str(folder), 'study.db').resolve()}"


def _nothing() -> None:
    """Do nothing: the parent ends this process."""


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
