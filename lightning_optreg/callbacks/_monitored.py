"""A logged value that is checked after each validation, and whether it still improves."""

import math
from typing import Any, Literal

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer

from lightning_optreg._checks import check_numbers

__all__ = ["Monitored", "logged_value"]


def logged_value(trainer: Trainer, name: str, owner: str, argument: str = "monitor") -> float:
    """Return a logged value; all processes get that of rank 0, so that they decide alike.

    Args:
        trainer: The trainer.
        name: Name of the value.
        owner: Name of the calling class, for the error.
        argument: Its argument with the name, for the error.

    Raises:
        MisconfigurationException: If the value is not logged.
    """
    logged = trainer.callback_metrics
    if name not in logged:
        raise MisconfigurationException(
            f"{owner}: {argument} {name!r} is not among the logged values {sorted(logged)}"
        )
    return float(trainer.strategy.broadcast(float(logged[name])))


class Monitored:
    """Keeps the best value so far, and counts the values since the last improvement.

    A value v improves on the best value b if v < b - min_delta with mode "min", or v > b + min_delta with
    "max". NaN never does.

    Args:
        owner: Name of the calling class, for errors.
        mode: Whether the value should fall ("min") or rise ("max").
        min_delta: Smallest change that counts as an improvement, at least 0.

    Attributes:
        mode: As given; the owner sets it anew if its own has changed.
        min_delta: Likewise.
        bad_checks: Number of values since the last improvement.

    Raises:
        ValueError: If mode or min_delta is out of its range.

    Example:
        >>> accuracy = Monitored("AdamToSGD", "max", min_delta=0.01)
        >>> [accuracy.improves(value) for value in (0.5, 0.505, 0.6, 0.4)]
        [True, False, True, False]
        >>> accuracy.best, accuracy.bad_checks
        (0.6, 1)
    """

    def __init__(self, owner: str, mode: Literal["min", "max"], min_delta: float = 0.0) -> None:
        if mode not in ("min", "max"):
            raise ValueError(f"{owner}: mode must be min or max, got {mode!r}")
        check_numbers(owner, min_delta=min_delta)
        if not 0.0 <= min_delta < math.inf:
            raise ValueError(f"{owner}: min_delta must be >= 0, got {min_delta}")
        self.mode, self.min_delta = mode, min_delta
        self.forget()

    @property
    def _sign(self) -> float:
        return 1.0 if self.mode == "min" else -1.0

    def forget(self) -> None:
        """Start afresh."""
        self._lowest, self.bad_checks = math.inf, 0  # of the values, or of their negatives with mode "max"

    @property
    def best(self) -> float | None:
        """The best value; None if there is none yet."""
        return None if self._lowest == math.inf else self._sign * self._lowest

    @best.setter
    def best(self, value: float | None) -> None:
        self._lowest = math.inf if value is None else self._sign * value

    def improves(self, value: float) -> bool:
        """Add a value, and return whether it is an improvement."""
        better = self._sign * value < self._lowest - self.min_delta
        if better:
            self._lowest, self.bad_checks = self._sign * value, 0
        else:
            self.bad_checks += 1
        return better

    def state_dict(self) -> dict[str, Any]:
        """Return the best value (its negative with mode "max") and the count."""
        return {"best": self._lowest, "bad_checks": self.bad_checks}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state; other keys are ignored."""
        self._lowest, self.bad_checks = state_dict["best"], state_dict["bad_checks"]
