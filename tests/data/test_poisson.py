"""Poisson samples as an order of the loader."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_optreg.data import BatchLoader
from lightning_optreg.data._order import poisson_sample

N = 60
IMAGES, LABELS = torch.arange(N, dtype=torch.uint8).view(-1, 1, 1, 1), torch.arange(N)


def loader(batch_size: Any = 5, seed: int = 1, **options: Any) -> BatchLoader:
    return BatchLoader(IMAGES, LABELS, batch_size=batch_size, shuffle="poisson", seed=seed, **options)


def epoch(loader: BatchLoader, number: int = 0) -> list[Tensor]:
    loader.set_epoch(number)
    return [batch.labels for batch in loader]


def test_each_image_is_in_each_batch_with_the_same_probability_whatever_the_others() -> None:
    steps, rate = 20_000, 0.1
    drawn = torch.zeros(steps, N)
    for step in range(steps):
        drawn[step, poisson_sample(N, rate, seed=4, epoch=0, step=step)] = 1
    # Five standard errors: of the share of an image, and of the product of two images that are independent.
    error = math.sqrt(rate * (1 - rate) / steps)
    assert (drawn.mean(0) - rate).abs().max() < 5 * error
    centred = drawn - rate
    products = centred.T @ centred / steps
    products.fill_diagonal_(0)
    assert products.abs().max() < 5 * rate * (1 - rate) / math.sqrt(steps)
    sizes = drawn.sum(1)
    assert sizes.mean() == pytest.approx(rate * N, abs=5 * math.sqrt(rate * (1 - rate) * N / steps))
    assert sizes.var() == pytest.approx(rate * (1 - rate) * N, rel=0.05)
    # Neighbouring steps are independent too.
    assert abs((centred[1:] * centred[:-1]).mean()) < 5 * rate * (1 - rate) / math.sqrt((steps - 1) * N)


def test_an_epoch_is_a_function_of_seed_and_number() -> None:
    one = epoch(loader(), 3)
    assert len(one) == 12
    for same in (loader(), loader(num_workers=1)):
        assert all(map(torch.equal, one, epoch(same, 3)))
    assert not all(map(torch.equal, one, epoch(loader(), 4)))
    assert not all(map(torch.equal, one, epoch(loader(seed=2), 3)))
    state = torch.get_rng_state()
    epoch(loader())
    assert torch.equal(state, torch.get_rng_state())


def test_batches_may_be_empty() -> None:
    sizes = [len(batch.images) for batch in loader(1)]
    assert sizes.count(0) > 10
    assert next(iter(loader(1))).images.shape[1:] == (1, 1, 1)


def test_a_full_batch_has_every_image() -> None:
    (labels,) = epoch(loader("full"))
    assert labels.tolist() == list(range(N))


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_a_sample(processes: int) -> None:
    whole = list(loader(6))
    shares = [list(loader(6 // processes, rank=r, world_size=processes)) for r in range(processes)]
    for step, batch in enumerate(whole):
        parts = [share[step] for share in shares]
        assert torch.cat([part.labels for part in parts]).tolist() == batch.labels.tolist()
        sizes = [len(part.labels) for part in parts]
        assert max(sizes) - min(sizes) <= 1
        assert [part.place.start for part in parts] == [sum(sizes[:rank]) for rank in range(processes)]
        assert {part.place.total for part in parts} == {len(batch.labels)}


@pytest.mark.parametrize("processes", [1, 2])
def test_an_epoch_continues_in_the_middle_with_any_number_of_processes(processes: int) -> None:
    first = loader(6)
    batches = iter(first)
    taken = [next(batches).labels for _ in range(4)]
    rest = [loader(6 // processes, rank=rank, world_size=processes) for rank in range(processes)]
    for each in rest:
        each.load_state_dict(first.state_dict())
    shares = [[batch.labels for batch in each] for each in rest]
    joined = [torch.cat(parts) for parts in zip(*shares, strict=True)]
    assert all(map(torch.equal, [*taken, *joined], epoch(loader(6))))


def test_a_batch_size_beyond_the_number_of_images_is_refused() -> None:
    with pytest.raises(ValueError, match="BatchLoader: batch_size must be <= 60 with shuffle 'poisson'"):
        loader(61)


def test_shuffling_can_be_turned_off() -> None:
    """As NoiseFree does: then every image comes once."""
    still = loader(8)
    assert still.poisson
    still.shuffle = False
    assert not still.poisson
    assert torch.cat(epoch(still)).tolist() == list(range(N))
