"""What `DifferentialPrivacy` refuses in a run, before it begins."""

from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    Callback,
    GradientAccumulationScheduler,
    LearningRateFinder,
    ModelPruning,
)

from lightning_optreg.strategies.refused_callbacks import refused
from lightning_optreg.trainer.noise_left import compares_losses
from lightning_optreg.trainer.queries import callbacks_of, has_gradient_scaler
from lightning_optreg.trainer.refusals import (
    refuse_asynchronous,
    refuse_manual_optimization,
    refuse_own_weights,
    refuse_sharding,
    refuse_steps_elsewhere,
)
from lightning_optreg.trainer.roles import BreaksPrivacy, ChangesAccumulation

__all__ = ["refuse_callbacks", "refuse_setup", "refuse_strategies"]

_REASONS: dict[type[Callback], str] = {
    BatchSizeFinder: "tries sizes without the memory that the gradients of single examples take",
    GradientAccumulationScheduler: "makes steps of several batches, and an example may be in more than one",
    LearningRateFinder: "chooses a rate by training without noise",
    ModelPruning: "takes weights out of their layers",
}


def refuse_callbacks(trainer: Trainer, owner: str) -> None:
    """Refuse callbacks beside which training is not private, or that Opacus can't see through.

    Args:
        trainer: The trainer.
        owner: Name of the calling class, for the error.

    Raises:
        MisconfigurationException: If there is one.
    """
    reasons = list(refused(trainer, _REASONS))
    for callback in callbacks_of(trainer):
        name = type(callback).__name__
        if isinstance(callback, BreaksPrivacy) and callback.breaks_privacy:
            reasons.append((name, callback.breaks_privacy))
        if isinstance(callback, ChangesAccumulation):
            reasons.append((name, _REASONS[GradientAccumulationScheduler]))
    for name, reason in reasons:
        raise MisconfigurationException(f"{owner}: {name} can't stand beside it, as it {reason}")


def refuse_strategies(trainer: Trainer, owner: str) -> None:
    """Refuse strategies other than one device or DDP, with which steps can't be made private.

    Args:
        trainer: The trainer.
        owner: Name of the calling class, for the error.

    Raises:
        MisconfigurationException: If it has one of these.
    """
    refuse_sharding(trainer, owner, "so no process knows the gradient of an example")
    refuse_own_weights(trainer, owner, "so epsilon would not count what they learn by themselves; use ddp")
    refuse_steps_elsewhere(
        trainer, owner, "with gradients of single workers, each without enough noise; use ddp"
    )
    refuse_asynchronous(trainer, owner, "so no step has the noise of all; use ddp")


def refuse_setup(trainer: Trainer, pl_module: LightningModule, owner: str) -> None:
    """Refuse precisions, optimizers and loops with which steps can't be made private.

    Args:
        trainer: The trainer, from `on_fit_start` on.
        pl_module: The module.
        owner: Name of the calling class, for the errors.

    Raises:
        MisconfigurationException: If there is something of this kind.
    """
    refuse_manual_optimization(
        pl_module, owner, "as a step must have one backward pass, whose gradients it replaces"
    )
    if has_gradient_scaler(trainer):
        raise MisconfigurationException(
            f"{owner}: with a gradient scaler a step is left out if a gradient overflows, which says "
            "something about its examples; use precision bf16-mixed or 32-true"
        )
    if trainer.accumulate_grad_batches != 1:
        raise MisconfigurationException(
            f"{owner}: accumulate_grad_batches must be 1, got {trainer.accumulate_grad_batches}: an example "
            "may be in several of the batches of a step, and change it more than max_grad_norm allows; "
            "raise the batch size instead"
        )
    optimizers = trainer.optimizers
    if not optimizers or not optimizers[0].param_groups:  # Lightning's placeholder for none
        raise MisconfigurationException(f"{owner}: the module must have an optimizer, got none")
    if compares_losses(optimizers[0]):
        raise MisconfigurationException(
            f"{owner}: {type(optimizers[0]).__name__} compares losses, which have no noise; use a "
            "first-order optimizer"
        )
    known = set(map(id, pl_module.parameters()))
    groups: list[Any] = optimizers[0].param_groups
    if any(id(parameter) not in known for group in groups for parameter in group["params"]):
        raise MisconfigurationException(
            f"{owner}: the optimizer has parameters that are not the module's, so their layers are not seen"
        )
