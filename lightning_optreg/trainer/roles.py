"""What a callback does that other parts of a run must know, without knowing the callback itself.

Each class here is a base to stand beside Lightning's `Callback`.
"""

from abc import ABC, abstractmethod

from lightning.pytorch import Trainer

__all__ = ["ChangesAccumulation", "ResetsOptimizers", "TurnsNoiseOff"]


class ChangesAccumulation(ABC):
    """Base of callbacks that change, from epoch to epoch, how many batches an optimizer step takes."""

    @abstractmethod
    def accumulation(self, trainer: Trainer, epoch: int) -> int:
        """Return how many batches of the loader a step takes in an epoch, before and in training.

        Args:
            trainer: The trainer.
            epoch: Number of the epoch, counted from 0.
        """


class ResetsOptimizers:
    """Base of callbacks that start optimizers and schedules anew in a resumed run."""


class TurnsNoiseOff:
    """Base of callbacks that turn off what makes the training loss random.

    Attributes:
        shuffling: Whether shuffling is turned off.
        augmentation: Whether augmentation is turned off.
        layers: Whether noise layers are turned off.
        whole_set: Whether every step sees the whole training set, so that nothing chooses its images.
    """

    shuffling: bool
    augmentation: bool
    layers: bool
    whole_set: bool = False
