"""Callbacks that change something for the time of a run, and put it back however the run ends."""

from abc import abstractmethod

from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

__all__ = ["LetsGo"]


class LetsGo(Callback):
    """Base of callbacks that hold on to something of a trainer, module or loader while a run lasts.

    Lightning calls `teardown` when a run ends, and `on_exception` instead when an exception ends it.
    """

    @abstractmethod
    def let_go(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put everything back. A second call, or one where nothing was changed, does nothing."""

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let go when the run is over."""
        super().teardown(trainer, pl_module, stage)
        self.let_go(trainer, pl_module)

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Let go then too: Lightning calls no `teardown`."""
        super().on_exception(trainer, pl_module, exception)
        self.let_go(trainer, pl_module)
