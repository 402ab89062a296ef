"""Move a batch to the device as in training, for callbacks that iterate over a loader themselves."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden

from lightning_optreg.trainer.queries import datamodule_of

__all__ = ["move_batch"]


def move_batch(trainer: Trainer, pl_module: LightningModule, batch: Any) -> Any:
    """Prepare a batch as Lightning does before `training_step`.

    It is converted to the run's precision (64-true, bf16-true, ...), and passed through the transfer hooks of
    the module or its data module.

    Args:
        trainer: The trainer.
        pl_module: The module.
        batch: A batch from a loader.
    """
    batch = trainer.precision_plugin.convert_input(batch)
    data = datamodule_of(trainer)
    hooks: Any = data if data is not None and is_overridden("on_before_batch_transfer", data) else pl_module
    batch = hooks.on_before_batch_transfer(batch, 0)
    return trainer.strategy.batch_to_device(batch, dataloader_idx=0)
