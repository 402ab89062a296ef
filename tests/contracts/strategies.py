"""The one table of strategies that contract tests go through. A new strategy is tested by adding a row."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial

import torch
from lightning.pytorch.strategies import Strategy

from lightning_optreg.strategies import ElasticAveraging, LocalSGD

__all__ = ["STRATEGIES", "StrategyRow"]


@dataclass(frozen=True)
class StrategyRow:
    """A row: a strategy at its usual setting, and what it refuses.

    Attributes:
        make: Makes the strategy.
        refuses: Callbacks of the table of callbacks that do not work with it, by the names of their classes,
            each with a part of the sentence that says so before the first step.
        processes: How many processes the tests start for it, as torchrun would; 1 if it starts its own.
        devices: Of the trainer.
        resumes: Whether a resumed run equals one that never stopped, to the last bit.
    """

    make: Callable[[], Strategy]
    refuses: Mapping[str, str] = field(default_factory=dict)
    processes: int = 2
    devices: int = 2
    resumes: bool = True


# Not half an hour's wait for a process that waits for the others in vain.
WAIT = timedelta(seconds=120)

OWN_WEIGHTS = {
    "AdamRestarts": "weights of their own, so a restart from the best common ones would not reach them",
    "Curriculum": "weights of their own, so images have no common score",
    "FullBatch": "weights of their own, so the whole set has no one loss and gradient",
}

NESTEROV = partial(torch.optim.SGD, lr=0.7, momentum=0.9, nesterov=True)

STRATEGIES: dict[str, StrategyRow] = {
    "ElasticAveraging": StrategyRow(
        lambda: ElasticAveraging(period=2, process_group_backend="gloo", timeout=WAIT),
        refuses=OWN_WEIGHTS,
    ),
    "LocalSGD": StrategyRow(
        lambda: LocalSGD(period=3, process_group_backend="gloo", timeout=WAIT),
        refuses=OWN_WEIGHTS,
    ),
    "DiLoCo": StrategyRow(
        lambda: LocalSGD(period=2, outer_optimizer=NESTEROV, process_group_backend="gloo", timeout=WAIT),
        refuses=OWN_WEIGHTS,
    ),
}
"""All rows, by name."""
