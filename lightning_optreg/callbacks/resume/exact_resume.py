"""A run that is stopped and resumed equals one that never stopped, to the last bit.

Lightning saves weights, optimizers, schedulers and the loops' counters in a checkpoint. This callback adds
what is missing for an exact continuation: the states of every rank's random generators, the metrics that a
plateau schedule waits for, sums and gradients of an unfinished epoch or accumulation window, and loop
counters from which nothing is skipped (`loop_progress.py`).
"""

import math
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.exceptions import SIGTERMException
from lightning.pytorch.utilities.model_helpers import is_overridden
from typing_extensions import override

from lightning_optreg.callbacks.resume._kept_state import complete_state
from lightning_optreg.callbacks.resume._loaders_resumed import (
    before_first_batch,
    begin_validation_anew,
    collect_randomness,
    describe_data,
    inexact,
    load_states,
    restore_randomness,
    start_persistent_workers,
    use_up,
)
from lightning_optreg.callbacks.resume._module_flags import collect_flags, restore_flags
from lightning_optreg.callbacks.resume._partial_state import (
    buffers_of,
    collect_metric_states,
    gradients_of,
    restore_buffers,
    restore_gradients,
    restore_metric_states,
    syncs_buffers,
    unsaved_buffers,
)
from lightning_optreg.callbacks.resume._rank_share import share_of_rank
from lightning_optreg.callbacks.resume.progress.logged_values import (
    collect_pending_log,
    collect_running_sums,
    collect_shown,
    forget_start,
    go_on_logging,
    metrics_to_be_reset,
    restore_running_sums,
    restore_shown,
)
from lightning_optreg.callbacks.resume.progress.loop_progress import (
    Moment,
    Next,
    begin_next_epoch,
    in_batch_end,
    may_stop,
    next_after,
    rewrite_progress,
    validation_is_due,
)
from lightning_optreg.callbacks.resume.progress.plateau_steps import make_plateau_steps, plateau_steps_due
from lightning_optreg.callbacks.resume.progress.step_size import StepSize, warn_of_changes
from lightning_optreg.callbacks.resume.signals.launched import is_launched
from lightning_optreg.callbacks.resume.signals.stop_signals import StopSignals, exit_status
from lightning_optreg.places import place_of
from lightning_optreg.randomness.state import collect_random_state, restore_random_state
from lightning_optreg.trainer.across_ranks import gather_ranks, gather_tensors
from lightning_optreg.trainer.order_of_callbacks import AfterOthers, put_last, take_out
from lightning_optreg.trainer.queries import callbacks_of, place_in_step, shards_parameters
from lightning_optreg.trainer.roles import RestoresProcess, SplitsNetwork

__all__ = ["ExactResume"]


class ExactResume(RestoresProcess, Callback):
    """Make `trainer.fit(..., ckpt_path=...)` continue exactly as if the run had not been interrupted.

    Checkpoints may be saved after any batch, after a validation or at the end of an epoch, by any
    `ModelCheckpoint`; this callback moves itself to the front of the list. In the middle of an epoch a resume
    is exact if the training loader can be resumed too, that is, has `state_dict` and `load_state_dict` like
    this package's loaders. At the end of an epoch it is exact with any loader whose order comes from the
    global random generators.

    It adds to a checkpoint, under `callbacks`: the states of Python's, NumPy's and torch's generators on
    every rank; the last logged metrics, so that `ReduceLROnPlateau` makes the step that is missing in a
    checkpoint at the end of an epoch; in the middle of an epoch the running means of `self.log(...,
    on_epoch=True)` and the states of torchmetrics in the module; the buffers that differ between ranks;
    within an accumulation window the gradients. A run that was ended by early stopping stays ended. All of
    this is plain and loads with `weights_only=True`.

    Within an accumulation window each rank has its own gradients, so a checkpoint there is larger by
    4 bytes x parameters x ranks; rank 0 has to hold them all. At the end of a window, where `ModelCheckpoint`
    with `every_n_train_steps` saves, there are none. With manual optimization all gradients that exist after
    a batch are kept; the module should zero them after a step rather than before the next. With strategies
    that shard parameters accumulated gradients are left out, with a warning.

    With another number of processes a run continues with the sums of all, exact up to rounding if a step
    takes the same number of images. A warning says that layers draw other numbers, and whether a step takes
    more or fewer images. The module's own `on_train_batch_end` and `on_validation_end` come after the
    checkpoint and are skipped on a resume from it, with a warning.

    A checkpoint saved elsewhere (within a batch, as `ModelCheckpoint(save_on_exception=True)` does after an
    error) is resumed as by Lightning, with a warning.

    Args:
        save_on_sigterm: Whether to save a checkpoint on SIGTERM, with which clusters end a job, so that the
            run can be resumed exactly: `last.ckpt` in the folder of the first `ModelCheckpoint`, or in the
            trainer's root folder if there is none.
        answer_within: With several processes, how many seconds after a SIGTERM a process waits for the
            others, at least 1: first until the end of their batch, then until the checkpoint is written.
            After that it ends with a message and status 143. Default: 25, as SLURM and torchrun send SIGKILL
            30 s after SIGTERM.

    Raises:
        TypeError: If `save_on_sigterm` is not a bool.
        ValueError: If `answer_within` is below 1 or not finite; in `setup`, if the trainer has several of
            them.

    Warns:
        UserWarning: On a resume, for everything that is not exactly as without the interruption; on saving,
            if an exact resume from the checkpoint is not possible.

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
        self._after_start = AfterOthers("on_train_start", self._restore_window)
        self._metrics_before_validation: dict[str, dict[str, Any]] = {}
        self._randomness_in_validation: dict[str, Any] | None = None
        self._moment = Moment.OUTSIDE
        self._has_trained = False
        self._loaded: dict[str, Any] | None = None
        self._loader_states: list[Any] = []
        self._loaders_came_early = False
        self._random_at_start: dict[str, Any] | None = None
        self._half_done: dict[str, Any] | None = None
        self._window: int | None = None
        self._plateau_steps_due: list[int] = []
        self._has_validated = False
        self._step_size = StepSize()

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._moment = Moment.OUTSIDE
        self._has_trained = self._has_validated = False
        self._half_done = self._randomness_in_validation = self._window = None
        self._plateau_steps_due = []
        self._loaded = None  # a state from a checkpoint for testing is not for this fit
        self._loader_states = []
        callbacks = callbacks_of(trainer)
        if sum(isinstance(callback, ExactResume) for callback in callbacks) > 1:
            raise ValueError("ExactResume: a trainer can have only one of them; remove the others")
        # First, so that the states of the generators are restored before the hooks of others.
        callbacks.remove(self)
        callbacks.insert(0, self)
        for last in (self._signals, self._after_start):
            take_out(trainer, last)
            if stage == "fit":
                put_last(trainer, last)

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # `trainer.estimated_stepping_batches` in `configure_optimizers` sets them up this early.
        self._loaders_came_early = trainer.train_dataloader is not None
        self._step_size = StepSize.configured(trainer)
        # so that loaders created now, perhaps with a `random_split`, are those of the run's first start
        device = trainer.strategy.root_device
        at_start: dict[str, Any] | None = None
        if self._loaded is not None:
            ranks = self._loaded["ranks"]
            at_start = ranks[trainer.global_rank % len(ranks)].get("random_at_start")
        if at_start is not None:
            restore_random_state(at_start, device)
        self._random_at_start = at_start or collect_random_state(device)

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
        now = self._step_size.with_loader(trainer)
        before = StepSize(**state["step_size"]) if state["step_size"] is not None else None
        warn_of_changes(trainer, len(state["ranks"]), before, now, mid_epoch=follows is not Next.EPOCH)
        mine = share_of_rank(state, *place_in_step(trainer))
        self._resume_loaders(trainer, state, follows)
        self._half_done = {**mine, "flags": state["flags"], "stop": False}
        self._randomness_in_validation = mine.get("in_validation")
        if before is not None and before.batches == now.batches:
            self._window = state["accumulate_grad_batches"]
        if mine["sums"]:
            go_on_logging(trainer)
        self._catch_up(trainer, pl_module, state)
        stopped = _early_stopping_ended(trainer)
        ends = stopped and may_stop(trainer)
        if stopped:
            rank_zero_info("ExactResume: early stopping had ended this run, which ends here again.")
        if follows is Next.EPOCH:
            begin_next_epoch(trainer)
        if stopped and (follows in (Next.EPOCH, Next.VALIDATION) or not ends):
            trainer.should_stop = True
        if follows in (Next.BATCH, Next.EPOCH_END):
            over = follows is Next.EPOCH_END or ends
            self._half_done["stop"] = ends
            before_first_batch(trainer, lambda: self._restore_half_done(trainer), over=over)
        self._loaded = None

    def _resume_loaders(self, trainer: Trainer, state: dict[str, Any], follows: Next) -> None:
        self._has_validated = state["has_validated"]
        if self._has_validated:
            start_persistent_workers(trainer)
        mid_epoch = follows is Next.BATCH or (follows is Next.VALIDATION and not state["last"])
        if self._loaders_came_early or not trainer.fit_loop.restarting:  # then Lightning has not
            load_states(trainer, self._loader_states, anew=mid_epoch)
        if state["last"] and follows is not Next.EPOCH:
            use_up(trainer, self._loader_states)
        # Nothing is known of them if it was saved before they existed, as by LearningRateFinder.
        reasons = inexact(trainer, mid_epoch=mid_epoch, data=state["data"] or None)
        hook = _LEFT_OUT.get(state["moment"], "")
        if is_overridden(hook, trainer.lightning_module):
            reasons.append(f"the module's {hook}, which comes after the checkpoint, is skipped once")
        for reason in reasons:
            rank_zero_warn(f"ExactResume: the resumed run will differ from an uninterrupted one: {reason}.")

    def _catch_up(self, trainer: Trainer, pl_module: LightningModule, state: dict[str, Any]) -> None:
        """Do what the saved run did right after the checkpoint and Lightning skips."""
        restore_shown(trainer, state["shown"], pl_module.device)
        if state["pending_log"]:
            for logger in trainer.loggers:
                logger.log_metrics(**state["pending_log"])
        # steps by epochs wait for the hooks of the epoch's end, unless the checkpoint was saved after them
        intervals = ["step", "epoch"] if Next(state["next"]) is Next.EPOCH else ["step"]
        self._plateau_steps_due = make_plateau_steps(
            trainer, pl_module, state["plateau_steps_due"], *intervals
        )

    def _restore_window(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._window is not None:
            trainer.accumulate_grad_batches = self._window  # callbacks change it as an epoch starts
            self._window = None

    def _restore_half_done(self, trainer: Trainer) -> None:
        """Restore the partial results, after the hooks of the start, which may change them."""
        mine, self._half_done = self._half_done, None
        if mine is None:
            return
        if mine["stop"]:  # only now, so that Lightning ends the epoch with its hooks
            trainer.should_stop = True
        pl_module = trainer.lightning_module
        restore_flags(trainer, pl_module, mine["flags"])
        restore_metric_states(pl_module, mine["metrics"])
        restore_gradients(pl_module, mine["gradients"])
        restore_buffers(trainer, pl_module, mine["buffers"], syncs=mine["syncs_buffers"])
        forget_start(trainer)
        restore_running_sums(trainer, pl_module, mine["sums"])
        restore_randomness(trainer, mine)

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._plateau_steps_due = make_plateau_steps(trainer, pl_module, self._plateau_steps_due, "epoch")
        if self._half_done is not None:
            self._restore_half_done(trainer)
            before_first_batch(trainer, lambda: None, anew=True)

    @override
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._moment = Moment.BATCH
        self._has_trained = True
        self._restore_half_done(trainer)  # before `training_step(dataloader_iter)` fetches its batch

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._moment = Moment.BATCH_END

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._has_validated = True
        if trainer.sanity_checking:
            return
        self._moment = Moment.VALIDATION
        if self._half_done is not None:
            self._restore_half_done(trainer)
            begin_validation_anew(trainer)
        if self._randomness_in_validation is not None:
            restore_randomness(trainer, self._randomness_in_validation)
        self._randomness_in_validation = collect_randomness(trainer)
        self._metrics_before_validation = collect_metric_states(pl_module)
        self._signals.begin_validation(trainer, pl_module)
        if self._signals.stopping:
            raise SIGTERMException  # before the first callback changes anything for the validation

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._moment = Moment.VALIDATION_END
            self._randomness_in_validation = None

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._moment = Moment.EPOCH_END
        self._restore_half_done(trainer)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._moment = Moment.OUTSIDE
        if trainer.is_last_batch:  # an interrupted epoch has no step
            self._plateau_steps_due = make_plateau_steps(trainer, pl_module, self._plateau_steps_due, "epoch")

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._loaded is not None:  # the checkpoint was the run's last: training did not start again
            if Next(self._loaded["next"]) is not Next.EPOCH:
                rank_zero_warn(
                    "ExactResume: the checkpoint was saved at the run's last step; the validation or the "
                    "hooks of the epoch's end after it are skipped."
                )
            self._catch_up(trainer, pl_module, self._loaded)
            restore_flags(trainer, pl_module, self._loaded["flags"])
            mine = share_of_rank(self._loaded, *place_in_step(trainer))
            restore_randomness(trainer, mine)
            self._loaded = None

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if not isinstance(exception, SIGTERMException):
            return
        exception.code = exit_status(trainer)
        # launched processes and workers without steps left stop within a hook, others after the loop went on
        behind = {
            Moment.BATCH_END: Moment.ADVANCED,
            Moment.VALIDATION_END: Moment.ADVANCED,
            Moment.EPOCH_END: Moment.OUTSIDE,  # Lightning raises it after all hooks of the epoch's end
        }
        if self._moment is Moment.BATCH_END and trainer.validating:  # by a hook before this one's
            self._moment = Moment.VALIDATION
            self._metrics_before_validation = collect_metric_states(pl_module)
        elif not is_launched(trainer) and not in_batch_end(trainer):
            self._moment = behind.get(self._moment, self._moment)
        if not self.save_on_sigterm:
            return
        if not self._has_trained:
            rank_zero_info("ExactResume: stopped by SIGTERM before the first batch; nothing new to save.")
            return
        self._signals.restart()
        folder = getattr(trainer.checkpoint_callback, "dirpath", None) or trainer.default_root_dir
        path = str(place_of(folder) / "last.ckpt")
        trainer.save_checkpoint(path)
        rank_zero_info(f"ExactResume: stopped by SIGTERM; continue with ckpt_path={path}")

    @override
    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        moment, last = self._moment, trainer.is_last_batch
        if moment is Moment.BATCH:
            rank_zero_warn(
                "ExactResume: this checkpoint is saved within a training batch: no exact resume from it."
            )
        in_training = moment is not Moment.OUTSIDE
        due = in_training and validation_is_due(trainer)
        window = trainer.accumulate_grad_batches
        mid_window = in_training and not last and (trainer.fit_loop.batch_idx + 1) % window != 0
        follows = next_after(moment, due=due, last=last)
        mid_epoch = follows is not Next.EPOCH
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
                accumulating=mid_window,
            )
        mine = {
            **collect_randomness(trainer),
            "sums": collect_running_sums(trainer, pl_module) if mid_epoch else {},
            "metrics": collect_metric_states(pl_module, metrics_to_be_reset(trainer, moment)),
            "syncs_buffers": syncs_buffers(trainer),
            "random_at_start": self._random_at_start,
        }
        if moment is Moment.VALIDATION:  # it will be repeated from its start
            mine |= self._signals.randomness_before_validation or {}
            mine["in_validation"] = self._randomness_in_validation
            mine["metrics"] = self._metrics_before_validation
        # with manual optimization, the module may accumulate at any time
        half_done = mid_window or not pl_module.automatic_optimization
        shards = shards_parameters(trainer)
        if shards and half_done:
            rank_zero_warn(
                f"ExactResume: {type(trainer.strategy).__name__} shards gradients, so this checkpoint lacks"
                " those accumulated so far: no exact resume from it."
            )
        gradients = gradients_of(pl_module) if half_done and not shards else {}
        unsaved = {} if shards else unsaved_buffers(pl_module)
        buffers = {} if shards else buffers_of(pl_module)
        gathered = gather_tensors(trainer, gradients, if_equal=True)
        if isinstance(
            trainer.strategy, SplitsNetwork
        ):  # each gradient is in one process, and no part of a mean
            gathered = {
                name: [each for each in tensors if each is not None] for name, tensors in gathered.items()
            }
        checkpoint["callbacks"][self.state_key] = {
            "next": follows.value,
            "moment": moment.name,
            "data": describe_data(trainer),
            "last": last,
            "flags": collect_flags(trainer, pl_module),
            "has_validated": self._has_validated,
            "accumulate_grad_batches": trainer.accumulate_grad_batches,
            "shown": collect_shown(trainer),
            "pending_log": pending_log,
            "plateau_steps_due": plateau_steps_due(trainer, moment, follows, mid_window=mid_window),
            "step_size": self._step_size.with_loader(trainer).plain(),
            "ranks": gather_ranks(trainer, mine),
            "gradients": gathered,
            "buffers": gather_tensors(trainer, buffers, if_equal=False)
            | gather_tensors(trainer, unsaved, if_equal=True),
        }

    @override
    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if trainer.state.fn != TrainerFn.FITTING:
            return
        loops = checkpoint.get("loops", {}).get("fit_loop", {})
        self._loader_states = loops.get("state_dict", {}).get("combined_loader", [])
        state = checkpoint.get("callbacks", {}).get(self.state_key)
        if state is None:
            rank_zero_warn(
                "ExactResume: the checkpoint was saved without ExactResume, so random generators, the order"
                " of samples and the rest of an unfinished epoch will differ from an uninterrupted run."
            )
            return
        self._loaded, lacks = complete_state(state, loops)
        if lacks:
            rank_zero_warn(
                "ExactResume: the checkpoint was saved by an earlier version, without"
                f" {', '.join(lacks)}: these will differ from an uninterrupted run."
            )


_LEFT_OUT = {Moment.BATCH_END.name: "on_train_batch_end", Moment.VALIDATION_END.name: "on_validation_end"}


def _early_stopping_ended(trainer: Trainer) -> bool:
    callbacks = callbacks_of(trainer)
    return any(
        callback.wait_count >= max(callback.patience, 1)  # 0 is the same as 1
        or bool(callback.stopped_epoch)
        or callback.stopping_reason != EarlyStoppingReason.NOT_STOPPED
        for callback in callbacks
        if isinstance(callback, EarlyStopping)
    )
