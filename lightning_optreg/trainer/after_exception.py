"""Something done when a fit ends by an exception, once all other callbacks have had their turn."""

from collections.abc import Callable

from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

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
        trainer.callbacks.append(self)  # type: ignore[attr-defined]  # a connector sets it

    def leave(self, trainer: Trainer) -> None:
        """Be none of a trainer's callbacks any more."""
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # a connector sets it
        if self in callbacks:
            callbacks.remove(self)

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.act(pl_module)
