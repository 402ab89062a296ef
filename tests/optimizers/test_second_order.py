"""The mathematics under Newton and BFGS: conjugate gradients, line searches, second derivatives."""

import math

import pytest
import torch
from torch import Tensor

from lightning_optreg.optimizers._conjugate_gradient import conjugate_gradient
from lightning_optreg.optimizers._flat_vectors import flatten, move, unflatten
from lightning_optreg.optimizers._line_search import Point, armijo, strong_wolfe
from lightning_optreg.optimizers.derivatives import (
    hessian,
    hessian_products,
    loss_and_gradient,
    loss_value,
)
from tests.optimizers.problems import PROBLEMS


def spd(n: int, condition: float) -> Tensor:
    generator = torch.Generator().manual_seed(n)
    q, _ = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))
    return q @ torch.diag(torch.logspace(0, math.log10(condition), n, dtype=torch.float64)) @ q.T


@pytest.mark.parametrize("n", [1, 2, 7, 20])
def test_conjugate_gradients_solve_in_n_steps(n: int) -> None:
    a, b = spd(n, 3.0), torch.linspace(1.0, 2.0, n, dtype=torch.float64)
    solution = conjugate_gradient(a.mv, b, tolerance=1e-12, max_iterations=n)
    torch.testing.assert_close(solution.x, torch.linalg.solve(a, b), rtol=1e-9, atol=1e-12)
    assert solution.iterations <= n
    assert solution.curvature > 0


def test_conjugate_gradients_need_as_many_steps_as_distinct_eigenvalues() -> None:
    a = torch.diag(torch.tensor([1.0, 1.0, 5.0, 5.0, 9.0], dtype=torch.float64))
    b = torch.arange(1.0, 6.0, dtype=torch.float64)
    assert conjugate_gradient(a.mv, b, tolerance=1e-12, max_iterations=5).iterations == 3


def test_conjugate_gradients_stop_at_the_tolerance() -> None:
    a, b = spd(30, 1e4), torch.ones(30, dtype=torch.float64)
    loose, tight = (conjugate_gradient(a.mv, b, tolerance=t, max_iterations=200) for t in (0.1, 1e-8))
    assert loose.iterations < tight.iterations
    assert (a.mv(loose.x) - b).norm() <= 0.1 * b.norm()


def test_conjugate_gradients_stop_at_negative_curvature() -> None:
    a = torch.diag(torch.tensor([1.0, -1.0], dtype=torch.float64))
    uphill = conjugate_gradient(a.mv, torch.tensor([0.0, 1.0]).double(), tolerance=0.0, max_iterations=9)
    assert uphill.x.tolist() == [0.0, 1.0]
    assert uphill.curvature == -1.0
    b = torch.tensor([2.0, 1.0], dtype=torch.float64)  # p = b first: curvature (4 - 1) / 5
    later = conjugate_gradient(a.mv, b, tolerance=0.0, max_iterations=9)
    torch.testing.assert_close(later.x, b * 5.0 / 3.0)
    assert later.iterations == 2
    assert later.curvature < 0.0


# ---- line searches -----------------------------------------------------------------------------------------

LINES = {
    "parabola": (lambda t: (t - 3.0) ** 2, lambda t: 2.0 * (t - 3.0)),
    "far": (lambda t: (t - 1e4) ** 2, lambda t: 2.0 * (t - 1e4)),
    "near": (lambda t: (t - 1e-4) ** 2, lambda t: 2.0 * (t - 1e-4)),
    "sine": (lambda t: 0.1 * t - math.sin(2.0 * t), lambda t: 0.1 - 2.0 * math.cos(2.0 * t)),
    "exponential": (lambda t: math.exp(t) - 9.0 * t, lambda t: math.exp(t) - 9.0),
    # J. J. More, D. J. Thuente 1994, their function (5.1)
    "more_thuente": (
        lambda t: -t / (t**2 + 2.0),
        lambda t: (t**2 - 2.0) / (t**2 + 2.0) ** 2,
    ),
    "wall": (lambda t: math.inf if t > 1.0 else (t - 0.9) ** 2, lambda t: 2.0 * (t - 0.9)),
}


def evaluator(name: str) -> tuple[list[float], object]:
    value, slope = LINES[name]
    tried: list[float] = []

    def evaluate(t: float) -> Point:
        tried.append(t)
        return Point(t, value(t), torch.empty(0), slope(t))

    return tried, evaluate


@pytest.mark.parametrize("name", LINES)
@pytest.mark.parametrize("c2", [0.9, 0.1, 1e-3])
@pytest.mark.parametrize("first", [1e-3, 1.0, 30.0])
def test_strong_wolfe_conditions_hold(name: str, c2: float, first: float) -> None:
    tried, evaluate = evaluator(name)
    start = evaluate(0.0)
    point = strong_wolfe(evaluate, start, first, c2=c2, max_evaluations=60)
    assert point.step > 0.0
    assert point.loss <= start.loss + 1e-4 * point.step * start.slope
    assert abs(point.slope) <= c2 * abs(start.slope)
    assert len(tried) <= 40


@pytest.mark.parametrize("name", LINES)
def test_armijo_halves_to_the_first_step_with_descent(name: str) -> None:
    tried, evaluate = evaluator(name)
    start = evaluate(0.0)
    point = armijo(evaluate, start, 8.0)
    assert point.loss <= start.loss + 1e-4 * point.step * start.slope
    assert tried[1:] == [8.0 * 0.5**k for k in range(len(tried) - 1)]
    value, _ = LINES[name]
    assert all(value(t) > start.loss + 1e-4 * t * start.slope for t in tried[1:-1])


@pytest.mark.parametrize("search", [armijo, strong_wolfe])
def test_a_search_without_success_ends_where_it_began(search: object) -> None:
    def uphill(t: float) -> Point:
        return Point(t, t, torch.empty(0), 1.0)

    start = Point(0.0, 0.0, torch.empty(0), -1.0)  # a slope that is wrong
    assert search(uphill, start, 1.0, max_evaluations=5) is start  # type: ignore[operator]


def test_a_search_on_nan_ends_where_it_began() -> None:
    start = Point(0.0, 0.0, torch.empty(0), -1.0)
    nan = float("nan")
    assert strong_wolfe(lambda t: Point(t, nan, torch.empty(0), nan), start, 1.0) is start


# ---- derivatives -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("parts", [False, True])
def test_derivatives_are_those_of_torch(name: str, parts: bool) -> None:
    problem = PROBLEMS[name]
    theta = [t.requires_grad_() for t in problem.start()]
    theta[0].data.add_(0.1)
    weights = (0.5, 0.3, 0.2)

    def objective() -> object:
        return (w * problem.loss(theta) for w in weights) if parts else problem.loss(theta)

    def flat_loss(v: Tensor) -> Tensor:
        return problem.loss(unflatten(v, theta))

    here = flatten(theta).detach()
    expected = torch.autograd.functional.hessian(flat_loss, here)
    loss, gradient = loss_and_gradient(objective, theta)  # type: ignore[arg-type]
    assert loss == pytest.approx(float(flat_loss(here)), abs=1e-14)
    assert loss_value(objective) == pytest.approx(loss, abs=1e-14)  # type: ignore[arg-type]
    torch.testing.assert_close(gradient, torch.autograd.functional.jacobian(flat_loss, here))
    full = hessian(objective, theta, chunk_size=3)  # type: ignore[arg-type]
    torch.testing.assert_close(full, expected, rtol=1e-12, atol=1e-12)
    multiply = hessian_products(objective, theta)  # type: ignore[arg-type]
    for v in torch.eye(len(here), dtype=here.dtype):
        torch.testing.assert_close(multiply(v), expected.mv(v), rtol=1e-12, atol=1e-12)
    assert all(t.grad is None for t in theta)


def test_a_linear_loss_has_no_curvature() -> None:
    theta = [torch.ones(2, requires_grad=True), torch.ones(1, requires_grad=True)]

    def objective() -> Tensor:
        return 3.0 * theta[0].sum()  # the other one does not occur

    assert loss_and_gradient(objective, theta)[1].tolist() == [3.0, 3.0, 0.0]
    assert hessian(objective, theta).abs().max() == 0.0
    assert hessian_products(objective, theta)(torch.ones(3)).abs().max() == 0.0


def test_moving_and_back_is_exact() -> None:
    theta = [torch.full((2,), 0.1), torch.full((1, 1), 0.3)]
    start = flatten(theta).clone()
    move(theta, start, torch.full((3,), 1.0 / 3.0), 0.7)
    assert not torch.equal(flatten(theta), start)
    move(theta, start, torch.full((3,), float("inf")), 0.0)
    assert torch.equal(flatten(theta), start)
