"""Refuse a batch, or a network, that can't be attacked, before anything has changed."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from torch import Tensor, nn

from lightning_optreg.attacks.attacked_network import first_output
from lightning_optreg.callbacks.robustness._search import Loss
from lightning_optreg.layers.modes import evaluating
from lightning_optreg.randomness.kept_generators import kept_generators

__all__ = ["check_first_batch", "part_of"]


def part_of(batch: Any, place: int | str, what: str, owner: str) -> Tensor:
    """Return a part of a batch that is a list, a tuple or a dictionary.

    Args:
        batch: The batch.
        place: An index, or a key.
        what: Name of the argument that says so, for the errors.
        owner: Name of the calling class, for the errors.

    Raises:
        MisconfigurationException: If there is no such part, or it is not a tensor.
    """
    known = list(batch) if isinstance(batch, Mapping) else []
    if isinstance(batch, Sequence) and not isinstance(batch, str):
        known = list(range(len(batch)))
    if place not in known:
        raise MisconfigurationException(
            f"{owner}: {what}={place!r} is not in a batch, which has {known or 'no parts'}"
        )
    found = batch[place]
    if not isinstance(found, Tensor) or found.ndim == 0:
        raise MisconfigurationException(
            f"{owner}: {what} must be a tensor (N, ...) in a batch, got {type(found).__name__}"
        )
    return found


def check_first_batch(
    trainer: Trainer, network: nn.Module, images: Tensor, labels: Tensor, loss: Loss | None, owner: str
) -> None:
    """Look at a batch, and call the network with it in evaluation mode.

    Args:
        trainer: The trainer.
        network: The network that is attacked.
        images: Inputs (N, ...).
        labels: Labels (N, ...).
        loss: What an attack maximises. None: the module's own loss, so labels may be anything.
        owner: Name of the calling class, for the errors.

    Raises:
        MisconfigurationException: If images, labels or the network's output are not what an attack needs.
    """
    if not images.is_floating_point():
        raise MisconfigurationException(
            f"{owner}: images must be floating-point in a batch, got {images.dtype}"
        )
    if loss is None:
        return
    _check_labels(labels, loss, owner)
    with (
        kept_generators(images.device, module=trainer.lightning_module),
        evaluating(network),
        torch.no_grad(),
        trainer.precision_plugin.forward_context(),
    ):
        try:
            output = network(images)
        except (RuntimeError, TypeError, ValueError) as error:
            raise MisconfigurationException(
                f"{owner}: {type(network).__name__} can't be called with the batch's images ({error}); pass "
                "net=<name of the module that the step calls with them>"
            ) from error
    _check_output(output, labels, loss, owner)


def _check_labels(labels: Tensor, loss: Loss, owner: str) -> None:
    if loss == "mse":
        if not labels.is_floating_point():
            raise MisconfigurationException(
                f"{owner}: labels must be numbers for loss='mse', got {labels.dtype}"
            )
        return
    probabilities = labels.is_floating_point() and labels.ndim == 2 and labels.shape[1] >= 2
    classes = labels.ndim == 1 and not labels.is_floating_point() and labels.dtype != torch.bool
    if not (probabilities or classes):
        raise MisconfigurationException(
            f"{owner}: labels must be classes, integers (N,), or probabilities, floats (N, K), got "
            f"{str(labels.dtype).removeprefix('torch.')} of shape {tuple(labels.shape)}; for a regression "
            "set loss='mse'"
        )


def _check_output(output: Any, labels: Tensor, loss: Loss, owner: str) -> None:
    found = first_output(output)
    shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
    if loss == "cross_entropy" and not (isinstance(shape, tuple) and len(shape) == 2 and shape[1] >= 2):
        raise MisconfigurationException(
            f"{owner}: the network must return scores (N, K) of K >= 2 classes, got {shape}"
        )
    if loss == "mse" and shape != tuple(labels.shape):
        raise MisconfigurationException(
            f"{owner}: for loss='mse' labels must have the shape of the network's output, {shape}, got "
            f"{tuple(labels.shape)}"
        )
