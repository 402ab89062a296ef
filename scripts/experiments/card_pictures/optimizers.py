"""Pictures of the optimizers' cards."""

from collections.abc import Callable, Iterable
from functools import partial

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from torch.optim import SGD, Optimizer

from card_pictures.registry import picture
from card_pictures.style import BLACK, BLUE, GREY, VERMILION, figure, label
from lightning_optreg.optimizers import Lookahead

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
    levels = torch.linspace(0, values.max().sqrt().item(), 10)[1:] ** 2
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
    fast = path(inner, ravine, (-8, 2), 60, noise=1.0)
    slow = path(partial(Lookahead, optimizer=inner), ravine, (-8, 2), 60, noise=1.0)
    contours(left, ravine, (-9, 3), (-3, 3))
    left.plot(*slow.T, color=BLUE, linewidth=0.8, alpha=0.6, label="fast weights")
    left.plot(
        *slow[::5].T, "o-", color=BLACK, markersize=3.5, linewidth=1.2, label="slow weights, each 5th step"
    )
    label(left, "$x$", "$y$", "Lookahead on $x^2/20 + y^2$, noisy gradients")
    for points, color, name in ((fast, VERMILION, "SGD"), (slow, BLUE, "Lookahead around it")):
        right.semilogy(ravine(points.T), color=color, linewidth=1, label=name)
    right.axvline(5, color=GREY, linewidth=0.6, linestyle=":")
    label(right, "step", "loss", "loss without noise")
    return drawn
