"""Kinds by their loaders and batches."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor
from torch.utils.data import IterableDataset

from tests.contracts.kinds.plain import IMAGES, NoSchedule, dataset


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
    """Strings, which the module itself turns into numbers."""

    def collated(self, rows: Sequence[Any]) -> Any:
        images, labels = super().collated(rows)
        return [["".join(map(chr, (image.flatten() > 0).int() + 97)) for image in images], labels]

    def parts(self, batch: Any) -> tuple[Tensor, Tensor]:
        texts = torch.tensor([[float(ord(letter) - 97) for letter in text] for text in batch[0]])
        return texts.view(-1, 3, 4, 4).to(self.device, self.dtype), batch[1]


class Endless(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter([dataset()[i] for i in range(IMAGES)])


class NoLength(NoSchedule):
    def data(self) -> Any:
        return Endless()

    def loader(self, *, shuffle: bool = False) -> Any:
        return super().loader()
