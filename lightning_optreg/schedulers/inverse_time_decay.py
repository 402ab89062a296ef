"""The annealing eta_0 / (1 + t / t0)^power."""

import math

from torch.optim import Optimizer
from typing_extensions import override

from lightning_optreg.schedulers.factor_schedule import FactorSchedule

__all__ = ["InverseTimeDecay"]


class InverseTimeDecay(FactorSchedule):
    """The annealing that convergence theory requires of SGD: eta_t = eta_0 / (1 + t / t0)^power.

    With power in (0.5, 1] the rates satisfy Robbins and Monro's conditions, sum eta_t = inf and
    sum eta_t^2 < inf, so that SGD converges despite noisy gradients; with power 1 on a strongly
    convex function its error is O(1 / t). With 0.5 the sum of squares just diverges: the choice for functions
    that are only convex.

    Args:
        optimizer: Its learning rates are scheduled.
        t0: Time (epochs, or steps with `lr_interval: step`) at which the rate has halved with power 1; above
            0. Default: 1.
        power: Above 0. Default: 1.

    Raises:
        ValueError: If a value is out of range.

    Source:
        Robbins and Monro 1951, "A stochastic approximation method"; Bottou 2012, "Stochastic gradient descent
        tricks", for the form with t0.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
        >>> schedule, rates = InverseTimeDecay(optimizer, t0=2), []
        >>> for _ in range(3):
        ...     rates.append(round(schedule.get_last_lr()[0], 4))
        ...     optimizer.step()
        ...     schedule.step()
        >>> rates
        [1.0, 0.6667, 0.5]
    """

    def __init__(self, optimizer: Optimizer, t0: float = 1.0, power: float = 1.0) -> None:
        for name, value in (("t0", t0), ("power", power)):
            if not 0.0 < value < math.inf:
                raise ValueError(f"InverseTimeDecay: {name} must be > 0, got {value}")
        self.t0, self.power = t0, power
        super().__init__(optimizer)

    @override
    def multiple(self, time: int) -> float:
        """Return the multiple of eta_0 at a time."""
        return float((1.0 + time / self.t0) ** -self.power)
