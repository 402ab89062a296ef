"""`compare`: run methods on one problem, tuned alike, and draw how they compare."""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_optreg.option_parser import OptionParser, UsageError
from lightning_optreg.studies.records import RunRecord, StudyResult
from lightning_optreg.studies.specification import Run, Specification, read_specification
from lightning_optreg.trust import add_allow, add_safe, trust_options

if TYPE_CHECKING:
    from lightning_optreg.studies.run_queue import Queue

__all__ = ["collect", "main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run `lightning-optreg compare`.

    Args:
        argv: The arguments after the command's name. Default: those of this process.

    Returns:
        Exit status: 0; 2 if arguments or the study's YAML are wrong; 1 if a run failed; 130 after an
        interrupt.

    Example:
        >>> main(["--config", "no_such_study.yaml"])
        2
    """
    from lightning_optreg.cli.errors import run_guarded

    try:
        args = _parser().read(sys.argv[1:] if argv is None else argv)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
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
        "--storage", metavar="URL", help="of the data base; default: SQLite in the output folder"
    )
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes on this machine, which share its cores; default: one a core without a GPU, else one",
    )
    parser.add_argument("--plan", action="store_true", help="print what would be run, and run nothing")
    parser.add_argument("--report_only", action="store_true", help="write the report of what there is")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    add_safe(parser)
    add_allow(parser, "a study held to --safe")
    return parser


def _run(args: argparse.Namespace) -> int:
    trusted = trust_options(args)
    specification = read_specification(args.config)
    if args.workers is not None and not args.workers >= 1:
        raise ValueError(f"workers: must be >= 1, got {args.workers}")
    folder: Path = args.output or Path("runs", "studies", specification.name)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--output: {str(folder)!r} is a file, and not a folder")
    if args.plan:
        print(_plan(specification))
        return 0
    if not (args.worker or args.report_only):
        from lightning_optreg.studies.runner import check_settings  # imports Lightning

        check_settings(specification, trusted)
    folder.mkdir(parents=True, exist_ok=True)
    storage = args.storage or f"sqlite:///{(folder / 'study.db').resolve()}"

    from lightning_optreg.studies.run_queue import Queue  # imports optuna

    queue = Queue(specification, storage)
    if args.worker:
        _work(queue, folder, trusted)
        return 0
    if not args.report_only:
        queue.fill()
        waiting = len(specification.runs) - len(_done(queue))
        workers = min(args.workers or _default_workers(), waiting)
        print(_plan(specification))
        if len(specification.seeds) < 3:
            print("fewer than 3 seeds: the intervals will say little")
        if waiting < len(specification.runs):
            print(f"{len(specification.runs) - waiting} of them are done already")
        start = time.perf_counter()
        if workers > 1:
            _start_workers(args, storage, folder, workers)
        elif workers == 1:
            _work(queue, folder, trusted)
        print(f"{waiting} runs in {time.perf_counter() - start:.0f} s")
    result = collect(queue)
    if not result.records:
        raise ValueError("report: no run has ended yet")
    from lightning_optreg.studies.report import write_report
    from lightning_optreg.studies.summary import format_table, summarize

    paths = write_report(result, folder)
    print(format_table(summarize(result)))
    for path in paths:
        print(path)
    failures = [record for record in result.records if record.status == "failed"]
    for record in failures:
        print(
            f"failed: {specification.describe(Run(record.method, record.value, record.seed))}: "
            f"{record.message}",
            file=sys.stderr,
        )
    return 1 if failures else 0


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

    return 1 if torch.cuda.is_available() else os.cpu_count() or 1


def _done(queue: "Queue") -> list[RunRecord]:
    return [record for record in queue.records() if record.status != "failed"]


def _start_workers(args: argparse.Namespace, storage: str, folder: Path, workers: int) -> None:
    threads = max(1, (os.cpu_count() or 1) // workers)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-m", "lightning_optreg", "compare", "--worker"]
    command += ["--config", str(args.config), "--storage", storage, "--output", str(folder)]
    command += trust_options(args)
    children = [subprocess.Popen(command, env=environment) for _ in range(workers)]
    try:
        statuses = [child.wait() for child in children]
    except KeyboardInterrupt:
        for child in children:  # they have been interrupted too, and wind up
            child.wait()
        raise
    broken = [status for status in statuses if status != 0]
    if broken:
        how = f"signal {-broken[0]}" if broken[0] < 0 else f"status {broken[0]}"
        print(
            f"error: {len(broken)} of {workers} processes ended with {how}; the same command goes on where "
            "they stopped",
            file=sys.stderr,
        )
        raise SystemExit(1)


def _work(queue: "Queue", folder: Path, trusted: Sequence[str]) -> None:
    """Do runs until none is waiting."""
    from lightning_optreg.studies.runner import do_run

    specification = queue.specification
    began, before = time.perf_counter(), len(queue.records())
    while (claim := queue.claim()) is not None:
        run, trial = claim.run, claim.trial
        start = time.perf_counter()
        try:
            alive = partial(queue.sign_of_life, trial)
            record = do_run(specification, run, folder / "runs" / run.key, alive, trusted)
        except BaseException:
            queue.give_back(claim)
            raise
        queue.finish(claim, record)
        last = record.points[-1].metrics.get(specification.metric) if record.points else None
        reached = "" if last is None else f", {specification.metric} {last:.4f}"
        done, now = len(queue.records()), time.perf_counter()
        left = _remaining(now - began, done - before, len(specification.runs) - done)
        print(
            f"[{done}/{len(specification.runs)}] {specification.describe(run)}: "
            f"{record.status}{reached}, {now - start:.1f} s{left}",
            flush=True,
        )


def _remaining(seconds: float, done: int, left: int) -> str:
    """Say how long the rest takes at the pace of all processes together."""
    if left == 0 or done <= 0:
        return ""
    rest = seconds / done * left
    return f", {rest:.0f} s to go" if rest < 100 else f", {rest / 60:.0f} min to go"


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
