"""Pictures of the optimizers' cards."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from torch.optim import LBFGS, SGD, Optimizer

from card_pictures.registry import picture
from card_pictures.style import (
    BLACK,
    BLUE,
    COLORS,
    GREEN,
    GREY,
    ORANGE,
    SKY_BLUE,
    VERMILION,
    figure,
    label,
)
from lightning_optreg.optimizers import (
    BFGS,
    NAG,
    SWATS,
    FilterMuon,
    HeavyBall,
    Lookahead,
    NAGConvex,
    NAGStronglyConvex,
    Newton,
)

Make = Callable[[list[Tensor]], Optimizer]


def path(
    make: Make, loss: Callable[[Tensor], Tensor], start: Iterable[float], steps: int, noise: float = 0.0
) -> Tensor:
    """The points that an optimizer visits, with Gaussian noise in the gradient: a tensor (steps + 1, 2)."""
    generator = torch.Generator().manual_seed(0)
    point = torch.tensor([float(x) for x in start], requires_grad=True)
    optimizer = make([point])
    points = [point.detach().clone()]
    for _ in range(steps):

        def closure() -> float:
            optimizer.zero_grad()
            value = loss(point)
            value.backward()
            assert point.grad is not None
            point.grad.add_(noise * torch.randn(point.shape, generator=generator))
            return value.item()

        optimizer.step(closure)
        points.append(point.detach().clone())
    return torch.stack(points)


def contours(
    axes: Axes, loss: Callable[[Tensor], Tensor], x: tuple[float, float], y: tuple[float, float]
) -> None:
    """Lines of equal loss, in grey."""
    grid = torch.stack(torch.meshgrid(torch.linspace(*x, 50), torch.linspace(*y, 50), indexing="xy"))
    values = loss(grid)
    levels = torch.linspace(0, values.max().item() ** 0.25, 10)[1:] ** 4
    drawn = axes.contour(grid[0], grid[1], values, levels=levels.tolist(), colors="0.8", linewidths=0.7)
    drawn.set_rasterized(False)
    axes.grid(visible=False)


def ravine(point: Tensor) -> Tensor:
    """x^2 / 20 + y^2."""
    return point[0] ** 2 / 20 + point[1] ** 2


@picture
def lookahead() -> Figure:
    """Fast weights of SGD in a ravine with noise, and the slow weights that follow them."""
    drawn, (left, right) = figure(2)
    inner = partial(SGD, lr=0.6)
    around = partial(Lookahead, optimizer=inner)
    slow = path(around, ravine, (-8, 2), 60, noise=1.0)
    contours(left, ravine, (-9, 3), (-3, 3))
    left.plot(*slow.T, color=BLUE, linewidth=0.8, alpha=0.6, label="fast weights")
    left.plot(*slow[::5].T, "o-", color=BLACK, markersize=3.5, linewidth=1.2, label="slow weights")
    label(left, "$x$", "$y$", "Lookahead on $x^2/20 + y^2$, noisy gradients")
    alone = ravine(runs(inner, ravine, (-8, 2), 100, noise=1.0).movedim(1, 0)).mean(-1)
    with_it = ravine(runs(around, ravine, (-8, 2), 100, noise=1.0).movedim(1, 0)).mean(-1)
    right.semilogy(alone, color=VERMILION, linewidth=1.2, label="SGD")
    right.semilogy(
        range(0, 101, 5), with_it[::5], "o-", color=BLACK, markersize=3, label="slow weights around it"
    )
    label(right, "step", "loss", "mean of 500 runs")
    return drawn


def runs(
    make: Make, loss: Callable[[Tensor], Tensor], start: Iterable[float], steps: int, noise: float
) -> Tensor:
    """The points of 500 runs with noise in the gradient: a tensor (steps + 1, 2, 500)."""
    generator = torch.Generator().manual_seed(0)
    point = torch.tensor([[float(x)] * 500 for x in start], requires_grad=True)
    optimizer = make([point])
    points = [point.detach().clone()]
    for _ in range(steps):
        optimizer.zero_grad()
        loss(point).sum().backward()
        assert point.grad is not None
        point.grad.add_(noise * torch.randn(point.shape, generator=generator))
        optimizer.step()
        points.append(point.detach().clone())
    return torch.stack(points)


def losses(axes: Axes, curves: dict[str, Tensor], colors: Iterable[str] = COLORS) -> None:
    """Losses over the steps, on a logarithmic axis."""
    for (name, values), color in zip(curves.items(), colors, strict=False):
        axes.semilogy(values.clamp(min=1e-14), color=color, linewidth=1.2, label=name)


def quadratic(x: Tensor) -> Tensor:
    """Half of x^T diag(0.02, 1) x: a condition number of 50."""
    return (0.02 * x[0] ** 2 + x[1] ** 2) / 2


@picture
def nag() -> Figure:
    """The lecture's form in a ravine; NAG-C, NAG-SC and gradient descent on a quadratic."""
    drawn, (left, right) = figure(2)
    made = path(partial(NAG, lr=0.3, momentum=0.8), ravine, (-8, 2), 25)
    contours(left, ravine, (-9, 3), (-2.6, 2.6))
    left.plot(*path(partial(SGD, lr=0.3), ravine, (-8, 2), 25).T, ".-", color=GREY, label="gradient descent")
    left.plot(*made.T, ".-", color=BLUE, label=r"NAG, $\gamma=0.8$")
    label(left, "$x$", "$y$", "the same rate, 25 steps")
    made_by = {
        "gradient descent": partial(SGD, lr=1.0),
        "NAGConvex": partial(NAGConvex, lr=1.0),
        "NAGConvex, restarts": partial(NAGConvex, lr=1.0, restart="gradient"),
        "NAGStronglyConvex": partial(NAGStronglyConvex, lr=1.0, mu=0.02),
    }
    curves = {name: quadratic(path(make, quadratic, (-8, 2), 150).T) for name, make in made_by.items()}
    losses(right, curves, (GREY, VERMILION, GREEN, BLUE))
    label(right, "step", "$f - f^*$", r"quadratic with $L/\mu = 50$, $s = 1/L$")
    right.set_ylim(1e-12, 30)
    return drawn


@picture
def heavy_ball() -> Figure:
    """The heavy ball in a ravine, and what it does where the rate falls, beside torch's SGD."""
    drawn, (left, right) = figure(2)
    contours(left, ravine, (-9, 3), (-2.6, 2.6))
    left.plot(*path(partial(SGD, lr=0.3), ravine, (-8, 2), 25).T, ".-", color=GREY, label="gradient descent")
    left.plot(
        *path(partial(HeavyBall, lr=0.3, momentum=0.8), ravine, (-8, 2), 25).T,
        ".-",
        color=BLUE,
        label="heavy ball",
    )
    label(left, "$x$", "$y$", r"$s = 0.3$, $\alpha = 0.8$")
    for make, color, name in (
        (HeavyBall, BLUE, "HeavyBall"),
        (SGD, VERMILION, "SGD, momentum"),
    ):
        point = torch.tensor([0.0], requires_grad=True)
        optimizer = make([point], lr=1.0, momentum=0.9)
        places = [0.0]
        for step in range(40):
            optimizer.param_groups[0]["lr"] = 1.0 if step < 20 else 0.1
            point.grad = torch.tensor([-1.0])
            optimizer.step()
            places.append(point.item())
        right.plot(torch.tensor(places).diff(), color=color, linewidth=1.2, label=name)
    right.axvline(20, color=GREY, linewidth=0.6, linestyle=":")
    label(right, "step", "displacement", r"constant gradient, rate $\times$ 0.1 at step 20", "upper right")
    return drawn


@picture
def swats() -> Figure:
    """The estimated rate of SGD while Adam runs, and the loss before and after the switch."""
    drawn, (left, right) = figure(2)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(200, 10, generator=generator)
    y = x @ torch.randn(10, generator=generator)
    weights = torch.zeros(10, requires_grad=True)
    optimizer = SWATS([weights], lr=0.05, switch_eps=3e-4)
    rates, values, switch = [], [], None
    for step in range(60):
        rows = torch.randint(200, (5,), generator=generator)
        optimizer.zero_grad()
        (x[rows] @ weights - y[rows]).square().mean().backward()
        optimizer.step()
        values.append((x @ weights - y).square().mean().item())
        if optimizer.phase == "adam":
            rates.append(optimizer.rate_estimate)
        elif switch is None:
            switch = step
    left.plot(rates, color=BLUE, linewidth=1.2)
    label(left, "step", r"$\Lambda$", "estimated rate of SGD")
    right.semilogy(values, color=BLUE, linewidth=1.2)
    for axes in (left, right):
        if switch is not None:
            axes.axvline(switch, color=VERMILION, linewidth=1, linestyle="--", label="the switch to SGD")
    label(right, "step", "loss", "Adam, then SGD, on least squares")
    return drawn


def rosenbrock(x: Tensor) -> Tensor:
    """(1 - x)^2 + 100 (y - x^2)^2."""
    return (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2


@picture
def bfgs() -> Figure:
    """BFGS, L-BFGS and gradient descent on Rosenbrock's function."""
    drawn, (left, right) = figure(2)
    made_by: dict[str, Make] = {
        "gradient descent, 0.001": partial(SGD, lr=0.001),
        "BFGS": BFGS,
        "L-BFGS, 5 pairs": partial(
            LBFGS, max_iter=1, max_eval=50, history_size=5, line_search_fn="strong_wolfe"
        ),
    }
    points = {name: path(make, rosenbrock, (-1.2, 1), 45) for name, make in made_by.items()}
    contours(left, rosenbrock, (-1.6, 1.4), (-0.5, 1.6))
    for (_, each), color in zip(points.items(), (GREY, BLUE, VERMILION), strict=True):
        left.plot(*each.T, ".-", color=color, linewidth=0.8, markersize=3)
    label(left, "$x$", "$y$", "Rosenbrock's function, from (-1.2, 1)")
    losses(right, {name: rosenbrock(each.T) for name, each in points.items()}, (GREY, BLUE, VERMILION))
    label(right, "step", "loss")
    return drawn


@picture
def newton() -> Figure:
    """Newton's method on Rosenbrock's function and at a saddle point."""
    drawn, (left, right) = figure(2)
    points = newton_path(rosenbrock, (-1.2, 1), 25)
    contours(left, rosenbrock, (-1.6, 1.4), (-0.5, 1.6))
    left.plot(*points.T, ".-", color=BLUE, linewidth=0.8)
    label(left, "$x$", "$y$", "Rosenbrock's function, trust region")

    def saddle(x: Tensor) -> Tensor:
        return x[0] ** 2 / 2 + x[1] ** 4 / 4 - x[1] ** 2 / 2

    for form, color, name in (
        ("trust_region", BLUE, "trust region"),
        (None, VERMILION, "the step as it stands"),
    ):
        values = saddle(newton_path(saddle, (1.0, 0.05), 40, globalization=form).T)
        right.plot(values, ".-", color=color, label=name)
    right.axhline(-0.25, color=GREY, linewidth=0.8, linestyle=":", label="minimum")
    label(right, "step", "loss", "$x^2/2 + y^4/4 - y^2/2$, beside its saddle")
    return drawn


def newton_path(
    loss: Callable[[Tensor], Tensor], start: tuple[float, float], steps: int, **options: Any
) -> Tensor:
    """The points that Newton's method visits, in float64."""
    point = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    optimizer = Newton([point], **options)
    points = [point.detach().clone()]
    for _ in range(steps):
        optimizer.step(lambda: loss(point))
        points.append(point.detach().clone())
    return torch.stack(points)


@picture
def filter_muon() -> Figure:
    """Singular values of a gradient, and of the step that Muon and SGD make of it."""
    drawn, (left, right) = figure(2)
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(32, 32, generator=generator))[0]
    other = torch.linalg.qr(torch.randn(32, 32, generator=generator))[0]
    gradient = basis @ torch.diag(torch.logspace(0, -3, 32)) @ other
    for axes, steps in ((left, None), (right, (1, 2, 3, 5))):
        if steps is None:
            axes.semilogy(torch.linalg.svdvals(gradient), color=VERMILION, label="gradient: SGD's step")
        for number, color in zip(
            steps or (5,), (SKY_BLUE, GREEN, ORANGE, BLUE) if steps else (BLUE,), strict=True
        ):
            weight = torch.zeros(32, 32, requires_grad=True)
            optimizer = FilterMuon([weight], lr=1.0, momentum=0.0, ns_steps=number)
            weight.grad = gradient.clone()
            optimizer.step()
            name = f"{number} step{'s' if number > 1 else ''}" if steps else "FilterMuon's step"
            axes.plot(torch.linalg.svdvals(weight.detach()), color=color, label=name)
    label(left, "singular value", "size", "a 32 x 32 gradient")
    label(right, "singular value", "size", "by steps of the Newton-Schulz iteration")
    return drawn
