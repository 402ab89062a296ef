"""Somebody else's module and data: regression, with names and metrics of their own."""

from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


class Line(LightningModule):
    """A linear regression on a mapping of inputs."""

    def __init__(self, lr: float = 0.1, hidden: int = 0) -> None:
        super().__init__()
        self.lr = lr
        layers = [nn.Linear(3, 1)] if hidden == 0 else [nn.Linear(3, hidden), nn.Tanh(), nn.Linear(hidden, 1)]
        self.body = nn.Sequential(*layers)

    def _loss(self, batch: Any) -> Tensor:
        x, y = batch
        return nn.functional.mse_loss(self.body(x), y)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self._loss(batch)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("error_on_validation", self._loss(batch))

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("error_on_test", self._loss(batch))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.lr)


class Points(LightningDataModule):
    """Noisy points of a plane, in folds if asked."""

    def __init__(self, fold: int = 0, folds: int = 4, fold_seed: int = 0) -> None:
        super().__init__()
        self.fold, self.folds, self.fold_seed = fold, folds, fold_seed
        draw = torch.Generator().manual_seed(0)
        self.x = torch.randn(80, 3, generator=draw)
        self.y = self.x.sum(1, keepdim=True) + 0.1 * torch.randn(80, 1, generator=draw)

    def _loader(self, chosen: Tensor, *, shuffle: bool = False) -> Any:
        return DataLoader(TensorDataset(self.x[chosen], self.y[chosen]), batch_size=10, shuffle=shuffle)

    @property
    def _held(self) -> Tensor:
        order = torch.randperm(60, generator=torch.Generator().manual_seed(self.fold_seed))
        held = torch.zeros(80, dtype=torch.bool)
        held[order[self.fold :: self.folds]] = True
        return held

    def train_dataloader(self) -> Any:
        chosen = ~self._held
        chosen[60:] = False
        return self._loader(chosen, shuffle=True)

    def val_dataloader(self) -> Any:
        return self._loader(self._held)

    def test_dataloader(self) -> Any:
        return self._loader(torch.arange(80) >= 60)
