"""What the transport equation says of a network: two solutions side by side, stability, order."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_optreg._checks import check_range
from lightning_optreg.analysis.deviations import fitted_order
from lightning_optreg.analysis.transport import TransportProblem, check_steps, euler, feynman_kac
from lightning_optreg.analysis.transport_grid import solve_transport

__all__ = [
    "EulerErrors",
    "Stability",
    "TransportSolutions",
    "compute_transport",
    "measure_euler",
    "measure_stability",
]


@dataclass(frozen=True)
class TransportSolutions:
    """u(x, 0) with one sigma, by two methods.

    Args:
        sigma: Standard deviation of the noise in a unit of time.
        x: Nodes (n,).
        y: Nodes (m,).
        monte_carlo: u by the Feynman-Kac formula, (n, m).
        standard_error: Of it, (n, m).
        finite_differences: u by finite differences, (n, m).
    """

    sigma: float
    x: Tensor
    y: Tensor
    monte_carlo: Tensor
    standard_error: Tensor
    finite_differences: Tensor

    @property
    def difference(self) -> Tensor:
        """Distance of the two methods, (n, m)."""
        return (self.monte_carlo - self.finite_differences).abs()


def compute_transport(
    problem: TransportProblem,
    x: Tensor,
    y: Tensor,
    sigmas: Sequence[float],
    *,
    paths: int = 200,
    steps: int = 40,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[TransportSolutions]:
    """Solve for u(x, 0) by `feynman_kac` and by `solve_transport`, for several sigma.

    Args:
        problem: F and f, which take points in float32 too.
        x: Nodes (n,), as `solve_transport` takes them.
        y: Nodes (m,), likewise.
        sigmas: Standard deviations of the noise in a unit of time, >= 0.
        paths: Paths from each node, at least 2. They are computed in float32, whose rounding is small beside
            their random error. Default: 200.
        steps: Steps of the paths, a multiple of the problem's pieces. Default: 40.
        seed: Seed of the paths. Default: 0.
        progress: Called with the number of solutions done and of all.

    Returns:
        What `lightning_optreg.figures.draw_transport` draws.

    Example:
        >>> from lightning_optreg.analysis import TRANSPORTS
        >>> x = torch.linspace(-1, 1, 21, dtype=torch.float64)
        >>> (found,) = compute_transport(TRANSPORTS["shear"], x, x, [0.1], paths=100)
        >>> bool(found.difference.max() < 6 * found.standard_error.max() + 0.02)
        True
    """
    nodes = torch.cartesian_prod(x, y).view(len(x), len(y), 2)
    found: list[TransportSolutions] = []
    for number, sigma in enumerate(sigmas):
        u, error = feynman_kac(problem, nodes.float(), sigma, paths=paths, steps=steps, seed=seed)
        progress(2 * number + 1, 2 * len(sigmas))
        grid = solve_transport(problem, x, y, sigma)
        progress(2 * number + 2, 2 * len(sigmas))
        found.append(TransportSolutions(sigma, x, y, u.to(x), error.to(x), grid))
    return found


@dataclass(frozen=True)
class Stability:
    """How much u(x, 0) changes at most when x moves by d, and the power law nearest to it.

    Args:
        sigmas: Standard deviations of the noise, (s,).
        distances: |d|, (k,).
        differences: The largest |u(x + d, 0) - u(x, 0)|, (s, k).
        alpha: The exponent of C (|d| / sigma)^alpha, fitted where |d| / sigma <= `up_to`.
        constant: C of the fit.
        r_squared: Share of the variance of the logarithms that the fit explains, in [0, 1].
        up_to: The largest |d| / sigma of the fit.
        bound: The smallest C with which C (|d| / sigma)^alpha is nowhere below what was measured.
    """

    sigmas: Tensor
    distances: Tensor
    differences: Tensor
    alpha: float
    constant: float
    r_squared: float
    up_to: float
    bound: float

    @property
    def ratios(self) -> Tensor:
        """|d| / sigma, (s, k)."""
        return self.distances / self.sigmas[:, None]


def measure_stability(
    problem: TransportProblem,
    x: Tensor,
    y: Tensor,
    sigmas: Sequence[float],
    *,
    shifts: Sequence[int] = (1, 2, 4, 8),
    up_to: float = 1.0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Stability:
    """Measure how much u(x, 0) changes at most with x, and fit C (|d| / sigma)^alpha to it.

    The theorem: if F is Lipschitz in x and t and f is bounded, then for 0 < sigma <= 1

        |u(x + d, 0) - u(x, 0)| <= C (|d| / sigma)^alpha

    for an alpha > 0, with a C that depends on the dimension and on the largest |f| and |F| (Wang, Yuan, Shi,
    Osher 2019, arXiv:1811.10745, after Ladyzhenskaja, Solonnikov and Uralceva 1968). It is an upper bound and
    gives no alpha: that the largest differences follow such a power law, with which alpha and over which
    range, is measured here and is no consequence of it. As u is bounded too, they must level off where
    |d| is large beside sigma; a smooth f holds them below the law where sigma is small beside f's own width.

    u is that of `solve_transport`. d is along either axis, by whole nodes, and both x and x + d are nodes.
    log C and alpha are fitted by least squares on the logarithms.

    Args:
        problem: F and f.
        x: Nodes (n,), as `solve_transport` takes them.
        y: Nodes (m,), with the same spacing.
        sigmas: Standard deviations of the noise in a unit of time, in (0, 1].
        shifts: |d| in nodes, at least 1 and less than n and m. Default: 1, 2, 4, 8.
        up_to: The largest |d| / sigma of the fit, > 0. Default: 1.
        progress: Called with the number of solutions done and of all.

    Returns:
        What `lightning_optreg.figures.draw_stability` draws.

    Raises:
        ValueError: If an argument is out of range, fewer than two |d| / sigma are within `up_to`, or u is
            constant.

    Example:
        >>> from lightning_optreg.analysis import TRANSPORTS
        >>> x = torch.linspace(-1, 1, 21, dtype=torch.float64)
        >>> found = measure_stability(TRANSPORTS["contraction"], x, x, [0.2, 0.4])
        >>> 0.5 < found.alpha < 1.1, found.bound >= found.constant
        (True, True)
    """
    check_range("measure_stability", "(0, inf)", up_to=up_to)
    for sigma in sigmas:
        check_range("measure_stability", "(0, 1]", sigmas=sigma)
    for shift in shifts:
        if not 1 <= shift < min(len(x), len(y)):
            raise ValueError(
                f"measure_stability: shifts must be >= 1 and less than the {min(len(x), len(y))} nodes of an "
                f"axis, got {shift}"
            )
    spacing = x[1] - x[0]
    if not torch.isclose(y[1] - y[0], spacing, rtol=1e-3):
        raise ValueError("measure_stability: x and y must have the same spacing")
    rows = []
    for number, sigma in enumerate(sigmas):
        u = solve_transport(problem, x, y, sigma)
        changes = [max((u[k:] - u[:-k]).abs().max(), (u[:, k:] - u[:, :-k]).abs().max()) for k in shifts]
        rows.append(torch.stack(changes))
        progress(number + 1, len(sigmas))
    differences = torch.stack(rows)
    all_sigmas = torch.tensor(list(sigmas)).to(x)
    distances = torch.tensor(list(shifts)).to(x) * spacing
    ratios = distances / all_sigmas[:, None]
    fitted = ratios <= up_to * (1 + 1e-9)
    log_ratios, log_differences = ratios[fitted].log(), differences[fitted].log()
    two = len(log_ratios) > 1 and bool(log_ratios.max() > log_ratios.min())
    if not (two and bool(log_differences.isfinite().all())):
        raise ValueError(
            f"measure_stability: no law can be fitted: of |d| / sigma, {len(log_ratios)} are <= {up_to:g}; "
            "or u is constant"
        )
    design = torch.stack([torch.ones_like(log_ratios), log_ratios], dim=1)
    log_c, alpha = torch.linalg.lstsq(design, log_differences[:, None]).solution[:, 0]
    residual = log_differences - log_c - alpha * log_ratios
    spread = (log_differences - log_differences.mean()).square().sum()
    return Stability(
        sigmas=all_sigmas,
        distances=distances,
        differences=differences,
        alpha=float(alpha),
        constant=float(log_c.exp()),
        r_squared=float(1 - residual.square().sum() / spread),
        up_to=up_to,
        bound=float((differences / ratios**alpha).max()),
    )


@dataclass(frozen=True)
class EulerErrors:
    """How far residual networks of several depths are from their differential equation.

    Args:
        depths: Numbers of layers L.
        errors: The largest |x_L - x(1)| over the inputs, for each depth.
    """

    depths: Sequence[int]
    errors: Sequence[float]

    @property
    def order(self) -> float:
        """The p of C / L^p nearest to the errors of the deeper half."""
        return fitted_order([1 / depth for depth in self.depths], self.errors)


@torch.no_grad()
def measure_euler(problem: TransportProblem, points: Tensor, depths: Sequence[int]) -> EulerErrors:
    """Measure the distance of residual networks with F from the equation dx/dt = F(x, t).

    A network with L layers, x_{l+1} = x_l + 1/L F(x_l, l/L), is Euler's scheme, whose error is of order 1/L.
    The reference is the classical Runge-Kutta scheme of order 4, with twice as many steps as the deepest
    network: its error is smaller by orders of magnitude.

    Args:
        problem: F.
        points: Inputs (..., 2); float64 is recommended.
        depths: L, each a multiple of the problem's pieces; at least two.

    Returns:
        What `lightning_optreg.figures.draw_euler` draws.

    Raises:
        ValueError: If a depth is not a multiple of the pieces, or there are fewer than two.

    Example:
        >>> from lightning_optreg.analysis import TRANSPORTS
        >>> points = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
        >>> measure_euler(TRANSPORTS["contraction"], points, [1, 2]).errors  # exp(-1) - (1 - 1/L)^L
        (0.3678..., 0.1178...)
    """
    if len(set(depths)) < 2:
        raise ValueError(f"measure_euler: depths must be at least two, got {list(depths)}")
    for depth in depths:
        check_steps("measure_euler", problem, depth)
    exact = _runge_kutta(problem, points, 2 * max(depths))
    errors = [float((euler(problem, points, depth) - exact).norm(dim=-1).max()) for depth in depths]
    return EulerErrors(tuple(depths), tuple(errors))


def _runge_kutta(problem: TransportProblem, x: Tensor, steps: int) -> Tensor:
    dt = 1.0 / steps
    for step in range(steps):
        t = problem.time(step, steps)  # F is constant in t within a step
        k1 = problem.field(x, t)
        k2 = problem.field(x + dt / 2 * k1, t)
        k3 = problem.field(x + dt / 2 * k2, t)
        k4 = problem.field(x + dt * k3, t)
        x = x + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return x
