"""Accelerated methods on a quadratic, and their differential equations.

Heavy ball, NAG-SC and NAG-C with step s are near solutions X(k sqrt(s)) of equations of second order. As s
goes to 0, heavy ball and NAG-SC have the same limit, the low-resolution equation; the high-resolution ones
keep terms of order sqrt(s) and differ by NAG's gradient correction sqrt(s) Hess f(X) X'. Shi, Du, Jordan and
Su 2018, "Understanding the acceleration phenomenon via high-resolution differential equations",
arXiv:1810.08907.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch.optim import Optimizer

from lightning_optreg.optimizers import HeavyBall, NAGConvex, NAGStronglyConvex

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

__all__ = ["Method", "Problem", "Resolution", "Velocity", "first_time", "iterates", "solve_ode"]

Method = Literal["heavy_ball", "nag_sc", "nag_c"]
Resolution = Literal["low", "high"]
Velocity = Literal["paper", "matched"]


@dataclass(frozen=True)
class Problem:
    """f(x) = 1/2 sum_i lambda_i x_i^2, and where the methods start on it.

    Args:
        eigenvalues: lambda_i, > 0; mu is the smallest.
        start: x_0, of the same length.

    Raises:
        ValueError: If an eigenvalue or a coordinate is out of range, or the lengths differ.

    Example:
        >>> problem = Problem((0.1, 2.0), (1.0, 1.0))
        >>> problem.mu
        0.1
    """

    eigenvalues: tuple[float, ...]
    start: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.eigenvalues) != len(self.start) or not self.start:
            raise ValueError(f"Problem: {self.eigenvalues} and {self.start} must have one length, >= 1")
        if not all(0.0 < value < math.inf for value in self.eigenvalues):
            raise ValueError(f"Problem: eigenvalues must be in (0, inf), got {self.eigenvalues}")
        if not all(map(math.isfinite, self.start)):
            raise ValueError(f"Problem: start must be finite, got {self.start}")

    @property
    def mu(self) -> float:
        """The strong convexity: the smallest eigenvalue."""
        return min(self.eigenvalues)

    def gap(self, points: "Array") -> "Array":
        """How far f is above its minimum at points (n, d); of shape (n,)."""
        import numpy as np

        return np.asarray(0.5 * (np.asarray(self.eigenvalues) * points**2).sum(axis=1))


def iterates(problem: Problem, method: Method, step: float, count: int) -> "Array":
    """Run a method, in float64, with this package's optimizer.

    With a = (1 - sqrt(mu s)) / (1 + sqrt(mu s)) and x_1 = x_0 - 2 s grad f(x_0) / (1 + sqrt(mu s)):

        heavy ball  x_{k+1} = x_k + a (x_k - x_{k-1}) - s grad f(x_k)
        NAG-SC      x_{k+1} = x_k + a (x_k - x_{k-1}) - s grad f(x_k) - a s (grad f(x_k) - grad f(x_{k-1}))

    NAG-C: y_{k+1} = x_k - s grad f(x_k), x_{k+1} = y_{k+1} + k/(k+3) (y_{k+1} - y_k), y_0 = x_0.

    Args:
        problem: The quadratic.
        method: Which method.
        step: s, in (0, 1/mu].
        count: Number of steps, >= 0.

    Returns:
        x_0, ..., x_count: (count + 1, d).

    Example:
        >>> iterates(Problem((0.5, 1.0), (1.0, 4.0)), "nag_c", step=0.5, count=2)
        array([[1.      , 4.      ],
               [0.75    , 2.      ],
               [0.515625, 0.75    ]])
    """
    import numpy as np

    x = torch.tensor(problem.start, dtype=torch.float64, requires_grad=True)
    eigenvalues = torch.tensor(problem.eigenvalues, dtype=torch.float64)
    root = math.sqrt(problem.mu * step)
    optimizer: Optimizer
    if method == "heavy_ball":  # its first step, without a past, is the longer one
        optimizer = HeavyBall([x], lr=2 * step / (1 + root), momentum=max((1 - root) / (1 + root), 0.0))
    elif method == "nag_sc":
        optimizer = NAGStronglyConvex([x], lr=step, mu=problem.mu)
    else:
        optimizer = NAGConvex([x], lr=step)
    points = [x.detach().clone()]
    for _ in range(count):
        x.grad = eigenvalues * x.detach()
        optimizer.step()
        optimizer.param_groups[0]["lr"] = step
        points.append(x.detach().clone())
    return np.asarray(torch.stack(points).numpy())


def first_time(method: Method, step: float, resolution: Resolution) -> float:
    """The time of x_0: 0, but 3 sqrt(s) / 2 in NAG-C's high-resolution equation; x_k is k sqrt(s) later.

    Example:
        >>> first_time("nag_c", 0.04, "high")
        0.30000000000000004
    """
    return 1.5 * math.sqrt(step) if method == "nag_c" and resolution == "high" else 0.0


def solve_ode(
    problem: Problem,
    method: Method,
    step: float,
    times: "Array",
    *,
    resolution: Resolution,
    velocity: Velocity = "paper",
) -> "Array":
    """Solve a method's differential equation, with SciPy's DOP853 at a relative tolerance of 1e-11.

    Low resolution, with X'(0) = 0:

        heavy ball, NAG-SC  X'' + 2 sqrt(mu) X' + grad f(X) = 0
        NAG-C               X'' + 3/t X' + grad f(X) = 0

    High resolution:

        heavy ball  X'' + 2 sqrt(mu) X' + (1 + sqrt(mu s)) grad f(X) = 0
        NAG-SC      X'' + 2 sqrt(mu) X' + sqrt(s) Hess f(X) X' + (1 + sqrt(mu s)) grad f(X) = 0
        NAG-C       X'' + 3/t X' + sqrt(s) Hess f(X) X' + (1 + 3 sqrt(s)/(2 t)) grad f(X) = 0

    with X'(0) = -2 sqrt(s) grad f(x_0) / (1 + sqrt(mu s)); NAG-C: X'(3 sqrt(s)/2) = -sqrt(s) grad f(x_0).

    The first of these initial velocities, the paper's, is that of the middle of the first step, half a step
    late: heavy ball and NAG-SC then keep a distance of order sqrt(s) from their equations. The matched
    velocity takes that half step back, X'(0) + sqrt(s)/2 grad f(x_0), and leaves a distance of order s.
    NAG-C's velocity needs no such change.

    Args:
        problem: The quadratic.
        method: Whose equation.
        step: s > 0, which the high-resolution equations contain.
        times: Times (n,) since x_0, increasing, the first of them 0.
        resolution: "low" or "high".
        velocity: "paper" or "matched", of the high-resolution equations.

    Returns:
        X at these times: (n, d).

    Raises:
        RuntimeError: If the solver fails.

    Example:
        >>> problem = Problem((1.0,), (2.0,))  # X'' + 2 X' + X = 0, so X = 2 (1 + t) exp(-t)
        >>> solve_ode(problem, "nag_sc", 0.01, [0.0, 1.0, 2.0], resolution="low").round(4)
        array([[2.    ],
               [1.4715],
               [0.812 ]])
    """
    import numpy as np
    from scipy.integrate import solve_ivp

    eigenvalues, x_0 = np.asarray(problem.eigenvalues), np.asarray(problem.start)
    high = resolution == "high"
    root_s, root_mu = math.sqrt(step), math.sqrt(problem.mu)
    gradient_0 = eigenvalues * x_0
    v_0 = np.zeros_like(x_0)
    if high and method == "nag_c":
        v_0 = -root_s * gradient_0
    elif high:
        v_0 = -2 * root_s * gradient_0 / (1 + root_mu * root_s)
        if velocity == "matched":
            v_0 = v_0 + root_s / 2 * gradient_0
    correction = root_s * eigenvalues if high and method != "heavy_ball" else 0.0 * eigenvalues

    def derivative(t: float, state: "Array") -> "Array":
        x, v = np.split(state, 2)
        gradient = eigenvalues * x
        if method == "nag_c":
            if t == 0.0:  # 3/t X' tends to 3 X'', so that X''(0) = -grad f(x_0) / 4
                return np.concatenate([v, -gradient / 4])
            friction, pull = 3 / t, 1 + (1.5 * root_s / t if high else 0.0)
        else:
            friction, pull = 2 * root_mu, 1 + (root_mu * root_s if high else 0.0)
        return np.concatenate([v, -friction * v - correction * v - pull * gradient])

    t = first_time(method, step, resolution) + np.asarray(times)
    start = np.concatenate([x_0, v_0])
    solution = solve_ivp(derivative, (t[0], t[-1]), start, "DOP853", t_eval=t, rtol=1e-11, atol=1e-13)
    if not solution.success:
        raise RuntimeError(f"solve_ode: {solution.message}")
    return np.asarray(solution.y[: len(x_0)].T)
