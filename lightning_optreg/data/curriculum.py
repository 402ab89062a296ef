"""A curriculum: training begins with a part of the images, chosen by difficulty, and others join them later.

Images are ranked by a score, and a pacing function g(t) is the number of the first ones in the pool after t
batches. Bengio, Louradour, Collobert and Weston 2009, "Curriculum learning" (ICML). Pacing functions and
controls are those of Wu, Dyer and Neyshabur 2021, "When do curricula work?" (arXiv:2012.03107), and of
Hacohen and Weinshall 2019, "On the power of curriculum learning in training deep networks"
(arXiv:1904.03626).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from lightning_optreg._checks import check_range
from lightning_optreg.data._order import epoch_order
from lightning_optreg.randomness.draws import mix

__all__ = ["Pacing", "PacingName", "Passes", "RankingOrder", "epoch_passes", "rank_images"]

PacingName = Literal["step", "linear", "quadratic", "root", "log", "exponential", "staircase"]
RankingOrder = Literal["easy_first", "hard_first", "random"]


@dataclass(frozen=True)
class Pacing:
    """The size of the pool over time: a share b of the images at first, all of them from a certain batch on.

    With x = t / (a T), the progress towards the batch a T at which all N images are reached, g(t) / N is

    - step: b, then 1 at x = 1
    - linear: b + (1 - b) x
    - quadratic: b + (1 - b) x^2
    - root: b + (1 - b) sqrt(x)
    - log: b + (1 - b) (1 + ln(x + e^-10) / 10)
    - exponential: b + (1 - b) (e^(10 x) - 1) / (e^10 - 1)
    - staircase: b c^i on the i-th of k stairs of equal length, i = floor(k x), where k is the smallest
      integer with b c^k >= 1

    and 1 from x = 1 on. Staircase is the "fixed exponential pacing" of Hacohen and Weinshall, who give the
    length of a stair where `full_at` gives the end of the last; the others are those of Wu et al.

    Args:
        name: Name of the function.
        start: The share b at first, in (0, 1]. With 1 the pool always has all images.
        full_at: Number of batches a T after which the pool has all images, greater than 0.
        increase: Factor c of the staircase, greater than 1; the others ignore it.
        min_images: Smallest size of the pool (or all images, if there are fewer), at least 1.

    Raises:
        ValueError: If a value is out of its range.

    Example:
        >>> pacing = Pacing("linear", start=0.2, full_at=100, min_images=1)
        >>> [pacing.size(batch, count=1000) for batch in (0, 50, 100, 200)]
        [200, 600, 1000, 1000]
    """

    name: PacingName = "linear"
    start: float = 0.2
    full_at: float = 1000.0
    increase: float = 1.9
    min_images: int = 256

    def __post_init__(self) -> None:
        if self.name not in get_args(PacingName):
            raise ValueError(
                f"Pacing: name must be one of {', '.join(get_args(PacingName))}, got {self.name!r}"
            )
        check_range("Pacing", "(0, 1]", start=self.start)
        check_range("Pacing", "(0, inf)", full_at=self.full_at)
        check_range("Pacing", "(1, inf)", increase=self.increase)
        check_range("Pacing", ">= 1", min_images=self.min_images)

    def share(self, batch: int) -> float:
        """Return the share of the images in the pool, g(t) / N, in (0, 1].

        Args:
            batch: Number of batches before, t.
        """
        x = batch / self.full_at
        if x >= 1.0:
            return 1.0
        if self.name == "staircase":
            # Rounding must not add a stair, nor delay one by a batch.
            stairs = max(math.ceil(-math.log(self.start) / math.log(self.increase) - 1e-9), 1)
            return min(self.start * self.increase ** math.floor(stairs * x + 1e-9), 1.0)
        match self.name:
            case "step":
                way = 0.0
            case "linear":
                way = x
            case "quadratic":
                way = x * x
            case "root":
                way = math.sqrt(x)
            case "log":
                way = 1.0 + math.log(x + math.exp(-10.0)) / 10.0
            case "exponential":
                way = math.expm1(10.0 * x) / math.expm1(10.0)
        return min(self.start + (1.0 - self.start) * way, 1.0)

    def size(self, batch: int, count: int) -> int:
        """Return the number of images in the pool, g(t), rounded up.

        Args:
            batch: Number of batches before, t.
            count: Number of all images, N.
        """
        return min(count, max(self.min_images, math.ceil(self.share(batch) * count - 1e-6)))


def rank_images(
    scores: Tensor, order: RankingOrder = "easy_first", *, seed: int = 0, labels: Tensor | None = None
) -> Tensor:
    """Sort images by their scores; the first g of the ranking are the pool of size g.

    Images with equal scores are in random order, not in stored order.

    Args:
        scores: (N,), finite; the higher, the harder.
        order: "easy_first" (a curriculum), "hard_first" (an anti-curriculum) or "random": a fixed random
            order, the control that shows whether the difficulty matters or only the growth of the pool.
        seed: Seed of the random order, any integer.
        labels: int64 (N,). If given, every pool has the classes in the proportions of the whole, up to one
            image each: the i-th of a class's n images is placed at (i + 1/2) / n. (Both sources balance
            classes, which are equally large there.) None: classes are ignored.

    Returns:
        int64 (N,), positions.

    Example:
        >>> scores = torch.tensor([3.0, 1.0, 2.0, 4.0])
        >>> rank_images(scores), rank_images(scores, "hard_first")
        (tensor([1, 2, 0, 3]), tensor([3, 0, 2, 1]))
        >>> rank_images(scores, labels=torch.tensor([0, 1, 1, 0]))
        tensor([1, 0, 2, 3])
    """
    generator = torch.Generator().manual_seed(mix(seed, _RANKING))
    ranking = torch.randperm(len(scores), generator=generator)
    if order != "random":
        ranking = ranking[scores[ranking].argsort(stable=True, descending=order == "hard_first")]
    if labels is not None:
        classes = labels[ranking]
        quantile = torch.empty(len(ranking), dtype=torch.float64)
        for label in torch.unique(classes):
            members = classes == label
            count = int(members.sum())
            quantile[members] = (torch.arange(count, dtype=torch.float64) + 0.5) / count
        ranking = ranking[quantile.argsort(stable=True)]
    return ranking


@dataclass(frozen=True)
class Passes:
    """The images of an epoch, in passes over a pool that may grow from one pass to the next."""

    index: Tensor
    """int64 (n,), positions in the order of training."""
    starts: list[int]
    """Where in `index` each pass begins."""
    sizes: list[int]
    """Size of each pass's pool."""


def epoch_passes(
    ranking: Tensor,
    size: Callable[[int], int],
    *,
    images: int,
    global_batch: int,
    first_batch: int,
    seed: int,
    epoch: int,
) -> Passes:
    """Choose and shuffle the images of an epoch: passes over the pool, until the epoch is full.

    A pass goes through the pool once in random order, with the size that the pool has at its first batch; the
    next pass looks up the size again, as in Wu et al. An epoch always has the same number of images, so it
    goes through a small pool several times. Unlike theirs, a pass ends with the epoch, even if some of its
    images are left: so the result depends only on the arguments, and if the pool is the whole set, an epoch
    is exactly that of `epoch_order`.

    Args:
        ranking: int64 (N,), the result of `rank_images`.
        size: Returns the pool's size, in [1, N], after a number of batches.
        images: Images in an epoch, at least 1.
        global_batch: Images in a full batch, over all processes, at least 1.
        first_batch: Number of batches before the epoch.
        seed: Seed of the order, any integer.
        epoch: Epoch, counted from 0.

    Example:
        >>> passes = epoch_passes(torch.tensor([4, 2, 0, 1, 3]), lambda batch: 2, images=5, global_batch=1,
        ...                       first_batch=0, seed=0, epoch=0)
        >>> sorted(passes.index.tolist()), passes.starts, passes.sizes
        ([2, 2, 2, 4, 4], [0, 2, 4], [2, 2, 2])
    """
    starts: list[int] = []
    sizes: list[int] = []
    parts: list[Tensor] = []
    position = 0
    while position < images:
        count = size(first_batch + position // global_batch)
        # Sorted, so that the shuffle does not depend on the order by difficulty.
        pool = ranking[:count].sort().values
        shuffled = epoch_order(count, mix(seed, len(starts)) if starts else seed, epoch)
        starts.append(position)
        sizes.append(count)
        parts.append(pool[shuffled][: images - position])
        position += count
    return Passes(torch.cat(parts), starts, sizes)


_RANKING = 0x52414E4B  # makes the ranking's random numbers differ from those of the epochs
