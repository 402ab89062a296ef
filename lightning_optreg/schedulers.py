"""Learning-rate schedules that torch has not got in a form a configuration can name."""

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from typing_extensions import override

from lightning_optreg.full_rates import full_rates

__all__ = ["InverseTimeDecay", "SnapshotCosine", "Warmup", "WarmupMultiStepLR"]


class _Scaled(LRScheduler):
    """A schedule eta_t = eta_0 factor(t), which goes on from the rates that it finds.

    A parameter group may be added in mid-run, and callbacks that fine-tune give groups other rates: from
    there on these change by the factors of the schedule, as with torch's `MultiStepLR`.
    """

    def factor(self, time: int) -> float:
        """Give eta_t / eta_0.

        Args:
            time: t, at least 0.
        """
        raise NotImplementedError

    def rises(self, time: int) -> bool:
        """Tell whether the factor rises again after a time."""
        return False

    @override
    def get_lr(self) -> list[float | Tensor]:
        """Return the rate of each parameter group at the present time."""
        before = self.last_epoch - 1
        if before >= 0:
            rises = self.rises(before)
            self.base_lrs = full_rates(self.optimizer, self.base_lrs, self.factor(before), rises=rises)
        factor = self.factor(self.last_epoch)
        return [rate * factor for rate in self.base_lrs]


class WarmupMultiStepLR(_Scaled):
    """Piecewise constant rate: low at first, then the optimizer's own, then lower at each milestone.

    With the optimizer's rate eta, at time t (epochs, or steps with `lr_interval: step`):

        eta_t = eta * warmup_factor                          if t < warmup
        eta_t = eta * gamma ** (number of milestones <= t)   otherwise

    He, Zhang, Ren and Sun 2016, "Deep residual learning for image recognition", section 4.2, train ResNet-110
    so: 0.01 at first, then 0.1. With `warmup` 0 it is torch's `MultiStepLR`.

    Args:
        optimizer: Its learning rates are scheduled.
        milestones: Times at which the rate is multiplied by gamma, increasing and at least `warmup`.
        gamma: Factor at each milestone, in (0, 1]. Default: 0.1.
        warmup: Time spent at the low rate, at least 0. Default: 1.
        warmup_factor: Factor of the low rate, in (0, 1]. Default: 0.1.

    Raises:
        ValueError: If a value is out of its range.

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
        if not warmup >= 0:
            raise ValueError(f"WarmupMultiStepLR: warmup must be >= 0, got {warmup}")
        if not (list(milestones) == sorted(milestones) and all(m >= warmup for m in milestones)):
            raise ValueError(
                f"WarmupMultiStepLR: milestones must increase and be >= warmup ({warmup}), got {milestones}"
            )
        if not 0.0 < gamma <= 1.0:
            raise ValueError(f"WarmupMultiStepLR: gamma must be in (0, 1], got {gamma}")
        if not 0.0 < warmup_factor <= 1.0:
            raise ValueError(f"WarmupMultiStepLR: warmup_factor must be in (0, 1], got {warmup_factor}")
        self.milestones = list(milestones)
        self.gamma = gamma
        self.warmup = warmup
        self.warmup_factor = warmup_factor
        super().__init__(optimizer)

    @override
    def factor(self, time: int) -> float:
        """Give eta_t / eta."""
        if time < self.warmup:
            return self.warmup_factor
        return float(self.gamma ** bisect_right(self.milestones, time))

    @override
    def rises(self, time: int) -> bool:
        """Tell whether the warm-up lasts."""
        return time < self.warmup


class InverseTimeDecay(_Scaled):
    """The annealing that theory asks of SGD: eta_t = eta_0 / (1 + t / t0)^power.

    With power in (0.5, 1] the rates satisfy Robbins and Monro's conditions, sum eta_t = inf and
    sum eta_t^2 < inf, so that SGD converges although its gradients are noisy; with power 1 on a strongly
    convex function its error is O(1 / t). With 0.5 the sum of squares just diverges: the choice for functions
    that are only convex.

    Args:
        optimizer: Its learning rates are scheduled.
        t0: Time (epochs, or steps with `lr_interval: step`) at which the rate has halved with power 1; above
            0. Default: 1.
        power: Above 0. Default: 1.

    Raises:
        ValueError: If a value is out of its range.

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
    def factor(self, time: int) -> float:
        """Give eta_t / eta_0."""
        return float((1.0 + time / self.t0) ** -self.power)


class SnapshotCosine(_Scaled):
    """Cosine annealing in M cycles of C = ceil(T / M): eta_t = eta_0 / 2 (cos(pi (t mod C) / C) + 1).

    To be stepped by iterations (`lr_interval: step`), as in the paper: the first of a cycle has the full
    rate, the last is near 0, and there the weights are worth a snapshot (`is_cycle_end`). The last cycle ends
    with T, so it is the shorter one if M does not divide T: its rate falls as the others' and ends higher.
    torch's `CosineAnnealingWarmRestarts` has the same cosine for cycles of a length that one has to work out.

    Args:
        optimizer: Its learning rates are scheduled; eta_0 are those that it has.
        total_steps: Iterations in all, T, at least `cycles`.
        cycles: Number of cycles M, at least 1. Default: 5.

    Raises:
        ValueError: If a value is out of its range.

    Source:
        Huang, Li, Pleiss, Liu, Hopcroft and Weinberger 2017, "Snapshot ensembles: train 1, get M for free"
        (arXiv:1704.00109), equation 2, whose t counts from 1.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
        >>> schedule, rates = SnapshotCosine(optimizer, total_steps=6, cycles=2), []
        >>> for _ in range(6):
        ...     rates.append(round(schedule.get_last_lr()[0], 2))
        ...     optimizer.step()
        ...     schedule.step()
        >>> rates
        [1.0, 0.75, 0.25, 1.0, 0.75, 0.25]
    """

    def __init__(self, optimizer: Optimizer, total_steps: int, cycles: int = 5) -> None:
        if not cycles >= 1:
            raise ValueError(f"SnapshotCosine: cycles must be >= 1, got {cycles}")
        if not total_steps >= cycles:
            raise ValueError(f"SnapshotCosine: total_steps must be >= cycles ({cycles}), got {total_steps}")
        self.total_steps, self.cycles = total_steps, cycles
        super().__init__(optimizer)

    @property
    def cycle_steps(self) -> int:
        """Iterations of a cycle, C."""
        return math.ceil(self.total_steps / self.cycles)

    def is_cycle_end(self, steps: int) -> bool:
        """Tell whether a cycle is complete after so many iterations.

        Args:
            steps: Iterations made, at least 1.
        """
        return steps % self.cycle_steps == 0 or steps == self.total_steps

    @override
    def factor(self, time: int) -> float:
        """Give eta_t / eta_0."""
        # What is stepped beyond T goes on in cycles
        place = (time % self.cycle_steps) / self.cycle_steps
        return 0.5 * (math.cos(math.pi * place) + 1.0)

    @override
    def rises(self, time: int) -> bool:
        """Tell that another cycle follows."""
        return True


class Warmup(LRScheduler):
    """A rising rate before any other schedule: eta'_0 (f + (1 - f) t / n) for t < n, then eta'_{t - n}.

    eta' is the other schedule's rate, f the factor to start from and n the warm-up's length; the other
    schedule begins when the warm-up is over. torch's `SequentialLR` needs the number of steps twice and both
    schedules on one optimizer, cannot be written as a configuration's argument, and cannot hold
    `ReduceLROnPlateau`; here that works too: during the warm-up it sees no values.

    Args:
        optimizer: Its learning rates are scheduled.
        schedule: Makes the other schedule from the optimizer. None: a constant rate.
        warmup: Length n of the warm-up (epochs, or steps with `lr_interval: step`), at least 0. Default: 5.
        factor: Where it starts, f, in [0, 1]; 0 leaves the first step without effect. Default: 0.1.

    Raises:
        ValueError: If a value is out of its range.

    Source:
        Goyal et al. 2017, "Accurate, large minibatch SGD" (arXiv:1706.02677), section 2.2.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
        >>> halve = lambda optimizer: torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        >>> schedule, rates = Warmup(optimizer, halve, warmup=2, factor=0.0), []
        >>> for _ in range(5):
        ...     rates.append(schedule.get_last_lr()[0])
        ...     optimizer.step()
        ...     schedule.step()
        >>> rates
        [0.0, 0.5, 1.0, 0.5, 0.25]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        schedule: Callable[[Optimizer], LRScheduler] | None = None,
        warmup: int = 5,
        factor: float = 0.1,
    ) -> None:
        if not warmup >= 0:
            raise ValueError(f"Warmup: warmup must be >= 0, got {warmup}")
        if not 0.0 <= factor <= 1.0:
            raise ValueError(f"Warmup: factor must be in [0, 1], got {factor}")
        self.warmup, self.factor = warmup, factor
        self.schedule = None if schedule is None else schedule(optimizer)
        # What the other schedule begins with: not always the optimizer's rate (OneCycleLR, its own warm-ups).
        self._goal: list[float | Tensor] = [float(group["lr"]) for group in optimizer.param_groups]
        super().__init__(optimizer)

    @override
    def get_lr(self) -> list[float | Tensor]:
        """Return the rate of each parameter group at the present time."""
        if self.last_epoch >= self.warmup:
            return [group["lr"] for group in self.optimizer.param_groups]
        self._follow(self.last_epoch - 1)
        return [rate * self._place(self.last_epoch) for rate in self._goal]

    def _place(self, time: int) -> float:
        return self.factor + (1.0 - self.factor) * time / self.warmup

    def _follow(self, time: int) -> None:
        """Give groups another goal that were added or given other rates at a time of the warm-up."""
        if time >= 0:
            self._goal = full_rates(self.optimizer, self._goal, self._place(time), rises=True)

    @override
    def step(self, metrics: Any = None, epoch: int | None = None) -> None:  # type: ignore[override]
        """Go a step further.

        Args:
            metrics: What `ReduceLROnPlateau` watches.
            epoch: As torch's schedules have it; not used here.

        Raises:
            ValueError: If there is a plateau schedule and no value for it.
        """
        time = self.last_epoch + 1
        if time > self.warmup:
            self.last_epoch = time
            if isinstance(self.schedule, ReduceLROnPlateau):
                if metrics is None:
                    raise ValueError("Warmup: ReduceLROnPlateau needs step(metrics)")
                self.schedule.step(metrics)
            elif self.schedule is not None:
                self.schedule.step()
            self._last_lr = [group["lr"] for group in self.optimizer.param_groups]
            return
        if time == self.warmup:  # the other schedule's first rate
            self.last_epoch = time
            self._follow(time - 1)
            for group, rate in zip(self.optimizer.param_groups, self._goal, strict=True):
                group["lr"] = rate
            self._last_lr = list(self._goal)
            return
        super().step()

    @override
    def state_dict(self) -> dict[str, Any]:
        """Return the state of both schedules."""
        state = {name: value for name, value in vars(self).items() if name not in ("optimizer", "schedule")}
        state = {name: value for name, value in state.items() if not callable(value)}
        return {**state, "schedule": None if self.schedule is None else self.schedule.state_dict()}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up such a state."""
        state = dict(state_dict)
        inner = state.pop("schedule")
        if self.schedule is not None:
            self.schedule.load_state_dict(inner)
        vars(self).update(state)
