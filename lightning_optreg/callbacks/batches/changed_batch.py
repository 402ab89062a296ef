"""Change inputs and labels of a training batch on the device, right before the training step.

The base of `MixUp`, `CutMix`, `LabelSmoothing` and `BatchAugmentation`. Lightning passes the batch, already
on the device, to `on_train_batch_start` and then to the module's `training_step`; a list or a dictionary can
be changed in between, with any module and loader.
"""

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from lightning_optreg._checks import check_places, check_range, check_seed
from lightning_optreg.callbacks._seeded import SeededCallback
from lightning_optreg.randomness.draws import Draws, Place, mix
from lightning_optreg.randomness.processes import share_of
from lightning_optreg.trainer.queries import datamodule_of

__all__ = ["ChangedBatch", "soft_labels"]

_MAIN_MEMORY = torch.device("cpu")


def soft_labels(
    labels: Tensor, num_classes: int | None, dtype: torch.dtype, owner: str, *, check: bool = True
) -> Tensor:
    """Turn classes into probabilities of classes; probabilities are returned unchanged.

    Args:
        labels: Classes, integers (N,), or probabilities, floating-point (N, K).
        num_classes: K, for classes.
        dtype: Dtype of the result if it is floating-point, else the default dtype is used.
        owner: Name of the calling class, for the errors.
        check: Whether to see that classes are in [0, K), for which a GPU has to be waited for.

    Returns:
        (N, K).

    Raises:
        MisconfigurationException: If labels are neither, K is not known, or a class is not in [0, K).

    Example:
        >>> soft_labels(torch.tensor([2, 0]), 3, torch.float32, "MixUp")
        tensor([[0., 0., 1.],
                [1., 0., 0.]])
    """
    dtype = dtype if dtype.is_floating_point else torch.get_default_dtype()
    if labels.is_floating_point() and labels.ndim == 2:
        return labels.to(dtype)
    if labels.is_floating_point() or labels.dtype == torch.bool or labels.ndim != 1:
        raise MisconfigurationException(
            f"{owner}: labels must be classes, integers (N,), or probabilities, floats (N, K), got "
            f"{str(labels.dtype).removeprefix('torch.')} of shape {tuple(labels.shape)}"
        )
    if num_classes is None:
        raise MisconfigurationException(
            f"{owner}: neither the module nor the datamodule has num_classes; pass num_classes=..."
        )
    if check and len(labels) > 0:
        low, high = int(labels.min()), int(labels.max())
        if not 0 <= low <= high < num_classes:
            remedy = f"; pass num_classes={high + 1}, or number the classes" if low >= 0 else "; number them"
            raise MisconfigurationException(
                f"{owner}: labels must be in [0, {num_classes}) for num_classes={num_classes}, got {low} to "
                f"{high}{remedy} from 0 on"
            )
    return F.one_hot(labels.long(), num_classes).to(dtype)


class ChangedBatch(SeededCallback):
    """Base of callbacks that change inputs or labels of training batches.

    Args:
        num_classes: Number of classes K, at least 2, for labels that are classes. None: `num_classes` of the
            LightningModule, or of its datamodule.
        images: Where in a batch the inputs are: an index in a list, or a key of a dictionary.
        labels: Where the labels are.
        seed: Seed of the random numbers. None: the number given to `seed_everything`, else 0.

    Raises:
        ValueError: If num_classes is out of its range.
        TypeError: If images or labels is neither an index nor a key, or seed is not an integer.
        MisconfigurationException: Before the first step, if `training_step` takes a `dataloader_iter`; in the
            first step, if the batch has no such inputs or labels.
    """

    def __init__(
        self,
        num_classes: int | None = None,
        images: int | str = 0,
        labels: int | str = 1,
        seed: int | None = None,
    ) -> None:
        name = type(self).__name__
        if num_classes is not None:
            check_range(name, ">= 2", num_classes=num_classes)
        check_places(name, images=images, labels=labels)
        check_seed(name, seed)
        super().__init__(seed)
        self.num_classes, self.images, self.labels, self.seed = num_classes, images, labels, seed
        self._classes: int | None = None
        self._checked = False

    needs_labels: ClassVar[bool] = True

    @property
    def active(self) -> bool:
        """Whether the callback changes anything with these settings."""
        return True

    @property
    @override
    def is_noise(self) -> bool:
        """Whether it changes batches at random."""
        return self.active

    @abstractmethod
    def change(self, images: Tensor, labels: Tensor, place: Place) -> tuple[Tensor, Tensor]:
        """Return new inputs and labels; labels are an empty tensor if they aren't needed."""

    def probabilities(self, labels: Tensor, dtype: torch.dtype) -> Tensor:
        """Return labels as probabilities (N, K); see `soft_labels`.

        Classes are checked in every batch in main memory, but only in the first one on another device, which
        later steps do not wait for.
        """
        check = not self._checked or labels.device == _MAIN_MEMORY
        self._checked = True
        return soft_labels(labels, self._classes, dtype, type(self).__name__, check=check)

    def seed_of(self, place: Place) -> int:
        """Return the seed of a batch, the same on all processes and different for each class."""
        return mix(self.seed_of_draws, *type(self).__name__.encode(), place.epoch, place.step)

    def draws(self, place: Place, tensor: Tensor) -> Draws:
        """Return random numbers for the images of a batch, row by row."""
        return Draws(self.seed_of(place), place, len(tensor), tensor.device)

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Agree on a seed, and find the number of classes."""
        super().on_fit_start(trainer, pl_module)
        if self.active and is_param_in_hook_signature(
            pl_module.training_step, "dataloader_iter", explicit=True
        ):
            raise MisconfigurationException(
                f"{type(self).__name__}: training_step must take a batch, not dataloader_iter"
            )
        self._checked = False
        datamodule = datamodule_of(trainer)
        found = (getattr(owner, "num_classes", None) for owner in (self, pl_module, datamodule))
        self._classes = next((k for k in found if isinstance(k, int)), None)

    @override
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Change the batch in place."""
        self.change_batch(trainer, batch, batch_idx)

    def change_batch(self, trainer: Trainer, batch: Any, batch_idx: int) -> None:
        """Change a training batch in place.

        Args:
            trainer: The trainer, during a fit.
            batch: The batch, on its device.
            batch_idx: Its number in the epoch.
        """
        if not self.active:
            return
        images = self._get(batch, self.images, "images")
        labels = self._get(batch, self.labels, "labels") if self.needs_labels else images.new_empty(0)
        n, (part, parts) = len(images), share_of(trainer)
        place = Place(trainer.current_epoch, batch_idx, part * n, parts * n)
        batch[self.images], changed = self.change(images, labels, place)
        if self.needs_labels:
            batch[self.labels] = changed

    def _get(self, batch: Any, place: int | str, what: str) -> Tensor:
        name = type(self).__name__
        if not isinstance(batch, (list, dict)):
            raise MisconfigurationException(
                f"{name}: a training batch must be a list or a dictionary, got {type(batch).__name__}; let "
                "the loader's collate function return one"
            )
        known = list(batch) if isinstance(batch, dict) else list(range(len(batch)))
        if place not in known:
            raise MisconfigurationException(
                f"{name}: {what}={place!r} is not in a training batch, which has {known}"
            )
        found = batch[place]  # type: ignore[index]  # an index of a list, or a key of a dictionary
        if not isinstance(found, Tensor) or found.ndim == 0:
            raise MisconfigurationException(
                f"{name}: {what} must be a tensor (N, ...) in a training batch, got {type(found).__name__}"
            )
        return found
