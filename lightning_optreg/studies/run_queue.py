"""The runs of a study as a queue in an Optuna storage, which any number of processes and machines share.

Every run is a trial that is enqueued once; a worker asks for a waiting one, which the storage hands out once.
Claims made at the same time are settled by one rule: of several trials for a run the one with the lowest
number counts, unless it failed. The plan says which runs there are, and what Optuna may choose for them:
nothing when methods are compared.

A run belongs to the process that its trial names (`ownership.py`), for as long as that gives signs of life.
An abandoned run is given to another process as a new trial, and the old one is marked as failed: if its owner
was only suspended, the storage refuses what it writes later.

Optuna's own heartbeat is not used. It works within `Study.optimize` only; a trial whose worker died before
its first heartbeat is never found; it writes to failed trials too, so nobody learns that a run was taken
away; and it goes by the database's clock, so after a long restart all running trials count as dead.
No other machine's clock is trusted here: a process counts the seconds in which it sees no new sign of life.
"""

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from lightning_optreg.runs.ownership import this_process
from lightning_optreg.studies.access import (
    Patience,
    StorageUnavailableError,
    file_lock,
    is_outage,
    open_study,
)
from lightning_optreg.studies.plan import Chosen, Plan, Run
from lightning_optreg.studies.records import RunRecord, Unfinished
from lightning_optreg.studies.signs_of_life import RunLostError, Sight
from lightning_optreg.studies.storage import sqlite_file
from lightning_optreg.studies.stored import (
    current_of,
    fingerprint_difference,
    is_run,
    latest_of,
    owner_of,
    record_of,
    run_of,
    sign_of,
)

if TYPE_CHECKING:  # optuna is imported when a study is run
    from optuna import Study
    from optuna.trial import FrozenTrial, Trial, TrialState

__all__ = ["Claim", "Queue"]

Planned = TypeVar("Planned", bound=Plan)


class Claim(NamedTuple):
    """A run that this process has to do.

    Attributes:
        run: The run.
        trial: Its trial.
    """

    run: Run
    trial: "Trial"


class Queue(Generic[Planned]):
    """The runs of a study in their storage.

    Args:
        plan: The study.
        storage: URL such as `sqlite:///study.db`, `postgresql+psycopg://...`; see Optuna's `RDBStorage`.
        wait: Seconds to wait for a database that does not answer, at least 0.

    Raises:
        StorageUnavailableError: If the database does not answer; later by all methods.
        ValueError: If the storage has a different study of this name.
    """

    def __init__(self, plan: Planned, storage: str, wait: float = 300.0) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.plan = plan
        self.patience = Patience(storage, wait)
        # SQLite does not lock rows: two processes that ask at once get the same trial.
        self._file = sqlite_file(storage)
        self._study: Study = self.patience(lambda: open_study(plan, storage, wait))
        self._mine: set[int] = set()
        self._seen: dict[int, Sight] = {}
        self._closes = time.monotonic() + plan.seconds
        self._check_or_note("study", plan.fingerprint())

    def _locked(self) -> AbstractContextManager[None]:
        """Keep other processes from asking at the same time, where the database itself does not."""
        return nullcontext() if self._file is None else file_lock(self._file, self.patience)

    def _check_or_note(self, key: str, text: str) -> None:
        noted = self.patience(lambda: self._study.user_attrs).get(key)
        if noted is None:
            self.patience(lambda: self._study.set_user_attr(key, text))
        elif noted != text:
            raise ValueError(
                f"name: the storage has a study {self.plan.name!r} with other settings "
                f"({fingerprint_difference(noted, text)}); give this one another name"
            )

    # ---- handing out ---------------------------------------------------------------------------------------

    def fill(self) -> None:
        """Enqueue every run that is neither done, being done nor waiting; take back those left behind."""
        with self._locked():
            self._take_back(self._trials())
            trials = self._trials()
            current, latest = current_of(trials), latest_of(trials)
            for run in self._planned(trials):
                if run not in current:
                    self._enqueue(run, latest)

    @property
    def is_closed(self) -> bool:
        """Whether the time for new runs is up."""
        return time.monotonic() >= self._closes

    def claim(self) -> Claim | None:
        """Take the next run; None if there is none, or the time is up. Those left behind come last."""
        from optuna.trial import TrialState

        while not self.is_closed:
            with self._locked():
                trials = self._trials()  # seldom: the more runs are waiting, the longer it takes
                again = self._take_back(trials)
                for run in again:
                    self._enqueue(run, latest_of(self._trials()))
                if not again and not any(trial.state == TrialState.WAITING for trial in trials):
                    latest = latest_of(self._trials())
                    new = self.plan.another(latest)
                    if new is None:
                        return None
                    self._enqueue(new, latest)
                trial = self.patience(self._study.ask)
                self._mine.add(trial.number)
                self._note_owner(trial)
            if is_run(trial):
                claim = Claim(run_of(trial), trial)
                trials = self._trials()
                wanted = claim.run in self._planned(trials)
                if wanted and current_of(trials)[claim.run].number == trial.number:
                    return claim
            # Enqueued twice, from another grid, or new because another process took the last waiting one.
            self._end(trial.number, TrialState.FAIL)
        return None

    def _note_owner(self, trial: "Trial") -> None:
        self.patience(lambda: trial.set_user_attr("worker", this_process()._asdict()))

    def _enqueue(self, run: Run, latest: "Mapping[Run, FrozenTrial]") -> None:
        # One that is done again keeps what was chosen for it, since it goes on from its checkpoint.
        before = latest.get(run)
        parameters = before.params if before is not None and before.params else self.plan.parameters(run)
        self.patience(lambda: self._study.enqueue_trial(parameters, {"run": list(run)}))

    def _take_back(self, trials: "Sequence[FrozenTrial]") -> list[Run]:
        """End the trials that were left behind; return the runs that are to be done again."""
        from optuna.trial import TrialState

        left = [trial for trial in self._running(trials) if self._is_left_behind(trial)]
        for trial in left:
            if "record" in trial.user_attrs:  # its process died between the result and the end of the trial
                self._end(trial.number, *self._outcome(record_of(trial, run_of(trial))))
            else:
                self._end(trial.number, TrialState.FAIL)
        again = dict.fromkeys(run_of(t) for t in left if is_run(t) and "record" not in t.user_attrs)
        if not again:
            return []
        trials = self._trials()
        current, planned = current_of(trials), self._planned(trials)
        return [run for run in again if run in planned and run not in current]

    def _is_left_behind(self, trial: "FrozenTrial") -> bool:
        owner = owner_of(trial)
        if owner is not None and owner.has_ended():
            return True
        sight = self._seen.setdefault(trial.number, Sight(sign_of(trial)))
        return sight.is_silent(sign_of(trial))

    def unproven(self) -> list[str]:
        """Name the processes that hold runs and have shown no sign of life since this one began to watch."""
        names = []
        for trial in self._running(self._trials()):
            sight = self._seen.get(trial.number)
            if sight is None or not sight.has_changed:
                names.append(str(owner_of(trial) or "an unknown process"))
        return names

    # ---- a run that is being done -----------------------------------------------------------------------

    def choose(self, claim: Claim) -> Chosen:
        """Return the settings of a run, of which its trial may choose some.

        Raises:
            RunLostError: If the run was given to another process.
        """
        try:
            return self.patience(lambda: self.plan.choose(claim.run, claim.trial))
        except RuntimeError as error:  # the storage refuses a choice for a trial that has ended
            raise RunLostError(f"trial {claim.trial.number} was given to another process") from error

    def sign_of_life(self, claim: Claim) -> bool:
        """Record a sign of life; return False if the run was given to another process."""
        from optuna.exceptions import StorageInternalError
        from sqlalchemy.exc import SQLAlchemyError

        try:
            claim.trial.set_user_attr("alive", time.time())
        except RuntimeError:  # Optuna's error for a trial that has ended, which since 4.9 has a name
            return False
        except (SQLAlchemyError, StorageInternalError, OSError) as error:
            if not is_outage(error):
                raise
        return True

    def finish(self, claim: Claim, record: RunRecord) -> None:
        """Store a run's record.

        Raises:
            RunLostError: If the run was given to another process.
        """
        number = claim.trial.number
        plain = record.to_dict()
        # That error: it was ended by another process, or by this one in a call whose answer was lost.
        with suppress(RuntimeError):
            self.patience(lambda: claim.trial.set_user_attr("record", plain))
        state, value = self._outcome(record)
        ended = self._end(number, state, value)
        if ended.state != state or "record" not in ended.user_attrs:
            raise RunLostError(f"trial {number} was given to another process")

    def give_back(self, claim: Claim) -> None:
        """Let a later start resume a run that was interrupted."""
        from optuna.trial import TrialState

        wait, self.patience.seconds = self.patience.seconds, 0.0
        try:
            self._end(claim.trial.number, TrialState.FAIL)
        except StorageUnavailableError:
            pass  # the end of this process says the same
        finally:
            self.patience.seconds = wait

    def _end(self, number: int, state: "TrialState", value: float | None = None) -> "FrozenTrial":
        """End a trial, unless it has been ended; return it as it is then."""

        def tell() -> "FrozenTrial":
            return self._study.tell(number, value, state, skip_if_finished=True)

        try:
            return self.patience(tell)
        except RuntimeError:  # ended by another process in the meantime
            return self.patience(tell)

    def _outcome(self, record: RunRecord) -> "tuple[TrialState, float | None]":
        """Return the state of a trial with this record, and its value."""
        from optuna.trial import TrialState

        last = record.points[-1].metrics.get(self.plan.metric) if record.points else None
        if record.status == "failed":
            return TrialState.FAIL, None
        if record.status in ("diverged", "pruned") or last is None or last != last:
            return TrialState.PRUNED, None
        return TrialState.COMPLETE, last

    # ---- what there is -------------------------------------------------------------------------------------

    def records(self) -> list[RunRecord]:
        """Records of the runs that have ended, in the study's order; of failed ones the latest."""
        return [record_of(trial, run) for run, trial in self.results().items()]

    def results(self) -> "dict[Run, FrozenTrial]":
        """The trials with the records of the runs that have ended, likewise."""
        from optuna.trial import TrialState

        found: dict[Run, FrozenTrial] = {}
        trials = self._trials()
        current = current_of(trials)
        for trial in trials:
            if "record" not in trial.user_attrs:
                continue
            run = run_of(trial)
            if run in current and current[run].number != trial.number:
                continue
            # A failed trial with another record was taken from its process at the last moment.
            if trial.state != TrialState.FAIL or record_of(trial, run).status == "failed":
                found[run] = trial
        return {run: found[run] for run in self._planned(trials) if run in found}

    def unfinished(self) -> list[Unfinished]:
        """Return the runs without a result, and why there is none."""
        from optuna.trial import TrialState

        records = {Run(r.method, r.value, r.seed): r for r in self.records()}
        trials = self._trials()
        current = current_of(trials)
        missing = []
        for run in self._planned(trials):
            record, trial = records.get(run), current.get(run)
            name = self.plan.describe(run)
            if record is not None and record.status != "failed":
                continue
            if record is not None:
                missing.append(Unfinished(name, "failed", record.message))
            elif trial is None or trial.state != TrialState.RUNNING:
                missing.append(Unfinished(name, "waiting", "no process does it"))
            else:
                owner = owner_of(trial)
                if owner is not None and owner.has_ended():
                    missing.append(Unfinished(name, "waiting", f"{owner} has ended"))
                else:
                    missing.append(Unfinished(name, "running", str(owner or "an unknown process")))
        return missing

    def is_complete(self) -> bool:
        """Return whether every run has a result, and no other would be begun."""
        return not self.unfinished() and self.plan.another(latest_of(self._trials())) is None

    def _planned(self, trials: "Sequence[FrozenTrial]") -> list[Run]:
        return self.plan.planned(run_of(trial) for trial in trials if is_run(trial))

    def _running(self, trials: "Sequence[FrozenTrial]") -> "list[FrozenTrial]":
        """Trials that other processes are running."""
        from optuna.trial import TrialState

        return [t for t in trials if t.state == TrialState.RUNNING and t.number not in self._mine]

    def _trials(self) -> "Sequence[FrozenTrial]":
        return self.patience(lambda: self._study.get_trials(deepcopy=False))  # in the order of their numbers
