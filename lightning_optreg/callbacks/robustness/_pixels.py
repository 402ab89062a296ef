"""How the images of a run were normalised, so that their pixels can be changed."""

from collections.abc import Sequence

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from torch import Tensor

from lightning_optreg.attacks.pixel_space import PixelSpace
from lightning_optreg.data import BatchTransform, ImageDataModule
from lightning_optreg.trainer.queries import datamodule_of

__all__ = ["check_pixels", "check_statistics", "pixel_space_of"]


def check_statistics(mean: Sequence[float] | None, std: Sequence[float] | None, owner: str) -> None:
    """Refuse a mean without a standard deviation, and deviations that are not above 0."""
    if (mean is None) != (std is None):
        raise ValueError(f"{owner}: mean must be given together with std, got mean={mean} and std={std}")
    if std is not None and not all(value > 0.0 for value in std):
        raise ValueError(f"{owner}: std must be > 0, got {list(std)}")


def pixel_space_of(
    trainer: Trainer,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    owner: str,
    *,
    bounded: bool = True,
) -> tuple[PixelSpace, bool]:
    """Find out how images were normalised.

    Args:
        trainer: The trainer, when its data are set up.
        mean: Mean of each channel. None: what this package's data modules say of themselves, else 0.
        std: Standard deviation of each channel.
        owner: Name of the calling class, for the errors.
        bounded: Whether changed pixels stay on [0, 1].

    Returns:
        The space of the pixels, and whether it is certain.

    Raises:
        MisconfigurationException: If a transform of the data module makes pixels unknown.
    """
    datamodule = datamodule_of(trainer)
    if mean is not None or not isinstance(datamodule, ImageDataModule):
        return PixelSpace(mean, std, bounded=bounded), mean is not None
    for transform in datamodule.pipeline.transforms:
        if type(transform).evaluate is not BatchTransform.evaluate and not transform.moves_pixels:
            raise MisconfigurationException(
                f"{owner}: {type(transform).__name__} also changes pixels in evaluation, and can't be "
                "inverted; leave it out"
            )
    preprocessing = datamodule.preprocessing()
    return PixelSpace.of(preprocessing or {}, bounded=bounded), True


def check_pixels(space: PixelSpace, images: Tensor, owner: str) -> None:
    """Refuse images whose pixels are not on [0, 1]; this waits for the device.

    Raises:
        MisconfigurationException: Says how to give the mean and standard deviation.
    """
    wrong = space.unlike_pixels(images)
    if wrong is not None:
        raise MisconfigurationException(
            f"{owner}: pixels must be on [0, 1], {wrong}; give mean and std, with which they were normalised"
        )
