"""A stopwatch for the time of training, without interruptions such as validations."""

import time

__all__ = ["Stopwatch"]


class Stopwatch:
    """Measures time in laps; it is stopped until `start`.

    Example:
        >>> watch = Stopwatch()
        >>> watch.lap()
        0.0
        >>> watch.start()
        >>> watch.lap() > 0.0
        True
    """

    def __init__(self) -> None:
        self._since: float | None = None  # None: it is stopped

    def start(self) -> None:
        """Begin the first lap."""
        self._since = time.perf_counter()

    def lap(self) -> float:
        """Return the seconds since the last lap ended, and begin the next; 0 while it is stopped."""
        if self._since is None:
            return 0.0
        now = time.perf_counter()
        lap, self._since = now - self._since, now
        return lap

    def stop(self) -> float:
        """Return the seconds of the last lap, and stop."""
        lap, self._since = self.lap(), None
        return lap
