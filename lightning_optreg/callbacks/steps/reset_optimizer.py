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
    """Reset the optimizers when `trainer.fit(..., ckpt_path=...)` continues a checkpoint.

    Weights, step, epoch and loader are the checkpoint's. The optimizers are those that the module configures
    now: of any class, with their own settings and empty states (momentum, second moments). Schedules are also
    the module's, advanced by the number of steps of the checkpoint's schedules, so that the learning rate is
    that of the new schedule at this point; if the checkpoint has none, by the number of epochs or optimizer
    steps done. `ReduceLROnPlateau` has no such point: its state and its current learning rates are kept.
    (Requested in pytorch-lightning issue 5339.)

    A fit that starts without a checkpoint is not changed.

    Raises:
        MisconfigurationException: Before the first step, if checkpoint and module have different numbers of
            schedules, or the module has a plateau schedule where the checkpoint has another.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[ResetOptimizer()], accelerator="cpu", logger=False)
    """

    only_one = "as each would advance the schedules"

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
        """Keep the checkpoint: optimizers are only created after this hook."""
        self._checkpoint = checkpoint

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Replace the states that Lightning restores next with those of the new optimizers."""
        if self._checkpoint is None:
            return
        saved = self._checkpoint["lr_schedulers"]
        configs = trainer.lr_scheduler_configs
        if saved and configs and len(saved) != len(configs):
            raise MisconfigurationException(
                f"ResetOptimizer: the module must configure {len(saved)} schedule(s) like the checkpoint's "
                f"run, or none, got {len(configs)}"
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
            rank_zero_info(f"ResetOptimizer: the optimizer starts afresh, with learning rate {rates[0]:.6g}")


def _place(checkpoint: dict[str, Any], config: LRSchedulerConfig, state: dict[str, Any] | None) -> int:
    """Return the number of steps that a schedule has made."""
    if state is None:
        epochs: int = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
        done = epochs if config.interval == "epoch" else int(checkpoint["global_step"])
        return done // config.frequency
    # Private in torch 2.14: states of schedules have no public keys. ChainedScheduler has no last_epoch, but
    # the schedules that it chains have it; so has the schedule of a replaced optimizer.
    while "last_epoch" not in state:
        state = state["schedule"] if "schedule" in state else state["_schedulers"][0]
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
            "ResetOptimizer: the module configures ReduceLROnPlateau, but the checkpoint has another schedule"
        )
    for name in ("best", "num_bad_epochs", "cooldown_counter", "last_epoch", "_last_lr"):
        setattr(scheduler, name, state[name])
    for group, rate in zip(scheduler.optimizer.param_groups, state["_last_lr"], strict=True):
        set_rate(group, rate)
