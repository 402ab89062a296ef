"""Batches by one index operation each, in an order that is a function of (seed, epoch)."""

from typing import NamedTuple

from torch import Tensor

from lightning_optreg.data.draws import Place

__all__ = ["Batch", "Place"]


class Batch(NamedTuple):
    """Images with their labels, their positions in the dataset and their place in the run."""

    images: Tensor
    """uint8 (n, C, H, W)."""
    labels: Tensor
    """int64 (n,)."""
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which nobody misses
    """int64 (n,), positions in the dataset."""
    place: Place
    """Which batch of which epoch, and which of its rows."""
