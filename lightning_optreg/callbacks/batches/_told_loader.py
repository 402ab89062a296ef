"""Find a training loader whose order can be set, and the number of batches of a run."""

from typing import Any, NoReturn

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer

from lightning_optreg.data.loader import BatchLoader
from lightning_optreg.trainer.queries import callbacks_of
from lightning_optreg.trainer.roles import TurnsNoiseOff

__all__ = ["batches_of_run", "told_loader"]


def told_loader(trainer: Trainer, owner: str) -> BatchLoader:
    """Return the training loader, if it shuffles and its order can be set.

    Args:
        trainer: The trainer, from `on_train_start` on.
        owner: Name of the calling class, for the errors.

    Raises:
        MisconfigurationException: If it does not, or if a callback turns shuffling off.
    """
    for callback in callbacks_of(trainer):
        if isinstance(callback, TurnsNoiseOff) and (callback.whole_set or callback.shuffling):
            name = type(callback).__name__
            _refuse(owner, f"it shuffles images, which {name} turns off; remove one of the two")
    loader: Any = trainer.train_dataloader
    if not isinstance(loader, BatchLoader):
        _refuse(
            owner,
            f"the training loader must be a BatchLoader, as from a data module of lightning_optreg.data, got "
            f"{type(loader).__name__}; for your own DataLoader use CurriculumSampler instead",
        )
    if not loader.shuffle or loader.poisson:
        _refuse(
            owner,
            "the training loader must shuffle: set its shuffle to every_epoch, and no overfit_batches",
        )
    return loader


def batches_of_run(trainer: Trainer, owner: str) -> float:
    """Return the number of training batches of a whole run.

    Args:
        trainer: The trainer, from `on_train_start` on.
        owner: Name of the calling class, for the error.

    Raises:
        MisconfigurationException: If neither epochs nor steps are limited.
    """
    ends = []
    if trainer.max_epochs is not None and trainer.max_epochs >= 0:
        ends.append(float(trainer.max_epochs * trainer.num_training_batches))
    if trainer.max_steps >= 0:
        ends.append(float(trainer.max_steps * trainer.accumulate_grad_batches))
    if not ends:
        _refuse(owner, "full_at is a share of the run, which has no end: set max_epochs or max_steps")
    return max(min(ends), 1.0)


def _refuse(owner: str, reason: str) -> NoReturn:
    raise MisconfigurationException(f"{owner}: {reason}")
