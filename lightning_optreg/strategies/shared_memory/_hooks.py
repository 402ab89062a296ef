"""What the workers of `Hogwild` do in the hooks of a fit: callbacks that the strategy adds to the trainer."""

from typing import Any, Protocol

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from typing_extensions import override

from lightning_optreg.trainer.order_of_callbacks import put_first
from lightning_optreg.trainer.queries import validates_in_fit

__all__ = ["AfterAll", "BeforeAll", "InOthers"]


class Steps(Protocol):
    """What the hooks call, of the strategy."""

    def go_on(self) -> None: ...
    def batch_done(self) -> None: ...
    def after_batch(self, outputs: Any, batch: Any, batch_idx: int) -> None: ...
    def stand_still(self, *, epoch_over: bool) -> None: ...
    def watch(self) -> None: ...
    def begin_epoch(self) -> None: ...
    def end_epoch(self) -> None: ...


class BeforeAll(Callback):
    """Before all other callbacks: it counts the steps of all, and in worker 0 stops the others in time."""

    def __init__(self, steps: Steps) -> None:
        self.steps = steps

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        put_first(trainer, self)  # some callbacks move themselves in `setup`

    @override
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.steps.go_on()

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.steps.batch_done()

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if validates_in_fit(trainer):
            self.steps.stand_still(epoch_over=trainer.is_last_batch)

    @override
    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self.steps.watch()

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # A run that is stopped in the middle of an epoch does not wait for the others' shares.
        self.steps.stand_still(epoch_over=trainer.is_last_batch or not trainer.should_stop)


class AfterAll(Callback):
    """In worker 0, after all other callbacks."""

    def __init__(self, steps: Steps) -> None:
        self.steps = steps

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.steps.begin_epoch()

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.steps.after_batch(outputs, batch, batch_idx)


class InOthers(Checkpoint):
    """In the other workers, after all other callbacks: where they may rest, as worker 0 saves there too.

    Lightning calls `on_train_epoch_end` of a `Checkpoint` after that of the module.
    """

    def __init__(self, steps: Steps) -> None:
        self.steps = steps

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.steps.begin_epoch()

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.steps.after_batch(outputs, batch, batch_idx)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.steps.end_epoch()
