"""A module and a loader in which all can go wrong on a resume, and what compares the runs."""

import copy
import itertools
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor, nn
from torchmetrics import MeanMetric

from lightning_optreg.callbacks import ExactResume
from lightning_optreg.layers import WhitenedConv2d
from tests.small_runs import Diary, quiet_trainer


class StatefulLoader:
    """24 numbered samples in batches of 4, in an order made from the epoch, resumable at any batch.

    With `images`, a sample is an image of five channels and 4 x 4 pixels. Each rank has samples of its own.
    """

    def __init__(self, batches: int = 6, *, images: bool = False, rank: int = 0) -> None:
        self.batches = batches
        self.batch_sampler = SimpleNamespace(sampler=self)
        self.epoch = 0
        self.place = 0
        self.loaded: dict[str, int] | None = None
        generator = torch.Generator().manual_seed(7 + rank)
        self.x = torch.randn(4 * batches, 5, generator=generator)
        self.y = self.x @ torch.randn(5, 1, generator=generator)
        if images:
            self.x = self.x[:, :, None, None].repeat(1, 1, 4, 4)

    def __len__(self) -> int:
        return self.batches

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[Tensor]]:
        start = self.loaded["place"] if self.loaded and self.loaded["epoch"] == self.epoch else 0
        self.loaded = None
        order = torch.randperm(len(self.x), generator=torch.Generator().manual_seed(100 + self.epoch))
        for place in range(start, self.batches):
            self.place = place + 1
            rows = order[4 * place : 4 * self.place]
            yield [self.x[rows], self.y[rows]]

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "place": self.place}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.loaded = dict(state)


class Regression(LightningModule):
    """Dropout, momentum, batch-norm, a torchmetric, epoch means and sums, any schedule.

    With `asks` it asks how many steps the run has, as Lightning's users do to size a schedule, which sets the
    loaders up before anything is restored. With `whitened` it needs images, and its first layer whitens them.
    """

    def __init__(
        self,
        schedule: str = "none",
        monitor: str = "val_loss",
        *,
        adam: bool = False,
        asks: bool = False,
        whitened: bool = False,
    ) -> None:
        super().__init__()
        self.asks = asks
        self.schedule, self.monitor, self.adam = schedule, monitor, adam
        first: nn.Module = nn.Linear(5, 8)
        if whitened:
            first = nn.Sequential(WhitenedConv2d(5), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(40, 8))
        self.net = nn.Sequential(first, nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 1))
        if not whitened:
            self.net.register_forward_pre_hook(channel_means)
        self.error = MeanMetric()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        loss = nn.functional.mse_loss(self.net(x), y)
        self.log("train_step", loss, on_step=True, on_epoch=False)
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        self.log("train_max", loss.detach(), on_step=False, on_epoch=True, reduce_fx="max")
        self.error.update(loss.detach())
        self.log("train_error", self.error, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        self.log("val_loss", nn.functional.mse_loss(self.net(x), y))

    def configure_optimizers(self) -> Any:
        if self.asks and self.trainer.estimated_stepping_batches == 0:
            raise ValueError("a run without steps")
        optimizer: torch.optim.Optimizer
        if self.adam:
            optimizer = torch.optim.Adam(self.parameters(), lr=0.01, weight_decay=1e-3)
        else:
            optimizer = torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)
        schedulers = torch.optim.lr_scheduler
        match self.schedule:
            case "none":
                return optimizer
            case "cosine_step":
                config = {"scheduler": schedulers.CosineAnnealingLR(optimizer, 18), "interval": "step"}
            case "cosine_epoch":
                config = {"scheduler": schedulers.CosineAnnealingLR(optimizer, 3), "interval": "epoch"}
            case "plateau_epoch" | "plateau_step":
                config = {
                    "scheduler": schedulers.ReduceLROnPlateau(optimizer, patience=0, threshold=0.5),
                    "interval": self.schedule.split("_")[1],
                    "monitor": self.monitor,
                }
                if config["interval"] == "step":
                    config["frequency"] = 3
            case other:
                raise ValueError(other)
        return {"optimizer": optimizer, "lr_scheduler": config}


def channel_means(net: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
    """Make images (N, C, H, W) vectors (N, C); leave vectors as they are."""
    (x,) = args
    return (x if x.ndim == 2 else x.mean((2, 3)),)


def final_state(trainer: Trainer, module: LightningModule) -> dict[str, Any]:
    """Weights, optimizer and schedule of a finished fit, as comparable values."""
    return {
        "weights": {name: value.clone() for name, value in module.state_dict().items()},
        "optimizer": [optimizer.state_dict() for optimizer in trainer.optimizers],
        "schedule": [
            {k: v for k, v in config.scheduler.state_dict().items() if not k.startswith("_get_lr")}
            for config in trainer.lr_scheduler_configs
        ],
    }


def callback_states(trainer: Trainer) -> dict[str, Any]:
    """What this package's callbacks would put into a checkpoint now, but for times that were measured."""
    callbacks = trainer.callbacks  # type: ignore[attr-defined]  # a connector sets it
    own = [
        each
        for each in callbacks
        if any(kind.__module__.startswith("lightning_optreg.") for kind in type(each).__mro__)
    ]
    return copy.deepcopy(
        {
            each.state_key: {k: v for k, v in each.state_dict().items() if not k.endswith("seconds")}
            for each in own
        }
    )


def assert_identical(a: Any, b: Any, path: str = "") -> None:
    """Compare nested states bit for bit."""
    assert type(a) is type(b), f"{path}: {type(a)} and {type(b)}"
    if isinstance(a, Tensor):
        assert torch.equal(a, b), f"{path}: differ by up to {(a - b).abs().max()}"
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), f"{path}: keys {a.keys() ^ b.keys()}"
        for key in a:
            assert_identical(a[key], b[key], f"{path}/{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), f"{path}: lengths {len(a)} and {len(b)}"
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_identical(x, y, f"{path}/{i}")
    else:
        assert a == b, f"{path}: {a} and {b}"


def spoil_random_state() -> None:
    """Leave every global generator in a state that no run had."""
    seed_everything(987654, verbose=False)


EPOCHS = 3


class SaveAlways(Checkpoint):
    """Save at every moment at which a ModelCheckpoint may."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.count = itertools.count()
        self.paths: dict[str, Path] = {}
        self.logged: dict[str, set[tuple[int, str]]] = {}

    def _save(self, trainer: Trainer, moment: str) -> None:
        name = f"{next(self.count):03d}-{moment}-{trainer.current_epoch}-{trainer.global_step}"
        self.paths[name] = self.folder / f"{name}.ckpt"
        self.logged[name] = set(getattr(trainer.logger, "values", ()))
        trainer.save_checkpoint(self.paths[name])

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        self._save(trainer, "batch")

    def on_validation_end(self, trainer: Trainer, *args: Any) -> None:
        if not trainer.sanity_checking:
            self._save(trainer, "validation")

    def on_train_epoch_end(self, trainer: Trainer, *args: Any) -> None:
        self._save(trainer, "epoch")


def run(
    folder: Path,
    module: Regression,
    callbacks: list[Callback],
    ckpt_path: Path | None = None,
    **options: Any,
) -> tuple[dict[str, Any], dict[tuple[int, str], float], Trainer]:
    """Fit with `ExactResume`; return what the run ended with, what it logged, and its trainer."""
    diary = Diary()
    validate = options.pop("validate", True)
    trainer = quiet_trainer(
        max_epochs=EPOCHS,
        logger=diary,
        callbacks=[ExactResume(), *callbacks],
        default_root_dir=folder,
        **options,
    )
    loaders = {"val_dataloaders": StatefulLoader(2)} if validate else {}
    trainer.fit(module, StatefulLoader(), ckpt_path=ckpt_path, **loaders)
    return final_state(trainer, module), diary.values, trainer
