"""Files of any bytes: made up, or made of a good file by cutting, changing and repeating."""

import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from hypothesis import strategies as st

__all__ = ["Damage", "damages", "little_memory"]


@dataclass(frozen=True)
class Damage:
    """What happens to a good file.

    Attributes:
        cut: Share of it that is left, in [0, 1].
        changes: Places, as shares of its length, and the byte that each gets.
        copied: Where a piece begins that is put in again, its length and its new place, as shares.
        tail: What is added.
    """

    cut: float
    changes: tuple[tuple[float, int], ...]
    copied: tuple[float, float, float] | None
    tail: bytes

    def of(self, good: bytes) -> bytes:
        """Damage a file."""
        found = bytearray(good[: round(self.cut * len(good))])
        for place, value in self.changes:
            if found:
                found[int(place * (len(found) - 1))] = value
        if self.copied is not None:
            begin, length, place = (int(share * len(found)) for share in self.copied)
            found[place:place] = found[begin : begin + length]
        return bytes(found) + self.tail


def damages() -> st.SearchStrategy[Damage]:
    """All kinds of damage; the header, where most is decided, is hit more often."""
    share = st.floats(0.0, 1.0)
    place = st.one_of(share, st.floats(0.0, 0.05), st.floats(0.9, 1.0))
    byte = st.one_of(st.integers(0, 255), st.sampled_from([0, 1, 127, 128, 255]))
    return st.builds(
        Damage,
        cut=st.one_of(st.just(1.0), share),
        changes=st.lists(st.tuples(place, byte), max_size=6).map(tuple),
        copied=st.one_of(st.none(), st.tuples(share, st.floats(0.0, 0.3), share)),
        tail=st.one_of(st.just(b""), st.binary(max_size=40)),
    )


@contextmanager
def little_memory(most: int) -> Iterator[None]:
    """Fail if Python and NumPy take more bytes at a time; what torch and Pillow take is not seen."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= most, f"{peak} bytes"
