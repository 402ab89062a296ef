"""An image classifier without chance, on few images, to compare one process with several."""

from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, seed_everything
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn

from lightning_optreg import ImageClassifier
from lightning_optreg.data import BatchTransform, ImageDataModule, ImageSet, Source
from lightning_optreg.layers import WhitenedConv2d
from tests.contracts.layers import SHAPE
from tests.processes import ddp
from tests.small_runs import ACCELERATOR, quiet_trainer

__all__ = ["STEPS", "train"]

GLOBAL_BATCH = 16
STEPS = 20  # 4 epochs of 4 batches and half a one


class FewImages(ImageDataModule):
    """100 images of three classes, 28 of them for validation."""

    class_names = ("a", "b", "c")
    image_shape = SHAPE

    def locate(self, *, download: bool) -> Source:
        draw = torch.Generator().manual_seed(0)
        labels = torch.arange(100) % 3
        pictures = torch.randint(0, 256, (3, *SHAPE), generator=draw)
        noise = torch.randint(0, 256, (100, *SHAPE), generator=draw)
        images = (0.6 * pictures[labels] + 0.4 * noise).to(torch.uint8)
        return Source("few", {"train": []}, lambda part: ImageSet(images, labels))


class Block(nn.Module):
    """A residual block."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.tanh(self.linear(x))


class SmallNet(nn.Module):
    """A layer at will, then a smooth network: a ReLU would make large differences of small ones.

    Args:
        first: Maps images (N, *SHAPE) to whatever tensor (N, ...).
        kind: `dropout` and `batch_norm` have such a layer, `whitened` has a whitening convolution behind the
            first.
    """

    def __init__(
        self, first: nn.Module, kind: Literal["plain", "dropout", "batch_norm", "whitened"] = "plain"
    ) -> None:
        super().__init__()
        if kind == "whitened":
            first = nn.Sequential(first, WhitenedConv2d(SHAPE[0]))
        inputs = first(torch.zeros(2, *SHAPE)).flatten(1).shape[1]
        middles = {"dropout": nn.Dropout(), "batch_norm": nn.BatchNorm1d(16)}
        middle = middles.get(kind, nn.Identity())
        self.net = nn.Sequential(
            first, nn.Flatten(), nn.Linear(inputs, 16), middle, nn.Tanh(), Block(), nn.Linear(16, 3)
        )

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.net(x)
        return scores


def train(
    folder: Path,
    callbacks: list[Callback],
    processes: int,
    *,
    rank: int = 0,
    net: SmallNet,
    adam: bool = False,
    augment: list[BatchTransform] | None = None,
    shuffle: Literal["every_epoch", "poisson"] = "every_epoch",
) -> dict[str, Any]:
    """Train on the same global batches, whatever the number of processes, and give what came of it.

    Processes have different global generators and seeds, as those of `seed_everything(seed + rank)`; the
    networks that they were given may differ too.
    """
    seed_everything(1 + rank, verbose=False)
    module = ImageClassifier(
        net,
        optimizer=(lambda p: torch.optim.Adam(p, lr=0.01))
        if adam
        else (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)),
        num_classes=3,
    )
    data = FewImages(
        batch_size=GLOBAL_BATCH // processes,
        val_fraction=0.28,
        augment=augment,
        shuffle=shuffle,
        cache_dir=str(folder / "cache"),
    )
    trainer = quiet_trainer(
        accelerator=ACCELERATOR if processes == 1 else "cpu",
        devices=processes,
        strategy="auto" if processes == 1 else ddp(),
        max_epochs=4,
        logger=TensorBoardLogger(folder),
        callbacks=callbacks,
        num_sanity_val_steps=0,
        default_root_dir=folder,
        log_every_n_steps=4,
    )
    trainer.fit(module, datamodule=data)
    evaluation = {name: value for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
    return {"weights": module.state_dict(), "evaluation": evaluation, "steps": trainer.global_step}
