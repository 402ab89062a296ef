"""How far a method's iterates are from its differential equations, and how that changes with the step."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lightning_optreg.analysis.odes import Method, Problem, Resolution, Velocity, iterates, solve_ode

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

__all__ = ["Dynamics", "compute_dynamics", "deviation", "fitted_order"]

_TITLES: dict[Method, str] = {"heavy_ball": "heavy ball", "nag_sc": "NAG-SC", "nag_c": "NAG-C"}


@dataclass(frozen=True)
class Dynamics:
    """A method beside its equations.

    Args:
        title: The method's name.
        step: s.
        times: k sqrt(s) of the iterates: (n,).
        iterates: x_k: (n, 2).
        gaps: f(x_k) - f*: (n,).
        curve_times: Times of the solutions: (m,).
        curves: X at these times, (m, 2), by resolution, `low` and `high`.
        curve_gaps: f(X) - f*, (m,), by resolution.
        steps: Steps s at which deviations were measured.
        deviations: max_k |x_k - X(k sqrt(s))| at these steps, by the equation's name.
    """

    title: str
    step: float
    times: "Array"
    iterates: "Array"
    gaps: "Array"
    curve_times: "Array"
    curves: Mapping[Resolution, "Array"]
    curve_gaps: Mapping[Resolution, "Array"]
    steps: Sequence[float]
    deviations: Mapping[str, Sequence[float]]


def compute_dynamics(
    problem: Problem, method: Method, step: float, time: float, steps: Sequence[float]
) -> Dynamics:
    """Run a method, solve its equations, and measure their distance for each of several steps.

    Args:
        problem: A quadratic of two variables.
        method: Which method.
        step: s of the curves.
        time: How long, in the equations' time k sqrt(s).
        steps: s of the deviations.

    Returns:
        What `lightning_optreg.figures.draw_dynamics` draws.

    Example:
        >>> problem = Problem((0.1, 2.0), (1.0, 1.0))
        >>> dynamics = compute_dynamics(problem, "nag_c", step=0.01, time=1.0, steps=[0.01])
        >>> dynamics.iterates.shape
        (11, 2)
        >>> {name: round(values[0], 3) for name, values in dynamics.deviations.items()}
        {'low resolution': 0.132, 'high resolution': 0.002}
    """
    import numpy as np

    count = _count(step, time)
    points = iterates(problem, method, step, count)
    times = np.arange(count + 1, dtype=np.float64) * math.sqrt(step)
    curve_times = np.linspace(0.0, times[-1], 600)
    resolutions: tuple[Resolution, ...] = ("low", "high")
    curves = {kind: solve_ode(problem, method, step, curve_times, resolution=kind) for kind in resolutions}
    equations: dict[str, tuple[Method, Resolution, Velocity]] = {"low resolution": (method, "low", "paper")}
    if method == "nag_c":
        equations["high resolution"] = (method, "high", "paper")
    else:
        other: Method = "nag_sc" if method == "heavy_ball" else "heavy_ball"
        equations[f"high resolution of {_TITLES[other]}"] = (other, "high", "matched")
        equations["high resolution"] = (method, "high", "paper")
        equations["same, velocity matched"] = (method, "high", "matched")
    return Dynamics(
        title=_TITLES[method],
        step=step,
        times=times,
        iterates=points,
        gaps=problem.gap(points),
        curve_times=curve_times,
        curves=curves,
        curve_gaps={kind: problem.gap(curve) for kind, curve in curves.items()},
        steps=tuple(steps),
        deviations={
            name: tuple(
                deviation(problem, method, s, time, equation=whose, resolution=kind, velocity=velocity)
                for s in steps
            )
            for name, (whose, kind, velocity) in equations.items()
        },
    )


def deviation(
    problem: Problem,
    method: Method,
    step: float,
    time: float,
    *,
    equation: Method,
    resolution: Resolution,
    velocity: Velocity = "paper",
) -> float:
    """The largest distance max_k |x_k - X(k sqrt(s))| up to a time.

    Args:
        problem: The quadratic.
        method: Whose iterates.
        step: s.
        time: k sqrt(s) goes up to this.
        equation: Whose equation.
        resolution: Which of them.
        velocity: The equation's initial velocity, as `solve_ode` takes it.

    Example:
        >>> problem = Problem((0.1, 2.0), (1.0, 1.0))
        >>> low = deviation(problem, "nag_sc", 0.01, 5.0, equation="nag_sc", resolution="low")
        >>> high = deviation(problem, "nag_sc", 0.01, 5.0, equation="nag_sc", resolution="high")
        >>> round(low, 2), round(high, 2)
        (0.13, 0.04)
    """
    import numpy as np

    count = _count(step, time)
    times = np.arange(count + 1, dtype=np.float64) * math.sqrt(step)
    solution = solve_ode(problem, equation, step, times, resolution=resolution, velocity=velocity)
    distances = np.linalg.norm(iterates(problem, method, step, count) - solution, axis=1)
    return float(distances.max())


def fitted_order(steps: Sequence[float], deviations: Sequence[float]) -> float:
    """The p of the power law c s^p nearest to deviations at the smaller half of the steps.

    Args:
        steps: s, at least two, in any order.
        deviations: Of the same length, > 0.

    Example:
        >>> fitted_order([1.0, 0.1, 0.01, 0.001], [9.0, 0.3, 0.03, 0.003])
        1.0
    """
    import numpy as np

    pairs = sorted(zip(steps, deviations, strict=True))[: max(2, (len(steps) + 1) // 2)]
    log_s, log_d = np.log(np.asarray(pairs, dtype=np.float64)).T
    slope = np.polyfit(log_s, log_d, 1)[0]
    return round(float(slope), 6)


def _count(step: float, time: float) -> int:
    return max(1, math.floor(time / math.sqrt(step) + 1e-9))
