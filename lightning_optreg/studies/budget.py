"""The same budget for every run of a study, and a log of how much of it is spent."""

import math
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from typing_extensions import override

from lightning_optreg.trainer.stopwatch import Stopwatch

__all__ = ["Budget"]


class Budget(Callback):
    """End a run after a number of passes over the training data, or when its loss diverges.

    A pass is as many images through the network in training as there are training images, however often an
    optimizer evaluates its closure; with loaders of others an epoch is a pass. Logs at the end of each epoch
    `optreg/budget/passes` and `optreg/budget/seconds`, the time of training so far, without validation.

    Args:
        passes: Budget, above 0.
        bound: A batch loss above this counts as diverged, as does one that is not finite. Above 0;
            default: infinite.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> Budget(3.0).diverged
        False
    """

    def __init__(self, passes: float, bound: float = math.inf) -> None:
        if not 0.0 < passes < float("inf"):
            raise ValueError(f"Budget: passes must be > 0, got {passes}")
        if not bound > 0.0:
            raise ValueError(f"Budget: bound must be > 0, got {bound}")
        self.passes = passes
        self.bound = bound
        self.diverged = False
        """Whether the loss was above the bound, infinite or not a number."""
        self._images, self._seconds = 0, 0.0
        self._watch = Stopwatch()
        self._hook: Any = None

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start to count images."""

        def count(module: Any, inputs: tuple[Any, ...]) -> None:
            if trainer.training and torch.is_grad_enabled():
                self._images += len(inputs[0])

        if hasattr(trainer.train_dataloader, "indices"):  # else the epochs are counted
            self._hook = getattr(pl_module, "net", pl_module).register_forward_pre_hook(count)
        self._watch.start()

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop a run that has diverged."""
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        if isinstance(loss, Tensor) and not (loss.isfinite() & (loss <= self.bound)).all():
            self.diverged = trainer.should_stop = True

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock."""
        self._seconds += self._watch.stop()

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock again."""
        self._watch.start()

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log what was spent; stop once the budget is spent."""
        self._seconds += self._watch.lap()
        indices = getattr(trainer.train_dataloader, "indices", None)  # of this package's loaders
        passes = trainer.current_epoch + 1.0 if indices is None else self._images / len(indices)
        pl_module.log("optreg/budget/passes", passes, sync_dist=True)
        pl_module.log("optreg/budget/seconds", self._seconds, sync_dist=True)
        if passes >= self.passes * (1 - 1e-6):
            trainer.should_stop = True

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove the hook from the network."""
        if self._hook is not None:
            self._hook.remove()

    @override
    def state_dict(self) -> dict[str, Any]:
        """Return what was spent."""
        self._seconds += self._watch.lap()
        return {"images": self._images, "seconds": self._seconds, "diverged": self.diverged}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what was spent."""
        self._images, self._seconds = state_dict["images"], state_dict["seconds"]
        self.diverged = state_dict["diverged"]
