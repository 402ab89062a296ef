"""Random numbers of one batch, as a function of (seed, epoch, step) only.

A data pipeline that draws from the global generator can't be resumed in the middle of an epoch, and gives
other images when the number of processes changes. Here every batch has its own generator, seeded with a hash
of its place, like counter-based generators (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2,
3"). The hash is SplitMix64's finalizer (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number
generators"), chained over the numbers.
"""

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Draws", "Place", "mix"]

_MASK = 2**64 - 1


def mix(*numbers: int) -> int:
    """Hash integers to a 64-bit seed; neighbouring inputs give unrelated outputs.

    Args:
        numbers: Any integers, such as seed, epoch and step. Their order and their count matter.

    Returns:
        An integer in [0, 2^64).

    Example:
        >>> mix(0, 1, 2) == mix(0, 1, 2), mix(0, 1, 2) == mix(0, 2, 1)
        (True, False)
    """
    state = 0x9E3779B97F4A7C15
    for number in numbers:
        state = (state + (number + 1) * 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state


class Place(NamedTuple):
    """The place of a batch in a run: its epoch, its step, and its rows in the global batch.

    The global batch is that of all processes together in one step; each process has the rows from `start` on.
    In a single process `start` is 0 and `total` is the batch's size.

    Example:
        >>> Place(epoch=0, step=3, start=64, total=128).start
        64
    """

    epoch: int
    """Epoch, counted from 0."""
    step: int
    """Batch within the epoch, counted from 0."""
    start: int
    """First row of this process in the global batch."""
    total: int
    """Images in the global batch."""


class Draws:
    """The random numbers of one batch.

    Each method draws for the whole global batch and keeps the rows of this process, so 1 process with 256
    images and 2 processes with 128 each augment every image in the same way. The global generator is neither
    read nor changed. The numbers depend on the order of the calls: a second call gives other numbers than the
    first, and a new `Draws` of the same place gives the same numbers again.

    The numbers come from a generator on the device, so a GPU draws other numbers than a CPU. On the `meta`
    device there are only shapes.

    torch's CPU generator uses 32 bits of a seed: among 100,000 batches about one pair has the same numbers.

    Args:
        seed: Any integer.
        place: The place of the batch.
        count: Images in the batch of this process, at least 0; rows `place.start : place.start + count`.
        device: The device of the numbers.

    Raises:
        ValueError: If the rows are not within the global batch.

    Example:
        >>> whole = Draws(0, Place(epoch=1, step=2, start=0, total=4), 4, torch.device("cpu"))
        >>> right = Draws(0, Place(epoch=1, step=2, start=2, total=4), 2, torch.device("cpu"))
        >>> torch.equal(whole.uniform(3)[2:], right.uniform(3))
        True
    """

    def __init__(self, seed: int, place: Place, count: int, device: torch.device) -> None:
        if not 0 <= place.start <= place.start + count <= place.total:
            raise ValueError(
                f"Draws: rows {place.start}:{place.start + count} must be in a global batch of {place.total}"
            )
        self.place = place
        self.count = count
        self.device = device
        # No generator exists on the meta device, and none is needed there.
        generator = torch.Generator("cpu" if device.type == "meta" else device)
        self._generator = generator.manual_seed(mix(seed, place.epoch, place.step))

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Draw (count, *shape) float32 numbers, uniform on [low, high)."""
        numbers = torch.rand(self.place.total, *shape, generator=self._generator, device=self.device)
        if low != 0.0 or high != 1.0:
            numbers.mul_(high - low).add_(low)
        return self._rows(numbers)

    def normal(self, *shape: int) -> Tensor:
        """Draw (count, *shape) float32 numbers from N(0, 1)."""
        return self._rows(
            torch.randn(self.place.total, *shape, generator=self._generator, device=self.device)
        )

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        """Draw (count, *shape) int64 numbers, uniform on low, ..., high - 1."""
        size = (self.place.total, *shape)
        return self._rows(torch.randint(low, high, size, generator=self._generator, device=self.device))

    def _rows(self, numbers: Tensor) -> Tensor:
        return numbers[self.place.start : self.place.start + self.count]
