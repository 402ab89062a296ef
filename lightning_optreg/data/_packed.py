"""Images of different sizes, concatenated in one tensor, and views of them."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from lightning_optreg.data.transforms import Pipeline

__all__ = ["PackedImages", "finished_views", "middles"]


class PackedImages:
    """Images (C, h, w) of different sizes, in place of one tensor (N, C, H, W).

    Args:
        pixels: uint8 (P,), the pixels of all images, concatenated.
        sizes: int64 (N, 2), heights and widths.
        channels: C.

    Example:
        >>> pixels = torch.arange(5, dtype=torch.uint8)
        >>> images = PackedImages(pixels, torch.tensor([[1, 2], [1, 3]]), channels=1)
        >>> images.index_select(0, torch.tensor([1, 0])).flatten(1)
        tensor([[2, 3, 4],
                [0, 1, 0]], dtype=torch.uint8)
    """

    ndim = 4
    dtype = torch.uint8

    def __init__(self, pixels: Tensor, sizes: Tensor, channels: int) -> None:
        self.pixels, self.sizes, self.channels = pixels, sizes, channels
        self._ends = (channels * sizes.prod(1)).cumsum(0)

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def device(self) -> torch.device:
        """Device of the pixels."""
        return self.pixels.device

    @property
    def shape(self) -> torch.Size:
        """Shape (N, C, H, W) of a tensor with room for all images."""
        height, width = self.sizes.amax(0).tolist()
        return torch.Size((len(self), self.channels, height, width))

    def index_select(self, dim: int, index: Tensor) -> Tensor:
        """Return images, each in the upper left corner and padded with zeros; `sizes` has their sizes."""
        sizes = self.sizes[index].tolist()
        height, width = (max(side) for side in zip(*sizes, strict=True))
        result = torch.zeros(len(index), self.channels, height, width, dtype=torch.uint8)
        for image, (h, w), end in zip(result, sizes, self._ends[index].tolist(), strict=True):
            image[:, :h, :w] = self.pixels[end - self.channels * h * w : end].view(-1, h, w)
        return result


def middles(images: Tensor, sizes: Sequence[Sequence[int]], size: tuple[int, int]) -> Tensor:
    """Cut out the middle of each image, rounded as in torchvision's `center_crop`.

    Args:
        images: (N, C, H, W), each image in the upper left corner.
        sizes: Height and width of each, at least `size`.
        size: Height and width of the result.

    Returns:
        (N, C, *size).

    Example:
        >>> middles(torch.arange(8.0).view(2, 1, 1, 4), [(1, 4), (1, 2)], (1, 2)).flatten(1)
        tensor([[1., 2.],
                [4., 5.]])
    """
    height, width = size
    parts = []
    for image, (h, w) in zip(images, sizes, strict=True):
        top, left = round((h - height) / 2), round((w - width) / 2)
        parts.append(image[:, top : top + height, left : left + width])
    return torch.stack(parts)


def finished_views(
    views: Callable[[Tensor], Iterator[Tensor]],
    images: Tensor,
    sizes: Sequence[Sequence[int]] | None,
    pipeline: Pipeline,
    shape: tuple[int, int, int],
) -> Iterator[Tensor]:
    """Yield views of whole images, processed as evaluation would process the images.

    A view of its image's size is cropped like the image; other views already have their final size.

    Args:
        views: Makes views of images of one size.
        images: (N, C, H, W), the result of `pipeline.uncropped`.
        sizes: Height and width of each of the images. None: all have the same size.
        pipeline: Processes the views.
        shape: Shape (C, H, W) of the images that evaluation starts from.

    Yields:
        The views, each of all N images in order.

    Raises:
        ValueError: If views of images of different sizes differ in size.
    """
    whole = sizes is not None
    if sizes is None:
        sizes = [shape[1:]] * len(images)
    groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for row, size in enumerate(sizes):
        groups[tuple(size)].append(row)
    order = [row for rows in groups.values() for row in rows]
    back = torch.tensor(order, device=images.device).argsort() if len(groups) > 1 else None
    originals = (
        [images]
        if back is None and not whole
        else [images[rows, :, : size[0], : size[1]] for size, rows in groups.items()]
    )
    for parts in zip(*(views(original) for original in originals), strict=True):
        done = []
        for view, original in zip(parts, originals, strict=True):
            sized = view.shape[-2:] != original.shape[-2:]
            if not sized:
                view = middles(view, [view.shape[-2:]] * len(view), shape[1:]) if whole else view
            done.append(pipeline.finish(view, shape, sized=sized, whole=whole))
        if len({tuple(part.shape[1:]) for part in done}) > 1:
            raise ValueError(
                "TestTimeAugmentation: views of images of different sizes must have the same size, got "
                + " and ".join(str(tuple(part.shape[1:])) for part in done[:2])
            )
        yield done[0] if back is None else torch.cat(done)[back]
