"""Random changes of histograms: each channel of an image is spread over the whole range of values.

The functions are torchvision's, on whole batches: each channel of each image has its own histogram.
"""

import torch
from torch import Tensor

from lightning_optreg.data.transforms.randomly_applied import RandomlyApplied, require_grey_or_rgb

__all__ = ["RandomAutocontrast", "RandomEqualize"]


class RandomAutocontrast(RandomlyApplied):
    """Stretch each channel of an image to the whole range with probability p: (x - min) / (max - min).

    A channel of a single value does not change. 8-bit images stay in 8 bits.

    Args:
        p: Probability in [0, 1] for each image. Default: 0.5.

    Raises:
        ValueError: If p is out of its range, or the images have neither 1 nor 3 channels.

    Shape:
        (N, C, H, W), uint8 or floating-point on [0, 1] -> the same.

    Source:
        torchvision's `autocontrast`; Cubuk et al. 2019, "AutoAugment: learning augmentation policies from
        data" (arXiv:1805.09501).

    Example:
        >>> from lightning_optreg.randomness.draws import Draws, Place
        >>> draws = Draws(0, Place(epoch=0, step=0, start=0, total=1), 1, torch.device("cpu"))
        >>> RandomAutocontrast(p=1.0)(torch.tensor([[[[0.25, 0.5, 0.75]]]]), draws)
        tensor([[[[0.0000, 0.5000, 1.0000]]]])
    """

    def change(self, images: Tensor) -> Tensor:
        """Stretch the values of all images."""
        from torchvision.transforms.v2 import functional  # takes seconds to import

        require_grey_or_rgb(self, images)
        stretched: Tensor = functional.autocontrast(images)
        return stretched


class RandomEqualize(RandomlyApplied):
    """Equalize the histogram of each channel of an image with probability p.

    A value of 0, ..., 255 becomes min((n + s // 2) // s, 255), where n is the number of the channel's pixels
    below it and s that of all pixels below its brightest value, divided by 255 and rounded down: values
    become about equally frequent. As in PIL, whose formula it is, a channel with s = 0 does not change, so
    images need 256 pixels or more; and if they have only some times 255, rounding s down makes the brightest
    pixels white.

    8-bit images stay in 8 bits; floating-point ones are rounded to 8 bits for it, and so is their result.

    Args:
        p: Probability in [0, 1] for each image. Default: 0.5.

    Raises:
        ValueError: If p is out of its range.

    Shape:
        (N, C, H, W), uint8 or floating-point on [0, 1] -> the same.

    Source:
        torchvision's `equalize`; Cubuk et al. 2019, "AutoAugment: learning augmentation policies from data"
        (arXiv:1805.09501).

    Example:
        >>> from lightning_optreg.randomness.draws import Draws, Place
        >>> draws = Draws(0, Place(epoch=0, step=0, start=0, total=1), 1, torch.device("cpu"))
        >>> dark = torch.arange(64, dtype=torch.uint8).repeat(16).view(1, 1, 32, 32)
        >>> RandomEqualize(p=1.0)(dark, draws).unique()[:5]
        tensor([ 0,  5, 11, 16, 21], dtype=torch.uint8)
    """

    def change(self, images: Tensor) -> Tensor:
        """Equalize all images."""
        from torchvision.transforms.v2 import functional

        dtype = images.dtype
        if dtype in (torch.bfloat16, torch.float16):  # where torchvision's conversion makes white 256
            images = images.float()
        equalized: Tensor = functional.equalize(images)
        return equalized.to(dtype)
