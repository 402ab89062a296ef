"""The one table of modes of the trainer. A new mode is held to all callbacks by adding a row."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    BatchSizeFinder,
    EMAWeightAveraging,
    GradientAccumulationScheduler,
    LearningRateFinder,
    ModelCheckpoint,
    ModelPruning,
    StochasticWeightAveraging,
)
from torch import Tensor, nn

from tests.contracts.cells import Outcome, run_cell
from tests.contracts.kinds import Kind, NoSchedule, Plain, network

__all__ = ["MODES", "Mode", "run_mode"]


class WithRate(NoSchedule):
    """Has a rate that can be found."""

    def __init__(self) -> None:
        super().__init__()
        self.lr = 0.01

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=self.lr)


class Tuned(NoSchedule):
    """A backbone and a head."""

    def make(self) -> None:
        layers = list(network())
        self.backbone, self.head = nn.Sequential(*layers[:3]), nn.Sequential(*layers[3:])

    def scores(self, images: Tensor) -> Tensor:
        found: Tensor = self.head(self.backbone(images))
        return found


class Interrupted(NoSchedule):
    """Its user has enough of it."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if self.current_epoch == 1 and batch_idx == 1:
            raise KeyboardInterrupt
        return super().training_step(batch, batch_idx)


@dataclass(frozen=True)
class Mode:
    """How a cell of the table runs.

    Attributes:
        options: Of the trainer.
        kind: The kind of module.
        beside: Callbacks of Lightning's that make the mode.
        saves: Whether checkpoints are kept.
    """

    options: dict[str, Any] = field(default_factory=dict)
    kind: Callable[[], NoSchedule] = NoSchedule
    beside: Callable[[LightningModule], Sequence[Callback]] = lambda module: []
    saves: bool = False


def pruning(module: LightningModule) -> list[Callback]:
    network: Any = module.net
    return [ModelPruning("l1_unstructured", parameters_to_prune=[(network[5], "weight")], amount=0.5)]


MODES: dict[str, Mode] = {
    "usual": Mode(),
    "accumulation": Mode({"accumulate_grad_batches": 2}),
    "accumulation over more than an epoch": Mode({"accumulate_grad_batches": 5}),
    "growing accumulation": Mode(beside=lambda _: [GradientAccumulationScheduler({0: 1, 1: 2})]),
    "64-true": Mode({"precision": "64-true"}),
    "bf16-true": Mode({"precision": "bf16-true"}),
    "bf16-mixed": Mode({"precision": "bf16-mixed"}),
    "barebones": Mode({"barebones": True}),
    "no training batches": Mode({"limit_train_batches": 0}),
    "no validation batches": Mode({"limit_val_batches": 0}),
    "no batches": Mode({f"limit_{stage}_batches": 0 for stage in ("train", "val", "test", "predict")}),
    "part of the batches": Mode({f"limit_{stage}_batches": 0.67 for stage in ("train", "val", "test")}),
    "overfit_batches": Mode({"overfit_batches": 1}),
    "fast_dev_run": Mode({"fast_dev_run": True}),
    "batch-size finder": Mode(beside=lambda _: [BatchSizeFinder(steps_per_trial=1, max_trials=2)]),
    "learning-rate finder": Mode(kind=WithRate, beside=lambda _: [LearningRateFinder(num_training_steps=6)]),
    "Ctrl+C": Mode(kind=Interrupted),
    "BackboneFinetuning": Mode(kind=Tuned, beside=lambda _: [BackboneFinetuning(1)]),
    "ModelPruning": Mode(beside=pruning),
    "weight averaging": Mode(beside=lambda _: [EMAWeightAveraging(decay=0.9)]),
    "stochastic weight averaging": Mode(beside=lambda _: [StochasticWeightAveraging(0.01, 1)]),
    "gradient clipping": Mode({"gradient_clip_val": 0.1}),
    "clipping by value": Mode({"gradient_clip_val": 0.1, "gradient_clip_algorithm": "value"}),
    "detect_anomaly": Mode({"detect_anomaly": True}),
    "no sanity check": Mode({"num_sanity_val_steps": 0}),
    "whole sanity check": Mode({"num_sanity_val_steps": -1}),
    "max_time": Mode({"max_time": {"hours": 1}}),
    "max_steps": Mode({"max_steps": 4, "max_epochs": -1}),
    "max_steps before a validation": Mode({"max_steps": 1, "max_epochs": -1, "num_sanity_val_steps": 0}),
    "no epochs": Mode({"max_epochs": 0}),
    "check_val_every_n_epoch": Mode({"check_val_every_n_epoch": 2}),
    "validation in mid-epoch": Mode({"val_check_interval": 2}),
    "validation across epochs": Mode({"val_check_interval": 4, "check_val_every_n_epoch": None}),
    "reloaded loaders": Mode({"reload_dataloaders_every_n_epochs": 1}),
    "no inference mode": Mode({"inference_mode": False}),
    "rarely logged": Mode({"log_every_n_steps": 50}),
    "never logged": Mode({"log_every_n_steps": 0}),
    "profiled": Mode({"profiler": "simple"}),
    "schedule": Mode(kind=Plain),
    "checkpoints": Mode(saves=True),
}


def run_mode(folder: Path, name: str, make: Callable[[], Sequence[Callback]]) -> Outcome:
    """Run a cell in a mode."""
    mode = MODES[name]
    options, beside = dict(mode.options), mode.beside
    if mode.saves:
        options["enable_checkpointing"] = True
        saver = ModelCheckpoint(folder, every_n_train_steps=2, save_last=True)
        return run_cell(folder, Kind(mode.kind), make, options=options, around=lambda _: [saver])
    return run_cell(folder, Kind(mode.kind), make, options=options, around=beside)
