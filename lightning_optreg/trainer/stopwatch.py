"""A stopwatch: how long a run trained, without what lies between."""

import time

__all__ = ["Stopwatch"]


class Stopwatch:
    """Measure time in laps; it stands still until it is started.

    Example:
        >>> watch = Stopwatch()
        >>> watch.lap()
        0.0
        >>> watch.start()
        >>> watch.lap() > 0.0
        True
    """

    def __init__(self) -> None:
        self._since: float | None = None  # None: it stands still

    def start(self) -> None:
        """Begin the first lap."""
        self._since = time.perf_counter()

    def lap(self) -> float:
        """Return the seconds since the last lap ended, and begin the next; 0 while it stands still."""
        if self._since is None:
            return 0.0
        now = time.perf_counter()
        lap, self._since = now - self._since, now
        return lap

    def stop(self) -> float:
        """Return the last lap's seconds, and stand still."""
        lap, self._since = self.lap(), None
        return lap
