"""Keep the ratios of parameter groups' learning rates in schedules that set one rate for all groups."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CyclicLR, OneCycleLR

from lightning_optreg.schedulers import Warmup
from lightning_optreg.trainer.schedule_length import Maker, taken_apart

__all__ = ["check_ratios", "with_factors"]


def with_factors(maker: Maker, factors: Sequence[float]) -> Maker:
    """Return a maker whose schedule has a multiple of its rates for each group.

    Most schedules multiply the groups' own rates. `OneCycleLR` and `CyclicLR` replace them by their own.

    Args:
        maker: A class of schedules, a `functools.partial` of one, or the callable that jsonargparse makes
            from a configuration. Other functions are returned unchanged, and so are lists of rates.
        factors: One for each group.

    Example:
        >>> with_factors(partial(OneCycleLR, max_lr=0.1), [1.0, 64.0]).keywords
        {'max_lr': [0.1, 6.4]}
    """
    found = taken_apart(maker)
    if found is None or set(factors) <= {1.0}:
        return maker
    cls, keywords = found
    if issubclass(cls, Warmup) and keywords.get("schedule") is not None:
        return partial(maker, schedule=with_factors(keywords["schedule"], factors))
    if not issubclass(cls, OneCycleLR | CyclicLR):
        return maker
    rates: dict[str, Any] = {
        name: [rate * factor for factor in factors]
        for name, rate in keywords.items()
        if name in ("max_lr", "base_lr") and not isinstance(rate, list | tuple)
    }
    return partial(maker, **rates) if rates else maker


def check_ratios(schedule: Any, optimizer: Optimizer) -> None:
    """Refuse a schedule that has set one rate for groups that should have different ones.

    Args:
        schedule: The schedule, just created.
        optimizer: Its optimizer, whose groups may have an `lr_factor`.

    Raises:
        MisconfigurationException: If all groups begin with the same rate.
    """
    factors = {group.get("lr_factor", 1.0) for group in optimizer.param_groups}
    rates = {float(group.get("initial_lr", group["lr"])) for group in optimizer.param_groups}
    if len(factors) > 1 and len(rates) == 1 and rates != {0.0}:
        raise MisconfigurationException(
            f"lr_scheduler: {type(schedule).__name__} has set one rate for all groups, where lr_factors are "
            "lost: give functools.partial(OneCycleLR, ...), or the rates of all groups as a list"
        )
