"""A module's learning-rate schedule, as long as its run, also after a resume."""

import math
from collections.abc import MutableMapping
from dataclasses import replace
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LRSchedulerCallable
from lightning.pytorch.utilities import rank_zero_info
from torch.optim import Optimizer

from lightning_optreg.trainer.queries import callbacks_of
from lightning_optreg.trainer.roles import ResetsOptimizers
from lightning_optreg.trainer.run_length import (
    RunLength,
    ends_by_time,
    run_length,
    searches_batch_size,
    trial_length,
)
from lightning_optreg.trainer.schedule_length import fitted, with_lengths
from lightning_optreg.trainer.schedule_parts import check_loaded, check_made, lengths, warn_of_unreached

__all__ = ["RunSchedule"]


class RunSchedule:
    """Makes a module's schedule, and checks that its length is that of the run.

    Attributes:
        length: Length of the run that the schedule was made for; None if unknown or endless.
        searching: Whether Lightning is searching for a batch size, which will change the run's length.
    """

    def __init__(self) -> None:
        self.length: int | None = None
        self.searching = False
        self._begun = (0, 0)  # epochs and steps that the trainer had made before the schedule
        self._lengths: list[tuple[str, str, int]] = []  # that the schedule was made with
        self._length_loaded: int | None = None  # of the run whose checkpoint was loaded
        self._resumed: dict[str, Any] | None = None  # the checkpoint that a fit resumes from, without tensors
        self._checked = True

    def setup(self, module: LightningModule, stage: str) -> None:
        """Forget an earlier fit's checkpoint."""
        self._resumed = None
        if stage == "fit":  # above 0 if a trainer fits again; a checkpoint has its own
            self._begun = (module.trainer.current_epoch, module.trainer.global_step)
        self.searching = stage == "fit" and searches_batch_size(module.trainer)

    def make(
        self,
        make: LRSchedulerCallable,
        optimizer: Optimizer,
        module: LightningModule,
        interval: str,
        frequency: int,
    ) -> Any:
        """Make the schedule.

        Args:
            make: Makes one from an optimizer.
            optimizer: The optimizer.
            module: The module, which need not have a trainer.
            interval: Whether the schedule counts "epoch"s or "step"s.
            frequency: Epochs or steps from one step of the schedule to the next.
        """
        run = self._run(module, interval, frequency)
        if run is None:
            return make(optimizer)
        scheduler = fitted(make, run)(optimizer)
        check_made(scheduler, run)
        self._lengths = [] if run.dry else lengths(scheduler)
        self.length = int(run.asked[0]) if run.asked and run.asked[0] < float("inf") else None
        self._checked = run.checked
        return scheduler

    def _run(self, module: LightningModule, interval: str, frequency: int) -> RunLength | None:
        """The run's length and the checkpoint it resumes from; None without a trainer."""
        try:
            trainer: Any = module.trainer
        except RuntimeError:
            return None
        if not isinstance(trainer, Trainer):  # Fabric's
            return None
        if self.searching:
            return trial_length()
        run = run_length(trainer, interval, frequency, self._begun)
        if self._resumed is None or any(isinstance(each, ResetsOptimizers) for each in callbacks_of(trainer)):
            return replace(run, loaded=self._length_loaded)
        return replace(run, loaded=self._length_loaded, **self._resumed)

    def begin_training(self, module: LightningModule, interval: str, frequency: int) -> None:
        """Raise an error if a checkpoint changed the length; warn if the run may end before the schedule.

        Args:
            module: The module, whose schedule need not be one that `make` has made.
            interval: As in `make`.
            frequency: As in `make`.

        Raises:
            MisconfigurationException: If a plateau schedule asks for a value before it can be known.
        """
        trainer, run = module.trainer, self._run(module, interval, frequency)
        if self._lengths and ends_by_time(trainer):
            cls, name, length = self._lengths[0]
            rank_zero_info(
                f"lr_scheduler: max_time may end the run before {cls} does, whose {name} is {length}"
            )
        for config in trainer.lr_scheduler_configs:
            _refuse_early_plateau(trainer, config)
            check_loaded(config.scheduler, self._lengths)
            if run is not None and trainer.global_step == 0:  # a resumed run has warned already
                warn_of_unreached(config.scheduler, run)

    def save(self, checkpoint: MutableMapping[str, Any], hyperparameters: str, monitor: str) -> None:
        """Save the length, also in the configuration of the schedule, which leaves it to the module.

        Args:
            checkpoint: The checkpoint.
            hyperparameters: The key of the module's configuration in it.
            monitor: What `ReduceLROnPlateau` watches where it has no monitor.
        """
        if self.length and self._checked:
            checkpoint["schedule_length"] = self.length
            checkpoint["schedule_begun"] = list(self._begun)
        configured = checkpoint.get(hyperparameters, {})
        if "lr_scheduler" in configured:
            configured["lr_scheduler"] = with_lengths(configured["lr_scheduler"], self.length or 1, monitor)

    def load(self, checkpoint: MutableMapping[str, Any]) -> None:
        """Resume from a checkpoint."""
        if self.searching:  # the search for a batch size restores its own start
            return
        self._length_loaded = checkpoint.get("schedule_length")
        epoch, step = checkpoint.get("schedule_begun", (0, 0))
        self._begun = (epoch, step)
        saved = next(iter(checkpoint.get("lr_schedulers", ())), None)
        self._resumed = {"saved": saved, "checked": "schedule_length" in checkpoint}


def _refuse_early_plateau(trainer: Trainer, config: Any) -> None:
    """Refuse a plateau schedule by steps that asks for a value of the validation before there is one."""
    waits = config.reduce_on_plateau and config.strict and config.interval == "step"
    if not (waits and str(config.monitor).startswith("val/")) or trainer.val_check_batch is None:
        return  # None: it validates by time
    asked = math.lcm(config.frequency, trainer.accumulate_grad_batches)  # batches
    more_epochs = (trainer.check_val_every_n_epoch or 1) - 1
    known = trainer.val_check_batch + more_epochs * trainer.num_training_batches
    if asked < known:
        raise MisconfigurationException(
            f"ImageClassifier: ReduceLROnPlateau looks at {config.monitor!r} after {asked} batches, but it "
            f"is first known after {known}; set lr_interval to epoch, or a larger lr_frequency"
        )
