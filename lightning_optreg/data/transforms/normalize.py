"""Centring and scaling of pixels, from 8 bits to the network's float32 in as few passes as possible.

All modes are x a + b with known numbers; for 8-bit pixels, a includes the division by 255.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from lightning_optreg.data.statistics import Statistics
from lightning_optreg.data.transforms.base import require_channels, to_unit_range

__all__ = ["Centring", "Normalize"]

Centring = Literal["mean_std", "mean", "mean_image", "none"]
"""How pixels are centred; see `Normalize`."""


class Normalize(nn.Module):
    """Bring pixels to [0, 1], subtract a mean and divide by a standard deviation.

        mean_std      (x - mean) / std, per channel
        mean          x - mean, per channel: VGG
        mean_image    x - mean image, per channel and place: AlexNet
        none          x on [0, 1]

    `Pipeline` adds it at the right place; it is not one of the transforms that a user lists.

    Args:
        mode: One of the above.
        statistics: Statistics of the training images, or None if `fit` gets them later. Not needed for
            `none`.

    Raises:
        ValueError: If the mode is unknown, a channel's standard deviation is 0, or images do not have the
            shape of the statistics.
        RuntimeError: If it is used before `fit`.

    Shape:
        (N, C, H, W), uint8 or floating-point on [0, 1] -> the same in float32.

    Source:
        Simonyan and Zisserman 2015, section 2.1 (mean); Krizhevsky et al. 2012, section 2 (mean image).

    Example:
        >>> from lightning_optreg.data.statistics import compute_statistics
        >>> images = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1)
        >>> Normalize("mean_std", compute_statistics(images))(images).flatten()
        tensor([-1.,  1.])
    """

    scale: Tensor
    scale_8bit: Tensor
    offset: Tensor

    def __init__(self, mode: Centring = "mean_std", statistics: Statistics | None = None) -> None:
        super().__init__()
        if mode not in ("mean_std", "mean", "mean_image", "none"):
            raise ValueError(f"Normalize: mode must be mean_std, mean, mean_image or none, got {mode!r}")
        self.mode = mode
        self.fitted = mode == "none"
        self._set(torch.ones(1), torch.zeros(1, 1, 1))
        if statistics is not None:
            self.fit(statistics)

    def fit(self, statistics: Statistics) -> None:
        """Read mean and standard deviation."""
        if self.mode == "mean_std" and not statistics.std.min() > 0.0:
            raise ValueError(
                f"Normalize: std must be > 0 in every channel for mean_std, got {statistics.std.tolist()}"
            )
        mean = statistics.mean.double().view(-1, 1, 1)
        std = torch.ones_like(statistics.std.double())
        if self.mode == "mean_std":
            std = statistics.std.double()
        elif self.mode == "mean_image":
            mean = statistics.mean_image.double()
        elif self.mode == "none":
            mean = torch.zeros_like(mean)
        self._set(1 / std, -mean / std.view(-1, 1, 1))
        self.fitted = True

    def forward(self, images: Tensor, shift: Tensor | None = None) -> Tensor:
        """Normalise images (N, C, H, W), after adding a `shift` (N, C) to pixels on [0, 1]."""
        if self.mode == "none" and shift is None:
            return to_unit_range(images).float()
        if not self.fitted:
            raise RuntimeError("Normalize: fit(statistics) must be called before the first batch")
        if self.mode != "none":
            require_channels(self, images, self.scale.shape[1])
        if shift is not None:
            require_channels(self, images, shift.shape[1])
        if self.mode == "mean_image" and images.shape[1:] != self.offset.shape[1:]:
            raise ValueError(
                f"Normalize: fitted to a mean image of shape {tuple(self.offset.shape[1:])}, "
                f"got images of {tuple(images.shape[1:])}"
            )
        offset = self.offset if shift is None else self.offset + shift[:, :, None, None] * self.scale
        # Convert first, then work in place: uint8 times float32 would also make a float32 copy of the
        # operand, # and a single addcmul is not vectorised when it broadcasts (3.5 x the time).
        if images.dtype == torch.uint8:
            return images.float().mul_(self.scale_8bit).add_(offset)
        return (images.float() * self.scale).add_(offset)

    def extra_repr(self) -> str:
        """Show the settings."""
        return f"mode={self.mode!r}"

    def _set(self, scale: Tensor, offset: Tensor) -> None:
        scale = scale.double().view(1, -1, 1, 1)
        self.register_buffer("scale", scale.float(), persistent=False)
        self.register_buffer("scale_8bit", (scale / 255).float(), persistent=False)
        self.register_buffer("offset", offset.float().unsqueeze(0), persistent=False)
