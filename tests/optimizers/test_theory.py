"""What theory promises of the methods, and where it says that they fail."""

import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import SGD, Adam, Optimizer

from lightning_optreg.optimizers import HeavyBall, NAGConvex, NAGStronglyConvex

MU, L = 0.01, 1.0
CURVATURES = torch.logspace(-2, 0, 20, dtype=torch.float64)  # mu to L


def quadratic(x: Tensor) -> Tensor:
    return 0.5 * (CURVATURES * x.square()).sum()


def worst_case(x: Tensor) -> Tensor:
    """Nesterov's: no method that adds gradients is faster than 1/k^2 on it for k < n / 2; L = 1."""
    return 0.25 * (0.5 * (x[0].square() + (x[1:] - x[:-1]).square().sum() + x[-1].square()) - x[0])


def descend(
    f: Callable[[Tensor], Tensor], x0: Tensor, make: Callable[[list[Tensor]], Optimizer], steps: int
) -> tuple[list[Tensor], Optimizer]:
    """Iterates x_0 to x_steps; y of Nesterov's methods where there is one."""
    x = x0.clone().requires_grad_()
    optimizer = make([x])
    path = [x.detach().clone()]
    for _ in range(steps):
        optimizer.zero_grad()
        loss = f(x)
        loss.backward()
        optimizer.step(partial(float, loss.detach()))
        path.append(optimizer.state[x].get("y", x).detach().clone())
    return path, optimizer


def start() -> Tensor:
    return torch.ones(20, dtype=torch.float64)


def test_gradient_descent_is_linear_on_strongly_convex_quadratics() -> None:
    """|x_k| <= (1 - mu s)^k |x_0| at s = 1/L, and exactly ((kappa - 1) / (kappa + 1))^k at 2/(mu + L)."""
    path, _ = descend(quadratic, start(), lambda p: SGD(p, 1 / L), 500)
    for k, x in enumerate(path):
        assert x.norm() <= (1 - MU / L) ** k * path[0].norm() + 1e-12
    kappa = L / MU
    extremes = torch.tensor([MU, L], dtype=torch.float64)
    path, _ = descend(
        lambda x: 0.5 * (extremes * x.square()).sum(),
        torch.ones(2, dtype=torch.float64),
        lambda p: SGD(p, 2 / (MU + L)),
        100,
    )
    rate = (kappa - 1) / (kappa + 1)
    for k, x in enumerate(path):
        assert x.norm().item() == pytest.approx(rate**k * math.sqrt(2), rel=1e-9)


def test_nag_strongly_convex_has_the_rate_of_the_square_root() -> None:
    """f(y_k) - f* <= (1 - sqrt(mu s))^k (f(x_0) - f* + mu/2 |x_0 - x*|^2), s = 1/L (Nesterov 2004, 2.2.1)."""
    path, _ = descend(quadratic, start(), lambda p: NAGStronglyConvex(p, 1 / L, MU), 400)
    first = quadratic(start()) + 0.5 * MU * start().square().sum()
    for k, y in enumerate(path):
        assert quadratic(y) <= (1 - math.sqrt(MU / L)) ** k * first + 1e-15
    plain, _ = descend(quadratic, start(), lambda p: SGD(p, 1 / L), 400)
    assert quadratic(path[-1]) < 1e-6 * quadratic(plain[-1])


@pytest.mark.parametrize("f", [quadratic, worst_case])
def test_nag_convex_is_of_order_one_over_k_squared(f: Callable[[Tensor], Tensor]) -> None:
    """f(y_k) - f* <= 2 |x_0 - x*|^2 / (s (k + 1)^2); least squared gradient O(1 / k^3)."""
    n = 20 if f is quadratic else 400
    x0 = start() if f is quadratic else torch.zeros(n, dtype=torch.float64)
    best = torch.zeros(n, dtype=torch.float64)
    if f is worst_case:
        best = 1 - torch.arange(1, n + 1, dtype=torch.float64) / (n + 1)
    distance = (x0 - best).square().sum()
    path, _ = descend(f, x0, lambda p: NAGConvex(p, 1 / L), 200)
    for k, y in enumerate(path):
        assert f(y) - f(best) <= 2 * L * distance / (k + 1) ** 2
    if f is worst_case:
        plain, _ = descend(f, x0, lambda p: SGD(p, 1 / L), 200)
        gap = [float(f(path[k]) - f(best)) for k in (50, 200)]
        plain_gap = [float(f(plain[k]) - f(best)) for k in (50, 200)]
        # Four times the steps: descent gains a factor of 2 here, acceleration about that squared.
        assert plain_gap[0] / plain_gap[1] < 2.2
        assert gap[0] / gap[1] > 3.0


def test_nag_convexs_least_gradient_is_of_order_one_over_k_cubed() -> None:
    """sum over i <= k of (i + 2)^2 |grad f(x_i)|^2 <= 32 L^2 |x_0 - x*|^2 for s = 1 / (2 L).

    So the least squared gradient is O(1 / k^3), as Shi, Du, Jordan and Su 2018 (arXiv:1810.08907) found. The
    sum follows from the usual proof of 1 / k^2, with t = (k + 2) / 2: each step lowers
    s t^2 (f(y_{k+1}) - f*) + |z_{k+1} - x*|^2 / 2 by s^2 t^2 (1 - s L) / 2 |grad f(x_k)|^2 or more.
    """
    n, s = 2000, 1 / (2 * L)
    x = torch.zeros(n, dtype=torch.float64, requires_grad=True)
    best = 1 - torch.arange(1, n + 1, dtype=torch.float64) / (n + 1)
    optimizer = NAGConvex([x], s)
    least, weighted, scaled = math.inf, 0.0, []
    for k in range(601):
        optimizer.zero_grad()
        worst_case(x).backward()
        assert x.grad is not None
        slope = float(x.grad.square().sum())
        least, weighted = min(least, slope), weighted + (k + 2) ** 2 * slope
        assert weighted <= 32 * L**2 * float(best.square().sum())
        optimizer.step()
        scaled.append(k**3 * least)
    # The law itself: from k = 100 to 600, k^3 times it changes far less than k^2 or k^4 would.
    assert 0.5 < scaled[600] / scaled[100] < 2.0


def test_restarts_make_nag_convex_linear() -> None:
    plain, _ = descend(quadratic, start(), lambda p: NAGConvex(p, 1 / L), 600)
    for scheme in ("function", "gradient"):
        path, optimizer = descend(quadratic, start(), lambda p, r=scheme: NAGConvex(p, 1 / L, restart=r), 600)
        assert isinstance(optimizer, NAGConvex)
        assert optimizer.restarts >= 5
        assert quadratic(path[-1]) < 1e-6 * quadratic(plain[-1])
    # Without: f rises again and again.
    values = [float(quadratic(y)) for y in plain]
    assert sum(b > a for a, b in itertools.pairwise(values)) > 100


def test_heavy_balls_best_rate_on_a_quadratic() -> None:
    """(sqrt(kappa) - 1) / (sqrt(kappa) + 1) a step, asymptotically (Polyak 1964)."""
    s = 4 / (math.sqrt(L) + math.sqrt(MU)) ** 2
    alpha = ((math.sqrt(L) - math.sqrt(MU)) / (math.sqrt(L) + math.sqrt(MU))) ** 2
    path, _ = descend(quadratic, start(), lambda p: HeavyBall(p, s, alpha), 200)
    rate = math.sqrt(alpha)
    measured = (path[200].norm() / path[100].norm()).item() ** (1 / 100)
    # At these settings the extreme eigenvalues are double roots: an extra factor k, 2^(1/100) here.
    assert rate * 0.98 <= measured <= rate * 1.02
    assert measured < 1 - math.sqrt(MU / L)


def lessards(x: Tensor) -> Tensor:
    """Integral of 25 x, x + 24, 25 x - 24 on x < 1, [1, 2), >= 2: mu = 1, L = 25, one minimum at 0."""
    return torch.where(
        x < 1, 12.5 * x**2, torch.where(x < 2, 0.5 * x**2 + 24 * x - 12, 12.5 * x**2 - 24 * x + 36)
    ).sum()


def test_heavy_ball_cycles_on_lessards_function_where_others_converge() -> None:
    """Lessard, Recht and Packard 2016 (arXiv:1408.3595): Polyak's own settings, s = 1/9, alpha = 4/9."""
    x0 = torch.tensor([3.3], dtype=torch.float64)
    path, _ = descend(lessards, x0, lambda p: HeavyBall(p, 1 / 9, 4 / 9), 900)
    tail = torch.cat(path[-9:])
    assert tail.abs().max() > 1.0
    torch.testing.assert_close(tail[:3], tail[3:6], rtol=1e-9, atol=1e-9)  # a cycle of three
    torch.testing.assert_close(tail[:3], tail[6:], rtol=1e-9, atol=1e-9)
    for make in (
        lambda p: SGD(p, 2 / 26),
        lambda p: NAGStronglyConvex(p, 1 / 25, 1.0),
        lambda p: NAGConvex(p, 1 / 25, restart="gradient"),
    ):
        path, _ = descend(lessards, x0, make, 900)
        assert path[-1].abs().max() < 1e-9


def test_sgd_with_steps_of_one_over_k_has_error_of_order_one_over_k() -> None:
    """f = E (x - xi)^2 / 2 with s_k = 1/k: x_k is the mean of k samples, so E x_k^2 = sigma^2 / k."""
    runs = 4000  # that many runs side by side, one a coordinate
    generator = torch.Generator().manual_seed(0)
    x = torch.zeros(runs, dtype=torch.float64, requires_grad=True)
    optimizer = SGD([x], lr=1.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: 1 / (k + 1))
    errors: dict[int, float] = {}
    for k in range(1, 401):
        xi = torch.randn(runs, generator=generator, dtype=torch.float64)
        x.grad = x.detach() - xi
        optimizer.step()
        schedule.step()
        errors[k] = float(x.detach().square().mean())
    for k in (25, 100, 400):
        # The mean of 4000 squared normals has a relative standard error of sqrt(2 / 4000) = 2.2 %: 4 of them.
        assert k * errors[k] == pytest.approx(1.0, abs=4 * math.sqrt(2 / runs))
    constant = torch.zeros(runs, dtype=torch.float64)
    for _ in range(400):
        constant -= 0.1 * (constant - torch.randn(runs, generator=generator, dtype=torch.float64))
    assert float(constant.square().mean()) > 10 * errors[400]  # s / (2 - s): it stays at the noise


@pytest.mark.parametrize("amsgrad", [False, True])
def test_amsgrad_against_adam_on_reddis_counterexample(amsgrad: bool) -> None:
    """Reddi, Kale and Kumar 2018, theorem 1: f_t = C x if t mod 3 = 1, else -x, on [-1, 1]; the best x is -1.

    With beta1 = 0, beta2 = 1 / (1 + C^2) and rates of alpha / sqrt(t), Adam goes to +1.
    """
    c, alpha = 4.0, 0.5
    x = torch.tensor([0.0], dtype=torch.float64, requires_grad=True)
    settings: dict[str, Any] = {"lr": alpha, "betas": (0.0, 1 / (1 + c**2)), "eps": 0.0, "amsgrad": amsgrad}
    optimizer = Adam([x], **settings)
    for t in range(1, 1501):
        x.grad = torch.tensor([c if t % 3 == 1 else -1.0], dtype=torch.float64)
        optimizer.param_groups[0]["lr"] = alpha / math.sqrt(t)
        optimizer.step()
        with torch.no_grad():
            x.clamp_(-1.0, 1.0)
    if amsgrad:
        assert x.item() < -0.9
    else:
        assert x.item() > 0.9
