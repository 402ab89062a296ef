"""Learning-rate schedules that torch has not got in a form a configuration can name.

They chain (`torch.optim.lr_scheduler.ChainedScheduler`) and follow each other (`SequentialLR`) as torch's do.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from typing_extensions import override

from lightning_optreg.cosine_cycles import cosine_factor, cycle_ends
from lightning_optreg.factor_schedule import FactorSchedule, rates
from lightning_optreg.optimizers.rates import set_rate

__all__ = ["InverseTimeDecay", "SnapshotCosine", "Warmup", "WarmupMultiStepLR"]


class WarmupMultiStepLR(FactorSchedule):
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
    def multiple(self, time: int) -> float:
        """Give the multiple of eta at a time."""
        if time < self.warmup:
            return self.warmup_factor
        return float(self.gamma ** bisect_right(self.milestones, time))

    @override
    def rises(self, time: int) -> bool:
        """Tell whether the warm-up lasts."""
        return time < self.warmup


class InverseTimeDecay(FactorSchedule):
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
    def multiple(self, time: int) -> float:
        """Give the multiple of eta_0 at a time."""
        return float((1.0 + time / self.t0) ** -self.power)


class SnapshotCosine(FactorSchedule):
    """Cosine annealing in M cycles: eta_t = eta_0 / 2 (cos(pi s / C) + 1), s steps into a cycle of C.

    To be stepped by iterations (`lr_interval: step`), as in the paper: the first of a cycle has the full
    rate, the last is near 0, and there the weights are worth a snapshot (`is_cycle_end`). Cycle k ends with
    iteration ceil(k T / M): there are M, and where M does not divide T they differ by one iteration at most.
    (The paper's cycles are of ceil(T / M), which are fewer than M for many T: three of four for T = 9.)
    torch's `CosineAnnealingWarmRestarts` has the same cosine for cycles of a length that one has to work out.

    Args:
        optimizer: Its learning rates are scheduled; eta_0 are those that it has.
        total_steps: Iterations in all, T, at least `cycles`. `ImageClassifier` fills in the run's.
        cycles: Number of cycles M, at least 1. Default: 5.

    Raises:
        ValueError: If a value is out of its range.

    Source:
        Huang, Li, Pleiss, Liu, Hopcroft and Weinberger 2017, "Snapshot ensembles: train 1, get M for free"
        (arXiv:1704.00109), equation 2, whose t counts from 1, where M divides T.

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

    def __init__(self, optimizer: Optimizer, total_steps: int | None = None, cycles: int = 5) -> None:
        if not cycles >= 1:
            raise ValueError(f"SnapshotCosine: cycles must be >= 1, got {cycles}")
        if total_steps is None:
            raise ValueError("SnapshotCosine: total_steps must be given outside of ImageClassifier, got None")
        if not total_steps >= cycles:
            raise ValueError(f"SnapshotCosine: total_steps must be >= cycles ({cycles}), got {total_steps}")
        self.total_steps, self.cycles = total_steps, cycles
        super().__init__(optimizer)

    @property
    def cycle_steps(self) -> int:
        """Iterations of the longest cycle, ceil(T / M)."""
        return math.ceil(self.total_steps / self.cycles)

    def is_cycle_end(self, steps: int) -> bool:
        """Tell whether a cycle is complete after so many iterations.

        Args:
            steps: Iterations made, at least 1.
        """
        return (steps - 1) % self.total_steps + 1 in cycle_ends(self.total_steps, self.cycles)

    @override
    def multiple(self, time: int) -> float:
        """Give the multiple of eta_0 at a time; what is stepped beyond T goes on in cycles."""
        return cosine_factor(time % self.total_steps, cycle_ends(self.total_steps, self.cycles))

    @override
    def rises(self, time: int) -> bool:
        """Tell that another cycle follows."""
        return True


class Warmup(FactorSchedule):
    """A rising rate before any other schedule: eta'_0 (f + (1 - f) t / n) for t < n, then eta'_{t - n}.

    eta' is the other schedule's rate, f the factor to start from and n the warm-up's length; the other
    schedule begins when the warm-up is over. torch's `SequentialLR` needs the number of steps twice and both
    schedules on one optimizer, cannot be written as a configuration's argument, and cannot hold
    `ReduceLROnPlateau`; here that works too: during the warm-up it sees no values. Within a `SequentialLR` or
    a `ChainedScheduler` its goal is the rate that the optimizer began with, not what schedules made before it
    have lowered that to; there, nothing can tell a plateau schedule its values.

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
        # Schedules that were made before, to be chained with this one or to come before it, have changed the
        # rates; the goal is that of the rates that the optimizer began with.
        begun = [group.get("initial_lr", group["lr"]) for group in optimizer.param_groups]
        before = [
            float(rate / start) if start > 0.0 else 1.0
            for rate, start in zip(rates(optimizer), begun, strict=True)
        ]
        for group, start in zip(optimizer.param_groups, begun, strict=True):
            set_rate(group, start)
        self.schedule = None if schedule is None else schedule(optimizer)
        # What the other schedule begins with: not always the optimizer's rate (OneCycleLR, its own warm-ups).
        self._goal = rates(optimizer)
        for group, rate, others in zip(optimizer.param_groups, self._goal, before, strict=True):
            set_rate(group, rate * others)
        super().__init__(optimizer)

    @override
    def first_rates(self) -> list[float | Tensor]:
        """Give the rates that the other schedule begins with."""
        return self._goal

    @override
    def multiple(self, time: int) -> float:
        """Give the multiple of the other schedule's first rate at a time; 1 when the warm-up is over."""
        if time >= self.warmup:
            return 1.0
        return self.factor + (1.0 - self.factor) * time / self.warmup

    @override
    def rises(self, time: int) -> bool:
        """Tell whether the warm-up lasts."""
        return time < self.warmup

    @override
    def step(self, metrics: Any = None, epoch: int | None = None) -> None:  # type: ignore[override]
        """Go a step further.

        Args:
            metrics: What `ReduceLROnPlateau` watches.
            epoch: As torch's schedules have it; not used here.

        Raises:
            ValueError: If there is a plateau schedule and no value for it.
        """
        if self.last_epoch < self.warmup:
            super().step()
            return
        self.last_epoch += 1
        if isinstance(self.schedule, ReduceLROnPlateau):
            if metrics is None:
                raise ValueError("Warmup: ReduceLROnPlateau needs step(metrics)")
            self.schedule.step(metrics)
        elif self.schedule is not None:
            self.schedule.step()
        self._last_lr = rates(self.optimizer)

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
