"""Prechelt's criteria for early stopping: when the validation error has risen enough to stop.

Prechelt 1998, "Early stopping - but when?" (in: Neural networks: tricks of the trade, LNCS 1524). E_va(t) is
the validation error after t validations, E_opt(t) the lowest so far, E_tr(t) the training error.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any, Literal

Criterion = Literal["patience", "GL", "PQ", "UP"]
Mode = Literal["min", "max"]

__all__ = [
    "Criterion",
    "Prechelt",
    "generalization_loss",
    "progress_quotient",
    "successive_rises",
    "training_progress",
]


def generalization_loss(error: float, lowest: float) -> float:
    """GL(t) = 100 (E_va(t) / E_opt(t) - 1): how far the validation error is above its lowest, in percent.

    Args:
        error: E_va(t), at least `lowest`.
        lowest: E_opt(t), above 0.

    Example:
        >>> round(generalization_loss(1.1, 1.0), 6)
        10.0
    """
    return 100.0 * (error / lowest - 1.0)


def training_progress(strip: Sequence[float]) -> float:
    """P_k(t) = 1000 (sum E_tr / (k min E_tr) - 1): how far a strip's mean training error is above its lowest.

    Args:
        strip: E_tr of the last k validations, above 0.

    Example:
        >>> training_progress([1.5, 1.25, 1.0])
        250.0
    """
    return 1000.0 * (sum(strip) / (len(strip) * min(strip)) - 1.0)


def progress_quotient(loss: float, progress: float) -> float:
    """PQ(t) = GL(t) / P_k(t): the generalization loss for the training progress that it comes with.

    Args:
        loss: GL(t), at least 0.
        progress: P_k(t), at least 0. With 0, which is no progress, it is infinite if there is a loss, else 0.

    Example:
        >>> progress_quotient(generalization_loss(1.5, 1.0), training_progress([1.5, 1.25, 1.0]))
        0.2
    """
    if progress > 0.0:
        return loss / progress
    return math.inf if loss > 0.0 else 0.0


def successive_rises(errors: Sequence[float]) -> int:
    """UP: for how many strips in a row the error has risen; UP_s stops at s.

    Args:
        errors: E_va at the ends of all strips so far.

    Example:
        >>> successive_rises([1.0, 0.5, 0.6, 0.7])
        2
    """
    rises = 0
    for before, after in itertools.pairwise(errors):
        rises = rises + 1 if after > before else 0
    return rises


class Prechelt:
    """One of Prechelt's criteria, applied to one validation after the other.

    - "GL": GL(t) > alpha.
    - "PQ": at the end of a strip of k validations, GL(t) / P_k(t) > alpha.
    - "UP": at the end of s consecutive strips the error is above that of the strip before.
    - "patience": never; it is counted elsewhere.

    Args:
        criterion: Name of the criterion.
        alpha: Threshold of GL or PQ, above 0.
        strip: k, at least 1.
        successive: s of UP, at least 1.
        mode: Whether the value of UP should fall ("min") or rise ("max").

    Attributes:
        criterion, alpha, strip, successive, mode: As given; the owner sets them anew if its own have changed.
        quantities: The last quantity of the criterion, by name: "GL", "PQ" or "rises".

    Example:
        >>> criterion = Prechelt("UP", alpha=2.0, strip=1, successive=2)
        >>> [criterion.is_over(t, error) for t, error in enumerate([1.0, 0.5, 0.6, 0.7], 1)]
        [False, False, False, True]
        >>> criterion.quantities
        {'rises': 2.0}
        >>> criterion.reason
        'criterion UP reached: 2 >= successive = 2'
    """

    def __init__(
        self, criterion: Criterion, alpha: float, strip: int, successive: int, mode: Mode = "min"
    ) -> None:
        self.criterion, self.alpha, self.strip = criterion, alpha, strip
        self.successive, self.mode = successive, mode
        self.forget()

    def forget(self) -> None:
        """Start afresh."""
        self.quantities: dict[str, float] = {}
        self._train_errors: list[float] = []
        self._strip_end: float | None = None
        self._rises = 0

    @property
    def reason(self) -> str:
        """Why the run ends, once `is_over` has returned True."""
        value = next(iter(self.quantities.values()))
        is_up = self.criterion == "UP"
        bound = f">= successive = {self.successive}" if is_up else f"> alpha = {self.alpha:g}"
        return f"criterion {self.criterion} reached: {value:.4g} {bound}"

    def is_over(self, t: int, error: float, lowest: float = math.nan, train_error: float = math.nan) -> bool:
        """Return whether to stop after one more validation.

        Args:
            t: Number of validations, this one included.
            error: E_va(t).
            lowest: E_opt(t), above 0; for GL and PQ.
            train_error: E_tr(t), above 0; for PQ.
        """
        if self.criterion == "patience":
            return False
        end_of_strip = t % self.strip == 0
        if self.criterion == "UP":
            if not end_of_strip:
                return False
            last, self._strip_end = self._strip_end, error
            sign = 1.0 if self.mode == "min" else -1.0
            rises = last is not None and successive_rises([sign * last, sign * error]) == 1
            self._rises = self._rises + 1 if rises else 0
            self.quantities = {"rises": float(self._rises)}
            return self._rises >= self.successive
        loss = generalization_loss(error, lowest)
        if self.criterion == "GL":
            self.quantities = {"GL": loss}
            return loss > self.alpha
        self._train_errors = [*self._train_errors, train_error][-self.strip :]
        if not end_of_strip:
            return False
        progress = training_progress(self._train_errors)
        quotient = progress_quotient(loss, progress)
        self.quantities = {"PQ": quotient}
        return quotient > self.alpha

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next decisions depend on."""
        return {
            "train_errors": list(self._train_errors),
            "strip_end": self._strip_end,
            "rises": self._rises,
            "quantities": dict(self.quantities),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state; other keys are ignored."""
        self._train_errors = list(state_dict["train_errors"])
        self._strip_end, self._rises = state_dict["strip_end"], state_dict["rises"]
        self.quantities = dict(state_dict["quantities"])
