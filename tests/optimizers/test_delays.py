"""AdaDelay and AdaptiveRevision: alone against AdaGrad, with delays against references of the papers."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import Adagrad, Optimizer

from lightning_optreg.optimizers import AdaDelay, AdaptiveRevision
from tests.optimizers.problems import PROBLEMS, SOME_PROBLEMS, Problem, distance, gradient, run

Path = list[list[Tensor]]
Delay = Callable[[int], int]
every_problem = pytest.mark.parametrize("name", SOME_PROBLEMS)
both_paths = pytest.mark.parametrize("foreach", [False, True])


def delays(t: int) -> int:
    """How many steps old the parameters of step t's gradient are: 0 to 6, in no order."""
    return min(t, (5 * t) % 7)


def asynchronous(
    problem: Problem, make: Callable[[list[Tensor]], Optimizer], delay: Delay = delays, steps: int = 200
) -> Path:
    """A server whose workers read the parameters some steps before their gradients come."""
    theta = [t.requires_grad_() for t in problem.start()]
    optimizer = make(theta)
    path = [[t.detach().clone() for t in theta]]
    snapshots = []
    for t in range(steps):
        if isinstance(optimizer, AdaptiveRevision):
            snapshots.append(optimizer.snapshot())
        read = t - delay(t)
        for parameter, g in zip(theta, gradient(problem.loss, path[read]), strict=True):
            parameter.grad = g
        if isinstance(optimizer, AdaptiveRevision):
            optimizer.step(gbar_old=snapshots[read])
        elif isinstance(optimizer, AdaDelay):
            optimizer.step(delay=t - read)
        else:
            optimizer.step()
        path.append([t.detach().clone() for t in theta])
    return path


def by_numbers(problem: Problem, rule: Callable[..., float], delay: Delay, start: Any) -> Path:
    """Run a rule for single numbers; `rule(state, x, g, t, tau)` gives the new x and changes the state."""
    path = [problem.start()]
    memory = [[start() for _ in range(t.numel())] for t in path[0]]
    for t in range(200):
        tau = delay(t)
        slopes = gradient(problem.loss, path[t - tau])
        new = []
        for x, g, states in zip(path[-1], slopes, memory, strict=True):
            numbers = zip(states, x.flatten().tolist(), g.flatten().tolist(), strict=True)
            values = [rule(state, xi, gi, t, tau) for state, xi, gi in numbers]
            new.append(torch.tensor(values, dtype=torch.float64).reshape(x.shape))
        path.append(new)
    return path


def ada_delay(variant: str, alpha: float, beta: float) -> Callable[..., float]:
    def rule(state: dict[str, float], x: float, g: float, t: int, tau: int) -> float:
        t = t + 1
        if variant == "sgd":
            return x - alpha / (beta + math.sqrt(t + tau)) * g
        state["n"] = state.get("n", 0.0) + g**2
        return x - alpha / (beta + math.sqrt(state["n"]) * math.sqrt((t + tau) / t)) * g

    return rule


def adaptive_revision(alpha: float) -> Callable[..., float]:
    """McMahan and Streeter's algorithm; gbar is looked up in a record of all its values."""

    def rule(state: dict[str, Any], x: float, g: float, t: int, tau: int) -> float:
        gbars = state.setdefault("gbars", [0.0])
        z, largest = state.get("z", 1.0), state.get("largest", 1.0)
        g_bck = gbars[t] - gbars[t - tau]
        eta_old = alpha / math.sqrt(largest)
        z += g**2 + 2 * g * g_bck
        largest = max(largest, z)
        eta = alpha / math.sqrt(largest)
        state.update(z=z, largest=largest)
        gbars.append(gbars[t] + g)
        return x - eta * g + (eta_old - eta) * g_bck

    return rule


@every_problem
@both_paths
@pytest.mark.parametrize("delay", [lambda t: 0, delays], ids=["alone", "delayed"])
@pytest.mark.parametrize("variant", ["sgd", "adagrad"])
def test_ada_delay(variant: Any, delay: Delay, foreach: bool, name: str) -> None:
    problem, lr = PROBLEMS[name], 2 * PROBLEMS[name].rate
    got = asynchronous(problem, lambda x: AdaDelay(x, lr, 1.5, variant, foreach=foreach), delay)
    assert distance(got, by_numbers(problem, ada_delay(variant, lr, 1.5), delay, dict)) <= 1e-10


@every_problem
@both_paths
@pytest.mark.parametrize("delay", [lambda t: 0, delays], ids=["alone", "delayed"])
def test_adaptive_revision(delay: Delay, foreach: bool, name: str) -> None:
    problem, lr = PROBLEMS[name], PROBLEMS[name].rate
    got = asynchronous(problem, lambda x: AdaptiveRevision(x, lr, foreach=foreach), delay)
    assert distance(got, by_numbers(problem, adaptive_revision(lr), delay, dict)) <= 1e-10


@every_problem
@both_paths
def test_alone_both_are_torchs_adagrad(name: str, foreach: bool) -> None:
    problem = PROBLEMS[name]
    revised = run(problem, lambda x: AdaptiveRevision(x, 0.1, foreach=foreach))
    torchs = run(problem, lambda x: Adagrad(x, 0.1, initial_accumulator_value=1.0, eps=0.0))
    assert distance(revised, torchs) <= 1e-12
    delayed = run(problem, lambda x: AdaDelay(x, 0.1, beta=0.5, foreach=foreach))
    assert distance(delayed, run(problem, lambda x: Adagrad(x, 0.1, eps=0.5))) <= 1e-12


@pytest.mark.parametrize("name", ["quadratic", "small_network"])
def test_revision_brings_late_gradients_nearer_to_adagrad_without_delay(name: str) -> None:
    """Mean distance to Adagrad's path, when all gradients are 10 steps late.

    It holds where plain Adagrad's steps are too long for such delays. Where they are not, as in the logistic
    regression, whose gradients keep their signs, the revision is the more careful one and lags behind.
    """
    problem, lr, tau = PROBLEMS[name], 0.5, 10

    def late(t: int) -> int:
        return min(t, tau)

    def adagrad(x: list[Tensor]) -> Optimizer:
        return Adagrad(x, lr, initial_accumulator_value=1.0, eps=0.0)

    on_time = asynchronous(problem, adagrad, lambda t: 0)
    revised = asynchronous(problem, lambda x: AdaptiveRevision(x, lr), late)
    plain = asynchronous(problem, adagrad, late)

    def mean_distance(path: Path) -> float:
        return sum(distance([a], [b]) for a, b in zip(path, on_time, strict=True)) / len(path)

    assert mean_distance(revised) < 0.9 * mean_distance(plain)


def test_gradients_read_at_once_count_as_their_sum() -> None:
    """Ten gradients of 1 read at once: z grows as the square of their sum, as if they were one gradient."""
    theta = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer = AdaptiveRevision([theta], 1.0)
    read = optimizer.snapshot()
    for _ in range(10):
        theta.grad = torch.ones(1, dtype=torch.float64)
        optimizer.step(gbar_old=read)
    assert theta.item() == pytest.approx(-10 / math.sqrt(1 + 10**2), abs=1e-14)


@pytest.mark.parametrize("rule", ["AdaDelay", "AdaptiveRevision"])
def test_sparse_gradients_with_delays_are_dense_ones(rule: str) -> None:
    def embed(sparse: bool) -> Tensor:
        torch.manual_seed(0)
        net = torch.nn.Embedding(7, 3, sparse=sparse, dtype=torch.float64)
        optimizer: Any = {"AdaDelay": AdaDelay, "AdaptiveRevision": AdaptiveRevision}[rule](net.parameters())
        reads = []
        for t in range(20):
            if rule == "AdaptiveRevision":
                reads.append(optimizer.snapshot())
            optimizer.zero_grad()
            net(torch.tensor([t % 5, t % 3, t % 3])).sin().sum().backward()
            tau = delays(t)
            if rule == "AdaptiveRevision":
                optimizer.step(gbar_old=reads[t - tau])
            else:
                optimizer.step(delay=tau)
        return net.weight.detach()

    torch.testing.assert_close(embed(True), embed(False), rtol=1e-14, atol=1e-14)


def test_snapshots_stay_as_they_are_and_cover_every_parameter() -> None:
    theta = torch.zeros(2, requires_grad=True)
    unused = torch.zeros(3, dtype=torch.complex64, requires_grad=True)
    optimizer = AdaptiveRevision([{"params": [theta]}, {"params": [unused]}])
    theta.grad = torch.ones(2)
    optimizer.step()
    first = optimizer.snapshot()
    optimizer.step()
    assert [g.tolist() for g in first] == [[1.0, 1.0], [[0.0, 0.0]] * 3]
    assert optimizer.snapshot()[0].tolist() == [2.0, 2.0]
    for wrong in (first[:1], [first[1], first[0]]):
        with pytest.raises(ValueError, match=r"^AdaptiveRevision: gbar_old must be a snapshot"):
            optimizer.step(gbar_old=wrong)


@pytest.mark.parametrize("delay", [-1, math.nan, math.inf])
def test_ada_delay_refuses_a_delay_that_is_none(delay: Any) -> None:
    with pytest.raises(ValueError, match=r"^AdaDelay: delay must be at least 0"):
        AdaDelay([torch.ones(1, requires_grad=True)]).step(delay=delay)


def test_delays_hold_for_one_step() -> None:
    late, early = torch.ones(1, requires_grad=True), torch.ones(1, requires_grad=True)
    one, other = AdaDelay([late], variant="sgd"), AdaDelay([early], variant="sgd")
    for optimizer, theta, tau in ((one, late, 9), (other, early, 0)):
        theta.grad = torch.zeros(1)
        optimizer.step(delay=tau)
        theta.grad = torch.ones(1)
        optimizer.step()
    assert torch.equal(late, early)


@pytest.mark.parametrize("make", [AdaDelay, partial(AdaDelay, variant="sgd"), AdaptiveRevision])
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


def test_a_snapshot_after_a_late_step_that_did_not_reach_every_parameter() -> None:
    reached, not_reached = torch.zeros(2, requires_grad=True), torch.zeros(3, requires_grad=True)
    optimizer = AdaptiveRevision([reached, not_reached])
    read = optimizer.snapshot()
    reached.grad = torch.ones(2)
    optimizer.step(gbar_old=read)
    assert [sums.tolist() for sums in optimizer.snapshot()] == [[1.0, 1.0], [0.0, 0.0, 0.0]]


@pytest.mark.parametrize("variant", ["adagrad", "sgd"])
def test_ada_delay_begins_anew(variant: Any) -> None:
    steps = []
    theta = torch.zeros(1, requires_grad=True)
    optimizer = AdaDelay([theta], variant=variant)
    for _ in range(2):
        before = theta.item()
        for delay in (3, 2):
            theta.grad = torch.ones(1)
            optimizer.step(delay=delay)
        steps.append(theta.item() - before)
        optimizer.forget()
    assert steps[1] == pytest.approx(steps[0])
