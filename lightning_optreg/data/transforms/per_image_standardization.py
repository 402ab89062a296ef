"""Centre and scale each image by its own mean and standard deviation."""

from torch import Tensor
from typing_extensions import override

from lightning_optreg.data.transforms.base import BatchTransform, require_float
from lightning_optreg.randomness.draws import Draws

__all__ = ["PerImageStandardization"]


class PerImageStandardization(BatchTransform):
    """Give each image mean 0 and variance 1: (x - mean) / max(std, 1 / (255 sqrt(D))), in evaluation too.

    Mean and standard deviation are taken over all D = C H W numbers of an image. The bound keeps uniform
    images finite; it is that of TensorFlow's `per_image_standardization`, whose pixels are on [0, 255]. Use
    it as the last transform, with `normalize: none`.

    Raises:
        TypeError: If the images are not floating-point.

    Shape:
        (N, C, H, W) floating-point on [0, 1] -> the same.

    Example:
        >>> import torch
        >>> PerImageStandardization().evaluate(torch.tensor([[[[0.25, 0.75]]]]))
        tensor([[[[-1.,  1.]]]])
    """

    needs_float = True
    needs_unit_range = True

    @override
    def forward(self, images: Tensor, draws: Draws) -> Tensor:
        """Standardise images (N, C, H, W)."""
        return self.evaluate(images)

    @override
    def evaluate(self, images: Tensor) -> Tensor:
        """Standardise images (N, C, H, W)."""
        require_float(self, images)
        size = images[0].numel()
        mean = images.mean((1, 2, 3), keepdim=True)
        std = images.std((1, 2, 3), correction=0, keepdim=True).clamp(min=1 / (255 * size**0.5))
        return (images - mean) / std
