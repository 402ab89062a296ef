"""For runs of a few steps, as most tests make them: a trainer, a logger, a step by hand.

`OPTREG_TEST_ACCELERATOR=cuda pytest tests/contracts` makes those of the contracts on a GPU.
"""

import os
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from torch import Tensor

__all__ = ["ACCELERATOR", "Diary", "quiet_trainer", "step_by_hand"]

ACCELERATOR = os.environ.get("OPTREG_TEST_ACCELERATOR", "cpu")
"""Of runs that need not be on a CPU; a name of Lightning's that is also one of torch's devices."""


def quiet_trainer(**options: Any) -> Trainer:
    """A trainer on one device that prints nothing, keeps no logs or checkpoints, and logs every step.

    `options` are those of Lightning's `Trainer`, and come before these settings.
    """
    return Trainer(
        **{
            "accelerator": ACCELERATOR,
            "devices": 1,
            "logger": False,
            "log_every_n_steps": 1,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            **options,
        }
    )


def step_by_hand(module: LightningModule, loss: Tensor) -> None:
    """Make the step of a module with manual optimization and one optimizer."""
    optimizer: Any = module.optimizers()
    optimizer.zero_grad()
    module.manual_backward(loss)
    optimizer.step()


class Diary(Logger):
    """Keep every logged value under (step, name); a value logged twice must be the same."""

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[tuple[int, str], float] = {}

    name = "diary"
    version = "0"

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        pass

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        for name, value in metrics.items():
            if name != "epoch":
                self.values[int(step or 0), name] = float(value)
