"""Read and set all generators that a network may draw from, so that passes have no side effects."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_optreg.randomness.own_generators import generators_of, set_state_of, state_of

__all__ = ["Generators", "kept_generators", "same_states", "seeded_generators"]


class Generators:
    """The global generators of Python, NumPy, torch on the CPU and on a device, and those in objects.

    Args:
        device: The device this process computes on.
        roots: Objects that may have generators, such as a LightningModule. They are searched once.

    Example:
        >>> generators = Generators(torch.device("cpu"))
        >>> before = generators.read()
        >>> first = torch.rand(3)
        >>> same_states(before, generators.read())
        False
        >>> generators.write(before)
        >>> torch.equal(first, torch.rand(3))
        True
    """

    def __init__(self, device: torch.device, **roots: Any) -> None:
        self._device = None if device.type in ("cpu", "meta") else device
        # The global generator is read separately, and the system's has no state.
        self._own = [
            own
            for _, own in generators_of(roots)
            if own is not torch.default_generator and not isinstance(own, random.SystemRandom)
        ]

    def read(self) -> list[Any]:
        """Return the states of all generators, always in the same order."""
        states = [random.getstate(), np.random.get_state(legacy=True), torch.get_rng_state()]
        if self._device is not None:
            states.append(torch.get_device_module(self._device).get_rng_state(self._device))
        return states + [state_of(own) for own in self._own]

    def write(self, states: list[Any]) -> None:
        """Set all generators to states from `read` or `seeded`."""
        rest = iter(states)
        random.setstate(next(rest))
        np.random.set_state(next(rest))
        torch.set_rng_state(next(rest))
        if self._device is not None:
            torch.get_device_module(self._device).set_rng_state(next(rest), self._device)
        for own, state in zip(self._own, rest, strict=True):
            set_state_of(own, state)

    def seeded(self, seed: int) -> list[Any]:
        """Return the states that a seed would give, without changing the generators.

        Args:
            seed: Any integer that torch accepts; each generator in an object gets a different one.
        """
        numpy = np.random.RandomState(seed % 2**32)
        states: list[Any] = [random.Random(seed).getstate(), numpy.get_state(legacy=True)]
        devices = [torch.device("cpu")] if self._device is None else [torch.device("cpu"), self._device]
        states += [torch.Generator(device).manual_seed(seed).get_state() for device in devices]
        return states + [_seeded(own, seed + number) for number, own in enumerate(self._own, 1)]


def _seeded(own: Any, seed: int) -> Any:
    """Return the state of a new generator of the same kind."""
    if isinstance(own, torch.Generator):
        return state_of(torch.Generator(own.device).manual_seed(seed))
    if isinstance(own, random.Random):
        return state_of(random.Random(seed))
    if isinstance(own, np.random.RandomState):
        return state_of(np.random.RandomState(seed % 2**32))
    return state_of(np.random.Generator(type(own.bit_generator)(seed % 2**32)))


def same_states(a: Any, b: Any) -> bool:
    """Return whether no generator was used between two readings."""
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    if isinstance(a, (list, tuple)) and len(a) < 100:  # longer ones are states of a generator
        return all(same_states(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


@contextmanager
def kept_generators(device: torch.device, **roots: Any) -> Iterator[None]:
    """Restore all generators at the end: the global ones, and those in objects.

    Args:
        device: The device this process computes on.
        roots: Objects that may have generators, such as a LightningModule and a loader.

    Example:
        >>> with kept_generators(torch.device("cpu")):
        ...     first = torch.rand(3)
        >>> torch.equal(first, torch.rand(3))
        True
    """
    generators = Generators(device, **roots)
    states = generators.read()
    try:
        yield
    finally:
        generators.write(states)


@contextmanager
def seeded_generators(seed: int, device: torch.device, **roots: Any) -> Iterator[None]:
    """Seed all generators, and restore them at the end.

    Args:
        seed: At least 0, in 63 bits.
        device: The device this process computes on.
        roots: Objects that may have generators.

    Example:
        >>> with seeded_generators(3, torch.device("cpu")):
        ...     first = torch.rand(3)
        >>> with seeded_generators(3, torch.device("cpu")):
        ...     torch.equal(first, torch.rand(3))
        True
    """
    generators = Generators(device, **roots)
    states = generators.read()
    try:
        generators.write(generators.seeded(seed))
        yield
    finally:
        generators.write(states)
