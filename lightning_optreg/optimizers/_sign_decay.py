"""Internal decays of PowerSign and AddSign: how much, after t steps, agreement of the signs still matters.

Bello, Zoph, Vasudevan and Le 2017, "Neural Optimizer Search with Reinforcement Learning" (arXiv:1709.07417),
and its authors' sign_decay.py in tensorflow.contrib.opt. They are not learning rate schedules, which may be
used beside them.
"""

import math
from typing import Literal

__all__ = ["Decay", "cosine_decay", "linear_decay", "restart_decay", "sign_decay"]

Decay = Literal["none", "linear", "cosine", "restart"]


def linear_decay(t: float, total: float) -> float:
    """Return f(t) = max(0, (T - t) / T).

    Args:
        t: Steps made so far, 0 in the first.
        total: T, at least 1.

    Example:
        >>> linear_decay(25, 100), linear_decay(200, 100)
        (0.75, 0.0)
    """
    return max(0.0, (total - t) / total)


def cosine_decay(t: float, total: float, periods: float = 0.5) -> float:
    """Return f(t) = (1 + cos(2 pi n t / T)) / 2; it continues beyond T, and rises again there if n is 0.5.

    Args:
        t: Steps made so far, 0 in the first.
        total: T, at least 1.
        periods: n, periods of the cosine in T steps.

    Example:
        >>> cosine_decay(0, 100), round(cosine_decay(50, 100), 9), cosine_decay(100, 100)
        (1.0, 0.5, 0.0)
    """
    return 0.5 * (1.0 + math.cos(2.0 * math.pi * periods * t / total))


def restart_decay(t: float, total: float, periods: float = 1.0) -> float:
    """Return f(t) = (1 + cos(pi ((n t) mod T) / T)) / 2, which falls to 0 n times in T steps.

    Args:
        t: Steps made so far, 0 in the first.
        total: T, at least 1.
        periods: n.

    Example:
        >>> [round(restart_decay(t, 100, 2), 3) for t in (0, 25, 49, 50)]
        [1.0, 0.5, 0.001, 1.0]
    """
    return 0.5 * (1.0 + math.cos(math.pi * ((periods * t) % total) / total))


def sign_decay(decay: Decay, t: float, total: float | None, periods: float | None = None) -> float:
    """Return f(t) of the decay of this name.

    Args:
        decay: "none" is f = 1.
        t: Steps made so far, 0 in the first.
        total: T; unused by "none".
        periods: n of "cosine" and "restart". None: 0.5 and 1.

    Raises:
        ValueError: If `decay` is unknown, or needs a T and has none.

    Example:
        >>> sign_decay("none", 7, None), sign_decay("linear", 7, 10)
        (1.0, 0.3)
    """
    if decay == "none":
        return 1.0
    if total is None:
        raise ValueError(f"sign_decay: total must be given with decay={decay!r}, got None")
    if decay == "linear":
        return linear_decay(t, total)
    if decay == "cosine":
        return cosine_decay(t, total, 0.5 if periods is None else periods)
    if decay == "restart":
        return restart_decay(t, total, 1.0 if periods is None else periods)
    raise ValueError(f"sign_decay: decay must be none, linear, cosine or restart, got {decay!r}")
