"""Small private runs: a network of two layers, on random images, by SGD."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from lightning_optreg.data import BatchLoader
from tests.small_runs import quiet_trainer

__all__ = ["Small", "fit", "images", "loader"]

IMAGES = 40


def images(count: int = IMAGES) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    pixels = torch.randint(0, 256, (count, 1, 6, 6), generator=generator, dtype=torch.uint8)
    return pixels, torch.randint(3, (count,), generator=generator)


def loader(batch_size: Any = 8, shuffle: Any = "poisson", count: int = IMAGES, **options: Any) -> BatchLoader:
    return BatchLoader(*images(count), batch_size=batch_size, shuffle=shuffle, seed=3, **options)


class Small(LightningModule):
    """A small network under somebody's own training step.

    Args:
        net: None: a convolution and a linear layer.
        optimizer: Makes the optimizer of the parameters.
        loss: Of a batch, from scores and labels.
    """

    def __init__(
        self,
        net: nn.Module | None = None,
        optimizer: Callable[[Any], Any] = lambda p: torch.optim.SGD(p, lr=1.0),
        loss: Callable[[Tensor, Tensor], Tensor] = nn.functional.cross_entropy,
    ) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.net = net or nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(64, 3))
        self.make_optimizer, self.loss = optimizer, loss
        self.empty = 0

    def scores(self, pixels: Tensor) -> Tensor:
        found: Tensor = self.net(pixels.to(self.dtype) / 64 - 2)
        return found

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.empty += len(batch[0]) == 0
        return self.loss(self.scores(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return self.make_optimizer([p for p in self.parameters() if p.requires_grad])


def fit(
    callbacks: Sequence[Callback], module: LightningModule, data: Any = None, **options: Any
) -> tuple[dict[str, Tensor], Trainer]:
    """Fit, and return the weights and the trainer."""
    ckpt_path = options.pop("ckpt_path", None)
    trainer = quiet_trainer(callbacks=list(callbacks), **{"max_epochs": 1, **options})
    trainer.fit(module, loader() if data is None else data, ckpt_path=ckpt_path)
    return {name: weight.detach().clone() for name, weight in module.state_dict().items()}, trainer
