"""Roles of callbacks and strategies that other parts of a run must know, without importing them.

Each class here is an additional base next to Lightning's `Callback` or `Strategy`.
"""

from abc import ABC, abstractmethod

from lightning.pytorch import Trainer

__all__ = [
    "Asynchronous",
    "BreaksPrivacy",
    "ChangesAccumulation",
    "NotesSignals",
    "OnlyRecords",
    "OwnWeights",
    "ResetsOptimizers",
    "RestoresProcess",
    "SplitsNetwork",
    "StepsElsewhere",
    "TurnsNoiseOff",
]


class Asynchronous:
    """Base of strategies whose workers do not wait for each other: only worker 0 validates and saves."""


class BreaksPrivacy(ABC):
    """Base of callbacks beside which training can't be differentially private."""

    @property
    @abstractmethod
    def breaks_privacy(self) -> str:
        """Why, as the end of the sentence "MixUp can't stand beside it, as it ..."; empty if it does not."""


class ChangesAccumulation(ABC):
    """Base of callbacks that change, from epoch to epoch, how many batches an optimizer step takes."""

    @abstractmethod
    def accumulation(self, trainer: Trainer, epoch: int) -> int:
        """Return how many batches of the loader a step takes in an epoch, before and in training.

        Args:
            trainer: The trainer.
            epoch: Number of the epoch, counted from 0.
        """


class NotesSignals(ABC):
    """Base of callbacks that take note of SIGTERM, and act on it at the end of the hook."""

    @property
    @abstractmethod
    def told_to_stop(self) -> bool:
        """Whether a SIGTERM has come in this process."""


class OnlyRecords:
    """Base of callbacks that record a run and change nothing in it, so that one worker's record is enough."""


class OwnWeights:
    """Base of strategies whose workers have weights of their own, other than those validated and saved.

    Attributes:
        is_alone: Whether an exception has ended the run in this process, so that the others, which may be
            anywhere, must not be asked for anything.
    """

    is_alone: bool = False


class ResetsOptimizers:
    """Base of callbacks that reset optimizers and schedules in a resumed run."""


class RestoresProcess:
    """Base of callbacks that restore the random state of a process and its place in the data."""


class SplitsNetwork:
    """Base of strategies whose processes each have a part of the network, the rest on the meta device."""


class StepsElsewhere:
    """Base of strategies whose servers make the optimizer's steps: changes of weights here do not last."""


class TurnsNoiseOff:
    """Base of callbacks that turn off what makes the training loss random.

    Attributes:
        shuffling: Whether shuffling is turned off.
        augmentation: Whether augmentation is turned off.
        layers: Whether noise layers are turned off.
        whole_set: Whether every step sees the whole training set, so that no images can be chosen.
    """

    shuffling: bool
    augmentation: bool
    layers: bool
    whole_set: bool = False
