"""Apply a gradient that was computed at parameters which others have changed in the meantime."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from lightning_optreg.optimizers.ada_delay import AdaDelay
from lightning_optreg.optimizers.adaptive_revision import AdaptiveRevision

__all__ = ["Read", "late_step", "note_read"]


@dataclass(frozen=True)
class Read:
    """What must be remembered when a worker reads the parameters, until its gradient is applied.

    Example:
        >>> Read(updates=3).updates
        3
    """

    updates: int
    """Number of updates that the parameters had had by then, at least 0."""

    gbar: list[Tensor] | None = None
    """The sum of the gradients applied by then, which `AdaptiveRevision` needs; None for other optimizers."""


def note_read(optimizer: Optimizer, updates: int) -> Read:
    """Remember a read: call this when a worker reads the parameters.

    Under `AdaptiveRevision` it copies as much as the parameters hold, otherwise nothing.

    Args:
        optimizer: The optimizer that will apply the worker's gradient.
        updates: Number of updates that the parameters have had, at least 0.

    Returns:
        What `late_step` needs.

    Example:
        >>> import torch
        >>> note_read(torch.optim.SGD([torch.zeros(1)], lr=0.1), 7)
        Read(updates=7, gbar=None)
    """
    gbar = optimizer.snapshot() if isinstance(optimizer, AdaptiveRevision) else None
    return Read(updates, gbar)


def late_step(
    optimizer: Optimizer, read: Read, updates: int, closure: Callable[[], Any] | None = None
) -> Any:
    """Make a step with gradients that are `updates - read.updates` updates old.

    - `AdaDelay` gets that delay: `step(delay=updates - read.updates)`;
    - `AdaptiveRevision` gets the sum of the gradients at the read: `step(gbar_old=read.gbar)`;
    - any other optimizer steps as if the gradients were fresh.

    With nothing in between, all are the optimizer's ordinary step.

    Args:
        optimizer: Its parameters hold the gradients.
        read: From `note_read`, when the worker read the parameters at which the gradients were computed.
        updates: Number of updates that the parameters have had before this one, at least `read.updates`.
        closure: Computes the loss again, calls `backward` and returns the loss.

    Returns:
        The closure's loss; None without one.

    Raises:
        ValueError: If `updates` is less than `read.updates`, or if the optimizer is `AdaptiveRevision` and
            the read was noted for another.

    Example:
        >>> import torch
        >>> theta = torch.tensor([1.0], requires_grad=True)
        >>> optimizer = AdaDelay([theta], lr=1.0, variant="sgd")
        >>> read = note_read(optimizer, 0)
        >>> theta.grad = torch.tensor([1.0])
        >>> late_step(optimizer, read, 8)  # after 8 updates of others: 1 - 1 / (1 + sqrt(9))
        >>> theta
        tensor([0.7500], requires_grad=True)
    """
    delay = updates - read.updates
    if delay < 0:
        raise ValueError(f"late_step: updates must be at least read.updates = {read.updates}, got {updates}")
    if isinstance(optimizer, AdaDelay):
        return optimizer.step(closure, delay=delay)
    if isinstance(optimizer, AdaptiveRevision):
        if read.gbar is None:
            raise ValueError("late_step: read must be noted for the same optimizer, AdaptiveRevision")
        return optimizer.step(closure, gbar_old=read.gbar)
    return optimizer.step(closure)
