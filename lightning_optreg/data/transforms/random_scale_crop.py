"""Scale augmentation: resize each image to a random short side, then cut a window out of it.

Simonyan and Zisserman 2015 (arXiv:1409.1556, section 3.1) train VGG this way, He et al. 2016 ResNet. The
scale is uniform in the side's length; that of `RandomResizedCrop` is uniform in the fraction of the area.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_optreg.data.transforms.base import BatchTransform, image_size, is_pair, require_float
from lightning_optreg.data.transforms.random_resized_crop import Boxes, affine_matrices, warp
from lightning_optreg.randomness.draws import Draws

__all__ = ["RandomScaleCrop"]


class RandomScaleCrop(BatchTransform):
    """Resize each image to a random short side of L pixels, and cut out a window at a random place.

    L is an integer uniform on `scale`, both ends included, drawn for each image. The long side becomes
    floor(L long / short). The place of the window is uniform, in whole pixels of the resized image. For
    evaluation L is `evaluation_scale`, and the window is the middle.

    Both steps are one bilinear sampling of the window, without antialiasing, both in training and in
    evaluation: images whose short side is above twice the lowest scale should be shrunk first.

    Args:
        size: Height and width of the window in pixels, or one number for both; at least 1. Default: 224.
        scale: Smallest and largest short side in pixels, 1 <= low <= high; the window must fit at the
            lowest. Default: (256, 480), as for ResNet.
        evaluation_scale: Short side for evaluation in pixels, at least 1. None: the lowest of `scale`.

    Raises:
        ValueError: If an argument is out of its range, or the window does not fit into the resized image.
        TypeError: If the images are not floating-point.

    Shape:
        (N, C, H, W) floating-point -> (N, C, height, width) of the same dtype.

    Source:
        He, Zhang, Ren and Sun 2016, "Deep residual learning for image recognition" (arXiv:1512.03385),
        section 3.4.

    Example:
        >>> from lightning_optreg.randomness.draws import Draws, Place
        >>> draws = Draws(0, Place(epoch=0, step=0, start=0, total=2), 2, torch.device("cpu"))
        >>> crop = RandomScaleCrop(28, scale=(32, 60))
        >>> crop(torch.rand(2, 3, 48, 64), draws).shape, crop.output_shape((3, 48, 64))
        (torch.Size([2, 3, 28, 28]), (3, 28, 28))
    """

    needs_float = True
    moves_pixels = True

    def __init__(
        self,
        size: int | tuple[int, int] = 224,
        scale: tuple[int, int] = (256, 480),
        evaluation_scale: int | None = None,
    ) -> None:
        super().__init__()
        window = image_size("RandomScaleCrop", size)
        whole = is_pair(scale) and all(isinstance(side, int) for side in scale)
        if not (whole and 1 <= scale[0] <= scale[1]):
            raise ValueError(
                "RandomScaleCrop: scale must be (low, high), whole numbers with 1 <= low <= high, "
                f"got {scale}"
            )
        if evaluation_scale is not None and not (isinstance(evaluation_scale, int) and evaluation_scale >= 1):
            raise ValueError(
                f"RandomScaleCrop: evaluation_scale must be a whole number >= 1, got {evaluation_scale}"
            )
        self.size = window
        self.scale = (scale[0], scale[1])
        self.evaluation_scale = scale[0] if evaluation_scale is None else evaluation_scale
        for name, least in (("scale", scale[0]), ("evaluation_scale", self.evaluation_scale)):
            if not min(window) <= least:
                raise ValueError(
                    f"RandomScaleCrop: {name} must be >= the window's short side, {min(window)}, got {least}"
                )

    def forward(self, images: Tensor, draws: Draws) -> Tensor:
        """Resize and crop each of the images (N, C, H, W)."""
        image = (images.shape[-2], images.shape[-1])
        self._check(image, self.scale[0])
        if self.scale[0] == self.scale[1] == min(image) and self.size == image:
            return images
        require_float(self, images)
        # As in resizing, the outermost pixels are repeated beyond the edge.
        return warp(images, affine_matrices(self.draw(draws, image), image), self.size, "border")

    def draw(self, draws: Draws, image: tuple[int, int]) -> Boxes:
        """Draw the window of each image of (height, width), in its own pixels."""
        low, high = self.scale
        side = draws.integers(low, high + 1)
        places = draws.uniform(2).unbind(1)
        centres, lengths = [], []
        for length, window, u in zip(image, self.size, places, strict=True):
            resized = side * length // min(image)
            room = resized - window + 1
            # float32 sometimes rounds u * room up to room itself
            start = torch.minimum((u * room).floor(), room - 1)
            pixel = length / resized
            centres.append((start + window / 2) * pixel)
            lengths.append(window * pixel)
        nothing = torch.zeros_like(lengths[0])
        return Boxes(centres[1], centres[0], lengths[1], lengths[0], nothing, nothing, nothing + 1.0)

    def evaluate(self, images: Tensor) -> Tensor:
        """Resize images (N, C, H, W) to the scale of evaluation and return the middle."""
        image = (images.shape[-2], images.shape[-1])
        self._check(image, self.evaluation_scale)
        resized = self._resized(image, self.evaluation_scale)
        if resized != image:
            require_float(self, images)
            images = F.interpolate(images, resized, mode="bilinear", align_corners=False)
        if resized == self.size:
            return images
        top, left = (round((a - b) / 2) for a, b in zip(resized, self.size, strict=True))
        return images[..., top : top + self.size[0], left : left + self.size[1]]

    def output_shape(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Return the shape (C, height, width)."""
        for side in (self.scale[0], self.evaluation_scale):
            self._check((shape[1], shape[2]), side)
        return (shape[0], *self.size)

    def extra_repr(self) -> str:
        """Show the settings."""
        return f"size={self.size}, scale={self.scale}, evaluation_scale={self.evaluation_scale}"

    @staticmethod
    def _resized(image: tuple[int, int], side: int) -> tuple[int, int]:
        return side * image[0] // min(image), side * image[1] // min(image)

    def _check(self, image: tuple[int, int], side: int) -> None:
        resized = self._resized(image, side)
        if not (self.size[0] <= resized[0] and self.size[1] <= resized[1]):
            raise ValueError(
                f"RandomScaleCrop: size {self.size[0]}x{self.size[1]} must fit into the image of "
                f"{image[0]}x{image[1]} resized to {resized[0]}x{resized[1]}"
            )
