"""Random mirror images: a mirrored picture of a shoe is still a picture of a shoe."""

import torch
from torch import Tensor

from lightning_optreg._checks import check_range
from lightning_optreg.data.transforms.base import BatchTransform, choose
from lightning_optreg.randomness.draws import Draws

__all__ = ["RandomHorizontalFlip"]


class RandomHorizontalFlip(BatchTransform):
    """Mirror each image, left to right, with probability p.

    With `alternating`, a coin decides for each image once; in the next epoch it is the other way round, and
    so on: in any two epochs in a row the network sees both versions of every image. Independent coins show
    half of the images twice in the same version. Whether an image is mirrored is a function of the seed, the
    image and the epoch, so it is the same after a resume, with other batches and in other processes.

    Args:
        p: Probability in [0, 1].
        alternating: Whether each image is mirrored in every other epoch; p must be 0.5. Which image is which
            is known in the `augment` of a data module of this package only, also in a plain loop over its
            `batches`. Default: False.

    Raises:
        TypeError: If alternating is not a bool.
        ValueError: If p is out of its range, or not 0.5 with alternating; in `forward`, with alternating, if
            it is not known which image is which.

    Shape:
        (N, C, H, W), uint8 or floating-point -> the same.

    Source:
        Krizhevsky et al. 2012, "ImageNet classification with deep convolutional neural networks",
        section 4.1. Alternating: Jordan 2024, "94% on CIFAR-10 in 3.29 seconds on a single GPU"
        (arXiv:2404.00498), section 3.6.

    Example:
        >>> import torch
        >>> from lightning_optreg.randomness.draws import Draws, Place
        >>> draws = Draws(0, Place(epoch=0, step=0, start=0, total=1), 1, torch.device("cpu"))
        >>> RandomHorizontalFlip(p=1.0)(torch.tensor([[[[1, 2, 3]]]]), draws)
        tensor([[[[3, 2, 1]]]])
        >>> flip, image = RandomHorizontalFlip(alternating=True), torch.tensor([[[[1, 2, 3]]]])
        >>> places = [Place(epoch, step=0, start=0, total=1) for epoch in range(4)]
        >>> index = torch.tensor([5])  # of the image in its dataset
        >>> [flip(image, Draws(0, place, 1, image.device, index)).flatten().tolist() for place in places]
        [[1, 2, 3], [3, 2, 1], [1, 2, 3], [3, 2, 1]]
    """

    moves_pixels = True

    def __init__(self, p: float = 0.5, alternating: bool = False) -> None:
        super().__init__()
        check_range("RandomHorizontalFlip", "[0, 1]", p=p)
        if not isinstance(alternating, bool):
            raise TypeError(f"RandomHorizontalFlip: alternating must be true or false, got {alternating!r}")
        if alternating and p != 0.5:
            raise ValueError(f"RandomHorizontalFlip: p must be 0.5 with alternating=True, got {p}")
        self.p = p
        self.alternating = alternating

    def forward(self, images: Tensor, draws: Draws) -> Tensor:
        """Mirror some of the images (N, C, H, W)."""
        if self.p == 0.0:
            return images
        mirrored = self._alternates(draws) if self.alternating else draws.uniform() < self.p
        return choose(mirrored, images.flip(-1), images)

    def _alternates(self, draws: Draws) -> Tensor:
        if draws.index is None:
            raise ValueError(
                "RandomHorizontalFlip: alternating=True must know which image is which, as in the augment of "
                "a data module of lightning_optreg.data; set alternating=False elsewhere"
            )
        first = draws.of_images() < self.p
        return first if draws.place.epoch % 2 == 0 else torch.logical_not(first)

    def extra_repr(self) -> str:
        """Show the settings."""
        return f"p={self.p}" + (", alternating=True" if self.alternating else "")
