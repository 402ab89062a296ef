"""A few numbers that workers on one machine share: who is where, and how many steps there are."""

from collections.abc import Callable
from typing import Any

__all__ = ["MOST_GROUPS", "NO_MORE", "Board", "Stopped"]

MOST_GROUPS = 64
"""Most parameter groups whose rates can follow worker 0's."""

NO_MORE = 2**62
"""Number of epochs done by a worker that has nothing left to do."""

_FLAGS = ("prepared", "started", "epoch", "pauses", "resumed", "ended", "stopped", "stacks")
_COLUMNS = ("steps", "claimed", "updates", "epochs", "rests", "wishes")


class Stopped(BaseException):
    """Raised in a worker that worker 0 has told to stop; not an error."""


class Board:
    """Counters in shared memory, each written by one process only, so that they need no lock.

    By worker 0:

    - prepared: 1 once the data are prepared
    - started: 1 once training has started
    - epoch: the epoch that workers may begin, counted from 0
    - pauses, resumed: how often the others were asked to rest and told to go on; they rest between the two
    - ended: 1 once worker 0's training has ended; stopped: 1 if the others must not go on; stacks: 1 if they
      shall write where they stand

    By each worker, at its own number:

    - steps: optimizer steps it has made, in the whole run; claimed: with those that it may make next
    - updates: the same as steps, but counted right after a step rather than after its batch
    - epochs: epochs whose share it has done, -1 before training; rests: the last pause in which it rests
    - wishes: 1 if it wants the run to stop

    rates are worker 0's learning rates of all parameter groups, for schedules that follow its validation.

    Only `claim` takes a lock, as the last steps before `max_steps` must not be made twice.

    Args:
        workers: Number of workers, at least 1.
        context: How processes are started.

    Example:
        >>> import multiprocessing
        >>> board = Board(2, multiprocessing.get_context("spawn"))
        >>> board.steps[1] = 3
        >>> board.total()
        3
    """

    def __init__(self, workers: int, context: Any) -> None:
        self.workers = workers
        self._flags = context.RawArray("q", len(_FLAGS))
        self.steps, self.claimed, self.updates, self.epochs, self.rests, self.wishes = (
            context.RawArray("q", workers) for _ in _COLUMNS
        )
        self.epochs[:] = [-1] * workers
        self.rates = context.RawArray("d", MOST_GROUPS)
        self._lock = context.Lock()

    def flag(self, name: str) -> int:
        """Return a number that worker 0 writes."""
        return int(self._flags[_FLAGS.index(name)])

    def set_flag(self, name: str, value: int) -> None:
        """Write a number, as worker 0."""
        self._flags[_FLAGS.index(name)] = value

    @property
    def paused(self) -> bool:
        """Whether the others shall rest."""
        return self.flag("pauses") > self.flag("resumed")

    def total(self) -> int:
        """Return the steps of all workers, of batches that are done."""
        return sum(self.steps)

    def claim(self, worker: int, most: int, check: Callable[[], None]) -> bool:
        """Reserve the worker's next step, unless all workers together have reserved as many as allowed.

        Args:
            worker: Its number.
            most: Steps of all that are allowed.
            check: Called while another process holds the lock; raises if a process has died.

        Returns:
            Whether it may make a step.
        """
        if self.claimed[worker] > self.steps[worker]:
            return True
        while not self._lock.acquire(timeout=0.2):
            check()
        try:
            free = bool(sum(self.claimed) < most)
            self.claimed[worker] += free
        finally:
            self._lock.release()
        return free

    def give_back(self, worker: int, check: Callable[[], None]) -> None:
        """Give back a step that was reserved and not made, as at the end of an epoch."""
        if self.claimed[worker] != self.steps[worker]:
            while not self._lock.acquire(timeout=0.2):
                check()
            self.claimed[worker] = self.steps[worker]
            self._lock.release()
