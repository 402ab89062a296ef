"""SWATS against a slow reference written from the paper, and its switch."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_optreg.optimizers import SWATS, RateEstimate, StepMeter
from tests.optimizers.problems import PROBLEMS, SOME_PROBLEMS, Problem, distance, gradient, run


def reference(
    problem: Problem,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    switch_eps: float,
    weight_decay: float,
    steps: int = 200,
) -> tuple[list[list[Tensor]], int | None, float]:
    """The paper's algorithm 1 on one long vector: its path, the step after which it switched, and Lambda."""
    start = problem.start()
    sizes, shapes = [t.numel() for t in start], [t.shape for t in start]

    def parts(vector: Tensor) -> list[Tensor]:
        return [p.reshape(s) for p, s in zip(vector.split(sizes), shapes, strict=True)]

    w = torch.cat([t.flatten() for t in start])
    m, a, v = (torch.zeros_like(w) for _ in range(3))
    lam, big_lambda, switched = 0.0, 0.0, None
    path = [parts(w.clone())]
    for k in range(1, steps + 1):
        g = torch.cat([t.flatten() for t in gradient(problem.loss, parts(w))]) + weight_decay * w
        if switched is not None:
            v = beta1 * v + g
            w = w - (1 - beta1) * big_lambda * v
        else:
            m = beta1 * m + (1 - beta1) * g
            a = beta2 * a + (1 - beta2) * g**2
            p = -lr * math.sqrt(1 - beta2**k) / (1 - beta1**k) * m / (a.sqrt() + eps)
            w = w + p
            if float(p @ g) != 0.0:
                gamma = float(p @ p) / -float(p @ g)
                lam = beta2 * lam + (1 - beta2) * gamma
                big_lambda = lam / (1 - beta2**k)
                if k > 1 and abs(big_lambda - gamma) < switch_eps and big_lambda > 0:
                    switched = k
        path.append(parts(w.clone()))
    return path, switched, big_lambda


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("weight_decay", [0.0, 0.05])
@pytest.mark.parametrize("name", SOME_PROBLEMS)
def test_equals_the_reference_through_the_switch(name: str, weight_decay: float, foreach: bool) -> None:
    problem = PROBLEMS[name]
    lr = 0.01 if name != "rosenbrock" else 0.001
    tolerance = {"rosenbrock": 3e-5}.get(name, 1e-2)
    wanted, switched, rate = reference(problem, lr, 0.9, 0.99, 1e-9, tolerance, weight_decay)
    optimizers: list[SWATS] = []

    def make(theta: list[Tensor]) -> SWATS:
        groups = [{"params": theta[:1]}, {"params": theta[1:]}] if len(theta) > 1 else theta
        optimizers.append(
            SWATS(groups, lr, (0.9, 0.99), 1e-9, tolerance, weight_decay=weight_decay, foreach=foreach)
        )
        return optimizers[0]

    got = run(problem, make)
    assert switched is not None
    assert 2 <= switched < 190
    assert optimizers[0].phase == "sgd"
    assert optimizers[0].rate_estimate == pytest.approx(rate, rel=1e-9)
    assert distance(wanted, got) <= 1e-10


def test_before_the_switch_it_is_torchs_adam() -> None:
    """But for the place of eps: here outside of the root that is not corrected yet."""
    problem = PROBLEMS["small_network"]
    ours = run(problem, lambda theta: SWATS(theta, 0.01, switch_eps=0.0, eps=0.0), 100)
    torchs = run(problem, lambda theta: torch.optim.Adam(theta, 0.01, eps=0.0), 100)
    assert distance(ours, torchs) <= 1e-12


def test_constant_gradient_moves_as_sgd_with_the_estimated_rate() -> None:
    """With the velocity grown to g / (1 - beta1), a step is Lambda g: not 0.11 of it."""
    theta = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer = SWATS([theta], lr=0.01, switch_eps=1.0)
    g = torch.tensor([1.0, 2.0, -1.0], dtype=torch.float64)
    for _ in range(300):
        theta.grad = g.clone()
        before = theta.detach().clone()
        optimizer.step()
    assert optimizer.phase == "sgd"
    torch.testing.assert_close(before - theta.detach(), optimizer.rate_estimate * g)


def test_schedules_scale_the_rate_after_the_switch() -> None:
    theta = torch.ones(2, dtype=torch.float64, requires_grad=True)
    optimizer = SWATS([theta], lr=0.01, betas=(0.0, 0.9), switch_eps=1.0)
    for _ in range(2):
        theta.grad = torch.ones(2, dtype=torch.float64)
        optimizer.step()
    assert optimizer.phase == "sgd"
    optimizer.param_groups[0]["lr"] = 0.001
    before = theta.detach().clone()
    optimizer.step()
    torch.testing.assert_close(
        before - theta.detach(), 0.1 * optimizer.rate_estimate * torch.ones_like(before)
    )


def test_switches_neither_at_the_first_step_nor_to_a_rate_below_zero() -> None:
    estimate = RateEstimate()
    gamma = estimate.update(1.0, -2.0, beta2=0.9)
    assert gamma == estimate.rate(beta2=0.9) == 0.5
    assert not estimate.has_settled(gamma, beta2=0.9, tolerance=1.0)
    gamma = estimate.update(1.0, -2.0, beta2=0.9)
    assert estimate.has_settled(gamma, beta2=0.9, tolerance=1e-6)
    for _ in range(100):
        gamma = estimate.update(1.0, 2.0, beta2=0.9)
    assert estimate.rate(beta2=0.9) < 0
    assert not estimate.has_settled(gamma, beta2=0.9, tolerance=1.0)


def test_a_step_without_gradient_counts_and_leaves_the_average() -> None:
    estimate = RateEstimate(0.3, 4)
    assert estimate.update(0.0, 0.0, beta2=0.9) is None
    assert (estimate.average, estimate.steps) == (0.3, 5)


def test_groups_share_betas_and_switch() -> None:
    params = [torch.ones(1, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    with pytest.raises(ValueError, match="SWATS: betas must be the same in all groups"):
        SWATS([{"params": params[:1]}, {"params": params[1:], "betas": (0.5, 0.9)}])
    optimizer = SWATS([{"params": params[:1]}, {"params": params[1:2], "lr": 0.01}], switch_eps=1.0)
    for _ in range(3):
        for p in params:
            p.grad = torch.ones_like(p)
        optimizer.step()
    assert [group["phase"] for group in optimizer.param_groups] == ["sgd", "sgd"]
    optimizer.add_param_group({"params": params[2:]})
    before = [p.item() for p in params]
    optimizer.state.clear()
    optimizer.step()
    moved = [b - p.item() for b, p in zip(before, params, strict=True)]
    # (1 - beta1) Lambda, times the groups' rates as multiples of the largest
    assert moved == pytest.approx([0.1 * r * optimizer.rate_estimate for r in (0.1, 1.0, 0.1)])


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("rates", [(0.01, 1e-8), (1e-8, 0.01), (0.01, 0.0), (0.004, 0.01)])
def test_groups_keep_the_ratios_of_their_rates(rates: tuple[float, float], foreach: bool) -> None:
    """gamma is the rate at which the SGD of these ratios has Adam's step as its projection."""
    params = [torch.ones(2, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    groups = [{"params": [p], "lr": rate} for p, rate in zip(params, rates, strict=True)]
    optimizer = SWATS(groups, betas=(0.0, 0.0), eps=0.0, switch_eps=1.0, foreach=foreach)
    g = [torch.tensor([1.0, 3.0], dtype=torch.float64), torch.tensor([2.0, 5.0], dtype=torch.float64)]
    for _ in range(2):
        for p, gradient_ in zip(params, g, strict=True):
            p.grad = gradient_.clone()
        optimizer.step()
    assert optimizer.phase == "sgd"
    ratios = [rate / max(rates) for rate in rates]
    # Without moments p = -rate sign(g), here over both groups.
    squared = sum(2 * rate**2 for rate in rates)
    along = sum(rate * r * float(x.sum()) for rate, r, x in zip(rates, ratios, g, strict=True))
    assert optimizer.rate_estimate == pytest.approx(squared / along, rel=1e-12)
    before = [p.detach().clone() for p in params]
    for p, gradient_ in zip(params, g, strict=True):
        p.grad = gradient_.clone()
    optimizer.step()
    for p, start, x, r in zip(params, before, g, ratios, strict=True):
        torch.testing.assert_close(start - p.detach(), r * optimizer.rate_estimate * x, rtol=1e-6, atol=1e-14)


@pytest.mark.parametrize("foreach", [False, True])
def test_a_gradient_that_comes_late_makes_a_first_step_of_the_rate(foreach: bool) -> None:
    """As in Adam, whose corrections are of each parameter its own: |p| = lr, not 3.16 lr."""
    params = [torch.ones(3, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    ours = SWATS(params, 0.01, eps=0.0, switch_eps=0.0, foreach=foreach)
    others = [p.detach().clone().requires_grad_() for p in params]
    torchs = torch.optim.Adam(others, 0.01, eps=0.0)
    draw = torch.Generator().manual_seed(0)
    for step in range(30):
        for place in range(2):
            late = place == 1 and step < 20
            g = None if late else torch.randn(3, dtype=torch.float64, generator=draw)
            for p in (params[place], others[place]):
                p.grad = None if g is None else g.clone()
        ours.step()
        torchs.step()
        if step == 20:
            torch.testing.assert_close((1 - params[1].detach()).abs(), torch.full((3,), 0.01).double())
    torch.testing.assert_close(params, others, rtol=1e-12, atol=1e-12)


def test_a_state_without_counts_of_the_parameters_goes_on() -> None:
    """As it was saved when a step's number was the group's alone."""
    params = [torch.ones(3, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    optimizers = [SWATS([p], 0.01) for p in params]
    for step in range(6):
        for p in params:
            p.grad = torch.full_like(p, step + 1.0)
        for optimizer in optimizers:
            optimizer.step()
        if step == 2:
            state = optimizers[1].state_dict()
            del state["state"][0]["step"]
            optimizers[1] = SWATS([params[1]], 0.01)
            optimizers[1].load_state_dict(state)
    assert torch.equal(*params)


@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.1}, {"maximize": True}])
def test_meter_measures_what_swats_does(options: dict[str, Any]) -> None:
    """On torch's Adam it finds the same rate as SWATS, which computes it from within."""
    problem = PROBLEMS["small_network"]
    sign = -1.0 if options.get("maximize") else 1.0
    signed = Problem(problem.start, lambda theta: sign * problem.loss(theta), problem.rate)
    estimate, found = RateEstimate(), []

    def adam(theta: list[Tensor]) -> torch.optim.Adam:
        optimizer = torch.optim.Adam(theta, 0.01, eps=0.0, **options)
        found.append(StepMeter(optimizer, estimate, 1e-5))
        return optimizer

    def swats(theta: list[Tensor]) -> SWATS:
        found.append(SWATS(theta, 0.01, eps=0.0, switch_eps=0.0, **options))
        return found[-1]

    run(signed, adam, 50)
    run(signed, swats, 50)
    assert found[0].rate == pytest.approx(found[1].rate_estimate, rel=1e-9)


def test_endless_settings_are_refused() -> None:
    for name in ("eps", "switch_eps"):
        with pytest.raises(ValueError, match=f"{name} must be in"):
            SWATS([torch.zeros(1, requires_grad=True)], **{name: math.inf})


def test_meter_and_swats_agree_on_groups_with_rates_of_their_own() -> None:
    problem = PROBLEMS["small_network"]
    estimate, found = RateEstimate(), []

    def groups(theta: list[Tensor]) -> list[dict[str, Any]]:
        return [{"params": theta[:1], "lr": 0.002}, {"params": theta[1:], "lr": 0.01}]

    def adam(theta: list[Tensor]) -> torch.optim.Adam:
        optimizer = torch.optim.Adam(groups(theta), eps=0.0)
        found.append(StepMeter(optimizer, estimate, 1e-5))
        return optimizer

    def swats(theta: list[Tensor]) -> SWATS:
        found.append(SWATS(groups(theta), eps=0.0, switch_eps=0.0))
        return found[-1]

    run(problem, adam, 50)
    run(problem, swats, 50)
    assert found[0].rate == pytest.approx(found[1].rate_estimate, rel=1e-9)
