"""The path of an optimizer over a surface."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_optreg._checks import check_range
from lightning_optreg.analysis.surfaces import Surface
from lightning_optreg.optimizers import NAG

__all__ = ["follow", "is_cut"]

_REACH = 100.0  # in half diagonals of the surface's window; a run farther off does not come back


def follow(surface: Surface, make_optimizer: Callable[[list[Tensor]], Optimizer], steps: int) -> Tensor:
    """Let an optimizer run over a surface, in float64.

    The path is that of theta; for `NAG`, whose parameters are the look-ahead point between steps, it is what
    `at_theta` shows. Both coordinates are one parameter tensor. Every step gets a closure, so optimizers that
    need one, such as LBFGS, work too; they may evaluate f several times in a step.

    Args:
        surface: The surface; the run begins at its start.
        make_optimizer: Makes the optimizer of a list of parameters.
        steps: Number of steps, >= 1.

    Returns:
        Points (steps + 1, 2), the start first. A run that diverges is cut: from where it is not finite, or
        farther than 100 half diagonals of the window from its middle, the rows are NaN.

    Raises:
        ValueError: If `steps` is less than 1.

    Example:
        >>> from lightning_optreg.analysis.surfaces import SURFACES
        >>> follow(SURFACES["ravine"], lambda params: torch.optim.SGD(params, lr=0.25), steps=2)
        tensor([[-8.0000,  2.5000],
                [-7.8000,  1.2500],
                [-7.6050,  0.6250]], dtype=torch.float64)
    """
    check_range("follow", ">= 1", steps=steps)
    point = torch.tensor(surface.start, dtype=torch.float64, requires_grad=True)
    optimizer = make_optimizer([point])

    def closure() -> Any:  # torch's annotation asks for a float
        optimizer.zero_grad()
        loss = surface.function(*point)
        torch.autograd.backward(loss)
        return loss

    if hasattr(optimizer, "objective"):  # second-order methods of this package differentiate twice themselves
        optimizer.objective = lambda: surface.function(*point)
    x_from, x_to, y_from, y_to = surface.window
    middle = torch.tensor([(x_from + x_to) / 2, (y_from + y_to) / 2], dtype=torch.float64)
    reach = _REACH * torch.tensor([x_to - x_from, y_to - y_from]).norm() / 2
    points = torch.full((steps + 1, 2), float("nan"), dtype=torch.float64)
    points[0] = point.detach()
    for step in range(1, steps + 1):
        optimizer.step(closure)
        with optimizer.at_theta() if isinstance(optimizer, NAG) else nullcontext():
            theta = point.detach().clone()
        if not (theta - middle).norm() <= reach:  # not: a NaN is refused too
            break
        points[step] = theta
    return points


def is_cut(points: Tensor) -> bool:
    """Return whether a run was cut because it diverged.

    Args:
        points: What `follow` returned.

    Example:
        >>> from lightning_optreg.analysis.surfaces import SURFACES
        >>> is_cut(follow(SURFACES["ravine"], lambda params: torch.optim.SGD(params, lr=2.0), steps=20))
        True
    """
    return bool(points.isnan().any())
