"""Signs of life: a process keeps its run as long as it gives them, and other processes watch for them."""

import threading
import time
from collections.abc import Callable

from typing_extensions import Self

__all__ = ["LEASE", "SIGN_EVERY", "RunLostError", "Sight", "SignsOfLife"]

LEASE = 60.0
"""Seconds without a sign of life after which a run is given to another process."""
SIGN_EVERY = 10.0
"""Seconds between two signs of life."""


class RunLostError(RuntimeError):
    """The run was given to another process: this one must not write anything of it any more."""


class SignsOfLife:
    """Gives signs of life in a thread, and learns from the answers whether the run was taken away.

    Args:
        send: Gives one; returns False if the run belongs to another process.
    """

    def __init__(self, send: Callable[[], bool]) -> None:
        self._send = send
        self._lost, self._end = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._go, name="signs-of-life", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join(1.0)  # it may be waiting for a database that does not answer

    def _go(self) -> None:
        while not self._end.is_set():
            if not self._send():
                self._lost.set()
                return
            self._end.wait(SIGN_EVERY)

    def check(self) -> None:
        """Raise `RunLostError` if the run was given to another process."""
        if self._lost.is_set():
            raise RunLostError("the run was given to another process")


_now = time.monotonic


class Sight:
    """What this process sees of another one's signs of life.

    Only looks that follow one another closely count: in between this process may have been stopped, or the
    database been away, for both.

    Args:
        sign: The last one when it begins to look.
    """

    def __init__(self, sign: float) -> None:
        self._sign = sign
        self._since = self._looked = _now()
        self.has_changed = False
        """Whether something new was seen since it looks without a break."""

    def is_silent(self, sign: float) -> bool:
        """Whether nothing new was seen for the whole lease."""
        now = _now()
        if now - self._looked > LEASE / 4:
            self._since, self.has_changed = now, False
        elif sign != self._sign:
            self._since, self.has_changed = now, True
        self._sign, self._looked = sign, now
        return now - self._since > LEASE
