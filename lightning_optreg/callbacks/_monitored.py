"""A logged value that is looked at after each validation, and whether it still gets better."""

import math
from typing import Any, Literal

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer

__all__ = ["Monitored", "logged_value"]


def logged_value(trainer: Trainer, name: str, owner: str, argument: str = "monitor") -> float:
    """Return a logged value, on all processes that of the first one, so that they decide alike.

    Args:
        trainer: The trainer.
        name: Name of the value.
        owner: Name of the class that asks, for the error.
        argument: Its argument that names the value, for the error.

    Raises:
        MisconfigurationException: If there is no such value.
    """
    logged = trainer.callback_metrics
    if name not in logged:
        raise MisconfigurationException(
            f"{owner}: {argument} {name!r} is not among the logged values {sorted(logged)}"
        )
    return float(trainer.strategy.broadcast(float(logged[name])))


class Monitored:
    """Keep the best of the values seen, and count how many came since without an improvement.

    A value v is an improvement on the best one b if v < b - min_delta with mode "min", and if
    v > b + min_delta with "max". NaN is none.

    Args:
        owner: Name of the class that asks, for errors.
        mode: Whether the value should fall ("min") or rise ("max").
        min_delta: What counts as an improvement is more than this, at least 0.

    Attributes:
        bad_checks: Values since the last improvement.

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
        if not 0.0 <= min_delta < math.inf:
            raise ValueError(f"{owner}: min_delta must be >= 0, got {min_delta}")
        self._sign, self._min_delta = 1.0 if mode == "min" else -1.0, min_delta
        self.forget()

    def forget(self) -> None:
        """Begin anew."""
        self._lowest, self.bad_checks = math.inf, 0  # of the values, or of their negatives with mode "max"

    @property
    def best(self) -> float | None:
        """The best value; None if there was none."""
        return None if self._lowest == math.inf else self._sign * self._lowest

    @best.setter
    def best(self, value: float | None) -> None:
        self._lowest = math.inf if value is None else self._sign * value

    def improves(self, value: float) -> bool:
        """Take another value into account, and return whether it is an improvement."""
        better = self._sign * value < self._lowest - self._min_delta
        if better:
            self._lowest, self.bad_checks = self._sign * value, 0
        else:
            self.bad_checks += 1
        return better

    def state_dict(self) -> dict[str, Any]:
        """Return the best value (its negative with mode "max") and the count."""
        return {"best": self._lowest, "bad_checks": self.bad_checks}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore such a state; other keys are left alone."""
        self._lowest, self.bad_checks = state_dict["best"], state_dict["bad_checks"]
