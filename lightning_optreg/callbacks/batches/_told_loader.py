"""Training loaders that can be told which images to show, and how long a run will show them."""

from typing import Any, NoReturn

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer

from lightning_optreg.data.loader import BatchLoader
from lightning_optreg.trainer.queries import callbacks_of
from lightning_optreg.trainer.roles import TurnsNoiseOff

__all__ = ["batches_of_run", "told_loader"]


def told_loader(trainer: Trainer, owner: str) -> BatchLoader:
    """Return the training loader, if it shuffles and can be told its order.

    Args:
        trainer: The trainer, from `on_train_start` on.
        owner: Name of the class that asks, for the errors.

    Raises:
        MisconfigurationException: If not, or if a callback turns shuffling off.
    """
    for callback in callbacks_of(trainer):
        if isinstance(callback, TurnsNoiseOff) and (callback.whole_set or callback.shuffling):
            name = type(callback).__name__
            _refuse(owner, f"it shuffles the images that it chooses, which {name} excludes; leave one out")
    loader: Any = trainer.train_dataloader
    if not isinstance(loader, BatchLoader):
        _refuse(
            owner,
            f"the training loader, a {type(loader).__name__}, cannot be told which images to show: use a "
            "data module of lightning_optreg.data or its BatchLoader, or, instead of this callback, a "
            "CurriculumSampler in a DataLoader of your own",
        )
    if not loader.shuffle:
        _refuse(
            owner,
            "it shuffles the images that it chooses, and the training loader is told not to: set its shuffle "
            "to every_epoch, and no overfit_batches",
        )
    return loader


def batches_of_run(trainer: Trainer, owner: str) -> float:
    """Give the number of training batches of a whole run.

    Args:
        trainer: The trainer, from `on_train_start` on.
        owner: Name of the class that asks, for the error.

    Raises:
        MisconfigurationException: If neither epochs nor steps are limited.
    """
    ends = []
    if trainer.max_epochs is not None and trainer.max_epochs >= 0:
        ends.append(float(trainer.max_epochs * trainer.num_training_batches))
    if trainer.max_steps >= 0:
        ends.append(float(trainer.max_steps * trainer.accumulate_grad_batches))
    if not ends:
        _refuse(owner, "the run has no end, of which full_at is a share: set max_epochs or max_steps")
    return max(min(ends), 1.0)


def _refuse(owner: str, reason: str) -> NoReturn:
    raise MisconfigurationException(f"{owner}: {reason}")
