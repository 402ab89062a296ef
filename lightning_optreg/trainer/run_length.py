"""How long a run is, counted as its learning-rate schedule counts.

Lightning steps a schedule after each optimizer step or each epoch, or after one in several of these.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import BatchSizeFinder, GradientAccumulationScheduler, Timer

from lightning_optreg.trainer.queries import callbacks_of, is_dry_run
from lightning_optreg.trainer.roles import ChangesAccumulation

__all__ = [
    "RunLength",
    "ends_by_time",
    "run_length",
    "schedule_steps",
    "searches_batch_size",
    "trial_length",
]

_TRIALS = 1_000_000  # longer than what a search for a batch size tries out


@dataclass(frozen=True)
class RunLength:
    """How many values of a schedule a run uses, and what else decides on its length.

    Attributes:
        count: Gives the number, when it is asked for the first time: to know it may take the training loader.
            Infinite if the run has no end.
        unit: What is counted, in the plural, for messages.
        dry: Whether nothing is to be refused.
        saved: State of the schedule in the checkpoint that the run goes on from; None if there is none.
        checked: Whether the run that wrote the checkpoint had its schedule's length checked.
        loaded: Length of the run that the module was loaded from, which stands where none was given.
        after: Length of a warm-up before the schedule.
        saved_after: The same in the checkpoint, whose warm-up goes on.
    """

    count: Callable[[], float]
    unit: str
    dry: bool = False
    saved: Mapping[str, Any] | None = None
    checked: bool = True
    loaded: int | None = None
    after: int = 0
    saved_after: int = 0
    asked: list[float] = field(default_factory=list)

    @property
    def times(self) -> float:
        """The number; 0 where nothing is trained."""
        if not self.asked:
            self.asked.append(self.count())
        return self.asked[0]

    @property
    def rest(self) -> str:
        """What is left for the schedule, in words; of a run with an end."""
        return f"{int(self.times) - self.after} {self.unit}" + (" after the warm-up" if self.after else "")


def schedule_steps(
    batches: float,
    epochs: float,
    max_steps: float,
    accumulate: Callable[[int], int],
    interval: str = "step",
    frequency: int = 1,
    begun: tuple[int, int] = (0, 0),
) -> float:
    """Count the values of a schedule that a run uses: one more than its steps before the last optimizer step.

    Args:
        batches: Of an epoch, at least 1; infinite if that is not known.
        epochs: Of the run; may be infinite.
        max_steps: Optimizer steps at most; may be infinite.
        accumulate: Gives the number of batches that an optimizer step takes in an epoch; the last one takes
            what is left.
        interval: "step" or "epoch".
        frequency: Lightning steps the schedule where batches of the epoch, or epochs, divide by this.
        begun: Epochs and optimizer steps that are made already and are not counted.

    Returns:
        Infinite if the run has no end, or none that is known.

    Example:
        >>> schedule_steps(422, 18, math.inf, lambda epoch: 1)
        7596
        >>> schedule_steps(422, 18, math.inf, lambda epoch: 4, interval="epoch", frequency=2)
        9
    """
    if interval == "epoch" and max_steps == math.inf:
        return _epochs(begun[0], int(epochs), frequency) if epochs < math.inf else math.inf
    if max_steps == math.inf and math.inf in (epochs, batches):
        return math.inf
    if interval == "epoch" and batches == math.inf:
        return math.inf
    before = made = here = 0
    epoch, steps = begun
    while epoch < epochs and steps < max_steps:
        window, before = accumulate(epoch), made
        here = int(min(batches if batches == math.inf else math.ceil(batches / window), max_steps - steps))
        made += _made(batches, window, here, frequency)
        steps, epoch = steps + here, epoch + 1
    if interval == "epoch":
        return _epochs(begun[0], epoch, frequency)
    return 1 + before + _made(batches, window, here - 1, frequency) if steps > begun[1] else 0


def _epochs(begun: int, end: int, frequency: int) -> int:
    """Values of a schedule that counts epochs, from one epoch to another."""
    return 1 + (end - 1) // frequency - begun // frequency if end > begun else 0


def _made(batches: float, window: int, steps: int, frequency: int) -> int:
    """Steps of the schedule in the first optimizer steps of an epoch."""
    if frequency == 1:
        return steps
    return sum(min(step * window, batches) % frequency == 0 for step in range(1, steps + 1))


def run_length(trainer: Trainer, interval: str, frequency: int, begun: tuple[int, int] = (0, 0)) -> RunLength:
    """Tell how long a schedule must be to end with a trainer's run.

    Counts `max_epochs`, `max_steps`, `limit_train_batches`, `accumulate_grad_batches` and callbacks that
    change this from epoch to epoch (`BatchSizeGrowth`, Lightning's `GradientAccumulationScheduler`).

    Args:
        trainer: The trainer, from `configure_optimizers` on.
        interval: "step" or "epoch".
        frequency: As in `schedule_steps`.
        begun: As there.
    """

    def count() -> float:
        if trainer.limit_train_batches == 0:  # then Lightning doesn't count them
            return 0
        epochs = math.inf if trainer.max_epochs in (None, -1) else trainer.max_epochs
        max_steps = math.inf if trainer.max_steps == -1 else trainer.max_steps
        batches: float = math.inf
        known = epochs if interval == "epoch" else max_steps if frequency == 1 else math.inf
        if known == math.inf or math.inf not in (epochs, max_steps):
            # As `trainer.estimated_stepping_batches` does, which knows neither epochs nor callbacks.
            if trainer.train_dataloader is None:
                trainer.fit_loop.setup_data()
            batches = trainer.num_training_batches
        if 0 in (batches, epochs, max_steps):
            return 0
        return schedule_steps(batches, epochs, max_steps, _accumulation(trainer), interval, frequency, begun)

    unit = "epochs" if interval == "epoch" else "steps"
    if frequency > 1:
        unit = f"steps of the schedule, one in {frequency} {'epochs' if interval == 'epoch' else 'batches'}"
    dry = is_dry_run(trainer)
    return RunLength(count, unit, dry=dry)


def trial_length() -> RunLength:
    """Stand for the run's length while Lightning's `BatchSizeFinder` tries out sizes."""
    return RunLength(lambda: _TRIALS, "steps", dry=True)


def searches_batch_size(trainer: Trainer) -> bool:
    """Tell whether the trainer is going to search for a batch size before it trains."""
    callbacks = callbacks_of(trainer)
    return any(isinstance(callback, BatchSizeFinder) for callback in callbacks)


def ends_by_time(trainer: Trainer) -> bool:
    """Tell whether the trainer has a `max_time`, or Lightning's `Timer` with a duration."""
    callbacks = callbacks_of(trainer)
    return any(isinstance(each, Timer) and each.time_remaining() is not None for each in callbacks)


def _accumulation(trainer: Trainer) -> Callable[[int], int]:
    for callback in callbacks_of(trainer):
        if isinstance(callback, ChangesAccumulation):
            return partial(callback.accumulation, trainer)
        if isinstance(callback, GradientAccumulationScheduler):
            return callback.get_accumulate_grad_batches
    return lambda epoch: trainer.accumulate_grad_batches
