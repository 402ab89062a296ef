"""Line searches: how far to go in a direction d, by values of phi(t) = f(theta + t d).

Backtracking (L. Armijo, "Minimization of functions having Lipschitz continuous first partial derivatives",
1966) asks for enough descent; the strong Wolfe conditions ask for a flatter slope too, which keeps y^T s
positive in BFGS. The search for them is that of J. Nocedal, S. J. Wright, "Numerical Optimization", 2006,
algorithms 3.5 and 3.6.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

__all__ = ["Point", "armijo", "strong_wolfe"]


class Point(NamedTuple):
    """A point on the line.

    Attributes:
        step: t, a multiple of the direction.
        loss: phi(t).
        gradient: (n,), of f at theta + t d; empty if it was not asked for.
        slope: phi'(t) = gradient^T d; nan if it was not asked for.
    """

    step: float
    loss: float
    gradient: Tensor
    slope: float


Evaluate = Callable[[float], Point]


def armijo(
    evaluate: Evaluate,
    start: Point,
    step: float,
    *,
    c1: float = 1e-4,
    max_evaluations: int = 25,
    rounding: float = 0.0,
) -> Point:
    """Halve the step until phi(t) <= phi(0) + c1 * t * phi'(0).

    Args:
        evaluate: Maps t to the point; its gradient is not needed.
        start: The point at t = 0, with a slope below 0.
        step: The t to begin with.
        c1: Required share of the descent that the slope predicts, in (0, 1).
        max_evaluations: Most points to try.
        rounding: Error of phi, at least 0. Where the slope predicts a smaller descent than that over the
            whole step, values cannot decide, and a phi(t) higher by this much is accepted.

    Returns:
        The first such point; `start` if there is none.

    Example:
        >>> import torch
        >>> def parabola(t):
        ...     return Point(t, (t - 1.0) ** 2, torch.empty(0), 2.0 * (t - 1.0))
        >>> armijo(parabola, parabola(0.0), 4.0).step
        1.0
    """
    for _ in range(max_evaluations):
        point = evaluate(step)
        enough = c1 * step * start.slope
        if point.loss <= start.loss + (rounding if -step * start.slope <= rounding else enough):
            return point
        step *= 0.5
    return start


def strong_wolfe(
    evaluate: Evaluate,
    start: Point,
    step: float,
    *,
    c1: float = 1e-4,
    c2: float = 0.9,
    max_evaluations: int = 25,
) -> Point:
    """Find a t with phi(t) <= phi(0) + c1 * t * phi'(0) and |phi'(t)| <= c2 * |phi'(0)|.

    The step grows until an interval must contain such a t; that interval is then narrowed by the minimum of
    the cubic through values and slopes at its ends (their formula 3.59), kept a tenth off either end.

    Args:
        evaluate: Maps t to the point, with gradient and slope.
        start: The point at t = 0, with a slope below 0.
        step: The t to begin with.
        c1: Required share of the descent that the slope predicts, in (0, c2).
        c2: Share of the slope that may be left, in (c1, 1). The smaller, the more exact the search.
        max_evaluations: Most points to try.

    Returns:
        The point; if none was found, the lowest of those with enough descent; `start` if there is none.

    Example:
        >>> import torch
        >>> def parabola(t):
        ...     return Point(t, (t - 1.0) ** 2, torch.empty(0), 2.0 * (t - 1.0))
        >>> strong_wolfe(parabola, parabola(0.0), 4.0, c2=0.1).step
        1.0
    """
    low, left = start, max_evaluations
    high: Point | None = None
    while left > 0 and high is None:  # algorithm 3.5
        left -= 1
        point = evaluate(step)
        if not _enough(point, start, c1) or (low.step > 0.0 and point.loss >= low.loss):
            high = point
        elif abs(point.slope) <= -c2 * start.slope:
            return point
        elif point.slope >= 0.0:
            low, high = point, low
        else:
            # To where the slope would be 0 if it kept changing as it did; but 2 to 10 times as far as now.
            further = _cubic_minimum(low, point)
            low, step = point, 2.0 * step
            if math.isfinite(further):
                step = min(max(further, step), 5.0 * step)
    while left > 0 and high is not None:  # algorithm 3.6
        left -= 1
        width = abs(high.step - low.step)
        if not width > 1e-14 * max(low.step, high.step):
            break
        inner, outer = sorted((low.step, high.step))
        t = _cubic_minimum(low, high)
        t = min(max(t, inner + 0.1 * width), outer - 0.1 * width) if math.isfinite(t) else (inner + outer) / 2
        point = evaluate(t)
        if not _enough(point, start, c1) or point.loss >= low.loss:
            high = point
        else:
            if abs(point.slope) <= -c2 * start.slope:
                return point
            if point.slope * (high.step - low.step) >= 0.0:
                high = low
            low = point
    return low


def _enough(point: Point, start: Point, c1: float) -> bool:
    return point.loss <= start.loss + c1 * point.step * start.slope  # false for nan


def _cubic_minimum(a: Point, b: Point) -> float:
    """Minimum of the cubic through two points with their slopes; nan if there is none."""
    if not (math.isfinite(b.loss) and math.isfinite(b.slope)):
        return float("nan")
    sign = math.copysign(1.0, b.step - a.step)
    d1 = a.slope + b.slope - 3.0 * (a.loss - b.loss) / (a.step - b.step)
    square = d1**2 - a.slope * b.slope
    if not square >= 0.0:
        return float("nan")
    d2 = sign * math.sqrt(square)
    denominator = b.slope - a.slope + 2.0 * d2
    if denominator == 0.0:
        return float("nan")
    return b.step - (b.step - a.step) * (b.slope + d2 - d1) / denominator
