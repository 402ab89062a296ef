"""Learning-rate schedules as long as the run: lengths are filled in, or refused where they are wrong.

A schedule such as `OneCycleLR` must know how long it is to be, and only the trainer knows the run's length.
"""

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    ConstantLR,
    CosineAnnealingWarmRestarts,
    CyclicLR,
    LinearLR,
    LRScheduler,
    MultiStepLR,
    OneCycleLR,
    PolynomialLR,
    SequentialLR,
)

from lightning_optreg.callbacks.run_length import RunLength
from lightning_optreg.schedulers import Warmup, WarmupMultiStepLR

__all__ = ["check_made", "fitted", "length_argument", "taken_apart", "warn_of_unreached", "with_lengths"]

Maker = Callable[..., Any]

_NAMES = ("total_steps", "T_max", "total_iters")


def length_argument(cls: type) -> str | None:
    """Name the argument by which a class of schedules takes the length of the run, if there is one.

    `total_steps`, `T_max` or `total_iters`, where it has no default, and that of `PolynomialLR`, which ends
    at 0. `LinearLR` and `ConstantLR` take the length of a warm-up, 5 by default.

    Args:
        cls: A class.

    Example:
        >>> length_argument(OneCycleLR), length_argument(LinearLR)
        ('total_steps', None)
    """
    if not (inspect.isclass(cls) and issubclass(cls, LRScheduler)):
        return None
    parameters = inspect.signature(cls).parameters
    for name in _NAMES:
        if name in parameters:
            default = parameters[name].default
            sized = default in (None, inspect.Parameter.empty) or issubclass(cls, PolynomialLR)
            return name if sized else None
    return None


def taken_apart(maker: Maker | None) -> tuple[type[LRScheduler], dict[str, Any]] | None:
    """The class of schedules that a maker makes one of, and its arguments; None of other functions."""
    keywords: dict[str, Any] = {}
    while isinstance(maker, partial):
        keywords = {**maker.keywords, **keywords}
        # jsonargparse 4.53 gives a partial of a function of its own, with the class as last argument
        own = getattr(maker.func, "__module__", "").startswith("jsonargparse")
        maker = maker.args[-1] if own and maker.args else maker.func
    if inspect.isclass(maker) and issubclass(maker, LRScheduler):
        return maker, keywords
    return None


def fitted(maker: Maker, run: RunLength) -> Maker:
    """Give a maker whose schedule is as long as the run.

    Args:
        maker: A class of schedules, a `functools.partial` of one, or what jsonargparse makes of a
            configuration. What another function makes is its own matter.
        run: The run's length.

    Raises:
        MisconfigurationException: If a length is given that is not the run's, the run has no end and no
            length is given, or a checkpoint's schedule has another length.

    Example:
        >>> run = RunLength(lambda: 12, "epochs")
        >>> fitted(partial(OneCycleLR, max_lr=0.1), run).keywords
        {'max_lr': 0.1, 'total_steps': 12}
        >>> fitted(partial(OneCycleLR, max_lr=0.1, total_steps=3), run)
        Traceback (most recent call last):
        lightning.fabric.utilities.exceptions.MisconfigurationException: lr_scheduler: total_steps of \
OneCycleLR must be the run's 12 epochs, got 3: leave it out
    """
    found = taken_apart(maker)
    if found is None:
        return maker
    cls, keywords = found
    saved = run.saved
    if saved is not None and "scales" in saved:  # carried on from an optimizer that was replaced
        run = replace(run, saved=saved["schedule"])
    if issubclass(cls, Warmup):
        inner = keywords.get("schedule")
        if inner is None:
            return maker
        warmup = keywords.get("warmup", inspect.signature(cls).parameters["warmup"].default)
        return partial(maker, schedule=fitted(inner, _after(run, warmup)))
    name = length_argument(cls)
    return maker if name is None else _filled(maker, cls, keywords, name, run)


def _after(run: RunLength, warmup: int) -> RunLength:
    saved = run.saved or {}
    return replace(
        run,
        after=run.after + warmup,
        saved=saved.get("schedule"),
        saved_after=run.saved_after + saved.get("warmup", warmup),
    )


def _filled(maker: Maker, cls: type, keywords: dict[str, Any], name: str, run: RunLength) -> Maker:
    length = run.times - run.after
    if run.dry or run.times == 0:
        least = keywords.get("cycles", 5) if "cycles" in inspect.signature(cls).parameters else 1
        enough = (keywords.get(name) or 0) >= max(length, 1)
        return maker if enough else partial(maker, **{name: int(max(length, least))})
    given, said, out = _given(cls, keywords, name)
    if run.loaded is not None and given == run.loaded - run.after:
        given = None
    if run.times == math.inf:
        if given is not None:
            return maker
        raise MisconfigurationException(
            f"lr_scheduler: {cls.__name__} takes its length from the run, which has no end that is known: "
            f"give {name}, or trainer.max_epochs or max_steps"
        )
    if not length >= 1:
        raise MisconfigurationException(
            f"lr_scheduler: warmup must be < the run's {run.times:.0f} {run.unit}, to leave some for "
            f"{cls.__name__}, got {run.after}"
        )
    saved = (run.saved or {}).get(name)
    if given is not None and given != length:
        wrong = f"{name} of {cls.__name__} must be the run's {run.rest}, got {said}"
        stops = issubclass(cls, OneCycleLR) and given < length
        if saved != given or run.checked or stops:
            raise MisconfigurationException(f"lr_scheduler: {wrong}: leave {out} out")
        rank_zero_info(f"lr_scheduler: {wrong}, as had the checkpoint's run")
        return maker
    if saved not in (None, run.times - run.saved_after):
        raise MisconfigurationException(
            f"lr_scheduler: the checkpoint's {cls.__name__} has {name}={saved} and the run has {run.rest}: "
            "go on with as many, or let --reset_optimizer true (in Python ResetOptimizer) start it anew"
        )
    return partial(maker, **{name: int(length)}) if given is None else maker


def _given(cls: type, keywords: Mapping[str, Any], name: str) -> tuple[int | None, str, str]:
    """The length that was given, how it was given, and what to leave out of it."""
    given = keywords.get(name)
    if given is not None or not issubclass(cls, OneCycleLR):
        return given, str(given), "it"
    epochs, steps = keywords.get("epochs"), keywords.get("steps_per_epoch")
    if epochs is None and steps is None:
        return None, "", "it"
    if epochs is None or steps is None:
        there, missing = ("epochs", "steps_per_epoch") if steps is None else ("steps_per_epoch", "epochs")
        raise MisconfigurationException(
            f"lr_scheduler: OneCycleLR has {there}={keywords[there]} and no {missing}: leave {there} "
            "out, the run tells both"
        )
    return epochs * steps, f"epochs * steps_per_epoch = {epochs} * {steps} = {epochs * steps}", "them"


def check_made(schedule: Any, run: RunLength) -> None:
    """Refuse a schedule that would stop the run with an error, whoever made it.

    Args:
        schedule: What a function has made.
        run: The run's length.

    Raises:
        MisconfigurationException: If it does.
    """
    while isinstance(schedule, Warmup):
        run, schedule = _after(run, schedule.warmup), schedule.schedule
    if not isinstance(schedule, OneCycleLR) or run.dry:
        return
    if run.after + schedule.total_steps < run.times < math.inf:
        raise MisconfigurationException(
            f"lr_scheduler: total_steps of OneCycleLR must be the run's {run.rest}, got "
            f"{schedule.total_steps}: give functools.partial(OneCycleLR, ...) without it"
        )


def with_lengths(spec: Any, length: int) -> Any:
    """Fill in the lengths that a configuration of a schedule leaves to the run.

    Lightning builds a module from the configuration in its checkpoint by a parser that knows of no run.

    Args:
        spec: A class path with `init_args`, or anything else, which stays as it is.
        length: The run's.

    Example:
        >>> with_lengths({"class_path": "CosineAnnealingLR", "init_args": {"T_max": None}}, 18)
        {'class_path': 'CosineAnnealingLR', 'init_args': {'T_max': 18}}
    """
    arguments = spec.get("init_args") if isinstance(spec, Mapping) else None
    if not isinstance(arguments, Mapping):
        return spec
    filled = {
        name: length if name in _NAMES and value is None else value for name, value in arguments.items()
    }
    if isinstance(filled.get("schedule"), Mapping):
        filled["schedule"] = with_lengths(filled["schedule"], length - filled.get("warmup", 0))
    return {**spec, "init_args": filled}


# ---- what a run does not get to ----------------------------------------------------------------------------


def warn_of_unreached(schedule: Any, run: RunLength) -> None:
    """Warn in one line of milestones and the like that the run ends before.

    Args:
        schedule: Any schedule.
        run: The run's length, which is asked only if there is such a time.
    """
    marks = [] if run.dry else list(_marks(schedule, 0))
    late: dict[str, list[str]] = {}
    for what, time, is_end in marks:
        if time + (not is_end) > run.times > 0:
            late.setdefault(what, []).append(str(time))
    if late:
        rank_zero_warn(
            f"lr_scheduler: the run's {run.times:.0f} {run.unit} end before "
            + ", ".join(f"{what} {', '.join(times)}" for what, times in late.items())
        )


def _marks(schedule: Any, after: int) -> Iterator[tuple[str, int, bool]]:
    """Name and time of what a schedule does, and whether it is an end, which a run may end with."""
    name = type(schedule).__name__
    if isinstance(schedule, (MultiStepLR, WarmupMultiStepLR)):
        for milestone in sorted(schedule.milestones):
            yield f"{name}'s milestones", after + milestone, False
    elif isinstance(schedule, (ConstantLR, LinearLR)):
        yield f"{name}'s total_iters", after + schedule.total_iters, isinstance(schedule, LinearLR)
    elif isinstance(schedule, CosineAnnealingWarmRestarts):
        yield f"{name}'s T_0", after + schedule.T_0, True
    elif isinstance(schedule, CyclicLR):
        yield f"{name}'s step_size_up", after + int(schedule.total_size * schedule.step_ratio), True
    elif isinstance(schedule, Warmup):
        yield f"{name}'s warmup", after + schedule.warmup, True
        yield from _marks(schedule.schedule, after + schedule.warmup)
    elif isinstance(schedule, (ChainedScheduler, SequentialLR)):
        # Private in torch 2.14, as are the milestones: there is no public way to what they hold.
        begins = [0] * len(schedule._schedulers)
        if isinstance(schedule, SequentialLR):
            begins[1:] = schedule._milestones
            for milestone in schedule._milestones:
                yield f"{name}'s milestones", after + milestone, False
        for inner, begin in zip(schedule._schedulers, begins, strict=True):
            yield from _marks(inner, after + begin)
