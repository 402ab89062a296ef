"""Augment whole batches with this package's transforms, for any module and any loader."""

from collections.abc import Sequence

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from typing_extensions import override

from lightning_optreg.callbacks.batches.changed_batch import ChangedBatch
from lightning_optreg.data.transforms import BatchTransform
from lightning_optreg.data.transforms.base import check_transforms
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
        transforms: The transforms, in order. One that needs statistics of the training images
            (`PCAColorJitter`) must have been given them with its method `fit`. Empty: nothing happens.
        images: Where in a batch the images (N, C, H, W) are: an index in a list, or a key of a dictionary.
            Default: 0.
        seed: Seed of the random numbers. None: the number given to `seed_everything`, else 0.

    Raises:
        TypeError: If transforms is no list of `BatchTransform`s, images is neither an index nor a key, or
            seed is not an integer.
        MisconfigurationException: Before the first step, if `training_step` takes a `dataloader_iter`, or if
            a transform lacks statistics; in the first step, if the batch has no such images.

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
        check_transforms("BatchAugmentation", transforms)
        self.transforms = list(transforms)
        self._device: torch.device | None = None  # of the transforms' own tensors

    @property
    def active(self) -> bool:
        """Whether there are transforms."""
        return bool(self.transforms)

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Agree on a seed, and refuse a transform that lacks statistics."""
        super().on_fit_start(trainer, pl_module)
        for transform in self.transforms:
            if transform.waits_for_fit:
                raise MisconfigurationException(
                    f"BatchAugmentation: {type(transform).__name__} has no statistics of the training "
                    "images: call its fit(compute_statistics(images)), of lightning_optreg.data, before "
                    "trainer.fit"
                )

    @override
    @torch.no_grad()
    def change(self, images: Tensor, labels: Tensor, place: Place) -> tuple[Tensor, Tensor]:
        """Transform images (N, C, H, W)."""
        if images.ndim != 4:
            raise MisconfigurationException(
                f"BatchAugmentation: images must be (N, C, H, W) in a training batch, got "
                f"{tuple(images.shape)}"
            )
        if images.device != self._device:
            self._device = images.device
            for transform in self.transforms:
                transform.to(images.device)
        draws = self.draws(place, images)
        for transform in self.transforms:
            images = transform(images, draws)
        return images, labels
