"""A small network in float64, to train with and without a callback."""

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from tests.small_runs import quiet_trainer

__all__ = ["Net", "descend", "train"]


class Net(LightningModule):
    """A little network; `extra` is added to its loss, for what autograd makes of a penalty."""

    def __init__(
        self,
        optimizer: Callable[..., torch.optim.Optimizer],
        extra: Callable[["Net"], Tensor] | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self.make, self.extra, self.options = optimizer, extra, options
        torch.manual_seed(3)
        self.net = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 1))
        self.double()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = (self.net(batch[0]) - batch[1]).square().mean()
        return loss if self.extra is None else loss + self.extra(self)

    def train_dataloader(self) -> Any:
        generator = torch.Generator().manual_seed(5)
        x = torch.randn(48, 5, generator=generator, dtype=torch.float64)
        return DataLoader(TensorDataset(x, x.sum(1, keepdim=True)), batch_size=4)

    def configure_optimizers(self) -> Any:
        return self.make(self.parameters(), **self.options)


def train(module: Net, callbacks: list[Any], **options: Any) -> list[Tensor]:
    """Fit two epochs; return the parameters."""
    quiet_trainer(callbacks=callbacks, **{"max_epochs": 2, **options}).fit(module)
    return [p.detach().clone() for p in module.parameters()]


def descend(module: Net, rate: float, after: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """Two epochs of gradient descent by hand, with both weights mapped by `after` at each step's end."""
    weights = [module.net[0].weight, module.net[3].weight]
    for _ in range(2):
        for batch in module.train_dataloader():
            module.zero_grad()
            module.training_step(batch, 0).backward()
            with torch.no_grad():
                for p in module.parameters():
                    p.sub_(rate * p.grad)
                for w in weights:
                    w.copy_(after(w))
    return list(module.parameters())
