"""Let a worker's fit begin at its own place in the data."""

from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.utilities.combined_loader import CombinedLoader

from lightning_optreg.data.loader import BatchLoader

__all__ = ["loaders_to", "place_of", "trainer_to"]


def place_of(trainer: Trainer) -> tuple[int, int]:
    """Return the epoch and how many of its batches are done, the present one included; in a training step."""
    if trainer.is_last_batch:
        return trainer.current_epoch + 1, 0
    return trainer.current_epoch, trainer.fit_loop.batch_idx + 1


def trainer_to(trainer: Trainer, epoch: int, batches: int) -> None:
    """Let a trainer that has not begun to train begin in an epoch, after some of its batches.

    Args:
        trainer: The trainer, before its loops run.
        epoch: The epoch, counted from 0.
        batches: Number of batches done in it.
    """
    loop = trainer.fit_loop
    epochs: Any = loop.epoch_progress  # typed as its parts' least
    for progress in (epochs.total, epochs.current):
        progress.ready = progress.started = epoch + (batches > 0)
        progress.processed = progress.completed = epoch
    done: Any = loop.epoch_loop.batch_progress
    for progress in (done.total, done.current):
        progress.ready = progress.started = progress.processed = progress.completed = batches
    done.is_last_batch = False
    loop.load_state_dict(loop.state_dict())  # which tells the loop that it goes on


def loaders_to(trainer: Trainer, epoch: int, batches: int) -> None:
    """Let our loaders begin there too; others begin at the head of their epoch's order.

    Args:
        trainer: The trainer, whose training loaders are set up.
        epoch: As above.
        batches: As above.
    """
    loaders = trainer.train_dataloader
    for loader in CombinedLoader(loaders).flattened:
        if isinstance(loader, BatchLoader):
            loader.load_state_dict({**loader.state_dict(), "epoch": epoch, "batches": batches})
