"""The work of one process for a study: one run after another until none is left, with signs of life."""

import sys
import time
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

from lightning_optreg._nearest import nearest
from lightning_optreg.cli.parsed_before import ParsedBefore
from lightning_optreg.places import Place
from lightning_optreg.runs.ownership import SIGN_EVERY
from lightning_optreg.runs.run_lock import RunInUseError
from lightning_optreg.studies.pruning import TrialPruning
from lightning_optreg.studies.records import RunRecord
from lightning_optreg.studies.run_queue import Claim, Queue
from lightning_optreg.studies.runner import do_run
from lightning_optreg.studies.signs_of_life import RunLostError, SignsOfLife
from lightning_optreg.studies.stop import StopRequest

__all__ = ["work"]

_POLL = 1.0  # seconds between looks at the other processes


def work(queue: Queue[Any], folder: Place, trusted: Sequence[str], stop: StopRequest) -> None:
    """Do runs until none is waiting, and none is left whose process may be dead.

    Args:
        queue: The runs.
        folder: The study's folder, which holds the runs' folders.
        trusted: Options of `fit` that say which classes may be named: `--safe`, `--allow`.
        stop: Ends it between two runs, or within a run as soon as that is saved.

    Raises:
        Stopped: If it is told to stop.
        StorageUnavailableError: If the database does not answer for as long as the queue waits.
        ValueError: If a run does not log the study's metric.
    """
    queue.patience.pause = stop.sleep
    pace, before = _Pace(len(queue.records())), ParsedBefore()
    since, said = time.monotonic(), False
    while True:
        stop.check()
        claim = queue.claim()
        if claim is not None:
            _do(queue, claim, folder, trusted, stop, pace, before)
            since, said = time.monotonic(), False
            continue
        owners = [] if queue.is_closed else queue.unproven()
        if not owners:
            return
        if not said and time.monotonic() - since > 1.5 * SIGN_EVERY:
            said = True
            print(f"waiting for a sign of life of {', '.join(dict.fromkeys(owners))}", flush=True)
        stop.sleep(_POLL)


def _do(
    queue: Queue[Any],
    claim: Claim,
    folder: Place,
    trusted: Sequence[str],
    stop: StopRequest,
    pace: "_Pace",
    before: ParsedBefore,
) -> None:
    plan, run = queue.plan, claim.run
    start = time.perf_counter()
    place = folder / "runs" / run.key
    name = plan.describe(run)
    with SignsOfLife(lambda: queue.sign_of_life(claim)) as signs:
        try:
            with stop.breaking_off():
                settings, name = queue.choose(claim)
                todo = (signs.check, trusted, _pruning(queue, claim), before)
                try:
                    record = do_run(plan, run, deepcopy(settings), place, *todo)
                except RunInUseError:  # a process that the run was taken from still has it open
                    again = place.with_name(f"{place.name}_again{claim.trial.number}")
                    record = do_run(plan, run, settings, again, *todo)
            _check_metric(record, plan.metric, name)
        except RunLostError:
            _say_lost(name)
            return
        except BaseException:
            queue.give_back(claim)
            stop.check()
            raise
        try:
            queue.finish(claim, record)
        except RunLostError:
            _say_lost(name)
            return
    last = record.points[-1].metrics.get(plan.metric) if record.points else None
    reached = "" if last is None else f", {plan.metric} {last:.4f}"
    done = len(queue.records())
    print(
        f"[{done}{'' if plan.size is None else f'/{plan.size}'}] {name}: {record.status}{reached}, "
        f"{time.perf_counter() - start:.1f} s{'' if plan.size is None else pace.rest(done, plan.size)}",
        flush=True,
    )


def _pruning(queue: Queue[Any], claim: Claim) -> TrialPruning | None:
    if queue.plan.pruner() is None:
        return None
    return TrialPruning(_PatientTrial(queue, claim), queue.plan.metric)


class _PatientTrial:
    """A trial whose storage may be away for a while."""

    def __init__(self, queue: Queue[Any], claim: Claim) -> None:
        self._queue, self._trial = queue, claim.trial

    def report(self, value: float, step: int) -> None:
        try:
            self._queue.patience(lambda: self._trial.report(value, step))
        except RuntimeError as error:  # the trial has ended
            raise RunLostError(f"trial {self._trial.number} was given to another process") from error

    def should_prune(self) -> bool:
        return self._queue.patience(self._trial.should_prune)


def _say_lost(run: str) -> None:
    print(
        f"{run}: given to another process, because this one had shown no sign of life; left to that process",
        file=sys.stderr,
        flush=True,
    )


def _check_metric(record: RunRecord, metric: str, run: str) -> None:
    """End the study at its first run if that does not log the metric."""
    if record.status != "complete" or any(metric in point.metrics for point in record.points):
        return
    logged = dict.fromkeys(name for point in record.points for name in point.metrics)
    raise ValueError(f"metric: {run} has logged no {metric!r}{nearest(metric, logged)}")


class _Pace:
    """How long the rest takes at the pace of all processes together."""

    def __init__(self, done: int) -> None:
        self._before, self._began = done, time.perf_counter()

    def rest(self, done: int, planned: int) -> str:
        """Return it as text, given the number of runs that are done and of all runs."""
        return _remaining(time.perf_counter() - self._began, done - self._before, planned - done)


def _remaining(seconds: float, done: int, left: int) -> str:
    if left == 0 or done <= 0:
        return ""
    rest = seconds / done * left
    return f", {rest:.0f} s to go" if rest < 100 else f", {rest / 60:.0f} min to go"
