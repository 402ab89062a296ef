"""Random crops of a padded image: the standard augmentation for small images.

Pad every side by p pixels, then cut out a window at a uniformly random place (Krizhevsky et al. 2012 crop
224 x 224 out of 256 x 256; He et al. 2016, after Lee et al. 2015, pad CIFAR-10 by 4 and crop 32 x 32).
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_optreg._checks import check_range
from lightning_optreg.data.transforms.base import BatchTransform, image_size
from lightning_optreg.randomness.draws import Draws

__all__ = ["RandomCrop", "take_windows"]


def take_windows(images: Tensor, top: Tensor, left: Tensor, size: tuple[int, int]) -> Tensor:
    """Cut one window out of each image.

    Args:
        images: (N, C, H, W), any dtype.
        top: int64 (N,), first row of each window, in 0, ..., H - height; not checked.
        left: int64 (N,), first column of each window, in 0, ..., W - width; not checked.
        size: Height and width of the windows.

    Returns:
        (N, C, height, width), contiguous.

    Example:
        >>> image = torch.arange(9).view(1, 1, 3, 3)
        >>> take_windows(image, torch.tensor([1]), torch.tensor([0]), (2, 2)).tolist()
        [[[[3, 4], [6, 7]]]]
    """
    if images.device.type in ("cpu", "cuda") and len(images) > 0:
        return _take_by_copy(images, top, left, size)
    return _take_by_index(images, top, left, size)


def _take_by_index(images: Tensor, top: Tensor, left: Tensor, size: tuple[int, int]) -> Tensor:
    count, channels = images.shape[:2]
    device = images.device
    n = torch.arange(count, device=device).view(-1, 1, 1, 1)
    c = torch.arange(channels, device=device).view(-1, 1, 1)
    rows = top.view(-1, 1, 1, 1) + torch.arange(size[0], device=device).view(-1, 1)
    columns = left.view(-1, 1, 1, 1) + torch.arange(size[1], device=device)
    return images[n, c, rows, columns]


def _take_by_copy(images: Tensor, top: Tensor, left: Tensor, size: tuple[int, int]) -> Tensor:
    # A window is given by the place of its first pixel, so all possible windows are one strided view of the
    # batch, and taking N of them copies rows instead of computing an address for each pixel: 16 x faster than
    # _take_by_index at (128, 1, 28, 28) uint8, 40 x at (128, 3, 32, 32), on a CPU. A backend that makes views
    # contiguous first would need a thousand times the memory; CPU and CUDA don't.
    images = images.contiguous()
    _, channels, rows, columns = images.shape
    plane = rows * columns
    first = (
        torch.arange(0, images.numel(), channels * plane, device=images.device)
        .add_(top, alpha=columns)
        .add_(left)
    )
    span = (channels - 1) * plane + (size[0] - 1) * columns + size[1]  # from a window's first to last pixel
    windows = images.as_strided((images.numel() - span + 1, channels, *size), (1, plane, columns, 1))
    return windows.index_select(0, first)


class RandomCrop(BatchTransform):
    """Pad each image and cut out a window at a uniformly random place.

    For evaluation the middle window is taken, which is the image itself at the default size.

    Args:
        size: Height and width of the result in pixels, one number for both, or None for the image's own.
        padding: Pixels added on each side, at least 0.
        padding_mode: `zeros` adds black; `reflect` mirrors the image at its outermost pixels, without
            repeating them, and needs a padding smaller than the image.

    Raises:
        ValueError: If an argument is out of its range, or the window is larger than the padded image.

    Shape:
        (N, C, H, W), uint8 or floating-point -> (N, C, height, width) of the same dtype.

    Source:
        He et al. 2016, "Deep residual learning for image recognition", section 4.2 (padding 4).

    Example:
        >>> from lightning_optreg.randomness.draws import Draws, Place
        >>> images = torch.arange(16, dtype=torch.uint8).view(1, 1, 4, 4)
        >>> draws = Draws(0, Place(epoch=0, step=0, start=0, total=1), 1, torch.device("cpu"))
        >>> RandomCrop(2, padding=0)(images, draws).shape
        torch.Size([1, 1, 2, 2])
        >>> RandomCrop(2, padding=0).evaluate(images).tolist()
        [[[[5, 6], [9, 10]]]]
    """

    moves_pixels = True

    def __init__(
        self,
        size: int | tuple[int, int] | None = None,
        padding: int = 4,
        padding_mode: Literal["zeros", "reflect"] = "zeros",
    ) -> None:
        super().__init__()
        image_size("RandomCrop", size)
        check_range("RandomCrop", ">= 0", padding=padding)
        if padding_mode not in ("zeros", "reflect"):
            raise ValueError(f"RandomCrop: padding_mode must be zeros or reflect, got {padding_mode!r}")
        self.size = size
        self.padding = padding
        self.padding_mode = padding_mode

    def forward(self, images: Tensor, draws: Draws) -> Tensor:
        """Crop each of the images (N, C, H, W) at a random place."""
        size = self._size(images.shape)
        if self.padding == 0 and size == images.shape[-2:]:
            return images
        padded = self._pad(images)
        down, right = padded.shape[-2] - size[0] + 1, padded.shape[-1] - size[1] + 1
        place = draws.integers(0, down * right)  # one draw for both offsets
        return take_windows(padded, place // right, place % right, size)

    def evaluate(self, images: Tensor) -> Tensor:
        """Return the middle of each image, rounded as in torchvision's `center_crop`."""
        height, width = self._size(images.shape)
        if (height, width) == images.shape[-2:]:
            return images
        top = round((images.shape[-2] - height) / 2) + self.padding
        left = round((images.shape[-1] - width) / 2) + self.padding
        return self._pad(images)[..., top : top + height, left : left + width]

    def output_shape(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Return the shape (C, height, width)."""
        return (shape[0], *self._size(shape))

    def extra_repr(self) -> str:
        """Show the settings."""
        return f"size={self.size}, padding={self.padding}, padding_mode={self.padding_mode!r}"

    def _size(self, shape: tuple[int, ...]) -> tuple[int, int]:
        size = image_size("RandomCrop", self.size, shape)
        if not (size[0] <= shape[-2] + 2 * self.padding and size[1] <= shape[-1] + 2 * self.padding):
            raise ValueError(
                f"RandomCrop: size {size[0]}x{size[1]} must fit into the image of {shape[-2]}x{shape[-1]} "
                f"padded by {self.padding}"
            )
        if self.padding_mode == "reflect" and not self.padding < min(shape[-2:]):
            raise ValueError(
                f"RandomCrop: padding must be < {min(shape[-2:])}, the image's size, to reflect it, "
                f"got {self.padding}"
            )
        return size

    def _pad(self, images: Tensor) -> Tensor:
        if self.padding == 0:
            return images
        mode = "constant" if self.padding_mode == "zeros" else "reflect"
        return F.pad(images, [self.padding] * 4, mode=mode)
