"""Runs of strategies whose processes march together, in forks of the tests' process."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from lightning_optreg.strategies import ElasticAveraging, LocalSGD
from tests.processes import in_processes
from tests.small_runs import quiet_trainer

__all__ = ["Net", "Numbers", "Tensors", "Validated", "elastic", "fit", "in_forks", "local", "own_of"]

WAIT = timedelta(seconds=60)


def elastic(**options: Any) -> ElasticAveraging:
    return ElasticAveraging(**{"process_group_backend": "gloo", "timeout": WAIT, **options})


def local(**options: Any) -> LocalSGD:
    return LocalSGD(**{"process_group_backend": "gloo", "timeout": WAIT, **options})


def in_forks(count: int, function: Callable[..., None], *args: Any) -> None:
    """Call `function(rank, *args)` in each of `count` processes at once."""
    in_processes(count, function, *args)


class Numbers:
    """Batches of a worker's own, the same in each epoch, and as often as asked for."""

    def __init__(self, rank: int, batches: int = 4, dtype: torch.dtype = torch.float64) -> None:
        draws = torch.Generator().manual_seed(rank)
        self.batches = [torch.randn(8, 3, generator=draws, dtype=torch.float64) for _ in range(batches)]
        self.batches = [batch.to(dtype) for batch in self.batches]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.batches)


class Net(LightningModule):
    """Least squares in float64, of a linear or another network, with any optimizer."""

    def __init__(
        self,
        optimizer: Callable[..., torch.optim.Optimizer],
        net: nn.Module | None = None,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.net = (net or nn.Linear(3, 1, bias=False)).to(dtype)
        self.optimizer = optimizer

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return (self.net(batch).squeeze(-1) - batch.sum(-1)).square().mean()

    def configure_optimizers(self) -> Any:
        return self.optimizer(self.parameters())


class Validated(Net):
    """With a validation."""

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val_loss", self.training_step(batch, batch_idx), sync_dist=True)


Tensors = dict[str, Tensor]


def fit(
    module: LightningModule, strategy: Any, rank: int, *callbacks: Callback, devices: int = 2, **options: Any
) -> Trainer:
    """Fit on the rank's batches; `ckpt_path`, `batches`, `validate` and the trainer's own options."""
    ckpt_path, batches = options.pop("ckpt_path", None), options.pop("batches", 4)
    dtype = next(module.parameters()).dtype
    validation = [Numbers(10 + rank, 1, dtype)] if options.pop("validate", False) else []
    trainer = quiet_trainer(
        **{"strategy": strategy, "devices": devices, "max_epochs": 1, "callbacks": list(callbacks), **options}
    )
    trainer.fit(module, Numbers(rank, batches, dtype), *validation, ckpt_path=ckpt_path)
    return trainer


def own_of(trainer: Trainer, folder: Path, rank: int) -> list[Tensors]:
    """The workers' own weights, from a checkpoint that is saved now; empty but on rank 0."""
    path = folder / "own.ckpt"
    trainer.save_checkpoint(path)
    if rank != 0:
        return []
    saved = torch.load(path, weights_only=True)["workers"]["tensors"]
    names = [name for name in saved if name.startswith("/'weights'/")]
    return [
        {name.split("'")[3]: saved[name][index if len(saved[name]) > 1 else 0] for name in names}
        for index in range(trainer.world_size)
    ]
