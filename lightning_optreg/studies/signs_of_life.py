"""Signs of life: a process keeps its run as long as it gives them, and other processes watch for them."""

import threading
import time
from collections.abc import Callable

from typing_extensions import Self

from lightning_optreg.runs.ownership import LEASE, SIGN_EVERY

__all__ = ["RunLostError", "Sight", "SignsOfLife"]


class RunLostError(RuntimeError):
    """The run was given to another process: this one must no longer write to it."""


class SignsOfLife:
    """Gives signs of life in a thread, and learns from the answers whether the run was taken away.

    Args:
        send: Sends a sign; returns False if the run belongs to another process.
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
    """Another process's signs of life, as this process sees them.

    Only looks in close succession count: during a longer gap this process may have been stopped, or the
    database unreachable for both.

    Args:
        sign: The latest one at the first look.
    """

    def __init__(self, sign: float) -> None:
        self._sign = sign
        self._since = self._looked = _now()
        self.has_changed = False
        """Whether a new sign was seen since the looks began without a gap."""

    def is_silent(self, sign: float) -> bool:
        """Whether no new sign was seen for the whole lease."""
        now = _now()
        if now - self._looked > LEASE / 4:
            self._since, self.has_changed = now, False
        elif sign != self._sign:
            self._since, self.has_changed = now, True
        self._sign, self._looked = sign, now
        return now - self._since > LEASE
