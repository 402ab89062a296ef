"""Bilinear sampling of a batch at given places, for transforms that move pixels by fractions of a pixel."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["PADDING", "PaddingMode", "middles", "sample"]

PaddingMode = Literal["zeros", "border", "reflection"]
PADDING = ("zeros", "border", "reflection")


def middles(length: int, like: Tensor) -> Tensor:
    """Return the middles of pixels along a side of the image, which covers [-1, 1]; shape (length,).

    Args:
        length: Number of pixels.
        like: A tensor of the dtype and on the device that the result should have.

    Example:
        >>> middles(4, torch.zeros(1))
        tensor([-0.7500, -0.2500,  0.2500,  0.7500])
    """
    return (2 * torch.arange(length, dtype=like.dtype, device=like.device) + 1) / length - 1


def sample(images: Tensor, places: Tensor, padding_mode: str) -> Tensor:
    """Sample images bilinearly at places that were computed in float32, or in float64 for such images.

    Args:
        images: (N, C, H, W), floating-point; less than float32 is computed in float32.
        places: (N, 2, height, width): x and y in the original, which covers [-1, 1]^2.
        padding_mode: What lies beyond the image: `zeros`, `border` or `reflection`.

    Returns:
        (N, C, height, width), with the images' dtype.
    """
    sampled = F.grid_sample(
        images.to(places.dtype),
        places.permute(0, 2, 3, 1),
        mode="bilinear",
        padding_mode=padding_mode,
        align_corners=False,
    )
    return sampled.to(images.dtype)
