"""A small regression, and trainers with several workers."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_optreg.data import BatchLoader
from lightning_optreg.randomness.processes import share_of
from lightning_optreg.strategies import Hogwild

__all__ = ["OurLoader", "Regression", "Told", "hogwild", "told", "trainer_of"]


class Regression(LightningModule):
    """Linear regression with batch norm, the same layer twice, and a schedule as long as the run."""

    def __init__(self, examples: int = 48, *, momentum: float = 0.9, lr: float = 0.02) -> None:
        super().__init__()
        self.examples, self.momentum, self.lr = examples, momentum, lr
        self.validated: list[Tensor] = []

    def configure_model(self) -> None:
        if hasattr(self, "first"):
            return
        torch.manual_seed(3 + self.global_rank)  # worker 0's count
        self.first = nn.Linear(4, 4, bias=False)
        self.norm = nn.BatchNorm1d(4)
        self.last = nn.Linear(4, 1)
        self.again = self.first

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.norm(self.again(self.first(x))))
        return out

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        loss = nn.functional.mse_loss(self(x), y)
        self.log("loss", loss)
        return loss

    def validation_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        self.log("val", nn.functional.mse_loss(self(batch[0]), batch[1]))

    def on_validation_end(self) -> None:
        self.validated.append(self.last.weight.detach().clone())

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=self.lr, momentum=self.momentum)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, total_iters=steps)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    def train_dataloader(self) -> Any:
        return DataLoader(self._data(), batch_size=4, shuffle=True)

    def val_dataloader(self) -> Any:
        return DataLoader(self._data(), batch_size=16)

    def _data(self) -> TensorDataset:
        x = torch.randn(self.examples, 4, generator=torch.Generator().manual_seed(0))
        return TensorDataset(x, x.sum(1, keepdim=True))


class OurLoader(Regression):
    """Batches of this package's loader."""

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        if not hasattr(batch, "images"):
            return batch
        x = batch.images.float().flatten(1)[:, :4]
        return x, batch.labels[:, None].float()

    def train_dataloader(self) -> Any:
        images = torch.arange(48 * 4, dtype=torch.uint8).reshape(48, 1, 2, 2)
        rank, world_size = share_of(self.trainer)
        return BatchLoader(
            images,
            torch.zeros(48).long(),
            batch_size=4,
            shuffle=True,
            seed=0,
            rank=rank,
            world_size=world_size,
        )


class Told(Callback):
    """Every worker writes what it sees, a line for each batch, to a file of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        names = ", ".join(sorted(type(each).__name__ for each in trainer.callbacks))
        self._write(
            trainer, f"start {trainer.global_step} {len(trainer.loggers)} {trainer.world_size} {names}"
        )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        seen = " ".join(f"{float(x):.6f}" for x in batch[0][:, 0])
        self._write(trainer, f"batch {trainer.current_epoch} {trainer.global_step} {float(rate):.9f} {seen}")

    def _write(self, trainer: Trainer, line: str) -> None:
        with (self.folder / f"worker{trainer.global_rank}.txt").open("a") as file:
            file.write(f"{os.getpid()} {line}\n")


def told(folder: Path, worker: int, kind: str) -> list[list[str]]:
    """The words of a worker's lines of a kind, without the process and the kind."""
    lines = [line.split() for line in (folder / f"worker{worker}.txt").read_text().splitlines()]
    return [words[2:] for words in lines if words[1] == kind]


def hogwild(**options: Any) -> Hogwild:
    """The strategy; nothing waits for minutes."""
    return Hogwild(timeout=60.0, **options)


def trainer_of(folder: Path, devices: int = 2, *, strategy: Any = None, **options: Any) -> Trainer:
    """A trainer that shows nothing."""
    defaults: dict[str, Any] = {
        "max_epochs": 2,
        "callbacks": [],
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 1,
    }
    return Trainer(
        accelerator="cpu",
        devices=devices,
        strategy=strategy or hogwild(),
        default_root_dir=folder,
        **(defaults | options),
    )
