"""Random brightness and contrast, with separate factors for each image."""

from torch import Tensor

from lightning_optreg.data.transforms.base import BatchTransform, require_float
from lightning_optreg.randomness.draws import Draws

__all__ = ["ColorJitter", "adjust_brightness", "adjust_contrast"]


def adjust_brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Multiply each image by its factor: clamp(b x, 0, 1).

    Args:
        images: (N, C, H, W), floating-point on [0, 1].
        factor: (N,), b, at least 0; 1 changes nothing, 0 gives black.

    Returns:
        Images of the same shape.

    Example:
        >>> import torch
        >>> adjust_brightness(torch.tensor([[[[0.25, 0.75]]]]), torch.tensor([2.0]))
        tensor([[[[0.5000, 1.0000]]]])
    """
    return (images * factor.to(images.dtype).view(-1, 1, 1, 1)).clamp_(0.0, 1.0)


def adjust_contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Blend each image with its mean grey g: clamp(c x + (1 - c) g, 0, 1).

    Args:
        images: (N, C, H, W), floating-point on [0, 1], with 1 or 3 channels; 3 are red, green and blue.
        factor: (N,), c, at least 0; 1 changes nothing, 0 gives uniform grey.

    Returns:
        Images of the same shape.

    Raises:
        ValueError: If there are neither 1 nor 3 channels.

    Example:
        >>> import torch
        >>> adjust_contrast(torch.tensor([[[[0.25, 0.75]]]]), torch.tensor([0.5]))
        tensor([[[[0.3750, 0.6250]]]])
    """
    if images.shape[1] not in (1, 3):
        raise ValueError(f"ColorJitter: contrast needs images of 1 or 3 channels, got {images.shape[1]}")
    grey = images.mean((2, 3), keepdim=True)  # (N, C, 1, 1); mean and weighting commute
    if images.shape[1] == 3:
        red, green, blue = (grey[:, i : i + 1] for i in range(3))
        grey = 0.2989 * red + 0.587 * green + 0.114 * blue  # (N, 1, 1, 1); ITU-R BT.601, as torchvision's
    c = factor.to(images.dtype).view(-1, 1, 1, 1)
    return (images * c).add_((1 - c) * grey).clamp_(0.0, 1.0)


class ColorJitter(BatchTransform):
    """Change the brightness, then the contrast, of each image by random factors.

    The factors are uniform on [1 - brightness, 1 + brightness) and [1 - contrast, 1 + contrast). The effect
    is that of torchvision's `adjust_brightness` and `adjust_contrast`; the order is fixed here and random
    there.

    Args:
        brightness: Half the width of the factor's range, in [0, 1]; 0 keeps the brightness.
        contrast: Half the width of the factor's range, in [0, 1]; 0 keeps the contrast.

    Raises:
        ValueError: If an argument is out of its range, or the contrast of images with neither 1 nor 3
            channels is to be changed.
        TypeError: If the images are not floating-point.

    Shape:
        (N, C, H, W) floating-point on [0, 1] -> the same.

    Source:
        torchvision's `ColorJitter`; Howard 2013, "Some improvements on deep convolutional neural network
        based image classification".

    Example:
        >>> import torch
        >>> from lightning_optreg.randomness.draws import Draws, Place
        >>> draws = Draws(0, Place(epoch=0, step=0, start=0, total=2), 2, torch.device("cpu"))
        >>> images = torch.full((2, 1, 1, 1), 0.5)
        >>> bounds = ColorJitter(brightness=0.2)(images, draws).aminmax()
        >>> 0.4 <= bounds.min < bounds.max <= 0.6
        tensor(True)
    """

    needs_float = True
    needs_unit_range = True

    def __init__(self, brightness: float = 0.0, contrast: float = 0.0) -> None:
        super().__init__()
        for name, value in (("brightness", brightness), ("contrast", contrast)):
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"ColorJitter: {name} must be in [0, 1], got {value}")
        self.brightness = brightness
        self.contrast = contrast

    def forward(self, images: Tensor, draws: Draws) -> Tensor:
        """Change brightness and contrast of each of the images (N, C, H, W)."""
        if self.brightness == 0.0 and self.contrast == 0.0:
            return images
        require_float(self, images)
        if self.brightness > 0.0:
            images = adjust_brightness(
                images, draws.uniform(low=1 - self.brightness, high=1 + self.brightness)
            )
        if self.contrast > 0.0:
            images = adjust_contrast(images, draws.uniform(low=1 - self.contrast, high=1 + self.contrast))
        return images

    def extra_repr(self) -> str:
        """Show the settings."""
        return f"brightness={self.brightness}, contrast={self.contrast}"
