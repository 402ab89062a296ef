"""Set the highest rate of schedules that name it to the one that Lightning's learning-rate finder found."""

from functools import partial
from typing import Any

from torch.optim.lr_scheduler import CyclicLR, OneCycleLR

from lightning_optreg.schedulers import Warmup
from lightning_optreg.trainer.schedule_length import Maker, taken_apart

__all__ = ["at_rate"]


def at_rate(maker: Maker, lr: float) -> Maker:
    """Return a maker whose schedule rises to a rate that was found.

    Most schedules multiply the optimizer's rate. `OneCycleLR` and `CyclicLR` have their own `max_lr`, which
    would replace the rate that was found in their first step.

    Args:
        maker: A class of schedules, a `functools.partial` of one, or the callable that jsonargparse makes
            from a configuration. Other functions are returned unchanged.
        lr: The rate, above 0.

    Example:
        >>> at_rate(partial(OneCycleLR, max_lr=0.1), 0.02).keywords
        {'max_lr': 0.02}
        >>> at_rate(partial(CyclicLR, base_lr=0.1, max_lr=0.4), 0.02).keywords
        {'base_lr': 0.005, 'max_lr': 0.02}
    """
    found = taken_apart(maker)
    if found is None:
        return maker
    cls, keywords = found
    if issubclass(cls, Warmup) and keywords.get("schedule") is not None:
        return partial(maker, schedule=at_rate(keywords["schedule"], lr))
    if not issubclass(cls, OneCycleLR | CyclicLR) or "max_lr" not in keywords:
        return maker
    rates: dict[str, Any] = {"max_lr": lr}
    if issubclass(cls, CyclicLR) and "base_lr" in keywords:
        rates["base_lr"] = lr * _largest(keywords["base_lr"]) / _largest(keywords["max_lr"])
    return partial(maker, **rates)


def _largest(rates: Any) -> float:
    """Return the largest rate, of one for all groups or one for each."""
    return float(max(rates)) if isinstance(rates, list | tuple) else float(rates)
