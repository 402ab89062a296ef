"""Kinds by their optimizers and schedules: none, several, manual optimization, closures, groups."""

from typing import Any

import torch
from torch import Tensor, nn

from tests.contracts.kinds.plain import NoSchedule


class StepSchedule(NoSchedule):
    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Plateau(NoSchedule):
    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=0.9)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "monitor": "val_loss"}}


class Manual(NoSchedule):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        optimizers = self.optimizers()
        for number, optimizer in enumerate(optimizers if isinstance(optimizers, list) else [optimizers]):
            self.one_step(optimizer, number, batch, batch_idx)

    def one_step(self, optimizer: Any, number: int, batch: Any, batch_idx: int) -> None:
        loss = self.loss(batch)
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=4)
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()


class TwoOptimizers(Manual):
    def configure_optimizers(self) -> Any:
        return [torch.optim.Adam(self.net[i].parameters(), lr=0.01) for i in (0, 5)]


class TwoFrequencies(TwoOptimizers):
    def one_step(self, optimizer: Any, number: int, batch: Any, batch_idx: int) -> None:
        if number == 0 or batch_idx % 3 == 2:
            super().one_step(optimizer, number, batch, batch_idx)


class Gan(Manual):
    def make(self) -> None:
        self.generator = nn.Sequential(
            nn.Linear(2, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.1), nn.Linear(12, 48)
        )
        self.critic = nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.ReLU(), nn.Linear(8, 1))

    def loss(self, batch: Any) -> Tensor:
        return self.critic_loss(self.parts(batch)[0])

    def made(self, count: int) -> Tensor:
        made: Tensor = self.generator(torch.randn(count, 2, device=self.device)).view(count, 3, 4, 4)
        return made

    def critic_loss(self, images: Tensor) -> Tensor:
        judge = nn.functional.binary_cross_entropy_with_logits
        true, false = self.critic(images), self.critic(self.made(len(images)).detach())
        return judge(true, torch.ones_like(true)) + judge(false, torch.zeros_like(false))

    def one_step(self, optimizer: Any, number: int, batch: Any, batch_idx: int) -> None:
        self.toggle_optimizer(optimizer)
        images = self.parts(batch)[0]
        loss = self.critic_loss(images) if number else -self.critic(self.made(len(images))).mean()
        self.log(f"train_loss_{number}", loss, on_step=False, on_epoch=True, batch_size=4)
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        self.untoggle_optimizer(optimizer)

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        return self.critic(self.parts(batch)[0])

    def configure_optimizers(self) -> Any:
        return [torch.optim.Adam(part.parameters(), lr=0.01) for part in (self.generator, self.critic)]


class Closures(NoSchedule):
    """Without noise: L-BFGS compares losses."""

    def make(self) -> None:
        super().make()
        self.net[3] = nn.Identity()

    def configure_optimizers(self) -> Any:
        return torch.optim.LBFGS(self.parameters(), lr=0.1, max_iter=3)


class ManualClosures(Manual):
    def make(self) -> None:
        super().make()
        self.net[3] = nn.Identity()

    def one_step(self, optimizer: Any, number: int, batch: Any, batch_idx: int) -> None:
        def closure() -> Tensor:
            loss = self.loss(batch)
            optimizer.zero_grad()
            self.manual_backward(loss)
            return loss

        optimizer.step(closure=closure)

    def configure_optimizers(self) -> Any:
        return torch.optim.LBFGS(self.parameters(), lr=0.1, max_iter=3)


class NoOptimizer(NoSchedule):
    def configure_optimizers(self) -> None:
        return None


class TwoGroups(NoSchedule):
    def configure_optimizers(self) -> Any:
        groups = [{"params": self.net[0].parameters(), "lr": 1e-3}, {"params": self.net[5].parameters()}]
        return torch.optim.Adam(groups, lr=torch.tensor(0.01))
