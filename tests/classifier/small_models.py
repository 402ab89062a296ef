"""A small classifier, ten images for it, and a trainer of one epoch."""

from functools import partial
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import nn
from torch.optim import SGD
from torch.utils.data import DataLoader, TensorDataset

from lightning_optreg.classifier import ImageClassifier
from tests.small_runs import quiet_trainer

__all__ = ["images", "loader", "small_model", "small_net", "trainer_for"]


def small_net() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 6), nn.LayerNorm(6), nn.Linear(6, 3))


def images(count: int = 10) -> TensorDataset:
    generator = torch.Generator().manual_seed(1)
    return TensorDataset(
        torch.randn(count, 1, 4, 4, generator=generator), torch.arange(count, dtype=torch.int64) % 3
    )


def loader(count: int = 10, batch_size: int = 4) -> DataLoader[Any]:
    """Batches of 4, 4 and 2 images, always in one order."""
    return DataLoader(images(count), batch_size=batch_size)


def small_model(**arguments: Any) -> ImageClassifier:
    return ImageClassifier(small_net(), num_classes=3, **{"optimizer": partial(SGD, lr=0.1), **arguments})


def trainer_for(**options: Any) -> Trainer:
    """A trainer of one epoch."""
    return quiet_trainer(**{"max_epochs": 1, **options})
