"""Something done at the start of training once all other callbacks have had their turn."""

from collections.abc import Callable

from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

__all__ = ["AfterStart"]


class AfterStart(Callback):
    """Do something after the other callbacks' `on_train_start`; to be put last among them.

    Args:
        act: What to do, given the trainer.
    """

    def __init__(self, act: Callable[[Trainer], None]) -> None:
        self.act = act

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.act(trainer)
