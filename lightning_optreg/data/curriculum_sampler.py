"""A curriculum for torch's own `DataLoader`, on any dataset."""

from collections.abc import Iterator

from torch import Tensor
from torch.utils.data import Sampler

from lightning_optreg._checks import check_range
from lightning_optreg.data.curriculum import Pacing, RankingOrder, epoch_passes, rank_images

__all__ = ["CurriculumSampler"]


class CurriculumSampler(Sampler[int]):
    """Samples the images of an epoch in passes over a growing pool, as the callback `Curriculum` does.

    An epoch has as many images as the dataset; at first, easy ones are repeated. Lightning sets the epoch; in
    your own loop call `set_epoch`. With several processes pass each its `rank` (and the Trainer
    `use_distributed_sampler=False`); together they see the same as one with `batch_size * world_size`.

    Args:
        scores: (N,), finite, one per item of the dataset; the higher, the harder.
        pacing: How the pool grows, in batches.
        batch_size: The DataLoader's, at least 1.
        order: See `rank_images`.
        labels: int64 (N,), for pools with the class proportions of the whole; None: unbalanced.
        seed: Seed of the order, any integer.
        rank: Number of this process, in [0, world_size).
        world_size: Number of processes, at least 1.

    Raises:
        ValueError: If a value is out of its range, or a score is not finite.

    Example:
        >>> import torch
        >>> from lightning_optreg.data.curriculum import Pacing
        >>> pacing = Pacing("step", start=0.4, full_at=10, min_images=1)
        >>> sampler = CurriculumSampler(torch.tensor([5.0, 1.0, 4.0, 2.0, 3.0]), pacing, batch_size=1)
        >>> set(sampler) == {1, 3}, len(sampler)
        (True, 5)
        >>> sampler.set_epoch(2)
        >>> sorted(sampler)
        [0, 1, 2, 3, 4]
    """

    def __init__(
        self,
        scores: Tensor,
        pacing: Pacing,
        batch_size: int,
        *,
        order: RankingOrder = "easy_first",
        labels: Tensor | None = None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if not (scores.ndim == 1 and len(scores) >= 1 and bool(scores.isfinite().all())):
            raise ValueError(
                f"CurriculumSampler: scores must be finite and of shape (N,), got {tuple(scores.shape)}"
            )
        if labels is not None and labels.shape != scores.shape:
            raise ValueError(f"CurriculumSampler: labels must be (N,) as scores, got {tuple(labels.shape)}")
        check_range("CurriculumSampler", ">= 1", batch_size=batch_size)
        if not 0 <= rank < world_size:
            raise ValueError(f"CurriculumSampler: rank must be in [0, world_size = {world_size}), got {rank}")
        self.ranking = rank_images(scores, order, seed=seed, labels=labels)
        self.pacing, self.batch_size, self.seed = pacing, batch_size, seed
        self.rank, self.world_size = rank, world_size
        self.epoch = 0

    def __len__(self) -> int:
        """Return the number of images in an epoch of this process."""
        return len(self.ranking) // self.world_size

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration, counted from 0."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        """Iterate over the epoch's positions."""
        count, global_batch = len(self.ranking), self.batch_size * self.world_size
        images = len(self) * self.world_size
        passes = epoch_passes(
            self.ranking,
            lambda batch: self.pacing.size(batch, count),
            images=images,
            global_batch=global_batch,
            first_batch=self.epoch * -(-images // global_batch),
            seed=self.seed,
            epoch=self.epoch,
        )
        return iter(passes.index[self.rank :: self.world_size].tolist())
