"""Random scale, rotation, shear and stretch of each image: one affine warp for the whole batch.

Every geometric change here is affine, so whatever the number of changes, each image has one matrix that says
where in the original each pixel of the result comes from, and the batch is sampled once, bilinearly.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_optreg.data.draws import Draws
from lightning_optreg.data.transforms.base import BatchTransform, image_size, require_float

__all__ = ["RandomResizedCrop", "affine_matrices", "warp"]


def affine_matrices(
    centre: Tensor, extent: Tensor, angle: Tensor, shear: Tensor, stretch: Tensor, image: tuple[int, int]
) -> Tensor:
    r"""Give the matrix of each warp, from places in the result to places in the original.

    About the centre c of a box, the picture is stretched by S, sheared by K and rotated by R; then the box
    is cut out. With u in [-1, 1]^2 for places in the result and the box's width w and height h, the place in
    the original, in pixels, is

        c + S^-1 K^-1 R^-1 diag(w, h) u / 2,
        S = diag(sqrt s, 1 / sqrt s),  K = [[1, -tan k], [0, 1]],  R = [[cos r, -sin r], [sin r, cos r]],

    which is torchvision's `affine` for s = 1 and the box that is the image. Vectors are (x, y) with y
    pointing down, so a positive r turns clockwise. Coordinates are continuous: the image covers
    [0, W] x [0, H].

    Args:
        centre: (N, 2), c as (x, y) in pixels.
        extent: (N, 2), w and h in pixels.
        angle: (N,), r in degrees.
        shear: (N,), k in degrees, along x.
        stretch: (N,), s > 0, the factor of the ratio of width to height; areas stay.
        image: Height H and width W of the original in pixels.

    Returns:
        (N, 2, 3), for `torch.nn.functional.affine_grid` with `align_corners=False`.

    Example:
        >>> zero, one, full = torch.zeros(1), torch.ones(1), torch.tensor([[28.0, 28.0]])
        >>> affine_matrices(full / 2, full / 2, zero, zero, one, (28, 28))[0, 0]  # the middle, enlarged
        tensor([0.5000, 0.0000, 0.0000])
    """
    height, width = image
    cos, sin = angle.deg2rad().cos(), angle.deg2rad().sin()
    tan = shear.deg2rad().tan()
    root = stretch.sqrt()
    w, h = extent.unbind(1)
    x, y = centre.unbind(1)
    # K^-1 R^-1 = [[1, tan], [0, 1]] [[cos, sin], [-sin, cos]]; S^-1 divides and multiplies its rows.
    # Places in the original are on [-1, 1] as well: pixels times 2 / (W, H), minus 1.
    rows = (
        (cos - tan * sin) / root * w / width,
        (sin + tan * cos) / root * h / width,
        2 * x / width - 1,
        -sin * root * w / height,
        cos * root * h / height,
        2 * y / height - 1,
    )
    return torch.stack(rows, dim=1).view(-1, 2, 3)


def warp(images: Tensor, matrices: Tensor, size: tuple[int, int], padding_mode: str) -> Tensor:
    """Sample images bilinearly at the places that the matrices give.

    Args:
        images: (N, C, H, W), floating-point; less than float32 is computed in float32.
        matrices: (N, 2, 3), as `affine_matrices` gives them.
        size: Height and width of the result in pixels.
        padding_mode: What lies beyond the image: `zeros`, `border` or `reflection`.

    Returns:
        (N, C, height, width) of the images' dtype.

    Example:
        >>> mirror = torch.tensor([[[-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]])
        >>> warp(torch.tensor([[[[1.0, 2.0, 3.0]]]]), mirror, (1, 3), "zeros")
        tensor([[[[3., 2., 1.]]]])
    """
    dtype = torch.promote_types(images.dtype, torch.float32)
    shape = [*images.shape[:2], *size]
    grid = F.affine_grid(matrices.to(dtype), shape, align_corners=False)
    warped = F.grid_sample(
        images.to(dtype), grid, mode="bilinear", padding_mode=padding_mode, align_corners=False
    )
    return warped.to(images.dtype)


class RandomResizedCrop(BatchTransform):
    """Cut a random box out of each image, turned, sheared and stretched, and resize it.

    Each image has its own box and angles, all drawn independently:

    1. The box takes a part of the image's area uniform on `scale`. Its ratio of width to height, in units of
       the image's own, is log-uniform on `ratio`. A side longer than the image's is shortened to it. The
       place is uniform among those where the box lies within the image, at fractions of a pixel too.
    2. About the box's centre, the picture is stretched, then sheared along x, then rotated, before the
       box is cut out. The angles are uniform on [-shear, shear) and [-rotation, rotation) degrees, the
       stretch log-uniform on [1 / stretch, stretch].

    For evaluation the image is resized, if it has to be. Sampling is bilinear without antialiasing in
    training and evaluation alike: images more than twice as large as the result had better be shrunk before.

    Torchvision's transform rounds boxes to whole pixels, draws a box again if it does not fit, measures
    `ratio` in pixels, and at a box's edge interpolates as if there were nothing beyond it.

    Args:
        size: Height and width of the result in pixels, one number for both, or None for the image's own.
        scale: Smallest and largest part of the area, 0 < low <= high <= 1.
        ratio: Smallest and largest ratio of width to height, 0 < low <= high.
        rotation: Largest angle in degrees, in [0, 180].
        shear: Largest angle in degrees, in [0, 90).
        stretch: Largest factor by which the ratio of width to height changes, at least 1.
        padding_mode: What turned boxes find beyond the image: `reflection` repeats it mirrored, `border`
            repeats its outermost pixels, `zeros` is black.

    Raises:
        ValueError: If an argument is out of its range.
        TypeError: If the images are not floating-point.

    Shape:
        (N, C, H, W) floating-point -> (N, C, height, width) of the same dtype.

    Source:
        Szegedy et al. 2015, "Going deeper with convolutions", section 6 (scale and ratio); Simard et al.
        2003, "Best practices for convolutional neural networks", section 2 (affine distortions).

    Example:
        >>> from lightning_optreg.data.draws import Draws, Place
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
        padding_mode: Literal["zeros", "border", "reflection"] = "reflection",
    ) -> None:
        super().__init__()
        image_size("RandomResizedCrop", size)
        for name, pair, high in (("scale", scale, 1.0), ("ratio", ratio, math.inf)):
            if len(pair) != 2 or not 0.0 < pair[0] <= pair[1] <= high or pair[1] == math.inf:
                raise ValueError(
                    f"RandomResizedCrop: {name} must be (low, high) with 0 < low <= high"
                    f"{' <= 1' if high == 1.0 else ' < inf'}, got {pair}"
                )
        if not 0.0 <= rotation <= 180.0:
            raise ValueError(f"RandomResizedCrop: rotation must be in [0, 180] degrees, got {rotation}")
        if not 0.0 <= shear < 90.0:
            raise ValueError(f"RandomResizedCrop: shear must be in [0, 90) degrees, got {shear}")
        if not 1.0 <= stretch < math.inf:
            raise ValueError(f"RandomResizedCrop: stretch must be in [1, inf), got {stretch}")
        if padding_mode not in ("zeros", "border", "reflection"):
            raise ValueError(
                f"RandomResizedCrop: padding_mode must be zeros, border or reflection, got {padding_mode!r}"
            )
        self.size = size
        self.scale = tuple(scale)
        self.ratio = tuple(ratio)
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
        height, width = images.shape[-2:]
        matrices = affine_matrices(*self.parameters_of(draws, (height, width)), (height, width))
        return warp(
            images, matrices, image_size("RandomResizedCrop", self.size, images.shape), self.padding_mode
        )

    def parameters_of(
        self, draws: Draws, image: tuple[int, int]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Draw centre (N, 2), extent (N, 2), angle, shear and stretch (N,) for images of (height, width)."""
        u = draws.uniform(7)  # one call, whatever the settings
        area = u[:, 0] * (self.scale[1] - self.scale[0]) + self.scale[0]
        ratio = _log_uniform(u[:, 1], self.ratio[0], self.ratio[1])
        part = torch.stack((area * ratio, area / ratio), dim=1).sqrt().clamp_(max=1.0)  # of W and H
        middle = part / 2 + u[:, 2:4] * (1 - part)
        centre, extent = (
            torch.stack((of_sides[:, 0] * image[1], of_sides[:, 1] * image[0]), dim=1)
            for of_sides in (middle, part)
        )
        angle = (2 * u[:, 4] - 1) * self.rotation
        shear = (2 * u[:, 5] - 1) * self.shear
        stretch = _log_uniform(u[:, 6], 1 / self.stretch, self.stretch)
        return centre, extent, angle, shear, stretch

    def evaluate(self, images: Tensor) -> Tensor:
        """Resize images (N, C, H, W); nothing happens if they have the size already."""
        size = image_size("RandomResizedCrop", self.size, images.shape)
        if size == images.shape[-2:]:
            return images
        require_float(self, images)
        return F.interpolate(images, size, mode="bilinear", align_corners=False)

    def output_shape(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Give the shape (C, height, width)."""
        return (shape[0], *image_size("RandomResizedCrop", self.size, shape))

    def extra_repr(self) -> str:
        """Show the settings."""
        return (
            f"size={self.size}, scale={self.scale}, ratio={self.ratio}, rotation={self.rotation}, "
            f"shear={self.shear}, stretch={self.stretch}, padding_mode={self.padding_mode!r}"
        )


def _log_uniform(u: Tensor, low: float, high: float) -> Tensor:
    return torch.exp(u * math.log(high / low) + math.log(low))
