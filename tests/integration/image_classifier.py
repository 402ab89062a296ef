"""A project as its users write it: torchvision's ResNet on a folder of images, under LightningCLI."""

from pathlib import Path

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.cli import LightningCLI
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.models import resnet18
from torchvision.transforms import v2

import lightning_optreg.callbacks  # noqa: F401  # so that the YAML knows them by their short names


class Classifier(LightningModule):
    def __init__(self, num_classes: int, lr: float = 0.01):
        super().__init__()
        self.save_hyperparameters()
        self.backbone = resnet18(num_classes=num_classes)
        self.lr = lr

    def forward(self, x):
        return self.backbone(x)

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = torch.nn.functional.cross_entropy(self(x), y)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        scores = self(x)
        self.log("val_loss", torch.nn.functional.cross_entropy(scores, y))
        self.log("val_acc", (scores.argmax(1) == y).float().mean())

    def test_step(self, batch, batch_idx):
        x, y = batch
        self.log("test_loss", torch.nn.functional.cross_entropy(self(x), y))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)


class Pictures(LightningDataModule):
    def __init__(self, root: str, batch_size: int = 4):
        super().__init__()
        self.root, self.batch_size = Path(root), batch_size

    def setup(self, stage):
        transform = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
        self.train = ImageFolder(self.root / "train", transform)
        self.val = ImageFolder(self.root / "val", transform)

    def train_dataloader(self):
        return DataLoader(self.train, self.batch_size, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.val, self.batch_size)

    def test_dataloader(self):
        return DataLoader(self.val, self.batch_size)


def main(args=None):
    return LightningCLI(Classifier, Pictures, args=args, save_config_callback=None)


if __name__ == "__main__":
    main()
