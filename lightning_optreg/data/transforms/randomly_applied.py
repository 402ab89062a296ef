"""The base of transforms that change an image or leave it: each image is chosen with probability p."""

from abc import abstractmethod

from torch import Tensor

from lightning_optreg._checks import check_range
from lightning_optreg.data.transforms.base import BatchTransform, choose
from lightning_optreg.randomness.draws import Draws

__all__ = ["RandomlyApplied", "require_grey_or_rgb"]


class RandomlyApplied(BatchTransform):
    """Change each image with probability p; subclasses say how, for a whole batch, in `change`.

    All images are changed, and those that were chosen are kept: reading which they are would make a GPU wait.

    Args:
        p: Probability in [0, 1] for each image. Default: 0.5.

    Raises:
        ValueError: If p is out of its range.

    Example:
        One of torchvision's functions, which treats all images of a batch alike:

        >>> from torchvision.transforms.v2 import functional
        >>> class RandomGamma(RandomlyApplied):
        ...     def change(self, images):
        ...         return functional.adjust_gamma(images, 0.5)
        >>> RandomGamma(p=0.3)
        RandomGamma(p=0.3)
    """

    needs_unit_range = True

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        check_range(type(self).__name__, "[0, 1]", p=p)
        self.p = p

    @abstractmethod
    def change(self, images: Tensor) -> Tensor:
        """Change all images (N, C, H, W), and return new ones of the same shape and dtype."""

    def forward(self, images: Tensor, draws: Draws) -> Tensor:
        """Change some of the images (N, C, H, W)."""
        if self.p == 0.0:
            return images
        return choose(draws.uniform() < self.p, self.change(images), images)

    def extra_repr(self) -> str:
        """Show the settings."""
        return f"p={self.p}"


def require_grey_or_rgb(owner: BatchTransform, images: Tensor) -> None:
    """Raise ValueError unless the images have 1 or 3 channels."""
    if images.shape[1] not in (1, 3):
        raise ValueError(f"{type(owner).__name__}: images must have 1 or 3 channels, got {images.shape[1]}")
