"""Augment whole batches with this package's transforms, for any module and any loader."""

from collections.abc import Sequence

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor
from typing_extensions import override

from lightning_optreg.callbacks.batches.changed_batch import ChangedBatch
from lightning_optreg.data.transforms import BatchTransform
from lightning_optreg.randomness.draws import Place

__all__ = ["BatchAugmentation"]


class BatchAugmentation(ChangedBatch):
    """Augment training batches on the device, with independent random choices for each image.

    It is for images from other loaders than this package's; an `ImageDataModule` has its own `augment`.
    Applied image by image in a dataset, such transforms often take longer than the network. Random numbers
    are a function of the seed, the epoch, the batch and the image's row, so a resumed run sees the same
    images as an uninterrupted one, and two processes with batches of n the same as one with 2n. The batch is
    changed right before the module's `training_step`, with automatic and manual optimization.

    The transforms get the images that the module gets. If these are normalised, arguments for pixels on
    [0, 1], such as the value that `RandomErasing` paints, are in the units of the normalised images.

    Args:
        transforms: The transforms, in order. They must not need statistics of a dataset (as `PCAColorJitter`
            does). Empty: nothing happens.
        images: Where in a batch the images (N, C, H, W) are: an index in a list, or a key of a dictionary.
            Default: 0.
        seed: Seed of the random numbers. None: the number given to `seed_everything`, else 0.

    Raises:
        TypeError: If a transform is not a `BatchTransform`, images is neither an index nor a key, or seed is
            not an integer.
        MisconfigurationException: Before the first step, if `training_step` takes a `dataloader_iter`; in the
            first step, if the batch has no such images.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> from lightning_optreg.data import RandomCrop, RandomErasing
        >>> augmentation = BatchAugmentation([RandomCrop(padding=4), RandomErasing()])
        >>> trainer = Trainer(callbacks=[augmentation], accelerator="cpu", logger=False)
    """

    needs_labels = False

    def __init__(
        self, transforms: Sequence[BatchTransform] = (), images: int | str = 0, seed: int | None = None
    ) -> None:
        super().__init__(images=images, seed=seed)
        for transform in transforms:
            if not isinstance(transform, BatchTransform):
                raise TypeError(
                    "BatchAugmentation: transforms must be BatchTransforms of lightning_optreg.data, got "
                    f"{type(transform).__name__}"
                )
        self.transforms = list(transforms)

    @property
    def active(self) -> bool:
        """Whether there are transforms."""
        return bool(self.transforms)

    @override
    @torch.no_grad()
    def change(self, images: Tensor, labels: Tensor, place: Place) -> tuple[Tensor, Tensor]:
        """Transform images (N, C, H, W)."""
        if images.ndim != 4:
            raise MisconfigurationException(
                f"BatchAugmentation: images must be (N, C, H, W) in a training batch, got "
                f"{tuple(images.shape)}"
            )
        draws = self.draws(place, images)
        for transform in self.transforms:
            images = transform(images, draws)
        return images, labels
