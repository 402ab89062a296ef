"""Lookahead against a slow reference written from the paper, around torch's optimizers and this package's."""

import copy
import io
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import LBFGS, SGD, Adagrad, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import OneCycleLR

from lightning_optreg.__main__ import main
from lightning_optreg.optimizers import SWATS, LectureRMSprop, Lookahead
from tests.optimizers.problems import PROBLEMS, Problem, distance, gradient, run
from tests.resume_tools import assert_identical

MOMENTUM = partial(SGD, lr=0.01, momentum=0.9)


def reference(problem: Problem, alpha: Callable[[int], float], k: int, steps: int) -> list[list[Tensor]]:
    """The paper's algorithm 1, with A = SGD with momentum 0.9, which is maintained."""
    phi, path, t = problem.start(), [problem.start()], 0
    velocity = [torch.zeros_like(p) for p in phi]
    while t < steps:
        theta = [p.clone() for p in phi]
        for _ in range(k):
            slopes = gradient(problem.loss, theta)
            velocity = [0.9 * v + g for v, g in zip(velocity, slopes, strict=True)]
            theta = [p - problem.rate / 10 * v for p, v in zip(theta, velocity, strict=True)]
            path.append(theta)
            t += 1
        phi = [p + alpha(t) * (w - p) for p, w in zip(phi, theta, strict=True)]
        path[-1] = phi
    return path[: steps + 1]


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize(("k", "alpha"), [(5, 0.5), (1, 0.3), (7, 0.8)])
@pytest.mark.parametrize("name", PROBLEMS)
def test_equals_the_reference(name: str, k: int, alpha: float, foreach: bool) -> None:
    problem = PROBLEMS[name]
    inner = partial(SGD, lr=problem.rate / 10, momentum=0.9, foreach=foreach)
    ours = run(problem, lambda theta: Lookahead(theta, inner, k=k, alpha=alpha))
    assert distance(ours, reference(problem, lambda t: alpha, k, 200)) < 1e-12


def test_alpha_moves_as_its_formula_says() -> None:
    problem = PROBLEMS["small_network"]
    inner = partial(SGD, lr=problem.rate / 10, momentum=0.9)
    ours = run(problem, lambda theta: Lookahead(theta, inner, alpha=1.0, alpha_end=0.2, decay_steps=60), 100)
    exact = reference(problem, lambda t: 1.0 - 0.8 * min(t / 60, 1.0) ** 3, 5, 100)
    assert distance(ours, exact) < 1e-12


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("inner", [MOMENTUM, partial(Adam, lr=0.01)], ids=["sgd", "adam"])
def test_alpha_1_changes_nothing(inner: Callable[..., Optimizer], k: int) -> None:
    problem = PROBLEMS["small_network"]
    assert (
        distance(run(problem, lambda p: Lookahead(p, inner, k=k, alpha=1.0), 20), run(problem, inner, 20))
        == 0.0
    )


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"k": 0}, "k must be >= 1, got 0"),
    ({"k": 2.5}, "k must be a whole number >= 1, got 2.5"),
    ({"alpha": 0.0}, r"alpha must be in \(0, 1\], got 0.0"),
    ({"alpha": float("nan")}, r"alpha must be in \(0, 1\], got nan"),
    ({"alpha_end": 0.5}, "decay_steps must be given with alpha_end, got None"),
    ({"decay_steps": 5}, "alpha_end must be given with decay_steps, got None"),
    ({"alpha_end": 1.5, "decay_steps": 5}, r"alpha_end must be in \(0, 1\], got 1.5"),
    ({"alpha_end": 0.5, "decay_steps": 0}, "decay_steps must be >= 1, got 0"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG, ids=lambda value: str(value)[:30])
def test_wrong_values(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^Lookahead: {message}$"):
        Lookahead([torch.zeros(1)], MOMENTUM, **arguments)


@pytest.mark.parametrize("given", [MOMENTUM([torch.zeros(1)]), lambda params: "SGD"], ids=["made", "other"])
def test_what_makes_no_optimizer(given: Any) -> None:
    with pytest.raises(TypeError, match=r"^Lookahead: optimizer must make an optimizer from parameters"):
        Lookahead([torch.zeros(1)], given)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2)).double()


X = torch.randn(16, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def train(optimizer: Optimizer, net: nn.Module, steps: int, *, calls_back: bool = False) -> None:
    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = net(X).square().mean()
        loss.backward()
        return loss

    for _ in range(steps):
        if calls_back:
            assert isinstance(optimizer.step(closure), Tensor)
        else:
            closure()
            optimizer.step()


SETTLING = partial(SWATS, lr=0.01, betas=(0.8, 0.9), switch_eps=0.05)
INNER: dict[str, Callable[..., Optimizer]] = {
    "sgd without state": partial(SGD, lr=0.1),
    "adagrad, whose state exists at once": partial(Adagrad, lr=0.1),
    "adam": partial(Adam, lr=0.01, amsgrad=True),
    "adamw, fused": partial(AdamW, lr=0.01, fused=True),
    "swats, which drops its state": SETTLING,
    "rmsprop, with an alpha of its own": partial(LectureRMSprop, lr=0.01),
    "lbfgs": partial(LBFGS, max_iter=3),
}


@pytest.mark.parametrize("name", INNER)
def test_any_optimizer_resumes_bit_by_bit(name: str) -> None:
    """Between two steps of the slow weights as well."""
    calls_back = name == "lbfgs"
    net = network()
    optimizer = Lookahead(net.parameters(), INNER[name])
    train(optimizer, net, 7, calls_back=calls_back)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    twin = copy.deepcopy(net)
    other = Lookahead(twin.parameters(), INNER[name])
    other.load_state_dict(torch.load(file, weights_only=True))
    train(optimizer, net, 30, calls_back=calls_back)
    train(other, twin, 30, calls_back=calls_back)
    assert_identical(optimizer.state_dict(), other.state_dict())
    assert_identical(list(net.parameters()), list(twin.parameters()))
    if isinstance(other.inner, SWATS):
        assert other.inner.phase == "sgd"


def test_a_pickled_copy_goes_on() -> None:
    net = network()
    optimizer = Lookahead(net.parameters(), partial(Adam, lr=0.01), k=3)
    train(optimizer, net, 4)
    twin, other = pickle.loads(pickle.dumps((net, optimizer)))
    train(optimizer, net, 4)
    train(other, twin, 4)
    assert_identical(list(net.parameters()), list(twin.parameters()))
    assert other.inner.param_groups is other.param_groups


def test_a_checkpoint_without_slow_weights_begins_at_the_parameters() -> None:
    net = network()
    plain = Adam(net.parameters(), lr=0.01)
    train(plain, net, 3)
    optimizer = Lookahead(net.parameters(), partial(Adam, lr=0.01), k=2)
    optimizer.load_state_dict(plain.state_dict())
    before = [p.detach().clone() for p in net.parameters()]
    train(optimizer, net, 2)
    assert not any(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    plain.load_state_dict(optimizer.state_dict())  # and back
    train(plain, net, 1)


def test_schedules_move_what_the_inner_optimizer_uses() -> None:
    """Rate and momentum of OneCycleLR; beta1 of Adam's type."""
    for inner, name in ((MOMENTUM, "momentum"), (partial(Adam, lr=0.01), "betas")):
        net = network()
        optimizer = Lookahead(net.parameters(), inner)
        schedule = OneCycleLR(optimizer, max_lr=0.1, total_steps=10)
        seen = []
        for _ in range(9):
            train(optimizer, net, 1)
            schedule.step()
            (group,) = optimizer.inner.param_groups
            seen.append((group["lr"], group[name]))
        assert max(rate for rate, _ in seen) == pytest.approx(0.1, rel=0.05)
        assert len({value for _, value in seen}) > 5


def test_a_step_that_a_scaler_skips_does_not_count() -> None:
    theta = torch.ones(2, requires_grad=True)
    optimizer = Lookahead([theta], partial(SGD, lr=0.25), k=2)
    scaler = GradScaler("cpu", init_scale=4.0)
    for factor in (1.0, float("inf"), float("nan"), 1.0):
        optimizer.zero_grad()
        scaler.scale((factor * theta.square()).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
    assert torch.equal(theta.detach(), torch.full((2,), 0.625))  # as the docstring's example
    assert optimizer.param_groups[0]["lookahead_step"] == 2


def test_a_group_added_later_meets_its_slow_weights_with_the_others() -> None:
    first, second = (torch.ones(1, requires_grad=True) for _ in range(2))
    optimizer = Lookahead([first], partial(SGD, lr=0.25), k=2)

    def step() -> None:
        optimizer.zero_grad()
        (first.square() + second.square()).sum().backward()
        optimizer.step()

    step()
    optimizer.add_param_group({"params": [second], "lr": 0.125})
    assert len(optimizer.inner.param_groups) == 2
    step()
    assert first.item() == 0.625  # 1 -> 0.5 -> 0.25, half of the way back
    assert second.item() == 0.875  # 1 -> 0.75, half of the way back


def test_slow_weights_at_the_end() -> None:
    theta = torch.ones(1, requires_grad=True)
    optimizer = Lookahead([theta], partial(SGD, lr=0.25), k=2)
    optimizer.use_slow_weights()  # nothing to do yet
    for _ in range(3):
        optimizer.zero_grad()
        theta.square().sum().backward()
        optimizer.step()
    assert theta.item() == 0.3125
    optimizer.use_slow_weights()
    assert theta.item() == 0.625


def test_a_step_that_fails_keeps_the_slow_weights() -> None:
    net = network()
    optimizer = Lookahead(net.parameters(), MOMENTUM)
    train(optimizer, net, 2)
    before = copy.deepcopy(optimizer.state_dict())

    def fails() -> Tensor:
        raise ArithmeticError

    with pytest.raises(ArithmeticError):
        optimizer.step(fails)
    assert_identical(before, optimizer.state_dict())


def test_dropping_the_states_begins_anew() -> None:
    """As callbacks do that restart an optimizer from other weights."""
    net = network()
    optimizer = Lookahead(net.parameters(), partial(Adam, lr=0.01), k=4)
    train(optimizer, net, 4)
    optimizer.state.clear()
    with torch.no_grad():
        for p in net.parameters():
            p.fill_(3.0)
    train(optimizer, net, 4)
    assert all((p - 3.0).abs().max().item() < 0.05 for p in net.parameters())


def test_half_precision_and_channels_last_stay() -> None:
    theta = torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last).bfloat16().requires_grad_()
    optimizer = Lookahead([theta], MOMENTUM, k=1)
    theta.float().square().sum().backward()
    optimizer.step()
    slow = optimizer.state[theta]["slow_param"]
    assert slow.dtype is torch.bfloat16
    assert slow.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(slow, theta)


def test_from_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    command = [
        "fit",
        "--optimizer",
        "Lookahead",
        "--optimizer.optimizer",
        "Adam",
        "--optimizer.optimizer.lr",
        "0.01",
    ]
    assert main([*command, "--optimizer.k", "6", "--print_config"]) == 0
    written = yaml.safe_load(capsys.readouterr().out)["optimizer"]
    assert written["class_path"].endswith("Lookahead")
    assert written["init_args"]["k"] == 6
    assert written["init_args"]["optimizer"]["class_path"] == "torch.optim.Adam"
    assert written["init_args"]["optimizer"]["init_args"]["lr"] == 0.01
