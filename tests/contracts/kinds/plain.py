"""The usual module, from which the other kinds differ in one way."""

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from lightning_optreg.data import BatchLoader

IMAGES = 12  # in batches of 4


def dataset() -> TensorDataset:
    generator = torch.Generator().manual_seed(3)
    return TensorDataset(
        torch.randn(IMAGES, 3, 4, 4, generator=generator), torch.arange(IMAGES) % 3, torch.arange(IMAGES)
    )


def network(outputs: int = 3) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(64, outputs),
    )


def collate(rows: Sequence[Any]) -> Any:
    images, labels, _ = zip(*rows, strict=True)
    return [torch.stack(images), torch.stack(labels)]


class NoSchedule(LightningModule):
    """A small convolutional network with batch normalisation and dropout, trained by Adam."""

    def __init__(self) -> None:
        super().__init__()
        self.batch_size = 4
        self.told = False
        """Whether its training loader is one of this package's, which can be told what to show."""
        self.make()

    def make(self) -> None:
        self.net: Any = network()

    # ---- data ----------------------------------------------------------------------------------------------

    def data(self) -> Dataset[Any]:
        return dataset()

    def collated(self, rows: Sequence[Any]) -> Any:
        return collate(rows)

    def loader(self, *, shuffle: bool = False) -> Any:
        return DataLoader(self.data(), batch_size=self.batch_size, shuffle=shuffle, collate_fn=self.collated)

    def train_dataloader(self) -> Any:
        if self.told and type(self).collated is NoSchedule.collated:
            images, labels, _ = dataset().tensors
            images = (images * 16 + 128).to(torch.uint8)
            return BatchLoader(images, labels, batch_size=self.batch_size, shuffle=True, seed=0)
        return self.loader(shuffle=True)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return [batch[0].to(self.dtype), batch[1]] if self.told and isinstance(batch, tuple) else batch

    def val_dataloader(self) -> Any:
        return self.loader()

    def test_dataloader(self) -> Any:
        return self.loader()

    def predict_dataloader(self) -> Any:
        return self.loader()

    # ---- steps ---------------------------------------------------------------------------------------------

    def parts(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Images and labels of a batch."""
        return batch[0].to(self.device, self.dtype), batch[1].to(self.device)

    def scores(self, images: Tensor) -> Tensor:
        found: Tensor = self.net(images)
        return found

    def loss(self, batch: Any) -> Tensor:
        images, labels = self.parts(batch)
        return nn.functional.cross_entropy(self.scores(images), labels)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.loss(batch)
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=4)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        self.log("val_loss", self.loss(batch), batch_size=4)

    def test_step(self, batch: Any, batch_idx: int) -> Any:
        self.log("test_loss", self.loss(batch), batch_size=4)

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        return self.scores(self.parts(batch)[0]).softmax(-1)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam([p for p in self.parameters() if p.requires_grad], lr=0.01)


class Plain(NoSchedule):
    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]
