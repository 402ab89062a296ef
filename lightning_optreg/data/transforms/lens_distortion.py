"""Random lens distortion: straight lines bend as in pictures taken with a wide-angle or a telephoto lens.

The radial part of the Brown-Conrady model: Brown 1966, "Decentering distortion of lenses", Photogrammetric
Engineering 32(3).
"""

import math

import torch
from torch import Tensor

from lightning_optreg._checks import check_choice
from lightning_optreg.data.transforms._sampling import PADDING, PaddingMode, middles, sample
from lightning_optreg.data.transforms.base import BatchTransform, is_pair, require_float
from lightning_optreg.randomness.draws import Draws

__all__ = ["LensDistortion", "distort"]


def distort(images: Tensor, k1: Tensor, k2: Tensor, padding_mode: str = "zeros") -> Tensor:
    """Distort each image about its centre: what is at radius r came from radius r (1 + k1 r^2 + k2 r^4).

    Args:
        images: (N, C, H, W), floating-point; less than float32 is computed in float32.
        k1: (N,), for r in units of half the image's diagonal.
        k2: (N,), likewise.
        padding_mode: What lies beyond the image: `zeros`, `border` or `reflection`.

    Returns:
        Images of the same shape and dtype, sampled bilinearly.

    Example:
        >>> image = torch.arange(16.0).view(1, 1, 4, 4)
        >>> torch.equal(distort(image, torch.zeros(1), torch.zeros(1)), image)
        True
    """
    dtype = torch.promote_types(images.dtype, torch.float32)
    height, width = images.shape[-2:]
    k1, k2 = k1.to(dtype)[:, None, None], k2.to(dtype)[:, None, None]
    x, y = middles(width, k1), middles(height, k1)[:, None]  # on [-1, 1]
    r2 = ((width * x) ** 2 + (height * y) ** 2) / (width**2 + height**2)  # (H, W), pixels are squares
    factor = 1 + r2 * (k1 + r2 * k2)  # (N, H, W)
    return sample(images, torch.stack((x * factor, y * factor), dim=1), padding_mode)


class LensDistortion(BatchTransform):
    """Distort each image radially as a lens does: r' = r (1 + k1 r^2 + k2 r^4).

    k1 and k2 are uniform on their ranges and drawn for each image. As in Brown's formula, r is the distance
    from the centre in the distorted image, the result, and r' that in the undistorted one, the input; both
    are in units of half the diagonal, so that r = 1 in the corners, and the change does not depend on the
    image's size. Positive numbers give a barrel: the edges shrink, and black corners appear. Negative numbers
    give a pincushion: the edges grow and the outermost parts of the image are lost.

    OpenCV and others write the same formula with r and r' exchanged, where a barrel has k1 < 0, and measure
    in focal lengths. Brown's tangential terms, for lenses that are not centred, are left out.

    All images are sampled bilinearly in one call. 8-bit images must be converted to floating-point before; a
    data module does it.

    Args:
        k1: Smallest and largest coefficient of r^2. Default: (-0.2, 0.2), which move corners by up to 20 % of
            half the diagonal.
        k2: Smallest and largest coefficient of r^4. Default: (0, 0).
        padding_mode: How the image continues beyond its edge: `zeros` is black, `border` repeats its
            outermost pixels, `reflection` mirrors it. Default: zeros.

    Raises:
        ValueError: If a range is not two finite numbers low <= high; if r' does not grow with r on [0, 1],
            where the image would fold; or if the padding is unknown.
        TypeError: If the images are not floating-point.

    Shape:
        (N, C, H, W) floating-point -> the same.

    Example:
        >>> from lightning_optreg.randomness.draws import Draws, Place
        >>> draws = Draws(0, Place(epoch=0, step=0, start=0, total=2), 2, torch.device("cpu"))
        >>> barrel = LensDistortion(k1=(0.3, 0.3))(torch.ones(2, 1, 32, 32), draws)
        >>> barrel[0, 0, 0, 0], barrel[0, 0, 16, 16]
        (tensor(0.), tensor(1.))
    """

    needs_float = True
    moves_pixels = True

    def __init__(
        self,
        k1: tuple[float, float] = (-0.2, 0.2),
        k2: tuple[float, float] = (0.0, 0.0),
        padding_mode: PaddingMode = "zeros",
    ) -> None:
        super().__init__()
        for name, pair in (("k1", k1), ("k2", k2)):
            if not is_pair(pair) or not -math.inf < pair[0] <= pair[1] < math.inf:
                raise ValueError(
                    f"LensDistortion: {name} must be (low, high) with -inf < low <= high < inf, got {pair}"
                )
        if not _grows(k1[0], k2[0]):  # the least slope of all that can be drawn
            raise ValueError(
                "LensDistortion: k1 and k2 must keep 1 + 3 k1 r^2 + 5 k2 r^4 > 0 for r in [0, 1], or the"
                f" image folds, got {k1} and {k2}"
            )
        check_choice("LensDistortion", PADDING, padding_mode=padding_mode)
        self.k1, self.k2 = (k1[0], k1[1]), (k2[0], k2[1])
        self.padding_mode = padding_mode

    def forward(self, images: Tensor, draws: Draws) -> Tensor:
        """Distort each of the images (N, C, H, W)."""
        if self.k1 == self.k2 == (0.0, 0.0):
            return images
        require_float(self, images)
        u = draws.uniform(2).unbind(1)
        k1, k2 = (low + v * (high - low) for v, (low, high) in zip(u, (self.k1, self.k2), strict=True))
        return distort(images, k1, k2, self.padding_mode)

    def extra_repr(self) -> str:
        """Show the settings."""
        return f"k1={self.k1}, k2={self.k2}, padding_mode={self.padding_mode!r}"


def _grows(k1: float, k2: float) -> bool:
    """Return whether the slope 1 + 3 k1 s + 5 k2 s^2 is above 0 for s = r^2 in [0, 1]."""
    lowest = -3 * k1 / (10 * k2) if k2 > 0.0 else 1.0
    return all(1 + 3 * k1 * s + 5 * k2 * s * s > 0.0 for s in (1.0, min(max(lowest, 0.0), 1.0)))
