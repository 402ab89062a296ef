"""Random stretching: objects become wider or narrower, and higher or lower, each independently."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_optreg._checks import check_choice
from lightning_optreg.data.transforms._sampling import PADDING, PaddingMode
from lightning_optreg.data.transforms.base import BatchTransform, is_pair, require_float
from lightning_optreg.data.transforms.random_resized_crop import warp
from lightning_optreg.randomness.draws import Draws

__all__ = ["RandomStretch"]


class RandomStretch(BatchTransform):
    """Stretch width and height of each image by independent random factors, about its centre.

    The factors are log-uniform on their ranges, so that with (1 / f, f) pictures grow as often as they
    shrink. The size of the images does not change: what is pushed beyond the edge is lost, and where the
    picture has shrunk there is padding. All images are sampled bilinearly in one call. 8-bit images must be
    converted to floating-point before; a data module does it.

    `RandomResizedCrop(stretch=...)` changes only the ratio of width to height, and keeps areas.

    Args:
        width: Smallest and largest factor, 0 < low <= high; above 1 is wider. Default: (0.8, 1.25).
        height: Smallest and largest factor, 0 < low <= high; above 1 is higher. Default: (0.8, 1.25).
        padding_mode: How the image continues beyond its edge: `zeros` is black, `border` repeats its
            outermost pixels, `reflection` mirrors it. Default: zeros.

    Raises:
        ValueError: If an argument is out of its range.
        TypeError: If the images are not floating-point.

    Shape:
        (N, C, H, W) floating-point -> the same.

    Source:
        Yaeger, Lyon and Webb 1996, "Effective training of a neural network character classifier for word
        recognition" (pen strokes, scaled in x and y); the ranges are ours.

    Example:
        >>> from lightning_optreg.randomness.draws import Draws, Place
        >>> draws = Draws(0, Place(epoch=0, step=0, start=0, total=1), 1, torch.device("cpu"))
        >>> RandomStretch(width=(0.5, 0.5), height=(1.0, 1.0))(torch.ones(1, 1, 1, 8), draws)
        tensor([[[[0., 0., 1., 1., 1., 1., 0., 0.]]]])
    """

    needs_float = True
    moves_pixels = True

    def __init__(
        self,
        width: tuple[float, float] = (0.8, 1.25),
        height: tuple[float, float] = (0.8, 1.25),
        padding_mode: PaddingMode = "zeros",
    ) -> None:
        super().__init__()
        for name, pair in (("width", width), ("height", height)):
            if not is_pair(pair) or not 0.0 < pair[0] <= pair[1] < math.inf:
                raise ValueError(
                    f"RandomStretch: {name} must be (low, high) with 0 < low <= high < inf, got {pair}"
                )
        check_choice("RandomStretch", PADDING, padding_mode=padding_mode)
        self.width, self.height = (width[0], width[1]), (height[0], height[1])
        self.padding_mode = padding_mode

    def forward(self, images: Tensor, draws: Draws) -> Tensor:
        """Stretch each of the images (N, C, H, W)."""
        if self.width == self.height == (1.0, 1.0):
            return images
        require_float(self, images)
        # A place in the result came from one that is nearer to the centre if the picture grew.
        scales = [
            torch.exp(-(u * math.log(high / low) + math.log(low)))
            for u, (low, high) in zip(draws.uniform(2).unbind(1), (self.width, self.height), strict=True)
        ]
        matrices = F.pad(torch.diag_embed(torch.stack(scales, dim=1)), (0, 1))  # (N, 2, 3)
        return warp(images, matrices, (images.shape[-2], images.shape[-1]), self.padding_mode)

    def extra_repr(self) -> str:
        """Show the settings."""
        return f"width={self.width}, height={self.height}, padding_mode={self.padding_mode!r}"
