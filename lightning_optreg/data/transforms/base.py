"""The base of all transforms: they take a whole batch, with independent random choices for each image.

torchvision's transforms, given a batch, draw once and treat all images alike; called image by image they cost
more than a training step of a small network. Here a transform is a few tensor operations on the batch, on its
device, and all its randomness comes from the `Draws` it is given.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from lightning_optreg.data.statistics import Statistics
from lightning_optreg.randomness.draws import Draws

__all__ = [
    "BatchTransform",
    "ColorShift",
    "check_transforms",
    "choose",
    "image_size",
    "is_pair",
    "to_unit_range",
]


class BatchTransform(nn.Module, ABC):
    """A transform of a batch of images; subclasses implement `forward` for training.

    With a setting that has no effect (p = 0, no padding, ...) `forward` returns its input and draws nothing.
    How many numbers are drawn never depends on numbers drawn before, so the draws of later transforms do not
    shift.

    Example:
        A transform of your own, for a datamodule's `augment`:

        >>> class RandomTranspose(BatchTransform):
        ...     moves_pixels = True
        ...     def forward(self, images, draws):
        ...         return choose(draws.uniform() < 0.5, images.mT, images)
    """

    needs_float: ClassVar[bool] = False
    """Whether images must be floating-point, made from pixels on [0, 1]. If not, uint8 is accepted too."""
    needs_unit_range: ClassVar[bool] = False
    """Whether pixels must still be on [0, 1], so that no mean may have been subtracted before."""
    moves_pixels: ClassVar[bool] = False
    """Whether pixels move. A mean image must be subtracted before that."""

    @abstractmethod
    def forward(self, images: Tensor, draws: Draws) -> Tensor:
        """Transform images (N, C, H, W) for training, with random numbers from `draws`."""

    def evaluate(self, images: Tensor) -> Tensor:
        """Transform images (N, C, H, W) for validation, test and prediction; does nothing by default."""
        return images

    def output_shape(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Return the shape (C, H, W) of an image that had `shape` before; the same by default."""
        return shape

    def fit(self, statistics: Statistics) -> None:
        """Read what the transform needs from the statistics of the training images; nothing by default."""

    @property
    def waits_for_fit(self) -> bool:
        """Whether `fit` must be called before the first batch; False by default."""
        return False


class ColorShift(BatchTransform):
    """A transform that adds one number per image and channel; subclasses draw it in `shift`.

    It is known before the images are touched, so a `Pipeline` adds it while normalising, which saves a pass
    over the batch.
    """

    needs_float = True

    @abstractmethod
    def shift(self, draws: Draws) -> Tensor | None:
        """Draw the numbers to add, (N, C), for pixels on [0, 1]; None for nothing."""

    def forward(self, images: Tensor, draws: Draws) -> Tensor:
        """Add the shift to every pixel of images (N, C, H, W)."""
        shift = self.shift(draws)
        if shift is None:
            return images
        require_float(self, images)
        require_channels(self, images, shift.shape[1])
        return images + shift.to(images.dtype)[:, :, None, None]


def check_transforms(owner: str, transforms: object) -> None:
    """Refuse what is no list of transforms.

    Args:
        owner: Name of the calling class, for the error.
        transforms: The value of its argument `transforms`.

    Raises:
        TypeError: If it is none; says what to write instead.

    Example:
        >>> check_transforms("Pipeline", "RandomCrop")
        Traceback (most recent call last):
        TypeError: Pipeline: transforms must be a list of transforms, got str
    """
    if not isinstance(transforms, Sequence) or isinstance(transforms, str):
        name = transforms.__name__ if isinstance(transforms, type) else type(transforms).__name__
        is_one = isinstance(transforms, (BatchTransform, type))
        raise TypeError(
            f"{owner}: transforms must be a list of transforms, got {name}"
            + (f"; write [{name}(...)]" if is_one else "")
        )
    for transform in transforms:
        if not isinstance(transform, BatchTransform):
            kind = transform if isinstance(transform, type) else type(transform)
            hint = f"; write {kind.__name__}(...)" if isinstance(transform, type) else ""
            raise TypeError(
                f"{owner}: transforms must be BatchTransforms of lightning_optreg.data, got "
                f"{kind.__module__}.{kind.__name__}{hint}"
            )


def choose(chosen: Tensor, changed: Tensor, images: Tensor) -> Tensor:
    """Take the changed version of some images, and the others as they are.

    Args:
        chosen: bool (N,).
        changed: (N, ...), for the images that are chosen.
        images: (N, ...), of the same dtype.

    Returns:
        A new tensor of the same shape.

    Example:
        >>> choose(torch.tensor([True, False]), torch.tensor([-1, -2]), torch.tensor([1, 2]))
        tensor([-1,  2])
    """
    count = len(images)
    # Picking rows out of both versions copies memory; torch.where tests every pixel: 2 to 5 x the time.
    rows = torch.arange(count, device=images.device).add_(chosen, alpha=count)
    return torch.cat((images, changed)).index_select(0, rows)


def to_unit_range(images: Tensor) -> Tensor:
    """Turn 8-bit pixels into float32 on [0, 1]; leave floating-point images as they are.

    Args:
        images: Any shape, uint8 or floating-point.

    Returns:
        Images of the same shape: x / 255 rounded as torchvision's `to_dtype` rounds it, or the input itself.

    Example:
        >>> to_unit_range(torch.tensor([0, 51, 255], dtype=torch.uint8))
        tensor([0.0000, 0.2000, 1.0000])
    """
    if images.is_floating_point():
        return images
    return images.float().mul_(1 / 255)


def image_size(
    owner: str, size: int | Sequence[int] | None, shape: Sequence[int] | None = None
) -> tuple[int, int]:
    """Check the argument `size` of a transform and return height and width.

    Args:
        owner: Name of the class, for the error message.
        size: One number for both, (height, width), or None for those of `shape`.
        shape: A shape that ends with height and width; needed if `size` may be None.

    Returns:
        Height and width; (0, 0) if both arguments are None.

    Raises:
        ValueError: If `size` is neither a positive number nor two of them.

    Example:
        >>> image_size("RandomCrop", 24), image_size("RandomCrop", None, (3, 32, 28))
        ((24, 24), (32, 28))
    """
    if size is None:
        return (0, 0) if shape is None else (shape[-2], shape[-1])
    pair = (size, size) if isinstance(size, int) else tuple(size) if is_pair(size) else ()
    if len(pair) != 2 or not all(isinstance(side, int) and side >= 1 for side in pair):
        raise ValueError(f"{owner}: size must be a number >= 1 or two of them (height, width), got {size!r}")
    return pair[0], pair[1]


def is_pair(value: object) -> bool:
    """Return whether an argument is a pair, such as (low, high)."""
    return isinstance(value, (tuple, list)) and len(value) == 2


def require_float(owner: nn.Module, images: Tensor) -> None:
    """Raise TypeError unless the images are floating-point."""
    if not images.is_floating_point():
        raise TypeError(
            f"{type(owner).__name__}: images must be floating-point on [0, 1], got {images.dtype}"
        )


def require_channels(owner: nn.Module, images: Tensor, channels: int) -> None:
    """Raise ValueError unless the images have that many channels; broadcasting would hide it."""
    if images.shape[1] != channels:
        raise ValueError(
            f"{type(owner).__name__}: fitted to images of {channels} channel(s), got {images.shape[1]}"
        )
