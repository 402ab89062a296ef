"""Training without noise, for methods that compare the losses of several evaluations.

L-BFGS, BFGS and Newton's method search along a line or in a trust region: they evaluate the loss at several
points and attribute the differences to the points. Noise in the loss (another order of the images, another
augmentation, other dropped units) makes a difference too.
"""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import nn
from torch.utils.data import RandomSampler
from typing_extensions import override

from lightning_optreg.callbacks._of_a_kind import OfAKind
from lightning_optreg.data.loader import BatchLoader
from lightning_optreg.layers.noise_layers import noise_layers
from lightning_optreg.trainer.noise_left import (
    active_batch_norms,
    augmentation_of,
    by_class,
    is_on,
    is_stubborn,
    noise_left,
    shuffles,
    warn_of_noise,
)
from lightning_optreg.trainer.queries import datamodule_of
from lightning_optreg.trainer.roles import TurnsNoiseOff

__all__ = ["NoiseFree"]


class NoiseFree(OfAKind, TurnsNoiseOff):
    """Turn off everything that makes the training loss random, and list it on the console.

    - Shuffling: batches come in the dataset's order. Your own `DataLoader(shuffle=True)` can't be changed; it
      is listed as left on.
    - Augmentation by this package's data modules: training images are processed as in evaluation. Random
      transforms in your own dataset are not found.
    - Noise layers: dropout, DropConnect, stochastic depth, Gaussian noise and random pooling of this package,
      torch and torchvision (see `noise_layers`) behave as in evaluation. Dropout in a function (`F.dropout`)
      or within recurrent and attention layers is not found.

    Batch normalisation stays on: without shuffling its batches are always the same, so the loss is a fixed
    function of the weights, although with statistics of batches instead of all images. It is listed on the
    console.

    Callbacks that add noise (`MixUp`, `CutMix`, `BatchAugmentation`, `GradientNoise`, `NoisyEnsemble`) can't
    be combined with it; they are refused before the first step.

    If the optimizer is L-BFGS, `BFGS` or `Newton` and noise is left, a warning lists it. Everything is
    restored at the end of the fit.

    Args:
        shuffling: Whether to turn off shuffling.
        augmentation: Whether to turn off augmentation.
        layers: Whether to turn off noise layers.

    Raises:
        TypeError: If an argument is not a bool.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[NoiseFree()], accelerator="cpu", logger=False)
    """

    def __init__(self, shuffling: bool = True, augmentation: bool = True, layers: bool = True) -> None:
        for name, value in (("shuffling", shuffling), ("augmentation", augmentation), ("layers", layers)):
            if not isinstance(value, bool):
                raise TypeError(f"{type(self).__name__}: {name} must be true or false, got {value!r}")
        self.shuffling, self.augmentation, self.layers = shuffling, augmentation, layers
        self._layers: list[nn.Module] = []
        self._attributes: list[tuple[Any, str]] = []  # objects, with the name of an attribute that was True

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Turn off the noise, list it, and warn of what is left."""
        off: list[str] = []
        if self.layers:
            off += by_class(pl_module, self._silence_new(pl_module))
        augmentation = augmentation_of(datamodule_of(trainer)) if self.augmentation else ""
        if augmentation:
            self._turn_off(datamodule_of(trainer), "augmenting")
            off.append(augmentation)
        if self._stop_shuffling(trainer):
            off.append("shuffling")
        if self.layers or self.augmentation or self.shuffling:
            left = noise_left(trainer, pl_module) + active_batch_norms(pl_module)
            text = f"{type(self).__name__}: turned off: {'; '.join(off) or 'nothing'}"
            rank_zero_info(text + (f". Left on: {'; '.join(left)}" if left else ""))
        self._warn(trainer, pl_module)

    def _warn(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Warn of noise that is left, if the optimizer compares losses."""
        warn_of_noise(trainer, pl_module)

    def _turn_off(self, owner: Any, attribute: str) -> None:
        setattr(owner, attribute, False)
        self._attributes.append((owner, attribute))

    def _stop_shuffling(self, trainer: Trainer) -> bool:
        """Turn shuffling off, if it is on and can be turned off."""
        loader: Any = trainer.train_dataloader
        if not (self.shuffling and shuffles(loader)):
            return False
        holder = loader if isinstance(loader, BatchLoader) else loader.sampler
        if isinstance(holder, RandomSampler):
            return False
        self._turn_off(holder, "shuffle")
        return True

    def _silence_new(self, pl_module: LightningModule) -> list[nn.Module]:
        """Turn off the noise layers that have become active since the last call."""
        layers = [layer for layer in noise_layers(pl_module, None) if is_on(layer)]
        known = {id(layer) for layer in self._layers}
        new = [layer for layer in layers if layer.training and not is_stubborn(layer)]
        new = [layer for layer in new if id(layer) not in known]
        self._layers = [*self._layers, *new]
        self._silence()
        return new

    def _silence(self) -> None:
        for layer in self._layers:
            # The attribute, not eval(): sublayers, such as batch normalisation, must not change.
            layer.training = False

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Turn off what is back on: layers put into training mode, and shuffling in a new loader."""
        self._silence()
        self._stop_shuffling(trainer)

    @override
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Turn off layers that were created or unfrozen since the last epoch."""
        if self.layers and batch_idx == 0:
            new = by_class(pl_module, self._silence_new(pl_module))
            if new:
                rank_zero_info(f"{type(self).__name__}: turned off: {'; '.join(new)}")

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore everything."""
        for layer in self._layers:
            layer.training = True
        for owner, attribute in self._attributes:
            setattr(owner, attribute, True)
        self._layers, self._attributes = [], []

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Restore everything."""
        self.on_train_end(trainer, pl_module)
        super().on_exception(trainer, pl_module, exception)
