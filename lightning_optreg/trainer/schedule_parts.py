"""Inspect a learning-rate schedule, whoever created it: the schedules it contains, and their lengths."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities import rank_zero_warn
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    ConstantLR,
    CosineAnnealingWarmRestarts,
    CyclicLR,
    LinearLR,
    MultiStepLR,
    OneCycleLR,
    SequentialLR,
)

from lightning_optreg.schedulers import Warmup, WarmupMultiStepLR
from lightning_optreg.trainer.optimizer_switch import CarriedOnSchedule
from lightning_optreg.trainer.run_length import RunLength
from lightning_optreg.trainer.schedule_length import LEAST_CYCLE, length_name, too_short

__all__ = ["Part", "check_loaded", "check_made", "lengths", "parts", "warn_of_unreached"]


@dataclass(frozen=True)
class Part:
    """A schedule, or one that it contains.

    Attributes:
        schedule: The schedule.
        begin: Time of the run at which it begins.
        end: Time at which another one follows; infinite if none does.
        where: What it comes after, for messages.
    """

    schedule: Any
    begin: int = 0
    end: float = math.inf
    where: str = ""


def parts(schedule: Any) -> Iterator[Part]:
    """Yield a schedule and those within it: in `Warmup`, `SequentialLR` and `ChainedScheduler`.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
        >>> warmup = Warmup(optimizer, lambda o: torch.optim.lr_scheduler.StepLR(o, 3), warmup=2)
        >>> [(type(part.schedule).__name__, part.begin) for part in parts(warmup)]
        [('Warmup', 0), ('StepLR', 2)]
    """
    return _within(Part(schedule))


def _within(part: Part) -> Iterator[Part]:
    schedule, begin = part.schedule, part.begin
    if isinstance(schedule, CarriedOnSchedule):
        yield from _within(Part(schedule.schedule, begin, part.end, part.where))
        return
    yield part
    if isinstance(schedule, Warmup) and schedule.schedule is not None:
        yield from _within(Part(schedule.schedule, begin + schedule.warmup, part.end, " after the warm-up"))
    elif isinstance(schedule, ChainedScheduler | SequentialLR):
        # Private in torch 2.14, as are the milestones: there is no public access to the inner schedules.
        milestones = schedule._milestones if isinstance(schedule, SequentialLR) else []
        begins = [0, *milestones] if milestones else [0] * len(schedule._schedulers)
        ends = [*milestones, math.inf] if milestones else [math.inf] * len(schedule._schedulers)
        for inner, first, last in zip(schedule._schedulers, begins, ends, strict=True):
            where = f" after the first {begin + first}" if first else part.where
            yield from _within(Part(inner, begin + first, min(part.end, begin + last), where))


def check_made(schedule: Any, run: RunLength) -> None:
    """Refuse a schedule that would end the run with an error, or is too short to rise and fall.

    Args:
        schedule: A schedule created by a class or a function.
        run: The run's length.

    Raises:
        MisconfigurationException: If the schedule is one of these.
    """
    for part in [] if run.dry else parts(schedule):
        if not isinstance(part.schedule, OneCycleLR):
            continue
        name, total = type(part.schedule).__name__, part.schedule.total_steps
        need = min(run.times, part.end) - part.begin
        if total < need < math.inf:
            whose = "the run's" if part.end > run.times else "its"
            raise MisconfigurationException(
                f"lr_scheduler: total_steps of {name} must be {whose} {need:.0f} {run.unit}{part.where}, got "
                f"{total}; functools.partial({name}, ...) alone or in Warmup gets this number from the run"
            )
        if total < LEAST_CYCLE and need > 0:
            raise MisconfigurationException(too_short(type(part.schedule), LEAST_CYCLE, total, run))


# ---- what a checkpoint changes -----------------------------------------------------------------------------


def lengths(schedule: Any) -> list[tuple[str, str, int]]:
    """Return class, name and value of each length in a schedule.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
        >>> lengths(torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20))
        [('CosineAnnealingLR', 'T_max', 20)]
    """
    found = []
    for part in parts(schedule):
        cls = type(part.schedule)
        name = length_name(cls)
        if name is not None and hasattr(part.schedule, name):
            found.append((cls.__name__, name, getattr(part.schedule, name)))
    return found


def check_loaded(schedule: Any, made: Sequence[tuple[str, str, int]]) -> None:
    """Refuse a schedule whose length was changed by a checkpoint.

    Args:
        schedule: The schedule, with the checkpoint's state.
        made: Its `lengths` before.

    Raises:
        MisconfigurationException: If a length differs.
    """
    loaded = lengths(schedule)
    if [each[:2] for each in loaded] != [each[:2] for each in made]:  # one of a search for a rate
        return
    for (cls, name, saved), (_, _, given) in zip(loaded, made, strict=True):
        if saved != given:
            raise MisconfigurationException(
                f"lr_scheduler: the checkpoint's {cls} has {name}={saved}, but the given one has {given}: "
                "use the same number, or reset it by --reset_optimizer true (in Python ResetOptimizer)"
            )


# ---- what a run does not get to ----------------------------------------------------------------------------


def warn_of_unreached(schedule: Any, run: RunLength) -> None:
    """Warn in one line of milestones and similar times that come after the end of the run.

    Args:
        schedule: Any schedule.
        run: The run's length, which is only computed if there are such times.
    """
    marks = [] if run.dry else list(_marks(schedule))
    late: dict[str, list[str]] = {}
    for what, time, is_end in marks:
        if time + (not is_end) > run.times > 0:
            late.setdefault(what, []).append(str(time))
    if late:
        rank_zero_warn(
            f"lr_scheduler: the run's {run.times:.0f} {run.unit} end before "
            + ", ".join(f"{what} {', '.join(times)}" for what, times in late.items())
        )


def _marks(schedule: Any) -> Iterator[tuple[str, int, bool]]:
    """Yield name and time of a schedule's events, and whether the run may end with them."""
    for part in parts(schedule):
        inner, after = part.schedule, part.begin
        name = type(inner).__name__
        if isinstance(inner, (MultiStepLR, WarmupMultiStepLR)):
            for milestone in sorted(inner.milestones):
                yield f"{name}'s milestones", after + milestone, False
        elif isinstance(inner, (ConstantLR, LinearLR)):
            yield f"{name}'s total_iters", after + inner.total_iters, isinstance(inner, LinearLR)
        elif isinstance(inner, CosineAnnealingWarmRestarts):
            yield f"{name}'s T_0", after + inner.T_0, True
        elif isinstance(inner, CyclicLR):
            yield f"{name}'s step_size_up", after + int(inner.total_size * inner.step_ratio), True
        elif isinstance(inner, Warmup):
            yield f"{name}'s warmup", after + inner.warmup, True
        elif isinstance(inner, SequentialLR):
            for milestone in inner._milestones:
                yield f"{name}'s milestones", after + milestone, False
