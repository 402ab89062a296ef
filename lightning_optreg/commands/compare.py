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
from typing import TYPE_CHECKING, NamedTuple

from lightning_optreg.cli.option_parser import OptionParser, UsageError
from lightning_optreg.studies.access import StorageUnavailableError
from lightning_optreg.studies.records import StudyResult
from lightning_optreg.studies.specification import Specification, read_specification
from lightning_optreg.studies.stop import Stopped, StopRequest, run_processes, stop_with_parent
from lightning_optreg.trust import add_allow, add_safe, trust_options

if TYPE_CHECKING:
    from lightning_optreg.studies.run_queue import Queue

__all__ = ["collect", "main"]

_NONE_ENDED = "report: no run has ended yet"
_STORAGE = "LIGHTNING_OPTREG_STORAGE"  # everybody may read command lines, and this only the user
_UNAVAILABLE = 69  # status of a worker that gave up waiting for the data base, as sysexits.h has it


def main(argv: Sequence[str] | None = None) -> int:
    """Run `lightning-optreg compare`.

    Args:
        argv: The arguments after the command's name. Default: those of this process.

    Returns:
        Exit status: 0 if the study is complete; 1 if it is not, because a run failed or is missing, or if the
        data base was lost; 2 if arguments or the study's YAML are wrong; 130 after an interrupt, 143 after
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
        description="Run methods on one problem, each over as many values of a setting and the same seeds, "
        "and write a report: table, curves, sensitivity, one HTML page. A study that was stopped goes on "
        "where it stopped; several processes and machines share one by its storage.",
        allow_abbrev=False,
    )
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="the study, a YAML")
    parser.add_argument(
        "--output", type=Path, metavar="FOLDER", help="for runs and report; default: runs/studies/NAME"
    )
    parser.add_argument(
        "--storage",
        metavar="URL",
        help=f"of the data base; default: the variable {_STORAGE} of the environment, which keeps a password "
        "out of the command line, else SQLite in the output folder",
    )
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes on this machine, which share its cores; default: one a core without a GPU, else one",
    )
    parser.add_argument(
        "--oversubscribe", action="store_true", help="allow more workers than there are cores"
    )
    parser.add_argument(
        "--storage_wait",
        type=float,
        default=300.0,
        metavar="SECONDS",
        help="how long to wait for a data base that stops answering; default: %(default)g",
    )
    parser.add_argument("--plan", action="store_true", help="print what would be run, and run nothing")
    parser.add_argument("--report_only", action="store_true", help="write the report of what there is")
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
            if not args.worker:  # its parent speaks for it
                name = signal.Signals(stopped.number).name
                print(f"error: stopped by {name}; the same command goes on where it stopped", file=sys.stderr)
            raise
        except StorageUnavailableError:
            if args.worker:
                raise SystemExit(_UNAVAILABLE) from None
            raise


def _nothing() -> None:
    """Leave it to the parent to kill this process."""


def _compare(args: argparse.Namespace, stop: StopRequest) -> int:
    from lightning_optreg.cli.processes import count_cores  # imports Lightning

    trusted = trust_options(args)
    specification = read_specification(args.config)
    if args.workers is not None and not args.workers >= 1:
        raise ValueError(f"workers: must be >= 1, got {args.workers}")
    if args.workers is not None and args.workers > count_cores() and not args.oversubscribe:
        raise ValueError(
            f"workers must be <= {count_cores()}, this machine's CPU cores, got {args.workers}; "
            "--oversubscribe allows more"
        )
    if not 0.0 <= args.storage_wait < math.inf:
        raise ValueError(f"storage_wait: must be a number of seconds >= 0, got {args.storage_wait}")
    folder: Path = args.output or Path("runs", "studies", specification.name)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--output: {str(folder)!r} is a file, and not a folder")
    given = os.environ.pop(_STORAGE, None) if args.worker else os.environ.get(_STORAGE)
    args.storage = args.storage if args.storage is not None else given or None
    storage = args.storage or f"sqlite:///{(folder / 'study.db').resolve()}"
    if not args.worker:
        with stop.breaking_off():
            _check(args, specification, storage, folder, trusted)
    if args.plan:
        print(_plan(specification))
        return 0
    folder.mkdir(parents=True, exist_ok=True)

    from lightning_optreg.studies.run_queue import Queue  # imports optuna

    queue = Queue(specification, storage, args.storage_wait)
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
    args: argparse.Namespace, specification: Specification, storage: str, folder: Path, trusted: Sequence[str]
) -> None:
    """Refuse what can't be run, before anything is written."""
    for module in ("optuna", "plotly", "scipy"):  # the report would miss the last two at the very end
        if importlib.util.find_spec(module) is None:
            raise ModuleNotFoundError(f"No module named {module!r}", name=module)
    from lightning_optreg.studies.storage import check_storage

    if args.storage is not None:
        check_storage(storage)
    elif args.report_only and not args.plan and not (folder / "study.db").exists():
        raise ValueError(_NONE_ENDED)
    if args.plan or not args.report_only:
        from lightning_optreg.studies.runner import check_settings  # imports Lightning

        check_settings(specification, trusted)


class _Broken(NamedTuple):
    """Processes that didn't come to the end."""

    how: str
    status: int


def _do_runs(
    args: argparse.Namespace, queue: "Queue", storage: str, folder: Path, stop: StopRequest
) -> _Broken | None:
    """Do what is to be done; say if processes didn't come to the end."""
    specification = queue.specification
    queue.fill()
    waiting = len(specification.runs) - sum(record.status != "failed" for record in queue.records())
    workers = min(args.workers or _default_workers(), waiting)
    print(_plan(specification))
    if len(specification.seeds) < 3:
        print("fewer than 3 seeds: the intervals will say little")
    if waiting < len(specification.runs):
        print(f"{len(specification.runs) - waiting} of them are done already")
    sys.stdout.flush()
    start = time.perf_counter()
    broken = None
    if workers > 1:
        broken = _run_workers(args, storage, folder, workers, stop)
    elif workers == 1:
        from lightning_optreg.studies.work import work

        work(queue, folder, trust_options(args), stop)
    if broken is None:
        print(f"{waiting} runs in {time.perf_counter() - start:.0f} s")
    return broken


def _run_workers(
    args: argparse.Namespace, storage: str, folder: Path, workers: int, stop: StopRequest
) -> _Broken | None:
    from lightning_optreg.cli.processes import count_cores

    threads = max(1, count_cores() // workers)
    command = [sys.executable, "-m", "lightning_optreg", "compare", "--worker"]
    command += ["--config", str(args.config), "--output", str(folder)]
    command += ["--storage_wait", str(args.storage_wait), *trust_options(args)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), _STORAGE: storage}
    statuses = run_processes(command, workers, environment, stop)
    broken = [status for status in statuses if status != 0]
    if not broken:
        return None
    if broken[0] == _UNAVAILABLE:
        how = f"for want of the data base, which had not answered for {args.storage_wait:g} s"
    else:
        how = f"with signal {-broken[0]}" if broken[0] < 0 else f"with status {broken[0]}"
    return _Broken(f"{len(broken)} of {workers} processes ended {how}", 2 if 2 in broken else 1)


def _report(result: StudyResult, folder: Path) -> int:
    if not result.records:
        raise ValueError(_NONE_ENDED)
    from lightning_optreg.studies.report import write_report
    from lightning_optreg.studies.summary import format_table, notice, summarize, unfinished_lines

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


def _plan(specification: Specification) -> str:
    runs, passes = len(specification.runs), len(specification.runs) * specification.epochs
    tuned = [method for method, key in specification.tune.items() if key is not None]
    tried = {len(specification.values[method]) for method in tuned} or {1}
    count = " to ".join(str(n) for n in sorted({min(tried), max(tried)}))
    as_they_are = len(specification.methods) - len(tuned)
    return (
        f"{specification.title}: {len(tuned)} methods x {count} values of the {specification.tuned}"
        f"{f' and {as_they_are} without' if as_they_are else ''} "
        f"x {len(specification.seeds)} seeds = {runs} runs, "
        f"{passes} passes over the training data"
    )


def _default_workers() -> int:
    import torch

    from lightning_optreg.cli.processes import count_cores

    return 1 if torch.cuda.is_available() else count_cores()


def collect(queue: "Queue") -> StudyResult:
    """Put together what a report shows."""
    specification = queue.specification
    return StudyResult(
        name=specification.name,
        title=specification.title,
        tuned=specification.tuned,
        metric=specification.metric,
        mode=specification.mode,
        test_metric=specification.test_metric,
        target=specification.target,
        description=_description(specification),
        planned=len(specification.runs),
        records=tuple(queue.records()),
        unfinished=tuple(queue.unfinished()),
        settings=_own_settings(specification),
        reference=specification.reference,
    )


def _own_settings(specification: Specification) -> dict[str, str | None]:
    """Name what each method is tuned by, unless that is the same for all."""
    keys = specification.tune
    if len(set(keys.values())) == 1 and None not in keys.values():
        return {}
    return {method: None if key is None else key.rpartition(".")[2] for method, key in keys.items()}


def _description(specification: Specification) -> dict[str, str]:
    import lightning
    import torch

    from lightning_optreg import __version__

    base = specification.base
    data, net = base.get("data", {}), base.get("model", {}).get("net", {})
    return {
        "Data": _named(data),
        "Network": _named(net),
        "Budget of a run": f"{specification.epochs} passes over the training data",
        "Seeds": ", ".join(map(str, specification.seeds)),
        "Versions": f"lightning_optreg {__version__}, torch {torch.__version__}, "
        f"lightning {lightning.__version__}",
    }


def _named(part: object) -> str:
    if not isinstance(part, dict):
        return str(part)
    settings = ", ".join(f"{key}={value}" for key, value in (part.get("init_args") or {}).items())
    name = str(part.get("class_path", "")).rpartition(".")[2]
    return f"{name}({settings})" if settings else name
