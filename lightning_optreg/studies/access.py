"""Access to a study's database: open it, lock it if it can't lock itself, and wait for it."""

import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from lightning_optreg.files import try_lock
from lightning_optreg.studies.journal import journal_file
from lightning_optreg.studies.plan import Plan
from lightning_optreg.studies.storage import connection_options, first_line, shown

if TYPE_CHECKING:  # optuna is imported when a study is run
    from optuna import Study
    from optuna.storages import BaseStorage

__all__ = ["Patience", "StorageUnavailableError", "file_lock", "is_outage", "open_study"]

Result = TypeVar("Result")

_LONGEST_PAUSE = 5.0


class StorageUnavailableError(OSError):
    """The database did not answer in time."""


def is_outage(error: BaseException) -> bool:
    """Return whether a call failed because the database is unreachable or locked: it can be repeated."""
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import (
        DBAPIError,
        DisconnectionError,
        InterfaceError,
        InternalError,
        OperationalError,
        PendingRollbackError,
        TimeoutError,
    )

    if isinstance(error, OSError):  # of a journal, on a disk that is away
        return not isinstance(error, StorageUnavailableError)
    if isinstance(error, StorageInternalError):
        return error.__cause__ is not None and is_outage(error.__cause__)
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    kinds = (OperationalError, InterfaceError, InternalError)  # the last: a server that has become read-only
    return isinstance(error, (*kinds, DisconnectionError, PendingRollbackError, TimeoutError))


class Patience:
    """Repeats a call that fails because the database is unreachable, with growing pauses, until time is up.

    Args:
        storage: Its URL, for messages.
        seconds: How long a call is repeated, at least 0.

    Example:
        >>> Patience("sqlite:///study.db", 60.0)(lambda: "done")
        'done'
    """

    def __init__(self, storage: str, seconds: float) -> None:
        self._storage = shown(storage)
        self.seconds = seconds
        self.pause: Callable[[float], None] = time.sleep
        """How to wait; may raise an exception to stop waiting."""

    def __call__(self, call: Callable[[], Result]) -> Result:
        """Return what the call returns.

        Raises:
            StorageUnavailableError: If the database is still unreachable at the end.
        """
        from optuna.exceptions import StorageInternalError
        from sqlalchemy.exc import SQLAlchemyError

        began, pause, said = time.monotonic(), 0.1, False
        while True:
            try:
                return call()
            except (SQLAlchemyError, StorageInternalError, OSError) as error:
                if not is_outage(error):
                    raise
                reason = first_line(
                    error.__cause__ or error if isinstance(error, StorageInternalError) else error
                )
                left = self.seconds - (time.monotonic() - began)
                if left <= 0:
                    raise StorageUnavailableError(
                        f"storage: {self._storage} has not answered for {self.seconds:g} s ({reason})"
                    ) from error
            if not said and pause > 1.0:
                said = True
                print(f"{self._storage} does not answer ({reason}); waiting for it", file=sys.stderr)
            self.pause(min(left, pause * random.uniform(0.5, 1.0)))
            pause = min(2 * pause, _LONGEST_PAUSE)


@contextmanager
def file_lock(path: Path, patience: Patience) -> Iterator[None]:
    """Lock a file beside an SQLite database; the lock dies with the process.

    Args:
        path: The database.
        patience: How to wait until the lock is free.
    """
    with open(path.with_name(f"{path.name}.lock"), "a+b") as file:
        while not try_lock(file.fileno()):
            patience.pause(0.02)
        yield


def _storage(storage: str, wait: float) -> "BaseStorage":
    from optuna.storages import JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend

    journal = journal_file(storage)
    if journal is not None:
        return JournalStorage(JournalFileBackend(str(journal)))
    return RDBStorage(storage, engine_kwargs=connection_options(storage, max(wait, 1.0)))


def open_study(plan: Plan, storage: str, wait: float) -> "Study":
    """Open a study in its storage, or create it there.

    Args:
        plan: The study.
        storage: URL of the database.
        wait: Seconds that a call waits for others to finish writing to an SQLite file, at least 0.

    Raises:
        ValueError: If the storage holds something else, or is not writable.
    """
    import optuna
    from sqlalchemy.exc import DatabaseError

    attempts = 10
    while True:
        try:
            return optuna.create_study(
                storage=_storage(storage, wait),
                study_name=plan.name,
                direction="maximize" if plan.mode == "max" else "minimize",
                load_if_exists=True,
                sampler=plan.sampler(),
                pruner=plan.pruner() or optuna.pruners.NopPruner(),
            )
        except DatabaseError as error:  # processes that create the tables at the same time collide
            attempts -= 1
            if attempts == 0:
                if is_outage(error):
                    raise
                raise ValueError(f"storage: {shown(storage)} can't be used: {first_line(error)}") from error
            time.sleep(0.3)
        except RuntimeError as error:  # its tables are those of another version of Optuna
            raise ValueError(f"storage: {shown(storage)} can't be used: {first_line(error)}") from error
