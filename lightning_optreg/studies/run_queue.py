"""The runs of a study as a queue in an Optuna storage, which any number of processes and machines share.

Every run is a trial that is enqueued once; a worker asks for a waiting one, which the storage hands out once.
Optuna chooses nothing here: it is the well-kept data base. What happens at the same time elsewhere is settled
by one rule: of several trials for a run the one with the lowest number counts, unless it failed.
"""

import os
import platform
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lightning_optreg.studies.records import RunRecord
from lightning_optreg.studies.specification import Run, Specification

if TYPE_CHECKING:  # optuna is imported when a study is run
    from optuna import Study
    from optuna.trial import FrozenTrial, Trial

__all__ = ["Claim", "Queue"]

LEASE = 1800.0
"""Seconds without a sign of life after which a run of another machine's is given to someone else."""


class Claim(NamedTuple):
    """A run that this process has to do.

    Attributes:
        run: Which.
        trial: Number of its trial.
    """

    run: Run
    trial: int


class Queue:
    """The runs of a study in their storage.

    Args:
        specification: The study.
        storage: URL such as `sqlite:///study.db`, `postgresql://...`; see Optuna's `RDBStorage`.

    Raises:
        ValueError: If the storage has a study of this name that is another one.
    """

    def __init__(self, specification: Specification, storage: str) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.specification = specification
        # SQLite has no locks of rows: two processes that ask at once get the same trial.
        self._file = Path(storage.removeprefix("sqlite:///")) if storage.startswith("sqlite:///") else None
        self._study: Study = _open(specification, storage)
        self._check_or_note("study", specification.fingerprint())

    def _locked(self) -> AbstractContextManager[None]:
        """Keep other processes from asking at the same time, where the data base itself does not."""
        return nullcontext() if self._file is None else _file_lock(self._file)

    def _check_or_note(self, key: str, text: str) -> None:
        noted = self._study.user_attrs.get(key)
        if noted is None:
            self._study.set_user_attr(key, text)
        elif noted != text:
            raise ValueError(
                f"name: the storage has a study {self.specification.name!r} with other settings "
                f"({_first_difference(noted, text)}); give this one another name"
            )

    def fill(self) -> None:
        """Enqueue every run that is neither done, being done nor waiting; take back those left behind."""
        from optuna.trial import TrialState

        with self._locked():
            for trial in self._trials():
                if trial.state == TrialState.RUNNING and _is_left_behind(trial):
                    self._study.tell(trial.number, state=TrialState.FAIL)
            current = self._current()
            for run in self.specification.runs:
                if run not in current:
                    self._study.enqueue_trial(
                        {"method": run.method, "value": run.value, "seed": run.seed}, {"run": list(run)}
                    )

    def claim(self) -> Claim | None:
        """Take the next run; None if none is waiting."""
        from optuna.trial import TrialState

        while True:
            with self._locked():
                if not any(trial.state == TrialState.WAITING for trial in self._trials()):
                    return None
                trial = self._study.ask()
                worker = {"host": platform.node(), "pid": os.getpid()}
                trial.set_user_attr("worker", worker)
            run = _run_of(trial) if "run" in trial.user_attrs else None
            if run in self.specification.runs and self._current()[run].number == trial.number:
                self.sign_of_life(trial.number)
                return Claim(run, trial.number)
            # Enqueued twice, of another grid, or new: someone took the last one that waited in between.
            self._study.tell(trial, state=TrialState.FAIL)

    def sign_of_life(self, trial: int) -> None:
        """Note that a run goes on."""
        self._attribute(trial, "alive", time.time())

    def finish(self, claim: Claim, record: RunRecord) -> None:
        """Put down a run's record."""
        from optuna.trial import TrialState

        self._attribute(claim.trial, "record", record.to_dict())
        last = record.points[-1].metrics.get(self.specification.metric) if record.points else None
        if record.status == "failed":
            self._study.tell(claim.trial, state=TrialState.FAIL)
        elif record.status == "diverged" or last is None or last != last:
            self._study.tell(claim.trial, state=TrialState.PRUNED)
        else:
            self._study.tell(claim.trial, last)

    def give_back(self, claim: Claim) -> None:
        """Let someone else, or a later start, go on with a run that was broken off."""
        from optuna.trial import TrialState

        self._study.tell(claim.trial, state=TrialState.FAIL)

    def records(self) -> list[RunRecord]:
        """Records of the runs that have ended, in the study's order; of failed ones the latest."""
        found: dict[Run, RunRecord] = {}
        current = self._current()
        for trial in self._trials():
            if "record" in trial.user_attrs:
                run = _run_of(trial)
                if run not in current or current[run].number == trial.number:
                    found[run] = _record_of(trial, run)
        return [found[run] for run in self.specification.runs if run in found]

    def _current(self) -> "dict[Run, FrozenTrial]":
        from optuna.trial import TrialState

        current: dict[Run, FrozenTrial] = {}
        for trial in self._trials():
            if trial.state != TrialState.FAIL and "run" in trial.user_attrs:
                current.setdefault(_run_of(trial), trial)
        return current

    def _trials(self) -> "Iterable[FrozenTrial]":
        return self._study.get_trials(deepcopy=False)  # in the order of their numbers

    def _attribute(self, trial: int, key: str, value: Any) -> None:
        # The public way goes through the Trial object, which only the process that asked for it has; a study
        # knows a trial's id by its number. Private in Optuna 5: `_storage` and `_trial_id`.
        frozen = next(t for t in self._trials() if t.number == trial)
        self._study._storage.set_trial_user_attr(frozen._trial_id, key, value)


@contextmanager
def _file_lock(path: Path) -> Iterator[None]:
    from optuna.storages.journal import JournalFileOpenLock

    lock = JournalFileOpenLock(str(path))
    lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _open(specification: Specification, storage: str) -> "Study":
    import optuna
    from sqlalchemy.exc import DatabaseError

    # A worker waits for others to finish writing to the file.
    options = {"connect_args": {"timeout": 60}} if storage.startswith("sqlite") else {}
    attempts = 10
    while True:
        try:
            return optuna.create_study(
                storage=optuna.storages.RDBStorage(storage, engine_kwargs=options),
                study_name=specification.name,
                direction="maximize" if specification.mode == "max" else "minimize",
                load_if_exists=True,
            )
        except DatabaseError:  # processes that make the tables at the same moment collide
            attempts -= 1
            if attempts == 0:
                raise
            time.sleep(0.3)


# What a storage holds is data that anybody may have written: it is looked at before it is used.


def _run_of(trial: "FrozenTrial | Trial") -> Run:
    run = trial.user_attrs.get("run")
    if isinstance(run, list) and len(run) == 3:
        method, value, seed = run
        if isinstance(method, str) and isinstance(value, (int, float)) and isinstance(seed, int):
            return Run(method, value, seed)
    raise _strange(trial, f"run is {run!r}")


def _record_of(trial: "FrozenTrial", run: Run) -> RunRecord:
    try:
        record = RunRecord.from_dict(trial.user_attrs["record"])
    except ValueError as error:
        raise _strange(trial, f"record is {error}") from error
    if (record.method, record.value, record.seed) != run:
        raise _strange(trial, "its record is of another run")
    return record


def _strange(trial: "FrozenTrial | Trial", what: str) -> ValueError:
    return ValueError(f"storage: trial {trial.number} was not written by compare: {what}")


def _is_left_behind(trial: "FrozenTrial") -> bool:
    worker, alive = trial.user_attrs.get("worker"), trial.user_attrs.get("alive", 0.0)
    if not isinstance(alive, (int, float)):
        raise _strange(trial, f"alive is {alive!r}")
    if worker is not None and not (
        isinstance(worker, dict)
        and isinstance(worker.get("host"), str)
        and isinstance(worker.get("pid"), int)
        and 0 < worker["pid"] < 2**31
    ):
        raise _strange(trial, f"worker is {worker!r}")
    if worker is None:
        began = trial.datetime_start
        return began is not None and time.time() - began.timestamp() > LEASE
    if worker["host"] == platform.node():
        return not _is_alive(worker["pid"])
    return bool(time.time() - alive > LEASE)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def _first_difference(noted: str, given: str) -> str:
    import json

    old, new = _leaves(json.loads(noted)), _leaves(json.loads(given))
    key = next(key for key in [*old, *new] if old.get(key, "not set") != new.get(key, "not set"))
    return f"{key} is {old.get(key, 'not set')} there and {new.get(key, 'not set')} here"


def _leaves(tree: Any, key: str = "") -> dict[str, Any]:
    """Flatten nested mappings: values by their dotted keys."""
    if not isinstance(tree, dict) or not tree:
        return {key: tree}
    return {
        leaf: value
        for name, branch in tree.items()
        for leaf, value in _leaves(branch, f"{key}.{name}" if key else name).items()
    }
