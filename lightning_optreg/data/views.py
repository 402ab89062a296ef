"""Several views of each image of a batch, for predictions averaged over them.

Krizhevsky, Sutskever, Hinton, "ImageNet classification with deep convolutional neural networks", 2012,
section 4.1: the four corners, the centre, and their mirror images. He, Zhang, Ren, Sun, "Deep residual
learning for image recognition", 2015 (arXiv:1512.03385), section 3.4, take these ten to compare networks, and
average over several sizes of whole images for their best results; the lecture takes ten crops at each size.

Views are made from normalised images. Cropping, mirroring and resizing give the same before and after a
normalisation by channel. In a normalised image black is not zero, so images are padded by reflection. A mean
image is subtracted first, as in training, so crops are taken from mean-subtracted images.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import torch.nn.functional as F
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lightning_optreg._checks import check_range
from lightning_optreg.data.transforms.base import BatchTransform
from lightning_optreg.randomness.draws import Draws, Place

__all__ = ["Flips", "MultiScale", "RandomViews", "TenCrop", "Views", "ten_crop"]


def ten_crop(images: Tensor, height: int, width: int) -> Iterator[Tensor]:
    """Cut out the centre and the four corners, of the images and of their mirror images.

    Args:
        images: (N, C, H, W), at least as large as the crops.
        height: Rows of a crop.
        width: Columns of a crop.

    Yields:
        Ten tensors (N, C, height, width), views into the images: centre, top left, top right, bottom left,
        bottom right, then those of the mirror images.

    Example:
        >>> import torch
        >>> next(ten_crop(torch.arange(9.0).view(1, 1, 3, 3), 1, 1)).item()
        4.0
    """
    rows, columns = images.shape[-2] - height, images.shape[-1] - width
    places = [(rows // 2, columns // 2), (0, 0), (0, columns), (rows, 0), (rows, columns)]
    for mirrored in (images, images.flip(-1)):
        for top, left in places:
            yield mirrored[..., top : top + height, left : left + width]


def _warn_of_no_room(name: str, images: Tensor, height: int, width: int) -> None:
    if images.shape[-2:] == (height, width):
        rank_zero_warn(
            f"{name}: images have the size of the crops, {height}x{width}, so only two of ten views differ, "
            "the image and its mirror image; use larger images, padding or a smaller crop"
        )


class Views(ABC):
    """Makes views of a batch; call it with normalised images.

    In `TestTimeAugmentation` with a datamodule of this package it gets whole images, before evaluation crops
    them; views that keep the size are cropped afterwards.

    Example:
        Your own views:

        >>> class Rotations(Views):
        ...     def __call__(self, images):
        ...         for quarter in range(4):
        ...             yield images.rot90(quarter, (-2, -1))
    """

    @abstractmethod
    def __call__(self, images: Tensor) -> Iterator[Tensor]:
        """Yield views of images (N, C, H, W), one batch each, always the same number of views."""

    def begin(self, seed: int) -> None:
        """Begin an evaluation; views that draw random numbers use this seed."""
        return


class Flips(Views):
    """The image and its mirror image.

    Args:
        vertical: Also yield both upside down. Default: False.

    Example:
        >>> import torch
        >>> [view.flatten().tolist() for view in Flips()(torch.tensor([[[[1.0, 2.0]]]]))]
        [[1.0, 2.0], [2.0, 1.0]]
    """

    def __init__(self, vertical: bool = False) -> None:
        self.vertical = vertical

    def __call__(self, images: Tensor) -> Iterator[Tensor]:
        """Yield two views, or four."""
        for view in (images, images.flip(-2)) if self.vertical else (images,):
            yield view
            yield view.flip(-1)


class TenCrop(Views):
    """The centre and the four corners, and their mirror images: ten views.

    Args:
        size: Height and width of a crop in pixels, at least 1. None: the size of the image, for small images
            with padding. Default: None.
        padding: Pixels of reflection padding on each side, at least 0 and less than the image's size.
            Default: 0.

    Raises:
        ValueError: If a value is out of its range; when called, if images are too small.

    Warns:
        UserWarning: If images have the size of a crop, so that all crops are the same.

    Example:
        >>> import torch
        >>> views = list(TenCrop(padding=4)(torch.zeros(2, 3, 32, 32)))
        >>> len(views), views[0].shape
        (10, torch.Size([2, 3, 32, 32]))
    """

    def __init__(self, size: int | None = None, padding: int = 0) -> None:
        if size is not None and not size >= 1:
            raise ValueError(f"TenCrop: size must be >= 1, or None, got {size}")
        check_range("TenCrop", ">= 0", padding=padding)
        self.size, self.padding = size, padding

    def __call__(self, images: Tensor) -> Iterator[Tensor]:
        """Yield ten views of images (N, C, H, W), each (N, C, size, size)."""
        height, width = (self.size, self.size) if self.size else images.shape[-2:]
        smallest = min(images.shape[-2:])
        if not self.padding < smallest:
            raise ValueError(f"TenCrop: padding must be < {smallest}, the images' size, got {self.padding}")
        if self.padding:
            images = F.pad(images, [self.padding] * 4, mode="reflect")
        if not min(images.shape[-2] - height, images.shape[-1] - width) >= 0:
            raise ValueError(
                f"TenCrop: size must be <= {min(images.shape[-2:])}, the size of the images with their "
                f"padding, got {self.size}"
            )
        _warn_of_no_room("TenCrop", images, height, width)
        yield from ten_crop(images, height, width)


class MultiScale(Views):
    """Ten crops at each of several scales, given by the pixels of the shorter side.

    Args:
        sizes: Pixels of the shorter side, each at least `crop`. Default: 224, 256, 384, 480, 640, as in the
            test of ResNet.
        crop: Height and width of a crop in pixels, at least 1: the network's input size. Default: 224.

    Raises:
        ValueError: If a value is out of its range.

    Warns:
        UserWarning: If images are square and one of the sizes is the crop's, so that all crops are the same.

    Example:
        >>> import torch
        >>> views = list(MultiScale(sizes=[8, 12], crop=8)(torch.zeros(2, 3, 10, 15)))
        >>> len(views), views[0].shape
        (20, torch.Size([2, 3, 8, 8]))
    """

    def __init__(self, sizes: Sequence[int] = (224, 256, 384, 480, 640), crop: int = 224) -> None:
        check_range("MultiScale", ">= 1", crop=crop)
        if not sizes or not min(sizes) >= crop:
            raise ValueError(f"MultiScale: sizes must be numbers >= crop = {crop}, got {sizes!r}")
        self.sizes, self.crop = tuple(sizes), crop

    def __call__(self, images: Tensor) -> Iterator[Tensor]:
        """Yield ten views for each size, (N, C, crop, crop)."""
        height, width = images.shape[-2:]
        for size in self.sizes:
            ratio = size / min(height, width)
            shape = [round(height * ratio), round(width * ratio)]
            scaled = images
            if shape != [height, width]:
                scaled = F.interpolate(images, shape, mode="bilinear", antialias=True)
            _warn_of_no_room("MultiScale", scaled, self.crop, self.crop)
            yield from ten_crop(scaled, self.crop, self.crop)


class RandomViews(Views):
    """Views made by random transforms as in training, with independent random choices for each image.

    Args:
        transforms: Transforms of batches, in order. Those that need pixels on [0, 1], such as `ColorJitter`,
            can't be used, as views are made from normalised images.
        samples: Number of views, at least 1. Default: 10.

    Raises:
        TypeError: If one of the transforms is not a `BatchTransform`.
        ValueError: If one needs pixels on [0, 1], or samples is out of its range.

    Example:
        >>> import torch
        >>> from lightning_optreg.data import RandomCrop
        >>> views = RandomViews([RandomCrop(padding=2)], samples=3)
        >>> [tuple(view.shape) for view in views(torch.zeros(2, 1, 8, 8))]
        [(2, 1, 8, 8), (2, 1, 8, 8), (2, 1, 8, 8)]
    """

    def __init__(self, transforms: list[BatchTransform], samples: int = 10) -> None:
        for transform in transforms:
            name = type(transform).__name__
            if not isinstance(transform, BatchTransform):
                raise TypeError(f"RandomViews: transforms must be BatchTransforms, got {name}")
            if transform.needs_unit_range:
                raise ValueError(f"RandomViews: {name} needs pixels on [0, 1], but images are normalised")
        check_range("RandomViews", ">= 1", samples=samples)
        self.transforms, self.samples = list(transforms), samples
        self._seed = self._batch = 0

    def begin(self, seed: int) -> None:
        """Begin an evaluation with a seed; the same seed gives the same views."""
        self._seed, self._batch = seed, 0

    def __call__(self, images: Tensor) -> Iterator[Tensor]:
        """Yield the views, transformed as in training."""
        batch, self._batch = self._batch, self._batch + 1
        for sample in range(self.samples):
            place = Place(epoch=sample, step=batch, start=0, total=len(images))
            draws = Draws(self._seed, place, len(images), images.device)
            view = images
            for transform in self.transforms:
                view = transform(view, draws)
            yield view
