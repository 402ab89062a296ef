"""PowerSign and AddSign against references written from the paper's equations."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_optreg.optimizers import AddSign, PowerSign
from lightning_optreg.optimizers._sign_decay import sign_decay
from tests.optimizers.problems import PROBLEMS, SOME_PROBLEMS, Problem, distance, gradient, run

T = 160
F: dict[str, Callable[[int], float]] = {
    "none": lambda t: 1.0,
    "linear": lambda t: max(0.0, (T - t) / T),
    "cosine": lambda t: 0.5 * (1 + math.cos(2 * math.pi * 0.5 * t / T)),
    "restart": lambda t: 0.5 * (1 + math.cos(math.pi * math.fmod(3 * t, T) / T)),
}
OPTIONS: dict[str, dict[str, Any]] = {"restart": {"periods": 3.0}}


def sign(x: float) -> int:
    return (x > 0) - (x < 0)


def reference(problem: Problem, factor: Callable[[float, int], float], beta: float, decay: str) -> Any:
    """Number by number: m_t = beta m + (1 - beta) g; theta -= eta factor(f(t), sign g sign m) g."""
    theta, path = problem.start(), []
    m = [[0.0] * t.numel() for t in theta]
    eta = problem.rate / 2
    path.append(theta)
    for t in range(200):
        new = []
        for x, g, average in zip(theta, gradient(problem.loss, theta), m, strict=True):
            values = x.flatten().tolist()
            for i, gi in enumerate(g.flatten().tolist()):
                average[i] = beta * average[i] + (1 - beta) * gi
                values[i] -= eta * factor(F[decay](t), sign(gi) * sign(average[i])) * gi
            new.append(torch.tensor(values, dtype=torch.float64).reshape(x.shape))
        theta = new
        path.append(theta)
    return path


@pytest.mark.parametrize("decay", F)
@pytest.mark.parametrize("name", SOME_PROBLEMS)
@pytest.mark.parametrize("rule", ["PowerSign", "AddSign"])
def test_follows_the_paper(rule: str, name: str, decay: str) -> None:
    problem = PROBLEMS[name]
    common: dict[str, Any] = {
        "lr": problem.rate / 2,
        "beta": 0.8,
        "decay": decay,
        "decay_steps": None if decay == "none" else T,
        **OPTIONS.get(decay, {}),
    }
    if rule == "PowerSign":
        expected = reference(problem, lambda f, s: 2.5 ** (f * s), 0.8, decay)
    else:
        expected = reference(problem, lambda f, s: 0.9 + f * s, 0.8, decay)
    for foreach in (False, True):

        def make(theta: list[Tensor], foreach: bool = foreach) -> torch.optim.Optimizer:
            if rule == "PowerSign":
                return PowerSign(theta, base=2.5, foreach=foreach, **common)
            return AddSign(theta, alpha=0.9, foreach=foreach, **common)

        assert distance(run(problem, make), expected) <= 1e-10


def test_defaults_are_the_papers() -> None:
    theta = torch.zeros(1, requires_grad=True)
    power, add = PowerSign([theta]).defaults, AddSign([theta]).defaults
    assert (power["lr"], power["base"], power["beta"], power["decay"]) == (0.1, math.e, 0.9, "none")
    assert (add["lr"], add["alpha"], add["beta"], add["decay"]) == (0.1, 1.0, 0.9, "none")


@pytest.mark.parametrize("foreach", [False, True])
def test_signs(foreach: bool) -> None:
    """Agreement, disagreement and zeros, also where g m is below the smallest float32."""
    g1 = torch.tensor([1.0, 1.0, 0.0, 1e-30])
    g2 = torch.tensor([1.0, -0.5, 0.0, 1e-30])
    factors = {}
    for cls, settings in ((PowerSign, {"base": 4.0}), (AddSign, {})):
        theta = torch.zeros(4, requires_grad=True)
        optimizer = cls([theta], lr=1.0, foreach=foreach, **settings)  # type: ignore[arg-type]
        theta.grad = g1
        optimizer.step()
        with torch.no_grad():
            theta.zero_()
        theta.grad = g2
        optimizer.step()
        factors[cls.__name__] = (-theta.detach() / g2).nan_to_num(0.0)
    torch.testing.assert_close(factors["PowerSign"], torch.tensor([4.0, 0.25, 0.0, 4.0]))
    torch.testing.assert_close(factors["AddSign"], torch.tensor([2.0, 0.0, 0.0, 2.0]))


def test_without_say_of_the_signs_both_are_gradient_descent() -> None:
    problem = PROBLEMS["small_network"]
    descent = run(problem, lambda theta: torch.optim.SGD(theta, 0.05))
    assert distance(descent, run(problem, lambda theta: PowerSign(theta, 0.05, base=1.0))) <= 1e-13
    decayed = run(problem, lambda theta: AddSign(theta, 0.05, decay="linear", decay_steps=1), 1)
    assert distance(descent[:1], decayed[:1]) == 0.0
    theta = [t.requires_grad_() for t in problem.start()]
    optimizer = AddSign(theta, 0.05, decay="linear", decay_steps=1)
    optimizer.step()  # f(0) = 1, without gradients; from here f = 0
    for _ in range(200):
        optimizer.zero_grad()
        problem.loss(theta).backward()
        optimizer.step()
    assert distance([[t.detach() for t in theta]], descent[-1:]) <= 1e-13


@pytest.mark.parametrize(
    ("decay", "periods", "values"),
    [
        ("none", None, (1, 1, 1, 1)),
        ("linear", None, (1, 0.5, 0, 0)),
        ("cosine", None, (1, 0.5, 0, 1)),
        ("cosine", 1.0, (1, 0, 1, 1)),
        ("restart", None, (1, 0.5, 1, 1)),
        ("restart", 2.0, (1, 1, 1, 1)),
    ],
)
def test_decays_at_0_half_t_t_and_2_t(decay: Any, periods: float | None, values: tuple[float, ...]) -> None:
    got = [sign_decay(decay, t, 100, periods) for t in (0, 50, 100, 200)]
    assert got == pytest.approx(values, abs=1e-12)


def test_decays_refuse_what_they_do_not_know() -> None:
    with pytest.raises(ValueError, match="total must be given"):
        sign_decay("cosine", 1, None)
    with pytest.raises(ValueError, match="decay must be"):
        sign_decay("sine", 1, 10)  # type: ignore[arg-type]


def test_a_group_added_later_decays_with_the_others() -> None:
    first, second = torch.ones(1, requires_grad=True), torch.ones(1, requires_grad=True)
    optimizer = AddSign([first], lr=0.1, decay="linear", decay_steps=4)
    for _ in range(2):
        first.grad = torch.ones(1)
        optimizer.step()
    optimizer.add_param_group({"params": [second]})
    second.grad = torch.ones(1)
    optimizer.step()
    assert float(second.detach()) == pytest.approx(1 - 0.1 * 1.5)


@pytest.mark.parametrize("make", [PowerSign, AddSign])
def test_gradients_flow_through_the_step(make: Any) -> None:
    def three_steps(start: Tensor) -> Tensor:
        theta = start.clone()
        optimizer = make([theta], differentiable=True)
        for _ in range(3):
            theta.grad = (theta - 3.0) * start
            optimizer.step()
        return theta

    start = torch.tensor([0.7, -1.2], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(three_steps, (start,))


def test_power_sign_multiplies_small_gradients_in_half_precision_too() -> None:
    moved = []
    for foreach in (False, True):
        theta = torch.ones(2, dtype=torch.float16, requires_grad=True)
        theta.grad = torch.tensor([1e-5, -1e-6], dtype=torch.float16)
        PowerSign([theta], lr=1000.0, foreach=foreach).step()
        moved.append(theta.detach())
    torch.testing.assert_close(moved[1], moved[0])
    assert 1.0 - moved[1][0].item() == pytest.approx(1000.0 * math.e * 1e-5, rel=0.02)
