"""Where in the training loop a checkpoint was saved, and the loop counters it needs for an exact resume.

Lightning resumes by comparing counters (ready, started, processed, completed) of its loops. At four moments
the saved counters make it skip work that the uninterrupted run does (seen with Lightning 2.6.6):

* after a batch before a validation: the validation is skipped;
* after the last batch of an epoch: the validation and the hooks of the epoch's end are skipped;
* on SIGTERM within a validation: the rest of the validation is skipped;
* after an epoch that `on_train_batch_start` has ended with -1: a batch is counted twice.

The functions here rewrite the counters in the checkpoint's dictionary, so that a resumed run continues with
the same action as an uninterrupted one.
"""

from enum import Enum
from typing import Any

from lightning.pytorch import Trainer

from lightning_optreg.trainer.queries import has_made_all_steps, in_last_epoch

__all__ = [
    "Moment",
    "Next",
    "begin_next_epoch",
    "in_batch_end",
    "is_last_epoch",
    "may_stop",
    "next_after",
    "rewrite_progress",
    "validation_is_due",
]

_BATCH = "epoch_loop.batch_progress"
_STATE = "epoch_loop.state_dict"
_VALIDATION = "epoch_loop.val_loop.batch_progress"


class Moment(Enum):
    """The current part of the training loop."""

    OUTSIDE = "outside of training"
    BATCH = "within a training batch"
    BATCH_END = "in on_train_batch_end"
    VALIDATION = "within a validation"
    VALIDATION_END = "in on_validation_end"
    ADVANCED = "after a batch and the validation that follows it"
    EPOCH_END = "in on_train_epoch_end"


class Next(Enum):
    """The first action of an exact resume."""

    BATCH = "batch"  # train on the next batch of the epoch
    VALIDATION = "validation"  # run a validation from its start
    EPOCH_END = "epoch_end"  # call the hooks of the epoch's end
    EPOCH = "epoch"  # start the next epoch


def is_last_epoch(trainer: Trainer) -> bool:
    """Return whether a run ends by itself after this epoch.

    A run stopped at the end of it would never get `on_train_end`: Lightning does not start it again.

    Args:
        trainer: The trainer, in `on_train_epoch_end`.
    """
    return in_last_epoch(trainer) or has_made_all_steps(trainer)


def validation_is_due(trainer: Trainer) -> bool:
    """Return whether Lightning validates right after the training batch that is ending.

    Args:
        trainer: The trainer, in `on_train_batch_end` or later in the same batch.
    """
    every_n_epochs = trainer.check_val_every_n_epoch
    if trainer.val_check_batch is None:
        return False
    if every_n_epochs is not None and (trainer.current_epoch + 1) % every_n_epochs != 0:
        return False
    if trainer.val_check_batch == float("inf"):
        due = trainer.is_last_batch
    else:
        loop = trainer.fit_loop
        batches = (loop.total_batch_idx if every_n_epochs is None else loop.batch_idx) + 1
        due = batches % trainer.val_check_batch == 0
    # Last, as it takes longer than the rest together, and this is asked in every step.
    return due and trainer.enable_validation


def in_batch_end(trainer: Trainer) -> bool:
    """Return whether the hooks of a training batch's end have begun, and have not ended."""
    progress: Any = trainer.fit_loop.epoch_loop.batch_progress.current  # typed as its parts' least
    ended: bool = progress.completed == progress.processed
    return not ended


def next_after(moment: Moment, *, due: bool, last: bool) -> Next:
    """Return what follows a moment of the uninterrupted run.

    Args:
        moment: The moment at which the checkpoint is saved.
        due: Whether a validation follows the batch.
        last: Whether the batch is the last of the epoch.

    Example:
        >>> next_after(Moment.BATCH_END, due=False, last=False)
        <Next.BATCH: 'batch'>
        >>> next_after(Moment.BATCH_END, due=True, last=True)
        <Next.VALIDATION: 'validation'>
    """
    if moment is Moment.VALIDATION or (moment is Moment.BATCH_END and due):
        return Next.VALIDATION
    if moment in (Moment.BATCH_END, Moment.VALIDATION_END, Moment.ADVANCED):
        return Next.EPOCH_END if last else Next.BATCH
    return Next.EPOCH


def rewrite_progress(
    fit_loop: dict[str, Any], moment: Moment, *, due: bool, last: bool, accumulating: bool
) -> None:
    """Correct the counters of a checkpoint, in place, so that Lightning skips no work on resuming.

    Args:
        fit_loop: `checkpoint["loops"]["fit_loop"]`.
        moment: The moment at which the checkpoint is saved.
        due: Whether a validation follows the batch.
        last: Whether the batch is the last of the epoch.
        accumulating: Whether the batch was accumulated without an optimizer step.
    """
    total, current = fit_loop[_BATCH]["total"], fit_loop[_BATCH]["current"]
    for count in ("started", "processed", "completed"):
        # They differ if `on_train_batch_start` returned -1 in an earlier epoch; Lightning compares totals.
        total[count] = total["ready"] - (current["ready"] - current[count])
    follows = next_after(moment, due=due, last=last)
    if follows is Next.EPOCH_END:  # if its hooks have begun, as when one of them was stopped: again
        for counters in (fit_loop["epoch_progress"]["total"], fit_loop["epoch_progress"]["current"]):
            counters["processed"] = counters["completed"]
    if follows is Next.VALIDATION:
        _complete(fit_loop[_BATCH])
        # Lightning recognises an unfinished validation by a batch that is started but not processed, and
        # starts it at the number of completed batches.
        for counters in (fit_loop[_VALIDATION]["total"], fit_loop[_VALIDATION]["current"]):
            counters.update(ready=1, started=1, processed=0, completed=0)
        fit_loop[_VALIDATION]["is_last_batch"] = False
    elif moment is Moment.BATCH_END and last:
        # The epoch then ends at once, with its hooks, when the resumed run gets no further batch.
        _complete(fit_loop[_BATCH])
        fit_loop[_STATE]["_batches_that_stepped"] += 1
    elif moment is Moment.ADVANCED and due:
        # Lightning would take the validation for unfinished and count its step twice. It counts correctly
        # from # the counters of a batch that is just ending.
        for counters in (fit_loop[_BATCH]["total"], fit_loop[_BATCH]["current"]):
            counters["completed"] = counters["processed"] - 1
        if not accumulating:
            fit_loop[_STATE]["_batches_that_stepped"] -= 1


def may_stop(trainer: Trainer) -> bool:
    """Return whether a run may stop now, having done its `min_epochs` and `min_steps`."""
    loop = trainer.fit_loop
    progress: Any = loop.epoch_progress.current
    epochs_done = not loop.min_epochs or progress.processed >= loop.min_epochs
    return epochs_done and (not trainer.min_steps or trainer.global_step >= trainer.min_steps)


def begin_next_epoch(trainer: Trainer) -> None:
    """Make a run that is resumed at the end of an epoch continue with the next epoch.

    With `max_steps` Lightning takes the epoch for unfinished: it repeats it without batches, and calls the
    hooks of its end again.

    Args:
        trainer: The trainer, in `on_train_start`.
    """
    loop = trainer.fit_loop
    if not loop.restarting:
        return
    current: Any = loop.epoch_progress.current
    if current.completed < current.processed:
        loop.epoch_progress.increment_completed()
    loop.reset_restart_stage()
    loop.epoch_loop.restarting = False
    loop.epoch_loop.reset_restart_stage()
    loop._restarting = False  # with max_steps, the public property of Lightning 2.6 sets it to True again


def _complete(progress: dict[str, Any]) -> None:
    for counters in (progress["total"], progress["current"]):
        counters["completed"] = counters["processed"]
