"""Callbacks that change something during a run, and restore it however the run ends."""

from abc import abstractmethod

from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

__all__ = ["LetsGo"]


class LetsGo(Callback):
    """Base of callbacks that change a trainer, module or loader, or hold references to it, during a run.

    Lightning calls `teardown` when a run ends normally, and only `on_exception` when an exception ends it.
    """

    @abstractmethod
    def let_go(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore everything; does nothing on a second call, or if nothing was changed."""

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let go when the run is over."""
        super().teardown(trainer, pl_module, stage)
        self.let_go(trainer, pl_module)

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Let go after an exception too: Lightning doesn't call `teardown` then."""
        super().on_exception(trainer, pl_module, exception)
        self.let_go(trainer, pl_module)
