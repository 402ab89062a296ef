"""What two processes of a pipeline do, and the same in one process; tests look at what they wrote."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_optreg.callbacks import ExactResume
from lightning_optreg.classifier import ImageClassifier
from lightning_optreg.layers import GaussianNoise
from lightning_optreg.nets import MLP, VGG, EnResNet, LeNet5, Network, ResNet
from lightning_optreg.strategies import PipelineParallel
from tests.resume_tools import Regression, StatefulLoader, final_state, spoil_random_state
from tests.small_runs import quiet_trainer

SIZES = [16, 16, 14, 5]  # of the batches in an epoch: even, uneven, fewer in the last micro-batches
SHAPE = (1, 16, 16)


class Images:
    """Batches of the sizes above."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.batches = [
            (torch.randn(size, *SHAPE, generator=generator), torch.randint(3, (size,), generator=generator))
            for size in SIZES
        ]

    def __len__(self) -> int:
        return len(SIZES)

    def __iter__(self) -> Any:
        return iter(self.batches)


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=1e-3)


def adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=0.01)


def decay(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    return torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.7)


NETS: dict[str, Callable[[], Network]] = {
    "LeNet5": lambda: LeNet5(3, SHAPE),
    "MLP": lambda: MLP(3, SHAPE, hidden=[20, 20], batch_norm=True),
    "MLP without": lambda: MLP(3, SHAPE, hidden=[20, 20]),
    "ResNet": lambda: ResNet(3, SHAPE, depth=8),
    "VGG": lambda: VGG(3, SHAPE, depth=11, width=4, dropout=0.0),
    "EnResNet": lambda: EnResNet(3, SHAPE, depth=8, noise=0.0),
}


class Case:
    """A run in a pipeline that is made again in one process.

    Args:
        net: Name of the network.
        optimizer: Makes the optimizer.
        trainer: Settings of the trainer.
        strategy: Arguments of the strategy.
    """

    def __init__(
        self,
        net: str,
        optimizer: Callable[[Any], torch.optim.Optimizer] = sgd,
        trainer: dict[str, Any] | None = None,
        **strategy: Any,
    ) -> None:
        self.net, self.optimizer, self.trainer = net, optimizer, trainer or {}
        self.strategy = {"microbatches": 3, **strategy}

    def in_pipeline(self) -> dict[str, Any]:
        """Two epochs; whatever a process ends with."""
        seed_everything(1, verbose=False)
        module = ImageClassifier(
            NETS[self.net](), optimizer=self.optimizer, lr_scheduler=decay, num_classes=3, no_decay=True
        )
        trainer = quiet_trainer(
            strategy=PipelineParallel(**self.strategy), devices=2, max_epochs=2, **self.trainer
        )
        trainer.fit(module, Images(), Images())
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        return {
            "weights": module.net.state_dict(),
            "optimizer": trainer.strategy.optimizer_state(trainer.optimizers[0]),
            "metrics": metrics,
        }

    def alone(self) -> dict[str, Any]:
        """The same by hand, without Lightning."""
        seed_everything(1, verbose=False)
        net = NETS[self.net]()
        module = ImageClassifier(net, optimizer=self.optimizer, num_classes=3, no_decay=True)
        optimizer = module.configure_optimizers()
        schedule = decay(optimizer)
        window = self.trainer.get("accumulate_grad_batches", 1)
        mixed = self.trainer.get("precision") == "bf16-mixed"
        for _ in range(2):
            net.train()
            for index, (x, y) in enumerate(Images()):
                if index % window == 0:
                    optimizer.zero_grad()
                parts = min(self.strategy["microbatches"], len(x))
                for part, target in zip(x.tensor_split(parts), y.tensor_split(parts), strict=True):
                    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
                        loss = F.cross_entropy(net(part), target)
                    (loss * (1 / window * len(part) / len(x))).backward()
                if (index + 1) % window == 0 or index == len(SIZES) - 1:
                    if "gradient_clip_val" in self.trainer:
                        parameters = [each for group in optimizer.param_groups for each in group["params"]]
                        nn.utils.clip_grad_norm_(parameters, self.trainer["gradient_clip_val"])
                    optimizer.step()
            schedule.step()
        return {"weights": net.state_dict(), "optimizer": optimizer.state_dict()}


CASES = {
    "LeNet5 1F1B": Case("LeNet5", schedule="1F1B"),
    "LeNet5 GPipe": Case("LeNet5", schedule="GPipe"),
    "MLP 1F1B": Case("MLP without", schedule="1F1B", microbatches=4),
    "MLP GPipe": Case("MLP without", schedule="GPipe", microbatches=4, split=["layers.4"]),
    "clipping": Case("LeNet5", trainer={"gradient_clip_val": 0.1}),
    "accumulation": Case("MLP without", adam, trainer={"accumulate_grad_batches": 3}),
    "bf16-mixed": Case("LeNet5", adam, trainer={"precision": "bf16-mixed"}),
    "batch norm": Case("MLP", microbatches=2),
    "ResNet": Case("ResNet", microbatches=2),
    "VGG": Case("VGG", split="parameters"),
    "two tensors between stages": Case("EnResNet", microbatches=2),
}


class Noisy(LightningModule):
    """A regression with dropout, noise and batch normalisation, and the loss as a method."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.ReLU(),
            nn.Linear(8, 8), nn.Dropout(0.5), GaussianNoise(0.1), nn.Linear(8, 1),
        )  # fmt: skip

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.mse_loss(outputs, targets)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.loss(self.net(batch[0]), batch[1])
        self.log("loss", loss, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.loss(self.net(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=0.01)
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 3)]


def fit_noisy(folder: Path, step: int | None, *, pipeline: bool = True, window: int = 1) -> dict[str, Any]:
    """Three epochs, from the start or from a step; also what the checkpoint at the end holds."""
    if step is None:
        seed_everything(1, verbose=False)
    else:
        spoil_random_state()
    module = Noisy()
    every_batch = ModelCheckpoint(folder / "all", "{step}", every_n_train_steps=1, save_top_k=-1)
    trainer = quiet_trainer(
        strategy=PipelineParallel(microbatches=2) if pipeline else "auto",
        devices=2 if pipeline else 1,
        max_epochs=3,
        callbacks=[ExactResume(), *([every_batch] if step is None else [])],
        enable_checkpointing=step is None,
        accumulate_grad_batches=window,
        default_root_dir=folder,
    )
    path = None if step is None else folder / "all" / f"step={step}.ckpt"
    trainer.fit(module, StatefulLoader(), StatefulLoader(2), ckpt_path=path)
    state = final_state(trainer, module)
    if pipeline:
        state["optimizer"] = [trainer.strategy.optimizer_state(each) for each in trainer.optimizers]
    return {**state, "metrics": {name: float(value) for name, value in trainer.callback_metrics.items()}}


class Plain(Regression):
    """Without dropout, which draws other numbers in a pipeline."""

    def __init__(self) -> None:
        super().__init__("cosine_step", adam=True)
        self.net[3] = nn.Identity()

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.mse_loss(outputs, targets)


def fit_plain(folder: Path, *, pipeline: bool) -> dict[str, Any]:
    """Two epochs in one process, or in a pipeline from the fourth step on."""
    seed_everything(1, verbose=False)
    module = Plain()
    every_step = ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)
    trainer = quiet_trainer(
        strategy=PipelineParallel(microbatches=1) if pipeline else "auto",
        devices=2 if pipeline else 1,
        max_epochs=2,
        callbacks=[ExactResume(), *([] if pipeline else [every_step])],
        enable_checkpointing=not pipeline,
        default_root_dir=folder,
    )
    path = folder / "step=4.ckpt" if pipeline else None
    trainer.fit(module, StatefulLoader(), StatefulLoader(2), ckpt_path=path)
    return module.state_dict()
