"""Kinds by their networks and outputs."""

from typing import Any

import torch
from torch import Tensor, nn

from tests.contracts.kinds.plain import NoSchedule, network


class Frozen(NoSchedule):
    def make(self) -> None:
        super().make()
        self.net[0].requires_grad_(False)


class UnfrozenLater(NoSchedule):
    def make(self) -> None:
        super().make()
        self.net[0].requires_grad_(False)

    def on_train_epoch_start(self) -> None:
        if self.current_epoch == 1:
            self.net[0].requires_grad_(True)
            optimizer: Any = self.optimizers()
            optimizer.add_param_group({"params": list(self.net[0].parameters()), "lr": 1e-3})


class Unfrozen(UnfrozenLater):
    """All is in the optimizer from the beginning."""

    def on_train_epoch_start(self) -> None:
        self.net[0].requires_grad_(self.current_epoch == 1)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=0.01)


class MadeLater(NoSchedule):
    def make(self) -> None:
        self.net = None

    def configure_model(self) -> None:
        if self.net is None:
            self.net = network()


class Compiled(NoSchedule):
    def make(self) -> None:
        self.net = torch.compile(network(), backend="eager")


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(48, 48)
        self.second = nn.Linear(48, 48)
        self.second.weight = self.first.weight
        self.last = nn.Linear(48, 3)

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.last(self.second(self.first(images.flatten(1)).relu()).relu())
        return found


class Shared(NoSchedule):
    def make(self) -> None:
        self.net = Tied()


class Scalars(NoSchedule):
    def make(self) -> None:
        super().make()
        self.temperature = nn.Parameter(torch.tensor(1.0))

    def scores(self, images: Tensor) -> Tensor:
        return super().scores(images) * self.temperature


class Unused(NoSchedule):
    def make(self) -> None:
        super().make()
        self.spare = nn.Linear(2, 2)


class Flat(NoSchedule):
    """A linear layer of its own, without batch normalisation or noise, in no `net`."""

    def make(self) -> None:
        self.layer = nn.Linear(48, 3)

    def scores(self, images: Tensor) -> Tensor:
        found: Tensor = self.layer(images.flatten(1))
        return found


class Sparse(Flat):
    def make(self) -> None:
        self.table = nn.EmbeddingBag(2, 3, sparse=True)

    def scores(self, images: Tensor) -> Tensor:
        found: Tensor = self.table((images.flatten(1) > 0).long())
        return found

    def configure_optimizers(self) -> Any:
        return torch.optim.SparseAdam(list(self.parameters()), lr=0.01)


class Regresses(NoSchedule):
    """(N, 1) outputs."""

    def make(self) -> None:
        self.net = network(outputs=1)

    def loss(self, batch: Any) -> Tensor:
        images, targets = self.parts(batch)
        if targets.ndim == 2:  # a callback made them probabilities of classes
            targets = targets.argmax(1)
        return nn.functional.mse_loss(self.scores(images).flatten(), targets.to(self.dtype))

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        return self.scores(self.parts(batch)[0])


class Numbers(Regresses):
    """(N,) outputs."""

    def make(self) -> None:
        self.net = nn.Sequential(*network(outputs=1), nn.Flatten(0))
