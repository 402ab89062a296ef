"""A fit whose workers write down what they do, for tests with processes of Ray; also a program of its own.

python -m tests.strategies.servers.ray_runs FOLDER Downpour EPOCHS [CHECKPOINT]
"""

import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_optreg import strategies
from lightning_optreg.callbacks import ExactResume
from tests.small_runs import quiet_trainer

SAMPLES, BATCH = 480, 8


class Noted(LightningModule):
    """A regression on numbered samples; each worker appends to a file what it takes.

    Args:
        folder: Where the files are.
        kill_at: Worker 1 kills itself, once, in its batch of this number.
        pause: Seconds that a step takes in addition.
    """

    def __init__(self, folder: Path, kill_at: int = -1, pause: float = 0.0) -> None:
        super().__init__()
        self.folder, self.kill_at, self.pause = folder, kill_at, pause
        self.net = nn.Linear(4, 1)
        self.norm = nn.BatchNorm1d(4, affine=False)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        number, x, y = batch
        rank = self.global_rank
        dead = self.folder / "killed"
        if rank == 1 and batch_idx == self.kill_at and not dead.exists():
            dead.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        with (self.folder / f"worker{rank}.txt").open("a") as file:
            numbers = ",".join(str(int(n)) for n in number)
            file.write(f"{os.getpid()} {self.current_epoch} {batch_idx} {numbers}\n")
        time.sleep(self.pause)
        return nn.functional.mse_loss(self.net(self.norm(x)), y)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        _, x, y = batch
        self.log("val_loss", nn.functional.mse_loss(self.net(self.norm(x)), y))

    def configure_optimizers(self) -> Any:
        return torch.optim.Adagrad(self.parameters(), lr=0.5)


def loader() -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(SAMPLES, 4, generator=generator)
    y = x @ torch.tensor([[1.0], [-2.0], [3.0], [0.5]]) + 0.1 * torch.randn(SAMPLES, 1, generator=generator)
    return DataLoader(TensorDataset(torch.arange(SAMPLES), x, y), BATCH)


def taken(folder: Path, worker: int) -> list[tuple[int, int, int, set[int]]]:
    """Process, epoch, batch and samples of each batch that a worker began."""
    lines = (folder / f"worker{worker}.txt").read_text().splitlines()
    rows = [line.split() for line in lines]
    return [(int(p), int(e), int(b), {int(n) for n in numbers.split(",")}) for p, e, b, numbers in rows]


def fit(
    folder: Path,
    strategy: Any,
    *,
    epochs: int = 2,
    devices: int = 2,
    ckpt_path: Path | None = None,
    callbacks: Sequence[Callback] = (),
    validated: bool = True,
    **options: Any,
) -> Trainer:
    """Fit with two workers; keep a checkpoint of each of worker 0's epochs."""
    torch.manual_seed(0)
    module = Noted(folder, **options)
    saver = ModelCheckpoint(folder, "{epoch}", save_top_k=-1)
    trainer = quiet_trainer(
        strategy=strategy,
        devices=devices,
        max_epochs=epochs,
        callbacks=[saver, *callbacks],
        enable_checkpointing=True,
        num_sanity_val_steps=0,
        default_root_dir=folder,
    )
    trainer.fit(module, loader(), loader() if validated else None, ckpt_path=ckpt_path)
    return trainer


if __name__ == "__main__":
    name, last = Path(sys.argv[1]), sys.argv[4:]
    torch.set_num_threads(1)
    made = getattr(strategies, sys.argv[2])()
    checkpoint = Path(last[0]) if last else None
    fit(name, made, epochs=int(sys.argv[3]), ckpt_path=checkpoint, callbacks=[ExactResume()], pause=0.02)
