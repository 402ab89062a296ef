"""A batch brought to the device by a callback that goes through a loader by itself, as in training."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden

from lightning_optreg.trainer.queries import datamodule_of

__all__ = ["move_batch"]


def move_batch(trainer: Trainer, pl_module: LightningModule, batch: Any) -> Any:
    """Do with a batch what Lightning does before it reaches `training_step`.

    It is converted to the run's precision (64-true, bf16-true ...), and goes through the transfer hooks of
    the module or its data module.

    Args:
        trainer: The trainer.
        pl_module: The module.
        batch: As it comes from a loader.
    """
    batch = trainer.precision_plugin.convert_input(batch)
    data = datamodule_of(trainer)
    hooks: Any = data if data is not None and is_overridden("on_before_batch_transfer", data) else pl_module
    batch = hooks.on_before_batch_transfer(batch, 0)
    return trainer.strategy.batch_to_device(batch, dataloader_idx=0)
