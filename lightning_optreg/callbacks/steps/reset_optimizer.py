"""Continue a checkpoint with a fresh optimizer, at the same step, epoch and place in the schedule."""

import warnings
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.types import LRSchedulerConfig
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from typing_extensions import override

from lightning_optreg.callbacks._of_a_kind import OfAKind
from lightning_optreg.optimizers.rates import set_rate
from lightning_optreg.trainer.roles import ResetsOptimizers

__all__ = ["ResetOptimizer"]


class ResetOptimizer(OfAKind, ResetsOptimizers):
    """Start the optimizers anew when `trainer.fit(..., ckpt_path=...)` continues a checkpoint.

    Weights, step, epoch and loader are the checkpoint's. The optimizers are those that the module configures
    now: of any class, with their own settings and empty states (momentum, second moments). Schedules are the
    module's too, moved forward by as many steps as the checkpoint's had made, so that the learning rate is
    what the new schedule gives at this place; where the checkpoint has none, by the epochs or optimizer steps
    done so far. `ReduceLROnPlateau` has no such place: its state and its current learning rates are taken
    over. (Asked for in pytorch-lightning issue 5339.)

    A fit that starts without a checkpoint is not changed.

    Raises:
        MisconfigurationException: Before the first step, if checkpoint and module both have schedules, but
            not as many, or if the module has a plateau schedule where the checkpoint has another.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[ResetOptimizer()], accelerator="cpu", logger=False)
    """

    only_one = "since each would move the schedules forward"

    def __init__(self) -> None:
        self._checkpoint: dict[str, Any] | None = None

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forget the checkpoint of an earlier test."""
        super().setup(trainer, pl_module, stage)
        self._checkpoint = None

    @override
    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep hold of the checkpoint: optimizers are made only after this."""
        self._checkpoint = checkpoint

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Replace the states that Lightning restores next by those of the new optimizers."""
        if self._checkpoint is None:
            return
        saved = self._checkpoint["lr_schedulers"]
        configs = trainer.lr_scheduler_configs
        if saved and configs and len(saved) != len(configs):
            raise MisconfigurationException(
                f"ResetOptimizer: the checkpoint has {len(saved)} schedule(s) and the module configures "
                f"{len(configs)}; their places cannot be matched"
            )
        for index, config in enumerate(configs):
            state = saved[index] if saved else None
            if not isinstance(config.scheduler, ReduceLROnPlateau):
                _move_forward(config.scheduler, _place(self._checkpoint, config, state))
            elif state is not None:
                _take_over(config.scheduler, state)
        self._checkpoint["lr_schedulers"] = [config.scheduler.state_dict() for config in configs]
        self._checkpoint["optimizer_states"] = [optimizer.state_dict() for optimizer in trainer.optimizers]
        self._checkpoint = None
        rates = [float(group["lr"]) for optimizer in trainer.optimizers for group in optimizer.param_groups]
        if rates:  # a module may have no optimizer
            rank_zero_info(f"ResetOptimizer: the optimizer starts anew, with learning rate {rates[0]:.6g}")


def _place(checkpoint: dict[str, Any], config: LRSchedulerConfig, state: dict[str, Any] | None) -> int:
    """Steps that a schedule has made."""
    if state is None:
        epochs: int = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
        done = epochs if config.interval == "epoch" else int(checkpoint["global_step"])
        return done // config.frequency
    # Private in torch 2.14: states of schedules have no public keys.
    while "last_epoch" not in state:  # torch's ChainedScheduler has none, but those that it chains have
        state = state["schedule"] if "schedule" in state else state["_schedulers"][0]  # or is carried on
    return int(state["last_epoch"])


def _move_forward(scheduler: LRScheduler, steps: int) -> None:
    with warnings.catch_warnings():
        # torch expects optimizer steps between those of a schedule
        warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
        for _ in range(steps):
            scheduler.step()


def _take_over(scheduler: ReduceLROnPlateau, state: dict[str, Any]) -> None:
    if "num_bad_epochs" not in state:
        raise MisconfigurationException(
            "ResetOptimizer: the module configures ReduceLROnPlateau and the checkpoint has another schedule"
        )
    for name in ("best", "num_bad_epochs", "cooldown_counter", "last_epoch", "_last_lr"):
        setattr(scheduler, name, state[name])
    for group, rate in zip(scheduler.optimizer.param_groups, state["_last_lr"], strict=True):
        set_rate(group, rate)
