"""Notice a signal at once, even while the main thread waits for another process, and limit the time after it.

Python runs signal handlers in the main thread, between two instructions: never, while that thread waits in a
collective operation for a process that hangs. But the interpreter writes to its wake-up file descriptor when
the signal arrives, and a separate thread reads it here.
"""

import os
import select
import signal
import socket
import threading
import time
import weakref
from collections.abc import Callable, Mapping

__all__ = ["SignalWatch"]

_POLL = 1.0  # seconds between checks that the parent still exists


class SignalWatch:
    """Ends the process some seconds after a signal, unless it is closed before.

    Args:
        statuses: The exit status for each signal that starts the countdown.
        seconds: Time left to the process after a signal, above 0.
        at_the_end: Called right before the process ends, from a thread.
        sentence: What has not happened in time, for the message.
        on_orphaned: Called from a thread when the parent process is gone, which then counts as a SIGTERM.
            None: the parent is not watched.

    Example:
        >>> watch = SignalWatch({signal.SIGTERM: 143}, 25.0, lambda: None, "still training")
        >>> watch.start()
        >>> watch.close()
    """

    def __init__(
        self,
        statuses: Mapping[int, int],
        seconds: float,
        at_the_end: Callable[[], None],
        sentence: str,
        on_orphaned: Callable[[], None] | None = None,
    ) -> None:
        self._statuses = dict(statuses)
        self._seconds = seconds
        self._at_the_end = at_the_end
        self._sentence = sentence
        self._on_orphaned = on_orphaned
        self._parent = os.getppid()
        self._lock = threading.Lock()
        self._signal: int | None = None
        self._deadline = float("inf")
        self._open = False
        self._previous_fd = -1
        self._reader, self._writer = socket.socketpair()

    def start(self) -> None:
        """Start watching; must be called in the main thread."""
        self._writer.setblocking(False)
        self._previous_fd = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        self._open = True
        _WATCHES.add(self)
        threading.Thread(target=self._watch, name="signal-watch", daemon=True).start()

    def restart(self) -> None:
        """Restart the countdown, for the next piece of work."""
        with self._lock:
            if self._signal is not None:
                self._deadline = time.monotonic() + self._seconds

    def close(self) -> None:
        """Stop watching: the process ends by itself, or continues."""
        with self._lock:
            if not self._open:
                return
            self._open = False
        signal.set_wakeup_fd(self._previous_fd)
        _WATCHES.discard(self)
        self._writer.close()  # wakes the thread, which closes its end

    def forget(self) -> None:
        """Stop watching in a process that was forked from the watched one."""
        if self._open:
            self._open = False
            signal.set_wakeup_fd(-1)

    def _watch(self) -> None:
        while self._open:
            wait = min(_POLL, max(0.0, self._deadline - time.monotonic()))
            readable, _, _ = select.select([self._reader], [], [], wait)
            for number in self._reader.recv(64) if readable else b"":
                self._arrived(number)
            if self._on_orphaned is not None and os.getppid() != self._parent:
                self._on_orphaned()
                self._on_orphaned = None
                self._arrived(signal.SIGTERM)
            if time.monotonic() >= self._deadline:
                self._expire()
        self._reader.close()

    def _arrived(self, number: int) -> None:
        with self._lock:
            if number in self._statuses and self._signal is None:
                self._signal = number
                self._deadline = time.monotonic() + self._seconds
        if self._previous_fd != -1:
            os.write(self._previous_fd, bytes([number]))

    def _expire(self) -> None:
        with self._lock:  # held to the end, so that the main thread can't close the watch any more
            if not self._open or self._signal is None:
                return
            name = signal.Signals(self._signal).name
            # not through Python's streams: the main thread may hold their locks
            os.write(2, f"{self._sentence} {self._seconds:g} s after {name}.\n".encode())
            self._at_the_end()
            os._exit(self._statuses[self._signal])


_WATCHES: weakref.WeakSet[SignalWatch] = weakref.WeakSet()


def _forget_in_child() -> None:
    for watch in list(_WATCHES):
        watch.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
