"""Cosine annealing in cycles, for snapshot ensembles."""

import math

from torch.optim import Optimizer
from typing_extensions import override

from lightning_optreg._checks import check_range
from lightning_optreg.schedulers.cosine_cycles import cosine_factor, cycle_ends
from lightning_optreg.schedulers.factor_schedule import FactorSchedule

__all__ = ["SnapshotCosine"]


class SnapshotCosine(FactorSchedule):
    """Cosine annealing in M cycles: eta_t = eta_0 / 2 (cos(pi s / C) + 1), s steps into a cycle of C.

    Step it every iteration (`lr_interval: step`), as in the paper: the first of a cycle has the full rate,
    the last is near 0, and there a snapshot of the weights is taken (`is_cycle_end`). Cycle k ends with
    iteration ceil(k T / M): there are M, and where M does not divide T they differ by one iteration at most.
    (The paper's cycles have length ceil(T / M), so there are fewer than M for many T: 3 rather than 4 for
    T = 9.)
    torch's `CosineAnnealingWarmRestarts` has the same cosine, but you compute the length of the cycles.

    Args:
        optimizer: Its learning rates are scheduled; eta_0 is the present rate of each group.
        total_steps: Total number of iterations T, at least `cycles`. `ImageClassifier` fills in the run's.
        cycles: Number of cycles M, at least 1. Default: 5.

    Raises:
        ValueError: If a value is out of range.

    Source:
        Huang, Li, Pleiss, Liu, Hopcroft and Weinberger 2017, "Snapshot ensembles: train 1, get M for free"
        (arXiv:1704.00109), equation 2, whose t counts from 1, where M divides T.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
        >>> schedule, rates = SnapshotCosine(optimizer, total_steps=6, cycles=2), []
        >>> for _ in range(6):
        ...     rates.append(round(schedule.get_last_lr()[0], 2))
        ...     optimizer.step()
        ...     schedule.step()
        >>> rates
        [1.0, 0.75, 0.25, 1.0, 0.75, 0.25]
    """

    def __init__(self, optimizer: Optimizer, total_steps: int | None = None, cycles: int = 5) -> None:
        check_range("SnapshotCosine", ">= 1", cycles=cycles)
        if total_steps is None:
            raise ValueError("SnapshotCosine: total_steps must be given outside of ImageClassifier, got None")
        if not total_steps >= cycles:
            raise ValueError(f"SnapshotCosine: total_steps must be >= cycles ({cycles}), got {total_steps}")
        self.total_steps, self.cycles = total_steps, cycles
        super().__init__(optimizer)

    @property
    def cycle_steps(self) -> int:
        """Iterations of the longest cycle, ceil(T / M)."""
        return math.ceil(self.total_steps / self.cycles)

    def is_cycle_end(self, steps: int) -> bool:
        """Return whether a cycle is complete after a number of iterations.

        Args:
            steps: Iterations made, at least 1.
        """
        return (steps - 1) % self.total_steps + 1 in cycle_ends(self.total_steps, self.cycles)

    @override
    def multiple(self, time: int) -> float:
        """Return the multiple of eta_0 at a time; beyond T the cycles repeat."""
        return cosine_factor(time % self.total_steps, cycle_ends(self.total_steps, self.cycles))

    @override
    def rises(self, time: int) -> bool:
        """Return True: another cycle follows."""
        return True
