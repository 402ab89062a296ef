"""A run that is stopped and resumed equals one that never stopped, to the last bit.

Lightning keeps weights, optimizers, schedulers and the loops' counters in a checkpoint. This callback adds
what is missing for an exact continuation: the states of every rank's random generators, the metrics that a
plateau schedule waits for, sums and gradients of an epoch or an accumulation window that is half done, and
loop counters from which nothing is skipped (`loop_progress.py`).
"""

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

from lightning_optreg.callbacks.across_ranks import SHARDING, gather_ranks, gather_tensors
from lightning_optreg.callbacks.loop_progress import (
    Moment,
    Next,
    next_after,
    rewrite_progress,
    validation_is_due,
)
from lightning_optreg.callbacks.partial_state import (
    collect_epoch_means,
    collect_metric_states,
    collect_pending_log,
    collect_running_sums,
    gradients_of,
    restore_buffers,
    restore_gradients,
    restore_metric_states,
    restore_running_sums,
    syncs_buffers,
)
from lightning_optreg.callbacks.random_state import collect_random_state, restore_random_state
from lightning_optreg.callbacks.rank_share import share_of_rank
from lightning_optreg.callbacks.step_size import StepSize, warn_of_changes

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
    and the states of torchmetrics inside the module; the buffers that differ between ranks; in the middle of
    an accumulation window the gradients. A run that early stopping had ended stays ended. All of it is plain
    and loads with `weights_only=True`.

    Within an accumulation window each rank has gradients of its own, so a checkpoint there is larger by
    4 bytes x parameters x ranks; rank 0 alone holds them all. At a window's end, where `ModelCheckpoint` with
    `every_n_train_steps` saves, there are none. Of a module with manual optimization all gradients that there
    are after a batch are kept; it may zero them after a step rather than before the next. With strategies
    that shard parameters accumulated gradients are left out, and a warning says so.

    With another number of processes a run goes on with the sums of all, exact up to rounding where a step
    takes as many images. A warning says that layers draw other numbers, and if a step takes more images or
    fewer. What the module does in its own `on_train_batch_end` comes after a batch's checkpoint and is left
    out on a resume from it.

    A checkpoint taken elsewhere (within a batch, as `ModelCheckpoint(save_on_exception=True)` does after an
    error) is resumed as Lightning does it, with a warning that says so.

    Args:
        save_on_sigterm: Whether a SIGTERM, the signal by which clusters end a job, leaves a checkpoint from
            which the run can be resumed exactly: `last.ckpt` in the folder of the first `ModelCheckpoint`, or
            in the trainer's root folder if there is none.

    Raises:
        TypeError: If `save_on_sigterm` is not a bool.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[ExactResume()], accelerator="cpu", logger=False)
    """

    def __init__(self, save_on_sigterm: bool = True) -> None:
        if not isinstance(save_on_sigterm, bool):
            raise TypeError(f"ExactResume: save_on_sigterm must be True or False, got {save_on_sigterm!r}")
        self.save_on_sigterm = save_on_sigterm
        self._moment = Moment.OUTSIDE
        self._loaded: dict[str, Any] | None = None
        self._plateau_steps_due: list[int] = []
        self._step_size = StepSize()
        self._epoch_means: list[tuple[str, Tensor, bool, bool]] = []

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._moment = Moment.OUTSIDE
        self._loaded = None  # a state that came with a checkpoint for testing is not for this fit

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._step_size = StepSize.configured(trainer)
        # Setting up the loaders draws from the generators, and the uninterrupted run had set them up before.
        self._restore_random_state(trainer, pl_module)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        state = self._loaded
        if state is None:
            return
        follows = Next(state["next"])
        if follows is not Next.EPOCH or trainer.strategy.restore_checkpoint_after_setup:
            self._restore_random_state(trainer, pl_module)
        before, now = StepSize(**state["step_size"]), self._step_size.with_loader(trainer)
        warn_of_changes(trainer, len(state["ranks"]), before, now, mid_epoch=follows is not Next.EPOCH)
        mine = share_of_rank(state, trainer.global_rank, trainer.world_size)
        restore_metric_states(pl_module, mine["metrics"])
        restore_gradients(pl_module, mine["gradients"])
        restore_buffers(trainer, pl_module, mine["buffers"], syncs=mine["syncs_buffers"])
        restore_running_sums(trainer, pl_module, mine["sums"])
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
        if self._loaded is not None:
            # A validation that Lightning fast-forwards over on resuming sets its loader up again.
            self._restore_random_state(trainer, pl_module)
            self._loaded = None

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._moment = Moment.BATCH_END

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._moment = Moment.VALIDATION

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._moment = Moment.VALIDATION_END

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._moment = Moment.EPOCH_END
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
        if self._moment in (Moment.BATCH_END, Moment.VALIDATION_END):
            self._moment = Moment.ADVANCED
        elif self._moment is Moment.EPOCH_END:
            self._moment = Moment.OUTSIDE  # Lightning raises it when the epoch is over with all its hooks
        if self.save_on_sigterm and not trainer.sanity_checking and trainer.fit_loop.total_batch_idx >= 0:
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
        mine = {
            "random": collect_random_state(pl_module.device),
            "sums": collect_running_sums(trainer, pl_module) if mid_epoch and not epoch_is_over else {},
            "metrics": collect_metric_states(trainer, pl_module, epoch_is_over=epoch_is_over)
            if mid_epoch
            else {},
            "syncs_buffers": syncs_buffers(trainer),
        }
        # a module that makes its own steps accumulates when it likes
        half_done = mid_window or not pl_module.automatic_optimization
        shards = isinstance(trainer.strategy, SHARDING)
        if shards and half_done:
            rank_zero_warn(
                f"ExactResume: {type(trainer.strategy).__name__} shards gradients, and this checkpoint lacks"
                " those that are accumulated so far: no exact resume from it."
            )
        gradients = gradients_of(pl_module) if half_done and not shards else {}
        buffers = {} if shards else dict(pl_module.named_buffers())
        checkpoint["callbacks"][self.state_key] = {
            "next": follows.value,
            "callback_metrics": {
                name: value.detach().cpu().clone() for name, value in trainer.callback_metrics.items()
            },
            "epoch_means": collect_epoch_means(trainer) if epoch_is_over else [],
            "pending_log": pending_log,
            "plateau_steps_due": _plateau_steps_due(trainer, moment, follows, mid_window=mid_window),
            "step_size": self._step_size.with_loader(trainer).plain(),
            "ranks": gather_ranks(trainer, mine),
            "gradients": gather_tensors(trainer, gradients, if_equal=True),
            "buffers": gather_tensors(trainer, buffers, if_equal=False),
        }

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._loaded = state_dict

    def _restore_random_state(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._loaded is not None:
            ranks = self._loaded["ranks"]
            restore_random_state(ranks[trainer.global_rank % len(ranks)]["random"], pl_module.device)

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
