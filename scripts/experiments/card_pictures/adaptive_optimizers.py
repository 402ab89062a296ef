"""Pictures of the cards of optimizers that adapt to signs, delays and sizes of gradients."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.optim import SGD, Adagrad, Adam, Optimizer

from card_pictures.registry import picture
from card_pictures.style import BLUE, GREEN, GREY, PURPLE, VERMILION, figure, label
from lightning_optreg.optimizers import (
    AdaDelay,
    AdaptiveRevision,
    AddSign,
    LectureAdagrad,
    LectureAdam,
    LectureAdaMax,
    LectureAMSGrad,
    LectureNAdam,
    LectureRMSprop,
    PowerSign,
)


@picture
def power_sign() -> Figure:
    """The factor of the gradient over the training, for the rules and their decays."""
    drawn, (left, right) = figure(2)
    steps = 100
    for axes, make, name in ((left, PowerSign, "PowerSign"), (right, AddSign, "AddSign")):
        for decay, color in (("none", GREY), ("linear", BLUE), ("cosine", GREEN), ("restart", VERMILION)):
            options = {} if decay == "none" else {"decay": decay, "decay_steps": steps}
            if decay == "restart":
                options["periods"] = 4
            for sign, line in ((1.0, "-"), (-1.0, "--")):
                point = torch.tensor([0.0], requires_grad=True)
                optimizer = make([point], lr=1.0, beta=0.9, **options)
                factors = []
                for _ in range(steps):
                    for state in optimizer.state.values():
                        for value in state.values():
                            if isinstance(value, Tensor) and value.shape == point.shape:
                                value.fill_(sign * 10)  # an average with the sign that is drawn
                    point.grad = torch.tensor([1.0])
                    before = point.item()
                    optimizer.step()
                    factors.append(before - point.item())
                axes.plot(factors[1:], line, color=color, linewidth=1.2, label=decay if sign > 0 else None)
        label(axes, "step", "step / (rate x gradient)", f"{name}: signs agree (solid) or not", "upper right")
    return drawn


@picture
def ada_delay() -> Figure:
    """The step's length against the gradient's delay and time, and descent with late gradients."""
    drawn, (left, right) = figure(2)
    delays = range(101)
    for time, color in ((1, BLUE), (10, GREEN), (100, VERMILION)):
        lengths = []
        for delay in delays:
            point = torch.tensor([0.0], requires_grad=True)
            optimizer = AdaDelay([point], lr=1.0, variant="sgd")
            point.grad = torch.tensor([1.0])
            for _ in range(time - 1):  # on time
                optimizer.step()
            before = point.item()
            optimizer.step(delay=delay)
            lengths.append(before - point.item())
        left.plot(delays, lengths, color=color, linewidth=1.2, label=f"step {time}")
    label(left, r"delay $\tau$ of its gradient", r"length of the step / $\alpha$", "the older, the shorter")
    left.set_ylim(bottom=0)
    right.semilogy(delayed(partial(SGD, lr=0.09)), color=VERMILION, linewidth=1.2, label="SGD, 0.09")
    made = delayed(partial(AdaDelay, lr=0.3, variant="sgd"))
    right.semilogy(made, color=BLUE, linewidth=1.2, label=r"AdaDelay, $\alpha = 0.3$")
    label(right, "step", "$|x|$", "$x^2/2$, gradients 20 steps old")
    return drawn


def delayed(make: Callable[..., Optimizer], delay: int = 20, steps: int = 300) -> list[float]:
    """The distances from the minimum of x^2 / 2 when each gradient is of the point some steps ago."""
    point = torch.tensor([1.0], requires_grad=True)
    optimizer = make([point])
    places, sums = [1.0], []
    for step in range(steps):
        if isinstance(optimizer, AdaptiveRevision):
            sums.append(optimizer.snapshot())
        age = min(step, delay)
        point.grad = torch.tensor([places[step - age]])
        if isinstance(optimizer, AdaDelay):
            optimizer.step(delay=age)
        elif isinstance(optimizer, AdaptiveRevision):
            optimizer.step(gbar_old=sums[step - age])
        else:
            optimizer.step()
        places.append(point.item())
    return [max(abs(x), 1e-9) for x in places]


@picture
def adaptive_revision() -> Figure:
    """A hundred gradients read at one time, and descent with late gradients, beside Adagrad."""
    drawn, (left, right) = figure(2)
    adagrad = partial(Adagrad, lr=1.0, initial_accumulator_value=1.0, eps=0.0)
    for make, color, name in (
        (partial(AdaptiveRevision, lr=1.0), BLUE, "AdaptiveRevision"),
        (adagrad, VERMILION, "Adagrad"),
    ):
        point = torch.tensor([0.0], requires_grad=True)
        optimizer = make([point])
        read = optimizer.snapshot() if isinstance(optimizer, AdaptiveRevision) else None
        point.grad = torch.tensor([-1.0])
        places = [0.0]
        for _ in range(100):
            if isinstance(optimizer, AdaptiveRevision):
                optimizer.step(gbar_old=read)
            else:
                optimizer.step()
            places.append(point.item())
        left.plot(places, color=color, linewidth=1.2, label=name)
        right.semilogy(delayed(make), color=color, linewidth=1.2, label=name)
    label(left, "gradients applied, all read at step 0", r"distance moved / $\alpha$", "gradients that agree")
    label(right, "step", "$|x|$", "$x^2/2$, gradients 20 steps old")
    return drawn


@picture
def lecture_adam() -> Figure:
    """The first step against the gradient, with epsilon inside the root and outside; AMSGrad's average."""
    drawn, (left, right) = figure(2)
    gradients = torch.logspace(-9, 0, 100)
    for make, color, name in (
        (LectureAdam, BLUE, "LectureAdam: inside"),
        (Adam, VERMILION, "torch's Adam: outside"),
    ):
        left.loglog(gradients, first_step(make, gradients, lr=1.0, eps=1e-8), color=color, label=name)
    label(left, "gradient", r"first step / $\eta$", r"where $\epsilon = 10^{-8}$ stands")
    steps = 60
    for make, color, name in (
        (LectureAdam, BLUE, "LectureAdam"),
        (LectureNAdam, GREEN, "LectureNAdam"),
        (LectureAMSGrad, VERMILION, "LectureAMSGrad"),
        (LectureAdaMax, PURPLE, "LectureAdaMax"),
    ):
        point = torch.tensor([0.0], requires_grad=True)
        optimizer = make([point], lr=1.0, betas=(0.9, 0.9))
        places = [0.0]
        for step in range(steps):
            point.grad = torch.tensor([5.0 if step == 20 else 1.0])
            optimizer.step()
            places.append(-point.item())
        right.plot(torch.tensor(places).diff(), color=color, linewidth=1.2, label=name)
    label(right, "step", r"step / $\eta$", r"one gradient of 5 among ones, $\beta_2 = 0.9$")
    return drawn


@picture
def lecture_adagrad() -> Figure:
    """Adagrad's rate falls, that of RMSprop doesn't; the place of epsilon."""
    drawn, (left, right) = figure(2)
    for make, color, name in (
        (LectureAdagrad, BLUE, "LectureAdagrad"),
        (LectureRMSprop, VERMILION, "LectureRMSprop"),
    ):
        point = torch.tensor([0.0], requires_grad=True)
        optimizer = make([point], lr=1.0)
        places = [0.0]
        for _ in range(100):
            point.grad = torch.tensor([1.0])
            optimizer.step()
            places.append(-point.item())
        left.plot(torch.tensor(places).diff(), color=color, linewidth=1.2, label=name)
    label(left, "step", r"step / $\eta$", "a constant gradient")
    gradients = torch.logspace(-12, 0, 100)
    for make, color, name in (
        (LectureAdagrad, BLUE, "LectureAdagrad: inside"),
        (partial(Adagrad, eps=1e-8), VERMILION, "torch's Adagrad: outside"),
    ):
        right.loglog(gradients, first_step(make, gradients, lr=1.0), color=color, linewidth=1.2, label=name)
    label(right, "gradient", r"first step / $\eta$", r"where $\epsilon = 10^{-8}$ stands")
    return drawn


def first_step(make: Callable[..., Optimizer], gradients: Tensor, **options: Any) -> Tensor:
    """How far an optimizer goes in its first step, for each gradient alone."""
    point = torch.zeros_like(gradients, requires_grad=True)
    optimizer = make([point], **options)
    point.grad = gradients.clone()
    optimizer.step()
    return point.detach().abs()
