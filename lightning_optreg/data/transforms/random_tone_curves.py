"""Random tone curves: each pixel's new value depends on its old value only, by a fixed curve.

The curves are torchvision's, whose transforms apply them to all images of a batch or to none. AutoAugment
(Cubuk et al. 2019, arXiv:1805.09501) and its successors made them common.
"""

import math

from torch import Tensor

from lightning_optreg._checks import check_range
from lightning_optreg.data.transforms.randomly_applied import RandomlyApplied
from lightning_optreg.randomness.draws import Draws

__all__ = ["RandomInvert", "RandomPosterize", "RandomSolarize"]


class RandomPosterize(RandomlyApplied):
    """Keep only the highest bits of each pixel, with probability p, so that smooth shades become steps.

    8-bit images stay in 8 bits: x becomes the largest multiple of 2^(8 - bits) up to x. For floating-point
    images on [0, 1] it is the largest multiple of 2^-bits, up to 1 - 2^-bits.

    Args:
        bits: Number b of bits that are kept, 1 to 8; 8 changes nothing. One for all images, as in
            torchvision. Default: 4, the strongest of AutoAugment.
        p: Probability in [0, 1] for each image. Default: 0.5.

    Raises:
        ValueError: If an argument is out of its range.

    Shape:
        (N, C, H, W), uint8 or floating-point on [0, 1] -> the same.

    Source:
        torchvision's `posterize`; Cubuk et al. 2019, "AutoAugment: learning augmentation policies from data"
        (arXiv:1805.09501).

    Example:
        >>> import torch
        >>> from lightning_optreg.randomness.draws import Draws, Place
        >>> draws = Draws(0, Place(epoch=0, step=0, start=0, total=1), 1, torch.device("cpu"))
        >>> RandomPosterize(bits=2, p=1.0)(torch.tensor([[[[0, 63, 64, 255]]]], dtype=torch.uint8), draws)
        tensor([[[[  0,   0,  64, 192]]]], dtype=torch.uint8)
    """

    def __init__(self, bits: int = 4, p: float = 0.5) -> None:
        super().__init__(p)
        if not (isinstance(bits, int) and 1 <= bits <= 8):
            raise ValueError(f"RandomPosterize: bits must be a whole number in [1, 8], got {bits}")
        self.bits = bits

    def forward(self, images: Tensor, draws: Draws) -> Tensor:
        """Posterize some of the images (N, C, H, W)."""
        return images if self.bits == 8 else super().forward(images, draws)

    def change(self, images: Tensor) -> Tensor:
        """Posterize all images."""
        from torchvision.transforms.v2 import functional  # takes seconds to import

        posterized: Tensor = functional.posterize(images, self.bits)
        return posterized

    def extra_repr(self) -> str:
        """Show the settings."""
        return f"bits={self.bits}, p={self.p}"


class RandomSolarize(RandomlyApplied):
    """Invert the bright pixels of an image with probability p: 1 - x where x >= threshold, else x.

    8-bit images stay in 8 bits; there it is 255 - x where x >= 255 threshold.

    Args:
        threshold: In [0, 1], for images on [0, 1]; 0 inverts all pixels. One for all images, as in
            torchvision. Default: 0.5.
        p: Probability in [0, 1] for each image. Default: 0.5.

    Raises:
        ValueError: If an argument is out of its range.

    Shape:
        (N, C, H, W), uint8 or floating-point on [0, 1] -> the same.

    Source:
        torchvision's `solarize`; Cubuk et al. 2019, "AutoAugment: learning augmentation policies from data"
        (arXiv:1805.09501).

    Example:
        >>> import torch
        >>> from lightning_optreg.randomness.draws import Draws, Place
        >>> draws = Draws(0, Place(epoch=0, step=0, start=0, total=1), 1, torch.device("cpu"))
        >>> RandomSolarize(p=1.0)(torch.tensor([[[[0, 127, 128, 255]]]], dtype=torch.uint8), draws)
        tensor([[[[  0, 127, 127,   0]]]], dtype=torch.uint8)
    """

    def __init__(self, threshold: float = 0.5, p: float = 0.5) -> None:
        super().__init__(p)
        check_range("RandomSolarize", "[0, 1]", threshold=threshold)
        self.threshold = threshold

    def change(self, images: Tensor) -> Tensor:
        """Solarize all images."""
        from torchvision.transforms.v2 import functional

        threshold = self.threshold
        if not images.is_floating_point():
            threshold = math.ceil(round(255 * threshold, 6))  # 128 / 255 is to be 128, not 129
        solarized: Tensor = functional.solarize(images, threshold)
        return solarized

    def extra_repr(self) -> str:
        """Show the settings."""
        return f"threshold={self.threshold}, p={self.p}"


class RandomInvert(RandomlyApplied):
    """Turn an image into its negative with probability p: 1 - x, or 255 - x in 8 bits.

    Args:
        p: Probability in [0, 1] for each image. Default: 0.5.

    Raises:
        ValueError: If p is out of its range.

    Shape:
        (N, C, H, W), uint8 or floating-point on [0, 1] -> the same.

    Source:
        torchvision's `invert`; Cubuk et al. 2019, "AutoAugment: learning augmentation policies from data"
        (arXiv:1805.09501).

    Example:
        >>> import torch
        >>> from lightning_optreg.randomness.draws import Draws, Place
        >>> draws = Draws(0, Place(epoch=0, step=0, start=0, total=1), 1, torch.device("cpu"))
        >>> RandomInvert(p=1.0)(torch.tensor([[[[0.0, 0.25, 1.0]]]]), draws)
        tensor([[[[1.0000, 0.7500, 0.0000]]]])
    """

    def change(self, images: Tensor) -> Tensor:
        """Invert all images."""
        from torchvision.transforms.v2 import functional

        inverted: Tensor = functional.invert(images)
        return inverted
