"""What torch's optimizers and our `lecture` forms compute: 200 steps against references by the equations."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import (
    LBFGS,
    SGD,
    Adadelta,
    Adagrad,
    Adam,
    Adamax,
    AdamW,
    NAdam,
    Optimizer,
    RMSprop,
)

from lightning_optreg.optimizers import (
    NAG,
    HeavyBall,
    LectureAdagrad,
    LectureAdam,
    LectureAdaMax,
    LectureAMSGrad,
    LectureNAdam,
    LectureRMSprop,
)
from tests.optimizers.lecture_rules import (
    Rule,
    adadelta,
    adagrad,
    adam,
    adam_within,
    adamax,
    adamw,
    amsgrad,
    by_numbers,
    descent,
    momentum,
    nadam,
    nesterov_ahead,
    rmsprop,
    torch_adagrad,
    torch_adamax,
    torch_amsgrad,
    torch_dampened,
    torch_nadam,
    torch_nesterov,
    torch_rmsprop,
)
from tests.optimizers.problems import PROBLEMS, SOME_PROBLEMS, distance, gradient, run

Make = Callable[[list[Tensor]], Optimizer]
BETAS = {"beta1": 0.8, "beta2": 0.9}
PAIR = (0.8, 0.9)
LR = 0.002
LOW = 0.0005  # where at 0.002 a rule jumps from side to side of Rosenbrock's valley, and rounding errors grow

# An epsilon of 0.01 makes its place show: at 1e-8 the two forms are hard to tell apart.
LECTURE: dict[str, tuple[Make, Rule]] = {
    "SGD": (partial(SGD, lr=2e-4), partial(descent, eta=2e-4)),
    "Momentum": (partial(SGD, lr=2e-4, momentum=0.9), partial(momentum, eta=2e-4, gamma=0.9)),
    "HeavyBall": (partial(HeavyBall, lr=2e-4, momentum=0.9), partial(momentum, eta=2e-4, gamma=0.9)),
    "Nesterov": (
        partial(SGD, lr=2e-4, momentum=0.9, nesterov=True),
        partial(nesterov_ahead, eta=2e-4, gamma=0.9),
    ),
    "NAG": (partial(NAG, lr=2e-4, momentum=0.9), partial(nesterov_ahead, eta=2e-4, gamma=0.9)),
    "Adadelta": (Adadelta, partial(adadelta, gamma=0.9, eps=1e-6)),
    "Adam": (partial(Adam, lr=LR, betas=PAIR, eps=0.01), partial(adam, eta=LR, eps=0.01, **BETAS)),
    "AdamW": (
        partial(AdamW, lr=LR, betas=PAIR, eps=0.01, weight_decay=0.3),
        partial(adamw, eta=LR, eps=0.01, decay=0.3, **BETAS),
    ),
    "LectureAdagrad": (partial(LectureAdagrad, lr=LR, eps=0.01), partial(adagrad, eta=LR, eps=0.01)),
    "LectureRMSprop": (
        partial(LectureRMSprop, lr=LOW, alpha=0.8, eps=0.01),
        partial(rmsprop, eta=LOW, gamma=0.8, eps=0.01),
    ),
    "LectureAdam": (
        partial(LectureAdam, lr=LR, betas=PAIR, eps=0.01),
        partial(adam_within, eta=LR, eps=0.01, **BETAS),
    ),
    "LectureAMSGrad": (
        partial(LectureAMSGrad, lr=LR, betas=PAIR, eps=0.01),
        partial(amsgrad, eta=LR, eps=0.01, **BETAS),
    ),
    "LectureNAdam": (
        partial(LectureNAdam, lr=LOW, betas=PAIR, eps=0.01),
        partial(nadam, eta=LOW, eps=0.01, **BETAS),
    ),
    "LectureAdaMax": (partial(LectureAdaMax, lr=LR, betas=PAIR), partial(adamax, eta=LR, **BETAS)),
}
# Also at the lecture's defaults, which are those of the class.
DEFAULTS: dict[str, tuple[Make, Rule]] = {
    "Adam": (Adam, partial(adam, eta=0.001, beta1=0.9, beta2=0.999, eps=1e-8)),
    "LectureAdagrad": (LectureAdagrad, partial(adagrad, eta=0.01, eps=1e-8)),
    "LectureRMSprop": (LectureRMSprop, partial(rmsprop, eta=0.001, gamma=0.9, eps=1e-8)),
    "LectureAdam": (LectureAdam, partial(adam_within, eta=0.001, beta1=0.9, beta2=0.999, eps=1e-8)),
    "LectureAMSGrad": (LectureAMSGrad, partial(amsgrad, eta=0.001, beta1=0.9, beta2=0.999, eps=1e-8)),
    "LectureNAdam": (LectureNAdam, partial(nadam, eta=0.002, beta1=0.9, beta2=0.999, eps=1e-8)),
    "LectureAdaMax": (LectureAdaMax, partial(adamax, eta=0.002, beta1=0.9, beta2=0.999)),
}
TORCH: dict[str, tuple[Make, Rule, Rule]] = {  # torch's own form, and the lecture's, from which it differs
    "dampening": (
        partial(SGD, lr=2e-4, momentum=0.9, dampening=0.5),
        partial(torch_dampened, eta=2e-4, gamma=0.9, dampening=0.5),
        partial(momentum, eta=2e-4, gamma=0.9),
    ),
    "Adagrad": (
        partial(Adagrad, lr=LR, eps=0.01),
        partial(torch_adagrad, eta=LR, eps=0.01),
        partial(adagrad, eta=LR, eps=0.01),
    ),
    "RMSprop": (
        partial(RMSprop, lr=LOW, alpha=0.8, eps=0.01),
        partial(torch_rmsprop, eta=LOW, gamma=0.8, eps=0.01),
        partial(rmsprop, eta=LOW, gamma=0.8, eps=0.01),
    ),
    "RMSprop's gamma": (
        partial(RMSprop, lr=0.001),
        partial(torch_rmsprop, eta=0.001, gamma=0.99, eps=1e-8),
        partial(rmsprop, eta=0.001, gamma=0.9, eps=1e-8),
    ),
    "Adam": (
        partial(Adam, lr=LR, betas=PAIR, eps=0.01),
        partial(adam, eta=LR, eps=0.01, **BETAS),
        partial(adam_within, eta=LR, eps=0.01, **BETAS),
    ),
    "AMSGrad": (
        partial(Adam, lr=LR, betas=PAIR, eps=0.01, amsgrad=True),
        partial(torch_amsgrad, eta=LR, eps=0.01, **BETAS),
        partial(amsgrad, eta=LR, eps=0.01, **BETAS),
    ),
    "Adamax": (
        partial(Adamax, lr=LR, betas=PAIR, eps=0.01),
        partial(torch_adamax, eta=LR, eps=0.01, **BETAS),
        partial(adamax, eta=LR, **BETAS),
    ),
    "NAdam": (
        partial(NAdam, lr=LOW, betas=PAIR, eps=0.01),
        partial(torch_nadam, eta=LOW, eps=0.01, psi=0.004, **BETAS),
        partial(nadam, eta=LOW, eps=0.01, **BETAS),
    ),
}
both_paths = pytest.mark.parametrize("foreach", [False, True])
every_problem = pytest.mark.parametrize("problem", SOME_PROBLEMS)


@every_problem
@pytest.mark.parametrize("method", LECTURE)
def test_is_the_lectures_equation(method: str, problem: str) -> None:
    make, rule = LECTURE[method]
    expected = by_numbers(PROBLEMS[problem], rule)
    for foreach in (False, True):
        assert distance(run(PROBLEMS[problem], partial(make, foreach=foreach)), expected) <= 1e-10


@every_problem
@pytest.mark.parametrize("method", DEFAULTS)
def test_has_the_lectures_defaults(method: str, problem: str) -> None:
    make, rule = DEFAULTS[method]
    assert distance(run(PROBLEMS[problem], make), by_numbers(PROBLEMS[problem], rule)) <= 1e-10


@pytest.fixture
def float64_scalars() -> Iterator[None]:
    """Let torch's NAdam keep the product of its mu in float64; it is of the default type."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.slow
@every_problem
@pytest.mark.usefixtures("float64_scalars")
@pytest.mark.parametrize("method", TORCH)
def test_torch_differs_as_the_documentation_says(method: str, problem: str) -> None:
    make, torchs, lectures = TORCH[method]
    got = run(PROBLEMS[problem], make)
    assert distance(got, by_numbers(PROBLEMS[problem], torchs)) <= 1e-10
    assert distance(got, by_numbers(PROBLEMS[problem], lectures)) > 1e-6


@every_problem
def test_torchs_nesterov_is_the_shifted_form(problem: str) -> None:
    """Its parameters are the lecture's theta - gamma v at a constant rate, and not theta."""
    got = run(PROBLEMS[problem], partial(SGD, lr=2e-4, momentum=0.9, nesterov=True))
    shifted = by_numbers(PROBLEMS[problem], partial(torch_nesterov, eta=2e-4, gamma=0.9))
    assert distance(got, shifted) <= 1e-10


def changing(optimizer: Optimizer, theta: Tensor) -> list[float]:
    """Four steps with gradient 1 whose rate falls to a tenth after the second."""
    values = []
    for rate in (1.0, 1.0, 0.1, 0.1):
        theta.grad = torch.ones_like(theta)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        values.append(theta.item())
    return values


def test_torchs_momentum_scales_old_velocity_by_the_new_rate_and_heavy_ball_does_not() -> None:
    ours, torchs = (torch.zeros((), dtype=torch.float64, requires_grad=True) for _ in range(2))
    v, x, expected = 0.0, 0.0, []
    for eta in (1.0, 1.0, 0.1, 0.1):
        v = 0.5 * v + eta
        x -= v
        expected.append(x)
    assert changing(HeavyBall([ours], momentum=0.5), ours) == pytest.approx(expected, abs=1e-15)
    got = changing(SGD([torchs], momentum=0.5), torchs)
    assert got[:2] == pytest.approx(expected[:2], abs=1e-15)
    assert abs(got[2] - expected[2]) > 0.1


def test_adamax_leaves_alone_what_has_no_slope() -> None:
    theta = torch.ones(2, requires_grad=True)
    for foreach in (False, True):
        theta.grad = torch.tensor([0.0, 1.0])
        LectureAdaMax([theta], foreach=foreach).step()
    assert theta[0].item() == 1.0
    assert theta[1].item() == pytest.approx(1 - 2 * 0.002)


@both_paths
@pytest.mark.parametrize("cls", [LectureAdam, LectureNAdam, LectureAdaMax])
def test_each_parameter_is_corrected_by_its_own_steps(cls: Any, foreach: bool) -> None:
    """One without gradients at first goes on as if it had begun when they came."""
    early, late, alone = (torch.ones(2, dtype=torch.float64, requires_grad=True) for _ in range(3))
    together, single = cls([early, late], foreach=foreach), cls([alone], foreach=foreach)
    for step in range(6):
        early.grad = torch.full_like(early, 0.3 + step)
        if step >= 2:
            late.grad = torch.full_like(late, 1.0 - 0.1 * step)
            alone.grad = late.grad.clone()
            single.step()
        together.step()
    torch.testing.assert_close(late.detach(), alone.detach(), rtol=1e-15, atol=0)


@pytest.mark.parametrize(
    "cls", [LectureAdagrad, LectureRMSprop, LectureAdam, LectureAMSGrad, LectureNAdam, LectureAdaMax]
)
def test_gradients_flow_through_the_step(cls: Any) -> None:
    def three_steps(start: Tensor) -> Tensor:
        theta = start.clone()
        optimizer = cls([theta], lr=0.1, differentiable=True)
        for _ in range(3):
            theta.grad = (theta - 3.0) * start
            optimizer.step()
        return theta

    start = torch.tensor([0.7, -1.2], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(three_steps, (start,))


def test_lbfgs_is_the_two_loop_recursion_on_a_quadratic() -> None:
    """Against directions -H g from the BFGS formula for H itself, started anew from gamma I in every step."""
    problem, lr, history = PROBLEMS["quadratic"], 0.02, 4
    theta = [t.requires_grad_() for t in problem.start()]
    optimizer = LBFGS(
        theta, lr=lr, max_iter=200, max_eval=1000, history_size=history, tolerance_grad=0, tolerance_change=0
    )
    seen = []

    def closure() -> Tensor:
        seen.append(theta[0].detach().clone())
        optimizer.zero_grad()
        loss = problem.loss(theta)
        loss.backward()
        return loss

    optimizer.step(closure)
    x, pairs = problem.start()[0], []
    (g,) = gradient(problem.loss, [x])
    path = [x]
    for k in range(199):
        h = torch.eye(len(x), dtype=torch.float64)
        if pairs:
            s, y = pairs[-1]
            h = h * (y @ s) / (y @ y)
        for s, y in pairs:
            rho, one = 1 / (y @ s), torch.eye(len(x), dtype=torch.float64)
            h = (one - rho * torch.outer(s, y)) @ h @ (one - rho * torch.outer(y, s))
            h = h + rho * torch.outer(s, s)
        step = (min(1.0, 1 / float(g.abs().sum())) if k == 0 else 1.0) * lr
        new = x - step * (h @ g)
        (slope,) = gradient(problem.loss, [new])
        if (slope - g) @ (new - x) > 1e-10:  # torch keeps no others
            pairs = [*pairs, (new - x, slope - g)][-history:]
        x, g = new, slope
        path.append(x)
    assert len(seen) == 200
    assert float((torch.stack(seen) - torch.stack(path)).abs().max()) <= 1e-10


@pytest.mark.parametrize("foreach", [False, True])
def test_adamax_without_memory_of_sizes_stays_where_the_slope_is_0(foreach: bool) -> None:
    theta = torch.ones(2, requires_grad=True)
    optimizer = LectureAdaMax([theta], lr=0.25, betas=(0.5, 0.0), foreach=foreach)
    for slopes in ([1.0, 1.0], [1.0, 0.0]):
        theta.grad = torch.tensor(slopes)
        optimizer.step()
    assert theta.tolist() == pytest.approx([0.5, 0.75])
