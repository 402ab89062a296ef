"""What `Hogwild` refuses with several workers."""

from collections.abc import Sequence

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    Callback,
    LearningRateFinder,
    ModelPruning,
    StochasticWeightAveraging,
)
from torch.optim import Optimizer

from lightning_optreg.optimizers import AdaptiveRevision
from lightning_optreg.strategies.refused_callbacks import refused
from lightning_optreg.strategies.shared_memory._board import MOST_GROUPS
from lightning_optreg.strategies.workers import has_plateau
from lightning_optreg.trainer.noise_left import compares_losses

__all__ = ["refuse_callbacks", "refuse_optimizers"]

_REASONS: dict[type[Callback], str] = {
    BatchSizeFinder: "it would try sizes in each worker by itself: find the size with one device",
    LearningRateFinder: "it would try rates in each worker by itself: find the rate with one device",
    ModelPruning: "each worker would prune the shared weights by itself: prune after training",
    StochasticWeightAveraging: "each worker would average the shared weights by itself: use WeightAveraging",
}


def refuse_callbacks(trainer: Trainer) -> None:
    """Refuse callbacks of Lightning that every worker would run by itself, with contradicting results."""
    for name, reason in refused(trainer, _REASONS):
        raise MisconfigurationException(f"Hogwild: {name} doesn't work with several workers, as {reason}")


def refuse_optimizers(trainer: Trainer, optimizers: Sequence[Optimizer], *, shared_state: bool) -> None:
    """Refuse optimizers that can't work with weights which others change."""
    for optimizer in optimizers:
        name = type(optimizer).__name__
        if compares_losses(optimizer):
            raise MisconfigurationException(
                f"Hogwild: {name} compares losses and gradients at points of its own, which the other "
                "workers would move: use a first-order optimizer"
            )
        if isinstance(optimizer, AdaptiveRevision) and not shared_state:
            raise MisconfigurationException(
                f"Hogwild: {name} needs the sum of all workers' gradients: set shared_state to true"
            )
    groups = sum(len(optimizer.param_groups) for optimizer in optimizers)
    if has_plateau(trainer) and groups > MOST_GROUPS:
        raise MisconfigurationException(
            f"Hogwild: with a schedule that follows a metric there can be {MOST_GROUPS} parameter groups, "
            f"got {groups}"
        )
