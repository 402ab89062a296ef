"""The one table of kinds of LightningModule. A new kind is held to all callbacks by adding a row."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from lightning_optreg.data import BatchLoader

__all__ = ["KINDS", "Kind", "NoSchedule"]

IMAGES = 12  # in batches of 4


def dataset() -> TensorDataset:
    generator = torch.Generator().manual_seed(3)
    return TensorDataset(
        torch.randn(IMAGES, 3, 4, 4, generator=generator), torch.arange(IMAGES) % 3, torch.arange(IMAGES)
    )


def network(outputs: int = 3) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(64, outputs),
    )


def collate(rows: Sequence[Any]) -> Any:
    images, labels, _ = zip(*rows, strict=True)
    return [torch.stack(images), torch.stack(labels)]


class NoSchedule(LightningModule):
    """A small convolutional network with batch normalisation and dropout, trained by Adam."""

    def __init__(self) -> None:
        super().__init__()
        self.batch_size = 4
        self.told = False
        """Whether its training loader is one of this package's, which can be told what to show."""
        self.make()

    def make(self) -> None:
        self.net: Any = network()

    # ---- data ----------------------------------------------------------------------------------------------

    def data(self) -> Dataset[Any]:
        return dataset()

    def collated(self, rows: Sequence[Any]) -> Any:
        return collate(rows)

    def loader(self, *, shuffle: bool = False) -> Any:
        return DataLoader(self.data(), batch_size=self.batch_size, shuffle=shuffle, collate_fn=self.collated)

    def train_dataloader(self) -> Any:
        if self.told and type(self).collated is NoSchedule.collated:
            images, labels, _ = dataset().tensors
            images = (images * 16 + 128).to(torch.uint8)
            return BatchLoader(images, labels, batch_size=self.batch_size, shuffle=True, seed=0)
        return self.loader(shuffle=True)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return [batch[0].to(self.dtype), batch[1]] if self.told and isinstance(batch, tuple) else batch

    def val_dataloader(self) -> Any:
        return self.loader()

    def test_dataloader(self) -> Any:
        return self.loader()

    def predict_dataloader(self) -> Any:
        return self.loader()

    # ---- steps ---------------------------------------------------------------------------------------------

    def parts(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Images and labels of a batch."""
        return batch[0].to(self.dtype), batch[1]

    def scores(self, images: Tensor) -> Tensor:
        found: Tensor = self.net(images)
        return found

    def loss(self, batch: Any) -> Tensor:
        images, labels = self.parts(batch)
        return nn.functional.cross_entropy(self.scores(images), labels)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.loss(batch)
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=4)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        self.log("val_loss", self.loss(batch), batch_size=4)

    def test_step(self, batch: Any, batch_idx: int) -> Any:
        self.log("test_loss", self.loss(batch), batch_size=4)

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        return self.scores(self.parts(batch)[0]).softmax(-1)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam([p for p in self.parameters() if p.requires_grad], lr=0.01)


class Plain(NoSchedule):
    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]


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


# ---- optimizers --------------------------------------------------------------------------------------------


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
        made: Tensor = self.generator(torch.randn(count, 2)).view(count, 3, 4, 4)
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


# ---- data --------------------------------------------------------------------------------------------------


class SeveralValidations(NoSchedule):
    def val_dataloader(self) -> Any:
        return [self.loader(), self.loader()]

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        super().validation_step(batch, batch_idx)


class SeveralPredictions(NoSchedule):
    def test_dataloader(self) -> Any:
        return [self.loader(), self.loader()]

    def predict_dataloader(self) -> Any:
        return [self.loader(), self.loader()]

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        super().test_step(batch, batch_idx)

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        return super().predict_step(batch, batch_idx)


class Combined(NoSchedule):
    def train_dataloader(self) -> Any:
        return CombinedLoader({"a": self.loader(shuffle=True), "b": self.loader()}, "min_size")

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step(batch["a"], batch_idx) + self.loss(batch["b"])


class SeveralTrainings(NoSchedule):
    def train_dataloader(self) -> Any:
        return [self.loader(shuffle=True), self.loader()]

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step(batch[0], batch_idx) + self.loss(batch[1])


class Dictionaries(NoSchedule):
    def collated(self, rows: Sequence[Any]) -> Any:
        return dict(zip(("image", "label"), super().collated(rows), strict=True))

    def parts(self, batch: Any) -> tuple[Tensor, Tensor]:
        return batch["image"], batch["label"]


class Tuples(NoSchedule):
    def collated(self, rows: Sequence[Any]) -> Any:
        return tuple(super().collated(rows))


class Strings(NoSchedule):
    """Texts, of which the module itself makes numbers."""

    def collated(self, rows: Sequence[Any]) -> Any:
        images, labels = super().collated(rows)
        return [["".join(map(chr, (image.flatten() > 0).int() + 97)) for image in images], labels]

    def parts(self, batch: Any) -> tuple[Tensor, Tensor]:
        texts = torch.tensor([[float(ord(letter) - 97) for letter in text] for text in batch[0]])
        return texts.view(-1, 3, 4, 4).to(self.dtype), batch[1]


class Endless(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter([dataset()[i] for i in range(IMAGES)])


class NoLength(NoSchedule):
    def data(self) -> Any:
        return Endless()

    def loader(self, *, shuffle: bool = False) -> Any:
        return super().loader()


# ---- steps -------------------------------------------------------------------------------------------------


class NoneAtTimes(NoSchedule):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        return None if batch_idx == 1 and self.current_epoch == 1 else loss


class NoneAlways(NoSchedule):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        super().training_step(batch, batch_idx)


class Outputs(NoSchedule):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return {"loss": super().training_step(batch, batch_idx), "other": "a text"}

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        super().validation_step(batch, batch_idx)
        return {"size": len(batch)}


class NoIndex(NoSchedule):
    def training_step(self, batch: Any) -> Any:  # type: ignore[override]
        return super().training_step(batch, 0)

    def validation_step(self, batch: Any) -> None:  # type: ignore[override]
        super().validation_step(batch, 0)

    def test_step(self, batch: Any) -> None:  # type: ignore[override]
        super().test_step(batch, 0)

    def predict_step(self, batch: Any) -> Any:  # type: ignore[override]
        return super().predict_step(batch, 0)


class LoaderIterator(NoSchedule):
    def training_step(self, dataloader_iter: Any) -> Any:  # type: ignore[override]
        batch, batch_idx, _ = next(dataloader_iter)
        return super().training_step(batch, batch_idx)

    def validation_step(self, dataloader_iter: Any) -> None:  # type: ignore[override]
        batch, batch_idx, _ = next(dataloader_iter)
        super().validation_step(batch, batch_idx)

    def test_step(self, dataloader_iter: Any) -> None:  # type: ignore[override]
        batch, batch_idx, _ = next(dataloader_iter)
        super().test_step(batch, batch_idx)

    def predict_step(self, dataloader_iter: Any) -> Any:  # type: ignore[override]
        batch, batch_idx, _ = next(dataloader_iter)
        return super().predict_step(batch, batch_idx)


class StopsEpochs(NoSchedule):
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
        return -1 if batch_idx == 2 else None


class NoValidation(NoSchedule):
    validation_step = LightningModule.validation_step  # type: ignore[assignment]
    val_dataloader = LightningModule.val_dataloader  # type: ignore[assignment]


class NoClipping(NoSchedule):
    def configure_gradient_clipping(self, *args: Any, **kwargs: Any) -> None:
        return


class OwnClipping(NoSchedule):
    def configure_gradient_clipping(
        self, optimizer: Optimizer, gradient_clip_val: Any = None, gradient_clip_algorithm: Any = None
    ) -> None:
        self.clip_gradients(optimizer, gradient_clip_val=0.5, gradient_clip_algorithm="value")


class OwnStep(NoSchedule):
    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None
    ) -> None:
        for group in optimizer.param_groups:
            group["lr"] = 0.01 / (1 + self.trainer.global_step)
        optimizer.step(closure=optimizer_closure)


class ClosureFirst(NoSchedule):
    """Calls the closure itself, and steps at times."""

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None
    ) -> None:
        optimizer_closure()
        if batch_idx != 1:
            optimizer.step()


class OwnZero(NoSchedule):
    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Optimizer) -> None:
        optimizer.zero_grad(set_to_none=False)


# ---- layers ------------------------------------------------------------------------------------------------


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


# ---- the table ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """How a cell of the table builds a module.

    Attributes:
        build: Makes it.
        options: Of its trainer.
        monitor: What it logs in validation, or in training if it has none.
        stages: What a trainer does with it.
    """

    build: Callable[[], NoSchedule]
    options: dict[str, Any] = field(default_factory=dict)
    monitor: str = "val_loss"
    stages: tuple[str, ...] = ("fit", "validate", "test", "predict")


KINDS: dict[str, Kind] = {
    "plain": Kind(Plain),
    "no scheduler": Kind(NoSchedule),
    "schedule by steps": Kind(StepSchedule),
    "plateau schedule": Kind(Plateau),
    "manual optimization": Kind(Manual),
    "two optimizers": Kind(TwoOptimizers),
    "optimizers at two frequencies": Kind(TwoFrequencies),
    "GAN": Kind(Gan),
    "L-BFGS": Kind(Closures),
    "manual L-BFGS": Kind(ManualClosures),
    "no optimizer": Kind(NoOptimizer),
    "groups with a tensor for a rate": Kind(TwoGroups),
    "several validation loaders": Kind(SeveralValidations, monitor="val_loss/dataloader_idx_0"),
    "several prediction loaders": Kind(SeveralPredictions),
    "CombinedLoader": Kind(Combined),
    "list of training loaders": Kind(SeveralTrainings),
    "dictionary batches": Kind(Dictionaries),
    "tuple batches": Kind(Tuples),
    "string batches": Kind(Strings),
    "data without length": Kind(NoLength),
    "None at times": Kind(NoneAtTimes),
    "None always": Kind(NoneAlways),
    "dictionary outputs": Kind(Outputs),
    "no batch_idx": Kind(NoIndex),
    "dataloader_iter": Kind(LoaderIterator),
    "breaks epochs off": Kind(StopsEpochs),
    "no validation": Kind(NoValidation, monitor="train_loss", stages=("fit", "test", "predict")),
    "no gradient clipping": Kind(NoClipping, {"gradient_clip_val": 0.1}),
    "own gradient clipping": Kind(OwnClipping),
    "own optimizer_step": Kind(OwnStep),
    "optimizer_step that skips": Kind(ClosureFirst),
    "own optimizer_zero_grad": Kind(OwnZero),
    "frozen layers": Kind(Frozen),
    "unfrozen later": Kind(Unfrozen),
    "unfrozen later with a group": Kind(UnfrozenLater),
    "configure_model": Kind(MadeLater),
    "compiled": Kind(Compiled),
    "shared parameters": Kind(Shared),
    "scalar parameters": Kind(Scalars),
    "unused parameters": Kind(Unused),
    "no batch normalisation": Kind(Flat),
    "sparse gradients": Kind(Sparse),
    "regression (N, 1)": Kind(Regresses),
    "regression (N,)": Kind(Numbers),
}
