"""The privacy that a run has spent and may still spend, by one of Opacus's accountants."""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException

from lightning_optreg.callbacks.privacy._opacus import opacus

__all__ = ["Budget"]

History = list[tuple[float, float, int]]

_POINTS = 2**21
"""Most points of the PRV accountant's grid: about five seconds."""
_MOST_NOISE = 1e6


class Budget:
    """Counts steps, each with its noise and its sampling rate, and computes their epsilon.

    Args:
        mechanism: Name of the accountant, `prv`, `rdp` or `gdp`.
        delta: Probability with which epsilon need not hold.
        history: Noise multiplier, sampling rate and number of steps of each phase so far.
        owner: Name of the calling class, for the errors.

    Example:
        >>> budget = Budget("rdp", 1e-5, [(1.0, 0.01, 1000)], "DifferentialPrivacy")
        >>> round(budget.epsilon, 2)
        2.1
        >>> budget.steps_left(2.5, 1.0, 0.01, most=10_000)
        497
    """

    def __init__(self, mechanism: str, delta: float, history: History, owner: str) -> None:
        self.delta, self._owner = delta, owner
        # That of the GDP warns that it may underestimate.
        self.accountant = opacus("accountants", owner).create_accountant(mechanism=mechanism)
        self.accountant.history = [tuple(phase) for phase in history]
        self._known: tuple[History, float] = ([], 0.0)

    @property
    def history(self) -> History:
        """Noise multiplier, sampling rate and number of steps of each phase so far."""
        return list(self.accountant.history)

    @property
    def epsilon(self) -> float:
        """Epsilon of all steps so far; infinite if one had no noise."""
        history = self.history
        if self._known[0] != history:
            self._known = history, self._epsilon_of(history)
        return self._known[1]

    def after(self, noise: float, rate: float, steps: int) -> float:
        """Return epsilon after further steps.

        Args:
            noise: Their noise multiplier.
            rate: Their sampling rate.
            steps: Their number.
        """
        history = self.history
        if history and history[-1][:2] == (noise, rate):
            steps += history.pop()[2]
        return self._epsilon_of([*history, (noise, rate, steps)])

    def _epsilon_of(self, history: History) -> float:
        history = [phase for phase in history if phase[2] > 0]
        if not history:
            return 0.0
        if any(noise == 0.0 for noise, _, _ in history):
            return math.inf
        counting = type(self.accountant)()
        counting.history = history
        with _without_harmless_warnings():
            if counting.mechanism() != "prv":
                return float(counting.get_epsilon(delta=self.delta))
            renyi: Any = opacus("accountants", self._owner).RDPAccountant()
            renyi.history = history
            # The range of the grid and the distance of its points, as PRV chooses them (Gopi et al. 2021,
            # remark 5.6), for errors of its default of 0.01 in epsilon and of a thousandth in delta.
            wide = renyi.get_epsilon(delta=self.delta / 4000) + 3.0
            steps = sum(count for _, _, count in history)
            points = 2.0 * wide * math.sqrt(steps * math.log(12_000 / self.delta) / 2.0) / 0.01
            error = 0.01 * max(1.0, points / _POINTS)
            if error > 0.01:
                bound = float(renyi.get_epsilon(delta=self.delta))
                # Beyond 700, e to its power overflows.
                if error > 0.01 * bound or wide > 700.0:
                    return bound
            return float(counting.get_epsilon(delta=self.delta, eps_error=error))

    def noise_for(self, target: float, rate: float, steps: int) -> float:
        """Return the smallest noise multiplier whose steps cost at most a target.

        Epsilon is then within 0.01 of it, or a thousandth if that is more. The search is that of Opacus's
        `get_noise_multiplier`, whose accountant may take minutes for little noise.

        Args:
            target: Epsilon after all steps.
            rate: Sampling rate.
            steps: Number of steps.

        Raises:
            MisconfigurationException: If no noise is large enough.
        """
        low, high = 0.0, 20.0
        while (cost := self._epsilon_of([(high, rate, steps)])) > target:
            high *= 2
            if high > _MOST_NOISE:
                raise MisconfigurationException(
                    f"{self._owner}: no noise keeps epsilon at {target} for {steps} steps with delta "
                    f"{self.delta:.3g}: raise target_epsilon, or make fewer steps"
                )
        while target - cost > max(0.01, target / 1000) and high - low > 1e-6 * high:
            middle = (low + high) / 2
            between = self._epsilon_of([(middle, rate, steps)])
            if between < target:
                high, cost = middle, between
            else:
                low = middle
        return high

    def steps_left(self, target: float, noise: float, rate: float, most: float) -> float:
        """Return how many further steps keep epsilon at most at a target.

        Args:
            target: Epsilon.
            noise: Noise multiplier of the steps.
            rate: Their sampling rate.
            most: Steps of the run that are left; may be infinite.

        Returns:
            The number, at most `most`.
        """
        if noise == 0.0:
            return 0
        low, high = 0, 1
        if most < math.inf:
            if self.after(noise, rate, int(most)) <= target:
                return most
            high = int(most)
        else:
            while self.after(noise, rate, high) <= target:
                low, high = high, 2 * high
        while low + 1 < high:
            middle = (low + high) // 2
            low, high = (middle, high) if self.after(noise, rate, middle) <= target else (low, middle)
        return low


@contextmanager
def _without_harmless_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        # RDP says so if the best order is at the end of its range: the bound holds, but is not tight.
        warnings.filterwarnings("ignore", "Optimal order is the")
        warnings.filterwarnings("ignore", "divide by zero encountered in log")  # PRV, at a sampling rate of 1
        warnings.filterwarnings("ignore", "GDP accounting is experimental")  # said once, in `Budget`
        yield
