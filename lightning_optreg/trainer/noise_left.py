"""Find what makes the loss of a fit random, for optimizers that compare the losses of several evaluations."""

from collections import defaultdict
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import nn
from torch.optim import LBFGS, Optimizer
from torch.utils.data import DistributedSampler, RandomSampler

from lightning_optreg.data.datamodule import ImageDataModule
from lightning_optreg.data.loader import BatchLoader
from lightning_optreg.layers import BatchNorm
from lightning_optreg.layers.noise_layers import noise_layers
from lightning_optreg.optimizers import BFGS, Newton
from lightning_optreg.trainer.queries import datamodule_of

__all__ = [
    "active_batch_norms",
    "augmentation_of",
    "by_class",
    "compares_losses",
    "is_on",
    "is_stubborn",
    "noise_left",
    "shuffles",
    "warn_of_noise",
]

_SHUFFLING = "shuffling"


def compares_losses(optimizer: Optimizer) -> bool:
    """Return whether an optimizer evaluates the loss several times in a step and needs it without noise.

    Args:
        optimizer: Any optimizer; torch's LBFGS, `BFGS` and `Newton` do.
    """
    return isinstance(optimizer, (LBFGS, BFGS, Newton))


def noise_left(trainer: Trainer, module: LightningModule) -> list[str]:
    """List what makes the loss of a running fit random.

    Args:
        trainer: The trainer, from `on_train_start` on.
        module: Its module.

    Returns:
        A list such as `["2 Dropout layers (net.1, net.4)", "augmentation (RandomCrop)", "shuffling"]`.
    """
    found = by_class(module, [layer for layer in noise_layers(module, None) if is_on(layer)])
    augmentation = augmentation_of(datamodule_of(trainer))
    if augmentation:
        found.append(augmentation)
    if shuffles(trainer.train_dataloader):
        found.append(_SHUFFLING)
    if trainer.num_training_batches > 1:
        found.append("another batch in each step")
    return found


def warn_of_noise(
    trainer: Trainer,
    module: LightningModule,
    *,
    advice: str = "The callback FullBatch turns this noise off and evaluates the whole training set.",
    order_counts: bool = True,
) -> None:
    """Warn if an optimizer that compares losses gets noisy ones.

    Args:
        trainer: The trainer, from `on_train_start` on.
        module: Its module.
        advice: What to do, as a sentence.
        order_counts: Whether another order of the images is another loss.
    """
    names = [type(optimizer).__name__ for optimizer in trainer.optimizers if compares_losses(optimizer)]
    noise = noise_left(trainer, module) if names else []
    if not order_counts:
        noise = [one for one in noise if one != _SHUFFLING]
    if noise:
        rank_zero_warn(
            f"{names[0]} compares losses of several evaluations, which are noisy here: {'; '.join(noise)}. "
            + advice
        )


def is_on(layer: nn.Module) -> bool:
    """Return whether a noise layer draws in training with its present settings."""
    if getattr(layer, "p", None) == 0.0:
        return False
    return layer.training or getattr(layer, "sampling", False) or is_stubborn(layer)


def is_stubborn(layer: nn.Module) -> bool:
    """Return whether a noise layer draws in evaluation too."""
    return isinstance(layer, (nn.FractionalMaxPool2d, nn.FractionalMaxPool3d)) or (
        getattr(layer, "at_test", None) == "random" or getattr(layer, "inference", None) == "sampling"
    )


def by_class(module: nn.Module, layers: list[nn.Module]) -> list[str]:
    """List layers of a module, grouped by class: `["2 Dropout layers (net.1, net.4)"]`."""
    names = {id(part): name for name, part in module.named_modules()}
    groups: dict[str, list[str]] = defaultdict(list)
    for layer in layers:
        groups[type(layer).__name__].append(names[id(layer)])
    return [
        f"{len(where)} {kind} layer{'s' if len(where) > 1 else ''} "
        f"({', '.join(where[:3])}{', ...' if len(where) > 3 else ''})"
        for kind, where in groups.items()
    ]


def active_batch_norms(module: nn.Module) -> list[str]:
    """List the batch normalisation layers that use the statistics of the batch."""
    kinds = (nn.modules.batchnorm._BatchNorm, BatchNorm)  # torch 2.14 has no public name for the base
    return by_class(module, [m for m in module.modules() if isinstance(m, kinds) and m.training])


def augmentation_of(datamodule: Any) -> str:
    """Return the transforms of a data module's augmentation, in words; empty if it does not augment."""
    if not (isinstance(datamodule, ImageDataModule) and datamodule.augmenting):
        return ""
    names = [type(transform).__name__ for transform in datamodule.pipeline.transforms]
    return f"augmentation ({', '.join(names)})" if names else ""


def shuffles(loader: Any) -> bool:
    """Return whether a loader changes the order of its images every epoch."""
    if isinstance(loader, BatchLoader):
        return loader.shuffle
    sampler = getattr(loader, "sampler", None)
    return isinstance(sampler, RandomSampler) or (isinstance(sampler, DistributedSampler) and sampler.shuffle)
