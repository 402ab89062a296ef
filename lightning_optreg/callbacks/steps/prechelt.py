"""Prechelt's criteria for early stopping: when the validation error has risen enough to stop.

Prechelt 1998, "Early stopping - but when?" (in: Neural networks: tricks of the trade, LNCS 1524). E_va(t) is
the validation error after t validations, E_opt(t) the lowest so far, E_tr(t) the training error.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal

Criterion = Literal["patience", "GL", "PQ", "UP"]

__all__ = ["Criterion", "Prechelt", "generalization_loss", "training_progress"]


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
    """P_k(t) = 1000 (sum E_tr / (k min E_tr) - 1): how far a strip's mean training error is above its least.

    Args:
        strip: E_tr of the last k validations, above 0.

    Example:
        >>> training_progress([1.5, 1.25, 1.0])
        250.0
    """
    return 1000.0 * (sum(strip) / (len(strip) * min(strip)) - 1.0)


class Prechelt:
    """One of Prechelt's criteria, applied to one validation after the other.

    - "GL": GL(t) > alpha.
    - "PQ": at the end of a strip of k validations, GL(t) / P_k(t) > alpha.
    - "UP": at the end of s strips in succession the error is above that of the one before.
    - "patience": never; others count.

    Args:
        criterion: Which.
        alpha: Threshold of GL or PQ, above 0.
        strip: k, at least 1.
        successive: s of UP, at least 1.
        mode: Whether the value of UP is an error ("min") or should rise ("max").

    Attributes:
        quantities: What the criterion looked at last, by name: "GL", "PQ" or "rises".

    Example:
        >>> criterion = Prechelt("UP", strip=1, successive=2)
        >>> [criterion.is_over(t, error) for t, error in enumerate([1.0, 0.5, 0.6, 0.7], 1)]
        [False, False, False, True]
        >>> criterion.quantities
        {'rises': 2.0}
    """

    def __init__(
        self,
        criterion: Criterion,
        alpha: float = 2.0,
        strip: int = 5,
        successive: int = 3,
        mode: Literal["min", "max"] = "min",
    ) -> None:
        self._criterion, self._alpha, self._strip = criterion, alpha, strip
        self._successive, self._mode = successive, mode
        self.forget()

    def forget(self) -> None:
        """Begin anew."""
        self.quantities: dict[str, float] = {}
        self._train_errors: list[float] = []
        self._strip_end: float | None = None
        self._rises = 0

    def is_over(self, t: int, error: float, lowest: float = math.nan, train_error: float = math.nan) -> bool:
        """Return whether to stop after one more validation.

        Args:
            t: Number of validations, this one included.
            error: E_va(t).
            lowest: E_opt(t), above 0; for GL and PQ.
            train_error: E_tr(t), above 0; for PQ.
        """
        if self._criterion == "patience":
            return False
        end_of_strip = t % self._strip == 0
        if self._criterion == "UP":
            if not end_of_strip:
                return False
            last, self._strip_end = self._strip_end, error
            rises = last is not None and (error > last if self._mode == "min" else error < last)
            self._rises = self._rises + 1 if rises else 0
            self.quantities = {"rises": float(self._rises)}
            return self._rises >= self._successive
        loss = generalization_loss(error, lowest)
        if self._criterion == "GL":
            self.quantities = {"GL": loss}
            return loss > self._alpha
        self._train_errors = [*self._train_errors, train_error][-self._strip :]
        if not end_of_strip:
            return False
        progress = training_progress(self._train_errors)
        quotient = loss / progress if progress > 0.0 else (math.inf if loss > 0.0 else 0.0)
        self.quantities = {"PQ": quotient}
        return quotient > self._alpha

    def state_dict(self) -> dict[str, Any]:
        """Return what the next decisions depend on."""
        return {
            "train_errors": list(self._train_errors),
            "strip_end": self._strip_end,
            "rises": self._rises,
            "quantities": dict(self.quantities),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore such a state; other keys are left alone."""
        self._train_errors = list(state_dict["train_errors"])
        self._strip_end, self._rises = state_dict["strip_end"], state_dict["rises"]
        self.quantities = dict(state_dict["quantities"])
