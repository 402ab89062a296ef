"""Lightning's callbacks that do not work with parameter servers."""

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import (
    BaseFinetuning,
    BatchSizeFinder,
    LearningRateFinder,
    ModelPruning,
    StochasticWeightAveraging,
)

from lightning_optreg.strategies.refused_callbacks import refused

__all__ = ["refuse_callbacks"]

_REASONS: dict[type[Callback], str] = {
    BaseFinetuning: "servers keep the parameters that the run begins with: freeze by requires_grad",
    BatchSizeFinder: "it tries sizes in worker 0 only: use it in a run without this strategy",
    LearningRateFinder: "it tries rates in worker 0 only: use it in a run without this strategy",
    ModelPruning: "other workers would bring pruned weights back: prune after training",
    StochasticWeightAveraging: "it changes weights and rates of worker 0 only: use WeightAveraging",
}


def refuse_callbacks(owner: str, trainer: Trainer) -> None:
    """Refuse them, before the first step.

    Args:
        owner: Name of the strategy, for the error.
        trainer: The trainer.

    Raises:
        MisconfigurationException: If there is one.
    """
    for name, reason in refused(trainer, _REASONS):
        raise MisconfigurationException(f"{owner}: {name} doesn't work with it; {reason}")
