"""Images that are decoded a few at a time, for datasets that need not fit into memory."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_optreg.data._decoding import Decoded
from lightning_optreg.data._packed import PackedImages
from lightning_optreg.data._progress import told
from lightning_optreg.data.sources import ImageSet, Part, Source

__all__ = ["PixelStream", "StreamedSource", "image_set"]


class PixelStream(NamedTuple):
    """The images of a part, not decoded yet."""

    decode: Callable[[], Iterator[Decoded]]
    """Decodes them, in order."""
    labels: Tensor
    """int64 (N,)."""
    shape: tuple[int, int, int]
    """Shape (C, H, W) of each; with `packed` the least, of which one side may be larger."""
    packed: bool
    """Whether they may differ in size."""

    @property
    def nbytes(self) -> int:
        """Bytes that their pixels take, with `packed` the least."""
        channels, height, width = self.shape
        return len(self.labels) * channels * height * width

    def pieces(self) -> Iterator[Decoded]:
        """Decode, as soon as this is called, and tell how far that is."""
        decoded = self.decode()
        parts = ((len(found.sizes), found) for found in decoded)
        return told(parts, len(self.labels), "Decoding", "images")

    def rest(self, sizes: list[Tensor]) -> dict[str, Tensor]:
        """Return all but the pixels, for the cache.

        Args:
            sizes: int64 (n_i, 2), heights and widths of the images of each piece.
        """
        shape = torch.tensor(self.shape)
        return {"labels": self.labels, "shape": shape, **({"sizes": torch.cat(sizes)} if self.packed else {})}

    def in_memory(self) -> ImageSet:
        """Decode all images into memory."""
        pieces, sizes = [], []
        for found in self.pieces():
            pieces.append(torch.from_numpy(found.pixels))
            sizes.append(torch.from_numpy(found.sizes))
        return image_set({"pixels": torch.cat(pieces), **self.rest(sizes)})


@dataclass(frozen=True)
class StreamedSource(Source):
    """A dataset that is decoded into the cache a few images at a time."""

    stream: Callable[[Part], PixelStream] = field(kw_only=True)
    """Returns the images of a part."""


def image_set(tensors: Mapping[str, Tensor]) -> ImageSet:
    """Return the images whose `pixels` (P,) are given with the rest of a `PixelStream`."""
    pixels, shape = tensors["pixels"], tensors["shape"].tolist()
    if "sizes" in tensors:
        return ImageSet(PackedImages(pixels, tensors["sizes"], shape[0]), tensors["labels"])
    return ImageSet(pixels.view(-1, *shape), tensors["labels"])
