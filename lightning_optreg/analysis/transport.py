"""The transport equation of a residual network, and its solution by the Feynman-Kac formula.

A residual network x_{l+1} = x_l + dt F(x_l, W_l) is Euler's scheme for dx/dt = F(x, W(t)), and its output
f(x(1)), as a function u(x, 0) of the input, solves a transport equation backwards from u(x, 1) = f(x). Noise
in each layer adds diffusion to it:

    u_t + F(x, W(t)) . grad u + 1/2 sigma^2 Laplace u = 0,  u(x, 1) = f(x),  0 <= t <= 1.

Feynman-Kac: u(x, 0) = E[f(x(1)) | x(0) = x] with dx = F dt + sigma dB. Wang, Yuan, Shi, Osher, "ResNets
ensemble via the Feynman-Kac formalism to improve natural and robust accuracies", 2019 (arXiv:1811.10745).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_optreg._checks import check_range

__all__ = ["TransportProblem", "check_steps", "euler", "feynman_kac"]

_PARTICLES = 2**15  # that move together: their coordinates and hidden units stay in the processor's cache


@dataclass(frozen=True)
class TransportProblem:
    """A vector field F and a terminal function f in the plane.

    Args:
        name: Its name on the command line.
        field: F(x, t) of points (..., 2) and a time in [0, 1]; (..., 2).
        terminal: f(x) of points (..., 2); (...).
        pieces: F is constant in t on each of so many equal parts of [0, 1], as that of a network with so many
            layers; it is evaluated in their middles only. A field that changes smoothly is thereby replaced
            by steps, with an error of order 1 / pieces^2. At least 1. Default: 1, a field that does not
            depend on t.
        formula: F and f in TeX, for a figure's title. Default: none.

    Raises:
        ValueError: If pieces is less than 1.

    Example:
        >>> problem = TransportProblem("shift", lambda x, t: torch.ones_like(x), lambda x: x[..., 0])
        >>> problem.field(torch.zeros(1, 2), 0.5)
        tensor([[1., 1.]])
    """

    name: str
    field: Callable[[Tensor, float], Tensor]
    terminal: Callable[[Tensor], Tensor]
    pieces: int = 1
    formula: str = ""

    def __post_init__(self) -> None:
        check_range("TransportProblem", ">= 1", pieces=self.pieces)

    def time(self, step: int, steps: int) -> float:
        """The time at which F is evaluated in a step: the middle of its part of [0, 1].

        Args:
            step: The step's number, from 0.
            steps: Number of steps in [0, 1], a multiple of `pieces`.
        """
        return (step * self.pieces // steps + 0.5) / self.pieces


def check_steps(owner: str, problem: TransportProblem, steps: int) -> None:
    """Refuse steps that would cross a jump of F in t.

    Args:
        owner: The function whose argument it is, for the message.
        problem: The problem.
        steps: Number of steps in [0, 1].

    Raises:
        ValueError: If it is not a multiple of the problem's pieces, or less than 1.
    """
    check_range(owner, ">= 1", steps=steps)
    if steps % problem.pieces:
        raise ValueError(
            f"{owner}: steps must be a multiple of {problem.pieces}, the parts in which {problem.name} is "
            f"constant in t, got {steps}"
        )


@torch.no_grad()
def feynman_kac(
    problem: TransportProblem,
    points: Tensor,
    sigma: float,
    *,
    paths: int = 1000,
    steps: int = 40,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """Solve for u(x, 0) by the Monte Carlo method: the mean of f(x(1)) over noisy paths from x.

    The paths are those of the Euler-Maruyama scheme with dt = 1 / steps,

        x_{k+1} = x_k + dt F(x_k, t_k) + sigma sqrt(dt) z_k,  z_k ~ N(0, I),

    independent from point to point. The mean has an error of order dt (weak order 1) and the random error
    that is returned. With sigma = 0 there is one path, Euler's along the characteristic: a residual network
    with so many layers.

    Args:
        problem: F and f.
        points: x, (..., 2), in the type and on the device in which all is computed.
        sigma: Standard deviation of the noise in a unit of time, >= 0, in units of x.
        paths: Number of paths from each point, at least 2. Default: 1000.
        steps: Number of steps in [0, 1], a multiple of the problem's pieces. Default: 40.
        seed: Seed of the noise. Default: 0.

    Returns:
        u(x, 0) and its standard error, the paths' standard deviation over the square root of their number;
        each (...).

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> problem = TransportProblem("shift", lambda x, t: torch.ones_like(x), lambda x: x[..., 0])
        >>> feynman_kac(problem, torch.zeros(1, 2), sigma=0.0)  # f is x_1, which grows by 1
        (tensor([1.0000]), tensor([0.]))
        >>> u, error = feynman_kac(problem, torch.zeros(1, 2), sigma=0.5, paths=10000)
        >>> abs(u.item() - 1) < 4 * error.item(), round(error.item(), 3)
        (True, 0.005)
    """
    check_range("feynman_kac", "[0, inf)", sigma=sigma)
    check_range("feynman_kac", ">= 2", paths=paths)
    check_steps("feynman_kac", problem, steps)
    start = points.reshape(-1, 2)
    center = problem.terminal(euler(problem, start, steps))
    if sigma == 0.0:
        return center.view(points.shape[:-1]), torch.zeros_like(center).view(points.shape[:-1])
    generator = torch.Generator(points.device).manual_seed(seed)
    # Sums of the distances from the path without noise: small numbers, so that their squares lose no digits.
    total, squares = torch.zeros_like(center), torch.zeros_like(center)
    at_once = max(1, _PARTICLES // len(start))
    for first in range(0, paths, at_once):
        count = min(at_once, paths - first)
        for part in (slice(i, i + _PARTICLES) for i in range(0, len(start), _PARTICLES)):
            x = start[part].expand(count, -1, 2)
            ends = euler(problem, x, steps, sigma=sigma, generator=generator)
            distance = problem.terminal(ends) - center[part]
            total[part] += distance.sum(0)
            squares[part] += distance.square().sum(0)
    mean = total / paths
    variance = (squares - paths * mean.square()).clamp(min=0.0) / (paths - 1)
    return (
        (center + mean).view(points.shape[:-1]),
        (variance / paths).sqrt().view(points.shape[:-1]),
    )


def euler(
    problem: TransportProblem,
    points: Tensor,
    steps: int,
    *,
    sigma: float = 0.0,
    generator: torch.Generator | None = None,
    visit: Callable[[Tensor], object] = lambda x: None,
) -> Tensor:
    """The end x(1) of a path from each point, by Euler's scheme, or Euler and Maruyama's with noise.

    Args:
        problem: F.
        points: x(0), (..., 2).
        steps: Number of steps.
        sigma: Standard deviation of the noise in a unit of time. Default: 0.
        generator: Of the noise, on the device of the points.
        visit: Called with the points after each step.
    """
    dt = 1.0 / steps
    x, noise = points, torch.empty_like(points, memory_format=torch.contiguous_format)
    for step in range(steps):
        x = x + dt * problem.field(x, problem.time(step, steps))
        if sigma > 0.0:
            x.add_(noise.normal_(generator=generator), alpha=sigma * math.sqrt(dt))
        visit(x)
    return x
