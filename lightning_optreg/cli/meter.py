"""How far something has come: on a terminal a bar that is drawn over itself, elsewhere a line now and then.

Everything goes to the standard error, so that results can be piped on.
"""

import os
import shutil
import sys
import time

__all__ = ["Meter", "duration"]

_BETWEEN_BARS = 0.2  # seconds
_BETWEEN_LINES = 5.0
_WIDTH = 20
_CLEAR = "\r\x1b[K"


class Meter:
    """Shows how much of some work is done.

    Args:
        what: What is counted, in the plural.
        lines: Whether there are lines where no bar can be.

    Example:
        >>> meter = Meter("places")
        >>> for number in range(3):
        ...     meter(number + 1, 3)
    """

    def __init__(self, what: str = "steps", *, lines: bool = True) -> None:
        self.what, self.lines = what, lines
        self._first: tuple[float, float] | None = None  # when and at which number: before, libraries load
        self._said = time.monotonic()
        self._is_drawn = False

    @property
    def has_bar(self) -> bool:
        """Whether the standard error is a terminal that a bar can be drawn on."""
        return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"

    def is_due(self) -> bool:
        """Return whether it is time to show something again: measuring may cost more than the work."""
        pause = _BETWEEN_BARS if self.has_bar else _BETWEEN_LINES
        return (self.has_bar or self.lines) and time.monotonic() - self._said >= pause

    def begin(self) -> None:
        """Count anew."""
        self._first = None

    def __call__(self, done: float, total: float, before: str = "", behind: str = "") -> None:
        """Show how much is done, if it is time.

        Args:
            done: How many.
            total: Of how many; infinity if nobody knows.
            before: Put before the bar.
            behind: Put behind it.
        """
        now = time.monotonic()
        if self._first is None:
            self._first = now, done
        if done >= total:
            self.clear()
            return
        if not self.is_due() or (not self.has_bar and done <= self._first[1]):
            return
        self._said = now
        left = self._left(now, done, total)
        count = f"{done:g}" if total == float("inf") else f"{done:g} of {total:g}"
        if self.has_bar:
            self._draw([before, self._bar(done, total), f"{count} {self.what}", left, behind])
        else:
            print(", ".join(filter(None, (f"{before} {count} {self.what}".strip(), left))), file=sys.stderr)

    def clear(self) -> None:
        """Take the bar away, so that something else can be written."""
        if self._is_drawn:
            self._is_drawn = False
            sys.stderr.write(_CLEAR)
            sys.stderr.flush()

    def _left(self, now: float, done: float, total: float) -> str:
        assert self._first is not None
        since, first = self._first
        if done <= first or total == float("inf"):
            return ""
        return f"{duration((now - since) / (done - first) * (total - done))} to go"

    def _bar(self, done: float, total: float) -> str:
        if not 0 < total < float("inf"):
            return ""
        full, empty = "█░" if "utf" in (sys.stderr.encoding or "").lower() else "#."
        length = round(_WIDTH * done / total)
        return full * length + empty * (_WIDTH - length)

    def _draw(self, parts: list[str]) -> None:
        text = "  ".join(filter(None, parts))
        width = shutil.get_terminal_size((100, 24)).columns - 1
        sys.stderr.write(f"{_CLEAR}{text[:width]}")
        sys.stderr.flush()
        self._is_drawn = True


def duration(seconds: float) -> str:
    """Return a time in the unit that suits it.

    Args:
        seconds: How long.

    Example:
        >>> duration(4.26), duration(75), duration(600), duration(7200)
        ('4.3 s', '75 s', '10 min', '2.0 h')
    """
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 119.5:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
