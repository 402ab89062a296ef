"""A small classifier in float64, to train with a callback and by hand."""

from collections.abc import Iterator
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from tests.small_runs import ACCELERATOR, quiet_trainer

__all__ = ["Classifier", "batches", "train", "weights_of"]

BATCH, STEPS = 8, 6


class Classifier(LightningModule):
    """Batch normalisation, and a loss of its own."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.net = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(64, 3)
        )
        self.double()

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(self.net(images), labels)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.loss(*batch)
        self.log("loss", loss)
        return loss

    def train_dataloader(self) -> Any:
        generator = torch.Generator().manual_seed(5)
        pixels = torch.rand(BATCH * STEPS, 1, 6, 6, generator=generator, dtype=torch.float64)
        labels = torch.randint(0, 3, (BATCH * STEPS,), generator=generator)
        return DataLoader(TensorDataset(pixels, labels), batch_size=BATCH)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def batches() -> Iterator[tuple[Tensor, Tensor]]:
    """Those of an epoch, on the device."""
    for images, labels in Classifier().train_dataloader():
        yield images.to(ACCELERATOR), labels.to(ACCELERATOR)


def weights_of(module: LightningModule) -> dict[str, Tensor]:
    return {name: value.clone().cpu() for name, value in module.state_dict().items()}


def train(callbacks: list[Any], module: Classifier | None = None, **options: Any) -> dict[str, Tensor]:
    """Fit an epoch, and return weights and running averages."""
    module = module or Classifier()
    quiet_trainer(callbacks=callbacks, **{"max_epochs": 1, "log_every_n_steps": 2, **options}).fit(module)
    return weights_of(module)
