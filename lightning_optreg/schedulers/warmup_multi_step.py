"""Piecewise constant rates after a short time at a low rate."""

from bisect import bisect_right
from collections.abc import Sequence

from torch.optim import Optimizer
from typing_extensions import override

from lightning_optreg._checks import check_range
from lightning_optreg.schedulers.factor_schedule import FactorSchedule

__all__ = ["WarmupMultiStepLR"]


class WarmupMultiStepLR(FactorSchedule):
    """Piecewise constant rate: low at first, then the optimizer's own, then lower at each milestone.

    With the optimizer's rate eta, at time t (epochs, or steps with `lr_interval: step`):

        eta_t = eta * warmup_factor                          if t < warmup
        eta_t = eta * gamma ** (number of milestones <= t)   otherwise

    He, Zhang, Ren and Sun 2016, "Deep residual learning for image recognition", section 4.2, train ResNet-110
    this way: 0.01 at first, then 0.1. With `warmup` 0 it is torch's `MultiStepLR`.

    Args:
        optimizer: Its learning rates are scheduled.
        milestones: Times at which the rate is multiplied by gamma, increasing and at least `warmup`.
        gamma: Factor at each milestone, in (0, 1]. Default: 0.1.
        warmup: Time spent at the low rate, at least 0. Default: 1.
        warmup_factor: Factor of the low rate, in (0, 1]. Default: 0.1.

    Raises:
        ValueError: If a value is out of range.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
        >>> schedule, rates = WarmupMultiStepLR(optimizer, milestones=[3]), []
        >>> for epoch in range(5):
        ...     rates.append(schedule.get_last_lr()[0])
        ...     optimizer.step()
        ...     schedule.step()
        >>> rates
        [0.1, 1.0, 1.0, 0.1, 0.1]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        milestones: Sequence[int],
        gamma: float = 0.1,
        warmup: int = 1,
        warmup_factor: float = 0.1,
    ) -> None:
        check_range("WarmupMultiStepLR", ">= 0", warmup=warmup)
        if not (list(milestones) == sorted(milestones) and all(m >= warmup for m in milestones)):
            raise ValueError(
                f"WarmupMultiStepLR: milestones must increase and be >= warmup ({warmup}), got {milestones}"
            )
        check_range("WarmupMultiStepLR", "(0, 1]", gamma=gamma, warmup_factor=warmup_factor)
        self.milestones = list(milestones)
        self.gamma = gamma
        self.warmup = warmup
        self.warmup_factor = warmup_factor
        super().__init__(optimizer)

    @override
    def multiple(self, time: int) -> float:
        """Return the multiple of eta at a time."""
        if time < self.warmup:
            return self.warmup_factor
        return float(self.gamma ** bisect_right(self.milestones, time))

    @override
    def rises(self, time: int) -> bool:
        """Return whether the warm-up is still going on."""
        return time < self.warmup
