"""Metrics that a run watches: a wrong name is refused before training, not after the first epoch."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from jsonargparse import Namespace

from lightning_optreg._nearest import nearest
from lightning_optreg.cli.given import file_of

__all__ = ["LOGGED", "LOGGED_IN_TEST", "OURS", "check_metric", "check_monitors"]

LOGGED = ("train/loss", "train/loss_step", "train/accuracy", "val/loss", "val/accuracy", "val/top5")
"""What `ImageClassifier` logs in a fit."""
LOGGED_IN_TEST = (
    "test/loss",
    "test/accuracy",
    "test/top5",
    "test/nll",
    "test/brier",
    "test/calibration_error",
)
"""What it logs in a test."""
_OF_CALLBACKS = ("optreg/", "lr-")
_OF_LOOPS = ("epoch", "step")


OURS = ("lightning.", "lightning_optreg.")
"""Prefixes of classes whose metrics are known; other callbacks may log more."""


def check_monitors(settings: Namespace, argv: Sequence[str] = ()) -> None:
    """Raise an error if a callback or the schedule watches a metric that a fit never logs.

    Nothing is checked if a callback is neither Lightning's nor this package's: it may log more.

    Args:
        settings: The parsed configuration of a fit.
        argv: The command line, from which the message names the file that holds the name.

    Raises:
        ValueError: With the callback or schedule, the name and the nearest known ones.
    """
    callbacks = settings.get("trainer.callbacks")
    callbacks = callbacks if isinstance(callbacks, list) else [callbacks]
    callbacks = [callback for callback in callbacks if isinstance(callback, Namespace)]
    if not all(callback.class_path.startswith(OURS) for callback in callbacks):
        return
    for owner, name, key in _watched(settings, callbacks):
        if not _is_logged(name, LOGGED):
            file = file_of(argv, key)  # read only now: files are slow to read
            check_metric(name, owner, where=f" (in {file})" if file is not None else "")


def _is_logged(name: str | None, logged: Iterable[str]) -> bool:
    return name is None or name in logged or name in _OF_LOOPS or name.startswith(_OF_CALLBACKS)


def _watched(settings: Namespace, callbacks: Iterable[Namespace]) -> Iterator[tuple[str, Any, str]]:
    """For each watched metric: who watches it, its name, and the key that sets it."""
    for callback in callbacks:
        for argument in ("monitor", "train_monitor"):
            name = callback.get(f"init_args.{argument}")
            yield callback.class_path.rpartition(".")[2], name, f"trainer.callbacks.{argument}"
    schedule = settings.get("lr_scheduler")
    if isinstance(schedule, Namespace) and schedule.class_path.endswith("ReduceLROnPlateau"):
        own = schedule.get("init_args.monitor")
        key = "model.lr_monitor" if own is None else "lr_scheduler.monitor"
        yield "lr_scheduler", own if own is not None else settings.get("model.lr_monitor"), key


def check_metric(
    name: str | None, owner: str, logged: Iterable[str] = LOGGED, where: str = "", *, stage: str = "fit"
) -> None:
    """Raise an error if a metric is never logged.

    Names that callbacks log, `optreg/...` and those of LearningRateMonitor, `lr-...`, are left to Lightning,
    and so are `step` and `epoch`.

    Args:
        name: The metric's name; None watches nothing.
        owner: The start of the message.
        logged: The known names.
        where: Follows the name in the message.
        stage: The stage, for the message.

    Raises:
        ValueError: If the name is not known.

    Example:
        >>> check_metric("val_loss", "EarlyStopping")
        Traceback (most recent call last):
        ...
        ValueError: EarlyStopping: there is no metric 'val_loss' in a fit; did you mean val/loss?
    """
    logged = tuple(logged)
    if name is None or _is_logged(name, logged):  # None watches nothing
        return
    if not name.strip():
        raise ValueError(f"{owner}: monitor must name a metric, got {name!r}{where}{nearest(name, logged)}")
    raise ValueError(f"{owner}: there is no metric {name!r} in a {stage}{where}{nearest(name, logged)}")
