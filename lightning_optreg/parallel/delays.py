"""How old gradients were when they were applied."""

from collections import Counter
from collections.abc import Iterable

__all__ = ["Delays"]


class Delays:
    """Counts how many updates were how late.

    The delay of an update is the number of updates that the parameters had had since the read at which its
    gradient was computed; 0 if it is fresh.

    Args:
        counts: Pairs of a delay and the number of updates that had it; None to begin with none.

    Example:
        >>> delays = Delays()
        >>> for delay in (0, 1, 1, 5):
        ...     delays.add(delay)
        >>> delays.mean, delays.largest, delays.counts()
        (1.75, 5, [[0, 1], [1, 2], [5, 1]])
        >>> delays.shares()
        {'0': 0.25, '1': 0.5, '4-7': 0.25}
    """

    def __init__(self, counts: Iterable[Iterable[int]] | None = None) -> None:
        self._counts: Counter[int] = Counter()
        for delay, number in counts or ():
            self._counts[delay] += number

    def add(self, delay: int) -> None:
        """Count one update.

        Args:
            delay: Its delay, at least 0.
        """
        self._counts[delay] += 1

    @property
    def updates(self) -> int:
        """Number of updates counted."""
        return self._counts.total()

    @property
    def mean(self) -> float:
        """Mean delay; 0 if there were no updates."""
        return sum(delay * number for delay, number in self._counts.items()) / max(self.updates, 1)

    @property
    def largest(self) -> int:
        """Largest delay; 0 if there were no updates."""
        return max(self._counts, default=0)

    def counts(self) -> list[list[int]]:
        """Return the delays that occurred, in order, and how many updates had each."""
        return [[delay, self._counts[delay]] for delay in sorted(self._counts)]

    def shares(self) -> dict[str, float]:
        """Return the histogram: the share of updates in each bin 0, 1, 2-3, 4-7, 8-15, ... that has any."""
        bins: Counter[int] = Counter()
        for delay, number in self._counts.items():
            bins[delay.bit_length()] += number
        return {_name(exponent): bins[exponent] / self.updates for exponent in sorted(bins)}


def _name(exponent: int) -> str:
    low, high = (1 << exponent) // 2, (1 << exponent) - 1
    return str(low) if low == high else f"{low}-{high}"
