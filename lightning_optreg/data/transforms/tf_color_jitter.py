"""Random colour changes like those of TensorFlow, for recipes that were published with them."""

import torch
from torch import Tensor

from lightning_optreg._checks import check_range
from lightning_optreg.data.transforms.base import BatchTransform, is_pair, require_float
from lightning_optreg.randomness.draws import Draws

__all__ = ["TFColorJitter", "adjust_saturation"]


def adjust_saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Multiply the saturation S of HSV by a factor f, up to 1: c' = V - (V - c) min(f, 1 / S).

    V is the largest channel of a pixel and S = (V - smallest) / V. Hue and V do not change, so each channel c
    keeps its share of the distance to V, and no conversion to HSV and back is needed.

    Args:
        images: (N, C, H, W), floating-point, C = 3; with one channel nothing changes. A pixel with V <= 0
            becomes grey.
        factor: (N,), f, at least 0; 0 gives grey images of brightness V.

    Returns:
        Images of the same shape.

    Example:
        >>> adjust_saturation(torch.tensor([0.2, 0.6, 0.8]).view(1, 3, 1, 1), torch.tensor([0.5])).flatten()
        tensor([0.5000, 0.7000, 0.8000])
    """
    value = images.amax(1, keepdim=True)
    chroma = value - images.amin(1, keepdim=True)
    # 1 / S, infinite for grey pixels: there c is V and the ratio does not matter.
    most = torch.where(chroma > 0, value / chroma, torch.inf)
    ratio = torch.minimum(factor.to(images.dtype).view(-1, 1, 1, 1), most).clamp(min=0.0)
    return value - (value - images) * ratio


class TFColorJitter(BatchTransform):
    """Change brightness, saturation and contrast of each image like TensorFlow's `tf.image.random_*`.

    In this order, x on [0, 1], without clamping (`ColorJitter` has torchvision's operations):

        x = x + delta                     delta uniform on [-brightness, brightness)
        S = min(f S, 1) of HSV            f uniform on [saturation[0], saturation[1])
        x = mean + c (x - mean)           c uniform on [contrast[0], contrast[1]); the mean of each channel

    Args:
        brightness: Largest shift of pixels on [0, 1], in [0, 1]; 0 keeps the brightness.
        saturation: Smallest and largest factor, at least 0; (1, 1) keeps the saturation.
        contrast: Smallest and largest factor, at least 0; (1, 1) keeps the contrast.

    Raises:
        ValueError: If an argument is out of its range.
        TypeError: If the images are not floating-point.

    Shape:
        (N, C, H, W) floating-point on [0, 1] -> the same, possibly outside [0, 1].

    Source:
        TensorFlow's tf.image; used in this way by Schneider, Balles and Hennig 2019 (arXiv:1903.05499).

    Example:
        >>> from lightning_optreg.randomness.draws import Draws, Place
        >>> draws = Draws(0, Place(epoch=0, step=0, start=0, total=2), 2, torch.device("cpu"))
        >>> TFColorJitter(saturation=(0.5, 1.5), contrast=(0.2, 1.8))(torch.rand(2, 3, 4, 4), draws).shape
        torch.Size([2, 3, 4, 4])
    """

    needs_float = True
    needs_unit_range = True

    def __init__(
        self,
        brightness: float = 0.0,
        saturation: tuple[float, float] = (1.0, 1.0),
        contrast: tuple[float, float] = (1.0, 1.0),
    ) -> None:
        super().__init__()
        check_range("TFColorJitter", "[0, 1]", brightness=brightness)
        for name, bounds in (("saturation", saturation), ("contrast", contrast)):
            if not is_pair(bounds) or not 0.0 <= bounds[0] <= bounds[1] < float("inf"):
                raise ValueError(f"TFColorJitter: {name} must be two numbers 0 <= a <= b, got {bounds}")
        self.brightness = brightness
        self.saturation, self.contrast = tuple(saturation), tuple(contrast)

    def forward(self, images: Tensor, draws: Draws) -> Tensor:
        """Change the colours of each of the images (N, C, H, W)."""
        shifts, saturates = self.brightness > 0.0, self.saturation != (1.0, 1.0)
        contrasts = self.contrast != (1.0, 1.0)
        if not (shifts or saturates or contrasts):
            return images
        require_float(self, images)
        if shifts:
            delta = draws.uniform(low=-self.brightness, high=self.brightness)
            images = images + delta.to(images.dtype).view(-1, 1, 1, 1)
        if saturates:
            images = adjust_saturation(images, draws.uniform(low=self.saturation[0], high=self.saturation[1]))
        if contrasts:
            factor = draws.uniform(low=self.contrast[0], high=self.contrast[1])
            mean = images.mean((2, 3), keepdim=True)
            images = mean + factor.to(images.dtype).view(-1, 1, 1, 1) * (images - mean)
        return images

    def extra_repr(self) -> str:
        """Show the settings."""
        return f"brightness={self.brightness}, saturation={self.saturation}, contrast={self.contrast}"
