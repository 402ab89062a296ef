"""The four problems on which update rules are compared with slow references, all in float64."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.optim import Optimizer

Loss = Callable[[list[Tensor]], Tensor]


@dataclass(frozen=True)
class Problem:
    """A start and a loss.

    Attributes:
        start: Makes the tensors to begin with.
        loss: Pure function of such tensors.
        rate: A learning rate at which gradient descent goes downhill for 200 steps.
    """

    start: Callable[[], list[Tensor]]
    loss: Loss
    rate: float


def _quadratic(x: list[Tensor]) -> Tensor:
    (theta,) = x
    curvatures = torch.linspace(0.1, 10.0, len(theta), dtype=theta.dtype)
    return 0.5 * (curvatures * (theta - 1.0).square()).sum()


def _rosenbrock(x: list[Tensor]) -> Tensor:
    a, b = x
    return (1.0 - a).square() + 100.0 * (b - a.square()).square()


def _data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 4, generator=generator, dtype=torch.float64)
    y = (x @ torch.tensor([1.0, -2.0, 0.5, 0.0], dtype=torch.float64) > 0.3).double()
    return x, y


def _logistic_regression(theta: list[Tensor]) -> Tensor:
    (x, y), (w, b) = _data(), theta
    scores = x @ w + b
    return torch.nn.functional.binary_cross_entropy_with_logits(scores, y)


def _small_network(theta: list[Tensor]) -> Tensor:
    (x, y), (w1, b1, w2) = _data(), theta
    return (torch.tanh(x @ w1 + b1) @ w2 - y).square().mean()


def _zeros(*shapes: tuple[int, ...]) -> list[Tensor]:
    return [torch.zeros(shape, dtype=torch.float64) for shape in shapes]


def _network_start() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [
        0.5 * torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((4, 5), (5,), (5,))
    ]


PROBLEMS: dict[str, Problem] = {
    "quadratic": Problem(lambda: _zeros((6,)), _quadratic, 0.02),
    "rosenbrock": Problem(
        lambda: [torch.tensor(value, dtype=torch.float64) for value in (-1.2, 1.0)], _rosenbrock, 2e-4
    ),
    "logistic_regression": Problem(lambda: _zeros((4,), ()), _logistic_regression, 0.1),
    "small_network": Problem(_network_start, _small_network, 0.05),
}
SOME_PROBLEMS = [
    pytest.param(name, marks=[] if name == "rosenbrock" else pytest.mark.slow) for name in PROBLEMS
]
"""All of them; in a curved valley each term of a rule shows, so the others are left to the slow tests."""


def gradient(loss: Loss, tensors: list[Tensor]) -> list[Tensor]:
    """Differentiate a loss at tensors, which stay as they are."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in tensors]
    return list(torch.autograd.grad(loss(leaves), leaves))


def run(problem: Problem, make: Callable[[list[Tensor]], Optimizer], steps: int = 200) -> list[list[Tensor]]:
    """Return the tensors before the first step and after each."""
    theta = [tensor.requires_grad_() for tensor in problem.start()]
    optimizer = make(theta)
    path = [[tensor.detach().clone() for tensor in theta]]
    for _ in range(steps):
        optimizer.zero_grad()
        problem.loss(theta).backward()
        optimizer.step()
        path.append([tensor.detach().clone() for tensor in theta])
    return path


def distance(a: list[list[Tensor]], b: list[list[Tensor]]) -> float:
    """Largest difference of any number anywhere on two paths of the same length."""
    return max(
        float((x - y).abs().max()) for u, v in zip(a, b, strict=True) for x, y in zip(u, v, strict=True)
    )
