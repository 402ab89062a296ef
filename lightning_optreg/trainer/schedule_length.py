"""Learning-rate schedules as long as the run: lengths are filled in, and wrong ones are refused.

A schedule such as `OneCycleLR` needs its length, and only the trainer knows the run's length.
"""

import inspect
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import ReduceLROnPlateau
from lightning.pytorch.utilities import rank_zero_info
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR, PolynomialLR

from lightning_optreg.schedulers import SnapshotCosine, Warmup
from lightning_optreg.trainer.run_length import RunLength

__all__ = [
    "LEAST_CYCLE",
    "fitted",
    "length_argument",
    "length_name",
    "taken_apart",
    "too_short",
    "with_lengths",
]

Maker = Callable[..., Any]

LEAST_CYCLE = 3
"""Shortest length of torch's `OneCycleLR` that rises and falls: with 1 the only rate is its lowest."""

# Arguments of other classes may mean anything: `LinearLR` takes the length of a warm-up.
_SIZED = {
    OneCycleLR: "total_steps",
    CosineAnnealingLR: "T_max",
    PolynomialLR: "total_iters",
    SnapshotCosine: "total_steps",
}


def length_argument(cls: type) -> str | None:
    """Return the argument of a class of schedules for the length of the run, if there is one.

    It is `total_steps`, `T_max` or `total_iters` of `OneCycleLR`, `CosineAnnealingLR`, `PolynomialLR`,
    `SnapshotCosine` and their subclasses, unless a subclass gives it a default.

    Args:
        cls: A class.

    Example:
        >>> length_argument(OneCycleLR), length_argument(LRScheduler)
        ('total_steps', None)
    """
    name = length_name(cls)
    if name is None:
        return None
    parameter = inspect.signature(cls).parameters.get(name)
    if parameter is None:
        return None
    sized = parameter.default in (None, inspect.Parameter.empty) or issubclass(cls, PolynomialLR)
    return name if sized else None


def length_name(cls: type) -> str | None:
    """Return the attribute (and argument, if there is one) of a schedule's length; None for other classes."""
    if not inspect.isclass(cls):
        return None
    return next((name for sized, name in _SIZED.items() if issubclass(cls, sized)), None)


def taken_apart(maker: Maker | None) -> tuple[type[LRScheduler], dict[str, Any]] | None:
    """Return the class of a maker's schedule, and its arguments; None for other functions."""
    keywords: dict[str, Any] = {}
    while isinstance(maker, partial):
        keywords = {**maker.keywords, **keywords}
        # jsonargparse 4.53 makes a partial of its own function, with the class as last argument
        own = getattr(maker.func, "__module__", "").startswith("jsonargparse")
        maker = maker.args[-1] if own and maker.args else maker.func
    if inspect.isclass(maker) and issubclass(maker, LRScheduler):
        return maker, keywords
    return None


def fitted(maker: Maker, run: RunLength) -> Maker:
    """Return a maker whose schedule is as long as the run.

    Args:
        maker: A class of schedules, a `functools.partial` of one, or the callable that jsonargparse makes
            from a configuration. Other functions are returned unchanged.
        run: The run's length.

    Raises:
        MisconfigurationException: If a given length is not the run's, the run has no end and no length is
            given, or a checkpoint's schedule has another length.

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
    if saved is not None and "scales" in saved:  # of a replaced optimizer
        run = replace(run, saved=saved["schedule"])
    if issubclass(cls, Warmup):
        inner = keywords.get("schedule")
        if inner is None:
            return maker
        warmup = _setting(cls, keywords, "warmup")
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
        long = max(length, _least(cls, keywords))
        long += _divides_by_zero(cls, keywords, long)
        given = keywords.get(name) or 0
        if given >= long and not _divides_by_zero(cls, keywords, given):
            return maker
        return partial(maker, **{name: int(max(long, _setting(cls, keywords, "cycles")))})
    given, said, out = _given(cls, keywords, name)
    if run.loaded is not None and given == run.loaded - run.after:
        given = None
    if run.times == math.inf:
        if given is not None:
            _check_cycle(cls, keywords, given, run)
            return maker
        raise MisconfigurationException(
            f"lr_scheduler: {cls.__name__} takes its length from the run, which has no known end: set "
            f"{name}, trainer.max_epochs or max_steps"
        )
    if not length >= 1:
        raise MisconfigurationException(
            f"lr_scheduler: warmup must be < the run's {run.times:.0f} {run.unit}, before "
            f"{cls.__name__}, got {run.after}"
        )
    saved = (run.saved or {}).get(name)
    if given is not None and given != length:
        wrong = f"{name} of {cls.__name__} must be the run's {run.rest}, got {said}"
        stops = issubclass(cls, OneCycleLR) and given < length
        if saved != given or run.checked or stops:
            raise MisconfigurationException(f"lr_scheduler: {wrong}: leave {out} out")
        rank_zero_info(f"lr_scheduler: {wrong}, as in the checkpoint's run")
        return maker
    if saved not in (None, run.times - run.saved_after):
        raise MisconfigurationException(
            f"lr_scheduler: the checkpoint's {cls.__name__} has {name}={saved}, but the run has {run.rest}: "
            "use the same number, or reset it by --reset_optimizer true (in Python ResetOptimizer)"
        )
    _check_cycle(cls, keywords, int(length), run)
    return partial(maker, **{name: int(length)}) if given is None else maker


def _setting(cls: type, keywords: Mapping[str, Any], name: str, otherwise: Any = 1) -> Any:
    """Return the value of an argument, given or by default."""
    parameter = inspect.signature(cls).parameters.get(name)
    return keywords.get(name, otherwise if parameter is None else parameter.default)


def _least(cls: type, keywords: Mapping[str, Any]) -> int:
    """Return the shortest length with a rate that is not near 0."""
    if not issubclass(cls, OneCycleLR):
        return 1
    start = _setting(cls, keywords, "pct_start")
    if _setting(cls, keywords, "three_phase") and isinstance(start, float) and start > 0.0:
        # The rate is only high near the step pct_start * total_steps - 1; here a step has half of it.
        return max(LEAST_CYCLE, math.ceil(5 / 3 / start))
    return LEAST_CYCLE


def _divides_by_zero(cls: type, keywords: Mapping[str, Any], length: float) -> bool:
    """Return whether a phase of torch's `OneCycleLR` has length 0, by which torch 2.14 divides."""
    start = _setting(cls, keywords, "pct_start", None) if issubclass(cls, OneCycleLR) else None
    if not isinstance(start, float):
        return False
    between = [2 * start * length - 2] if _setting(cls, keywords, "three_phase") else []
    ends = [0.0, start * length - 1, *between, length - 1]
    return any(first == second for first, second in pairwise(ends))


def _check_cycle(cls: type, keywords: Mapping[str, Any], length: int, run: RunLength) -> None:
    if length < _least(cls, keywords):
        raise MisconfigurationException(too_short(cls, _least(cls, keywords), length, run))
    if _divides_by_zero(cls, keywords, length):
        start = _setting(cls, keywords, "pct_start")
        raise MisconfigurationException(
            f"lr_scheduler: {cls.__name__} of {length} {run.unit} with pct_start {start} has a phase of "
            "length 0, by which torch divides: use a slightly different pct_start"
        )


def too_short(cls: type, least: int, length: int, run: RunLength) -> str:
    """Return the error for a run too short for a schedule that rises and falls."""
    unit = run.unit.partition(" ")[0]
    ways = ["train longer"]
    ways += ["count steps (lr_interval: step)"] if unit == "epochs" else []
    ways += ["lower lr_frequency"] if "one in" in run.unit else []
    after = " after the warm-up" if run.after else ""
    return (
        f"lr_scheduler: {cls.__name__} rises and falls, so it needs at least {least} {run.unit}"
        f"{after}, got {length}: {', '.join(ways)} or use another schedule"
    )


def _given(cls: type, keywords: Mapping[str, Any], name: str) -> tuple[int | None, str, str]:
    """Return the given length, how it was given, and what to leave out."""
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
            "out, as both follow from the run"
        )
    return epochs * steps, f"epochs * steps_per_epoch = {epochs} * {steps} = {epochs * steps}", "them"


def with_lengths(spec: Any, length: int, monitor: str = "val/loss") -> Any:
    """Fill in the length and the monitor that a configuration of a schedule leaves to the module.

    Lightning builds a module from the configuration in its checkpoint by a parser that knows nothing of a
    run.

    Args:
        spec: A class path with `init_args`; anything else is returned unchanged.
        length: The run's length.
        monitor: The value that Lightning's `ReduceLROnPlateau` monitors if it has no monitor.

    Example:
        >>> with_lengths({"class_path": "CosineAnnealingLR", "init_args": {"T_max": None}}, 18)
        {'class_path': 'CosineAnnealingLR', 'init_args': {'T_max': 18}}
    """
    arguments = spec.get("init_args") if isinstance(spec, Mapping) else None
    if not isinstance(arguments, Mapping):
        return spec
    cls = _class_of(spec.get("class_path"))
    sized = length_name(cls)
    filled = {name: length if name == sized and value is None else value for name, value in arguments.items()}
    if inspect.isclass(cls) and issubclass(cls, ReduceLROnPlateau):
        filled["monitor"] = filled.get("monitor") or monitor
    if isinstance(filled.get("schedule"), Mapping):
        filled["schedule"] = with_lengths(filled["schedule"], length - filled.get("warmup", 0), monitor)
    return {**spec, "init_args": filled}


def _class_of(path: Any) -> Any:
    """Return the class at a path, which is imported already; torch's schedules are given by name alone."""
    module, _, name = str(path).rpartition(".")
    return getattr(sys.modules.get(module or "torch.optim.lr_scheduler"), name, None)
