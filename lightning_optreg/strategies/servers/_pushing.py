"""An optimizer whose step does something else."""

from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer

__all__ = ["let_schedules_begin", "stepping"]


def stepping(optimizer: Optimizer, step: Callable[..., Any]) -> Optimizer:
    """Return an optimizer with another `step`, which is otherwise the same: all attributes are shared.

    Precision plugins call `step` on what they are given, and hand it to hooks, which ask for its class,
    groups and states. Schedules patch `step` on the optimizer itself; that stays.

    Args:
        optimizer: The optimizer.
        step: Called with what `step` is called with.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
        >>> other = stepping(optimizer, lambda closure=None: "pushed")
        >>> other.step(), isinstance(other, torch.optim.SGD), other.param_groups is optimizer.param_groups
        ('pushed', True, True)
    """
    cls = type(optimizer)
    # A property goes before what is set on the object, such as a schedule's patch.
    other = type(cls.__name__, (cls,), {"step": property(lambda self: step)})
    twin: Optimizer = object.__new__(other)
    twin.__dict__ = optimizer.__dict__
    return twin


def let_schedules_begin(optimizer: Optimizer) -> None:
    """Make a step without gradients, which changes no parameter: torch's schedules warn if there was none."""
    optimizer.zero_grad(set_to_none=True)
    optimizer.step()
