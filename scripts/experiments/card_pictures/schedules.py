"""Pictures of the schedules' cards."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from matplotlib.figure import Figure
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, MultiStepLR

from card_pictures.registry import picture
from card_pictures.style import BLUE, GREEN, GREY, VERMILION, figure, label
from lightning_optreg.schedulers import InverseTimeDecay, SnapshotCosine, Warmup, WarmupMultiStepLR


def rates(make: Callable[[Optimizer], LRScheduler], steps: int) -> list[float]:
    """The learning rate in each step, starting from 1."""
    optimizer = SGD([torch.zeros(1)], lr=1.0)
    schedule, found = make(optimizer), []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


@picture
def inverse_time_decay() -> Figure:
    """The rates for some powers, and the error of noisy SGD under them."""
    drawn, (left, right) = figure(2)
    times = torch.logspace(0, 3.3, 80).long().unique() - 1
    made_by: dict[str, Any] = {
        "constant": partial(Warmup, warmup=0),
        "power 0.5": partial(InverseTimeDecay, t0=20, power=0.5),
        "power 1": partial(InverseTimeDecay, t0=20, power=1.0),
    }
    for (name, make), color in zip(made_by.items(), (GREY, GREEN, BLUE), strict=True):
        for axes, values in ((left, torch.tensor(rates(make, 2000))), (right, squared_error(make, 2000))):
            axes.loglog(times + 1, values[times], color=color, linewidth=1.2, label=name)
    label(left, "step", r"$\eta_t / \eta_0$", r"rates, $t_0 = 20$")
    label(right, "step", "mean squared distance", r"SGD on $x^2/2$, noisy gradients, 500 runs")
    return drawn


def squared_error(make: Callable[[Optimizer], LRScheduler], steps: int) -> torch.Tensor:
    """The mean of x^2 over 500 runs of SGD on x^2 / 2 with a noise of variance 1 in the gradient."""
    generator = torch.Generator().manual_seed(0)
    point = torch.full((500,), 3.0, requires_grad=True)
    optimizer = SGD([point], lr=0.2)
    schedule, errors = make(optimizer), torch.zeros(steps)
    for step in range(steps):
        errors[step] = point.detach().square().mean()
        point.grad = point.detach() + torch.randn(500, generator=generator)
        optimizer.step()
        schedule.step()
    return errors


@picture
def snapshot_cosine() -> Figure:
    """The rate over a run of five cycles, with the places of the snapshots."""
    drawn, (axes,) = figure(1, height=2.3)
    axes.plot(rates(partial(SnapshotCosine, total_steps=500, cycles=5), 500), color=BLUE, linewidth=1.4)
    axes.plot(range(99, 500, 100), [0.0] * 5, "v", color=VERMILION, label="snapshot")
    axes.plot(
        rates(partial(CosineAnnealingLR, T_max=500), 500),
        color=GREY,
        linewidth=1,
        linestyle="--",
        label="one cosine",
    )
    label(axes, "step", r"$\eta_t / \eta_0$")
    return drawn


@picture
def warmup() -> Figure:
    """A warm-up before a cosine and before steps, beside what they are without it; the low rate at first."""
    drawn, (left, right) = figure(2)
    cosine = partial(CosineAnnealingLR, T_max=45)
    left.plot(rates(partial(CosineAnnealingLR, T_max=50), 50), "--", color=GREY, label="cosine alone")
    left.plot(rates(partial(Warmup, schedule=cosine, warmup=5), 50), color=BLUE, label="Warmup, then cosine")
    label(left, "epoch", r"$\eta_t / \eta_0$", "Warmup, 5 epochs from 0.1")
    steps = [25, 40]
    right.semilogy(rates(partial(MultiStepLR, milestones=steps), 50), "--", color=GREY, label="MultiStepLR")
    right.semilogy(
        rates(partial(WarmupMultiStepLR, milestones=steps, warmup=5), 50),
        color=BLUE,
        label="WarmupMultiStepLR",
    )
    label(right, "epoch", r"$\eta_t / \eta_0$", "a low rate at first")
    return drawn
