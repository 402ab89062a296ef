"""Random erasing: a rectangle of each image is painted over, so that the network can't rely on a single part.

Zhong, Zheng, Kang, Li, Yang 2020, "Random erasing data augmentation" (arXiv:1708.04896); the same idea with a
square of fixed size is cutout (DeVries and Taylor 2017, arXiv:1708.04552).
"""

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lightning_optreg._checks import check_range
from lightning_optreg.data.transforms.base import BatchTransform, is_pair
from lightning_optreg.randomness.draws import Draws

__all__ = ["RandomErasing", "Rectangles", "inside"]

_ATTEMPTS = 10


class Rectangles(NamedTuple):
    """One rectangle for each of N images, in whole pixels; all int64 (N,)."""

    top: Tensor
    left: Tensor
    height: Tensor
    """0 for none."""
    width: Tensor


def inside(rectangles: Rectangles, size: tuple[int, int]) -> Tensor:
    """Return which pixels are inside the rectangles.

    Args:
        rectangles: The rectangles of N images.
        size: Height H and width W of the images.

    Returns:
        bool (N, 1, H, W).

    Example:
        >>> one = Rectangles(*(torch.tensor([n]) for n in (1, 0, 1, 2)))
        >>> inside(one, (2, 3)).long()
        tensor([[[[0, 0, 0],
                  [1, 1, 0]]]])
    """
    device = rectangles.top.device
    rows, columns = (torch.arange(length, device=device) for length in size)
    bottom, right = rectangles.top + rectangles.height, rectangles.left + rectangles.width
    in_rows = (rows >= rectangles.top[:, None]) & (rows < bottom[:, None])  # (N, H)
    in_columns = (columns >= rectangles.left[:, None]) & (columns < right[:, None])  # (N, W)
    return (in_rows[:, :, None] & in_columns[:, None, :])[:, None]


class RandomErasing(BatchTransform):
    """Paint over a random rectangle of each image with probability p.

    The rectangle covers a fraction of the area uniform on `scale`, its ratio of height to width is
    log-uniform on `ratio`, and its place is uniform within the image. If it is at least as high or wide as
    the image it is drawn again, up to ten draws in all; then the image stays unchanged. Each image has its
    own rectangle, while torchvision's transform uses one for a whole batch. The defaults are torchvision's;
    the paper uses scale (0.02, 0.4) and random values.

    Args:
        p: Probability in [0, 1].
        scale: Smallest and largest fraction of the area, 0 < low <= high <= 1.
        ratio: Smallest and largest ratio of height to width, 0 < low <= high.
        value: The new value of the pixels: a number in [0, 1], 0 being black, or "random" for a uniform one
            in each pixel and channel.

    Raises:
        ValueError: If an argument is out of its range.

    Shape:
        (N, C, H, W), uint8 or floating-point on [0, 1] -> the same.

    Example:
        >>> from lightning_optreg.randomness.draws import Draws, Place
        >>> draws = Draws(0, Place(epoch=0, step=0, start=0, total=2), 2, torch.device("cpu"))
        >>> erase = RandomErasing(p=1.0, scale=(0.25, 0.25), ratio=(1.0, 1.0))
        >>> (erase(torch.ones(2, 1, 8, 8), draws) == 0).sum((1, 2, 3))
        tensor([16, 16])
    """

    needs_unit_range = True

    def __init__(
        self,
        p: float = 0.5,
        scale: tuple[float, float] = (0.02, 0.33),
        ratio: tuple[float, float] = (0.3, 3.3),
        value: float | Literal["random"] = 0.0,
    ) -> None:
        super().__init__()
        check_range("RandomErasing", "[0, 1]", p=p)
        for name, pair, high in (("scale", scale, 1.0), ("ratio", ratio, math.inf)):
            if not is_pair(pair) or not 0.0 < pair[0] <= pair[1] <= high or pair[1] == math.inf:
                raise ValueError(
                    f"RandomErasing: {name} must be (low, high) with 0 < low <= high"
                    f"{' <= 1' if high == 1.0 else ' < inf'}, got {pair}"
                )
        if value != "random" and not (isinstance(value, (int, float)) and 0.0 <= value <= 1.0):
            raise ValueError(f"RandomErasing: value must be in [0, 1] or 'random', got {value!r}")
        self.p, self.value = p, value
        self.scale, self.ratio = (scale[0], scale[1]), (ratio[0], ratio[1])

    def forward(self, images: Tensor, draws: Draws) -> Tensor:
        """Paint over parts of the images (N, C, H, W)."""
        if self.p == 0.0:
            return images
        size = (images.shape[-2], images.shape[-1])
        erased = inside(self.draw(draws, size), size)
        if self.value == "random":
            paint = draws.uniform(*images.shape[1:])
            return torch.where(erased, _as_pixels(paint, images.dtype), images)
        value = self.value if images.is_floating_point() else round(255 * self.value)
        return images.masked_fill(erased, value)

    def draw(self, draws: Draws, size: tuple[int, int]) -> Rectangles:
        """Draw a rectangle for each image of (height, width)."""
        chosen = draws.uniform() < self.p
        u = draws.uniform(4, _ATTEMPTS)  # (N, 4, attempts)
        area = (u[:, 0] * (self.scale[1] - self.scale[0]) + self.scale[0]) * (size[0] * size[1])
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        ratio = torch.exp(u[:, 1] * (high - low) + low)
        height, width = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
        fits = (height < size[0]) & (width < size[1])
        # The first that fits; argmax of a bool is the first True, and 0 if there is none.
        first = fits.int().argmax(dim=1, keepdim=True)
        there = (chosen & fits.any(dim=1)).long()
        height, width = (side.gather(1, first).squeeze(1).long() for side in (height, width))
        v = u[:, 2:].gather(2, first[:, None].expand(-1, 2, -1)).squeeze(2)
        top = (v[:, 0] * (size[0] - height + 1)).long().clamp_max(size[0] - 1)
        left = (v[:, 1] * (size[1] - width + 1)).long().clamp_max(size[1] - 1)
        return Rectangles(top, left, height * there, width)

    def extra_repr(self) -> str:
        """Show the settings."""
        return f"p={self.p}, scale={self.scale}, ratio={self.ratio}, value={self.value!r}"


def _as_pixels(numbers: Tensor, dtype: torch.dtype) -> Tensor:
    return numbers.to(dtype) if dtype.is_floating_point else numbers.mul(256).to(dtype)
