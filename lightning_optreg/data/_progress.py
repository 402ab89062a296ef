"""How far something long has come: a bar in a terminal, elsewhere a line now and then."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

__all__ = ["told"]

_PERIOD = 30.0  # seconds between lines
T = TypeVar("T")


def told(parts: Iterable[tuple[int, T]], total: int, what: str, things: str) -> Iterator[T]:
    """Yield parts, and tell how far that is.

    Args:
        parts: Each with the number of things in it.
        total: Number of things in all parts.
        what: What is done to them, such as "Decoding".
        things: What they are, in the plural.

    Yields:
        The parts.

    Example:
        >>> list(told([(2, "first two"), (1, "third")], 3, "Decoding", "images"))
        ['first two', 'third']
    """
    if sys.stdout.isatty():  # where Lightning's bars go too
        hidden = rank_zero_only.rank != 0  # type: ignore[attr-defined]  # a function's attribute
        with Tqdm(
            total=total,
            desc=what,
            unit=f" {things}",
            file=sys.stdout,
            dynamic_ncols=True,
            leave=False,
            disable=hidden,
        ) as bar:
            for count, part in parts:
                yield part
                bar.update(count)
        return
    start = said = time.monotonic()
    done = 0
    for count, part in parts:
        yield part
        done += count
        now = time.monotonic()
        if now - said >= _PERIOD and done < total:
            said, speed = now, done / (now - start)
            left = (total - done) / speed
            rank_zero_info(
                f"{what}: {done:,} of {total:,} {things}, {speed:,.0f} a second, about "
                f"{f'{left / 60:.0f} min' if left >= 90 else f'{left:.0f} s'} left"
            )
