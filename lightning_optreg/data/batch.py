"""A batch, and the share of an epoch's batches that one process gets."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from lightning_optreg.data._order import poisson_sample
from lightning_optreg.data._packed import PackedImages
from lightning_optreg.randomness.draws import Place

__all__ = ["Batch", "Share"]


class Batch(NamedTuple):
    """Images with their labels, their positions in the dataset and the batch's place in the run.

    Example:
        >>> images, labels = torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.tensor([3, 7])
        >>> batch = Batch(images, labels, torch.tensor([0, 1]), Place(epoch=0, step=0, start=0, total=2))
        >>> batch.to(torch.device("cpu")).labels
        tensor([3, 7])
    """

    images: Tensor
    """uint8 (n, C, H, W)."""
    labels: Tensor
    """int64 (n,)."""
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which is not needed here
    """int64 (n,), positions in the dataset."""
    place: Place
    """Which batch of which epoch, and which of its rows."""
    sizes: Tensor | None = None
    """int64 (n, 2), on the CPU: heights and widths, if they differ; the images are padded with zeros."""

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on a device, without waiting for the copy."""
        if self.images.device == device:
            return self
        images, labels, index = (t.to(device, non_blocking=True) for t in self[:3])
        return Batch(images, labels, index, self.place, self.sizes)


class Share(Dataset[Batch]):
    """The part of an epoch that one process gets: item k is its share of global batch k.

    With `sampling`, a rate and a seed, global batch k is a Poisson sample, not the k-th part of `order`. It
    is drawn in main memory, so images should lie there too.
    """

    def __init__(
        self,
        images: Tensor | PackedImages,
        labels: Tensor,
        order: Tensor,
        epoch: int,
        bounds: Sequence[tuple[int, int]],
        rank: int,
        world_size: int,
        sampling: tuple[float, int] | None = None,
    ) -> None:
        # The order is moved once, if images lie on an accelerator, so that batches need no copy.
        self.images, self.labels, self.order = images, labels, order.to(images.device)
        self.epoch, self.bounds = epoch, bounds
        self.rank, self.world_size, self.sampling = rank, world_size, sampling

    def _global_batch(self, step: int) -> Tensor:
        if self.sampling is None:
            begin, end = self.bounds[step]
            return self.order[begin:end]
        rate, seed = self.sampling
        return self.order[poisson_sample(len(self.order), rate, seed, self.epoch, step)]

    def __getitem__(self, step: int) -> Batch:
        batch = self._global_batch(step)
        total = len(batch)
        start, stop = self.rank * total // self.world_size, (self.rank + 1) * total // self.world_size
        index = batch[start:stop]
        # index_select copies whole images: 11 us for 128 of 28 x 28, where images[index] takes 97.
        return Batch(
            self.images.index_select(0, index),
            self.labels.index_select(0, index),
            index,
            Place(self.epoch, step, start, total),
            self.images.sizes[index] if isinstance(self.images, PackedImages) else None,
        )
