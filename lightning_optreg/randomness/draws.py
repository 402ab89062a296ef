"""Random numbers of one batch, as a function of (seed, epoch, step) only, or of (seed, image).

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
_ROUNDS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
_STEP = 0x9E3779B97F4A7C15


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
    state = _STEP
    for number in numbers:
        state = (state + (number + 1) * _STEP) & _MASK
        for shift, factor in _ROUNDS:
            state = ((state ^ (state >> shift)) * factor) & _MASK
        state ^= state >> 31
    return state


def _mix_each(seed: int, numbers: Tensor) -> Tensor:
    """The upper 24 bits of mix(seed, number), for int64 numbers, whose products overflow alike."""
    state = (numbers + 1) * _signed(_STEP) + _signed(mix(seed))
    for shift, factor in _ROUNDS:
        state = (state ^ _shifted(state, shift)) * _signed(factor)
    return _shifted(state ^ _shifted(state, 31), 40)


def _signed(number: int) -> int:
    return number - 2**64 if number >= 2**63 else number


def _shifted(state: Tensor, bits: int) -> Tensor:
    # torch fills up with the sign
    shifted: Tensor = torch.bitwise_right_shift(state, bits).bitwise_and(2 ** (64 - bits) - 1)
    return shifted


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
        index: int64 (count,), on the device: which image of the dataset each row is. None: it is not known,
            and `of_images` can't be called.

    Raises:
        ValueError: If the rows are not within the global batch, or index is not one number for each.

    Example:
        >>> whole = Draws(0, Place(epoch=1, step=2, start=0, total=4), 4, torch.device("cpu"))
        >>> right = Draws(0, Place(epoch=1, step=2, start=2, total=4), 2, torch.device("cpu"))
        >>> torch.equal(whole.uniform(3)[2:], right.uniform(3))
        True
    """

    def __init__(
        self, seed: int, place: Place, count: int, device: torch.device, index: Tensor | None = None
    ) -> None:
        if not 0 <= place.start <= place.start + count <= place.total:
            raise ValueError(
                f"Draws: rows {place.start}:{place.start + count} must be in a global batch of {place.total}"
            )
        if index is not None and index.shape != (count,):
            raise ValueError(f"Draws: index must be ({count},), one for each row, got {tuple(index.shape)}")
        self.place = place
        self.count = count
        self.index = index
        self._seed = seed
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

    def of_images(self) -> Tensor:
        """Return (count,) float32 numbers, uniform on [0, 1), that each image has in all epochs.

        They are a function of the seed and the image's position in the dataset: not of the batch, and not of
        the draws before, which they leave alone. They are the same on all devices.

        Raises:
            ValueError: If the positions are not known.
        """
        if self.index is None:
            raise ValueError("Draws: of_images needs index, the positions of the images in the dataset")
        return _mix_each(self._seed, self.index).float().mul_(2.0**-24)

    def _rows(self, numbers: Tensor) -> Tensor:
        if self.count == self.place.total:
            return numbers
        return numbers[self.place.start : self.place.start + self.count]
