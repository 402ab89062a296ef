"""The steps of `ReduceLROnPlateau` that Lightning skips after a resume.

Lightning has no metric for a plateau schedule if the checkpoint is saved at the end of an epoch, and skips
the step of an epoch that is resumed in the middle.
"""

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer

from lightning_optreg.callbacks.resume.progress.loop_progress import Moment, Next

__all__ = ["make_plateau_steps", "plateau_steps_due"]


def plateau_steps_due(trainer: Trainer, moment: Moment, follows: Next, *, mid_window: bool) -> list[int]:
    """List the plateau schedules whose next step Lightning skips after a resume from this checkpoint.

    For schedules that count batches it is the step after the last batch, for others the step at the end of
    the checkpoint's epoch.

    Args:
        trainer: The trainer, during a fit.
        moment: The moment at which the checkpoint is saved.
        follows: The first action of an exact resume.
        mid_window: Whether the batch was accumulated without an optimizer step.
    """
    due = []
    for index, config in enumerate(trainer.lr_scheduler_configs):
        if config.interval == "epoch":
            # an interrupted epoch has no step at its end
            left_out = moment is not Moment.OUTSIDE and (
                moment is not Moment.EPOCH_END or trainer.is_last_batch
            )
            count = trainer.current_epoch + 1
        else:
            # a validation that follows the batch comes before the step, which Lightning then makes itself
            left_out = moment is Moment.BATCH_END and follows is not Next.VALIDATION and not mid_window
            count = trainer.fit_loop.batch_idx + 1
        if config.reduce_on_plateau and left_out and count % config.frequency == 0:
            due.append(index)
    return due


def make_plateau_steps(
    trainer: Trainer, pl_module: LightningModule, due: list[int], *intervals: str
) -> list[int]:
    """Make the steps of these intervals that are due.

    Args:
        trainer: The trainer, with the metrics of the checkpoint.
        pl_module: The module.
        due: Result of `plateau_steps_due`.
        intervals: "step", "epoch" or both.

    Returns:
        The steps that are still due.

    Raises:
        MisconfigurationException: If the checkpoint lacks the metric of a schedule.
    """
    left = []
    for index in due:
        config = trainer.lr_scheduler_configs[index]
        if config.interval not in intervals:
            left.append(index)
            continue
        value = trainer.callback_metrics.get(config.monitor or "")
        if value is None and not config.strict:
            continue  # Lightning makes no step either, and warns
        if value is None:
            raise MisconfigurationException(
                f"ExactResume: ReduceLROnPlateau needs {config.monitor!r}, but the checkpoint only has"
                f" {sorted(trainer.callback_metrics)}"
            )
        pl_module.lr_scheduler_step(config.scheduler, value)
    return left
