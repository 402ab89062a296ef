"""Something done when a fit ends by an exception, once all other callbacks have had their turn."""

from collections.abc import Callable

from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from lightning_optreg.trainer.queries import callbacks_of

__all__ = ["AfterException"]


class AfterException(Callback):
    """Do something after the other callbacks' `on_exception`, in which some of them save checkpoints.

    Args:
        act: What to do, given the module.
    """

    def __init__(self, act: Callable[[LightningModule], None]) -> None:
        self.act = act

    def stand_last(self, trainer: Trainer) -> None:
        """Be the last one of a trainer's callbacks; to be called in `setup` of one that stands before it."""
        self.leave(trainer)
        callbacks_of(trainer).append(self)

    def leave(self, trainer: Trainer) -> None:
        """Be none of a trainer's callbacks any more."""
        callbacks = callbacks_of(trainer)
        if self in callbacks:
            callbacks.remove(self)

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.act(pl_module)
