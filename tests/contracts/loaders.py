"""The one table of training loaders that `ExactResume` is held to. A new kind is tested by adding a row."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    TensorDataset,
    WeightedRandomSampler,
)

from lightning_optreg.data.loader import BatchLoader
from tests.resume_tools import StatefulLoader

SAMPLES, BATCH = 24, 4


@dataclass(frozen=True)
class Loaders:
    """How the tests build the loaders of a run.

    Attributes:
        train: Makes the training loader.
        val: Makes the validation loader. None: one that deals its batches in order.
        mid_epoch: What is said of a resume in the middle of an epoch. None: it is exact.
        always: What is said of every resume. None: nothing.
    """

    train: Callable[[], Any]
    val: Callable[[], Any] | None = None
    mid_epoch: str | None = None
    always: str | None = None


def samples() -> tuple[Tensor, Tensor]:
    loader = StatefulLoader()
    return loader.x, loader.y


def dataset() -> TensorDataset:
    return TensorDataset(*samples())


class Augmented(Dataset[list[Tensor]]):
    """Noise from the global generator of the process that loads."""

    def __init__(self) -> None:
        self.x, self.y = samples()

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> list[Tensor]:
        return [self.x[index] + 0.1 * torch.randn(5), self.y[index]]


class NoisyByItself(Augmented):
    """Noise from a generator of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.generators = {"noise": np.random.default_rng(3)}

    def __getitem__(self, index: int) -> list[Tensor]:
        noise = torch.from_numpy(self.generators["noise"].standard_normal(5)).float()
        return [self.x[index] + 0.1 * noise, self.y[index]]


class Stream(IterableDataset[list[Tensor]]):
    """Samples in an order from the global generator, and no length."""

    def __init__(self) -> None:
        self.x, self.y = samples()

    def __iter__(self) -> Iterator[list[Tensor]]:
        for index in torch.randperm(len(self.x)):
            yield [self.x[index], self.y[index]]


class NumpySampler(Sampler[int]):
    """An order from NumPy's generator of today."""

    def __init__(self) -> None:
        self.generator = np.random.default_rng(5)

    def __len__(self) -> int:
        return SAMPLES

    def __iter__(self) -> Iterator[int]:
        yield from self.generator.permutation(SAMPLES).tolist()


class CountingLoader:
    """Counts its epochs itself, and tells no more than that and its place."""

    def __init__(self) -> None:
        self.x, self.y = samples()
        self.epoch = -1
        self.place = 0

    def __len__(self) -> int:
        return SAMPLES // BATCH

    def __iter__(self) -> Iterator[list[Tensor]]:
        if self.place == 0:
            self.epoch += 1
        order = torch.randperm(SAMPLES, generator=torch.Generator().manual_seed(self.epoch))
        for place in range(self.place, len(self)):
            self.place = place + 1
            rows = order[BATCH * place : BATCH * self.place]
            if self.place == len(self):
                self.place = 0
            yield [self.x[rows], self.y[rows]]

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "place": self.place}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.epoch, self.place = state["epoch"], state["place"]


def batch_loader() -> BatchLoader:
    images = torch.randint(0, 256, (SAMPLES, 5, 2, 2), dtype=torch.uint8, generator=torch.Generator())
    return BatchLoader(images, torch.arange(SAMPLES), batch_size=BATCH, shuffle=True, seed=4)


def torchdata(workers: int = 0, **options: Any) -> Any:
    from torchdata.stateful_dataloader import StatefulDataLoader

    return StatefulDataLoader(dataset(), batch_size=BATCH, shuffle=True, num_workers=workers, **options)


def own_generator() -> torch.Generator:
    return torch.Generator().manual_seed(8)


ANEW = "has no state_dict and restarts its epoch"
IN_WORKERS = "random numbers in the .*'s workers"
PERSISTENT = "persistent_workers=True"

LOADERS: dict[str, Loaders] = {
    "ours": Loaders(batch_loader),
    "stateful": Loaders(StatefulLoader),
    "counting": Loaders(CountingLoader),
    "in order": Loaders(lambda: DataLoader(dataset(), batch_size=BATCH), mid_epoch=ANEW),
    "shuffled": Loaders(lambda: DataLoader(dataset(), batch_size=BATCH, shuffle=True), mid_epoch=ANEW),
    "shuffled, workers": Loaders(
        lambda: DataLoader(Augmented(), batch_size=BATCH, shuffle=True, num_workers=2), mid_epoch=ANEW
    ),
    "persistent workers": Loaders(
        lambda: DataLoader(dataset(), batch_size=BATCH, shuffle=True, num_workers=2, persistent_workers=True),
        mid_epoch=ANEW,
        always=PERSISTENT,
    ),
    "persistent workers in validation": Loaders(
        StatefulLoader,
        val=lambda: DataLoader(
            dataset(), batch_size=BATCH, shuffle=True, num_workers=1, persistent_workers=True
        ),
        always=PERSISTENT,
    ),
    "augmenting": Loaders(lambda: DataLoader(Augmented(), batch_size=BATCH, shuffle=True), mid_epoch=ANEW),
    "own generator": Loaders(
        lambda: DataLoader(dataset(), batch_size=BATCH, shuffle=True, generator=own_generator()),
        val=lambda: DataLoader(dataset(), batch_size=BATCH, shuffle=True, generator=own_generator()),
        mid_epoch=ANEW,
    ),
    "own generator, workers": Loaders(
        lambda: DataLoader(
            Augmented(), batch_size=BATCH, shuffle=True, num_workers=2, generator=own_generator()
        ),
        mid_epoch=ANEW,
    ),
    "sampler's generator": Loaders(
        lambda: DataLoader(
            dataset(),
            batch_sampler=BatchSampler(
                RandomSampler(range(SAMPLES), generator=own_generator()), BATCH, drop_last=False
            ),
        ),
        mid_epoch=ANEW,
    ),
    "weighted": Loaders(
        lambda: DataLoader(
            dataset(),
            batch_size=BATCH,
            sampler=WeightedRandomSampler([1.0, 2.0] * (SAMPLES // 2), SAMPLES, generator=own_generator()),
        ),
        mid_epoch=ANEW,
    ),
    "NumPy's generators": Loaders(
        lambda: DataLoader(NoisyByItself(), batch_size=BATCH, sampler=NumpySampler()), mid_epoch=ANEW
    ),
    "order of the epoch, workers": Loaders(
        lambda: DataLoader(
            dataset(),
            batch_size=BATCH,
            num_workers=2,
            sampler=DistributedSampler(range(SAMPLES), num_replicas=1, rank=0),  # type: ignore[arg-type]
        ),
        mid_epoch=ANEW,
    ),
    "stream": Loaders(lambda: DataLoader(Stream(), batch_size=BATCH), mid_epoch=ANEW),
    "torchdata": Loaders(torchdata),
    "torchdata, own generator": Loaders(lambda: torchdata(generator=own_generator())),
    "torchdata, workers": Loaders(lambda: torchdata(2), mid_epoch=IN_WORKERS),
    "torchdata, persistent workers": Loaders(
        lambda: torchdata(2, persistent_workers=True), mid_epoch=IN_WORKERS, always=PERSISTENT
    ),
}
