"""A project as its users write it: a regression with a schedule and a validation, under LightningCLI."""

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.cli import LightningCLI
from torch.utils.data import DataLoader, TensorDataset

import lightning_optreg.callbacks  # noqa: F401  # so that the YAML knows them by their short names


class Regressor(LightningModule):
    def __init__(self, width: int = 16, lr: float = 0.01):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(6, width), torch.nn.Tanh(), torch.nn.Dropout(0.1), torch.nn.Linear(width, 1)
        )
        self.lr = lr

    def training_step(self, batch, batch_idx):
        loss = torch.nn.functional.mse_loss(self.layers(batch["inputs"]), batch["targets"])
        self.log("train_mse", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_mse", torch.nn.functional.mse_loss(self.layers(batch["inputs"]), batch["targets"]))

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=self.lr)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 4)]


class Table(TensorDataset):
    def __getitem__(self, i):
        x, y = super().__getitem__(i)
        return {"inputs": x, "targets": y}


class Measurements(LightningDataModule):
    def __init__(self, rows: int = 60):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(rows, 6, generator=generator)
        y = x @ torch.tensor([[2.0], [-1.0], [0.5], [0.0], [0.0], [0.0]])
        self.table = Table(x, y + 0.3 * torch.randn(rows, 1, generator=generator))

    def train_dataloader(self):
        return DataLoader(self.table, batch_size=10, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.table, batch_size=30)


def main(args=None):
    return LightningCLI(Regressor, Measurements, args=args, save_config_callback=None)


if __name__ == "__main__":
    main()
