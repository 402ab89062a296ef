"""Queries of Lightning's Trainer.

Lightning's connectors set some attributes of the trainer that its class does not declare, so type checkers
don't know them. They are only read here.
"""

from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.trainer.states import TrainerFn
from torch.optim import Optimizer

from lightning_optreg.trainer.roles import Asynchronous, NotesSignals

__all__ = [
    "callbacks_of",
    "datamodule_of",
    "has_gradient_scaler",
    "has_made_all_steps",
    "in_last_epoch",
    "is_dry_run",
    "is_fused",
    "is_logging_step",
    "log_cadence",
    "place_in_step",
    "reload_cadence",
    "shards_parameters",
    "told_to_stop",
    "validates_in_fit",
]


def callbacks_of(trainer: Trainer) -> list[Callback]:
    """Return the trainer's own list of callbacks, not a copy."""
    return trainer.callbacks  # type: ignore[attr-defined,no-any-return]


def datamodule_of(trainer: Trainer) -> Any:
    """Return the datamodule; None if loaders come from elsewhere."""
    return trainer.datamodule  # type: ignore[attr-defined]


def is_dry_run(trainer: Trainer) -> bool:
    """Return whether the trainer only tries out a few batches (`fast_dev_run`)."""
    return bool(trainer.fast_dev_run)  # type: ignore[attr-defined]


def log_cadence(trainer: Trainer) -> int:
    """Return `log_every_n_steps`; 0 if values of steps are not logged."""
    return trainer.log_every_n_steps  # type: ignore[attr-defined,no-any-return]


def is_logging_step(trainer: Trainer, step: int | None = None) -> bool:
    """Return whether the values of a step are logged.

    Args:
        trainer: The trainer.
        step: Number of the step, counted from 1. None: the last step.
    """
    every_n_steps = log_cadence(trainer)
    number = trainer.global_step if step is None else step
    return every_n_steps > 0 and number % every_n_steps == 0


def place_in_step(trainer: Trainer) -> tuple[int, int]:
    """Return the rank and the number of the processes that wait for each other in each step.

    Processes of an asynchronous strategy are alone: they can't exchange anything.
    """
    if isinstance(trainer.strategy, Asynchronous):
        return 0, 1
    return trainer.global_rank, trainer.world_size


def reload_cadence(trainer: Trainer) -> int:
    """Return `reload_dataloaders_every_n_epochs`; 0 if loaders are created once."""
    return trainer.reload_dataloaders_every_n_epochs  # type: ignore[attr-defined,no-any-return]


def told_to_stop(trainer: Trainer) -> bool:
    """Return whether a SIGTERM has come, which the run obeys at the end of a batch, validation or epoch."""
    noted = [each.told_to_stop for each in callbacks_of(trainer) if isinstance(each, NotesSignals)]
    return trainer.received_sigterm or any(noted)


def in_last_epoch(trainer: Trainer) -> bool:
    """Return whether the present epoch is the last that `max_epochs` allows."""
    epochs = trainer.max_epochs
    return epochs is not None and epochs >= 0 and trainer.current_epoch + 1 >= epochs


def has_made_all_steps(trainer: Trainer) -> bool:
    """Return whether all steps that `max_steps` allows are made."""
    return 0 <= trainer.max_steps <= trainer.global_step


def validates_in_fit(trainer: Trainer) -> bool:
    """Return whether a running validation is part of a fit, but not its sanity check."""
    return trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking


def has_gradient_scaler(trainer: Trainer) -> bool:
    """Return whether losses are scaled before the backward pass, as with precision 16-mixed."""
    return trainer.scaler is not None


def is_fused(optimizer: Optimizer) -> bool:
    """Return whether an optimizer unscales gradients itself, within its step."""
    # Private in torch 2.14: a gradient scaler reads it too, and there is no public name for it.
    return bool(getattr(optimizer, "_step_supports_amp_scaling", False))


def shards_parameters(trainer: Trainer) -> bool:
    """Return whether parameters and gradients are sharded, so that no process holds all of them."""
    return isinstance(trainer.strategy, (FSDPStrategy, DeepSpeedStrategy, ModelParallelStrategy))
