"""Heavy ball and Nesterov's methods against references from the lecture's equations, and each other."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.optim import SGD, Optimizer

from lightning_optreg.optimizers import NAG, HeavyBall, NAGConvex, NAGStronglyConvex
from tests.optimizers.problems import PROBLEMS, SOME_PROBLEMS, Problem, distance, gradient, run

Path = list[list[Tensor]]
every_problem = pytest.mark.parametrize("name", SOME_PROBLEMS)
both_paths = pytest.mark.parametrize("foreach", [False, True])


def combine(a: float, x: list[Tensor], b: float, y: list[Tensor]) -> list[Tensor]:
    return [a * u + b * v for u, v in zip(x, y, strict=True)]


def heavy_ball(problem: Problem, s: float, alpha: float, steps: int = 200) -> Path:
    """x_{k+1} = x_k + alpha (x_k - x_{k-1}) - s grad f(x_k)."""
    before = x = problem.start()
    path = [x]
    for _ in range(steps):
        g = gradient(problem.loss, x)
        x, before = combine(1.0, combine(1 + alpha, x, -alpha, before), -s, g), x
        path.append(x)
    return path


def nag(problem: Problem, eta: float, gamma: float, steps: int = 200) -> tuple[Path, Path]:
    """Equation 2: v_t = gamma v_{t-1} + eta grad J(theta - gamma v_{t-1}); theta = theta - v_t."""
    theta = problem.start()
    v = [torch.zeros_like(t) for t in theta]
    thetas, ahead = [theta], [theta]
    for _ in range(steps):
        v = combine(gamma, v, eta, gradient(problem.loss, combine(1.0, theta, -gamma, v)))
        theta = combine(1.0, theta, -1.0, v)
        thetas.append(theta)
        ahead.append(combine(1.0, theta, -gamma, v))
    return thetas, ahead


def extrapolated(problem: Problem, s: float, c: Callable[[int], float], steps: int = 200) -> Path:
    """y_{k+1} = x_k - s grad f(x_k); x_{k+1} = y_{k+1} + c_k (y_{k+1} - y_k)."""
    y = x = problem.start()
    path = [x]
    for k in range(steps):
        new = combine(1.0, x, -s, gradient(problem.loss, x))
        x = combine(1 + c(k), new, -c(k), y)
        y = new
        path.append(x)
    return path


@every_problem
@both_paths
def test_heavy_ball(name: str, foreach: bool) -> None:
    problem = PROBLEMS[name]
    got = run(problem, lambda theta: HeavyBall(theta, problem.rate, 0.8, foreach=foreach))
    assert distance(got, heavy_ball(problem, problem.rate, 0.8)) <= 1e-10


@every_problem
def test_heavy_ball_is_torchs_momentum_at_a_constant_rate(name: str) -> None:
    problem = PROBLEMS[name]
    ours = run(problem, lambda theta: HeavyBall(theta, problem.rate, 0.8))
    torchs = run(problem, lambda theta: SGD(theta, problem.rate, 0.8))
    assert distance(ours, torchs) <= 1e-12


def test_heavy_ball_keeps_displacements_when_the_rate_changes() -> None:
    x = torch.tensor(0.0, dtype=torch.float64, requires_grad=True)
    optimizer = HeavyBall([x], lr=1.0, momentum=0.5)
    for rate in (1.0, 0.0, 0.0):
        x.grad = torch.tensor(1.0, dtype=torch.float64)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
    assert x.item() == -(1.0 + 0.5 + 0.25)


@every_problem
@both_paths
def test_nag(name: str, foreach: bool) -> None:
    problem = PROBLEMS[name]
    optimizers: list[NAG] = []

    def make(theta: list[Tensor]) -> NAG:
        optimizers.append(NAG(theta, problem.rate, 0.8, foreach=foreach))
        return optimizers[0]

    got = run(problem, make)
    thetas, ahead = nag(problem, problem.rate, 0.8)
    assert distance(got, ahead) <= 1e-10
    params = optimizers[0].param_groups[0]["params"]
    before = [p.detach().clone() for p in params]
    with optimizers[0].at_theta():
        assert distance([[p.detach() for p in params]], thetas[-1:]) <= 1e-10
        assert distance([before], thetas[-1:]) > 1e-9
    assert all(torch.equal(a, b) for a, b in zip(before, params, strict=True))


@every_problem
def test_nag_looks_ahead_as_torchs_nesterov_at_a_constant_rate(name: str) -> None:
    problem = PROBLEMS[name]
    ours = run(problem, lambda theta: NAG(theta, problem.rate, 0.8))
    torchs = run(problem, lambda theta: SGD(theta, problem.rate, 0.8, nesterov=True))
    assert distance(ours, torchs) <= 1e-12


def test_without_momentum_both_are_gradient_descent() -> None:
    problem = PROBLEMS["small_network"]
    descent = run(problem, lambda theta: SGD(theta, 0.05))
    assert distance(descent, run(problem, lambda theta: HeavyBall(theta, 0.05, 0.0))) <= 1e-13
    assert distance(descent, run(problem, lambda theta: NAG(theta, 0.05, 0.0))) <= 1e-13


@every_problem
@both_paths
def test_nag_convex(name: str, foreach: bool) -> None:
    problem = PROBLEMS[name]
    got = run(problem, lambda theta: NAGConvex(theta, problem.rate, foreach=foreach))
    assert distance(got, extrapolated(problem, problem.rate, lambda k: k / (k + 3))) <= 1e-10


@every_problem
@both_paths
def test_nag_strongly_convex(name: str, foreach: bool) -> None:
    problem, mu = PROBLEMS[name], 0.1
    root = math.sqrt(mu * problem.rate)
    c = (1 - root) / (1 + root)
    got = run(problem, lambda theta: NAGStronglyConvex(theta, problem.rate, mu, foreach=foreach))
    assert distance(got, extrapolated(problem, problem.rate, lambda _: c)) <= 1e-10


def test_nag_strongly_convex_is_heavy_ball_with_a_gradient_correction() -> None:
    """The form with x alone, from x_1 = x_0 - (1 + c) s grad f(x_0)."""
    problem, s, mu = PROBLEMS["quadratic"], 0.05, 0.1
    root = math.sqrt(mu * s)
    c = (1 - root) / (1 + root)
    before = problem.start()
    slope = gradient(problem.loss, before)
    x = combine(1.0, before, -(1 + c) * s, slope)
    path = [before, x]
    for _ in range(199):
        g = gradient(problem.loss, x)
        moved = combine(1.0, combine(1 + c, x, -c, before), -s, g)
        x, before, slope = combine(1.0, moved, -c * s, combine(1.0, g, -1.0, slope)), x, g
        path.append(x)
    got = run(problem, lambda theta: NAGStronglyConvex(theta, s, mu))
    assert distance(got, path) <= 1e-10


@every_problem
def test_nag_is_torchs_nesterov_when_momentum_changes(name: str) -> None:
    problem = PROBLEMS[name]

    def path(make: Callable[[list[Tensor]], Optimizer]) -> Path:
        optimizers: list[Optimizer] = []

        def warmed(theta: list[Tensor]) -> Optimizer:
            optimizers.append(make(theta))
            optimizers[0].register_step_post_hook(raise_momentum)
            return optimizers[0]

        def raise_momentum(optimizer: Optimizer, *_: object) -> None:
            optimizer.param_groups[0]["momentum"] = min(0.8, optimizer.param_groups[0]["momentum"] + 0.01)

        return run(problem, warmed)

    ours = path(lambda theta: NAG(theta, problem.rate, 0.1))
    torchs = path(lambda theta: SGD(theta, problem.rate, 0.1, nesterov=True))
    assert distance(ours, torchs) <= 1e-12


@pytest.mark.parametrize(
    "make",
    [
        lambda theta: HeavyBall(theta, 0.1, 0.5, differentiable=True),
        lambda theta: NAG(theta, 0.1, 0.5, differentiable=True),
        lambda theta: NAGConvex(theta, 0.1, differentiable=True),
        lambda theta: NAGStronglyConvex(theta, 0.1, 0.5, differentiable=True),
        lambda theta: NAGStronglyConvex(theta, 0.1, 0.5, restart="gradient", differentiable=True),
    ],
    ids=["HeavyBall", "NAG", "NAGConvex", "NAGStronglyConvex", "restarted"],
)
def test_the_end_is_differentiable_with_respect_to_the_start(
    make: Callable[[list[Tensor]], Optimizer],
) -> None:
    def end(x0: Tensor) -> Tensor:
        x = x0.clone()
        optimizer = make([x])
        for _ in range(20):
            x.grad = x + torch.sin(3 * x)  # of x^2/2 - cos(3 x)/3
            optimizer.step()
        return x

    x0 = torch.tensor([1.0, -0.4, 2.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(end, (x0,))
