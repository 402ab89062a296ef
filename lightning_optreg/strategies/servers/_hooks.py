"""Calls a strategy with servers in hooks: callbacks that the strategy adds to the trainer."""

from typing import Any, Protocol

from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from lightning_optreg.trainer.order_of_callbacks import put_first
from lightning_optreg.trainer.queries import validates_in_fit

__all__ = ["BeforeCheckpoints", "ServerHooks"]


class Served(Protocol):
    """What the hooks call, of the strategy."""

    def after_batch(self, trainer: Trainer, pl_module: LightningModule) -> None: ...
    def save_missed(self, trainer: Trainer, *hooked: Any) -> None: ...
    def before_validation(self, trainer: Trainer) -> None: ...
    def end_epoch(self, trainer: Trainer) -> None: ...
    def end(self, trainer: Trainer) -> None: ...


class ServerHooks(Callback):
    """Calls the strategy in hooks before other callbacks."""

    def __init__(self, strategy: Served) -> None:
        self._strategy = strategy

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        put_first(trainer, self)  # some callbacks move themselves in `setup`

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._strategy.after_batch(trainer, pl_module)

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if validates_in_fit(trainer):
            self._strategy.before_validation(trainer)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._strategy.end_epoch(trainer)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._strategy.end(trainer)


class BeforeCheckpoints(Callback):
    """Saves what is due for steps that worker 0 has not seen, after the other callbacks."""

    def __init__(self, strategy: Served) -> None:
        self._strategy = strategy

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._strategy.save_missed(trainer, pl_module, outputs, batch, batch_idx)
