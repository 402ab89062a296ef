"""How a training loader samples: how many examples there are, and how likely one is in a step."""

from collections.abc import Sized
from dataclasses import dataclass
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader, IterableDataset

from lightning_optreg.data.loader import BatchLoader
from lightning_optreg.randomness.processes import share_of

__all__ = ["Sampling", "sampling_of"]


@dataclass(frozen=True)
class Sampling:
    """What the accounting needs to know of a loader.

    Attributes:
        examples: Number of training examples N.
        rate: Probability q that an example is in the batch of a step, over all processes.
        batch: Examples that one process has in a step on average, q N / number of processes.
        poisson: Whether examples are drawn independently, as the accounting assumes.
    """

    examples: int
    rate: float
    batch: float
    poisson: bool


def sampling_of(trainer: Trainer, owner: str) -> Sampling:
    """Find out how the training loader samples.

    Args:
        trainer: The trainer, from `on_train_start` on.
        owner: Name of the calling class, for the errors.

    Raises:
        MisconfigurationException: If there are several loaders, or it is not known how many examples there
            are.
    """
    loader: Any = trainer.train_dataloader
    parts = share_of(trainer)[1]
    if isinstance(loader, BatchLoader):
        rate, examples = loader.sample_rate, len(loader.indices)
        return Sampling(examples, rate, rate * examples / parts, loader.poisson)
    if not isinstance(loader, DataLoader):
        raise MisconfigurationException(
            f"{owner}: it needs one training loader, a BatchLoader as from a data module of "
            f"lightning_optreg.data or torch's DataLoader, got {type(loader).__name__}"
        )
    if isinstance(loader.dataset, IterableDataset) or not isinstance(loader.dataset, Sized):
        raise MisconfigurationException(
            f"{owner}: it needs to know the number of training examples; use a dataset with a length, got "
            f"{type(loader.dataset).__name__}"
        )
    examples = len(loader.dataset)
    own_rate = getattr(loader, "sample_rate", None)  # of Opacus's DPDataLoader
    if own_rate is not None:
        return Sampling(examples, float(own_rate), own_rate * examples / parts, True)
    batch_size = loader.batch_size or getattr(loader.batch_sampler, "batch_size", None)
    if batch_size is None:
        raise MisconfigurationException(
            f"{owner}: it needs to know how many examples are in a step; use a loader with a batch_size"
        )
    rate = min(1.0, batch_size * parts / examples)
    return Sampling(examples, rate, rate * examples / parts, False)
