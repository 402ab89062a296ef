"""Random mirror images: a mirrored picture of a shoe is still a picture of a shoe."""

from torch import Tensor

from lightning_optreg.data.transforms.base import BatchTransform, choose
from lightning_optreg.randomness.draws import Draws

__all__ = ["RandomHorizontalFlip"]


class RandomHorizontalFlip(BatchTransform):
    """Mirror each image, left to right, with probability p.

    Args:
        p: Probability in [0, 1].

    Raises:
        ValueError: If p is out of its range.

    Shape:
        (N, C, H, W), uint8 or floating-point -> the same.

    Source:
        Krizhevsky et al. 2012, "ImageNet classification with deep convolutional neural networks",
        section 4.1.

    Example:
        >>> import torch
        >>> from lightning_optreg.randomness.draws import Draws, Place
        >>> draws = Draws(0, Place(epoch=0, step=0, start=0, total=1), 1, torch.device("cpu"))
        >>> RandomHorizontalFlip(p=1.0)(torch.tensor([[[[1, 2, 3]]]]), draws)
        tensor([[[[3, 2, 1]]]])
    """

    moves_pixels = True

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        if not 0.0 <= p <= 1.0:
            raise ValueError(f"RandomHorizontalFlip: p must be in [0, 1], got {p}")
        self.p = p

    def forward(self, images: Tensor, draws: Draws) -> Tensor:
        """Mirror some of the images (N, C, H, W)."""
        if self.p == 0.0:
            return images
        return choose(draws.uniform() < self.p, images.flip(-1), images)

    def extra_repr(self) -> str:
        """Show the settings."""
        return f"p={self.p}"
