"""The full rates that a schedule's factors multiply, of groups that come or change while it goes on."""

import math
from collections.abc import Sequence

from torch import Tensor
from torch.optim import Optimizer

from lightning_optreg.factor_schedule import full_rate

__all__ = ["full_rates"]


def full_rates(
    optimizer: Optimizer, rates: Sequence[float | Tensor], factor: float, *, rises: bool
) -> list[float | Tensor]:
    """Give the full rates of an optimizer's groups, those that were added and those that others changed too.

    Args:
        optimizer: Its groups should be at factor * full rate.
        rates: The full rates so far, of as many groups as there were.
        factor: Of the last step.
        rises: Whether the factor rises again.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.5)
        >>> optimizer.add_param_group({"params": torch.zeros(1), "lr": 0.25})
        >>> full_rates(optimizer, [1.0], 0.5, rises=False)
        [1.0, 0.5]
    """
    largest = max(map(float, rates), default=math.inf) if rises else math.inf
    full = list(rates)
    for index, group in enumerate(optimizer.param_groups):
        rate = group["lr"]
        if index >= len(rates):
            full.append(full_rate(rate, factor, largest))
            group["initial_lr"] = full[index]
        # To compare a tensor would mean to wait for its device.
        elif not isinstance(rate, Tensor) and rate != rates[index] * factor:
            full[index] = full_rate(rate, factor, largest)
    return full
