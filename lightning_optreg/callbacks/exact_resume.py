"""A run that is stopped and resumed equals one that never stopped, to the last bit.

Lightning keeps weights, optimizers, schedulers and the loops' counters in a checkpoint. This callback adds
what is missing for an exact continuation: the states of every rank's random generators, the metrics that a
plateau schedule waits for, sums and gradients of an epoch or an accumulation window that is half done, and
loop counters from which nothing is skipped (`loop_progress.py`).
"""

import math
from collections.abc import Sized
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor
from typing_extensions import override

from lightning_optreg.callbacks.loop_progress import (
    Moment,
    Next,
    next_after,
    rewrite_progress,
    validation_is_due,
)
from lightning_optreg.callbacks.partial_state import (
    add_running_sums,
    collect_epoch_means,
    collect_gradients,
    collect_metric_states,
    collect_pending_log,
    collect_running_sums,
    gather_ranks,
    restore_gradients,
    restore_metric_states,
)
from lightning_optreg.callbacks.random_state import collect_random_state, restore_random_state
from lightning_optreg.callbacks.stop_signals import StopSignals, exit_status

__all__ = ["ExactResume"]


class ExactResume(Callback):
    """Make `trainer.fit(..., ckpt_path=...)` continue exactly as if the run had not been interrupted.

    Checkpoints may be taken after any batch, after a validation or at an epoch's end, by any
    `ModelCheckpoint`; put this callback first in the list. In the middle of an epoch a resume is exact when
    the training loader can be resumed too, that is, has `state_dict` and `load_state_dict` as this package's
    loaders have. At the end of an epoch it is exact with any loader whose order comes from the global random
    generators.

    What it adds to a checkpoint, under `callbacks`: the states of Python's, NumPy's and torch's generators on
    every rank; the metrics last logged, so that `ReduceLROnPlateau` makes the step that a checkpoint written
    at the epoch's end lacks; in the middle of an epoch the running means of `self.log(..., on_epoch=True)`
    and the states of torchmetrics inside the module; in the middle of an accumulation window the gradients.
    A run that early stopping had ended stays ended. All of it is plain and loads with `weights_only=True`.

    A checkpoint taken elsewhere (within a batch, as `ModelCheckpoint(save_on_exception=True)` does after an
    error) is resumed as Lightning does it, with a warning that says so.

    Args:
        save_on_sigterm: Whether a SIGTERM, the signal by which clusters end a job, leaves a checkpoint from
            which the run can be resumed exactly: `last.ckpt` in the folder of the first `ModelCheckpoint`, or
            in the trainer's root folder if there is none.
        answer_within: With several processes, the seconds after a SIGTERM that one waits for the others, at
            least 1: to come to the end of their batch, and then to write the checkpoint. After that it says
            so and ends with status 143. Default: 25, as SLURM and torchrun send SIGKILL 30 s after SIGTERM.

    Raises:
        TypeError: If `save_on_sigterm` is not a bool.
        ValueError: If `answer_within` is below 1 or not finite.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[ExactResume()], accelerator="cpu", logger=False)
    """

    def __init__(self, save_on_sigterm: bool = True, answer_within: float = 25.0) -> None:
        if not isinstance(save_on_sigterm, bool):
            raise TypeError(f"ExactResume: save_on_sigterm must be True or False, got {save_on_sigterm!r}")
        if not 1.0 <= answer_within < math.inf:
            raise ValueError(f"ExactResume: answer_within must be a number >= 1, got {answer_within}")
        self.save_on_sigterm = save_on_sigterm
        self.answer_within = answer_within
        self._signals = StopSignals(answer_within)
        self._metrics_before_validation: dict[str, dict[str, Any]] = {}
        self._random_in_validation: dict[str, Any] | None = None
        self._moment = Moment.OUTSIDE
        self._has_trained = False
        self._loaded: dict[str, Any] | None = None
        self._plateau_steps_due: list[int] = []
        self._sums_due: dict[str, dict[str, Tensor]] = {}
        self._epoch_means: list[tuple[str, Tensor, bool, bool]] = []

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._moment = Moment.OUTSIDE
        self._has_trained = False
        self._random_in_validation = None
        self._loaded = None  # a state that came with a checkpoint for testing is not for this fit
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set by Lightning's connector
        if self._signals in callbacks:
            callbacks.remove(self._signals)
        if stage == "fit":
            callbacks.append(self._signals)

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Setting up the loaders draws from the generators, and the uninterrupted run had set them up before.
        self._restore_random_state(trainer, pl_module)

    @override
    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._signals.take_over(trainer)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._signals.take_over(trainer)
        state = self._loaded
        if state is None:
            return
        follows = Next(state["next"])
        if follows is not Next.EPOCH or trainer.strategy.restore_checkpoint_after_setup:
            self._restore_random_state(trainer, pl_module)
        mine = self._of_this_rank(trainer, state)
        restore_metric_states(pl_module, mine["metrics"])
        restore_gradients(pl_module, mine["gradients"])
        self._sums_due = dict(mine["sums"])
        self._random_in_validation = mine.get("random_in_validation")
        self._epoch_means = list(state["epoch_means"])
        self._catch_up(trainer, pl_module, state)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]  # set by Lightning's connector
            if isinstance(callback, EarlyStopping) and (
                callback.wait_count >= callback.patience or callback.stopped_epoch
            ):
                rank_zero_info("ExactResume: early stopping had ended this run; it ends here again.")
                trainer.should_stop = True
        if follows is not Next.BATCH:
            self._loaded = None

    def _catch_up(self, trainer: Trainer, pl_module: LightningModule, state: dict[str, Any]) -> None:
        """Do what the saved run did right after the checkpoint was taken and Lightning leaves out."""
        trainer.callback_metrics.update(
            {name: value.to(pl_module.device) for name, value in state["callback_metrics"].items()}
        )
        if state["pending_log"]:
            for logger in trainer.loggers:
                logger.log_metrics(**state["pending_log"])
        self._plateau_steps_due = list(state["plateau_steps_due"])
        # steps by epochs wait for the hooks of the epoch's end, unless the checkpoint was taken after them
        intervals = ["step", "epoch"] if Next(state["next"]) is Next.EPOCH else ["step"]
        self._make_plateau_steps(trainer, pl_module, *intervals)

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._make_plateau_steps(trainer, pl_module, "epoch")

    @override
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._moment = Moment.BATCH
        self._has_trained = True
        if self._loaded is not None:
            # A validation that Lightning fast-forwards over on resuming sets its loader up again.
            self._restore_random_state(trainer, pl_module)
            self._loaded = None

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._moment = Moment.BATCH_END
        if self._sums_due:
            add_running_sums(trainer, self._sums_due)

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._moment = Moment.VALIDATION
            if self._random_in_validation is not None:
                restore_random_state(self._random_in_validation, pl_module.device)
            self._random_in_validation = collect_random_state(pl_module.device)
            self._metrics_before_validation = collect_metric_states(
                trainer, pl_module, epoch_is_over=trainer.is_last_batch
            )
            self._signals.begin_validation(trainer, pl_module)
            if self._signals.stopping:
                raise SIGTERMException  # before the first callback changes anything for the validation

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._moment = Moment.VALIDATION_END
            self._random_in_validation = None

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._moment = Moment.EPOCH_END
        self._sums_due = {}
        for name, value, logger, prog_bar in self._epoch_means:
            pl_module.log(
                name,
                value.to(pl_module.device),
                logger=logger and bool(trainer.loggers),
                prog_bar=prog_bar,
                sync_dist=True,  # it is synchronised already; the maximum of equal values is exact
                reduce_fx="max",
            )
        self._epoch_means = []

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._moment = Moment.OUTSIDE
        self._make_plateau_steps(trainer, pl_module, "epoch")

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._loaded is not None:  # the checkpoint was the run's last: training did not start again
            self._catch_up(trainer, pl_module, self._loaded)
            self._loaded = None

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if not isinstance(exception, SIGTERMException):
            return
        exception.code = exit_status(trainer)
        if self._moment in (Moment.BATCH_END, Moment.VALIDATION_END):
            self._moment = Moment.ADVANCED
        elif self._moment is Moment.EPOCH_END:
            self._moment = Moment.OUTSIDE  # Lightning raises it when the epoch is over with all its hooks
        if not self.save_on_sigterm:
            return
        if trainer.sanity_checking or trainer.fit_loop.total_batch_idx < 0:
            rank_zero_info(
                "ExactResume: stopped by SIGTERM before the first batch; there is nothing to save."
            )
            return
        self._signals.restart()
        folder = getattr(trainer.checkpoint_callback, "dirpath", None) or trainer.default_root_dir
        path = Path(folder) / "last.ckpt"
        trainer.save_checkpoint(path)
        rank_zero_info(f"ExactResume: stopped by SIGTERM; continue with ckpt_path={path}")

    @override
    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        moment, last = self._moment, trainer.is_last_batch
        if moment is Moment.BATCH:
            rank_zero_warn(
                "ExactResume: this checkpoint is taken within a training batch: no exact resume from it."
            )
        in_training = moment is not Moment.OUTSIDE
        due = in_training and validation_is_due(trainer)
        window = trainer.accumulate_grad_batches
        mid_window = in_training and not last and (trainer.fit_loop.batch_idx + 1) % window != 0
        follows = next_after(moment, due=due, last=last)
        mid_epoch = follows is not Next.EPOCH
        epoch_is_over = mid_epoch and last
        pending_log: dict[str, Any] = {}
        if moment is Moment.EPOCH_END or (moment is Moment.BATCH_END and not mid_window):
            on_step = moment is Moment.BATCH_END
            pending_log = collect_pending_log(trainer, checkpoint, on_step=on_step)
        if in_training:
            rewrite_progress(
                checkpoint["loops"]["fit_loop"],
                moment,
                due=due,
                last=last,
                exhausted=_is_exhausted(trainer, checkpoint),
                accumulating=mid_window,
            )
        metrics = collect_metric_states(trainer, pl_module, epoch_is_over=epoch_is_over) if mid_epoch else {}
        random = collect_random_state(pl_module.device)
        if moment is Moment.VALIDATION:  # it will be run again from its start
            metrics = self._metrics_before_validation
            random = self._signals.random_before_validation or random
        mine = {
            "random": random,
            "random_in_validation": self._random_in_validation if moment is Moment.VALIDATION else None,
            "sums": collect_running_sums(trainer) if mid_epoch and not epoch_is_over else {},
            "metrics": metrics,
            "gradients": collect_gradients(pl_module) if mid_window else {},
        }
        checkpoint["callbacks"][self.state_key] = {
            "next": follows.value,
            "callback_metrics": {
                name: value.detach().cpu().clone() for name, value in trainer.callback_metrics.items()
            },
            "epoch_means": collect_epoch_means(trainer) if epoch_is_over else [],
            "pending_log": pending_log,
            "plateau_steps_due": _plateau_steps_due(trainer, moment, follows, mid_window=mid_window),
            "ranks": gather_ranks(trainer, mine),
        }

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._loaded = state_dict

    def _restore_random_state(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._loaded is not None:
            restore_random_state(self._of_this_rank(trainer, self._loaded)["random"], pl_module.device)

    def _of_this_rank(self, trainer: Trainer, state: dict[str, Any]) -> dict[str, Any]:
        ranks: list[dict[str, Any]] = state["ranks"]
        if len(ranks) != trainer.world_size:
            rank_zero_warn(
                f"ExactResume: the checkpoint comes from {len(ranks)} process(es) and this run has"
                f" {trainer.world_size}; random numbers will differ from those of an uninterrupted run."
            )
        return ranks[trainer.global_rank % len(ranks)]

    def _make_plateau_steps(self, trainer: Trainer, pl_module: LightningModule, *intervals: str) -> None:
        for index in self._plateau_steps_due:
            config = trainer.lr_scheduler_configs[index]
            if config.interval not in intervals:
                continue
            value = trainer.callback_metrics.get(config.monitor or "")
            if value is None:
                raise MisconfigurationException(
                    f"ExactResume: ReduceLROnPlateau waits for {config.monitor!r}, which the checkpoint does"
                    f" not hold; it holds {sorted(trainer.callback_metrics)}."
                )
            pl_module.lr_scheduler_step(config.scheduler, value)
        self._plateau_steps_due = [
            index
            for index in self._plateau_steps_due
            if trainer.lr_scheduler_configs[index].interval not in intervals
        ]


def _is_exhausted(trainer: Trainer, checkpoint: dict[str, Any]) -> bool:
    """Tell whether the training loader, resumed from the checkpoint, would have no batch left."""
    loader = trainer.train_dataloader
    saved = checkpoint["loops"]["fit_loop"]["state_dict"].get("combined_loader")
    return bool(saved) and isinstance(loader, Sized) and len(loader) == trainer.num_training_batches


def _plateau_steps_due(trainer: Trainer, moment: Moment, follows: Next, *, mid_window: bool) -> list[int]:
    """List the plateau schedules whose next step Lightning leaves out after a resume from this checkpoint.

    These are a step by batches that belongs to the batch just done, and the step at the end of the epoch that
    the checkpoint is taken in: Lightning has no metric for it if the checkpoint is taken there, and leaves it
    out of an epoch that it resumes in the middle.
    """
    due = []
    for index, config in enumerate(trainer.lr_scheduler_configs):
        if config.interval == "epoch":
            left_out = moment is not Moment.OUTSIDE
            count = trainer.current_epoch + 1
        else:
            # a validation that follows the batch comes before the step, which Lightning then makes itself
            left_out = moment is Moment.BATCH_END and follows is not Next.VALIDATION and not mid_window
            count = trainer.fit_loop.batch_idx + 1
        if config.reduce_on_plateau and left_out and count % config.frequency == 0:
            due.append(index)
    return due
