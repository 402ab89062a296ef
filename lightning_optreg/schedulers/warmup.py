"""A warm-up before any other schedule."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from typing_extensions import override

from lightning_optreg._checks import check_range
from lightning_optreg.optimizers.rates import set_rate
from lightning_optreg.schedulers.factor_schedule import FactorSchedule, rates

__all__ = ["Warmup"]


class Warmup(FactorSchedule):
    """A rising rate before any other schedule: eta'_0 (f + (1 - f) t / n) for t < n, then eta'_{t - n}.

    eta' is the other schedule's rate, f the factor to start from and n the warm-up's length; the other
    schedule begins when the warm-up is over. torch's `SequentialLR` needs the number of steps twice and both
    schedules on one optimizer, cannot be written as an argument in a configuration, and cannot hold
    `ReduceLROnPlateau`; here that works too, and it sees no values during the warm-up, but `step` must be
    given them from the first on. Lightning does so if its configuration of the schedule is
    `{"scheduler": ..., "monitor": "val_loss", "reduce_on_plateau": True}`; `ImageClassifier`'s is. Within a
    `SequentialLR` or a `ChainedScheduler` it warms up to the optimizer's initial rate, not to one lowered by
    earlier schedules; there, a plateau schedule cannot get its values.

    Args:
        optimizer: Its learning rates are scheduled.
        schedule: Builds the other schedule, given the optimizer. None: a constant rate.
        warmup: Length n of the warm-up (epochs, or steps with `lr_interval: step`), at least 0. Default: 5.
        factor: The initial factor f, in [0, 1]; with 0 the first step has no effect. Default: 0.1.

    Raises:
        ValueError: If a value is out of range.
        TypeError: If schedule is a schedule, and not what makes one.

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
        check_range("Warmup", ">= 0", warmup=warmup)
        check_range("Warmup", "[0, 1]", factor=factor)
        given: Any = schedule
        if given is not None and not callable(given):
            name = type(given).__name__
            raise TypeError(
                f"Warmup: schedule must make a schedule of an optimizer, got a {name}; write "
                f"lambda optimizer: {name}(optimizer, ...)"
            )
        self.warmup, self.factor = warmup, factor
        # Schedules created before this one, to be chained with it or to come before it, have changed the
        # rates; the goal is that of the rates that the optimizer began with.
        begun = [group.get("initial_lr", group["lr"]) for group in optimizer.param_groups]
        before = [
            float(rate / start) if start > 0.0 else 1.0
            for rate, start in zip(rates(optimizer), begun, strict=True)
        ]
        for group, start in zip(optimizer.param_groups, begun, strict=True):
            set_rate(group, start)
        self.schedule = None if schedule is None else schedule(optimizer)
        # The other schedule need not begin with the optimizer's rate (OneCycleLR, its own warm-ups).
        self._goal = rates(optimizer)
        for group, rate, others in zip(optimizer.param_groups, self._goal, before, strict=True):
            set_rate(group, rate * others)
        super().__init__(optimizer)

    @override
    def first_rates(self) -> list[float | Tensor]:
        """Return the rates that the other schedule begins with."""
        return self._goal

    @override
    def multiple(self, time: int) -> float:
        """Return the multiple of the other schedule's first rate at a time; 1 when the warm-up is over."""
        if time >= self.warmup:
            return 1.0
        return self.factor + (1.0 - self.factor) * time / self.warmup

    @override
    def rises(self, time: int) -> bool:
        """Return whether the warm-up is still going on."""
        return time < self.warmup

    @override
    def step(self, metrics: Any = None, epoch: int | None = None) -> None:  # type: ignore[override]
        """Make one step.

        Args:
            metrics: The value that `ReduceLROnPlateau` watches.
            epoch: As in torch's schedules; not used here.

        Raises:
            ValueError: If there is a plateau schedule and no `metrics`, also during the warm-up: it would be
                noticed late otherwise.
        """
        # torch's base class makes the first step, before there is a value.
        if metrics is None and self.last_epoch >= 0 and isinstance(self.schedule, ReduceLROnPlateau):
            raise ValueError(
                "Warmup: ReduceLROnPlateau needs a value to watch, got step() without one; call step(value), "
                'or in Lightning let configure_optimizers return {"scheduler": ..., "monitor": "val_loss", '
                '"reduce_on_plateau": True}'
            )
        if self.last_epoch < self.warmup:
            super().step()
            return
        self.last_epoch += 1
        if isinstance(self.schedule, ReduceLROnPlateau):
            self.schedule.step(metrics)
        elif self.schedule is not None:
            self.schedule.step()
        self._last_lr = rates(self.optimizer)  # private in torch 2.14: what `get_last_lr` returns

    @override
    def state_dict(self) -> dict[str, Any]:
        """Return the state of both schedules."""
        state = {name: value for name, value in vars(self).items() if name not in ("optimizer", "schedule")}
        state = {name: value for name, value in state.items() if not callable(value)}
        return {**state, "schedule": None if self.schedule is None else self.schedule.state_dict()}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state of both schedules."""
        state = dict(state_dict)
        inner = state.pop("schedule")
        if self.schedule is not None:
            self.schedule.load_state_dict(inner)
        vars(self).update(state)
