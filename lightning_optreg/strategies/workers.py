"""What a worker other than worker 0 leaves out of a fit, and counts of steps that are those of all workers.

Worker 0 has the user's trainer: it validates, saves, logs and decides when the run ends. The others run the
same `trainer.fit` without that.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil, isinf
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import (
    BasePredictionWriter,
    Checkpoint,
    DeviceStatsMonitor,
    EarlyStopping,
    LearningRateMonitor,
    ModelSummary,
    ProgressBar,
    ThroughputMonitor,
    Timer,
    WeightAveraging,
)

from lightning_optreg.trainer.queries import callbacks_of
from lightning_optreg.trainer.roles import OnlyRecords

__all__ = ["StepCount", "has_plateau", "length_for_all", "silence"]

ONLY_WORKER_0: tuple[type[Callback], ...] = (
    BasePredictionWriter,
    Checkpoint,
    DeviceStatsMonitor,
    EarlyStopping,
    LearningRateMonitor,
    ModelSummary,
    ProgressBar,
    ThroughputMonitor,
    Timer,
    WeightAveraging,
)
"""Callbacks that save, show, stop or average; the rest may change what a training step does."""


def silence(trainer: Trainer) -> None:
    """Take out of a trainer what only worker 0 does; call this before callbacks' `setup`.

    The worker then has no loggers, no validation, and none of the callbacks that save, show, stop or average
    weights. Those that change batches, gradients or steps stay.
    """
    trainer.loggers = []
    trainer.limit_val_batches = 0
    callbacks = callbacks_of(trainer)
    callbacks[:] = [each for each in callbacks if not isinstance(each, (*ONLY_WORKER_0, OnlyRecords))]


@contextmanager
def length_for_all(trainer: Trainer, workers: int) -> Iterator[None]:
    """Let `trainer.estimated_stepping_batches` and `num_training_batches` count the steps of all workers.

    For the time in which schedules are made. It sets the training loader up, which Lightning would do later.

    Args:
        trainer: The trainer; its training loader has this worker's share.
        workers: Number of workers, each with a share of the same length.
    """
    trainer.fit_loop.setup_data()
    mine = trainer.fit_loop.max_batches
    if not isinf(mine):
        window = trainer.accumulate_grad_batches  # each worker's last window may be shorter
        trainer.fit_loop.max_batches = workers * window * ceil(mine / window)
    try:
        yield
    finally:
        trainer.fit_loop.max_batches = mine


class StepCount:
    """The optimizer steps of all workers, in `trainer.global_step` of each of them.

    Lightning counts a worker's own steps. After a batch the strategy takes these with `own_steps`, learns how
    many steps all workers have made, and tells it with `show`, which also steps the schedules of interval
    "step" for the steps of the others: a schedule is a function of all steps.

    Args:
        trainer: The trainer, in training.
        own: Steps that this worker made before, as in a resumed run, out of `trainer.global_step`.
    """

    def __init__(self, trainer: Trainer, own: int = 0) -> None:
        self.trainer = trainer
        self._own = own
        self._shown = trainer.global_step
        self._posing = False
        self._not_scheduled: dict[int, int] = {}

    def pose(self, total: int) -> None:
        """Set `trainer.global_step` to a smaller number for a moment, until another method is called."""
        self._posing = True
        self._progress().total.completed = total

    def true(self) -> int:
        """Return the last number shown, with steps that this worker has made since, and end a pose."""
        if self._posing:
            self._progress().total.completed = self._shown
            self._posing = False
        return self.trainer.global_step

    def own_steps(self) -> int:
        """Return how many steps this worker has made in the whole run."""
        now = self.true()
        self._own += now - self._shown
        self._shown = now
        return self._own

    def show(self, total: int) -> None:
        """Set `trainer.global_step`, and bring the schedules up to it.

        Args:
            total: Steps of all workers; smaller ones than before are ignored.
        """
        self.own_steps()
        others = total - self._shown
        if others <= 0:
            return
        progress = self._progress()
        progress.total.ready += others
        progress.total.completed += others
        self._shown = total
        self._step_schedules(others)

    def _progress(self) -> Any:  # a private class of Lightning
        loop = self.trainer.fit_loop.epoch_loop
        if self.trainer.lightning_module.automatic_optimization:
            return loop.automatic_optimization.optim_progress.optimizer.step
        return loop.manual_optimization.optim_step_progress

    def _step_schedules(self, others: int) -> None:
        module = self.trainer.lightning_module
        if not module.automatic_optimization:  # the module steps its schedules itself
            return
        for number, config in enumerate(self.trainer.lr_scheduler_configs):
            if config.interval != "step" or config.reduce_on_plateau:
                continue
            due = self._not_scheduled.get(number, 0) + others
            with warnings.catch_warnings():
                # The steps of others may come before this worker's first.
                warnings.filterwarnings("ignore", r"Detected call of `lr_scheduler\.step\(\)` before")
                for _ in range(due // config.frequency):
                    module.lr_scheduler_step(config.scheduler, None)
            self._not_scheduled[number] = due % config.frequency


def has_plateau(trainer: Trainer) -> bool:
    """Return whether a schedule follows a logged metric, such as the validation loss."""
    return any(config.reduce_on_plateau for config in trainer.lr_scheduler_configs)
