"""Slow references of the lecture's update equations and of torch's forms of them, for single numbers."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tests.optimizers.problems import Problem, gradient

State = dict[str, Any]
Rule = Callable[[State, float, float, int], float]
"""New value of one number theta, given what is kept, theta, its slope g and the step t = 1, 2, ..."""


def by_numbers(problem: Problem, rule: Rule) -> list[list[Tensor]]:
    """Run a rule for single numbers in plain Python."""
    path = [problem.start()]
    kept: list[list[State]] = [[{} for _ in range(x.numel())] for x in path[0]]
    for t in range(1, 201):
        new = []
        for x, g, states in zip(path[-1], gradient(problem.loss, path[-1]), kept, strict=True):
            numbers = zip(states, x.flatten().tolist(), g.flatten().tolist(), strict=True)
            values = [rule(state, xi, gi, t) for state, xi, gi in numbers]
            new.append(torch.tensor(values, dtype=torch.float64).reshape(x.shape))
        path.append(new)
    return path


# ---- the lecture's equations -------------------------------------------------------------------------------


def descent(k: State, x: float, g: float, t: int, *, eta: float) -> float:
    return x - eta * g


def momentum(k: State, x: float, g: float, t: int, *, eta: float, gamma: float) -> float:
    k["v"] = gamma * k.get("v", 0.0) + eta * g
    return x - k["v"]


def nesterov_ahead(k: State, x: float, g: float, t: int, *, eta: float, gamma: float) -> float:
    """`x` is theta - gamma v, where the equation takes its gradient; theta itself is kept."""
    v = gamma * k.get("v", 0.0) + eta * g
    theta = k.get("theta", x) - v
    k.update(v=v, theta=theta)
    return theta - gamma * v


def adagrad(k: State, x: float, g: float, t: int, *, eta: float, eps: float) -> float:
    k["G"] = k.get("G", 0.0) + g**2
    return x - eta / math.sqrt(k["G"] + eps) * g


def adadelta(k: State, x: float, g: float, t: int, *, gamma: float, eps: float) -> float:
    k["g2"] = gamma * k.get("g2", 0.0) + (1 - gamma) * g**2
    step = -math.sqrt(k.get("d2", 0.0) + eps) / math.sqrt(k["g2"] + eps) * g
    k["d2"] = gamma * k.get("d2", 0.0) + (1 - gamma) * step**2
    return x + step


def rmsprop(k: State, x: float, g: float, t: int, *, eta: float, gamma: float, eps: float) -> float:
    k["g2"] = gamma * k.get("g2", 0.0) + (1 - gamma) * g**2
    return x - eta / math.sqrt(k["g2"] + eps) * g


def moments(k: State, g: float, beta1: float, beta2: float) -> tuple[float, float]:
    k["m"] = beta1 * k.get("m", 0.0) + (1 - beta1) * g
    k["v"] = beta2 * k.get("v", 0.0) + (1 - beta2) * g**2
    return k["m"], k["v"]


def adam(
    k: State, x: float, g: float, t: int, *, eta: float, beta1: float, beta2: float, eps: float
) -> float:
    m, v = moments(k, g, beta1, beta2)
    return x - eta / (math.sqrt(v / (1 - beta2**t)) + eps) * (m / (1 - beta1**t))


def adam_within(
    k: State, x: float, g: float, t: int, *, eta: float, beta1: float, beta2: float, eps: float
) -> float:
    """The lecture's table has epsilon within the root."""
    m, v = moments(k, g, beta1, beta2)
    return x - eta / math.sqrt(v / (1 - beta2**t) + eps) * (m / (1 - beta1**t))


def adamw(
    k: State, x: float, g: float, t: int, *, eta: float, beta1: float, beta2: float, eps: float, decay: float
) -> float:
    return adam(k, x, g, t, eta=eta, beta1=beta1, beta2=beta2, eps=eps) - eta * decay * x


def adamax(k: State, x: float, g: float, t: int, *, eta: float, beta1: float, beta2: float) -> float:
    k["m"] = beta1 * k.get("m", 0.0) + (1 - beta1) * g
    k["u"] = max(beta2 * k.get("u", 0.0), abs(g))
    return x - eta / (1 - beta1**t) * k["m"] / k["u"] if k["u"] else x


def amsgrad(
    k: State, x: float, g: float, t: int, *, eta: float, beta1: float, beta2: float, eps: float
) -> float:
    m, v = moments(k, g, beta1, beta2)
    k["largest"] = max(k.get("largest", 0.0), v)
    return x - eta / (math.sqrt(k["largest"]) + eps) * m


def nadam(
    k: State, x: float, g: float, t: int, *, eta: float, beta1: float, beta2: float, eps: float
) -> float:
    m, v = moments(k, g, beta1, beta2)
    ahead = beta1 * m / (1 - beta1**t) + (1 - beta1) * g / (1 - beta1**t)
    return x - eta / (math.sqrt(v / (1 - beta2**t)) + eps) * ahead


# ---- torch's forms, where they differ ----------------------------------------------------------------------


def torch_nesterov(k: State, x: float, g: float, t: int, *, eta: float, gamma: float) -> float:
    k["b"] = gamma * k.get("b", 0.0) + g
    return x - eta * (g + gamma * k["b"])


def torch_dampened(
    k: State, x: float, g: float, t: int, *, eta: float, gamma: float, dampening: float
) -> float:
    """The first gradient is not dampened."""
    k["b"] = gamma * k["b"] + (1 - dampening) * g if "b" in k else g
    return x - eta * k["b"]


def torch_adagrad(k: State, x: float, g: float, t: int, *, eta: float, eps: float) -> float:
    k["G"] = k.get("G", 0.0) + g**2
    return x - eta / (math.sqrt(k["G"]) + eps) * g


def torch_rmsprop(k: State, x: float, g: float, t: int, *, eta: float, gamma: float, eps: float) -> float:
    k["g2"] = gamma * k.get("g2", 0.0) + (1 - gamma) * g**2
    return x - eta / (math.sqrt(k["g2"]) + eps) * g


def torch_adamax(
    k: State, x: float, g: float, t: int, *, eta: float, beta1: float, beta2: float, eps: float
) -> float:
    k["m"] = beta1 * k.get("m", 0.0) + (1 - beta1) * g
    k["u"] = max(beta2 * k.get("u", 0.0), abs(g) + eps)
    return x - eta / (1 - beta1**t) * k["m"] / k["u"]


def torch_amsgrad(
    k: State, x: float, g: float, t: int, *, eta: float, beta1: float, beta2: float, eps: float
) -> float:
    """The largest v without correction, corrected by the present step."""
    m, v = moments(k, g, beta1, beta2)
    k["largest"] = max(k.get("largest", 0.0), v)
    return x - eta / (math.sqrt(k["largest"] / (1 - beta2**t)) + eps) * (m / (1 - beta1**t))


def torch_nadam(
    k: State, x: float, g: float, t: int, *, eta: float, beta1: float, beta2: float, eps: float, psi: float
) -> float:
    """Dozat's mu_t = beta1 (1 - 0.96^(t psi) / 2); m is corrected by the mu up to the next step."""
    m, v = moments(k, g, beta1, beta2)
    mu, after = (beta1 * (1 - 0.5 * 0.96 ** (s * psi)) for s in (t, t + 1))
    k["product"] = k.get("product", 1.0) * mu
    ahead = after * m / (1 - k["product"] * after) + (1 - mu) * g / (1 - k["product"])
    return x - eta / (math.sqrt(v / (1 - beta2**t)) + eps) * ahead
