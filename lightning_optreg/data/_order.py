"""The order of an epoch's images, and how its batches are shared among processes."""

from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor

from lightning_optreg.randomness.draws import mix

__all__ = ["Shuffle", "check_shuffle", "deal", "drawn_ahead", "epoch_order", "fixed_order", "poisson_sample"]

Shuffle = Literal["every_epoch", "once", "never", "by_class", "poisson"]
"""When training images are shuffled; "by_class" sorts them by their labels, "poisson" draws each batch."""

_POISSON = 1  # tells its numbers from those of the augmentation of the same batch


def check_shuffle(shuffle: object, name: str) -> None:
    """Raise a ValueError that begins with `name` if `shuffle` is not a `Shuffle`."""
    if shuffle not in get_args(Shuffle):
        raise ValueError(f"{name}: shuffle must be one of {', '.join(get_args(Shuffle))}, got {shuffle!r}")


def epoch_order(count: int, seed: int, epoch: int) -> Tensor:
    """Return the order of an epoch, a permutation of 0, ..., count - 1 determined by (seed, epoch).

    Args:
        count: Number of images, at least 1.
        seed: Any integer.
        epoch: Epoch, counted from 0.

    Returns:
        int64 (count,).

    Example:
        >>> epoch_order(5, seed=0, epoch=1).sort().values
        tensor([0, 1, 2, 3, 4])
    """
    return torch.randperm(count, generator=torch.Generator().manual_seed(mix(seed, epoch)))


def poisson_sample(count: int, rate: float, seed: int, epoch: int, step: int) -> Tensor:
    """Return a Poisson sample: each of 0, ..., count - 1 is in it with probability q, whatever the others.

    It is a function of its arguments only, so it can be drawn when its step comes.

    Args:
        count: Number of images N, at least 1.
        rate: q, in (0, 1].
        seed: Any integer.
        epoch: Epoch, counted from 0.
        step: Batch within the epoch, counted from 0.

    Returns:
        int64, increasing positions; q N of them on average, and possibly none.

    Example:
        >>> poisson_sample(5, 1.0, seed=0, epoch=0, step=0)
        tensor([0, 1, 2, 3, 4])
    """
    generator = torch.Generator().manual_seed(mix(seed, epoch, step, _POISSON))
    # In float64, as numbers of 24 bits would make q a multiple of 2^-24.
    return (torch.rand(count, generator=generator, dtype=torch.float64) < rate).nonzero().flatten()


def drawn_ahead(
    order: Tensor, rate: float, seed: int, epoch: int, steps: range
) -> tuple[Tensor, list[tuple[int, int]]]:
    """Draw an epoch's Poisson samples in one tensor; they are those of `poisson_sample`.

    Args:
        order: int64 (N,), what is sampled.
        rate: q, in (0, 1].
        seed: Any integer.
        epoch: Epoch, counted from 0.
        steps: Batches to draw, up to the last of the epoch; those before get an empty sample.

    Returns:
        The samples one after the other, and the first position and end of each batch from 0 on.

    Example:
        >>> drawn_ahead(torch.tensor([7, 9]), 1.0, seed=0, epoch=0, steps=range(1, 3))
        (tensor([7, 9, 7, 9]), [(0, 0), (0, 2), (2, 4)])
    """
    samples = [order[poisson_sample(len(order), rate, seed, epoch, step)] for step in steps]
    ends = [0] * (steps.start + 1)
    for sample in samples:
        ends.append(ends[-1] + len(sample))
    return torch.cat([order[:0], *samples]), list(pairwise(ends))


def fixed_order(labels: Tensor, shuffle: Shuffle, seed: int) -> Tensor:
    """Return the part of the order that all epochs share.

    Args:
        labels: int64 (N,).
        shuffle: "once": the permutation of epoch 0. "by_class": sorted by label, in stored order within a
            class. "never", and "every_epoch" and "poisson", which draw later: in stored order.
        seed: Any integer.

    Returns:
        int64 (N,), positions.

    Example:
        >>> fixed_order(torch.tensor([1, 0, 1, 0]), "by_class", seed=0)
        tensor([1, 3, 0, 2])
    """
    if shuffle == "once":
        return epoch_order(len(labels), seed, epoch=0)
    return labels.argsort(stable=True) if shuffle == "by_class" else torch.arange(len(labels))


def deal(
    count: int, batch_size: int, world_size: int, *, even: bool, drop_last: bool = False
) -> list[tuple[int, int]]:
    """Divide positions 0, ..., count - 1 into global batches, each with at least one image per process.

    A global batch has `batch_size * world_size` positions, the last one what remains. If fewer than
    `world_size` remain, they join the previous batch, so that no process gets an empty batch.

    Args:
        count: Number of images, at least `world_size`.
        batch_size: Images per process in a full batch, at least 1.
        world_size: Number of processes, at least 1.
        even: Leave out the last `count mod world_size` positions, so that all processes have equally many
            images in every batch. (The mean of their mean gradients is then the mean over the global batch.)
        drop_last: Leave out the last batch if it is not full.

    Returns:
        First position and end of each global batch; empty if nothing is left.

    Example:
        >>> deal(11, batch_size=2, world_size=2, even=True)
        [(0, 4), (4, 8), (8, 10)]
        >>> deal(9, batch_size=2, world_size=2, even=False)
        [(0, 4), (4, 9)]
    """
    full = batch_size * world_size
    if even:
        count -= count % world_size
    if drop_last:
        count -= count % full
    starts = list(range(0, count, full))
    if len(starts) > 1 and count - starts[-1] < world_size:
        starts.pop()
    return list(zip(starts, [*starts[1:], count], strict=True)) if starts else []
