"""The base of the schedules: each multiplies the rate by its own factor, whatever others do to it."""

import math
from abc import abstractmethod
from collections.abc import Sequence

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from typing_extensions import override

from lightning_optreg.optimizers.rates import set_rate

__all__ = ["FactorSchedule", "full_rate", "full_rates", "rates"]


def rates(optimizer: Optimizer) -> list[float | Tensor]:
    """Return the rate of each parameter group; tensors are copied.

    Args:
        optimizer: Any optimizer.

    Example:
        >>> import torch
        >>> rates(torch.optim.SGD([torch.zeros(1)], lr=torch.tensor(0.5)))
        [tensor(0.5000)]
    """
    found = [group["lr"] for group in optimizer.param_groups]
    return [rate.clone() if isinstance(rate, Tensor) else rate for rate in found]


def full_rate(rate: float | Tensor, factor: float, largest: float = math.inf) -> float | Tensor:
    """Return the full rate of a parameter group that is added while the others are at factor * full rate.

    Args:
        rate: The group's rate when it is added.
        factor: The schedule's factor at that time, in [0, 1].
        largest: Upper limit of the full rate, the largest of the others: if the factor is near 0 when the
            group is added, a rate that was not meant to be relative would become huge later. Infinite if the
            factor does not rise again.

    Example:
        >>> full_rate(0.01, 0.1), full_rate(0.01, 0.001, largest=0.5), full_rate(0.01, 0.0, largest=0.5)
        (0.1, 0.5, 0.01)
    """
    now = float(rate)
    if not (0.0 < factor < 1.0 and now > 0.0):
        return rate
    return rate * max(1.0, min(1.0 / factor, largest / now))


def full_rates(
    optimizer: Optimizer, rates: Sequence[float | Tensor], factor: float, *, rises: bool
) -> list[float | Tensor]:
    """Return the full rates of an optimizer's groups, including those added or changed since.

    Args:
        optimizer: Its groups should be at factor * full rate.
        rates: The full rates so far, one for each group known before.
        factor: The factor of the last step.
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
        # Comparing a tensor would wait for its device.
        elif not isinstance(rate, Tensor) and rate != rates[index] * factor:
            full[index] = full_rate(rate, factor, largest)
    return full


class FactorSchedule(LRScheduler):
    """A schedule eta_t = eta f(t): a step multiplies each group's present rate by f(t) / f(t - 1).

    So it is chainable, in torch's words: two in a `ChainedScheduler` make eta f(t) g(t), and a rate that
    something else has lowered stays lowered. Parameter groups that are added later keep their rate as it is
    then (see `full_rate`). In a `SequentialLR` it begins with eta f(0), where eta is the optimizer's initial
    rate.

    After a time with f = 0 there is nothing left to multiply: it continues from eta f(t), and other changes
    of the rate are lost.

    Args:
        optimizer: Its learning rates are scheduled; numbers stay numbers and tensors the same tensors.
    """

    _starts: bool = False

    def __init__(self, optimizer: Optimizer) -> None:
        self._starts = True
        super().__init__(optimizer)
        del self._starts  # not part of the state

    @abstractmethod
    def multiple(self, time: int) -> float:
        """Return f(t) for a time t = 0, 1, ...."""

    def rises(self, time: int) -> bool:
        """Return whether the factor rises again after a time t >= 0."""
        return False

    @override
    def get_lr(self) -> list[float | Tensor]:
        """Return the rate of each parameter group at the present time."""
        time = self.last_epoch
        self._take_in_new_groups(max(time - 1, 0))
        if self._starts:
            return [rate * self.multiple(time) for rate in rates(self.optimizer)]
        before = self.multiple(time - 1) if time > 0 else 0.0
        if before == 0.0:
            return self._get_closed_form_lr()
        return [rate * (self.multiple(time) / before) for rate in rates(self.optimizer)]

    def _take_in_new_groups(self, time: int) -> None:
        firsts, factor = self.first_rates(), self.multiple(time)
        if len(firsts) >= len(self.optimizer.param_groups):
            return  # before the value of a rate that is a tensor is read, which would wait for its device
        largest = max(map(float, firsts)) if firsts and self.rises(time) else math.inf
        for group in self.optimizer.param_groups[len(firsts) :]:
            first = full_rate(group["lr"], factor, largest)
            first = first.clone() if isinstance(first, Tensor) else first
            firsts.append(first)
            group["initial_lr"] = first
            set_rate(group, first * factor if factor > 0.0 else first)

    # Private in torch 2.14: SequentialLR starts schedules through this, and there is no public way.
    def _get_closed_form_lr(self) -> list[float | Tensor]:
        self._take_in_new_groups(0)
        return [rate * self.multiple(self.last_epoch) for rate in self.first_rates()]

    def first_rates(self) -> list[float | Tensor]:
        """Return eta of each group known so far, in a list that is extended for later groups."""
        return self.base_lrs
