"""Adam with restarts: back to the best weights, with a lower rate and fresh moments, when learning stalls.

Denkowski and Neubig 2017, "Stronger baselines for trustable results in neural machine translation"
(arXiv:1706.09733): annealing as for SGD, with a restart of Adam at each step of the annealing.
"""

from typing import Any, Literal

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging, WeightAveraging
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from typing_extensions import override

from lightning_optreg._checks import check_range
from lightning_optreg.callbacks._kept_weights import ValidatedWeights, put_weights
from lightning_optreg.callbacks._monitored import Monitored, logged_value
from lightning_optreg.callbacks._of_a_kind import OfAKind
from lightning_optreg.optimizers.rates import set_rate
from lightning_optreg.optimizers.update_rule import UpdateRule
from lightning_optreg.trainer.queries import callbacks_of, validates_in_fit
from lightning_optreg.trainer.refusals import (
    refuse_asynchronous,
    refuse_barebones,
    refuse_own_weights,
    refuse_sharding,
    refuse_steps_elsewhere,
)

__all__ = ["AdamRestarts"]


class AdamRestarts(OfAKind):
    """Restart the optimizers from the best weights when a monitored value has stopped improving.

    After `patience` validations without improvement, the weights (and buffers) of the best validation are
    loaded, every learning rate is multiplied by `factor`, and the optimizers' states (Adam's moments and step
    counts, momentum) are reset. After `max_restarts` restarts the next stall ends the run, with the best
    weights. It works with any optimizers. The best weights are part of the callback's state, so checkpoints
    are larger, and a resumed run equals one that never stopped. All processes use the value of rank 0. Logs
    `optreg/adam_restarts/restarts`.

    `configs/methods/adam_restarts.yaml` uses `patience=5, first_patience=10, max_restarts=2`, so the first
    restart comes later than the second.

    Args:
        monitor: Name of a logged value, checked after each validation.
        mode: Whether it should fall ("min") or rise ("max").
        patience: Validations without improvement before a restart, at least 1. Default: 5.
        first_patience: The same for the first restart. None: `patience`.
        factor: Factor of the learning rates at each restart, in (0, 1]. Default: 0.5.
        max_restarts: Number of restarts, at least 0; the stall after the last ends the run. Default: 2.
        min_delta: Smallest change that counts as an improvement, at least 0.

    Raises:
        ValueError: If a value is out of its range.
        MisconfigurationException: Before the first step, if the module has no optimizer or a learning-rate
            schedule, which would undo the factor, if a callback averages weights, the strategy shards
            parameters, gives each worker weights of its own, makes steps on servers or has workers that do
            not wait for each other, or the trainer is barebones; after a validation, if the value is not
            logged.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[AdamRestarts("val/loss")], accelerator="cpu", logger=False)
    """

    only_one = "as each would change the weights that the other restarts from"

    def __init__(
        self,
        monitor: str = "val/loss",
        mode: Literal["min", "max"] = "min",
        patience: int = 5,
        first_patience: int | None = None,
        factor: float = 0.5,
        max_restarts: int = 2,
        min_delta: float = 0.0,
    ) -> None:
        for name, count, least in (
            ("patience", patience, 1),
            ("first_patience", patience if first_patience is None else first_patience, 1),
            ("max_restarts", max_restarts, 0),
        ):
            if not (isinstance(count, int) and count >= least):
                raise ValueError(f"AdamRestarts: {name} must be a whole number >= {least}, got {count}")
        check_range("AdamRestarts", "(0, 1]", factor=factor)
        self.monitor, self.mode, self.min_delta = monitor, mode, min_delta
        self.patience, self.factor, self.max_restarts = patience, factor, max_restarts
        self.first_patience = patience if first_patience is None else first_patience
        self._monitored = Monitored("AdamRestarts", mode, min_delta)
        self._validated = ValidatedWeights(torch.clone)
        self.begin_fit()

    @override
    def begin_fit(self) -> None:
        """Forget an earlier fit."""
        self.restarts = 0
        """Number of restarts so far."""
        self._monitored.forget()
        self._weights: dict[str, Tensor] = {}

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse what would undo the restarts."""
        refuse_barebones(trainer, "AdamRestarts", self.monitor)
        refuse_sharding(trainer, "AdamRestarts", "which cannot be restored")
        refuse_own_weights(
            trainer, "AdamRestarts", "so a restart from the best common ones would not reach them; use ddp"
        )
        refuse_steps_elsewhere(trainer, "AdamRestarts", "so a restart here would not reach them; use ddp")
        refuse_asynchronous(
            trainer, "AdamRestarts", "and only worker 0 sees the monitored value; use ddp, or one process"
        )
        if not any(optimizer.param_groups for optimizer in trainer.optimizers):
            raise MisconfigurationException("AdamRestarts: the module must have an optimizer, got none")
        callbacks = callbacks_of(trainer)
        for callback in callbacks:
            if isinstance(callback, (WeightAveraging, StochasticWeightAveraging)):
                raise MisconfigurationException(
                    f"AdamRestarts: {type(callback).__name__} averages over the weights that a restart has "
                    "left; remove one of the two"
                )
        if trainer.lr_scheduler_configs:
            raise MisconfigurationException(
                "AdamRestarts: the module has a learning-rate schedule, which would undo the factor; remove "
                "one of the two"
            )

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Copy the validated weights, if something may change them before the check."""
        if validates_in_fit(trainer):
            self._validated.begin(trainer)

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the monitored value, and restart if it is time."""
        if not validates_in_fit(trainer):
            return
        self._monitored.mode, self._monitored.min_delta = self.mode, self.min_delta
        if self._monitored.improves(logged_value(trainer, self.monitor, "AdamRestarts")):
            self._weights = self._validated.take(trainer)
            return
        if self._monitored.bad_checks < (self.first_patience if self.restarts == 0 else self.patience):
            return
        self._monitored.bad_checks = 0
        if self._weights:  # empty if the value was never a number
            put_weights(pl_module, self._weights)
        if self.restarts == self.max_restarts:
            trainer.should_stop = True
            rank_zero_info(f"AdamRestarts: {self.monitor} stalled after the last restart; the run ends")
            return
        self.restarts += 1
        for optimizer in trainer.optimizers:
            if isinstance(optimizer, UpdateRule):
                optimizer.forget()  # it counts steps in its groups too
            else:
                optimizer.state.clear()
            for group in optimizer.param_groups:
                set_rate(group, group["lr"] * self.factor)
        rates = [float(group["lr"]) for optimizer in trainer.optimizers for group in optimizer.param_groups]
        rank_zero_info(
            f"AdamRestarts: restart {self.restarts} from the best weights, with learning rate {rates[0]:.4g}"
        )

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the number of restarts."""
        pl_module.log("optreg/adam_restarts/restarts", float(self.restarts), sync_dist=True, batch_size=1)

    @override
    def state_dict(self) -> dict[str, Any]:
        """Return the best weights, and everything that decisions depend on."""
        return {
            "restarts": self.restarts,
            **self._monitored.state_dict(),
            "weights": dict(self._weights),
        }

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state."""
        self.restarts, self._weights = state_dict["restarts"], dict(state_dict["weights"])
        self._monitored.load_state_dict(state_dict)
