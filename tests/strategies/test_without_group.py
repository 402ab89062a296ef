"""Which training loaders are taken as dealt out among workers that do not wait for each other."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, IterableDataset, TensorDataset

from lightning_optreg.data import BatchLoader
from lightning_optreg.strategies import Downpour, Hogwild
from lightning_optreg.strategies.without_group import WithoutGroup

DATA = TensorDataset(torch.arange(8.0))


def second_of_two(kind: type[WithoutGroup]) -> WithoutGroup:
    """A strategy that believes to be worker 1 of 2 in training."""
    members = {"workers": 2, "is_distributed": True, "global_rank": 1}
    strategy: WithoutGroup = type(kind.__name__, (kind,), members)()
    return strategy


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[int]:
        return iter(range(8))


class Share(Stream):
    rank, world_size = 1, 2


def ours(rank: int) -> BatchLoader:
    images, labels = torch.zeros(8, 1, 2, 2, dtype=torch.uint8), torch.zeros(8).long()
    return BatchLoader(images, labels, batch_size=2, shuffle=False, seed=0, rank=rank, world_size=2)


def sampler() -> DistributedSampler[Any]:
    return DistributedSampler(DATA, num_replicas=2, rank=1)


@pytest.mark.parametrize("kind", [Hogwild, Downpour])
@pytest.mark.parametrize(
    "loader",
    [
        DataLoader(DATA, sampler=sampler()),
        DataLoader(DATA, batch_sampler=BatchSampler(sampler(), 2, drop_last=False)),
        DataLoader(Share()),
        ours(1),
    ],
    ids=["sampler", "batch sampler", "dataset", "ours"],
)
def test_a_loader_of_a_share_is_taken(kind: type[WithoutGroup], loader: object) -> None:
    assert second_of_two(kind).process_dataloader(loader) is loader


@pytest.mark.parametrize("kind", [Hogwild, Downpour])
@pytest.mark.parametrize(
    "loader",
    [DataLoader(DATA), DataLoader(Stream()), ours(0), [torch.zeros(1)]],
    ids=["all", "stream", "another's share", "list"],
)
def test_others_are_refused(kind: type[WithoutGroup], loader: object) -> None:
    name = type(loader).__name__
    with pytest.raises(
        MisconfigurationException,
        match=rf"^{kind.__name__}: the batches of a {name} can't be dealt out to 2 workers: use a DataLoader",
    ):
        second_of_two(kind).process_dataloader(loader)
