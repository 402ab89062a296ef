"""What a callback does that other parts of a run have to know of, without knowing the callback."""

from abc import ABC, abstractmethod

from lightning.pytorch import Trainer

__all__ = ["ChangesAccumulation", "ResetsOptimizers", "TurnsNoiseOff"]


class ChangesAccumulation(ABC):
    """A base, beside Lightning's `Callback`, of those that change from epoch to epoch how many batches an optimizer step takes."""

    @abstractmethod
    def accumulation(self, trainer: Trainer, epoch: int) -> int:
        """Give the batches of the loader that a step takes in an epoch, before and in training."""


class ResetsOptimizers:
    """A base, beside Lightning's `Callback`, of those that start optimizers and schedules anew where a run goes on from a checkpoint."""


class TurnsNoiseOff:
    """A base, beside Lightning's `Callback`, of those that turn off what makes the training loss random.

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
