"""BFGS against a reference of its definition, its theory on quadratics, torch's LBFGS, what it refuses."""

import copy
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_optreg.optimizers import BFGS
from lightning_optreg.optimizers._flat_vectors import flatten, unflatten
from lightning_optreg.optimizers.bfgs import update_inverse
from tests.optimizers.problems import PROBLEMS, SOME_PROBLEMS, Problem

CURVATURES = torch.tensor([1.0, 3.0, 7.0, 20.0], dtype=torch.float64)


def rotated(n: int) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    q, _ = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))
    return q @ torch.diag(CURVATURES) @ q.T


HESSIAN = rotated(4)
QUADRATIC = Problem(
    lambda: [torch.tensor([1.0, -1.0, 2.0, 0.5], dtype=torch.float64)],
    lambda x: 0.5 * x[0] @ HESSIAN @ x[0],
    0.05,
)


def close(theta: list[Tensor], problem: Problem, optimizer: torch.optim.Optimizer) -> Any:
    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = problem.loss(theta)
        loss.backward()
        return loss

    return closure


def train(problem: Problem, steps: int, **options: Any) -> tuple[list[Tensor], BFGS]:
    theta = [t.requires_grad_() for t in problem.start()]
    optimizer = BFGS(theta, **options)
    path = [flatten(theta).detach().clone()]
    for _ in range(steps):
        optimizer.step(close(theta, problem, optimizer))
        path.append(flatten(theta).detach().clone())
    return path, optimizer


def reference_step(
    problem: Problem, theta: Tensor, h: Tensor | None, decay: float, armijo: bool, rate: float
) -> tuple[Tensor, Tensor | None]:
    """From the definition, with products of whole matrices, and with backtracking or a fixed rate."""
    like = problem.start()

    def loss(v: Tensor) -> Tensor:
        return problem.loss(unflatten(v, like)) + decay / 2 * v.square().sum()

    def gradient(v: Tensor) -> Tensor:
        return torch.autograd.functional.jacobian(loss, v)

    eye = torch.eye(len(theta), dtype=theta.dtype)
    g = gradient(theta)
    if float(g.abs().max()) == 0.0:
        return theta, h
    if h is not None and float(g @ h @ g) <= 0.0:
        h = None
    t = rate if h is not None else rate * min(1.0, 1.0 / float(g.abs().sum()))
    d = -(eye if h is None else h) @ g
    if armijo:
        f = float(loss(theta))
        for _ in range(25):
            if float(loss(theta + t * d)) <= f + 1e-4 * t * float(g @ d):
                break
            t /= 2
        else:
            return theta, None
    s = t * d
    y = gradient(theta + s) - g
    if float(y @ s) > 1e-10 * float(s.norm()) * float(y.norm()):
        if h is None:
            h = eye * float(y @ s) / float(y @ y)
        rho = 1.0 / float(y @ s)
        left = eye - rho * torch.outer(s, y)
        h = left @ h @ left.T + rho * torch.outer(s, s)
    return theta + s, h


@pytest.mark.parametrize("name", SOME_PROBLEMS)
@pytest.mark.parametrize("line_search", ["armijo", None])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_follows_the_reference(name: str, line_search: Any, decay: float) -> None:
    """Each of 200 steps, until it has converged, from where the one before has led.

    Left alone, both multiply rounding errors on their way through Rosenbrock's valley and the network's
    saddles; on the other two problems they agree all the way (below).
    """
    problem, rate = PROBLEMS[name], 1.0 if line_search else 0.2
    theta = [t.requires_grad_() for t in problem.start()]
    optimizer = BFGS(theta, lr=rate, line_search=line_search, weight_decay=decay)
    state = optimizer.state[theta[0]]
    checked = 0
    for _ in range(200):
        before, h = flatten(theta).detach().clone(), state.get("inverse")
        expected, expected_h = reference_step(problem, before, h, decay, line_search == "armijo", rate)
        optimizer.step(close(theta, problem, optimizer))
        if float((expected - before).norm()) < 1e-8 * float(before.norm()):
            break  # after this both divide rounding errors by rounding errors
        checked += 1
        assert (flatten(theta).detach() - expected).abs().max() <= 1e-10
        if expected_h is not None:
            assert (state["inverse"] - expected_h).abs().max() <= 1e-7 * expected_h.abs().max()
    assert checked > 5


@pytest.mark.parametrize("name", ["quadratic", pytest.param("logistic_regression", marks=pytest.mark.slow)])
@pytest.mark.parametrize("line_search", ["armijo", None])
def test_follows_the_reference_all_the_way(name: str, line_search: Any) -> None:
    problem, rate, decay = PROBLEMS[name], 1.0 if line_search else 0.2, 0.01
    ours, _ = train(problem, 200, lr=rate, line_search=line_search, weight_decay=decay)
    theta, h = ours[0], None
    for step in range(200):
        theta, h = reference_step(problem, theta, h, decay, line_search == "armijo", rate)
        assert (ours[step + 1] - theta).abs().max() <= (1e-10 if step < 15 else 1e-7)


@pytest.mark.parametrize("name", SOME_PROBLEMS)
def test_strong_wolfe_ends_at_a_minimum(name: str) -> None:
    decay = 0.1
    path, _ = train(PROBLEMS[name], 100, weight_decay=decay)
    like = PROBLEMS[name].start()

    def loss(v: Tensor) -> Tensor:
        return PROBLEMS[name].loss(unflatten(v, like)) + decay / 2 * v.square().sum()

    assert torch.autograd.functional.jacobian(loss, path[-1]).abs().max() < 1e-6
    losses = [float(loss(v)) for v in path]
    assert all(b <= a + 1e-15 for a, b in pairwise(losses))


def test_converges_superlinearly() -> None:
    path, _ = train(PROBLEMS["rosenbrock"], 60)
    errors = [float((theta - 1.0).norm()) for theta in path]
    ratios = [b / a for a, b in pairwise(errors) if 1e-9 < a < 1e-3]
    assert errors[-1] < 1e-8
    assert min(ratios) < 1e-2
    assert ratios[-1] < 0.05


# ---- theory on quadratics ----------------------------------------------------------------------------------


def test_ends_a_quadratic_in_n_exact_steps() -> None:
    path, optimizer = train(QUADRATIC, 4, c2=1e-9, c1=1e-10)
    sizes = [float(theta.norm()) for theta in path]
    assert sizes[4] < 1e-8 * sizes[0]
    assert sizes[3] > 1e-3 * sizes[0]
    inverse = next(iter(optimizer.state.values()))["inverse"]
    torch.testing.assert_close(inverse, torch.linalg.inv(HESSIAN), rtol=1e-6, atol=1e-8)


def test_exact_steps_are_those_of_conjugate_gradients() -> None:
    """On a quadratic, from a multiple of the identity (Nocedal & Wright, theorem 6.4)."""
    x = QUADRATIC.start()[0]
    residual = -HESSIAN @ x
    direction = residual
    expected = [x]
    for _ in range(3):
        alpha = residual @ residual / (direction @ HESSIAN @ direction)
        x = x + alpha * direction
        new = residual - alpha * HESSIAN @ direction
        direction = new + (new @ new) / (residual @ residual) * direction
        residual = new
        expected.append(x)
    path, _ = train(QUADRATIC, 3, c2=1e-9, c1=1e-10)
    torch.testing.assert_close(torch.stack(path), torch.stack(expected), rtol=0, atol=1e-9)


def test_update_fulfils_the_secant_equation_and_inverts_the_direct_update() -> None:
    generator = torch.Generator().manual_seed(2)
    b = rotated(4)
    s = torch.randn(4, generator=generator, dtype=torch.float64)
    y = HESSIAN @ s + 0.3 * s
    inverse = update_inverse(torch.linalg.inv(b), s, y)
    torch.testing.assert_close(inverse @ y, s)
    bs = b @ s
    direct = b - torch.outer(bs, bs) / (s @ bs) + torch.outer(y, y) / (y @ s)
    torch.testing.assert_close(inverse, torch.linalg.inv(direct))
    torch.testing.assert_close(inverse, inverse.T)
    assert torch.linalg.eigvalsh(inverse).min() > 0


def test_the_secant_equation_holds_after_each_step() -> None:
    problem = PROBLEMS["small_network"]
    theta = [t.requires_grad_() for t in problem.start()]
    optimizer = BFGS(theta)
    closure = close(theta, problem, optimizer)

    def state() -> tuple[Tensor, Tensor]:
        closure()
        return flatten(theta).detach().clone(), flatten([t.grad for t in theta if t.grad is not None]).clone()

    for _ in range(10):
        (before, g), _ = state(), optimizer.step(closure)
        after, g_new = state()
        inverse = next(iter(optimizer.state.values()))["inverse"]
        torch.testing.assert_close(inverse.mv(g_new - g), after - before, rtol=1e-9, atol=1e-12)


def test_pairs_of_negative_curvature_are_left_out() -> None:
    """f = -x^2 with a small fixed rate: gradients change against the step."""
    concave = Problem(lambda: [torch.tensor([0.1], dtype=torch.float64)], lambda x: -x[0].square().sum(), 0.0)
    path, optimizer = train(concave, 3, line_search=None, lr=0.01)
    assert "inverse" not in next(iter(optimizer.state.values()))
    assert path[-1] > path[0]


def test_starts_anew_where_there_is_no_descent() -> None:
    theta = [torch.tensor([1.0, 1.0], dtype=torch.float64, requires_grad=True)]
    problem = Problem(lambda: theta, lambda x: x[0].square().sum(), 0.0)
    optimizer = BFGS(theta)
    optimizer.state[theta[0]]["inverse"] = -torch.eye(2, dtype=torch.float64)
    optimizer.step(close(theta, problem, optimizer))
    assert float(theta[0].detach().norm()) < 1.4
    assert torch.linalg.eigvalsh(optimizer.state[theta[0]]["inverse"]).min() > 0


# ---- beside torch's LBFGS ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["quadratic", "rosenbrock"])
def test_is_lbfgs_with_a_whole_history_and_one_first_scale(name: str) -> None:
    """Both begin alike and end at the same minimum; torch rescales its first matrix, BFGS does not."""
    problem = PROBLEMS[name]
    ours = [t.requires_grad_() for t in problem.start()]
    theirs = [t.requires_grad_() for t in problem.start()]
    bfgs = BFGS(ours, iterations=60)
    lbfgs = torch.optim.LBFGS(
        theirs, max_iter=60, tolerance_grad=0, tolerance_change=0, line_search_fn="strong_wolfe"
    )
    bfgs.step(close(ours, problem, bfgs))
    lbfgs.step(close(theirs, problem, lbfgs))
    torch.testing.assert_close(flatten(ours), flatten(theirs), rtol=0, atol=1e-6)


def test_several_iterations_in_a_step_are_several_steps() -> None:
    problem = PROBLEMS["small_network"]
    one, _ = train(problem, 12)
    several, _ = train(problem, 3, iterations=4)
    torch.testing.assert_close(one[-1], several[-1], rtol=0, atol=1e-12)


def test_no_evaluation_is_wasted_within_a_step() -> None:
    calls = []
    problem = PROBLEMS["quadratic"]
    theta = [t.requires_grad_() for t in problem.start()]
    optimizer = BFGS(theta, iterations=5, line_search=None, lr=0.1)
    closure = close(theta, problem, optimizer)
    optimizer.step(lambda: calls.append(1) or closure())
    assert len(calls) == 6


# ---- etiquette ---------------------------------------------------------------------------------------------


def test_maximize() -> None:
    problem = PROBLEMS["small_network"]
    negative = Problem(problem.start, lambda theta: -problem.loss(theta), problem.rate)
    up, _ = train(negative, 10, maximize=True, weight_decay=0.1)
    down, _ = train(problem, 10, weight_decay=0.1)
    assert torch.equal(up[-1], down[-1])


def test_a_loaded_state_goes_on_as_if_nothing_had_happened() -> None:
    problem = PROBLEMS["small_network"]
    theta = [t.requires_grad_() for t in problem.start()]
    optimizer = BFGS(theta)
    for _ in range(4):
        optimizer.step(close(theta, problem, optimizer))
    again = [t.detach().clone().requires_grad_() for t in theta]
    loaded = BFGS(again, lr=0.5)
    loaded.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for _ in range(4):
        optimizer.step(close(theta, problem, optimizer))
        loaded.step(close(again, problem, loaded))
    assert all(torch.equal(a, b) for a, b in zip(theta, again, strict=True))


def test_float32_and_parameters_that_are_not_used() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    idle = nn.Parameter(torch.ones(2))
    x, y = torch.randn(30, 3), torch.randint(2, (30,))
    optimizer = BFGS([*net.parameters(), idle], iterations=30)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(x), y)
        loss.backward()
        return loss

    first = float(optimizer.step(closure).detach())
    assert float(closure().detach()) < 0.7 * first
    assert idle.tolist() == [1.0, 1.0]


def test_at_a_minimum_nothing_happens() -> None:
    theta = torch.zeros(2, requires_grad=True)
    optimizer = BFGS([theta])
    problem = Problem(lambda: [theta], lambda x: x[0].square().sum(), 0.0)
    optimizer.step(close([theta], problem, optimizer))
    assert theta.tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"lr": 0.0}, "lr must be in"),
        ({"lr": float("nan")}, "lr must be in"),
        ({"line_search": "exact"}, "line_search must be"),
        ({"iterations": 0}, "iterations must be >= 1"),
        ({"max_evaluations": 0}, "max_evaluations must be >= 1"),
        ({"c1": 0.0}, "c1 must be in"),
        ({"c1": 0.5, "c2": 0.5}, "c2 must be in"),
        ({"curvature_eps": -1.0}, "curvature_eps must be in"),
        ({"tolerance_grad": -1.0}, "tolerance_grad must be in"),
        ({"weight_decay": float("nan")}, "weight_decay must be in"),
        ({"max_parameters": 0}, "max_parameters must be >= 1"),
        ({"max_parameters": 2}, "takes at most 2 numbers, got 3: .*use LBFGS"),
    ],
)
def test_wrong_settings(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=f"^BFGS: {text}"):
        BFGS([torch.zeros(3, requires_grad=True)], **options)


def test_wrong_parameters_and_closures() -> None:
    one = torch.zeros(1, requires_grad=True)
    with pytest.raises(ValueError, match="BFGS: takes one parameter group, got 2"):
        BFGS([{"params": [one]}, {"params": [torch.zeros(1, requires_grad=True)]}])
    with pytest.raises(ValueError, match="all float32 or all float64, got bfloat16"):
        BFGS([torch.zeros(3, dtype=torch.bfloat16, requires_grad=True)])
    with pytest.raises(ValueError, match="all float32 or all float64, got complex64"):
        BFGS([torch.zeros(3, dtype=torch.complex64, requires_grad=True)])
    with pytest.raises(RuntimeError, match="BFGS: step needs a closure"):
        BFGS([one]).step()
    table = nn.Embedding(4, 2, sparse=True)
    optimizer = BFGS(table.parameters())
    problem = Problem(lambda: [], lambda _: table(torch.tensor([1, 2])).square().sum(), 0.0)
    with pytest.raises(RuntimeError, match="BFGS: sparse gradients are not supported"):
        optimizer.step(close([], problem, optimizer))


def test_weight_decay_leaves_frozen_parameters_alone() -> None:
    frozen, theta = torch.tensor([3.0]), torch.tensor([3.0], requires_grad=True)
    optimizer = BFGS([frozen, theta], weight_decay=0.5)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (theta * frozen - 1.0).square().sum()
        loss.backward()
        return loss

    for _ in range(10):
        optimizer.step(closure)
    assert frozen.item() == 3.0
    assert theta.item() == pytest.approx(6.0 / 18.5, abs=1e-4)  # 2 * 3 (3 theta - 1) + 0.5 theta = 0
