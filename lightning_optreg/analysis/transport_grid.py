"""The transport equation of a residual network, solved by finite differences, backwards in time.

With tau = 1 - t the equation is u_tau = F . grad u + 1/2 sigma^2 Laplace u from u = f. One-sided differences
look where F comes from, at x + F; the Laplacian is the central second difference, of order 2.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from lightning_optreg._checks import check_choice, check_range
from lightning_optreg.analysis.transport import TransportProblem, euler

__all__ = ["Scheme", "solve_transport"]

Scheme = Literal["weno", "upwind"]
Difference = Callable[[Tensor, int, Tensor], Tensor]
_HALO = 3  # nodes that a one-sided difference sees on its longer side
_MOST_NODES = 4_000_000
_EPSILON = 1e-6  # Jiang and Peng's: keeps the weights of the stencils finite where u is flat


@torch.no_grad()
def solve_transport(
    problem: TransportProblem,
    x: Tensor,
    y: Tensor,
    sigma: float,
    *,
    scheme: Scheme = "weno",
    courant: float = 0.8,
    margin: float | None = None,
) -> Tensor:
    """Solve for u(x, 0) on a grid by finite differences.

    Convection is differenced against the wind, by

    - "upwind": the first difference, of order 1. Each step is a mean of neighbours with weights >= 0, so u
      stays between the smallest and the largest f; but the scheme adds a diffusion of |F| h / 2;
    - "weno": the weighted essentially non-oscillatory differences of Jiang and Peng (2000), "Weighted ENO
      schemes for Hamilton-Jacobi equations", of order 5 where u is smooth. The whole is then of order 3 with
      sigma = 0, by the time steps, and of order 2 else, by the Laplacian.

    Time steps are Shu and Osher's third-order Runge-Kutta steps (1988), means of Euler steps with weights
    >= 0, all of length at most

        dt <= courant / (max (|F_1| / h_1 + |F_2| / h_2) + sigma^2 (1 / h_1^2 + 1 / h_2^2)).

    With courant <= 1 this is exactly the bound below which upwind's weights are >= 0, and both schemes are
    stable. On each of the problem's pieces F is constant in t, and the steps end where it jumps.

    The domain is larger than the axes by a margin, with the normal derivative 0 at its edge. By default it
    holds where 64 noisy paths from each of 17 x 17 points go, and sigma more, so that the edge does not
    matter.

    Args:
        problem: F and f.
        x: Nodes (n,), increasing in equal steps h_1, n >= 2; type and device of the result.
        y: Nodes (m,), likewise with h_2.
        sigma: Standard deviation of the noise in a unit of time, >= 0, in units of x.
        scheme: "weno" or "upwind". Default: weno.
        courant: The time step in units of the stability bound, in (0, 1]. Default: 0.8.
        margin: How far the domain goes beyond the axes on each side, >= 0, in units of x. None: where the
            paths lead.

    Returns:
        u(x, 0) at the nodes, (n, m).

    Raises:
        ValueError: If an argument is out of range, the paths are not finite, or the domain has more than
            4,000,000 nodes.

    Example:
        >>> problem = TransportProblem("shift", lambda x, t: torch.ones_like(x), lambda x: x[..., 0].cos())
        >>> x = torch.linspace(-1, 1, 21, dtype=torch.float64)
        >>> u = solve_transport(problem, x, x, sigma=0.5)
        >>> exact = math.exp(-(0.5**2) / 2) * (x + 1).cos()  # the heat kernel damps a cosine
        >>> bool(((u - exact[:, None]).abs() < 1e-3).all())
        True
    """
    check_range("solve_transport", "[0, inf)", sigma=sigma)
    check_range("solve_transport", "(0, 1]", courant=courant)
    check_choice("solve_transport", ("weno", "upwind"), scheme=scheme)
    steps = (_spacing("x", x), _spacing("y", y))
    if margin is None:
        low, high = _reached(problem, x, y, sigma)
    else:
        check_range("solve_transport", "[0, inf)", margin=margin)
        low = tuple(float(axis[0]) - margin for axis in (x, y))
        high = tuple(float(axis[-1]) + margin for axis in (x, y))
    before = [_more(axis[0] - edge, h) for axis, edge, h in zip((x, y), low, steps, strict=True)]
    after = [_more(edge - axis[-1], h) for axis, edge, h in zip((x, y), high, steps, strict=True)]
    shape = [len(axis) + b + a for axis, b, a in zip((x, y), before, after, strict=True)]
    if math.prod(shape) > _MOST_NODES:
        raise ValueError(
            f"solve_transport: the paths lead to a domain of {shape[0]} x {shape[1]} nodes, more than "
            f"{_MOST_NODES:,}; take fewer nodes, or a weaker field"
        )
    columns = [
        axis[0] + h * torch.arange(-b, n - b, dtype=axis.dtype, device=axis.device)
        for axis, h, b, n in zip((x, y), steps, before, shape, strict=True)
    ]
    nodes = torch.cartesian_prod(*columns).view(*shape, 2)
    u = problem.terminal(nodes)
    difference = _weno if scheme == "weno" else _upwind
    diffusion = sigma**2 * sum(1 / h**2 for h in steps)
    for piece in reversed(range(problem.pieces)):
        wind = problem.field(nodes, problem.time(piece, problem.pieces))
        speed = float(sum(wind[..., i].abs() / h for i, h in enumerate(steps)).max())  # type: ignore[union-attr]
        count = max(1, math.ceil((speed + diffusion) / (courant * problem.pieces)))
        dt = 1.0 / (count * problem.pieces)
        rate = _rate(wind, sigma, steps, difference)
        for _ in range(count):
            first = u + dt * rate(u)
            second = 0.75 * u + 0.25 * (first + dt * rate(first))
            u = u / 3 + 2 / 3 * (second + dt * rate(second))
    return u[before[0] : before[0] + len(x), before[1] : before[1] + len(y)].contiguous()


def _spacing(name: str, axis: Tensor) -> float:
    if axis.dim() != 1 or len(axis) < 2:
        raise ValueError(f"solve_transport: {name} must be (n,) with n >= 2, got {tuple(axis.shape)}")
    h = float(axis[-1] - axis[0]) / (len(axis) - 1)
    if not (h > 0 and torch.allclose(axis.diff(), torch.full_like(axis[1:], h), rtol=1e-3)):
        raise ValueError(f"solve_transport: {name} must increase in equal steps")
    return h


def _more(distance: Tensor | float, h: float) -> int:
    """Nodes that cover a distance beyond an end of an axis."""
    return max(0, math.ceil(float(distance) / h - 1e-9))


def _reached(
    problem: TransportProblem, x: Tensor, y: Tensor, sigma: float
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Corners of a box that holds the paths from the axes."""
    ends = [torch.linspace(float(a[0]), float(a[-1]), 17, dtype=a.dtype, device=a.device) for a in (x, y)]
    start = torch.cartesian_prod(*ends)
    low, high = start.amin(0), start.amax(0)

    def widen(points: Tensor) -> None:
        nonlocal low, high
        low = torch.minimum(low, points.view(-1, 2).amin(0))
        high = torch.maximum(high, points.view(-1, 2).amax(0))

    generator = torch.Generator(x.device).manual_seed(0)
    steps = problem.pieces * math.ceil(32 / problem.pieces)
    paths = start.expand(64 if sigma > 0 else 1, -1, 2)
    euler(problem, paths, steps, sigma=sigma, generator=generator, visit=widen)
    if not bool((high - low).isfinite().all()):
        raise ValueError(f"solve_transport: the paths of {problem.name} are not finite")
    return tuple((low - sigma).tolist()), tuple((high + sigma).tolist())


def _rate(
    wind: Tensor,
    sigma: float,
    steps: tuple[float, float],
    difference: Difference,
) -> Callable[[Tensor], Tensor]:
    """u_tau as a function of u, for a constant F."""
    parts = wind.unbind(-1)
    forward = [part > 0 for part in parts]
    inner = slice(_HALO, -_HALO)

    def rate(u: Tensor) -> Tensor:
        # Copies of the edge's value: the normal derivative there is 0.
        padded = pad(u[None, None], (_HALO,) * 4, mode="replicate")[0, 0]
        total = torch.zeros_like(u)
        for dim, h in enumerate(steps):
            line = padded[:, inner] if dim == 0 else padded[inner]
            slopes = line.diff(dim=dim) / h  # (n + 5, m): between neighbours
            total.addcmul_(parts[dim], difference(slopes, dim, forward[dim]))
            if sigma > 0:
                near = slopes.narrow(dim, _HALO - 1, u.shape[dim] + 1)
                total.add_(near.diff(dim=dim), alpha=0.5 * sigma**2 / h)
        return total

    return rate


def _upwind(slopes: Tensor, dim: int, forward: Tensor) -> Tensor:
    n = forward.shape[dim]
    return torch.where(forward, slopes.narrow(dim, _HALO, n), slopes.narrow(dim, _HALO - 1, n))


def _weno(slopes: Tensor, dim: int, forward: Tensor) -> Tensor:
    n = forward.shape[dim]
    # v_3 is the first difference on the side of the wind; v_1 and v_2 are farther on that side.
    v1, v2, v3, v4, v5 = (
        torch.where(forward, slopes.narrow(dim, 5 - k, n), slopes.narrow(dim, k, n)) for k in range(5)
    )
    # How much u bends on each of the three stencils, so that one across a kink gets next to no weight.
    s1 = 13 / 12 * (v1 - 2 * v2 + v3).square() + 0.25 * (v1 - 4 * v2 + 3 * v3).square()
    s2 = 13 / 12 * (v2 - 2 * v3 + v4).square() + 0.25 * (v2 - v4).square()
    s3 = 13 / 12 * (v3 - 2 * v4 + v5).square() + 0.25 * (3 * v3 - 4 * v4 + v5).square()
    a1, a2, a3 = (c / (s + _EPSILON).square() for c, s in ((0.1, s1), (0.6, s2), (0.3, s3)))
    mixed = a1 * (2 * v1 - 7 * v2 + 11 * v3) + a2 * (5 * v3 - v2 + 2 * v4) + a3 * (2 * v3 + 5 * v4 - v5)
    return mixed / (6 * (a1 + a2 + a3))
