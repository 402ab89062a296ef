"""Training without noise, as methods need it that compare losses of several evaluations.

L-BFGS, BFGS and Newton's method search along a line or in a trust region: they ask for the loss at one point
after another and take differences for differences between points. Noise in the loss (another order of the
images, another augmentation, other units dropped) is such a difference too.
"""

from collections import defaultdict
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import nn
from torch.optim import LBFGS, Optimizer
from torch.utils.data import DistributedSampler, RandomSampler
from typing_extensions import override

from lightning_optreg.callbacks.noise_marginalization import noise_layers
from lightning_optreg.callbacks.of_a_kind import OfAKind
from lightning_optreg.data.datamodule import ImageDataModule
from lightning_optreg.data.loader import BatchLoader
from lightning_optreg.layers import BatchNorm
from lightning_optreg.optimizers import BFGS, Newton

__all__ = ["NoiseFree", "compares_losses", "noise_left", "warn_of_noise"]


def compares_losses(optimizer: Optimizer) -> bool:
    """Whether an optimizer evaluates the loss several times in a step and needs it without noise.

    Args:
        optimizer: Any optimizer; torch's LBFGS, `BFGS` and `Newton` do.
    """
    return isinstance(optimizer, (LBFGS, BFGS, Newton))


def noise_left(trainer: Trainer, module: LightningModule) -> list[str]:
    """Name what makes the loss of a running fit random.

    Args:
        trainer: The trainer, from `on_train_start` on.
        module: Its module.

    Returns:
        Such as `["2 Dropout layers (net.1, net.4)", "augmentation (RandomCrop)", "shuffling"]`.
    """
    found = _by_class(module, [layer for layer in noise_layers(module, None) if _is_on(layer)])
    augmentation = _augmentation(_data(trainer))
    if augmentation:
        found.append(augmentation)
    if _shuffles(trainer.train_dataloader):
        found.append("shuffling")
    if trainer.num_training_batches > 1:
        found.append("another batch in each step")
    return found


def warn_of_noise(trainer: Trainer, module: LightningModule) -> None:
    """Warn if an optimizer that compares losses gets noisy ones.

    Args:
        trainer: The trainer, from `on_train_start` on.
        module: Its module.
    """
    names = [type(optimizer).__name__ for optimizer in trainer.optimizers if compares_losses(optimizer)]
    noise = noise_left(trainer, module) if names else []
    if noise:
        rank_zero_warn(
            f"{names[0]} compares losses of several evaluations, which are noisy here: {'; '.join(noise)}. "
            "The callback FullBatch turns such noise off and evaluates the whole training set."
        )


def _is_on(layer: nn.Module) -> bool:
    """Whether a noise layer draws in training as it is now."""
    if getattr(layer, "p", None) == 0.0:
        return False
    return layer.training or getattr(layer, "sampling", False) or _is_stubborn(layer)


def _is_stubborn(layer: nn.Module) -> bool:
    """Whether it draws in evaluation too."""
    return isinstance(layer, (nn.FractionalMaxPool2d, nn.FractionalMaxPool3d)) or (
        getattr(layer, "at_test", None) == "random" or getattr(layer, "inference", None) == "sampling"
    )


def _by_class(module: nn.Module, layers: list[nn.Module]) -> list[str]:
    names = {id(part): name for name, part in module.named_modules()}
    groups: dict[str, list[str]] = defaultdict(list)
    for layer in layers:
        groups[type(layer).__name__].append(names[id(layer)])
    return [
        f"{len(where)} {kind} layer{'s' if len(where) > 1 else ''} "
        f"({', '.join(where[:3])}{', ...' if len(where) > 3 else ''})"
        for kind, where in groups.items()
    ]


def _batch_norms(module: nn.Module) -> list[str]:
    kinds = (nn.modules.batchnorm._BatchNorm, BatchNorm)  # torch's common base has no public name
    return _by_class(module, [m for m in module.modules() if isinstance(m, kinds) and m.training])


def _data(trainer: Trainer) -> Any:
    return trainer.datamodule  # type: ignore[attr-defined]  # a connector sets it


def _augmentation(datamodule: Any) -> str:
    if not (isinstance(datamodule, ImageDataModule) and datamodule.augmenting):
        return ""
    names = [type(transform).__name__ for transform in datamodule.pipeline.transforms]
    return f"augmentation ({', '.join(names)})" if names else ""


def _shuffles(loader: Any) -> bool:
    if isinstance(loader, BatchLoader):
        return loader.shuffle
    sampler = getattr(loader, "sampler", None)
    return isinstance(sampler, RandomSampler) or (isinstance(sampler, DistributedSampler) and sampler.shuffle)


class NoiseFree(OfAKind):
    """Turn off what makes the training loss random, and say on the console what that was.

    - Shuffling: batches come in the dataset's order. A `DataLoader(shuffle=True)` of your own cannot be
      changed; it is named among what is left on.
    - Augmentation by this package's data modules: training images are treated as those of evaluation. Random
      transforms within a dataset of your own are not found.
    - Noise layers: dropout, DropConnect, stochastic depth, Gaussian noise, random pooling, this package's,
      torch's and torchvision's (see `noise_layers`), do what they do in evaluation. Dropout within a function
      (`F.dropout`) or within recurrent and attention layers is not found.

    Batch normalisation stays on: with shuffling off, its statistics are those of batches that are always the
    same, so the loss is a fixed function of the weights, though not that of the statistics of all images. It
    is named on the console.

    Callbacks whose purpose is noise (`MixUp`, `CutMix`, `BatchAugmentation`, `GradientNoise`,
    `NoisyEnsemble`) are refused beside it before the first step.

    Where the optimizer is L-BFGS, `BFGS` or `Newton` and noise is left, a warning names it. All is put back
    at the end of the fit.

    Args:
        shuffling: Whether to turn off shuffling.
        augmentation: Whether to turn off augmentation.
        layers: Whether to turn off noise layers.

    Raises:
        TypeError: If an argument is not a truth value.

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
        self._attributes: list[tuple[Any, str]] = []  # objects with the name of what was True

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Turn off, list, and warn of what is left."""
        off: list[str] = []
        if self.layers:
            off += _by_class(pl_module, self._silence_new(pl_module))
        augmentation = _augmentation(_data(trainer)) if self.augmentation else ""
        if augmentation:
            self._turn_off(_data(trainer), "augmenting")
            off.append(augmentation)
        if self._stop_shuffling(trainer):
            off.append("shuffling")
        if self.layers or self.augmentation or self.shuffling:
            left = noise_left(trainer, pl_module) + _batch_norms(pl_module)
            text = f"{type(self).__name__}: turned off: {'; '.join(off) or 'nothing'}"
            rank_zero_info(text + (f". Left on: {'; '.join(left)}" if left else ""))
        warn_of_noise(trainer, pl_module)

    def _turn_off(self, owner: Any, attribute: str) -> None:
        setattr(owner, attribute, False)
        self._attributes.append((owner, attribute))

    def _stop_shuffling(self, trainer: Trainer) -> bool:
        """Turn shuffling off, if it is on and can be."""
        loader: Any = trainer.train_dataloader
        if not (self.shuffling and _shuffles(loader)):
            return False
        holder = loader if isinstance(loader, BatchLoader) else loader.sampler
        if isinstance(holder, RandomSampler):
            return False
        self._turn_off(holder, "shuffle")
        return True

    def _silence_new(self, pl_module: LightningModule) -> list[nn.Module]:
        """Turn off the noise layers that are on and were not when it was done last."""
        layers = [layer for layer in noise_layers(pl_module, None) if _is_on(layer)]
        known = {id(layer) for layer in self._layers}
        new = [layer for layer in layers if layer.training and not _is_stubborn(layer)]
        new = [layer for layer in new if id(layer) not in known]
        self._layers = [*self._layers, *new]
        self._silence()
        return new

    def _silence(self) -> None:
        for layer in self._layers:
            # The attribute, not eval(): layers within it, such as batch normalisation, stay as they are.
            layer.training = False

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Turn off again what is back: layers put into training mode, and shuffling in a new loader."""
        self._silence()
        self._stop_shuffling(trainer)

    @override
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Turn off layers, too, that were made or set free since the last epoch."""
        if self.layers and batch_idx == 0:
            new = _by_class(pl_module, self._silence_new(pl_module))
            if new:
                rank_zero_info(f"{type(self).__name__}: turned off: {'; '.join(new)}")

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put everything back."""
        for layer in self._layers:
            layer.training = True
        for owner, attribute in self._attributes:
            setattr(owner, attribute, True)
        self._layers, self._attributes = [], []

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Put everything back."""
        self.on_train_end(trainer, pl_module)
