"""The one table of modules that `ExactResume` is held to. A new way to train is tested by adding a row."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    BaseFinetuning,
    EarlyStopping,
    GradientAccumulationScheduler,
)
from torch import Tensor, nn
from torchmetrics import MeanAbsoluteError, MeanMetric, MeanSquaredError, MetricCollection, SumMetric
from torchmetrics.wrappers import Running

from tests.resume_tools import StatefulLoader

__all__ = ["MODULES", "Plain"]


class Plain(LightningModule):
    """A backbone with batch normalisation, and a head with dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU())
        self.head = nn.Sequential(nn.Dropout(0.5), nn.Linear(8, 1))

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        return nn.functional.mse_loss(self.head(self.backbone(x)), y)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.loss(batch)
        self.log("loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.loss(batch), prog_bar=True)

    def configure_optimizers(self) -> Any:
        free = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return torch.optim.SGD(free, lr=0.05, momentum=0.9)


class FrozenAtFirst(Plain):
    """Freezes at the start, and lets go in the second epoch."""

    def on_train_start(self) -> None:
        self.backbone.eval()
        self.backbone.requires_grad_(False)

    def on_train_epoch_start(self) -> None:
        if self.current_epoch == 1:
            self.backbone.train()
            self.backbone.requires_grad_(True)


class LetGoByLayer(BaseFinetuning):
    """Lets one layer go after the other; batch normalisation is frozen until then."""

    def freeze_before_training(self, pl_module: LightningModule) -> None:
        self.freeze(pl_module.backbone, train_bn=False)  # type: ignore[arg-type]  # modules are attributes

    def finetune_function(
        self, pl_module: LightningModule, epoch: int, optimizer: torch.optim.Optimizer
    ) -> None:
        layers: Any = pl_module.backbone
        if epoch in (1, 2):
            self.unfreeze_and_add_param_group(layers[epoch - 1], optimizer, lr=0.01, train_bn=epoch == 2)


class LogsEverywhere(Plain):
    """Logs random values in all hooks that allow it, in all ways."""

    def on_train_start(self) -> None:
        self.log("start", torch.rand(1))
        self.log("start_sum", torch.ones(1), reduce_fx="sum")

    def on_train_epoch_start(self) -> None:
        self.log("epoch_start", torch.rand(1))

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.log("batch_start", torch.rand(1), on_step=True, on_epoch=True)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.loss(batch)
        for way in ("mean", "sum", "min", "max"):
            self.log(way, loss.detach(), reduce_fx=way, on_step=True, on_epoch=True, prog_bar=True)
        if batch_idx % 3 == 0:
            self.log("third", loss, on_step=True, on_epoch=True, batch_size=3)
        return loss

    def on_before_zero_grad(self, optimizer: torch.optim.Optimizer) -> None:
        self.log("before_zero_grad", torch.rand(1))

    def on_train_epoch_end(self) -> None:
        self.log("epoch_end", torch.rand(1))


class Accumulates(Plain):
    """Steps after every fourth batch, wherever an epoch ends."""

    automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        self.manual_backward(self.loss(batch) / 4)
        if self.trainer.fit_loop.total_batch_idx % 4 == 3:
            optimizer.step()
            optimizer.zero_grad()


class Adversaries(Plain):
    """Two optimizers that step differently often, one of them with a schedule."""

    automatic_optimization = False

    def __init__(self) -> None:
        super().__init__()
        self.generator = nn.Linear(5, 5)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        made, judged = self.optimizers()  # type: ignore[misc]  # a list of two
        schedule: Any = self.lr_schedulers()
        x, y = batch
        for optimizer, steps in ((made, batch_idx % 2 == 0), (judged, True)):
            if steps:
                self.toggle_optimizer(optimizer)
                loss = self.loss((self.generator(x + torch.randn_like(x)), y))
                self.log(f"loss_{optimizer is made}", loss)
                optimizer.zero_grad()
                self.manual_backward(loss)
                optimizer.step()
                self.untoggle_optimizer(optimizer)
        schedule.step()

    def configure_optimizers(self) -> Any:
        made = torch.optim.Adam(self.generator.parameters(), 0.01)
        judged = torch.optim.SGD([*self.backbone.parameters(), *self.head.parameters()], 0.01)
        return [made, judged], [torch.optim.lr_scheduler.ExponentialLR(made, 0.9)]


class Counts(Plain):
    """Metrics of all kinds: logged as they are, collected, wrapped, never reset, and in validation."""

    def __init__(self) -> None:
        super().__init__()
        self.errors = MetricCollection([MeanSquaredError(), MeanAbsoluteError()])
        self.val_errors = self.errors.clone("val_")
        self.seen = SumMetric()
        self.recent = Running(MeanMetric(), 3)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.loss(batch)
        self.errors(self.head(self.backbone(batch[0])), batch[1])
        self.log_dict(self.errors, on_step=True, on_epoch=True)
        self.seen.update(loss.detach())
        self.recent.update(loss.detach())
        self.log("seen", self.seen.compute(), on_step=True)
        self.log("recent", self.recent.compute(), on_step=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.val_errors.update(self.head(self.backbone(batch[0])), batch[1])
        self.log_dict(self.val_errors)


class Remembers(Plain):
    """Its loss depends on a buffer that is not saved and on what was logged last."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("memory", torch.ones(1), persistent=False)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.loss(batch)
        self.memory += 0.1 * loss.detach()
        logged = sum(
            float(shown.get("val_loss", 0.0))
            for shown in (
                self.trainer.callback_metrics,
                self.trainer.logged_metrics,
                self.trainer.progress_bar_metrics,
            )
        )
        return loss * (self.memory.mean() / (1 + logged))


class Stops(Plain):
    """Breaks each epoch off after its fourth batch."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
        return -1 if batch_idx == 4 else None


class Waits(Plain):
    """Has a schedule that waits, without insisting, for a value that is not there at first."""

    def on_validation_epoch_end(self) -> None:
        if self.current_epoch == 1:
            self.log("rare", 1.0)

    def on_train_epoch_end(self) -> None:
        self.log("step", 100.0 + self.current_epoch)  # the place of the row

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, mode="max")
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": plateau, "monitor": "rare", "strict": False},
        }


class OnPlateau(Plain):
    """Has a schedule by epochs."""

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=0.9)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": "val_loss"}}


class Hidden:
    """Holds a generator in a slot."""

    __slots__ = ("generator",)

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def draw(self) -> Tensor:
        return torch.rand(1, generator=self.generator)


class Generators(Plain):
    """Draws from generators that it holds in roundabout ways."""

    def __init__(self) -> None:
        super().__init__()
        made = [torch.Generator().manual_seed(seed) for seed in range(4)]
        self.draws: list[Callable[[], Tensor]] = [
            lambda: torch.rand(1, generator=made[0]),
            functools.partial(torch.rand, 1, generator=made[1]),
            Hidden(made[2]).draw,
        ]
        self.deep: nn.Module = nn.Identity()
        self.deep.own = made[3]  # type: ignore[assignment]  # a plain attribute
        for _ in range(8):
            self.deep = nn.Sequential(self.deep)
        self.draws.append(functools.partial(self._draw_deep))

    def _draw_deep(self) -> Tensor:
        innermost = list(self.deep.modules())[-1]
        own: Any = innermost.own
        return torch.rand(1, generator=own)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        for number, draw in enumerate(self.draws):
            value = draw()
            self.log(f"drawn_{number}", value, on_step=True)
            loss = loss * value.to(loss.device)
        return loss


class Draws(Callback):
    """Draws random numbers in its hooks."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        torch.rand(1)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        torch.rand(1)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.log("drawn", torch.rand(1))


MODULES: dict[str, Callable[[], dict[str, Any]]] = {
    "frozen backbone": lambda: {
        "module": Plain(),
        "callbacks": [BackboneFinetuning(1, lambda epoch: 1.5, train_bn=False)],
    },
    "let go by layer": lambda: {"module": Plain(), "callbacks": [LetGoByLayer()]},
    "frozen at first": lambda: {"module": FrozenAtFirst()},
    "logs everywhere": lambda: {"module": LogsEverywhere()},
    "logs everywhere, validation in mid-epoch": lambda: {
        "module": LogsEverywhere(),
        "val_check_interval": 2,
    },
    "accumulates by itself": lambda: {"module": Accumulates(), "train": StatefulLoader(5)},
    "two optimizers": lambda: {"module": Adversaries()},
    "growing window": lambda: {
        "module": Plain(),
        "callbacks": [GradientAccumulationScheduler({0: 1, 1: 2, 2: 3})],
    },
    "generators": lambda: {"module": Generators()},
    "counts": lambda: {"module": Counts()},
    "remembers": lambda: {"module": Remembers()},
    "breaks off": lambda: {"module": Stops()},
    "waits for a value": lambda: {"module": Waits()},
    "logs no steps": lambda: {"module": Plain(), "log_every_n_steps": 0},
    "a callback before": lambda: {"module": Plain(), "callbacks": [Draws()], "first": False},
    "stopped in mid-epoch": lambda: {
        "module": OnPlateau(),
        "val_check_interval": 2,
        "callbacks": [EarlyStopping("val_loss", stopping_threshold=1e9)],
    },
    "stopped at an epoch's end": lambda: {
        "module": OnPlateau(),
        "val_check_interval": 2,
        "callbacks": [EarlyStopping("val_loss", patience=2, min_delta=100.0)],
    },
}
"""By name: what makes the module, and its trainer's and its loaders' options where they are not the usual."""
