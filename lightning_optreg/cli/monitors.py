"""Metrics that a run watches: a wrong name is refused before training, not after the first epoch."""

from collections.abc import Iterable

from lightning_optreg.cli.messages import nearest

__all__ = ["LOGGED", "check_monitors"]

LOGGED = ("train/loss", "train/loss_step", "train/accuracy", "val/loss", "val/accuracy", "val/top5")
"""What `ImageClassifier` logs in a fit."""


def check_monitors(monitors: Iterable[tuple[str, str | None]], logged: Iterable[str] = LOGGED) -> None:
    """Refuse the name of a training or validation metric that is never logged.

    Other names, such as `step` or those of callbacks, are left to Lightning.

    Args:
        monitors: What watches, and the metric's name.
        logged: The names there are.

    Raises:
        ValueError: If a name begins with `train/`, `val/` or `test/` and is not logged.

    Example:
        >>> check_monitors([("EarlyStopping", "val/los")])
        Traceback (most recent call last):
        ...
        ValueError: EarlyStopping: there is no metric 'val/los' in a fit; did you mean val/loss or val/top5?
    """
    logged = tuple(logged)
    for watcher, name in monitors:
        if name is not None and name.startswith(("train/", "val/", "test/")) and name not in logged:
            raise ValueError(f"{watcher}: there is no metric {name!r} in a fit{nearest(name, logged)}")
