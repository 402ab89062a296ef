"""Random scale, rotation, shear and stretch of each image: one affine warp for the whole batch.

Every geometric change here is affine, so each image has a single matrix that maps each pixel of the result to
its place in the original, and the batch is sampled once, bilinearly.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_optreg._checks import check_range
from lightning_optreg.data.transforms._sampling import PADDING, PaddingMode, middles, sample
from lightning_optreg.data.transforms.base import BatchTransform, image_size, is_pair, require_float
from lightning_optreg.randomness.draws import Draws

__all__ = ["Boxes", "RandomResizedCrop", "affine_matrices", "warp"]


class Boxes(NamedTuple):
    """One box per image, and how the image is warped before the box is cut out; each field (N,)."""

    x: Tensor
    """Centre in pixels from the left edge: the image covers [0, W], pixel j of a row covers [j, j + 1]."""
    y: Tensor
    """Centre in pixels from the upper edge."""
    width: Tensor
    """In pixels, more than 0."""
    height: Tensor
    """In pixels, more than 0."""
    angle: Tensor
    """Rotation in degrees, clockwise."""
    shear: Tensor
    """Angle along x in degrees, between -90 and 90."""
    stretch: Tensor
    """Factor of the ratio of width to height, more than 0; areas do not change."""


def affine_matrices(boxes: Boxes, image: tuple[int, int]) -> Tensor:
    r"""Return the matrix of each warp, from places in the result to places in the original.

    About the centre c of a box, the picture is stretched by S, sheared by K and rotated by R; then the box
    is cut out. With u in [-1, 1]^2 for places in the result and the box's width w and height h, the place in
    the original, in pixels, is

        c + S^-1 K^-1 R^-1 diag(w, h) u / 2,
        S = diag(sqrt s, 1 / sqrt s),  K = [[1, -tan k], [0, 1]],  R = [[cos r, -sin r], [sin r, cos r]],

    for vectors (x, y) with y pointing down. With s = 1 and the whole image as the box, this is torchvision's
    `affine`.

    Args:
        boxes: The boxes, with angle r, shear k and stretch s.
        image: Height H and width W of the original in pixels.

    Returns:
        (N, 2, 3), in the convention of `torch.nn.functional.affine_grid` with `align_corners=False`: places
        in the original are on [-1, 1] as well.

    Example:
        >>> zero, one, half = torch.zeros(1), torch.ones(1), torch.tensor([14.0])
        >>> middle = Boxes(half, half, half, half, angle=zero, shear=zero, stretch=one)
        >>> affine_matrices(middle, (28, 28))[0, 0]  # x = u / 2
        tensor([0.5000, 0.0000, 0.0000])
    """
    height, width = image
    cos, sin = boxes.angle.deg2rad().cos(), boxes.angle.deg2rad().sin()
    tan = boxes.shear.deg2rad().tan()
    root = boxes.stretch.sqrt()
    # K^-1 R^-1 = [[1, tan], [0, 1]] [[cos, sin], [-sin, cos]]; S^-1 divides and multiplies its rows.
    rows = (
        (cos - tan * sin) / root * boxes.width / width,
        (sin + tan * cos) / root * boxes.height / width,
        2 * boxes.x / width - 1,
        -sin * root * boxes.width / height,
        cos * root * boxes.height / height,
        2 * boxes.y / height - 1,
    )
    return torch.stack(rows, dim=1).view(-1, 2, 3)


def warp(images: Tensor, matrices: Tensor, size: tuple[int, int], padding_mode: str) -> Tensor:
    """Sample images bilinearly at the places given by the matrices.

    Args:
        images: (N, C, H, W), floating-point; less than float32 is computed in float32.
        matrices: (N, 2, 3), as returned by `affine_matrices`.
        size: Height and width of the result in pixels.
        padding_mode: What lies beyond the image: `zeros`, `border` or `reflection`.

    Returns:
        (N, C, height, width), with the images' dtype.

    Example:
        >>> mirror = torch.tensor([[[-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]])
        >>> warp(torch.tensor([[[[1.0, 2.0, 3.0]]]]), mirror, (1, 3), "zeros")
        tensor([[[[3., 2., 1.]]]])
    """
    dtype = torch.promote_types(images.dtype, torch.float32)
    height, width = size
    m = matrices.to(dtype)[..., None, None]  # (N, 2, 3, 1, 1)
    u, v = middles(width, m), middles(height, m)
    # torch.nn.functional.affine_grid multiplies matrices for each pixel: 11 x the time of this sum of a row
    # and a column, and twice that of the sampling itself.
    grid = m[:, :, 0] * u + (m[:, :, 1] * v[:, None] + m[:, :, 2])  # (N, 2, height, width)
    return sample(images, grid, padding_mode)


class RandomResizedCrop(BatchTransform):
    """Cut a random box out of each image, rotated, sheared and stretched, and resize it.

    Each image has its own box and angles, all drawn independently:

    1. The box covers a fraction of the image's area uniform on `scale`. Its ratio of width to height,
       relative to the image's, is log-uniform on `ratio`. A side longer than the image's is shortened to it.
       The place is uniform among those with the box inside the image, not rounded to whole pixels.
    2. About the box's centre, the image is stretched, then sheared along x, then rotated, before the box is
       cut out. The angles are uniform on [-shear, shear) and [-rotation, rotation) degrees, the stretch
       log-uniform on [1 / stretch, stretch].

    For evaluation the image is only resized. Sampling is bilinear without antialiasing both in training and
    in evaluation: images more than twice as large as the result should be shrunk first.

    torchvision's transform rounds boxes to whole pixels, draws a box again if it does not fit, measures
    `ratio` in pixels, and interpolates at a box's edge as if there were nothing beyond it.

    Args:
        size: Height and width of the result in pixels, one number for both, or None for the image's own.
        scale: Smallest and largest fraction of the area, 0 < low <= high <= 1.
        ratio: Smallest and largest ratio of width to height, 0 < low <= high.
        rotation: Largest angle in degrees, in [0, 180].
        shear: Largest angle in degrees, in [0, 90).
        stretch: Largest factor of the ratio of width to height, at least 1.
        padding_mode: How the image continues beyond its edge, for rotated boxes: `reflection` mirrors it,
            `border` repeats its outermost pixels, `zeros` is black.

    Raises:
        ValueError: If an argument is out of its range.
        TypeError: If the images are not floating-point.

    Shape:
        (N, C, H, W) floating-point -> (N, C, height, width) of the same dtype.

    Source:
        Szegedy et al. 2015, "Going deeper with convolutions", section 6 (scale and ratio); Simard,
        Steinkraus and Platt 2003, "Best practices for convolutional neural networks applied to visual
        document analysis" (affine distortions).

    Example:
        >>> from lightning_optreg.randomness.draws import Draws, Place
        >>> draws = Draws(0, Place(epoch=0, step=0, start=0, total=2), 2, torch.device("cpu"))
        >>> crop = RandomResizedCrop(24, rotation=15.0, shear=10.0, stretch=1.2)
        >>> crop(torch.rand(2, 3, 32, 32), draws).shape, crop.output_shape((3, 32, 32))
        (torch.Size([2, 3, 24, 24]), (3, 24, 24))
    """

    needs_float = True
    moves_pixels = True

    def __init__(
        self,
        size: int | tuple[int, int] | None = None,
        scale: tuple[float, float] = (0.25, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        rotation: float = 0.0,
        shear: float = 0.0,
        stretch: float = 1.0,
        padding_mode: PaddingMode = "reflection",
    ) -> None:
        super().__init__()
        image_size("RandomResizedCrop", size)
        for name, pair, high in (("scale", scale, 1.0), ("ratio", ratio, math.inf)):
            if not is_pair(pair) or not 0.0 < pair[0] <= pair[1] <= high or pair[1] == math.inf:
                raise ValueError(
                    f"RandomResizedCrop: {name} must be (low, high) with 0 < low <= high"
                    f"{' <= 1' if high == 1.0 else ' < inf'}, got {pair}"
                )
        if not 0.0 <= rotation <= 180.0:
            raise ValueError(f"RandomResizedCrop: rotation must be in [0, 180] degrees, got {rotation}")
        if not 0.0 <= shear < 90.0:
            raise ValueError(f"RandomResizedCrop: shear must be in [0, 90) degrees, got {shear}")
        check_range("RandomResizedCrop", "[1, inf)", stretch=stretch)
        if padding_mode not in PADDING:
            raise ValueError(
                f"RandomResizedCrop: padding_mode must be zeros, border or reflection, got {padding_mode!r}"
            )
        self.size = size
        self.scale = (scale[0], scale[1])
        self.ratio = (ratio[0], ratio[1])
        self.rotation = rotation
        self.shear = shear
        self.stretch = stretch
        self.padding_mode = padding_mode
        trivial = ((1.0, 1.0), (1.0, 1.0), 0.0, 0.0, 1.0)
        self._trivial = (self.scale, self.ratio, rotation, shear, stretch) == trivial

    def forward(self, images: Tensor, draws: Draws) -> Tensor:
        """Warp each of the images (N, C, H, W)."""
        if self._trivial:
            return self.evaluate(images)
        require_float(self, images)
        image = (images.shape[-2], images.shape[-1])
        size = image_size("RandomResizedCrop", self.size, image)
        return warp(images, affine_matrices(self.draw(draws, image), image), size, self.padding_mode)

    def draw(self, draws: Draws, image: tuple[int, int]) -> Boxes:
        """Draw a box for each image of (height, width)."""
        u = draws.uniform(7).unbind(1)  # seven tensors (N,), whatever the settings
        area = u[0] * (self.scale[1] - self.scale[0]) + self.scale[0]
        ratio = _log_uniform(u[1], *self.ratio)
        width = (area * ratio).sqrt().clamp(max=1.0)  # relative to the image's
        height = (area / ratio).sqrt().clamp(max=1.0)
        return Boxes(
            x=(width / 2 + u[2] * (1 - width)) * image[1],
            y=(height / 2 + u[3] * (1 - height)) * image[0],
            width=width * image[1],
            height=height * image[0],
            angle=(2 * u[4] - 1) * self.rotation,
            shear=(2 * u[5] - 1) * self.shear,
            stretch=_log_uniform(u[6], 1 / self.stretch, self.stretch),
        )

    def evaluate(self, images: Tensor) -> Tensor:
        """Resize images (N, C, H, W); does nothing if they already have the size."""
        size = image_size("RandomResizedCrop", self.size, images.shape)
        if size == images.shape[-2:]:
            return images
        require_float(self, images)
        return F.interpolate(images, size, mode="bilinear", align_corners=False)

    def output_shape(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Return the shape (C, height, width)."""
        return (shape[0], *image_size("RandomResizedCrop", self.size, shape))

    def extra_repr(self) -> str:
        """Show the settings."""
        return (
            f"size={self.size}, scale={self.scale}, ratio={self.ratio}, rotation={self.rotation}, "
            f"shear={self.shear}, stretch={self.stretch}, padding_mode={self.padding_mode!r}"
        )


def _log_uniform(u: Tensor, low: float, high: float) -> Tensor:
    return torch.exp(u * math.log(high / low) + math.log(low))
