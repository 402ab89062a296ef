"""A cosine that falls from 1 to 0 several times in a run: the rate of snapshot ensembles.

Huang, Li, Pleiss, Liu, Hopcroft, Weinberger 2017, "Snapshot ensembles: train 1, get M for free"
(arXiv:1704.00109), equation 2.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence

__all__ = ["cosine_factor", "cycle_ends"]


def cycle_ends(total_steps: int, cycles: int) -> list[int]:
    """Return the steps after which the cycles end: ceil(k T / M) for k = 1, ..., M.

    Args:
        total_steps: T, at least `cycles`.
        cycles: M, at least 1.

    Example:
        >>> cycle_ends(10, 3)
        [4, 7, 10]
    """
    return [-(-k * total_steps // cycles) for k in range(1, cycles + 1)]


def cosine_factor(step: int, ends: Sequence[int]) -> float:
    """Factor of the rate in a step: 1/2 (cos(pi s / C) + 1), s steps into a cycle of length C.

    With cycles of one length C it is the paper's alpha(t) = alpha_0 / 2 (cos(pi mod(t - 1, C) / C) + 1), t
    counted from 1. In the authors' code the last cycle begins in its middle if M does not divide T.

    Args:
        step: Steps made before, at least 0.
        ends: See `cycle_ends`; after the last one the factor stays at 0.

    Example:
        >>> [round(cosine_factor(step, [2, 4]), 2) for step in range(5)]
        [1.0, 0.5, 1.0, 0.5, 0.0]
    """
    cycle = bisect_right(ends, step)
    if cycle == len(ends):
        return 0.0
    begin = ends[cycle - 1] if cycle > 0 else 0
    return 0.5 * (math.cos(math.pi * (step - begin) / (ends[cycle] - begin)) + 1.0)
